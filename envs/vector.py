"""One batched and one single environment for all families, over a simulator that each family brings."""

from abc import ABC, abstractmethod
from copy import deepcopy
from typing import Any, Final, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from preceptor.ground.errors import UserError
from preceptor.ground.level_seeds import check_level_seeds, drawn_seeds, next_level, split_range

State = dict[str, NDArray[Any]]

# Steps after which an evaluation cuts an episode, where environments have no limit of their own.
LONGEST: Final = 10_000


class Outcome(NamedTuple):
    """What a step of N environments led to, each [N].

    Attributes:
        reward: float64.
        terminated, truncated: bool.
        success: bool, whether the step ended an episode in success.
    """

    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    success: NDArray[np.bool_]


class Simulator(ABC):
    """The rules of a family: N environments of one task, in which the caller begins episodes.

    Attributes:
        name: Of the task.
        num_envs: N.
        observation_space, action_space: Of one environment.
        level_seed: int64 [N], the level that each environment plays. With the actions it determines the episode.
        max_steps: Steps after which an episode is truncated, or None if there is no such limit.
        fps: Pictures per second of a video.
        ragged: Names in `get_state` of arrays whose first dimension differs from state to state.
        forgiving: Whether any action can be played in any state, so that zeros can where nobody looks.
    """

    name: str
    num_envs: int
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    level_seed: NDArray[np.int64]
    max_steps: int | None = None
    fps: int = 10
    ragged: tuple[str, ...] = ()
    forgiving: bool = False

    @abstractmethod
    def begin(self, rows: NDArray[np.int64], level_seeds: NDArray[np.int64]) -> None:
        """Start an episode in the environments `rows` [M], of the level seeds [M]."""

    @abstractmethod
    def step(self, actions: NDArray[Any]) -> Outcome:
        """Act [N] in every environment. Raises `ValueError` for actions that do not exist."""

    @abstractmethod
    def observe(self) -> Any:
        """Observations [N, ...], a new array."""

    @abstractmethod
    def arrays(self) -> State:
        """The simulator's own arrays, by name: everything that the future depends on."""

    def info(self) -> dict[str, NDArray[Any]]:
        """What infos hold beside level seed and success, each [N, ...]."""
        return {}

    def bounds(self, split: str) -> tuple[int, int]:
        """First level seed of a split, and the one after the last. Raises `UserError` for an unknown split."""
        return split_range(split)

    def checked(self, actions: NDArray[np.floating]) -> NDArray[np.float64]:
        """Actions [N, A]. Raises `ValueError` if they have another shape, or are not finite."""
        control = np.asarray(actions, dtype=np.float64)
        wanted = (self.num_envs, *(self.action_space.shape or ()))
        if control.shape != wanted or not np.isfinite(control).all():
            raise ValueError(f"actions must be {wanted[0]} x {wanted[1]} finite numbers")
        return control

    def get_state(self) -> State:
        """Copies of `arrays`."""
        return {name: array.copy() for name, array in self.arrays().items()}

    def set_state(self, state: State) -> None:
        """Restore what `get_state` returned, of a simulator of the same shape."""
        for name, array in self.arrays().items():
            array[...] = state[name]

    def render(self, n: int = 0) -> NDArray[np.uint8]:
        """A picture [H, W, 3] of environment `n`. Raises `UserError` where nothing can draw."""
        raise UserError(f"{self.name} has no picture.")

    def close(self) -> None:  # noqa: B027  # most hold nothing
        """Free what the simulator holds."""


