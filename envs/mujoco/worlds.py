"""N worlds of one maze: the rules of an episode on top of the simulator, without autoreset.

The batched and the single environment are both thin shells around `Worlds`, so that a rule exists once.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.mujoco.mazes import RESET_NOISE, TIME_SCALE, MazeSpec
from envs.mujoco.model import make_model
from ground.errors import UserError
from ground.level_seeds import SEEDS_PER_SPLIT

UNSTABLE = float(mujoco.mjMAXVAL)  # beyond which MuJoCo calls a number bad
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION  # all that the next step depends on, the solver's warm start included

_log = mujoco.MjLogConfig.get()
_log.logto_file = False  # else each failure leaves a MUJOCO_LOG.TXT wherever the process was started
_log.set()


class SimulationError(UserError):
    """The simulator gave numbers that mean nothing, or warned."""


class Worlds:
    """N worlds, which share a model; the caller says when an episode begins.

    Attributes:
        spec: The task.
        model: MuJoCo's model of it.
        data: MuJoCo's state of each world.
        level_seed: int64 [N], the level that each world plays. It determines the goal and the reset noise.
        age: int64 [N], steps since each episode began.
        goal: float64 [N, 2 or 3].

    Args:
        spec: The task.
        num_worlds: N.
        threads: Threads that step the worlds; more than one pays for ants on cores that are free.
    """

    def __init__(self, spec: MazeSpec, num_worlds: int, threads: int = 1) -> None:
        self.spec, self.model = spec, make_model(spec)
        self.data = [mujoco.MjData(self.model) for _ in range(num_worlds)]
        self.level_seed = np.full(num_worlds, -1, dtype=np.int64)
        self.age = np.zeros(num_worlds, dtype=np.int64)
        self.goal = np.zeros((num_worlds, len(spec.eval_goals[0])))
        # MuJoCo owns its arrays; these are views of them, made once because making one costs as much as a small step.
        self._control = [data.ctrl for data in self.data]
        self._warnings = [data.warning.number for data in self.data]
        self._qpos_of, self._qvel_of = [data.qpos for data in self.data], [data.qvel for data in self.data]
        self._qpos = np.zeros((num_worlds, self.model.nq))
        self._qvel = np.zeros((num_worlds, self.model.nv))
        self._warned = np.zeros((num_worlds, len(mujoco.mjtWarning.__members__) - 1), dtype=np.int32)
        self._layout()
        self._threads = min(threads, num_worlds)
        self._pool = ThreadPoolExecutor(self._threads) if self._threads > 1 else None

    def begin(self, world: int, level_seed: int) -> None:
        """Start an episode: reset noise and goal as the level seed says, blocks at rest."""
        spec, rng = self.spec, np.random.default_rng(level_seed)
        positions, velocities = spec.robot.noisy
        mujoco.mj_resetData(self.model, self.data[world])
        qpos, qvel = self._qpos_of[world], self._qvel_of[world]
        qpos[:positions] += rng.uniform(-RESET_NOISE, RESET_NOISE, size=positions)
        qvel[:velocities] += RESET_NOISE * rng.standard_normal(velocities)
        if "qw" in spec.robot.positions:
            at = spec.robot.positions.index("qw")
            qpos[at : at + 4] /= np.linalg.norm(qpos[at : at + 4])
        low, high = spec.train_goals if level_seed < SEEDS_PER_SPLIT else spec.eval_goals
        self.goal[world] = rng.uniform(low, high)
        self.level_seed[world], self.age[world] = level_seed, 0
        self._qpos[world], self._qvel[world] = qpos, qvel

    def step(self, actions: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Act [N, A] in every world: reward, truncated and success, each [N]. No world ever terminates.

        Raises:
            ValueError: Actions of another shape, or that are not finite.
            SimulationError: The simulator failed.
        """
        control = np.asarray(actions, dtype=np.float64)
        if control.shape != (len(self.data), self.model.nu) or not np.isfinite(control).all():
            raise ValueError(f"actions must be {len(self.data)} x {self.model.nu} finite numbers")
        self._simulate(self.spec.robot.action_limit * control)
        self.age += 1
        self._fetch()
        distance = self.distance()
        truncated = self.age >= self.spec.horizon
        return -distance, truncated, truncated & (distance < self.spec.radius)

    def distance(self) -> NDArray[np.float64]:
        """Distance [N] of each robot to its goal, in metres."""
        return np.sqrt(np.square(self._qpos[:, : self.goal.shape[1]] - self.goal).sum(axis=1))

    def observe(self) -> NDArray[np.float32]:
        """Observations [N, D]; `spec.observation_names` says what they hold."""
        spec, robot = self.spec, self.spec.robot
        positions, both = len(robot.positions), len(robot.positions) + len(robot.velocities)
        obs = np.empty((len(self.data), len(spec.observation_names)), dtype=np.float32)
        obs[:, :positions] = self._qpos[:, :positions]
        obs[:, positions:both] = self._qvel[:, : len(robot.velocities)]
        if spec.observe_time:
            obs[:, both] = TIME_SCALE * self.age
        if self._block_at:
            obs[:, self._block_at] = self._block_home + self._qpos[:, positions:]
        obs[:, -self.goal.shape[1] :] = self.goal
        return obs

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Everything that the future depends on, as arrays whose first dimension is N."""
        physics = np.zeros((len(self.data), mujoco.mj_stateSize(self.model, _STATE)))
        for data, row in zip(self.data, physics, strict=True):
            mujoco.mj_getState(self.model, data, row, _STATE)
        rules = {"level_seed": self.level_seed, "age": self.age, "goal": self.goal}
        return {"physics": physics} | {name: array.copy() for name, array in rules.items()}

    def set_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned; arrays of other worlds are the caller's to refuse."""
        for data, row in zip(self.data, state["physics"], strict=True):
            mujoco.mj_resetData(self.model, data)
            mujoco.mj_setState(self.model, data, np.asarray(row, dtype=np.float64), _STATE)
        for name in ("level_seed", "age", "goal"):
            getattr(self, name)[...] = state[name]
        self._fetch()

    def close(self) -> None:
        """End the threads."""
        if self._pool:
            self._pool.shutdown()

    def _layout(self) -> None:
        """Where the block is in an observation, and where it starts."""
        spec = self.spec
        self._block_at = [i for i, name in enumerate(spec.observation_names) if name.startswith("block_")]
        home = self.model.body("block").pos if spec.block else np.zeros(3)
        self._block_home = np.array([home["xyz".index(axis)] for axis in spec.block_axes])

    def _simulate(self, control: NDArray[np.float64]) -> None:
        worlds = range(len(self.data))
        if self._pool is None:
            return self._simulate_some(control, worlds)
        shares = [worlds[i :: self._threads] for i in range(self._threads)]
        list(self._pool.map(partial(self._simulate_some, control), shares))
        return None

    def _simulate_some(self, control: NDArray[np.float64], worlds: Iterable[int]) -> None:
        step, model, data, targets, skip = (
            mujoco.mj_step,
            self.model,
            self.data,
            self._control,
            self.spec.robot.frame_skip,
        )
        for n in worlds:
            targets[n][:] = control[n]
            step(model, data[n], skip)

    def _fetch(self) -> None:
        """Gather the worlds' numbers, and refuse them if they are none or came with a warning."""
        np.concatenate(self._qpos_of, out=self._qpos.reshape(-1))
        np.concatenate(self._qvel_of, out=self._qvel.reshape(-1))
        np.concatenate(self._warnings, out=self._warned.reshape(-1))
        sound = np.isfinite(self._qpos).all() and np.isfinite(self._qvel).all()
        if not sound or self._warned.any():
            self._report()

    def _report(self) -> None:
        """Raise `SimulationError` for the first world that failed."""
        bad = ~np.isfinite(self._qpos).all(axis=1) | ~np.isfinite(self._qvel).all(axis=1) | self._warned.any(axis=1)
        n = int(np.flatnonzero(bad)[0])
        said = [mujoco.mju_warningText(int(w), 0) for w in np.flatnonzero(self._warned[n])]
        why = "; ".join(text.split(".")[0] for text in said) or "its state is not finite"
        raise SimulationError(
            f"The simulator failed in world {n} of {self.spec.name} at step {self.age[n]} of level "
            f"{self.level_seed[n]}: {why}.",
            "repeat the command with --resume  # continues from the last checkpoint",
        )
