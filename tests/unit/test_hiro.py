"""HIRO's bookkeeping over a hierarchy that really plays, against a plain list of what happened.

Each mistake that other implementations made fails a test here, in test_goals.py
or in test_replay_views.py.
"""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from preceptor.agent.clock import Clock, moving
from preceptor.agent.data.views import sample_segments
from preceptor.agent.goals import ExploringGoals
from preceptor.agent.hierarchy import Observations
from preceptor.agent.methods.hiro import Hiro
from preceptor.controller.encoders import encoder_of
from preceptor.envs.catalog import get_task
from preceptor.envs.vector import BatchedEnv
from tests.hiro_played import CONFIG, ENVS, LEARNERS, PERIOD, TOTAL, Planner, once, planned, play
from tests.parts import parts


@pytest.mark.parametrize("learner", LEARNERS)
def test_goals_are_chosen_every_c_steps_and_at_the_start_of_each_episode_and_move_with_the_agent(learner):
    played = once(learner)
    x, y = played.method.frame.indices
    starts, lengths = 0, Counter()
    for env in played.envs:
        goal, age = None, 0
        for t, step in enumerate(env):
            if t == 0 or env[t - 1]["ended"] or age == PERIOD:
                starts += t > 0 and bool(env[t - 1]["ended"])
                lengths[age] += 1
                goal, age = step["drawn"] * np.float32(5.0), 0  # the reach of the goals of point masses
            # The low level acts on the new goal in the very step in which it was chosen.
            np.testing.assert_allclose(step["goal"], goal, atol=1e-4)
            assert step["age"] == age
            here, there = step["obs"][[x, y]], step["after"][[x, y]]
            goal, age = here + goal - there, age + 1
    assert starts > 5
    assert set(range(1, PERIOD + 1)) <= set(lengths), "segments of every length"


@pytest.mark.parametrize("learner", LEARNERS)
def test_the_store_holds_what_was_played_and_which_goals_ran(learner):
    played = once(learner)
    store = played.method.store
    for n, env in enumerate(played.envs):
        for name in ("obs", "action", "goal", "reward", "terminated"):
            column = store.column("command" if name == "goal" else name)
            np.testing.assert_array_equal(column[:, n], [step[name] for step in env])
        np.testing.assert_array_equal(store.column("option_age")[:, n], [step["age"] for step in env])
        np.testing.assert_array_equal(store.column("option_age")[:, n] == 0, [step["chosen"] for step in env])
    assert np.abs(store.column("command")).max() > 1
    assert {store.column(name).dtype for name in ("obs", "action", "command", "reward")} == {np.dtype(np.float32)}