class BatchedEnv(gym.vector.VectorEnv[Any, NDArray[Any], NDArray[Any]]):
    """N environments of one task, stepped together.

    Infos of `reset` and `step`, beside those of the family (`Simulator.info`):
        level_seed: int64 [N], of the episode that is now running.
        success: bool [N], whether this step ended an episode in success (`step` only).
        final_obs, _final_obs: when some episode ended, the last observations, same shape as observations, and bool [N],
            the rows that are valid.
        final_info, _final_info: likewise `{"level_seed": int64 [N]}` of the episodes that ended.
    The last four are there in the mode SAME_STEP alone: in the others observations are the last ones themselves.

    Args:
        simulator: The rules.
        split: `train` (level seeds below 1,000,000) or `eval` (the million from there on).
        seed: Key of the stream that draws level seeds; episode e of environment n depends on (seed, n, e) alone.
        autoreset_mode: Gymnasium's, by itself or as its value: whether an episode that ended is followed by the next
            one in the same step (as everything here plays), in the next step (as Gymnasium's `make_vec` does), or once
            `reset` is told so (as TorchRL does).
        render_mode: None or `rgb_array`; then `render` gives N pictures.
    """

    def __init__(
        self,
        simulator: Simulator,
        split: str = "train",
        seed: int = 0,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
    ) -> None:
        self.autoreset_mode, self.render_mode = AutoresetMode(autoreset_mode), render_mode
        pictures = {"render_modes": ["rgb_array"], "render_fps": simulator.fps}
        self.metadata = {"autoreset_mode": self.autoreset_mode, **pictures}
        self.simulator, self.num_envs, self.split = simulator, simulator.num_envs, split
        self._bounds, self._seed = simulator.bounds(split), seed
        self._episode = np.zeros(self.num_envs, np.int64)  # begun so far, of those whose level was drawn
        self._ended = np.zeros(self.num_envs, np.bool_)  # those that wait for their next episode
        self.single_observation_space, self.single_action_space = simulator.observation_space, simulator.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every environment.

        Args:
            seed: Restarts the stream of level seeds under this key; None continues it.
            options: `{"level_seeds": int64 [N]}` plays those levels first; what follows them is drawn. With
                `{"reset_mask": bool [N]}` only those environments begin anew.

        Raises:
            UserError: The wanted seeds or the mask are not one per environment, or a seed is not of the split.
        """
        told = {name: np.asarray(value) for name, value in (options or {}).items() if value is not None}
        for name in ("level_seeds", "reset_mask"):
            if name in told and told[name].shape != (self.num_envs,):
                what = f"{name} must have shape {(self.num_envs,)}, one per environment, not {told[name].shape}."
                raise UserError(what)
        rows = np.flatnonzero(told["reset_mask"]) if "reset_mask" in told else np.arange(self.num_envs)
        if seed is not None:
            self._seed, self._episode[rows] = int(seed), 0
        wanted = told.get("level_seeds")
        seeds = self._draw(rows) if wanted is None else np.ascontiguousarray(wanted[rows], dtype=np.int64)
        check_level_seeds(seeds, self.split, self._bounds)
        self.simulator.begin(rows, seeds)
        self._ended[rows] = False
        return self.simulator.observe(), self._info()

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Step every environment; see the class for the infos, and `Simulator.step` for errors.

        Raises:
            UserError: An episode has ended that `reset` should have followed.
        """
        outcome = self._begin_and_step(actions) if np.count_nonzero(self._ended) else self.simulator.step(actions)
        reward, terminated, truncated, success = outcome
        obs, over, final = self.simulator.observe(), terminated | truncated, {}
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            self._ended = over
        elif np.count_nonzero(over):  # any() takes four times as long
            final = {"final_obs": deepcopy(obs), "_final_obs": over, "_final_info": over.copy()}
            final["final_info"] = {"level_seed": self.simulator.level_seed.copy()}
            rows = np.flatnonzero(over)
            self.simulator.begin(rows, self._draw(rows))
            obs = self.simulator.observe()
        return obs, reward, terminated, truncated, self._info() | {"success": success} | final

    def _begin_and_step(self, actions: NDArray[Any]) -> Outcome:
        """Begin the next episodes of those that ended, and step the others."""
        rows = np.flatnonzero(self._ended)
        if self.autoreset_mode is AutoresetMode.DISABLED:
            again = "env.reset(options={'reset_mask': terminated | truncated})"
            raise UserError(f"The episode of environment {rows[0]} of {self.simulator.name} has ended.", again)
        seeds = self._draw(rows)
        self.simulator.begin(rows, seeds)
        outcome = self.simulator.step(actions)
        self.simulator.begin(rows, seeds)  # all are stepped, and here that is undone
        for array in outcome:
            array[rows] = 0
        return outcome

    def get_state(self) -> State:
        """Everything that the future depends on, as plain arrays; `set_state` continues to the bit."""
        waiting = {} if self.autoreset_mode is AutoresetMode.SAME_STEP else {"ended": self._ended.copy()}
        return self.simulator.get_state() | {"episode": self._episode.copy(), "seed": np.array(self._seed)} | waiting

    def set_state(self, state: State) -> None:
        """Restore what `get_state` returned. Raises `UserError` if it is of other environments."""
        for name, array in self.get_state().items():
            skip = int(name in self.simulator.ragged)
            if name not in state or np.shape(state[name])[skip:] != array.shape[skip:]:
                ours = f"{self.num_envs} environments of {self.simulator.name}"
                raise UserError(f"The saved state does not fit {ours}: {name} differs.")
        self.simulator.set_state(state)
        self._episode[...], self._seed = state["episode"], int(state["seed"])
        self._ended[...] = state.get("ended", False)

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Pictures [H, W, 3] of all N, or None without a render mode. Raises `UserError` if nothing can draw."""
        return None if self.render_mode is None else tuple(map(self.simulator.render, range(self.num_envs)))

    def close_extras(self, **kwargs: Any) -> None:
        """Free what the simulator holds."""
        self.simulator.close()

    def _draw(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Level seeds [M] of the next episodes of some environments [M]."""
        drawn = drawn_seeds(self._seed, rows, self._episode[rows], *self._bounds)
        self._episode[rows] += 1
        return drawn

    def _info(self) -> dict[str, Any]:
        return {"level_seed": self.simulator.level_seed.copy(), **self.simulator.info()}


