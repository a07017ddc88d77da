"""Gymnasium's environments of continuous control as tasks: any id whose observations are a vector, and actions a box.

    python main.py train --method sac --task HalfCheetah-v5
    python main.py eval --method sac --task HalfCheetah-v5 --seeds 1000000:1000020

There is nothing to plan in them, so the vocabulary is one option. An episode is a function of its level seed, which
Gymnasium's own `reset(seed=...)` takes, and of its actions. So these two are the whole state of an environment whose
randomness comes from its `np_random`: an exact resume plays the running episode again from its start.
"""

import importlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeGuard

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, flatdim
from gymnasium.wrappers import RescaleAction
from numpy.typing import NDArray

from preceptor.envs.task import Option, OptionSpace, TableTask
from preceptor.envs.vector import Outcome, Simulator, State
from preceptor.ground.errors import UserError

Obs = NDArray[np.float32]
_SUCCESS = ("is_success", "success")  # what environments that know of success call it in their infos


def make_env(env_id: str, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """One environment as Gymnasium makes it. Raises `UserError` if it cannot."""
    try:
        return gym.make(env_id, render_mode=render_mode, disable_env_checker=True)
    except ImportError as error:
        raise UserError(f"{env_id} cannot be imported: {error}", "run from the folder of its module") from error
    except gym.error.Error as error:
        raise UserError(f"Gymnasium cannot make {env_id}: {error}", "python main.py tasks") from error


def is_gym_task(name: str) -> bool:
    """Whether a name is for `GymTask`: a registered id, and not of MiniGrid's. Raises `UserError` if it fails."""
    from minigrid.minigrid_env import MiniGridEnv  # takes a while

    module, _, env_id = name.rpartition(":")
    with suppress(ImportError):  # what needs the module says so
        if module:
            importlib.import_module(module)
    if env_id not in gym.registry:
        return False
    env = make_env(env_id)
    env.close()
    return not isinstance(env.unwrapped, MiniGridEnv)


class GymSimulator(Simulator):
    """N of Gymnasium's environments, stepped one after another: float32 observations, actions in [-1, 1].

    Success is what the environment calls so at the end of an episode; few know of it, and the rest is false.

    Args:
        name: What messages call the environment.
        make: Makes one.
        num_envs: N.
    """

    ragged = ("actions",)

    def __init__(self, name: str, make: Callable[[], gym.Env[Any, Any]], num_envs: int) -> None:
        self.name, self.num_envs = name, num_envs
        self.envs = [RescaleAction(make(), np.float32(-1), np.float32(1)) for _ in range(num_envs)]
        self.action_space = self.envs[0].action_space
        self.observation_space = Box(-np.inf, np.inf, self.envs[0].observation_space.shape, np.float32)
        self.fps = self.envs[0].metadata.get("render_fps", self.fps)
        self.level_seed = np.full(num_envs, -1, np.int64)
        self._obs = np.zeros((num_envs, *self.observation_space.shape), np.float32)
        self._played: list[list[NDArray[np.float32]]] = [[] for _ in self.envs]  # actions of the running episodes

    def begin(self, rows: NDArray[np.int64], level_seeds: NDArray[np.int64]) -> None:
        """Start the episodes of the level seeds."""
        for n, level_seed in zip(rows.tolist(), level_seeds.tolist(), strict=True):
            self._obs[n] = self.envs[n].reset(seed=level_seed)[0]
            self.level_seed[n], self._played[n] = level_seed, []

    def step(self, actions: NDArray[np.floating]) -> Outcome:
        """Act [N, A] in every environment. Raises `UserError` if an observation or a reward is not finite."""
        stepped = [self._step_one(n, action) for n, action in enumerate(np.array(actions, np.float32))]
        outcome = Outcome(*(np.array(column) for column in zip(*stepped, strict=True)))
        sound = np.isfinite(self._obs).all(axis=1) & np.isfinite(outcome.reward)
        if not sound.all():
            level = int(self.level_seed[~sound][0])
            raise UserError(f"{self.name} gave what is not a finite number, in the episode of level seed {level}.")
        return outcome

    def _step_one(self, n: int, action: NDArray[np.float32]) -> tuple[float, bool, bool, bool]:
        self._played[n].append(action)
        self._obs[n], reward, terminated, truncated, info = self.envs[n].step(action)
        success = (terminated or truncated) and any(info.get(name, False) for name in _SUCCESS)
        return float(reward), bool(terminated), bool(truncated), success

    def observe(self) -> Obs:
        """Observations float32 [N, O]."""
        return self._obs.copy()

    def arrays(self) -> State:
        """Level seeds, and the actions since."""
        played = np.array([action for actions in self._played for action in actions], np.float32)
        return {
            "level_seed": self.level_seed,
            "length": np.array([len(actions) for actions in self._played]),
            "actions": played.reshape(-1, flatdim(self.action_space)),
        }

    def set_state(self, state: State) -> None:
        """Play the running episodes of `get_state` again."""
        self.begin(np.arange(self.num_envs), np.asarray(state["level_seed"]))
        for n, actions in enumerate(np.split(state["actions"], np.cumsum(state["length"])[:-1])):
            for action in actions:
                self._step_one(n, action)

    def render(self) -> NDArray[np.uint8]:
        """What the first environment draws."""
        return np.asarray(self.envs[0].render(), np.uint8)

    def close(self) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()


def _is_vector(space: gym.Space[Any]) -> TypeGuard[Box]:
    return isinstance(space, Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating)


class GymTask(TableTask):
    """A Gymnasium environment as a task without anything to plan: one option, one scene, goals without dimensions.

    Args:
        env_id: Gymnasium's id; as `module:id` the module that registers it is imported first.

    Raises:
        UserError: There is no such environment, or observations or actions are no vectors.
    """

    goal, rules = "Collect as much reward as you can.", "Nothing here is in words."
    options = OptionSpace([Option("act", "act", timeout=1)])
    continuous = True
    legal_of = np.ones((1, 1), np.bool_)
    expert_of = np.zeros(1, np.int64)

    def __init__(self, env_id: str) -> None:
        env = make_env(env_id)
        seen, done = env.observation_space, env.action_space
        env.close()
        if not (_is_vector(seen) and _is_vector(done) and done.is_bounded()):
            raise UserError(
                f"{env_id} is not a MiniGrid environment, nor are its observations one vector and its actions one "
                f"within bounds: they are {seen} and {done}.",
                "--task HalfCheetah-v5",
            )
        self._env_id = env_id
        self.name = env_id.rpartition(":")[2].replace("/", "-")
        self.observation_shape, self.num_actions = seen.shape, done.shape[0]

    def simulator(self, num_envs: int, render_mode: str | None = None) -> GymSimulator:
        """The rules of N environments."""
        return GymSimulator(self._env_id, partial(make_env, self._env_id, render_mode), num_envs)

    def fact_codes(self, obs: Obs) -> NDArray[np.int64]:
        """Zeros [N]."""
        return np.zeros(len(obs), np.int64)

    def option_done(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """The one option is over at every step, [N]."""
        return np.ones(len(obs), np.bool_)

    def words(self, code: int) -> tuple[tuple[str, ...], str]:
        """The one scene."""
        return (), "Act."
