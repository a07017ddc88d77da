"""A ready batched environment from functions over arrays: N environments are steps of NumPy, not N objects."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from numba import njit
from numpy.typing import NDArray

from preceptor.envs.users_code import excused
from preceptor.envs.vector import Outcome, Simulator, State
from preceptor.ground.errors import UserError
from preceptor.ground.level_seeds import combine, mix


def uniform(level_seeds: NDArray[np.int64], count: int, step: int | NDArray[np.int64] = -1) -> NDArray[np.float64]:
    """Random numbers in [0, 1), [M, count], that depend on the level seeds [M] and the step alone.

    The step is one or [M], such as the age of episodes; if not given it is the one before the first.
    """
    seeds = np.ascontiguousarray(level_seeds, np.int64)
    steps = np.ascontiguousarray(np.broadcast_to(np.asarray(step, np.int64), seeds.shape))
    return _uniform(seeds, steps, count)


@njit(cache=True)
def _uniform(seeds: NDArray[np.int64], steps: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    out = np.empty((len(seeds), count))
    for i in range(len(seeds)):
        key = combine(seeds[i], steps[i])
        for j in range(count):
            out[i, j] = float(mix(combine(key, j)) >> np.uint64(11)) / 2.0**53
    return out


class ArraySimulator(Simulator):
    """N environments whose state is a dictionary of arrays with N rows, which functions of the user's begin and change.

    All that is random must come from `uniform`: then an episode is a function of its level seed and its actions, and
    seeds, automatic resets, held-out levels and exact resumption need nothing more.

    Args:
        name: Of the task.
        num_envs: N.
        begin: Level seeds int64 [M] -> the state at the start of their episodes, arrays [M, ...] by name.
        step: (state, actions [N]) -> reward, terminated and success, each [N] or one for all. It changes the state, in
            which there are also `level_seed` and `age`, the steps since each episode began, which it leaves alone.
        observe: State -> observations [N, ...], uint8 or to be float32.
        actions: Number of named actions, or the space of vectors.
        max_steps: Steps after which an episode is truncated.
        render: State -> a picture uint8 [H, W, 3] of the first environment; None if there is none.
    """

    max_steps: int

    def __init__(
        self,
        name: str,
        num_envs: int,
        begin: Callable[[NDArray[np.int64]], State],
        step: Callable[[State, NDArray[Any]], tuple[Any, Any, Any]],
        observe: Callable[[State], NDArray[Any]],
        *,
        actions: int | gym.spaces.Box,
        max_steps: int,
        render: Callable[[State], NDArray[np.uint8]] | None = None,
    ) -> None:
        self.name, self.num_envs, self.max_steps = name, num_envs, max_steps
        self._begin, self._step, self._observe, self._render = begin, step, observe, render
        self.level_seed, self._age = np.full(num_envs, -1, np.int64), np.zeros(num_envs, np.int64)
        with excused(f"begin() of {name}"):
            begun = {key: np.array(array) for key, array in begin(np.zeros(num_envs, np.int64)).items()}
        for key, array in begun.items():
            if array.shape[:1] != (num_envs,) or key in ("level_seed", "age"):
                what = f"begin() of {name} gave {key!r} of shape {array.shape} for {num_envs} level seeds."
                raise UserError(what, f"arrays whose first dimension is {num_envs}, and not called level_seed or age")
        self._state = {"level_seed": self.level_seed, "age": self._age, **begun}
        seen = self.observe()
        low, high = (0, 255) if seen.dtype == np.uint8 else (-np.inf, np.inf)
        self.observation_space = gym.spaces.Box(low, high, seen.shape[1:], seen.dtype.type)
        self.action_space = gym.spaces.Discrete(actions) if isinstance(actions, int) else actions

    def begin(self, rows: NDArray[np.int64], level_seeds: NDArray[np.int64]) -> None:
        """Start episodes: `begin` of their level seeds."""
        with excused(f"begin() of {self.name}"):
            for key, array in self._begin(level_seeds).items():
                self._state[key][rows] = array
        self.level_seed[rows], self._age[rows] = level_seeds, 0

    def step(self, actions: NDArray[Any]) -> Outcome:
        """Act [N]. Raises `ValueError` for actions that do not exist, `UserError` for what the function may not do."""
        actions = np.asarray(actions)
        fits = actions.shape == (self.num_envs, *(self.action_space.shape or ()))
        if isinstance(self.action_space, gym.spaces.Discrete):
            fits &= np.issubdtype(actions.dtype, np.integer) and bool(
                ((actions >= 0) & (actions < self.action_space.n)).all()
            )
        if not fits:
            raise ValueError(f"actions must be {self.num_envs} of {self.action_space}, not {actions}")
        state = dict(self._state)
        with excused(f"step() of {self.name}"):
            reward, terminated, success = self._step(state, actions)
        changed = {key: np.array(state.get(key)) for key, array in self._state.items() if state.get(key) is not array}
        for key, new in changed.items():
            old = self._state[key]
            if new.shape != old.shape or new.dtype != old.dtype:
                what = f"step() of {self.name} made {key!r}, {old.dtype} {old.shape}, into {new.dtype} {new.shape}."
                raise UserError(what, f"state[{key!r}][...] = ...  # keeps dtype and shape")
            old[...] = new
        self._age += 1
        try:
            reward, terminated, success = (np.broadcast_to(x, self.num_envs) for x in (reward, terminated, success))
        except ValueError as error:
            what = f"step() of {self.name} returned what is not one number for each environment: {error}."
            raise UserError(what, f"return reward, terminated, success  # each of shape ({self.num_envs},)") from error
        over = np.array(terminated, np.bool_)
        truncated = ~over & (self._age >= self.max_steps)
        return Outcome(np.array(reward, np.float64), over, truncated, (over | truncated) & success.astype(np.bool_))

    def observe(self) -> NDArray[Any]:
        """Observations [N, ...]. Raises `UserError` if one is not finite, or there are not N."""
        with excused(f"observe() of {self.name}"):
            seen = np.array(self._observe(self._state))
        seen = seen if seen.dtype == np.uint8 else seen.astype(np.float32)
        if seen.shape[:1] != (self.num_envs,) or not np.isfinite(seen).all():
            what = (
                f"observe() of {self.name} gave shape {seen.shape}, or what is not finite, for {self.num_envs} states."
            )
            raise UserError(what, f"finite numbers of shape ({self.num_envs}, ...)")
        return seen

    def arrays(self) -> State:
        """The state."""
        return self._state

    def render(self, n: int = 0) -> NDArray[np.uint8]:
        """The picture of environment `n`. Raises `UserError` if there is none."""
        if self._render is None:
            return super().render()
        with excused(f"render() of {self.name}"):
            return self._render({key: array[n : n + 1] for key, array in self._state.items()})
