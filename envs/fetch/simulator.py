"""FetchPickAndPlace-v4 of Gymnasium-Robotics with one vector for its observation, and pictures of it."""

import io
from contextlib import redirect_stderr
from copy import copy
from dataclasses import replace
from functools import cache
from typing import Any, Final

import gymnasium as gym
import mujoco
import numpy as np
from numpy.typing import NDArray

with redirect_stderr(io.StringIO()):  # the import prints a notice about other environments, each time
    import gymnasium_robotics
from gymnasium_robotics.envs.fetch.pick_and_place import MujocoFetchPickAndPlaceEnv

ENV_ID: Final = "FetchPickAndPlace-v4"


def _along(*things: str) -> tuple[str, ...]:
    return tuple(f"{thing} {axis}" for thing in things for axis in "xyz")


# As Gymnasium-Robotics has them, and the goal behind. Metres and radians; velocities are per step of 0.04 s.
OBSERVATION_NAMES: Final = (
    *_along("gripper", "block", "block from gripper"),
    *("right finger", "left finger"),
    *_along("block turned about", "block velocity from gripper", "block spin", "gripper velocity"),
    *("right finger velocity", "left finger velocity"),
    *_along("goal"),
)
GRIPPER, BLOCK, OFFSET, FINGERS, GOAL = slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 11), slice(25, 28)


class _Fetch(MujocoFetchPickAndPlaceEnv):
    """The original, but all environments share one compiled model: for each it is 9 MB and some 60 ms otherwise."""

    def _initialize_simulation(self) -> None:
        self.model = _compiled(self.fullpath)
        self.data = mujoco.MjData(self.model)
        self._model_names = self._utils.MujocoModelNames(self.model)
        self._env_setup(initial_qpos=self.initial_qpos)  # type: ignore[has-type]  # the base is untyped
        self.initial_time = self.data.time
        self.initial_qpos = self.data.qpos.copy()
        self.initial_qvel = self.data.qvel.copy()


@cache
def _compiled(path: str) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(path)


class FlatFetch(gym.ObservationWrapper[NDArray[np.float64], NDArray[np.float32], dict[str, NDArray[np.float64]]]):
    """The environment with `observation` and `desired_goal` as one vector (`OBSERVATION_NAMES`).

    Nothing else of it is changed: its reward is -1 while the block is further than 5 cm from its goal, and 0 else; an
    episode is truncated after 50 steps and never terminates, since the block has to *stay* there. So success is that of
    the last step, as in the literature on this environment.
    """

    def __init__(self, env: gym.Env[dict[str, NDArray[np.float64]], NDArray[np.float32]]) -> None:
        super().__init__(env)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (len(OBSERVATION_NAMES),), np.float64)

    def observation(self, observation: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """The vector [28]; the third part, `achieved_goal`, is in it already: the block's position."""
        return np.concatenate([observation["observation"], observation["desired_goal"]])

    def render(self) -> Any:
        """A picture; the numbers of state and model stay what they are, which the original's `render` moves."""
        inner: Any = self.unwrapped
        data, sites = copy(inner.data), inner.model.site_pos.copy()
        picture = self.env.render()
        mujoco.mj_copyData(inner.data, inner.model, data)
        inner.model.site_pos[:] = sites
        return picture


def make_fetch(render_mode: str | None = None) -> FlatFetch:
    """The environment as Gymnasium makes it, within its limit of 50 steps."""
    gym.register_envs(gymnasium_robotics)
    spec = replace(gym.spec(ENV_ID), entry_point=_Fetch)
    return FlatFetch(gym.make(spec, render_mode=render_mode, disable_env_checker=True))
