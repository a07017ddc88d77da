"""Pick and place is Gymnasium-Robotics' own, and a picture shows its goal."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from envs.catalog import get_task
from envs.fetch.simulator import ENV_ID
from envs.mujoco.rendering import choose_backend
from tests.scripted import scripted

TASK = get_task("FetchPickAndPlace")
HORIZON = 50


def flat(obs: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([obs["observation"], obs["desired_goal"]]).astype(np.float32)


def wandering(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The script in most steps, so that blocks are touched, and anything at all in others."""
    actions = TASK.skill(obs, scripted(TASK, obs))
    return np.where(rng.random((len(obs), 1)) < 0.2, rng.uniform(-1, 1, actions.shape), actions).astype(np.float32)


def test_it_is_the_original_to_the_bit_even_if_it_is_watched() -> None:
    batched, rng = TASK.make_vec(3, split="eval", seed=5), np.random.default_rng(0)
    obs, info = batched.reset()
    originals: list[gym.Env[Any, Any]] = [gym.make(ENV_ID) for _ in range(3)]
    singles = [TASK.make_single(int(seed)).unwrapped for seed in info["level_seed"]]
    for original, seed in zip(originals, info["level_seed"].tolist(), strict=True):
        original.reset(seed=seed)
    solved = 0
    for step in range(1, 2 * HORIZON + 10):
        actions = wandering(obs, rng)
        obs, reward, terminated, truncated, info = batched.step(actions)
        assert not terminated.any()
        assert (truncated == (step % HORIZON == 0)).all()
        for n, (original, env) in enumerate(zip(originals, singles, strict=True)):
            its_obs, its_reward, *ended, its_info = original.step(actions[n])
            last = info["final_obs"][n] if truncated[n] else obs[n]
            np.testing.assert_array_equal(last, flat(its_obs))
            assert (its_reward, ended) == (reward[n], [False, truncated[n]])
            assert info["success"][n] == (truncated[n] and its_info["is_success"] > 0)
            solved += info["success"][n]
            np.testing.assert_array_equal(env.step(actions[n])[0], last)
            if n == 0 and step % 10 == 0 and choose_backend().name != "off":
                env.render()
            if truncated[n]:
                level = int(info["level_seed"][n])
                np.testing.assert_array_equal(flat(original.reset(seed=level)[0]), obs[n])
                np.testing.assert_array_equal(env.reset(options={"level_seed": level})[0], obs[n])
    assert 0 < solved < 6, "both outcomes are compared"
    for env in singles:
        env.close()


@pytest.mark.draws
def test_a_picture_shows_the_goal_where_it_is_and_twice_the_same() -> None:
    env = TASK.make_single(1_000_000)
    first = env.render()
    assert first.shape == (480, 480, 3)
    np.testing.assert_array_equal(env.render(), first)
    red = first.astype(int) @ np.array([1, -1, -1])
    middle = np.argwhere(red > 60).mean(axis=0)
    assert (np.abs(middle - [278, 268]) < 15).all(), "on the table, behind the block"  # looked at once
    env.close()
