"""Labels that what was played contradicts: which are doubted, which overruled, and that right ones stay."""

from itertools import pairwise

import numpy as np
import pytest

from preceptor.agent import doubts
from preceptor.agent.data.store import TrajectoryStore
from preceptor.agent.doubts import Runs, revised, runs_of
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.levels import Player, SkillLow
from preceptor.agent.players import random_player
from preceptor.agent.teaching import Annotator, TeacherHigh
from preceptor.envs.catalog import get_task
from preceptor.teacher.config import TeacherConfig
from preceptor.teacher.make import make_teacher

TASK, N = get_task("SimpleDoorKey"), 64


def runs(*steps, late=0):
    """Runs of (times, scene, option, gain, scene after), 2 steps each, in 30 episodes, of which some were `late`."""
    rows = [row for times, *row in steps for _ in range(times)]
    visited = np.tile(SCENES, 30)
    scene, option, gain, after = map(np.array, zip(*rows, strict=True))
    return Runs(scene, option, gain.astype(float), np.full(len(rows), 0.95), after, visited, np.arange(90) < 3 * late)


SCENES, LABELS = np.array([3, 5, 9]), np.eye(3, dtype=np.float32)[[0, 1, 2]]
LEGAL = np.array([[True, True, False], [True, True, True], [False, False, True]])
AHEAD = (30, 3, 0, 0.0, 5), (30, 9, 2, 1.0, -1)  # from 3 to 5; from 9 to the reward


def test_a_teacher_that_leads_to_the_reward_is_not_doubted():
    found = revised(runs(*AHEAD, (30, 5, 1, 0.0, 9), (9, 5, 0, 0.0, 3), late=9), SCENES, LABELS, LEGAL)
    assert not (found.overruled | found.doubted).any()
    np.testing.assert_array_equal(found.probs, LABELS)


def test_where_a_label_leads_nowhere_the_other_options_are_tried():
    found = revised(runs(*AHEAD, (30, 5, 1, 0.0, 5)), SCENES, LABELS, LEGAL)
    assert (found.doubted.tolist(), found.overruled.any()) == ([True, True, False], False), "3 leads to 5"
    np.testing.assert_allclose(found.probs[:2], [[0.5, 0.5, 0.0], [0.25, 0.5, 0.25]])
    early = revised(runs(AHEAD[0], (19, 5, 1, 0.0, 5), AHEAD[1]), SCENES, LABELS, LEGAL)
    assert not early.doubted.any(), "too few to tell"
    unended = revised(
        runs(*AHEAD, (30, 5, 1, 0.0, 5))._replace(visited=np.zeros(0, np.int64), late=np.zeros(0, np.bool_)),
        SCENES,
        LABELS,
        LEGAL,
    )
    assert not unended.doubted.any(), "no episode has ended"


def test_an_option_that_was_tried_and_is_better_overrules_the_label_and_doubts_before_it_are_gone():
    tried = runs(*AHEAD, (30, 5, 1, 0.0, 5), (5, 5, 2, 0.0, 9), (5, 5, 0, 0.0, 3))
    found = revised(tried, SCENES, LABELS, LEGAL)
    assert (found.overruled.tolist(), found.doubted.any()) == ([False, True, False], False)
    np.testing.assert_array_equal(found.probs, LABELS[[0, 2, 2]])
    few = runs(*AHEAD, (30, 5, 1, 0.0, 5), (4, 5, 2, 0.0, 9))
    assert not revised(few, SCENES, LABELS, LEGAL).overruled.any(), "too few to tell"
    silent = LABELS * [[1], [0], [1]]
    np.testing.assert_array_equal(revised(tried, SCENES, silent, LEGAL).probs, silent)


def test_what_overruled_a_label_is_known_from_fewer_runs_and_may_be_doubted_before():
    poor = runs(*AHEAD, (30, 5, 1, 0.0, 5), (1, 5, 2, 0.0, 9), (4, 5, 2, 0.0, -1), late=6)
    found = revised(poor, SCENES, LABELS, LEGAL)
    assert (found.overruled.tolist(), found.doubted.tolist()) == ([False, True, False], [True, False, False])


