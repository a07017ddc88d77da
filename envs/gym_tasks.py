"""Gymnasium's environments as tasks: any id whose observations are a vector, and whose actions are a box or named.

    python main.py train --method sac --task HalfCheetah-v5
    python main.py train --method ppo --task CartPole-v1
    python main.py eval --method sac --task HalfCheetah-v5 --seeds 1000000:1000020

There is nothing to plan in them, so the vocabulary is one option. An episode is a function of its level seed, which
Gymnasium's own `reset(seed=...)` takes, and of its actions. So these two are the whole state of an environment whose
randomness comes from its `np_random`: an exact resume plays the running episode again from its start.
"""

import importlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import RescaleAction, TransformAction
from numpy.typing import NDArray

from preceptor.envs.task import Option, OptionSpace, TableTask
from preceptor.envs.users_code import fault
from preceptor.envs.vector import Outcome, Simulator, State
from preceptor.ground.errors import UserError
from preceptor.ground.level_seeds import next_level, split_range

Obs = NDArray[Any]
WORKS = "python main.py train --method ppo --task CartPole-v1"
_RETURNED = {"reset": ("obs", "info"), "step": ("observation", "reward", "terminated", "truncated", "info")}
# Limbs of Gymnasium's MuJoCo robots, by the motors of their models in any version.
_LIMBS: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "Ant": {"leg_1": (2, 3), "leg_2": (4, 5), "leg_3": (6, 7), "leg_4": (0, 1)},
    "HalfCheetah": {"back": (0, 1, 2), "front": (3, 4, 5)},
    "Walker2d": {"right": (0, 1, 2), "left": (3, 4, 5)},
}
_SUCCESS = ("is_success", "success")  # what environments that know of success call it in their infos


def gymnasium_env(env_id: str, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """One environment as Gymnasium makes it. Raises `UserError` if it cannot."""
    drawn: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}  # which not all of them know
    try:
        return gym.make(env_id, disable_env_checker=True, **drawn)
    except ImportError as error:
        where = "It must be installed, or in the folder that you are in."
        raise UserError(f"{env_id} cannot be imported: {error}. {where}", "python main.py tasks") from error
    except gym.error.Error as error:
        raise UserError(f"Gymnasium cannot make {env_id}: {error}", "python main.py tasks") from error
    except Exception as error:
        raise fault(f"Gymnasium cannot make {env_id}, which", error) from error


def family_of(name: str) -> str:
    """The family of an id that is not in the catalogue: `gymnasium`, `minigrid` or `babyai`. Raises `UserError`."""
    from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
    from minigrid.minigrid_env import MiniGridEnv  # takes a while

    module, _, env_id = name.rpartition(":")
    with suppress(ImportError):  # what needs the module says so
        if module:
            importlib.import_module(module)
    if env_id not in gym.registry:
        return "minigrid"
    env = gymnasium_env(env_id)
    env.close()
    if isinstance(env.unwrapped, RoomGridLevel):
        return "babyai"
    return "minigrid" if isinstance(env.unwrapped, MiniGridEnv) else "gymnasium"


def plain_actions(env: gym.Env[Any, Any]) -> TransformAction[Any, Any, Any]:
    """An environment whose actions are as tasks have them: 0 to A - 1 where they are named, or vectors in [-1, 1]."""
    space = env.action_space
    if not isinstance(space, Discrete):
        return RescaleAction(env, np.float32(-1), np.float32(1))
    return TransformAction(env, lambda action: action + space.start, Discrete(int(space.n)))


def success_of(over: bool, info: Mapping[str, Any]) -> bool:
    """Whether a step ended an episode in what the environment itself calls success; few know of it."""
    return over and any(bool(info.get(name, False)) for name in _SUCCESS)


