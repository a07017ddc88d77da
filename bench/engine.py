"""The batched engine against stock MiniGrid under Gymnasium: environment steps per second, one core each.

Both play DoorKey-8x8 by the same rules with the same 7x7 partial observation, with uniformly random actions drawn
before the clock starts. Occlusion, level generation and autoreset in the same step are included on both sides, and
every observation is delivered as an array through Gymnasium's vector interface.

- engine: `GridSimulator` with its own generator of DoorKey levels, equal to minigrid's in distribution
  (tests/unit/test_levels.py), and MiniGrid's direction beside the image.
- stock: `SyncVectorEnv` in its best form: 16 environments without Gymnasium's checking wrappers, `ImgObsWrapper` so
  that no mission text is copied, and `copy=False`.

Seconds are the process's own CPU time on one thread. The two take turns and each is credited with its fastest, so that
a busy machine harms neither.
"""

import platform
import time
from collections.abc import Callable
from importlib.metadata import version

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from minigrid.envs import DoorKeyEnv
from minigrid.wrappers import ImgObsWrapper

from preceptor.envs.gridworld.levels import doorkey_spec
from preceptor.envs.gridworld.simulator import GridSimulator
from preceptor.envs.vector import BatchedEnv

ENGINE_ENVS, ENGINE_STEPS = 1024, 400
STOCK_ENVS, STOCK_STEPS = 16, 150
TURNS = 7


def make_engine() -> gym.vector.VectorEnv:
    """The engine's side."""
    return BatchedEnv(GridSimulator(doorkey_spec(8), ENGINE_ENVS, view="partial", copy=False))


def make_stock() -> gym.vector.VectorEnv:
    """The stock side."""
    makers: list[Callable[[], gym.Env]] = [lambda: ImgObsWrapper(DoorKeyEnv(size=8))] * STOCK_ENVS
    return SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)


def random_actions() -> np.ndarray:
    """What the engine plays in one turn, [T, N]."""
    return np.random.default_rng(0).integers(7, size=(ENGINE_STEPS, ENGINE_ENVS))


def steps_per_second(env: gym.vector.VectorEnv, actions: np.ndarray) -> float:
    """Environment steps per CPU second over one turn; actions [T, N]."""
    start = time.process_time()
    for row in actions:
        env.step(row)
    return actions.size / (time.process_time() - start)


def main() -> dict[str, float | str]:
    """Measure both sides, print and return the figures; `ratio` is the engine's speed over stock's."""
    engine, stock, engine_actions = make_engine(), make_stock(), random_actions()
    stock_actions = np.random.default_rng(1).integers(7, size=(STOCK_STEPS, STOCK_ENVS))
    for env, actions in ((engine, engine_actions), (stock, stock_actions)):
        env.reset(seed=0)
        # Compilation, and a start in the middle of episodes.
        steps_per_second(env, actions)
    turns = [(steps_per_second(engine, engine_actions), steps_per_second(stock, stock_actions)) for _ in range(TURNS)]
    ours, theirs = (max(side) for side in zip(*turns, strict=True))
    packages = ", ".join(f"{name} {version(name)}" for name in ("minigrid", "gymnasium", "numba", "numpy"))
    versions = f"{packages}, Python {platform.python_version()}"
    print("DoorKey-8x8, 7x7 partial observation, occlusion, level generation and autoreset included, one core")
    print(f"  engine, {ENGINE_ENVS} environments:    {ours:>14,.0f} steps/s")
    print(f"  SyncVectorEnv, {STOCK_ENVS} environments: {theirs:>14,.0f} steps/s")
    print(f"  ratio: {ours / theirs:,.0f}   (goal 1,000)   [{versions}]")
    return {"engine": ours, "stock": theirs, "ratio": ours / theirs, "versions": versions}


if __name__ == "__main__":
    main()
