"""The clock: when a command is over, and the four ways in which its vector changes from step to step."""

import numpy as np
import pytest

from preceptor.agent.clock import Clock, GoalFrame, latent, moving, named, sliced

NONE = np.zeros(2, np.bool_)
BOTH = np.ones(2, np.bool_)
OBS = np.zeros((2, 1), np.float32)


def test_a_named_option_ends_when_it_is_over_out_of_time_or_with_its_episode():
    clock = Clock(2, np.array([9, 2]), named())
    assert clock.due(NONE).all(), "nothing runs before the first choice"
    clock.start(BOTH, np.array([0, 1]))
    for age in range(2):
        assert clock.age.tolist() == [age, age]
        assert not clock.due(NONE).any()
        clock.advance(NONE, OBS, OBS)
    assert clock.due(NONE).tolist() == [False, True], "option 1 runs for two steps at most"
    assert clock.due(np.array([True, False])).all(), "option 0 is over"
    clock.start(np.array([False, True]), np.array([1, 0]))
    assert clock.option.tolist() == [0, 0]
    assert clock.previous.tolist() == [-1, 1]
    assert clock.age.tolist() == [2, 0]
    clock.advance(np.array([False, True]), OBS, OBS)
    assert (clock.option.tolist(), clock.previous.tolist(), clock.age.tolist()) == ([0, -1], [-1, -1], [3, 0])
    assert clock.command.shape == (2, 0)


@pytest.mark.parametrize(("transition", "shift"), [(latent(6), 0), (sliced(steps=3, actions=2), 2)])
def test_a_latent_stays_until_its_time_is_over_and_a_chunk_is_played_slice_by_slice(transition, shift):
    clock, chosen = Clock(2, np.array([3]), transition), np.arange(12, dtype=np.float32).reshape(2, 6)
    clock.start(BOTH, chosen)
    for step in range(3):
        assert not clock.due(NONE).any()
        np.testing.assert_array_equal(clock.command, np.roll(chosen, -step * shift, 1))
        clock.advance(NONE, OBS, OBS + 1)
    assert clock.due(NONE).all()
    clock.start(np.array([True, False]), chosen * 10)
    np.testing.assert_array_equal(clock.command, [chosen[0] * 10, chosen[1]])


def test_a_goal_moves_so_that_its_target_stays():
    """h(s, g, s') = s + g - s' (Nachum et al., 2018, arXiv 1805.08296, eq. 3)."""
    frame, rng = GoalFrame((3, 0), (2.0, 0.5)), np.random.default_rng(0)
    clock, obs = Clock(2, np.array([5]), moving(frame)), rng.normal(size=(2, 4)).astype(np.float32)
    chosen = rng.uniform(-1, 1, (2, 2)).astype(np.float32)
    clock.start(BOTH, chosen)
    np.testing.assert_allclose(clock.command, chosen * [2.0, 0.5], rtol=1e-6)
    target = obs[:, [3, 0]] + clock.command
    for _ in range(3):
        before, obs = obs, obs + rng.normal(size=obs.shape).astype(np.float32)
        clock.advance(NONE, before, obs)
        np.testing.assert_allclose(obs[:, [3, 0]] + clock.command, target, atol=1e-5)


@pytest.mark.parametrize("transition", [named(), latent(2), sliced(2, 1)])
def test_a_clock_resumes_where_it_stood(transition):
    clock, other = (Clock(2, np.array([4]), transition) for _ in range(2))
    for _ in range(2):
        clock.start(BOTH, np.ones((2, 2), np.float32) if transition.size else np.zeros(2, np.int64))
    clock.advance(np.array([True, False]), OBS, OBS)
    other.load_state_dict(clock.state_dict())
    for name in ("option", "previous", "age", "command"):
        np.testing.assert_array_equal(getattr(other, name), getattr(clock, name))
    assert other.due(NONE).tolist() == [True, False]
