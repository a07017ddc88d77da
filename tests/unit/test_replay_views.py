"""Views of stored steps: against a plain list of what was played, over rings, ends and commands that change."""

from collections import Counter
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
RINGS = pytest.mark.parametrize(("length", "capacity"), [(40, 100), (150, 60)])


def played(length, capacity):
    """A store, each environment's steps as dictionaries, and where each observation was; all are different numbers."""
    rng, fresh = np.random.default_rng(0), iter(range(1, 10**6))
    store = TrajectoryStore(TASK, capacity, ENVS, command_size=2, ring=True)

    def observe():
        return np.array([next(fresh) for _ in range(ENVS)], np.float32)[:, None]

    obs, age, history = observe(), np.zeros(ENVS, int), [[] for _ in range(ENVS)]
    for _ in range(length):
        ended = rng.random(ENVS) < 0.15
        terminated, final = ended & (rng.random(ENVS) < 0.5), observe()
        step = {"obs": obs, "terminated": terminated, "truncated": ended & ~terminated, "option_age": age}
        step |= {name: rng.random((ENVS, 2)).astype(np.float32) for name in ("action", "command")}
        step["reward"] = rng.random(ENVS).astype(np.float32)
        store.append(ended=ended, final_obs=final if ended.any() else None, **step)
        obs = observe()
        for n, steps in enumerate(history):
            after = final[n, 0] if ended[n] else obs[n, 0]
            steps.append({name: value[n] for name, value in step.items()} | {"after": after, "ended": ended[n]})
        age = np.where(ended | (age == STEPS - 1) | (rng.random(ENVS) < 0.1), 0, age + 1)
    return (
        store,
        history,
        {float(step["obs"][0]): (n, t) for n, row in enumerate(history) for t, step in enumerate(row)},
    )


@RINGS
def test_steps_lead_where_they_led(length, capacity):
    store, history, places = played(length, capacity)
    steps, seen = sample_steps(store, np.random.default_rng(1), 2_000), set()
    for i in range(2_000):
        n, t = places[float(steps.obs[i, 0])]
        step, following = history[n][t : t + 2]
        seen.add((n, t))
        assert steps.next_obs[i, 0] == step["after"]
        for name in ("reward", "terminated", "command", "action"):
            np.testing.assert_array_equal(getattr(steps, name)[i], step[name])
        assert steps.switched[i] == (step["ended"] or following["option_age"] == 0)
    everything = {(n, t) for n in range(ENVS) for t in range(max(0, length - capacity), length - 1)}
    assert seen == everything, "every step but the newest can be sampled"
    newest = sample_steps(store, np.random.default_rng(1), 500, newest=9)
    assert {places[float(obs[0])][1] for obs in newest.obs} == set(range(length - 10, length - 1))
    assert len(np.unique(sample_steps(store, np.random.default_rng(1), 3_000, newest=10**6).obs)) == len(everything)


@RINGS
def test_segments_are_cut_where_the_command_was_chosen_and_cross_no_end(length, capacity):
    store, history, places = played(length, capacity)
    parts, seen = sample_segments(store, np.random.default_rng(2), 4_000, STEPS), Counter()
    for i in range(4_000):
        n, t = places[float(parts.obs[i, 0, 0])]
        seen[n, t] += 1
        rows = [history[n][t]]
        while not rows[-1]["ended"] and history[n][t + len(rows)]["option_age"] > 0:
            rows.append(history[n][t + len(rows)])
        assert parts.length[i] == parts.inside[i].sum() == len(rows) <= STEPS
        assert parts.final[i, 0] == rows[-1]["after"]
        assert parts.terminated[i] == rows[-1]["terminated"]
        np.testing.assert_array_equal(parts.command[i], rows[0]["command"])
        for name in ("obs", "action"):
            np.testing.assert_array_equal(getattr(parts, name)[i, : len(rows)], [row[name] for row in rows])
        np.testing.assert_allclose(parts.reward[i].sum(), sum(row["reward"] for row in rows), rtol=1e-6)

    def begun(times):
        return {(n, t) for n in range(ENVS) for t in times if history[n][t]["option_age"] == 0}

    assert set(seen) == begun(range(max(0, length - capacity), length - STEPS)), "every segment that has ended"
    assert max(seen.values()) < 3 * min(seen.values()), "and each as often as any other"
    newest = sample_segments(store, np.random.default_rng(1), 500, STEPS, newest=9)
    assert {places[float(obs[0, 0])] for obs in newest.obs} == begun(range(length - STEPS - 9, length - STEPS))


