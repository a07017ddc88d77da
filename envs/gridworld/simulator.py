"""The simulator of the grids, over compiled kernels."""

from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from preceptor.envs.gridworld.canvas import MAX_SIDE, MAX_VIEW, Canvas, Screen, make_canvas, make_screen
from preceptor.envs.gridworld.engine import NUM_ACTIONS, begin, rules_of, see_anew, step
from preceptor.envs.gridworld.levels import GRID, POOL, LevelSpec
from preceptor.envs.vector import Outcome, Simulator, State
from preceptor.ground.errors import UserError
from preceptor.ground.level_seeds import split_range

Observation = NDArray[np.uint8] | dict[str, NDArray[Any]]


class GridSimulator(Simulator):
    """N grids of one task, stepped by compiled kernels.

    Args:
        spec: The task's rules and, where no generator makes them, its levels.
        num_envs: N.
        view: `map`, the fog-of-war map uint8 [N, W, H, 4], or `partial`, MiniGrid's own observation
            `{"image": uint8 [N, view, view, 3], "direction": int64 [N]}`.
        copy: Whether observations are fresh arrays. If not, the next step overwrites them.
    """

    forgiving = True

    def __init__(
        self, spec: LevelSpec, num_envs: int, view: Literal["map", "partial"] = "map", copy: bool = True
    ) -> None:
        self.level_spec, self.name, self.num_envs, self._copy = spec, spec.name, num_envs, copy
        self.max_steps = spec.max_steps
        self._rules = rules_of(spec)
        self._grids = np.zeros(num_envs, dtype=GRID)
        self.level_seed = self._grids["level_seed"]
        self._cells = np.zeros((num_envs, spec.width, spec.height), dtype=np.uint16)
        self._maps: NDArray[np.uint8] | None = None
        self._canvas: Canvas | None = None
        self._screen: Screen | None = None
        size, self.action_space = spec.view_size, gym.spaces.Discrete(NUM_ACTIONS)
        if view == "map":
            self.observation_space = gym.spaces.Box(0, 255, (spec.width, spec.height, 4), np.uint8)
            self._image = self._maps = np.zeros((num_envs, spec.width, spec.height, 4), dtype=np.uint8)
            return
        if size > MAX_VIEW or max(spec.width, spec.height) > MAX_SIDE:
            limits = f"{MAX_VIEW} cells a side, and their grids at most {MAX_SIDE}"
            raise UserError(f"{spec.name}: partial views have at most {limits}.")
        image = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.observation_space = gym.spaces.Dict({"image": image, "direction": gym.spaces.Discrete(4)})
        self._canvas = make_canvas(num_envs, max(spec.width, spec.height))
        self._screen = make_screen(num_envs, size)
        self._image = self._screen.pixels.reshape(num_envs, size, size, 3)

    def bounds(self, split: str) -> tuple[int, int]:
        """The level seeds of a split; of a pool, whose levels are fewer, those that it has."""
        low, high = split_range(split)
        if self.level_spec.generator == POOL:
            pool = self.level_spec.pool
            low, high = max(low, pool.first), min(high, pool.first + len(pool.cells))
            if low >= high:
                raise UserError(f"The pool of {self.name} has no levels of the {split} split.", "make one with them")
        return low, high

    def begin(self, rows: NDArray[np.int64], level_seeds: NDArray[np.int64]) -> None:
        """Start episodes of the level seeds."""
        begin(self._rules, self.level_spec.pool, self._grids, self._cells, rows, level_seeds)
        self._see_anew(rows)

    def step(self, actions: NDArray[np.int64]) -> Outcome:
        """See `Simulator`."""
        actions = np.asarray(actions, dtype=np.int64)
        reward, ends = np.empty(self.num_envs), np.empty((3, self.num_envs), np.bool_)
        arrays = self._grids, self._cells, actions, reward, ends, self._maps, self._canvas, self._screen
        if actions.shape != reward.shape or not step(self._rules, *arrays):
            raise ValueError(f"actions must be {self.num_envs} integers in [0, {NUM_ACTIONS})")
        return Outcome(reward, *ends)

    def observe(self) -> Observation:
        """See the class."""
        image = self._image.copy() if self._copy else self._image
        return image if self._canvas is None else {"image": image, "direction": self._grids["direction"].copy()}

    def arrays(self) -> State:
        """Everything that the future depends on."""
        arrays: State = {str(name): self._grids[name] for name in GRID.names or ()}
        return arrays | {"cells": self._cells} | ({} if self._maps is None else {"map": self._maps})

    def set_state(self, state: State) -> None:
        """Restore what `get_state` returned."""
        super().set_state(state)
        if self._canvas is not None:
            self._see_anew(np.arange(self.num_envs))

    def render(self, n: int = 0) -> NDArray[np.uint8]:
        """What MiniGrid draws of a grid."""
        from preceptor.envs.gridworld.single import picture  # imports minigrid, which takes a while

        return picture(self.level_spec, self._cells[n], self._grids[n])

    def _see_anew(self, rows: NDArray[np.int64]) -> None:
        see_anew(self._rules, self._grids, self._cells, rows, self._maps, self._canvas, self._screen)
