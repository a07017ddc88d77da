"""The rules of the mazes, for N environments of one maze on top of MuJoCo."""

from typing import Any, NamedTuple

import gymnasium as gym
import mujoco
import numpy as np
from numpy.typing import NDArray

from preceptor.envs.mujoco.mazes import RESET_NOISE, TIME_SCALE, MazeSpec
from preceptor.envs.mujoco.model import Disc, Painter, make_model
from preceptor.envs.mujoco.physics import PhysicsSimulator
from preceptor.envs.vector import Outcome, State
from preceptor.ground.level_seeds import split_of

UNSTABLE = float(mujoco.mjMAXVAL)  # beyond which MuJoCo calls a number bad
_GREEN, _ORANGE, _BLACK = (26, 178, 51, 115), (255, 153, 0, 255), (0, 0, 0, 255)


class Start(NamedTuple):
    """How an episode begins: float64 arrays, generalised positions [Q] and velocities [V], and the goal [2 or 3]."""

    qpos: NDArray[np.float64]
    qvel: NDArray[np.float64]
    goal: NDArray[np.float64]


def start_of(spec: MazeSpec, model: mujoco.MjModel, level_seed: int) -> Start:
    """The start of a level: reset noise and goal as its seed says, blocks at rest."""
    rng, qpos, qvel = np.random.default_rng(level_seed), model.qpos0.copy(), np.zeros(model.nv)
    positions, velocities = spec.robot.noisy
    qpos[:positions] += rng.uniform(-RESET_NOISE, RESET_NOISE, size=positions)
    qvel[:velocities] += RESET_NOISE * rng.standard_normal(velocities)
    if spec.robot.name == "ant":
        qpos[3:7] /= np.linalg.norm(qpos[3:7])  # the quaternion
    low, high = spec.train_goals if split_of(level_seed) == "train" else spec.eval_goals
    return Start(qpos, qvel, rng.uniform(low, high))


# Arrays of the next two are NumPy's, or torch's on a GPU: see gpu.py.
def distance_to(goal: Any, qpos: Any) -> Any:
    """Distance [N] of robots at generalised positions [N, Q] to goals [N, 2 or 3], in metres."""
    return ((qpos[:, : goal.shape[1]] - goal) ** 2).sum(1) ** 0.5


def seen(spec: MazeSpec, home: Any, qpos: Any, qvel: Any, age: Any, goal: Any) -> list[Any]:
    """The parts of observations, each [N, ...], side by side; `home` [0 or 2] is where a block of qpos 0 is."""
    robot = spec.robot
    positions = len(robot.positions)
    time = [TIME_SCALE * age[:, None]] if robot.name == "ant" else []
    block = [home + qpos[:, positions:]] if spec.observe_block else []
    return [qpos[:, :positions], qvel[:, : len(robot.velocities)], *time, *block, goal]


class MazeSimulator(PhysicsSimulator):
    """N environments of one maze, which share a model.

    Observations are float32 [N, D], actions float32 [N, A] in [-1, 1]; the reward is minus the distance to the goal.
    Episodes are truncated at the horizon and never terminate; success is an end near the goal. Levels for evaluation
    have the evaluation goals.

    Attributes:
        spec: The maze.
        goal: float64 [N, 2 or 3].
        subgoal: None, or (x, y, ...) in the frame of the maze, which `render` marks beside the area of success.

    Args:
        spec: The maze.
        num_envs: N.
    """

    def __init__(self, spec: MazeSpec, num_envs: int) -> None:
        super().__init__(make_model(spec), num_envs)
        self.spec, self.name = spec, spec.name
        self.max_steps = spec.horizon
        self.observation_space = gym.spaces.Box(-UNSTABLE, UNSTABLE, (len(spec.observation_names),), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (spec.robot.num_actions,), np.float32)
        self.goal = np.zeros((num_envs, len(spec.eval_goals[0])))
        self.subgoal: NDArray[np.floating] | None = None
        self._block_home = np.array([spec.block_home[axis] for axis in spec.block_axes])
        self._painter: Painter | None = None

    def begin(self, rows: NDArray[np.int64], level_seeds: NDArray[np.int64]) -> None:
        """Start episodes of levels, each as `start_of` says."""
        for n, level_seed in zip(rows.tolist(), level_seeds.tolist(), strict=True):
            mujoco.mj_resetData(self.model, self.data[n])
            start = start_of(self.spec, self.model, level_seed)
            self._qpos_of[n][:] = self._qpos[n] = start.qpos
            self._qvel_of[n][:] = self._qvel[n] = start.qvel
            self.goal[n], self.level_seed[n], self.age[n] = start.goal, level_seed, 0

    def step(self, actions: NDArray[np.floating]) -> Outcome:
        """Act [N, A] in every environment.

        Raises:
            ValueError: Actions of another shape, or that are not finite.
            SimulationError: The simulator failed.
        """
        for control, motors in zip(self._control, self.spec.robot.action_limit * self.checked(actions), strict=True):
            control[:] = motors
        self._simulate(self.spec.robot.frame_skip)
        distance = self.distance()
        truncated = self.age >= self.spec.horizon
        success = truncated & (distance < self.spec.radius)
        return Outcome(-distance, np.zeros(self.num_envs, dtype=np.bool_), truncated, success)

    def distance(self) -> NDArray[np.float64]:
        """Distance [N] of each robot to its goal, in metres."""
        return distance_to(self.goal, self._qpos)

    def observe(self) -> NDArray[np.float32]:
        """Observations [N, D]; `spec.observation_names` says what they hold."""
        parts = seen(self.spec, self._block_home, self._qpos, self._qvel, self.age, self.goal)
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def arrays(self) -> State:
        """What the future depends on beside MuJoCo's own numbers."""
        return {"level_seed": self.level_seed, "age": self.age, "goal": self.goal}

    def render(self, n: int = 0) -> NDArray[np.uint8]:
        """The maze from above, uint8 [480, 480, 3]; `UserError` if nothing can draw."""
        self._painter = self._painter or Painter(self.model)
        discs = [Disc(self.goal[n], self.spec.radius, _GREEN)]
        if self.subgoal is not None:
            rims = ((0.12, _BLACK), (0.1, _ORANGE))  # seen on any ground
            discs += [Disc(self.subgoal, size * self.spec.cell, colour) for size, colour in rims]
        return self._painter.draw(self.data[n], discs)

    def close(self) -> None:
        """Free the renderer."""
        if self._painter:
            self._painter.close()
            self._painter = None
