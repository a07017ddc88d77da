"""FrankaKitchen-v1 of Gymnasium-Robotics: the rules of N environments that share its model.

Gupta, Kumar, Lynch, Levine & Hausman, Relay policy learning, 2019; gymnasium-robotics 1.4. Metres and radians.
"""

import io
from contextlib import redirect_stderr
from functools import cache
from typing import Final, NamedTuple

import gymnasium as gym
import mujoco
import numpy as np
from numpy.typing import NDArray

from preceptor.envs.kitchen.orders import Order
from preceptor.envs.kitchen.subtasks import ShownOrders
from preceptor.envs.mujoco.physics import PhysicsSimulator
from preceptor.envs.mujoco.rendering import undrawable
from preceptor.envs.vector import Outcome, State

with redirect_stderr(io.StringIO()):  # the import prints a notice about other environments, each time
    import gymnasium_robotics  # noqa: F401
from gymnasium_robotics.envs.franka_kitchen import KitchenEnv
from gymnasium_robotics.envs.franka_kitchen.franka_env import DEFAULT_CAMERA_CONFIG
from gymnasium_robotics.envs.franka_kitchen.kitchen_env import BONUS_THRESH, OBS_ELEMENT_GOALS, OBS_ELEMENT_INDICES

ROBOT, SPEEDS, OBJECTS = slice(0, 9), slice(9, 18), slice(18, 39)  # of an observation; the objects' speeds are behind
OBSERVATION_SIZE, ACTIONS = 59, 9
SUBSTEPS = 40  # of the model's timestep, 2 ms, in a step
# What the original calls the seven subtasks of `layout.NAMES`.
ORIGINAL: Final = (
    "microwave", "kettle", "light switch", "slide cabinet", "hinge cabinet", "bottom burner", "top burner",
)  # fmt: skip
_SPEED = 2.0  # that an action of 1 stands for, rad/s
_PICTURE: Final = (480, 480)


class Original(NamedTuple):
    """What is read from the original environment.

    Attributes:
        model: MuJoCo's model.
        qpos: Positions [30] at the start of an episode.
        low, high: Of the positions [9] that the robot may be sent to.
        position_noise, speed_noise: What noise is a share of [29].
    """

    model: mujoco.MjModel
    qpos: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    position_noise: NDArray[np.float64]
    speed_noise: NDArray[np.float64]


@cache
def original() -> Original:
    """The original's numbers; all environments share them."""
    env = KitchenEnv()
    robot = env.robot_env
    low, high = robot.robot_pos_bound[:ACTIONS].T
    made = Original(env.model, robot.init_qpos, low, high, robot.robot_pos_noise_amp, robot.robot_vel_noise_amp)
    env.close()
    return made


