"""The rules of the mazes, for N environments of one maze on top of MuJoCo."""

import gymnasium as gym
import mujoco
import numpy as np
from numpy.typing import NDArray

from preceptor.envs.mujoco.mazes import RESET_NOISE, TIME_SCALE, MazeSpec
from preceptor.envs.mujoco.model import Disc, Painter, make_model
from preceptor.envs.vector import Outcome, Simulator, State
from preceptor.ground.errors import UserError
from preceptor.ground.level_seeds import split_of

UNSTABLE = float(mujoco.mjMAXVAL)  # beyond which MuJoCo calls a number bad
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION  # all that the next step depends on, the solver's warm start included
_GREEN, _ORANGE, _BLACK = (26, 178, 51, 115), (255, 153, 0, 255), (0, 0, 0, 255)

_log = mujoco.MjLogConfig.get()
_log.logto_file = False  # else each failure leaves a MUJOCO_LOG.TXT wherever the process was started
_log.set()


class SimulationError(UserError):
    """The simulator gave numbers that mean nothing, or warned."""


class MazeSimulator(Simulator):
    """N environments of one maze, which share a model.

    Observations are float32 [N, D], actions float32 [N, A] in [-1, 1]; the reward is minus the distance to the goal.
    Episodes are truncated at the horizon and never terminate; success is an end near the goal. Levels for evaluation
    have the evaluation goals.

    Attributes:
        spec: The maze.
        model: MuJoCo's model of it.
        data: MuJoCo's state of each environment.
        age: int64 [N], steps since each episode began.
        goal: float64 [N, 2 or 3].
        subgoal: None, or (x, y, ...) in the frame of the maze, which `render` marks beside the area of success.

    Args:
        spec: The maze.
        num_envs: N.
    """

    def __init__(self, spec: MazeSpec, num_envs: int) -> None:
        self.spec, self.name, self.num_envs, self.model = spec, spec.name, num_envs, make_model(spec)
        self.max_steps = spec.horizon
        self.observation_space = gym.spaces.Box(-UNSTABLE, UNSTABLE, (len(spec.observation_names),), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (spec.robot.num_actions,), np.float32)
        self.data = [mujoco.MjData(self.model) for _ in range(num_envs)]
        self.level_seed = np.full(num_envs, -1, dtype=np.int64)
        self.age = np.zeros(num_envs, dtype=np.int64)
        self.goal = np.zeros((num_envs, len(spec.eval_goals[0])))
        self.subgoal: NDArray[np.floating] | None = None
        # MuJoCo owns its arrays; these are views of them, made once because making one costs as much as a small step.
        self._control = [data.ctrl for data in self.data]
        self._warnings = [data.warning.number for data in self.data]
        self._qpos_of, self._qvel_of = [data.qpos for data in self.data], [data.qvel for data in self.data]
        self._qpos, self._qvel = np.zeros((num_envs, self.model.nq)), np.zeros((num_envs, self.model.nv))
        self._block_home = np.array([spec.block_home[axis] for axis in spec.block_axes])
        self._painter: Painter | None = None

    def begin(self, rows: NDArray[np.int64], level_seeds: NDArray[np.int64]) -> None:
        """Start episodes: reset noise and goal as the level seeds say, blocks at rest."""
        positions, velocities = self.spec.robot.noisy
        for n, level_seed in zip(rows.tolist(), level_seeds.tolist(), strict=True):
            rng, qpos, qvel = np.random.default_rng(level_seed), self._qpos_of[n], self._qvel_of[n]
            mujoco.mj_resetData(self.model, self.data[n])
            qpos[:positions] += rng.uniform(-RESET_NOISE, RESET_NOISE, size=positions)
            qvel[:velocities] += RESET_NOISE * rng.standard_normal(velocities)
            if self.spec.robot.name == "ant":
                qpos[3:7] /= np.linalg.norm(qpos[3:7])  # the quaternion
            low, high = self.spec.train_goals if split_of(level_seed) == "train" else self.spec.eval_goals
            self.goal[n], self.level_seed[n], self.age[n] = rng.uniform(low, high), level_seed, 0
            self._qpos[n], self._qvel[n] = qpos, qvel

    def step(self, actions: NDArray[np.floating]) -> Outcome:
        """Act [N, A] in every environment.

        Raises:
            ValueError: Actions of another shape, or that are not finite.
            SimulationError: The simulator failed.
        """
        control = np.asarray(actions, dtype=np.float64)
        if control.shape != (self.num_envs, self.model.nu) or not np.isfinite(control).all():
            raise ValueError(f"actions must be {self.num_envs} x {self.model.nu} finite numbers")
        for n, motors in enumerate(self.spec.robot.action_limit * control):
            self._control[n][:] = motors
            mujoco.mj_step(self.model, self.data[n], self.spec.robot.frame_skip)
        self.age += 1
        self._fetch()
        distance = self.distance()
        truncated = self.age >= self.spec.horizon
        success = truncated & (distance < self.spec.radius)
        return Outcome(-distance, np.zeros(self.num_envs, dtype=np.bool_), truncated, success)

    def distance(self) -> NDArray[np.float64]:
        """Distance [N] of each robot to its goal, in metres."""
        return np.sqrt(np.square(self._qpos[:, : self.goal.shape[1]] - self.goal).sum(axis=1))

    def observe(self) -> NDArray[np.float32]:
        """Observations [N, D]; `spec.observation_names` says what they hold."""
        robot = self.spec.robot
        positions = len(robot.positions)
        parts = [self._qpos[:, :positions], self._qvel[:, : len(robot.velocities)]]
        if robot.name == "ant":
            parts.append(TIME_SCALE * self.age[:, None])
        if self.spec.observe_block:
            parts.append(self._block_home + self._qpos[:, positions:])
        return np.concatenate([*parts, self.goal], axis=1, dtype=np.float32)

    def arrays(self) -> State:
        """What the future depends on beside MuJoCo's own numbers."""
        return {"level_seed": self.level_seed, "age": self.age, "goal": self.goal}

    def get_state(self) -> State:
        """Everything that the future depends on, as arrays whose first dimension is N."""
        physics = np.zeros((self.num_envs, mujoco.mj_stateSize(self.model, _STATE)))
        for data, row in zip(self.data, physics, strict=True):
            mujoco.mj_getState(self.model, data, row, _STATE)
        return {"physics": physics} | super().get_state()

    def set_state(self, state: State) -> None:
        """Restore what `get_state` returned."""
        for data, row in zip(self.data, state["physics"], strict=True):
            mujoco.mj_resetData(self.model, data)
            mujoco.mj_setState(self.model, data, np.asarray(row, dtype=np.float64), _STATE)
        super().set_state(state)
        self._fetch()

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

    def _fetch(self) -> None:
        """Gather the numbers of all environments. Raises `SimulationError` for the first that failed."""
        np.concatenate(self._qpos_of, out=self._qpos.reshape(-1))
        np.concatenate(self._qvel_of, out=self._qvel.reshape(-1))
        if np.isfinite(self._qpos).all() and np.isfinite(self._qvel).all() and not np.concatenate(self._warnings).any():
            return
        warned = np.array(self._warnings)
        bad = ~np.isfinite(self._qpos).all(axis=1) | ~np.isfinite(self._qvel).all(axis=1) | warned.any(axis=1)
        n = int(np.flatnonzero(bad)[0])
        said = [mujoco.mju_warningText(int(w), 0) for w in np.flatnonzero(warned[n])]
        why = "; ".join(text.split(".")[0] for text in said) or "its state is not finite"
        raise SimulationError(
            f"The simulator failed in environment {n} of {self.name} at step {self.age[n]} of level "
            f"{self.level_seed[n]}: {why}.",
            "repeat the command with --resume  # continues from the last checkpoint",
        )
