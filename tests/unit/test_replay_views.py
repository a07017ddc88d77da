"""Views of stored steps: against a plain list of what was played, over rings, ends and commands that change."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor.agent.data.recording import Recording
from preceptor.agent.data.store import TrajectoryStore
from preceptor.agent.data.views import chunks, newest_steps, sample_segments, sample_steps, windows

ENVS, STEPS = 3, 4
TASK = SimpleNamespace(observation_shape=(1,), options=(), num_actions=2, continuous=True, extra_columns={})


def ring(capacity):
    return TrajectoryStore(TASK, capacity, ENVS, command_size=2, ring=True)


def played(length, capacity, seed=0):
    """A store, and each environment's steps as dictionaries; every observation is a number of its own."""
    rng = np.random.default_rng(seed)
    store = ring(capacity)
    fresh = iter(range(1, 10**6))
    obs = np.array([next(fresh) for _ in range(ENVS)], np.float32)[:, None]
    age, history = np.zeros(ENVS, int), [[] for _ in range(ENVS)]
    for _ in range(length):
        ended = rng.random(ENVS) < 0.15
        terminated = ended & (rng.random(ENVS) < 0.5)
        final = np.array([next(fresh) for _ in range(ENVS)], np.float32)[:, None]
        step = {
            "obs": obs,
            "action": rng.random((ENVS, 2)).astype(np.float32),
            "command": rng.random((ENVS, 2)).astype(np.float32),
            "reward": rng.random(ENVS).astype(np.float32),
            "terminated": terminated,
            "truncated": ended & ~terminated,
            "option_age": age,
        }
        store.append(ended=ended, final_obs=final if ended.any() else None, **step)
        next_obs = np.array([next(fresh) for _ in range(ENVS)], np.float32)[:, None]
        for n in range(ENVS):
            after = final[n, 0] if ended[n] else next_obs[n, 0]
            history[n].append({name: value[n] for name, value in step.items()} | {"after": after, "ended": ended[n]})
        age = np.where(ended | (age == STEPS - 1) | (rng.random(ENVS) < 0.1), 0, age + 1)
        obs = next_obs
    return store, history


def where(history):
    return {float(step["obs"][0]): (n, t) for n, steps in enumerate(history) for t, step in enumerate(steps)}


@pytest.mark.parametrize(("length", "capacity"), [(40, 100), (150, 60)])
def test_steps_lead_where_they_led(length, capacity):
    store, history = played(length, capacity)
    places = where(history)
    steps = sample_steps(store, np.random.default_rng(1), 2_000)
    seen = set()
    for i in range(2_000):
        n, t = places[float(steps.obs[i, 0])]
        step, oldest = history[n][t], max(0, length - capacity)
        assert oldest <= t < length - 1
        seen.add((n, t))
        assert steps.next_obs[i, 0] == step["after"]
        assert steps.reward[i] == step["reward"]
        assert steps.terminated[i] == step["terminated"]
        np.testing.assert_array_equal(steps.command[i], step["command"])
        np.testing.assert_array_equal(steps.action[i], step["action"])
        assert steps.switched[i] == (step["ended"] or history[n][t + 1]["option_age"] == 0)
    assert len(seen) == ENVS * (min(length, capacity) - 1), "every step can be sampled"


@pytest.mark.parametrize(("length", "capacity"), [(60, 100), (200, 80)])
def test_segments_are_cut_where_the_command_was_chosen_and_cross_no_end(length, capacity):
    store, history = played(length, capacity)
    places = where(history)
    parts = sample_segments(store, np.random.default_rng(2), 1_000, STEPS)
    seen = set()
    for i in range(1_000):
        n, t = places[float(parts.obs[i, 0, 0])]
        seen.add((n, t))
        assert history[n][t]["option_age"] == 0
        rows = [history[n][t]]
        while not rows[-1]["ended"] and history[n][t + len(rows)]["option_age"] > 0:
            rows.append(history[n][t + len(rows)])
        assert parts.length[i] == len(rows) <= STEPS
        assert parts.final[i, 0] == rows[-1]["after"]
        assert parts.terminated[i] == rows[-1]["terminated"]
        np.testing.assert_array_equal(parts.command[i], rows[0]["command"])
        np.testing.assert_array_equal(parts.obs[i, : len(rows), 0], [row["obs"][0] for row in rows])
        np.testing.assert_array_equal(parts.action[i, : len(rows)], [row["action"] for row in rows])
        np.testing.assert_allclose(parts.reward[i].sum(), sum(row["reward"] for row in rows), rtol=1e-6)
        assert parts.inside[i].sum() == len(rows)
    oldest = max(0, length - capacity)
    starts = {(n, t) for n in range(ENVS) for t in range(oldest, length - STEPS) if history[n][t]["option_age"] == 0}
    assert seen == starts, "every segment that has ended can be sampled"


