"""The batched engine behind `BatchedEnv`: its kernels begin the next episodes themselves, within the step."""

from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.gridworld.canvas import MAX_SIDE, MAX_VIEW, make_canvas, make_screen
from envs.gridworld.engine import (
    NO_POOL,
    NUM_ACTIONS,
    OUTCOME,
    Pool,
    Rules,
    Stream,
    actions_exist,
    begin_grids,
    step_maps,
    step_partials,
    view_partials,
)
from envs.gridworld.levels import GRID, POOL, LevelSpec
from envs.vector import Final, LevelStream, Outcome, Simulator, State
from ground.errors import UserError
from ground.level_seeds import split_range

View = Literal["map", "partial"]
Observation = NDArray[np.uint8] | dict[str, NDArray[Any]]


class GridSimulator(Simulator):
    """N grids of one task, stepped by compiled kernels.

    Args:
        spec: The task's rules, from `levels.SPECS` or a pool.
        num_envs: N.
        view: `map`, the fog-of-war map uint8 [N, W, H, 4], or `partial`, MiniGrid's own observation
            `{"image": uint8 [N, view, view, 3], "direction": int64 [N]}`.
        pool: Levels, where the spec's generator is `POOL`.
        copy: Whether observations are fresh arrays. If not, the next step overwrites them, and `final_obs` with them.
    """

    def __init__(
        self, spec: LevelSpec, num_envs: int, view: View = "map", pool: Pool = NO_POOL, copy: bool = True
    ) -> None:
        self.level_spec, self.name, self.num_envs, self._copy, self._view = spec, spec.name, num_envs, copy, view
        self._rules = Rules(spec.generator, spec.win, spec.view_size, spec.max_steps, spec.see_through)
        self._pool = pool
        self._grids = np.zeros(num_envs, dtype=GRID)
        self.level_seed = self._grids["level_seed"]
        self._cells = np.zeros((num_envs, spec.width, spec.height), dtype=np.uint16)
        self._maps = np.zeros((num_envs if view == "map" else 0, spec.width, spec.height, 4), dtype=np.uint8)
        self._outcomes = np.zeros(num_envs, dtype=OUTCOME)
        size, self.action_space = spec.view_size, gym.spaces.Discrete(NUM_ACTIONS)
        if view == "map":
            self.observation_space = gym.spaces.Box(0, 255, (spec.width, spec.height, 4), np.uint8)
            self._image, self._final_image = self._maps, np.zeros_like(self._maps)
        else:
            image = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
            self.observation_space = gym.spaces.Dict({"image": image, "direction": gym.spaces.Discrete(4)})
            self._set_up_partial()

    def bounds(self, split: str) -> tuple[int, int]:
        """The level seeds of a split; of a pool, whose levels are fewer, those that it has."""
        low, high = split_range(split)
        if self.level_spec.generator == POOL:
            low, high = max(low, self._pool.first), min(high, self._pool.first + len(self._pool.cells))
            if low >= high:
                raise UserError(f"The pool of {self.name} has no levels of the {split} split.", "make one with them")
        return low, high

    def begin(self, rows: NDArray[np.int64], level_seeds: NDArray[np.int64]) -> None:
        """Start episodes of the level seeds."""
        begin_grids(self._rules, self._pool, self._grids, self._cells, self._maps, rows, level_seeds)
        self._refresh_partial()

    def advance(self, actions: NDArray[np.int64], levels: LevelStream) -> tuple[Observation, Outcome, Final | None]:
        """See `Simulator`. Raises `ValueError` for an action that does not exist."""
        actions = np.asarray(actions, dtype=np.int64)
        if actions.shape != (self.num_envs,) or not actions_exist(actions):
            raise ValueError(f"actions must be {self.num_envs} integers in [0, {NUM_ACTIONS})")
        task = self._rules, Stream(levels.seed, *levels.bounds), levels.episode, self._pool
        state = self._grids, self._cells, self._maps, self._outcomes
        if self._view == "map":
            finished = step_maps(*task, *state, actions, self._final_image)
        else:
            finished = step_partials(*task, *state, actions, self._canvas, self._screen, self._final_screen)
        now = self._outcomes
        ends = now["terminated"].copy(), now["truncated"].copy(), now["success"].copy()
        outcome, final = Outcome(now["reward"].copy(), *ends), None
        if finished:
            last = self._observation(self._final_image, now["final_direction"])
            final = Final(last, now["final_seed"].copy())
        return self.observe(), outcome, final

    def observe(self) -> Observation:
        """See the class."""
        return self._observation(self._image, self._grids["direction"])

    def arrays(self) -> State:
        """Everything that the future depends on."""
        arrays: State = {str(name): self._grids[name] for name in GRID.names or ()}
        return arrays | {"cells": self._cells, "map": self._maps}

    def set_state(self, state: State) -> None:
        """Restore what `get_state` returned."""
        super().set_state(state)
        self._refresh_partial()

    def _set_up_partial(self) -> None:
        spec, side = self.level_spec, max(self.level_spec.width, self.level_spec.height)
        if spec.view_size > MAX_VIEW or side > MAX_SIDE:
            raise UserError(
                f"{spec.name}: partial views have at most {MAX_VIEW} cells a side, and their grids at most {MAX_SIDE}."
            )
        self._canvas = make_canvas(self.num_envs, side)
        self._screen, self._final_screen = (make_screen(self.num_envs, spec.view_size) for _ in range(2))
        shape = (self.num_envs, spec.view_size, spec.view_size, 3)
        self._image, self._final_image = (s.pixels.reshape(shape) for s in (self._screen, self._final_screen))

    def _refresh_partial(self) -> None:
        if self._view == "partial":
            view_partials(self._rules, self._grids, self._cells, self._canvas, self._screen)

    def _observation(self, image: NDArray[np.uint8], direction: NDArray[np.int64]) -> Observation:
        image = image.copy() if self._copy else image
        return image if self._view == "map" else {"image": image, "direction": direction.copy()}
