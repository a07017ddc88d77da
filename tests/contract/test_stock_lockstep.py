"""Stock levels in the engine are the stock environments: equal step by step in MiniGrid's own observation."""

import gymnasium as gym
import numpy as np
import pytest
from minigrid.core.world_object import Ball, Door, Key
from minigrid.envs import DoorKeyEnv, EmptyEnv
from walker import PICKUP, TOGGLE, next_action, way_to

from envs.catalog import STOCK_TASKS
from envs.gridworld.levels import SPECS, LevelSpec
from envs.gridworld.simulator import GridSimulator
from envs.gridworld.single import GridTaskEnv
from envs.gridworld.stock_tasks import full_id, make_pool
from envs.vector import BatchedEnv
from ground.errors import UserError

# The walker of these tests clears no blockers; tests/contract/test_stock_tasks.py plays BlockedUnlockPickup.
WALKED = [full_id(name) for name in STOCK_TASKS if "Blocked" not in name]
SEE_THROUGH_AND_CONTENTS = ("MiniGrid-DistShift1-v0", "MiniGrid-ObstructedMaze-1Dlh-v0", "MiniGrid-Unlock-v0")


def play_in_lock_step(env_id: str, made: LevelSpec, skill: float, steps: int, num_envs: int = 4) -> dict[str, int]:
    """Play both sides for some steps per environment, `skill` of them by plan; counts of how episodes ended."""
    rng = np.random.default_rng(1)
    vector = BatchedEnv(GridSimulator(made, num_envs, view="partial"))
    stock = [gym.make(env_id).unwrapped for _ in range(num_envs)]
    obs, info = vector.reset()
    for n, env in enumerate(stock):
        assert_same(obs, n, env.reset(seed=int(info["level_seed"][n]))[0])
    counts = {"success": 0, "died": 0, "truncated": 0}
    for _ in range(steps):
        planned = rng.random(num_envs) < skill
        actions = np.array([next_action(env, rng) if planned[n] else rng.integers(7) for n, env in enumerate(stock)])
        obs, reward, terminated, truncated, info = vector.step(actions)
        for n, env in enumerate(stock):
            its_obs, its_reward, its_end, its_cut, _ = env.step(int(actions[n]))
            over = its_end or its_cut
            assert_same(info["final_obs"] if over else obs, n, its_obs)
            assert (reward[n], terminated[n], truncated[n]) == (its_reward, its_end, its_cut)
            assert info["success"][n] == (its_reward > 0)
            if over:
                counts["success" if its_reward > 0 else "died" if its_end else "truncated"] += 1
                assert_same(obs, n, env.reset(seed=int(info["level_seed"][n]))[0])
    return counts


def assert_same(obs: dict[str, np.ndarray], n: int, its_obs: dict[str, object]) -> None:
    np.testing.assert_array_equal(obs["image"][n], its_obs["image"])
    assert obs["direction"][n] == its_obs["direction"]


@pytest.mark.parametrize("env_id", [*WALKED, *SEE_THROUGH_AND_CONTENTS])
def test_equal_to_stock(env_id: str) -> None:
    counts = play_in_lock_step(env_id, make_pool(env_id, 20), skill=0.9, steps=150)
    assert counts["success"] > 0


@pytest.mark.parametrize("env_id", WALKED)
@pytest.mark.learn
def test_equal_to_stock_at_length(env_id: str) -> None:
    made = make_pool(env_id, 200)
    for skill in (0.0, 0.6, 0.95):
        play_in_lock_step(env_id, made, skill, steps=1500)


def test_lava_kills_and_time_runs_out() -> None:
    env_id = full_id("LavaCrossingS9N1")
    assert play_in_lock_step(env_id, make_pool(env_id, 20), skill=0.0, steps=700)["died"] > 0
    env_id = full_id("DoorKey-5x5")
    assert play_in_lock_step(env_id, make_pool(env_id, 20), skill=0.0, steps=260)["truncated"] > 0