@pytest.mark.parametrize(("length", "capacity"), [(60, 100), (200, 80)])
def test_only_what_is_new_can_be_sampled(length, capacity):
    store, history = played(length, capacity)
    places = where(history)
    steps = sample_steps(store, np.random.default_rng(1), 500, newest=9)
    assert {places[float(obs[0])][1] for obs in steps.obs} == set(range(length - 10, length - 1))
    parts = sample_segments(store, np.random.default_rng(1), 500, STEPS, newest=9)
    starts = range(length - STEPS - 9, length - STEPS)
    wanted = {(n, t) for n in range(ENVS) for t in starts if history[n][t]["option_age"] == 0}
    assert {places[float(obs[0, 0])] for obs in parts.obs} == wanted
    everything = sample_steps(store, np.random.default_rng(1), 3_000, newest=10**6)
    assert len(np.unique(everything.obs)) == ENVS * (min(length, capacity) - 1)


def test_a_full_ring_restores_to_the_bit():
    store, _ = played(150, 60)
    copy = ring(60)
    copy.load_state_dict(store.state_dict())
    for draw in (lambda s, rng: sample_steps(s, rng, 500), lambda s, rng: sample_segments(s, rng, 200, STEPS)):
        ours, theirs = (draw(s, np.random.default_rng(3)) for s in (store, copy))
        for name in vars(ours):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_a_ring_does_not_grow():
    store, _ = played(600, 30)
    assert len(store) == 30
    assert len(store._finals) <= 2 * 30 * ENVS


def test_without_an_ended_segment_there_is_none_to_sample():
    store, _ = played(STEPS, 100)
    with pytest.raises(IndexError, match="no segment"):
        sample_segments(store, np.random.default_rng(0), 1, STEPS)


@pytest.mark.parametrize(("length", "capacity"), [(40, 100), (150, 60)])
def test_the_newest_steps_come_in_order_and_end_at_what_was_observed_last(length, capacity):
    store, history = played(length, capacity)
    last = np.arange(-ENVS, 0, dtype=np.float32)[:, None]
    steps = newest_steps(store, 7, last)
    assert steps.reward.shape == (7, ENVS)
    for n in range(ENVS):
        for i, step in enumerate(history[n][-7:]):
            newest = i == 6
            after = last[n, 0] if newest and not step["ended"] else step["after"]
            assert steps.next_obs[i, n, 0] == after
            np.testing.assert_array_equal(steps.obs[i, n], step["obs"])
            np.testing.assert_array_equal(steps.command[i, n], step["command"])
            following = None if newest else history[n][-7:][i + 1]
            assert steps.switched[i, n] == (newest or step["ended"] or following["option_age"] == 0)


@given(st.lists(st.integers(2, 9), min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_windows_and_chunks_are_what_each_episode_holds(lengths, steps, seed):
    """Every observation is a number of its own, so that a window over an episode's end would show."""
    rng, shape = np.random.default_rng(seed), (len(lengths), max(lengths))
    obs = np.arange(1, 1 + shape[0] * shape[1], dtype=np.float32).reshape(*shape, 1)
    reward, action = rng.random(shape).astype(np.float32), rng.random((*shape, 2)).astype(np.float32)
    unknown, terminated = np.full(shape, -1), rng.random(len(lengths)) < 0.5
    recording = Recording(obs, action, unknown, reward, terminated, np.array(lengths), unknown[:, 0])
    view = windows(recording, steps)
    # An episode of T observations has T - 1 actions.
    starts = [(n, t) for n, length in enumerate(lengths) for t in range(length - steps)]
    assert list(zip(view.episode.tolist(), view.start.tolist(), strict=True)) == starts
    if not starts:
        return
    rows = rng.permutation(len(view))
    found = chunks(recording, view, rows, 0.9)
    for i, (n, t) in enumerate(starts[row] for row in rows):
        at_end = t + steps == lengths[n] - 1
        assert found.obs[i] == obs[n, t]
        assert found.next_obs[i] == obs[n, t + steps]
        np.testing.assert_array_equal(found.action[i], action[n, t : t + steps])
        np.testing.assert_array_equal(view.of(obs, rows)[i], obs[n, t : t + steps])
        np.testing.assert_allclose(found.reward[i], sum(0.9**j * reward[n, t + j] for j in range(steps)), rtol=1e-5)
        np.testing.assert_allclose(found.discount[i], 0.0 if at_end and terminated[n] else 0.9**steps, rtol=1e-6)