@pytest.mark.parametrize(("late", "whole", "overruled"), [(0, 9, False), (4, 9, False), (6, 9, True), (6, 6, False)])
def test_a_detour_is_overruled_only_where_time_runs_out_and_the_other_way_is_clearly_better(late, whole, overruled):
    slow = (95, 5, 1, 0.0, 5), (5, 5, 1, 0.0, 9)  # worth 0.49; the other option, 0.95 or 0.63
    tried = runs(*AHEAD, *slow, (whole, 5, 2, 0.0, 9), (9 - whole, 5, 2, 0.0, -1), late=late)
    assert revised(tried, SCENES, LABELS, LEGAL).overruled[1] == overruled


def test_runs_are_those_of_the_store(monkeypatch):
    monkeypatch.setattr(doubts, "_GAMMA", 0.9)
    store = TrajectoryStore(TASK, 200, 3)
    hierarchy = Hierarchy(TASK, TASK.make_vec(3), random_player(), rng=np.random.default_rng(0))
    hierarchy.collect(store, 200)
    rng = np.random.default_rng(0)
    store.column("reward")[:] = rng.normal(size=(200, 3))
    store.column("terminated")[:, 0] |= store.column("truncated")[:, 0]
    store.column("option_age")[:] = rng.integers(1, 9, size=(200, 3))
    age, after_end = store.column("option_age"), np.roll(store.column("terminated") | store.column("truncated"), 1, 0)
    age[(rng.random((200, 3)) < 0.3) | after_end] = 0
    age[0] = 0
    codes, expected, visited = rng.integers(50, size=(200, 3)), [], []
    least = store.column("reward").min()
    for n in range(3):
        for start, end in pairwise([*np.flatnonzero(age[:, n] == 0), 200]):
            age[start:end, n] = np.arange(end - start)
            ended, late = store.column("terminated")[end - 1, n], store.column("truncated")[end - 1, n]
            gain = sum((store.column("reward")[t, n] - least) * 0.9 ** (t - start) for t in range(start, end))
            if ended or late:
                episode = store.column("episode")[:, n] == store.column("episode")[start, n]
                visited += [(code, late and not ended) for code in np.unique(codes[episode & (age[:, n] == 0), n])]
            if ended:
                expected.append((codes[start, n], gain - least * 0.9 ** (end - start) / 0.1, -1))
            elif not late and end < 200:
                expected.append((codes[start, n], gain, codes[end, n]))
    found = runs_of(store, codes)
    assert (len(expected) > 100, 0 < np.mean(visited, axis=0)[1] < 1, any(after == -1 for *_, after in expected)) == (
        True,
    ) * 3
    np.testing.assert_allclose(np.column_stack((found.scene, found.gain, found.after)), expected, rtol=1e-5)
    assert list(zip(found.visited, found.late, strict=True)) == visited


@pytest.mark.parametrize(("noise_per", "seed"), [("query", 20), ("query", 24), ("scene", 22), ("scene", 23)])
def test_a_teacher_that_errs_is_put_right(noise_per, seed):
    teacher = make_teacher(TeacherConfig("scripted", label_noise=0.2, noise_per=noise_per), TASK, seed=seed)
    annotator = Annotator(TASK, teacher)
    player = Player(TeacherHigh(annotator), SkillLow(), TASK.options.timeouts)
    hierarchy = Hierarchy(TASK, TASK.make_vec(N, seed=seed), player, rng=np.random.default_rng(seed))
    store = TrajectoryStore(TASK, 300, N)
    success = []
    for _ in range(15):
        hierarchy.collect(store, 20)
        codes = TASK.fact_codes(store.flat("obs"))
        scenes, first = np.unique(codes, return_index=True)
        legal = dict(zip(scenes.tolist(), TASK.legal(store.flat("obs")[first]), strict=True))
        annotator.label(store.flat("obs")[first], store.flat("level_seed")[first])
        annotator.doubt(runs_of(store, codes.reshape(-1, N)), legal)
        success.append([episode["success"] for episode in hierarchy.drain_finished()])
    assert np.mean([won for some in success[-5:] for won in some]) > 0.9
    again = Annotator(TASK, make_teacher("scripted", TASK))
    again.teacher = annotator.teacher
    again.load_state_dict(annotator.state_dict())
    obs, seeds = store.flat("obs")[first], store.flat("level_seed")[first]
    np.testing.assert_array_equal(again.label(obs, seeds)[0], annotator.label(obs, seeds)[0])
