"""The batched mazes against Gymnasium's own MuJoCo environments: environment steps per second, one core each.

Both step the same models (this project's XML, so the same physics), with uniformly random actions drawn before the
clock starts, autoreset in the same step, observations as one float32 array.

- batched: `MazeSimulator`, 16 environments; its model has MuJoCo's mid-phase off, which changes no number.
- stock: `SyncVectorEnv` over 16 subclasses of Gymnasium's `MujocoEnv` written as its own `Ant-v5` is, without checking
  wrappers and with `copy=False`.

Seconds are the process's own CPU time. The two take turns and each is credited with its fastest, so that a busy machine
harms neither.
"""

import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from preceptor.envs.mujoco.mazes import SPECS, MazeSpec
from preceptor.envs.mujoco.model import make_plan
from preceptor.envs.mujoco.simulator import MazeSimulator
from preceptor.envs.vector import BatchedEnv

NAMES = ("AntMaze", "AntPush", "AntFall", "PointUMaze", "PointPush", "PointFall")
ENVS, SECONDS, TURNS = 16, 0.25, 5


class StockMaze(MujocoEnv):
    """A maze as a user of Gymnasium would write it."""

    metadata = {"render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"]}  # noqa: RUF012

    def __init__(self, spec: MazeSpec, xml: Path) -> None:
        self._spec, self._age = spec, 0
        self._low, self._high = np.array(spec.train_goals)
        size = len(spec.robot.positions) + len(spec.robot.velocities) + len(self._low) + 1
        space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        super().__init__(str(xml), spec.robot.frame_skip, observation_space=space)

    def step(self, action: np.ndarray) -> Any:
        """One step."""
        self.do_simulation(self._spec.robot.action_limit * action, self.frame_skip)
        self._age += 1
        distance = float(np.linalg.norm(self.data.qpos[: len(self._goal)] - self._goal))
        return self._observation(), -distance, False, False, {"distance": distance}

    def reset_model(self) -> np.ndarray:
        """Reset noise and a goal."""
        positions, velocities = self._spec.robot.noisy
        qpos, qvel = self.init_qpos.copy(), self.init_qvel.copy()
        qpos[:positions] += self.np_random.uniform(-0.1, 0.1, size=positions)
        qvel[:velocities] += 0.1 * self.np_random.standard_normal(velocities)
        self._goal, self._age = self.np_random.uniform(self._low, self._high), 0
        self.set_state(qpos, qvel)
        return self._observation()

    def _observation(self) -> np.ndarray:
        robot, data = self._spec.robot, self.data
        state = data.qpos[: len(robot.positions)], data.qvel[: len(robot.velocities)]
        return np.concatenate([*state, [0.001 * self._age], self._goal]).astype(np.float32)


def make_stock(spec: MazeSpec, folder: Path) -> gym.vector.VectorEnv:
    """The stock side."""
    xml = folder / f"{spec.name}.xml"
    xml.write_text(make_plan(spec).to_xml())
    makers: list[Callable[[], gym.Env]] = [lambda: TimeLimit(StockMaze(spec, xml), spec.horizon)] * ENVS
    return SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)


def steps_per_second(step: Callable[[np.ndarray], Any], actions: np.ndarray) -> float:
    """Environment steps per second; actions [T, N, A] are repeated until the turn's time is up."""
    start, count = time.process_time(), 0
    while (passed := time.process_time() - start) < SECONDS:
        for row in actions:
            step(row)
        count += actions.shape[0] * actions.shape[1]
    return count / passed


def measure(spec: MazeSpec, folder: Path) -> tuple[float, float]:
    """Steps per second of both sides."""
    ours, theirs = BatchedEnv(MazeSimulator(spec, ENVS)), make_stock(spec, folder)
    shape = (20, ENVS, spec.robot.num_actions)
    actions = np.random.default_rng(0).uniform(-1, 1, size=shape).astype(np.float32)
    for env in (ours, theirs):
        env.reset(seed=0)
    turns = [tuple(steps_per_second(env.step, actions) for env in (ours, theirs)) for _ in range(TURNS)]
    fast, stock = (max(side) for side in zip(*turns, strict=True))
    for env in (ours, theirs):
        env.close()
    return fast, stock


def main() -> dict[str, Any]:
    """Measure every maze, print and return the figures; `ratio` is the smallest of batched over stock."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("mujoco", "gymnasium", "numpy"))
    print(f"{ENVS} environments, random actions, one core   [{packages}, Python {platform.python_version()}]")
    ratios = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            ours, stock = measure(SPECS[name], Path(folder))
            ratios[name] = ours / stock
            print(f"  {name:<11} batched {ours:>9,.0f}  stock {stock:>9,.0f} steps/s  ratio {ours / stock:5.2f}")
    print(f"  smallest ratio: {min(ratios.values()):.2f}   (goal 1.00)")
    return {"ratios": ratios, "ratio": min(ratios.values())}


if __name__ == "__main__":
    main()
