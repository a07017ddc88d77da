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
    """A store filled by play, at random if no player is given."""
    store = TrajectoryStore(TASK, steps, 4)
    hierarchy = Hierarchy(TASK, TASK.make_vec(4), player or random_player(), rng=np.random.default_rng(0))
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
    rows, final = store.final_observations()
    truncated = np.argwhere(store.column("truncated"))
    assert len(truncated) >= 4
    assert {tuple(row) for row in truncated} <= {tuple(row) for row in rows}
    episode, age, obs = (store.column(name) for name in ("episode", "option_age", "obs"))
    for (time, env), last in zip(rows, final, strict=True):
        if time + 1 < len(store):
            assert (episode[time + 1, env], age[time + 1, env]) == (episode[time, env] + 1, 0)
            assert not np.array_equal(obs[time + 1, env], last)
        known = obs[time, env][..., 0] != 0  # what was known before the last step is still known after it
        assert (last[..., 0] != 0)[known].all()
    view = on_policy(store, GridEncoder(TASK.observation_shape), hierarchy.observed.obs)
    assert (len(view.encoded), len(view.final)) == (160 * 4, len(rows))
    copy = TrajectoryStore(TASK, 160, 4)
    copy.load_state_dict(store.state_dict())
    for name in columns(TASK):
        np.testing.assert_array_equal(copy.column(name), store.column(name), err_msg="restored to the bit")
    np.testing.assert_array_equal(copy.final_observations()[1], final)


def test_too_large_a_store_is_refused_before_it_is_allocated_and_a_full_one_says_so():
    with pytest.raises(UserError, match="num-envs"):
        TrajectoryStore(TASK, 10**9, 64)
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