def test_without_an_ended_segment_there_is_none_to_sample():
    with pytest.raises(IndexError, match="no segment"):
        sample_segments(played(STEPS, 100)[0], np.random.default_rng(0), 1, STEPS)


def test_a_full_ring_does_not_grow_and_restores_to_the_bit():
    store, copy = played(600, 30)[0], TrajectoryStore(TASK, 30, ENVS, command_size=2, ring=True)
    assert len(store) == 30
    assert len(store._finals) <= 2 * 30 * ENVS
    copy.load_state_dict(store.state_dict())
    for draw, more in ((sample_steps, ()), (sample_segments, (STEPS,))):
        ours, theirs = (draw(s, np.random.default_rng(3), 200, *more) for s in (store, copy))
        for name in vars(ours):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


@RINGS
def test_the_newest_steps_come_in_order_and_end_at_what_was_observed_last(length, capacity):
    store, history, _ = played(length, capacity)
    last = np.arange(-ENVS, 0, dtype=np.float32)[:, None]
    steps = newest_steps(store, 7, last)
    assert steps.reward.shape == (7, ENVS)
    for n in range(ENVS):
        for i, step in enumerate(history[n][-7:]):
            newest = i == 6
            assert steps.next_obs[i, n, 0] == (last[n, 0] if newest and not step["ended"] else step["after"])
            for name in ("obs", "command"):
                np.testing.assert_array_equal(getattr(steps, name)[i, n], step[name])
            over = newest or step["ended"] or history[n][i - 6]["option_age"] == 0
            assert steps.switched[i, n] == over


@given(st.lists(st.integers(2, 9), min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_windows_and_chunks_are_what_each_episode_holds(lengths, steps, seed):
    """Every observation is a number of its own, so that a window over an episode's end would show."""
    rng, shape = np.random.default_rng(seed), (len(lengths), max(lengths))
    obs = np.arange(1, 1 + shape[0] * shape[1], dtype=np.float32).reshape(*shape, 1)
    reward, action = rng.random(shape).astype(np.float32), rng.random((*shape, 2)).astype(np.float32)
    unknown, terminated = np.full(shape, -1), rng.random(len(lengths)) < 0.5
    recording = Recording(obs, action, unknown, reward, terminated, np.array(lengths), unknown[:, 0])
    view = windows(recording, steps)
    # An episode of T observations has T - 1 actions; a window starts at each, and the last ones are shorter.
    starts = [(n, t) for n, length in enumerate(lengths) for t in range(length - 1)]
    assert list(zip(view.episode.tolist(), view.start.tolist(), strict=True)) == starts
    rows = rng.permutation(len(view))
    found = chunks(recording, view, rows, 0.9)
    for i, (n, t) in enumerate(starts[row] for row in rows):
        end = min(t + steps, lengths[n] - 1)
        count, at_end = end - t, end == lengths[n] - 1
        assert found.obs[i] == obs[n, t]
        assert found.next_obs[i] == obs[n, end]
        assert found.inside[i].tolist() == [j < count for j in range(steps)]
        for whole, column in ((found.action, action), (view.of(obs, rows), obs)):
            np.testing.assert_array_equal(whole[i, :count], column[n, t:end])
            assert not whole[i, count:].any()
        np.testing.assert_allclose(found.reward[i], sum(0.9**j * reward[n, t + j] for j in range(count)), rtol=1e-5)
        np.testing.assert_allclose(found.discount[i], 0.0 if at_end and terminated[n] else 0.9**count, rtol=1e-6)
