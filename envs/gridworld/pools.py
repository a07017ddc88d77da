"""Stock MiniGrid levels, and a user's own, for the batched engine: pools of ready levels.

minigrid's own generator makes a pool of levels once; the engine then plays them. A user's level is therefore a small
file, not a fork: a Python file with a `MiniGridEnv` subclass that Gymnasium has registered. `stock_tasks.py` makes
tasks of pools.

Level seed s of a pool is `env.reset(seed=s)` of the environment that it was made from.
"""

import importlib
from dataclasses import dataclass
from typing import Final

import gymnasium as gym
import numpy as np
from minigrid.core.roomgrid import RoomGrid
from minigrid.envs import BlockedUnlockPickupEnv, KeyCorridorEnv, ObstructedMazeEnv, UnlockEnv, UnlockPickupEnv
from minigrid.minigrid_env import MiniGridEnv

from envs.gridworld.cells import KIND_MASK, WALL_KIND
from envs.gridworld.engine import Pool
from envs.gridworld.levels import POOL, WIN_DOOR, WIN_GOAL, WIN_TARGET, LevelSpec
from envs.gridworld.objects import to_cells
from ground.errors import UserError, unknown_name

# Environments whose `step` is MiniGrid's, plus one condition that the engine has too. All others are refused: their
# rules would be lost silently.
_WINS: Final = (
    ((UnlockPickupEnv, BlockedUnlockPickupEnv, KeyCorridorEnv, ObstructedMazeEnv), WIN_TARGET),
    ((UnlockEnv,), WIN_DOOR),
)


@dataclass(frozen=True)
class LevelPool:
    """Ready levels and the rules that they are played by; the arguments `spec` and `pool` of `GridSimulator`.

    Raises:
        UserError: The arrays do not fit the rules, or a level is not enclosed by walls: kernels check no bounds.
    """

    spec: LevelSpec
    pool: Pool

    def __post_init__(self) -> None:
        cells, pose, shape = self.pool.cells, self.pool.pose, (self.spec.width, self.spec.height)
        if cells.shape[1:] != shape or pose.shape != (len(cells), 3) or not len(cells):
            raise UserError(f"{self.spec.name}: the levels are not {shape[0]} by {shape[1]} cells, or there are none.")
        border = (cells[:, 0], cells[:, -1], cells[:, :, 0], cells[:, :, -1])
        inside = (pose >= (1, 1, 0)) & (pose < (shape[0] - 1, shape[1] - 1, 4))
        if not inside.all() or any(((side & KIND_MASK) != WALL_KIND).any() for side in border):
            raise UserError(f"{self.spec.name}: every level must be enclosed by walls, with the agent inside.")


def win_of(env: MiniGridEnv) -> int:
    """What ends an episode of a MiniGrid environment in success, as in `LevelSpec.win`.

    A class of a user's own whose `step` adds nothing but one of those conditions says so in an attribute
    `preceptor_win` with the value `WIN_DOOR` or `WIN_TARGET` (the object is then the attribute `obj`).

    Raises:
        UserError: Its `step` is neither MiniGrid's nor one that the engine knows.
    """
    declared = getattr(type(env), "preceptor_win", None)
    if declared is not None:
        return int(declared)
    for classes, win in _WINS:
        if any(type(env).step is known.step for known in classes):
            return win
    if type(env).step in (MiniGridEnv.step, RoomGrid.step):
        return WIN_GOAL
    raise UserError(
        f"{type(env).__name__} has rules of its own in step(), which the engine does not know.",
        "play it with Gymnasium's vector environments, or declare `preceptor_win` (envs/gridworld/pools.py)",
    )


def make_pool(env_id: str, count: int, first_seed: int = 0) -> LevelPool:
    """A pool of levels made by an environment's own generator.

    Args:
        env_id: Any Gymnasium id of a MiniGrid environment, or what is between `MiniGrid-` and `-v0`; with `module:`
            before it, as for `gymnasium.make`, the module that registers it is imported first.
        count: Number of levels.
        first_seed: Level seed of the first; from 1,000,000 on they are levels for evaluation.

    Raises:
        UserError: There is no such environment, or it has rules or objects that the engine does not know.
    """
    name, env_id = env_id, full_id(env_id)
    module, _, env_id = env_id.rpartition(":")
    if module:
        _import(module)
    if env_id not in gym.registry:
        raise unknown_name("stock level", name, [known for known in gym.registry if known.startswith("MiniGrid-")])
    env = gym.make(env_id).unwrapped
    if not isinstance(env, MiniGridEnv):
        raise UserError(f"{env_id} is not a MiniGrid environment.")
    win = win_of(env)
    cells, pose, missions = [], [], []
    for seed in range(first_seed, first_seed + count):
        env.reset(seed=seed)
        cells.append(to_cells(env.grid, getattr(env, "obj", None) if win == WIN_TARGET else None))
        pose.append((*env.agent_pos, env.agent_dir))
        missions.append(env.mission)
    size, limit = env.agent_view_size, env.max_steps
    rules = LevelSpec(name, env.width, env.height, size, limit, POOL, win, missions[0], env.see_through_walls)
    return LevelPool(rules, Pool(first_seed, np.array(cells, np.uint16), np.array(pose, np.int64)))


def full_id(name: str) -> str:
    """Gymnasium's id of a stock level: `DoorKey-5x5` is `MiniGrid-DoorKey-5x5-v0`, and other ids are as they are."""
    stock = f"MiniGrid-{name}-v0"
    return stock if stock in gym.registry else name


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"The module {module!r} cannot be imported: {error}.", "run from its folder") from error
