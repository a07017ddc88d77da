"""The trajectory store: what goes in comes out, nothing leaks over an episode's end, too much is refused first."""

import numpy as np
import pytest

from preceptor.agent.data.store import TrajectoryStore, columns
from preceptor.agent.data.views import labelled_scenes, on_policy
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.players import random_player, teacher_player
from preceptor.controller.encoders import GridEncoder
from preceptor.envs.catalog import get_task
from preceptor.ground.errors import UserError
from preceptor.teacher.controls import ScriptedTeacher
from preceptor.teacher.labels import LabelStore

TASK = get_task("SimpleDoorKey")


def played(steps, player=None):
    """A store filled by play, random if nobody is named, which is long enough for time limits to strike."""
    store = TrajectoryStore(TASK, steps, 4)
    rng = np.random.default_rng(0)
    hierarchy = Hierarchy(TASK, TASK.make_vec(4), player or random_player(), rng=rng)
    hierarchy.collect(store, steps)
    return store, hierarchy


def expert():
    return teacher_player(TASK, ScriptedTeacher(TASK, LabelStore()))


def test_a_task_may_add_columns_which_its_environments_fill(monkeypatch):
    monkeypatch.setattr(TASK, "extra_columns", {"success": ((), np.bool_)}, raising=False)
    store, hierarchy = played(60, expert())
    won = sum(episode["success"] for episode in hierarchy.finished)
    assert store.column("success").sum() == won > 0


def test_truncated_episodes_keep_the_observation_they_ended_in():
    store, hierarchy = played(160)
    truncated = np.argwhere(store.column("truncated"))
    assert len(truncated) >= 4
    rows, final = store.final_observations()
    assert {tuple(row) for row in truncated} <= {tuple(row) for row in rows}
    episode, age, obs = (store.column(name) for name in ("episode", "option_age", "obs"))
    for (time, env), last in zip(rows, final, strict=True):
        if time + 1 < len(store):
            assert episode[time + 1, env] == episode[time, env] + 1
            assert age[time + 1, env] == 0
            assert not np.array_equal(obs[time + 1, env], last)
        # what was known before the last step is still known after it
        before = obs[time, env][..., 0] != 0
        assert (last[..., 0] != 0)[before].all()
    view = on_policy(store, GridEncoder(TASK.observation_shape), hierarchy.observed.obs)
    assert len(view.encoded) == 160 * 4
    assert len(view.final) == len(rows)


def test_state_restores_to_the_bit():
    store, _ = played(160)
    copy = TrajectoryStore(TASK, 160, 4)
    copy.load_state_dict(store.state_dict())
    for name in columns(TASK):
        np.testing.assert_array_equal(copy.column(name), store.column(name))
    for ours, theirs in zip(copy.final_observations(), store.final_observations(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_too_large_a_store_is_refused_before_it_is_allocated():
    with pytest.raises(UserError, match="num-envs"):
        TrajectoryStore(TASK, 10**9, 64)


def test_a_full_store_says_so():
    store, hierarchy = played(5)
    with pytest.raises(IndexError):
        hierarchy.collect(store, 1)


def test_labelled_scenes_name_the_option_that_went_before():
    store, _ = played(30, expert())
    rows = labelled_scenes(store, 0)
    previous = rows.previous.reshape(30, 4)
    option, age = store.column("option"), store.column("option_age")
    assert (previous[0] == -1).all()
    continued = ~(store.column("terminated") | store.column("truncated"))[:-1]
    np.testing.assert_array_equal(previous[1:][continued], option[:-1][continued])
    assert (previous[1:][~continued] == -1).all()
    assert (age[1:][~continued] == 0).all()
