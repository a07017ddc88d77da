"""The batched engine as a `gymnasium.vector.VectorEnv`."""

from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.batches import require_fit, wanted_levels
from envs.gridworld.canvas import MAX_SIDE, MAX_VIEW, make_canvas, make_screen
from envs.gridworld.engine import (
    NO_POOL,
    NUM_ACTIONS,
    OUTCOME,
    Pool,
    Rules,
    actions_exist,
    begin_maps,
    reset_worlds,
    step_maps,
    step_partials,
    view_partials,
)
from envs.gridworld.levels import POOL, WORLD, LevelSpec
from ground.errors import UserError
from ground.level_seeds import split_range

View = Literal["map", "partial"]
Observation = NDArray[np.uint8] | dict[str, NDArray[Any]]


class GridVectorEnv(gym.vector.VectorEnv[Any, NDArray[np.int64], NDArray[Any]]):
    """N worlds of one task, stepped together; autoreset in the same step.

    Infos of `reset` and `step`:
        level_seed: int64 [N], of the episode that is now running.
        success: bool [N], whether this step ended an episode in success (`step` only).
        final_obs, _final_obs: when some world finished, the last observations, same shape as observations, and bool
            [N], the rows that are valid.
        final_info, _final_info: likewise `{"level_seed": int64 [N]}` of the episodes that finished.

    Args:
        spec: The task's rules, from `levels.SPECS` or a pool.
        num_envs: N.
        split: `train` (level seeds below 1,000,000) or `eval` (the million from there on).
        seed: Key of the stream that draws level seeds; episode e of world n depends on (seed, n, e) alone.
        view: `map`, the fog-of-war map uint8 [N, W, H, 4], or `partial`, MiniGrid's own observation
            `{"image": uint8 [N, view, view, 3], "direction": int64 [N]}`.
        pool: Levels, where the spec's generator is `POOL`.
        copy: Whether observations are fresh arrays. If not, the next step overwrites them, and `final_obs` with them.
    """

    def __init__(
        self,
        spec: LevelSpec,
        num_envs: int,
        split: str = "train",
        seed: int = 0,
        view: View = "map",
        pool: Pool = NO_POOL,
        copy: bool = True,
    ) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}
        self.level_spec, self.num_envs, self.split, self.copy, self._view = spec, num_envs, split, copy, view
        low, high = split_range(split)
        if spec.generator == POOL:
            low, high = max(low, pool.first), min(high, pool.first + len(pool.cells))
            if low >= high:
                raise UserError(f"The pool of {spec.name} has no levels of the {split} split.", "make one with them")
        limits = (spec.view_size, spec.max_steps, seed, low, high, spec.see_through)
        self._rules = Rules(spec.generator, spec.win, *limits)
        self._pool = pool
        self._worlds = np.zeros(num_envs, dtype=WORLD)
        self._cells = np.zeros((num_envs, spec.width, spec.height), dtype=np.uint16)
        self._maps = np.zeros((num_envs if view == "map" else 0, spec.width, spec.height, 4), dtype=np.uint8)
        self._outcomes = np.zeros(num_envs, dtype=OUTCOME)
        size = spec.view_size
        shape = (spec.width, spec.height, 4) if view == "map" else (size, size, 3)
        image = gym.spaces.Box(0, 255, shape, np.uint8)
        self.single_observation_space = (
            image if view == "map" else gym.spaces.Dict({"image": image, "direction": gym.spaces.Discrete(4)})
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.single_action_space = gym.spaces.Discrete(NUM_ACTIONS)
        self.action_space = batch_space(self.single_action_space, num_envs)
        if view == "map":
            self._image, self._final_image = self._maps, np.zeros_like(self._maps)
        else:
            self._set_up_partial()
        self._no_seeds = np.zeros(0, dtype=np.int64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode in every world.

        Args:
            seed: Restarts the stream of level seeds under this key; None continues it.
            options: `{"level_seeds": int64 [N]}` plays those levels first; what follows them is drawn.

        Raises:
            UserError: A level seed is not of this environment's split.
        """
        if seed is not None:
            self._rules = self._rules._replace(seed=int(seed))
            self._worlds["episode"] = 0
        bounds = self._rules.low, self._rules.high  # of a pool, whose levels are fewer than the split's
        wanted = wanted_levels(options, self.num_envs, self.split, bounds)
        seeds = self._no_seeds if wanted is None else wanted
        reset_worlds(self._rules, self._pool, self._worlds, self._cells, seeds)
        if self._view == "map":
            begin_maps(self._rules, self._worlds, self._cells, self._maps)
        self._refresh_partial()
        return self._observation(), {"level_seed": self._worlds["level_seed"].copy()}

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Step every world; see the class for the infos. Raises `ValueError` for an action that does not exist."""
        actions = np.asarray(actions, dtype=np.int64)
        if actions.shape != (self.num_envs,) or not actions_exist(actions):
            raise ValueError(f"actions must be {self.num_envs} integers in [0, {NUM_ACTIONS})")
        state = (self._rules, self._pool, self._worlds, self._cells, self._maps, self._outcomes)
        if self._view == "map":
            finished = step_maps(*state, actions, self._final_image)
        else:
            finished = step_partials(*state, actions, self._canvas, self._screen, self._final_screen)
        reward, terminated, truncated, success = (
            self._outcomes[name].copy() for name in ("reward", "terminated", "truncated", "success")
        )
        infos: dict[str, Any] = {"level_seed": self._worlds["level_seed"].copy(), "success": success}
        if finished:
            over = terminated | truncated
            infos |= {"final_obs": self._observation(final=True), "_final_obs": over}
            infos |= {"final_info": {"level_seed": self._outcomes["final_seed"].copy()}, "_final_info": over}
        return self._observation(), reward, terminated, truncated, infos

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Everything that the future depends on, as plain arrays; `set_state` continues to the bit."""
        return {name: array.copy() for name, array in self._arrays().items()} | {"seed": np.array(self._rules.seed)}

    def set_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned. Raises `UserError` if it is of other worlds."""
        targets = self._arrays()
        require_fit(state, targets, f"{self.num_envs} worlds of {self.level_spec.name}")
        for name, array in targets.items():
            array[...] = state[name]
        self._rules = self._rules._replace(seed=int(state["seed"]))
        self._refresh_partial()

    @property
    def carried(self) -> NDArray[np.int64]:
        """What each agent holds, int64 [N] as in `cells.py`, zero for nothing."""
        return self._worlds["carried"].copy()

    def _arrays(self) -> dict[str, NDArray[Any]]:
        """The state's own arrays, by name."""
        arrays: dict[str, NDArray[Any]] = {str(name): self._worlds[name] for name in WORLD.names or ()}
        return arrays | {"cells": self._cells, "map": self._maps}

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
            view_partials(self._rules, self._worlds, self._cells, self._canvas, self._screen)

    def _observation(self, final: bool = False) -> Observation:
        image = self._final_image if final else self._image
        image = image.copy() if self.copy else image
        if self._view == "map":
            return image
        direction = self._outcomes["final_direction"] if final else self._worlds["direction"]
        return {"image": image, "direction": direction.copy()}