class LevelSeeds(gym.Wrapper[Any, Any, Any, Any]):
    """Gymnasium's own environment on the levels of a split: what `reset` plays is drawn, or `options["level_seed"]`.

    Infos hold `level_seed` and `success`, false in those of `reset`.

    Args:
        env: One whose episodes are functions of the seeds that its `reset` is given.
        split: `train` or `eval`.
    """

    def __init__(self, env: gym.Env[Any, Any], split: str) -> None:
        super().__init__(env)
        split_range(split)  # an unknown split is an error at once
        self.split, self.level_seed, self._rng = split, -1, np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; `seed` restarts what draws levels. Raises `UserError` for a level of another split."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.level_seed = next_level(self._rng, options, self.split)
        obs, info = self.env.reset(seed=self.level_seed)
        return obs, info | {"level_seed": self.level_seed, "success": False}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """The environment's own step."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        told = {"level_seed": self.level_seed, "success": success_of(terminated or truncated, info)}
        return obs, float(reward), terminated, truncated, info | told


class GymSimulator(Simulator):
    """N of Gymnasium's environments, stepped one after another; actions are those of `plain_actions`.

    Observations are vectors, float32, or maps as they are.

    Success is what the environment calls so at the end of an episode; few know of it, and the rest is false.

    Args:
        name: What messages call the environment.
        make: Makes one.
        num_envs: N.
    """

    ragged = ("actions",)

    def __init__(self, name: str, make: Callable[[], gym.Env[Any, Any]], num_envs: int) -> None:
        self.name, self.num_envs = name, num_envs
        self.envs = [plain_actions(make()) for _ in range(num_envs)]
        self.action_space, seen = self.envs[0].action_space, self.envs[0].observation_space
        self.observation_space = seen if len(seen.shape or ()) == 3 else Box(-np.inf, np.inf, seen.shape, np.float32)
        self.fps = self.envs[0].metadata.get("render_fps", self.fps)
        self.max_steps = getattr(self.envs[0].spec, "max_episode_steps", None)
        self.level_seed = np.full(num_envs, -1, np.int64)
        self._obs = np.stack([np.zeros(self.observation_space.shape or (), self.observation_space.dtype)] * num_envs)
        self._played: list[list[Any]] = [[] for _ in self.envs]  # actions of the running episodes

    def begin(self, rows: NDArray[np.int64], level_seeds: NDArray[np.int64]) -> None:
        """Start the episodes of the level seeds."""
        for n, level_seed in zip(rows.tolist(), level_seeds.tolist(), strict=True):
            self.level_seed[n], self._played[n] = level_seed, []
            self._told(n, "reset", seed=level_seed)

    def step(self, actions: NDArray[Any]) -> Outcome:
        """Act [N, ...] in every environment. Raises `UserError` if an observation or a reward is not finite."""
        stepped = [self._step_one(n, action) for n, action in enumerate(np.array(actions, self.action_space.dtype))]
        outcome = Outcome(*(np.array(column) for column in zip(*stepped, strict=True)))
        sound = np.isfinite(self._obs.reshape(self.num_envs, -1)).all(axis=1) & np.isfinite(outcome.reward)
        if not sound.all():
            level = int(self.level_seed[~sound][0])
            raise UserError(f"{self.name} gave what is not a finite number, in the episode of level seed {level}.")
        return outcome

    def _step_one(self, n: int, action: Any) -> tuple[float, bool, bool, bool]:
        self._played[n].append(action)
        _, reward, terminated, truncated, info = self._told(n, "step", action)
        return reward, terminated, truncated, success_of(terminated or truncated, info)

    def _told(self, n: int, method: str, *given: Any, **named: Any) -> tuple[Any, ...]:
        """What a method of environment `n` returns; its observation is kept. Raises `UserError`, which names both."""
        env, wanted, shape = self.envs[n], _RETURNED[method], self._obs.shape[1:]
        try:
            told = getattr(env, method)(*given, **named)
            if not isinstance(told, tuple) or len(told) != len(wanted) or not isinstance(told[-1], Mapping):
                wrong, mend = f"{type(told).__name__}, not ({', '.join(wanted)})", f"mend {method}()"
            elif np.shape(told[0]) != shape:
                wrong = f"an observation of shape {np.shape(told[0])}, and its space has {shape}"
                mend = f"mend {method}(), or observation_space"
            else:
                self._obs[n] = told[0]
                return told if method == "reset" else (told[0], float(told[1]), bool(told[2]), bool(told[3]), told[4])
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # not by `excused`, which costs a fifth of a step of CartPole
            raise fault(self._where(n, method), error) from error
        raise UserError(f"{self._where(n, method)} returned {wrong}.", mend)

    def _where(self, n: int, method: str) -> str:
        kind = type(self.envs[n].unwrapped).__name__
        return f"{kind}.{method}() in the episode of level seed {self.level_seed[n]}"

    def observe(self) -> Obs:
        """Observations [N, ...]."""
        return self._obs.copy()

    def arrays(self) -> State:
        """Level seeds, and the actions since."""
        played = np.array([action for actions in self._played for action in actions], self.action_space.dtype)
        return {
            "level_seed": self.level_seed,
            "length": np.array([len(actions) for actions in self._played]),
            "actions": played.reshape(-1, *(self.action_space.shape or ())),
        }

    def set_state(self, state: State) -> None:
        """Play the running episodes of `get_state` again."""
        self.begin(np.arange(self.num_envs), np.asarray(state["level_seed"]))
        for n, actions in enumerate(np.split(state["actions"], np.cumsum(state["length"])[:-1])):
            for action in actions:
                self._step_one(n, action)

    def render(self, n: int = 0) -> NDArray[np.uint8]:
        """What environment `n` draws."""
        return np.asarray(self.envs[n].render(), np.uint8)

    def close(self) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()


class GymTask(TableTask):
    """A Gymnasium environment as a task without anything to plan: one option, one scene, goals without dimensions.

    Args:
        env_id: Gymnasium's id; as `module:id` the module that registers it is imported first.

    Raises:
        UserError: There is no such environment, or its observations or actions are of another kind.
    """

    goal, rules = "Collect as much reward as you can.", "Nothing here is in words."
    options = OptionSpace([Option("act", "act", timeout=1)])
    legal_of = np.ones((1, 1), np.bool_)
    expert_of = np.zeros(1, np.int64)

    def __init__(self, env_id: str) -> None:
        self._env_id = env_id
        self.name = env_id.rpartition(":")[2].replace("/", "-")
        env = self.made()
        seen, done = env.observation_space, env.action_space
        self.continuous = isinstance(done, Box)
        acts = isinstance(done, Discrete) or (isinstance(done, Box) and _is_vector(done) and done.is_bounded())
        if not (self._fits(seen) and acts):
            env.close()
            raise UserError(
                f"{env_id} is of a kind that nothing here can play: observations must be a vector of numbers, and "
                f"actions a vector within bounds or Discrete. They are {seen} and {done}.",
                WORKS,
            )
        self.observation_shape = tuple(seen.shape or ())
        self.num_actions = int(done.n) if isinstance(done, Discrete) else int(np.prod(done.shape or ()))
        limbs = _LIMBS.get(self.name.rpartition("-v")[0], {})
        self.action_groups = limbs if sum(map(len, limbs.values())) == self.num_actions else {}
        self._to_its_own = plain_actions(env).func
        env.close()

    def _fits(self, seen: gym.Space[Any]) -> bool:
        return _is_vector(seen)

    def made(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """One of Gymnasium's environments, whose observations are the task's. Raises `UserError` if it cannot be."""
        return gymnasium_env(self._env_id, render_mode)

    def simulator(self, num_envs: int, render_mode: str | None = None) -> GymSimulator:
        """The rules of N environments."""
        return GymSimulator(self._env_id, lambda: self.made(render_mode), num_envs)

    def make_env(self, split: str = "eval", render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Gymnasium's own environment, on the levels of a split."""
        return LevelSeeds(gymnasium_env(self._env_id, render_mode), split)

    def to_gymnasium(self, actions: NDArray[Any]) -> Any:
        """Actions [...] or [N, ...] in the environment's own numbers."""
        return self._to_its_own(actions)

    def fact_codes(self, obs: Obs) -> NDArray[np.int64]:
        """Zeros [N]."""
        return np.zeros(len(obs), np.int64)

    def option_done(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """The one option is over at every step, [N]."""
        return np.ones(len(obs), np.bool_)

    def words(self, code: int) -> tuple[tuple[str, ...], str]:
        """The one scene."""
        return (), "Act."


def _is_vector(space: gym.Space[Any]) -> bool:
    return isinstance(space, Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating)