@pytest.mark.parametrize("learner", LEARNERS)
def test_the_low_levels_batch_equals_a_loop(learner):
    played = once(learner)
    method, spec = played.method, get_task("PointPush").spec
    by_action = {tuple(step["action"]): step for step in played.complete()}
    batch = method.low_batch()
    hidden = {"x", "y", "block_x", "block_y", "goal_x", "goal_y"}
    seen = [i for i, name in enumerate(spec.observation_names) if name not in hidden]
    x, y = (spec.observation_names.index(name) for name in "xy")
    kinds = Counter()
    for i in range(len(batch.reward)):
        step = by_action[tuple(batch.action[i].numpy())]
        goal, after = step["goal"], step["after"]
        left = step["obs"][[x, y]] + goal - after[[x, y]]
        np.testing.assert_allclose(batch.obs[i], [*step["obs"][seen], *goal / 5], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(batch.next_obs[i], [*after[seen], *left / 5], rtol=1e-5, atol=1e-5)
        assert float(batch.reward[i]) == pytest.approx(-2.0 * np.sqrt((left**2).sum()), rel=1e-4, abs=1e-5)
        assert float(batch.discount[i]) == pytest.approx(0.0 if step["terminated"] else 0.9)
        kinds[bool(step["ended"]), bool(step["terminated"])] += 1
    assert batch.prior is None
    draws = 0
    while len(kinds) < 3 and draws < 20:  # inside an episode, truncated and terminated: all have been compared
        for action in method.low_batch().action:
            step = by_action[tuple(action.numpy())]
            kinds[bool(step["ended"]), bool(step["terminated"])] += 1
        draws += 1
    assert set(kinds) == {(False, False), (True, False), (True, True)}


def by_first(played):
    """Segments by their first observation, as the high level's network sees it."""
    encode = encoder_of(played.method.task)
    return {tuple(encode(part[0]["obs"][None]).parts[0][0]): part for part in played.segments()}


@pytest.mark.parametrize("learner", LEARNERS)
def test_the_high_levels_batch_equals_a_loop(learner):
    played = once(learner)
    method, segments = played.method, by_first(once(learner))
    encode = encoder_of(method.task)
    plain = replace(method.settings, relabel=False)
    relabelled, method.settings = method.settings, plain
    try:
        batch = method.high_batch()
    finally:
        method.settings = relabelled
    ends = Counter()
    for i in range(len(batch.reward)):
        part = segments[tuple(batch.obs[i].numpy())]
        last = part[-1]
        ends[len(part), bool(last["terminated"])] += 1
        np.testing.assert_allclose(batch.action[i], part[0]["drawn"], rtol=1e-5, atol=1e-6)
        paid = method.settings.high_reward * sum(float(step["reward"]) for step in part)
        assert float(batch.reward[i]) == pytest.approx(paid, rel=1e-4)
        # s_{t+c}: after the last step, not the last that was acted on; of the episode's own where it ended.
        np.testing.assert_array_equal(batch.next_obs[i], encode(last["after"][None]).parts[0][0])
        gamma = method.settings.high.gamma
        assert float(batch.discount[i]) == pytest.approx(0.0 if last["terminated"] else gamma)
    assert len({length for length, _ in ends}) > 3
    assert {terminated for _, terminated in ends} == {True, False}


def test_sampled_goals_explain_best_what_the_low_level_does_now():
    """Equations of the paper over the stored states: h rolls the candidate, and the sum of scores decides."""
    played = play(replace(CONFIG, high=replace(CONFIG.high, batch=16)))
    method, segments = played.method, by_first(played)
    x, y = method.frame.indices
    stored = method.store.column("command").copy()

    def naive(part, goal):
        total = 0.0
        for step, following in zip(part, [*part[1:], None], strict=True):
            inputs = method.low_inputs(torch.tensor(step["obs"])[None], torch.tensor(goal)[None])
            total -= 0.5 * float((torch.tensor(step["action"])[None] - method.low_learner.mode(inputs)).square().sum())
            if following is not None:
                goal = step["obs"][[x, y]] + goal - following["obs"][[x, y]]
        return total

    def compare(kept):
        batch = method.high_batch(kept)
        replaced = 0
        for i in range(16):
            part = segments[tuple(batch.obs[i].numpy())]
            original = part[0]["drawn"] * np.float32(5)
            difference = np.clip(part[-1]["after"][[x, y]] - part[0]["obs"][[x, y]], -5, 5)
            best = batch.action[i].numpy() * np.float32(5)
            assert np.abs(best).max() <= 5 + 1e-4
            reached = naive(part, best)
            assert reached >= max(naive(part, original), naive(part, difference)) - 1e-3
            replaced += bool(np.abs(best - original).max() > 1e-3)
        return replaced

    kept = []
    replaced = compare(kept)
    assert len(kept) == 16
    assert 0 < replaced == 16 - kept.count("original")
    # At the time of drawing, by the policy of that time; what is stored stays.
    for parameter in method.low_learner.actor.parameters():
        parameter.data.neg_()
    compare([])
    np.testing.assert_array_equal(method.store.column("command"), stored)


def test_the_low_level_does_not_know_where_it_is():
    method, task = once("sac").method, get_task("PointPush")
    hidden = [task.spec.observation_names.index(name) for name in ("x", "y", "goal_x", "goal_y", "block_x", "block_y")]
    obs = np.random.default_rng(0).normal(size=(4, *task.observation_shape)).astype(np.float32)
    elsewhere = obs.copy()
    elsewhere[:, hidden] += 3
    clock = Clock(4, np.full(1, PERIOD), moving(method.frame))
    clock.start(np.ones(4, bool), np.full((4, 2), 0.3, np.float32))

    def act(seen):
        return method.act(Observations(task, encoder_of(task), seen, np.zeros(4, np.int64)), clock).sample(None)[0]

    np.testing.assert_array_equal(act(obs), act(elsewhere))
    faster = obs.copy()
    faster[:, task.spec.observation_names.index("vx")] += 3
    assert not np.allclose(act(obs), act(faster))
    clock.command = -clock.command
    assert not np.allclose(act(obs), act(obs * 0 + 1))


def choose(method, levels):
    """Where goals for one and the same observation are drawn from on levels."""
    task = method.task
    obs = np.tile(np.linspace(0.1, 0.7, task.observation_shape[0]).astype(np.float32), (len(levels), 1))
    observed = Observations(task, encoder_of(task), obs, np.asarray(levels))
    return observed, method.choose(observed, np.full(len(levels), -1))[1]


def test_there_is_no_exploration_on_held_out_levels():
    planner = Planner(get_task("PointPush"))
    config = replace(CONFIG, random_goals=1.0, random_episodes=1.0, prior="controller", prior_weight=1.0)
    method = Hiro(parts(planner.task, config, ENVS, TOTAL, planner))
    method.steps = 1
    for warm in (False, True):
        method.warm = warm
        observed, choice = choose(method, np.arange(1_000_000, 1_000_040))
        policy = method.high_learner.act(observed.inputs[0])
        for rng in (None, 3):
            drawn, wanted = (c.sample(rng and np.random.default_rng(rng))[0] for c in (choice, policy))
            np.testing.assert_array_equal(drawn, wanted)
        observed, choice = choose(method, np.arange(40))
        assert not np.isclose(choice.sample(np.random.default_rng(3))[0], wanted).all(1).any()


def test_episodes_explore_as_a_whole_or_not():
    method = Hiro(parts(get_task("PointPush"), CONFIG, ENVS, TOTAL))
    method.warm = True
    _, choice = choose(method, np.random.default_rng(0).integers(1_000_000, size=5_000))
    assert isinstance(choice, ExploringGoals)
    assert set(choice.uniform.tolist()) == {CONFIG.random_goals, 1.0}
    assert (choice.uniform == 1).mean() == pytest.approx(CONFIG.random_episodes, abs=0.03)
    goals = choice.sample(np.random.default_rng(1))[0]
    assert np.abs(goals).max() <= 1
    assert goals[choice.uniform == 1].std(0) == pytest.approx(3**-0.5, rel=0.1)


def test_the_prior_is_asked_where_the_goal_was_chosen_and_never_sees_another_goal():
    planner = Planner(get_task("PointPush"))
    played = play(replace(CONFIG, prior="controller", prior_weight=2.0), controller=planner)
    method, segments = played.method, by_first(played)
    assert method.share == pytest.approx(1 - played.method.steps / (0.6 * TOTAL))
    assert 0 < method.share < 1
    firsts = {tuple(part[0]["obs"]) for part in played.segments()}
    for relabel in (True, False):
        method.settings = replace(method.settings, relabel=relabel)
        planner.asked.clear()
        batch = method.high_batch()
        assert batch.prior.weight == pytest.approx(2.0 * method.share)
        assert {tuple(row) for obs in planner.asked for row in obs} <= firsts
        for i in range(len(batch.reward)):
            part = segments[tuple(batch.obs[i].numpy())]
            np.testing.assert_allclose(batch.prior.action[i], planned(method, part[0]["obs"][None])[0], atol=1e-5)
        assert not torch.allclose(batch.prior.action, batch.action)


def test_the_planners_share_of_the_goals_falls_with_the_prior():
    planner = Planner(get_task("PointPush"))
    config = replace(CONFIG, prior="controller", prior_weight=1.0, random_goals=0.0, random_episodes=0.0)
    method = Hiro(parts(planner.task, config, ENVS, TOTAL, planner))
    method.warm = True
    for steps, share in ((0, 1.0), (300, 0.5), (540, 0.1), (600, 0.0), (1_000, 0.0)):
        method.steps = steps
        assert method.share == pytest.approx(share)
        observed, choice = choose(method, np.arange(4_000))
        goals = choice.sample(np.random.default_rng(0))[0]
        of_the_planner = np.isclose(goals, planned(method, observed.obs), atol=1e-5).all(1)
        assert of_the_planner.mean() == pytest.approx(share, abs=0.03)


def test_a_prior_that_has_faded_is_asked_no_more():
    planner = Planner(get_task("PointPush"))
    played = play(replace(CONFIG, prior="controller", prior_weight=2.0), controller=planner)
    method = played.method
    assert planner.asked
    planner.refuses = True
    for steps in (600, 610, TOTAL):
        method.update(played.hierarchy.observed, steps)
        batch = method.high_batch()
        assert batch.prior is None
        choose(method, np.arange(5))
    without = Hiro(parts(planner.task, method.settings, ENVS, TOTAL))
    without.load_policy(method.state_dict())
    ours, theirs = (choose(m, [1_000_000])[1].sample(None)[0] for m in (method, without))
    np.testing.assert_array_equal(ours, theirs)


def test_a_planner_as_the_high_level_sets_all_goals_but_those_that_explore():
    planner = Planner(get_task("PointPush"))
    played = play(replace(CONFIG, high_level="controller"), controller=planner)
    method = played.method
    before = [parameter.clone() for parameter in method.high_learner.actor.parameters()]
    method.update(played.hierarchy.observed, 400)
    assert all(torch.equal(a, b) for a, b in zip(before, method.high_learner.actor.parameters(), strict=True))
    observed, choice = choose(method, [1_000_000, 1_000_001])
    np.testing.assert_allclose(choice.sample(None)[0], planned(method, observed.obs), atol=1e-6)


@pytest.mark.parametrize("name", ["PointFall", "AntFallRobust", "AntMaze"])
def test_goals_of_other_mazes_and_bodies(name):
    """Three coordinates of a goal, fifteen positions: nothing is the first k dimensions."""
    played = play(name=name, length=60, environments=BatchedEnv)
    method = played.method
    assert method.warm
    names = get_task(name).spec.observation_names
    assert [names[i] for i in method.frame.indices] == ["x", "y"]
    assert method.low_batch().obs.shape[1] == len(names) - len(get_task(name).hidden_from_low_level) + 2
    for value in (*method.low_learner.actor.parameters(), *method.high_learner.actor.parameters()):
        assert value.isfinite().all()


def test_a_segment_is_drawn_as_often_as_any_other():
    played = once("sac")
    parts = sample_segments(played.method.store, np.random.default_rng(0), 40_000, PERIOD)
    _, counts = np.unique(parts.obs[:, 0], axis=0, return_counts=True)
    assert counts.min() > 0.6 * counts.mean()
    assert counts.max() < 1.5 * counts.mean()
