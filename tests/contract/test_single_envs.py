"""The MiniGrid classes are good citizens of Gymnasium."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from minigrid.minigrid_env import MiniGridEnv

from envs.gridworld.levels import SPECS
from envs.gridworld.single import register
from ground.errors import UserError


@pytest.fixture(autouse=True)
def _registered() -> None:
    register()
    register()


@pytest.mark.parametrize("name", SPECS)
def test_gymnasium_finds_no_fault(name: str) -> None:
    env = gym.make(f"Preceptor/{name}-v0", render_mode="rgb_array").unwrapped
    assert isinstance(env, MiniGridEnv)
    check_env(env, skip_render_check=True)  # which would open a window
    env.reset(seed=0)
    assert env.render().std() > 0


def test_a_level_seed_is_a_level() -> None:
    env = gym.make("Preceptor/SimpleDoorKey-v0", split="eval").unwrapped
    levels = [env.reset(options={"level_seed": 1_000_000 + i})[0]["image"] for i in (0, 1, 0)]
    np.testing.assert_array_equal(levels[0], levels[2])
    assert (levels[0] != levels[1]).any()


def test_level_seeds_never_cross_the_split() -> None:
    train, held_out = (gym.make("Preceptor/SimpleDoorKey-v0", split=split).unwrapped for split in ("train", "eval"))
    for env, wrong, inside in ((train, 1_000_000, range(1_000_000)), (held_out, 999_999, range(10**6, 2 * 10**6))):
        with pytest.raises(UserError, match="split"):
            env.reset(options={"level_seed": wrong})
        assert all(env.reset()[1]["level_seed"] in inside for _ in range(20))