def subtasks_done(objects: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which subtasks are done [N, 7] with the objects' positions [N, 21]: those within .3 of their goals."""
    apart = [
        np.linalg.norm(objects[:, OBS_ELEMENT_INDICES[name] - ACTIONS] - OBS_ELEMENT_GOALS[name], axis=1)
        for name in ORIGINAL
    ]
    return np.stack(apart, axis=1) < BONUS_THRESH


class FrankaSimulator(PhysicsSimulator):
    """The original's rules: an action sends the robot's nine joints on from where they were seen.

    Each due subtask is rewarded with 1 when it is first done, in any order. The episode terminates in success once all
    were. All episodes start alike, and a level differs by its noise.

    Attributes:
        seen: float64 [N, 9], the robot's positions as last observed.
        done: bool [N, 7], the subtasks that were done.

    Args:
        num_envs: N.
        order: The subtasks that are due, by number.
        max_steps: T, after which an episode is truncated.
        robot_noise, object_noise: Of observations, as the original has them: shares of amplitudes that it stores.
    """

    name = "Kitchen"
    max_steps: int

    def __init__(
        self, num_envs: int, order: Order, max_steps: int, robot_noise: float = 0.01, object_noise: float = 0.0005
    ) -> None:
        self._original = original()
        super().__init__(self._original.model, num_envs)
        self.max_steps, self.order = max_steps, list(order)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (OBSERVATION_SIZE,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)
        self.fps = round(1 / (SUBSTEPS * self.model.opt.timestep))
        self.seen, self.done = np.zeros((num_envs, ACTIONS)), np.zeros((num_envs, len(ORIGINAL)), np.bool_)
        amplitudes = self._original
        self._noise = np.concatenate([
            robot_noise * amplitudes.position_noise[:ACTIONS],
            robot_noise * amplitudes.speed_noise[:ACTIONS],
            object_noise * amplitudes.position_noise[ACTIONS - 1 :],  # as the original has it: one joint behind
            object_noise * amplitudes.speed_noise[ACTIONS:],
        ])  # fmt: skip
        self._renderer: mujoco.Renderer | None = None

    def begin(self, rows: NDArray[np.int64], level_seeds: NDArray[np.int64]) -> None:
        """Start episodes."""
        self.level_seed[rows], self.age[rows], self.done[rows] = level_seeds, 0, False
        for n in rows.tolist():
            mujoco.mj_resetData(self.model, self.data[n])
            self._qpos_of[n][:] = self._original.qpos
            mujoco.mj_forward(self.model, self.data[n])
        self._fetch()
        self.seen[rows] = self._observed()[rows, ROBOT]

    def step(self, actions: NDArray[np.floating]) -> Outcome:
        """Act [N, 9] in every environment.

        Raises:
            ValueError: Actions of another shape, or that are not finite.
            SimulationError: The simulator failed.
        """
        by = np.clip(self.checked(actions), -1, 1) * _SPEED * (SUBSTEPS * self.model.opt.timestep)
        to = np.clip(self.seen + by, self._original.low, self._original.high)
        for control, row in zip(self._control, to, strict=True):
            control[:] = row
        self._simulate(SUBSTEPS)
        self.seen = self._observed()[:, ROBOT]
        new = subtasks_done(self._qpos[:, ACTIONS:]) & ~self.done
        self.done |= new
        over = self.over()
        reward = new[:, self.order].sum(1).astype(np.float64)
        return Outcome(reward, over, ~over & (self.age >= self.max_steps), over.copy())

    def over(self) -> NDArray[np.bool_]:
        """Where all that is due was done [N]."""
        return np.asarray(self.done[:, self.order].all(1))

    def _observed(self) -> NDArray[np.float64]:
        """Positions and speeds of the robot, then of the objects [N, 59], with the noise of this step of the level."""
        robot, objects = slice(0, ACTIONS), slice(ACTIONS, None)
        parts = self._qpos[:, robot], self._qvel[:, robot], self._qpos[:, objects], self._qvel[:, objects]
        drawn = [
            np.random.default_rng([max(level, 0), age]).uniform(-1, 1, OBSERVATION_SIZE)
            for level, age in zip(self.level_seed.tolist(), self.age.tolist(), strict=True)
        ]
        return np.concatenate(parts, axis=1) + self._noise * np.array(drawn)

    def observe(self) -> NDArray[np.float32]:
        """Observations float32 [N, 59]."""
        return self._observed().astype(np.float32)

    def arrays(self) -> State:
        """What the future depends on beside MuJoCo's own numbers."""
        return {name: getattr(self, name) for name in ("level_seed", "age", "seen", "done")}

    def render(self, n: int = 0) -> NDArray[np.uint8]:
        """The kitchen as the original's camera sees it, uint8 [480, 480, 3]; `UserError` if nothing can draw."""
        if self._renderer is None:
            try:
                self._renderer = mujoco.Renderer(self.model, *_PICTURE)
            except (AttributeError, ImportError, RuntimeError, mujoco.FatalError) as error:
                raise undrawable(self.name, error) from error
        shown = mujoco.MjData(self.model)  # forward kinematics on the state itself would move its warm start
        shown.qpos[:] = self.data[n].qpos
        mujoco.mj_kinematics(self.model, shown)
        mujoco.mj_camlight(self.model, shown)
        camera = mujoco.MjvCamera()
        for name, value in DEFAULT_CAMERA_CONFIG.items():
            setattr(camera, name, value)
        self._renderer.update_scene(shown, camera)
        for costly in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):  # 4 of 5 parts of the time
            self._renderer.scene.flags[costly] = 0
        return self._renderer.render()

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer:
            self._renderer.close()
            self._renderer = None


class ShownFranka(ShownOrders, FrankaSimulator):
    """What demonstrations show. Rewards are those of the subtasks that are due.

    Args:
        num_envs: N.
        order: The task's.
        max_steps: T, after which an episode is truncated.
        orders: int64 [M, L], those of levels.
        *noise: Of robot and objects.
    """

    def __init__(self, num_envs: int, order: Order, max_steps: int, orders: NDArray[np.int64], *noise: float) -> None:
        super().__init__(num_envs, order, max_steps, *noise)
        self.show(orders)