def test_rules_that_the_engine_does_not_know_are_refused() -> None:
    with pytest.raises(UserError, match=r"rules of its own in step"):
        make_pool("MiniGrid-Dynamic-Obstacles-5x5-v0", 1)
    with pytest.raises(UserError, match="DoorKey-8x8"):
        make_pool("DoorKey-8x9", 1)


class GuardedGoalEnv(EmptyEnv):
    """A user's level: the goal behind a ball."""

    def _gen_grid(self, width: int, height: int) -> None:
        super()._gen_grid(width, height)
        self.place_obj(Ball("red"))


class GreedyEnv(DoorKeyEnv):
    """A user's level with a rule of its own: whatever is picked up is the goal."""

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated or isinstance(self.carrying, Key), truncated, info


def test_a_users_level_is_a_small_file() -> None:
    gym.register("User/Guarded-v0", entry_point=GuardedGoalEnv, kwargs={"size": 6})
    gym.register("User/Greedy-v0", entry_point=GreedyEnv)
    made = make_pool("User/Guarded-v0", 5)
    assert play_in_lock_step("User/Guarded-v0", made, skill=0.9, steps=80)["success"] > 0
    with pytest.raises(UserError, match="GreedyEnv"):
        make_pool("User/Greedy-v0", 1)


@pytest.mark.parametrize("view_size", [3, 5])
def test_narrow_views(view_size: int) -> None:
    env_id = f"User/Narrow-{view_size}-v0"
    gym.register(env_id, entry_point=DoorKeyEnv, kwargs={"size": 6, "agent_view_size": view_size})
    play_in_lock_step(env_id, make_pool(env_id, 10), skill=0.7, steps=150)


class OpenFieldEnv(EmptyEnv):
    """A user's level without its outer wall on one side."""

    def _gen_grid(self, width: int, height: int) -> None:
        super()._gen_grid(width, height)
        self.grid.set(0, 2, None)


def test_levels_that_are_not_enclosed_are_refused() -> None:
    gym.register("User/Open-v0", entry_point=OpenFieldEnv, kwargs={"size": 6})
    with pytest.raises(UserError, match="enclosed"):
        make_pool("User/Open-v0", 1)
    gym.register("User/Wide-v0", entry_point=EmptyEnv, kwargs={"size": 8, "agent_view_size": 9})
    wide = make_pool("User/Wide-v0", 1)
    with pytest.raises(UserError, match="partial views have at most 7"):
        GridSimulator(wide, 1, view="partial")


def test_pools_keep_to_their_split() -> None:
    train = make_pool("DoorKey-5x5", 2)
    with pytest.raises(UserError, match="no levels of the eval split"):
        BatchedEnv(GridSimulator(train, 2), "eval")


def test_the_wrong_key_opens_nothing() -> None:
    """Chance seldom carries the wrong key to the door, so a planner does, on both sides."""
    for seed in range(8):
        vector, single = BatchedEnv(GridSimulator(SPECS["ColoredDoorKey"], 1)), GridTaskEnv("ColoredDoorKey")
        vector.reset(options={"level_seeds": [seed]})
        single.reset(options={"level_seed": seed})
        color = next(thing.color for thing in single.grid.grid if isinstance(thing, Door))
        wrong = lambda thing, color=color: isinstance(thing, Key) and thing.color != color  # noqa: E731
        for wanted, last in ((wrong, PICKUP), (lambda thing: isinstance(thing, Door), TOGGLE)):
            path = way_to(single, wanted)
            assert path is not None or last == TOGGLE  # the right key may stand in the way to the door
            for action in [*path, last] if path is not None else []:
                obs, _, terminated, _, info = vector.step(np.array([action]))
                there, _, its_end, _, _ = single.step(action)
                np.testing.assert_array_equal(obs[0], there["image"])
                assert not any((terminated[0], its_end, info["success"][0]))
