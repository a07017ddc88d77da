"""The robot in MuJoCo: the rules of N environments, in which an object is grasped and lifted by friction."""

from typing import Final

import gymnasium as gym
import mujoco
import numpy as np
from numpy.typing import NDArray

from preceptor.envs.mujoco.physics import PhysicsSimulator
from preceptor.envs.mujoco.rendering import undrawable
from preceptor.envs.vector import Outcome, State
from preceptor.envs.wholebody.body import (
    BASE,
    HIGH,
    LOW,
    OBSERVATION_NAMES,
    POSTURE,
    STEP,
    driven,
    observation,
    progress,
    seen_from,
)
from preceptor.envs.wholebody.model import BALL, SPREAD, make_model
from preceptor.envs.wholebody.twin import drawn

SUBSTEPS = 30  # of the model's timestep in a step
LIFTED = 0.05  # height over its place at which the object counts as lifted, metres
HELD_STEPS = 3  # steps that it has to be held up for
DROPPED = 0.15  # depth under its place at which the object is lost
_WINDUP = np.array([0.12, 0.12, 0.30])  # how far a setpoint of the base may be from where the base is
_JOINTS, _FINGERS, _OBJECT = slice(3, 7), slice(7, 9), slice(9, 12)  # of MuJoCo's positions; the base is before them
_PICTURE: Final = (360, 480)


class WholeBodySimulator(PhysicsSimulator):
    """N environments of the robot. Observations and groups of actions are the twin's (`body.py`).

    Actions move the setpoints of position-controlled joints; the fingers have one in common. An episode terminates in
    success once both fingers have held the object 5 cm over its place for three steps, after all stages, and
    without success when it has fallen.

    Attributes:
        place: float64 [N, 3], where the object lay.
        flags: bool [N, 3], what was achieved (`body.progress`).
        held: int64 [N], steps that the object has been held up for.

    Args:
        num_envs: N.
        max_steps: T, after which an episode is truncated.
    """

    name = "WholeBody"
    max_steps: int

    def __init__(self, num_envs: int, max_steps: int) -> None:
        super().__init__(make_model(), num_envs)
        self.max_steps = max_steps
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (len(OBSERVATION_NAMES),), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (len(STEP),), np.float32)
        self.place = np.zeros((num_envs, 3))
        self.flags = np.zeros((num_envs, 3), np.bool_)
        self.held = np.zeros(num_envs, np.int64)
        self._touch = [data.sensordata for data in self.data]
        self._renderer: mujoco.Renderer | None = None

    def begin(self, rows: NDArray[np.int64], level_seeds: NDArray[np.int64]) -> None:
        """Start episodes: the base at the origin, the posture and the object as the level has them."""
        self.level_seed[rows], self.age[rows], self.flags[rows], self.held[rows] = level_seeds, 0, False, 0
        self.place[rows], postures = drawn(level_seeds)
        for n, place, start in zip(rows.tolist(), self.place[rows], postures, strict=True):
            data, qpos = self.data[n], self._qpos_of[n]
            mujoco.mj_resetData(self.model, data)
            qpos[_JOINTS], qpos[_FINGERS], qpos[_OBJECT] = start[:4], SPREAD * start[4], place
            self._control[n][:] = qpos[: _FINGERS.stop]
            data.mocap_pos[0, :2], data.mocap_pos[1] = place[:2], place - (0, 0, BALL)
            self._qpos[n], self._qvel[n] = qpos, 0.0

    def step(self, actions: NDArray[np.floating]) -> Outcome:
        """Act [N, 8] in every environment.

        Raises:
            ValueError: Actions of another shape, or that are not finite.
            SimulationError: The simulator failed.
        """
        moved = np.clip(self.checked(actions), -1, 1) * STEP
        base = driven(self._qpos[:, 2], actions)
        for n, setpoint in enumerate(self._control):
            now = self._qpos[n, BASE]
            setpoint[BASE] = np.clip(setpoint[BASE] + base[n], now - _WINDUP, now + _WINDUP)
            setpoint[_JOINTS] = np.clip(setpoint[_JOINTS] + moved[n, POSTURE][:4], LOW[:4], HIGH[:4])
            setpoint[_FINGERS] = np.clip(setpoint[_FINGERS] + SPREAD * moved[n, -1], 0.0, SPREAD)
        self._simulate(SUBSTEPS)
        return self._outcome()

    def _outcome(self) -> Outcome:
        """Rewards and ends of a step that has been simulated."""
        reward = progress(self.observe(), self.flags)
        above = self._qpos[:, _OBJECT.stop - 1] - self.place[:, 2]
        up = (np.array(self._touch) > 0).all(1) & (above > LIFTED) & self.flags[:, 2]
        self.held = np.where(up, self.held + 1, 0)
        success = self.held >= HELD_STEPS
        terminated = success | (above < -DROPPED)
        return Outcome(reward + success, terminated, ~terminated & (self.age >= self.max_steps), success)

    @property
    def posture(self) -> NDArray[np.float64]:
        """Lift, pitch, shoulder, elbow and grip [N, 5]."""
        return np.column_stack([self._qpos[:, _JOINTS], self._qpos[:, _FINGERS].mean(1) / SPREAD])

    def observe(self) -> NDArray[np.float32]:
        """Observations float32 [N, 17]."""
        seen = seen_from(self._qpos[:, BASE], self._qpos[:, _OBJECT])
        return observation(seen, self.posture, self.flags, self.age / self.max_steps)

    def arrays(self) -> State:
        """What the future depends on beside MuJoCo's own numbers."""
        names = ("level_seed", "age", "place", "flags", "held")
        return {name: getattr(self, name) for name in names}

    def render(self, n: int = 0) -> NDArray[np.uint8]:
        """The robot and the object, uint8 [360, 480, 3]; `UserError` if nothing can draw."""
        if self._renderer is None:
            try:
                self._renderer = mujoco.Renderer(self.model, *_PICTURE)
            except (AttributeError, ImportError, RuntimeError, mujoco.FatalError) as error:
                raise undrawable("WholeBody", error) from error
        shown = mujoco.MjData(self.model)  # forward kinematics on the state itself would move its warm start
        shown.qpos[:], shown.mocap_pos[:] = self.data[n].qpos, self.data[n].mocap_pos
        mujoco.mj_kinematics(self.model, shown)
        mujoco.mj_camlight(self.model, shown)
        camera = mujoco.MjvCamera()  # from the side, whatever the bearing
        camera.lookat[:2] = (self._qpos[n, :2] + self.place[n, :2]) / 2
        camera.lookat[2], camera.distance, camera.elevation = 0.55, 2.9, -14
        camera.azimuth = np.degrees(np.arctan2(self.place[n, 1], self.place[n, 0])) + 65
        self._renderer.update_scene(shown, camera)
        return self._renderer.render()

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer:
            self._renderer.close()
            self._renderer = None