def can_rest(env: gym.vector.VectorEnv) -> bool:
    """Whether some environments can step along with actions of zero."""
    return getattr(getattr(env, "simulator", None), "forgiving", False)


class SomeOf(gym.vector.VectorEnv):
    """The steps of some of batched environments that `can_rest`: the others step along with actions of zero.

    Args:
        env: All N environments.
        rows: int64 [M], those that are left; as many actions are taken, and as many rows returned.
    """

    def __init__(self, env: gym.vector.VectorEnv, rows: NDArray[np.int64]) -> None:
        self._env, self._rows, self.num_envs = env, rows, len(rows)

    def step(self, actions: NDArray[Any]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all; observations and what else is told of the M."""
        everywhere = np.zeros((self._env.num_envs, *actions.shape[1:]), actions.dtype)
        everywhere[self._rows] = actions
        *told, info = self._env.step(everywhere)
        obs, reward, terminated, truncated = (part[self._rows] for part in told)
        arrays = {name: part[self._rows] for name, part in info.items() if isinstance(part, np.ndarray)}
        return obs, reward, terminated, truncated, arrays


def limit_of(env: gym.vector.VectorEnv) -> int | None:
    """Steps after which environments truncate their episodes, where they say so."""
    return getattr(getattr(env, "simulator", None), "max_steps", None)


def endless(env: gym.vector.VectorEnv, name: str) -> str:
    """What a person should know before training in environments whose episodes may not end; empty where one ends."""
    if limit_of(env) is not None:
        return ""
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(LONGEST):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if (terminated | truncated).any():
            return ""
    return (
        f"{name} has no limit of steps, and an episode of random play did not end in {LONGEST:,}. Training goes on "
        f"without ends, and evaluation cuts an episode after {LONGEST:,} steps and counts it as a failure. A limit: "
        "gymnasium.register(..., max_episode_steps=1000), or `max_steps` of the simulator."
    )


class SingleEnv(gym.Env[Any, Any]):
    """One environment, in lock step with a row of `BatchedEnv`: for users of Gymnasium, and to draw pictures.

    Infos hold `level_seed`, `success`, false in those of `reset`, and what the family adds.

    Args:
        simulator: The rules, of one environment.
        split: `train` or `eval`, the range of the level seeds that `reset` draws.
        render_mode: None or `rgb_array`.
    """

    def __init__(self, simulator: Simulator, split: str = "train", render_mode: str | None = None) -> None:
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": simulator.fps}
        self.simulator, self.split, self.render_mode = simulator, split, render_mode
        self._bounds = simulator.bounds(split)
        self.observation_space, self.action_space = simulator.observation_space, simulator.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, of level `options["level_seed"]` or one that `np_random` draws in the split.

        Raises:
            UserError: The level seed is not of this environment's split.
        """
        super().reset(seed=seed)
        level_seed = next_level(self.np_random, options, self.split, self._bounds)
        self.simulator.begin(np.zeros(1, np.int64), np.array([level_seed]))
        return self.simulator.observe()[0], self._info(False)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act; see `Simulator.step` for errors."""
        reward, terminated, truncated, success = (part[0] for part in self.simulator.step(np.asarray(action)[None]))
        return self.simulator.observe()[0], float(reward), bool(terminated), bool(truncated), self._info(bool(success))

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]  # Gymnasium allows more kinds of pictures
        """The environment, uint8 [H, W, 3], or None without a render mode; `UserError` if nothing can draw."""
        return None if self.render_mode is None else self.simulator.render()

    def close(self) -> None:
        """Free what the simulator holds."""
        self.simulator.close()

    def _info(self, success: bool) -> dict[str, Any]:
        told = {name: column[0] for name, column in self.simulator.info().items()}
        return {"level_seed": int(self.simulator.level_seed[0])} | told | {"success": success}
