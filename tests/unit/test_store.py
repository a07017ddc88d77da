"""The trajectory store: what goes in comes out, nothing leaks over an episode's end, too much is refused first."""

import numpy as np
import pytest

from agent.data.store import TrajectoryStore, columns
from agent.data.views import labelled_scenes, on_policy
from agent.distributions import Categorical
from agent.hierarchy import Hierarchy, Player
from agent.players import random_player
from agent.teaching import SkillLow
from controller.encoders import GridEncoder
from envs.catalog import get_task
from ground.errors import UserError
from tests.scripted import scripted

SHAPE, OPTIONS = (10, 10, 4), 6


def played(steps, folder=None, worlds=4):
    """A store filled by random play long enough for time limits to strike."""
    task = get_task("SimpleDoorKey")
    store = TrajectoryStore(steps, worlds, SHAPE, OPTIONS, folder=folder)
    rng = np.random.default_rng(0)
    hierarchy = Hierarchy(task, task.make_vec(worlds), random_player(), rng=rng)
    hierarchy.collect(store, steps)
    return store, hierarchy


def test_truncated_episodes_keep_the_observation_they_ended_in():
    store, hierarchy = played(160)
    truncated = np.argwhere(store.column("truncated"))
    assert len(truncated) >= 4
    rows, final = store.final_observations()
    assert {tuple(row) for row in truncated} <= {tuple(row) for row in rows}
    episode, t, obs = (store.column(name) for name in ("episode", "t", "obs"))
    for (time, world), last in zip(rows, final, strict=True):
        if time + 1 < len(store):
            assert episode[time + 1, world] == episode[time, world] + 1
            assert t[time + 1, world] == 0
            assert not np.array_equal(obs[time + 1, world], last)
        # what was known before the last step is still known after it
        before = obs[time, world][..., 0] != 0
        assert (last[..., 0] != 0)[before].all()
    view = on_policy(store, GridEncoder(SHAPE), hierarchy.observed.obs)
    assert len(view.encoded) == 160 * 4
    assert len(view.final) == len(rows)


def test_state_restores_to_the_bit(tmp_path):
    store, _ = played(160)
    for copy in (
        TrajectoryStore(160, 4, SHAPE, OPTIONS),
        TrajectoryStore(160, 4, SHAPE, OPTIONS, folder=tmp_path / "mapped"),
    ):
        copy.load_state_dict(store.state_dict())
        for name in columns(SHAPE, OPTIONS):
            np.testing.assert_array_equal(copy.column(name), store.column(name))
        for ours, theirs in zip(copy.final_observations(), store.final_observations(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_memory_mapped_columns_hold_the_same(tmp_path):
    in_memory, _ = played(20)
    mapped, _ = played(20, folder=tmp_path)
    for name in columns(SHAPE, OPTIONS):
        np.testing.assert_array_equal(mapped.column(name), in_memory.column(name))


def test_too_large_a_store_is_refused_before_it_is_allocated():
    with pytest.raises(UserError, match="num-envs"):
        TrajectoryStore(10**9, 64, SHAPE, OPTIONS)


def test_a_full_store_says_so():
    store, hierarchy = played(5)
    with pytest.raises(IndexError):
        hierarchy.collect(store, 1)


def test_labelled_scenes_name_the_option_that_went_before():
    task = get_task("SimpleDoorKey")
    store = TrajectoryStore(30, 4, SHAPE, OPTIONS)

    class Expert:
        def choose(self, observed, running):
            probs = np.eye(OPTIONS, dtype=np.float32)[scripted(task, observed.obs)]
            return task.option_done(observed.obs, running), Categorical(probs)

    rng = np.random.default_rng(0)
    hierarchy = Hierarchy(task, task.make_vec(4), Player(Expert(), SkillLow(), task.options.timeouts), rng=rng)
    hierarchy.collect(store, 30)
    rows = labelled_scenes(store, 0)
    previous = rows.previous.reshape(30, 4)
    option, age = store.column("option"), store.column("option_age")
    assert (previous[0] == -1).all()
    continued = ~(store.column("terminated") | store.column("truncated"))[:-1]
    np.testing.assert_array_equal(previous[1:][continued], option[:-1][continued])
    assert (previous[1:][~continued] == -1).all()
    assert (age[1:][~continued] == 0).all()
