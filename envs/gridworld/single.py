"""The seven tasks as single MiniGrid environments, what agents see of any, and MiniGrid's objects as stored cells.

They are for users of Gymnasium, for rendering, and the reference: only the levels and the draw of DynamicDoorKey's new
door are shared with the batched engine; objects, movement, picking up, toggling and visibility are MiniGrid's own code.
The lock-step tests compare the two.
"""

from contextlib import redirect_stdout
from string import ascii_lowercase
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Box, Door, Key, Wall, WorldObj
from minigrid.minigrid_env import MiniGridEnv
from numpy.typing import NDArray

from preceptor.envs.gridworld.cells import CONTENTS_SHIFT, EMPTY, TRIPLES, encode_cell
from preceptor.envs.gridworld.levels import DOOR_DELAY, DYNAMIC, GRID, LevelSpec, generate, moved_door
from preceptor.envs.gridworld.sight import NO_AGENT
from preceptor.envs.gridworld.variants import spec_of
from preceptor.ground.errors import UserError
from preceptor.ground.level_seeds import next_level, split_range

Observation = dict[str, Any]
_TILE = 24  # pixels of a cell in pictures of maps


def to_object(cell: int) -> WorldObj | None:
    """A new MiniGrid object for a stored cell, contents included; None for an empty cell."""
    made = WorldObj.decode(*(int(part) for part in TRIPLES[cell & 255]))
    if isinstance(made, Box) and cell >> CONTENTS_SHIFT:
        made.contains = to_object(cell >> CONTENTS_SHIFT)  # type: ignore[assignment]  # which starts as None
    return made


def to_cell(found: WorldObj | None, target: WorldObj | None = None) -> int:
    """The stored cell of a MiniGrid object; `target` is the object that the mission names, compared by identity.

    Raises:
        UserError: An object that the engine does not know, for example one of a user's own class.
    """
    if found is None:
        return EMPTY
    unknown = type(found).__module__ != WorldObj.__module__
    if unknown or isinstance(found.contains, Box):
        what = f"the object {type(found).__name__!r}" if unknown else "boxes within boxes"
        raise UserError(f"The engine does not know {what}.", "use the single environment")
    contents = 0 if found.contains is None else to_cell(found.contains, target)
    return encode_cell(*found.encode(), contents, target is found)


def to_grid(cells: NDArray[np.uint16]) -> Grid:
    """A MiniGrid grid of stored cells [W, H]."""
    grid = Grid(*cells.shape)
    for x, y in np.ndindex(cells.shape):
        made = to_object(int(cells[x, y]))
        if made is not None:
            grid.set(x, y, made)
            made.init_pos = made.cur_pos = x, y
    return grid


def to_cells(grid: Grid, target: WorldObj | None = None) -> NDArray[np.uint16]:
    """Stored cells of a MiniGrid grid, uint16 [W, H]. Raises `UserError` as `to_cell` does."""
    cells = np.array([to_cell(found, target) for found in grid.grid], dtype=np.uint16)
    return np.ascontiguousarray(cells.reshape(grid.height, grid.width).T)


class _Drawn(MiniGridEnv):
    """MiniGrid's environment of a grid that is played elsewhere."""

    def _gen_grid(self, width: int, height: int) -> None:
        raise NotImplementedError


def picture(rules: LevelSpec, cells: NDArray[np.uint16], grid: Any) -> NDArray[np.uint8]:
    """MiniGrid's picture of a grid [W, H], a `GRID` record beside its cells."""
    size: dict[str, Any] = {"width": rules.width, "height": rules.height, "agent_view_size": rules.view_size}
    env = _Drawn(MissionSpace(mission_func=_open_the_door), see_through_walls=rules.see_through, **size)
    env.grid = to_grid(cells)
    env.agent_pos, env.agent_dir = (int(grid["x"]), int(grid["y"])), int(grid["direction"])
    return np.asarray(env.get_frame(), np.uint8)


def map_picture(seen: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A map [W, H, 4] as MiniGrid draws grids, uint8; what was seen is lighter. Where the agent is, what it carries."""
    grid, known = Grid.decode(seen[..., :3])
    at = np.argwhere(seen[..., 3] < NO_AGENT)
    x, y, direction = (*at[0], seen[(*at[0], 3)]) if len(at) else (-1, -1, 0)
    return np.asarray(grid.render(_TILE, (int(x), int(y)), int(direction), known), np.uint8)


def seen_map(env: MiniGridEnv, seen: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The map uint8 [W, H, 4] of all cells seen in this episode, with their present content.

    Args:
        env: Where the agent is.
        seen: bool [W, H], the cells seen before; those that are in view now are added.
    """
    _, visible = env.gen_obs_grid()
    column, row = np.nonzero(visible)
    right, ahead = column - env.agent_view_size // 2, env.agent_view_size - 1 - row
    x, y = np.array(env.agent_pos)[:, None] + np.outer(env.right_vec, right) + np.outer(env.dir_vec, ahead)
    inside = (x >= 0) & (x < env.width) & (y >= 0) & (y < env.height)
    seen[x[inside], y[inside]] = True
    image: NDArray[np.uint8] = np.full((env.width, env.height, 4), NO_AGENT, dtype=np.uint8)
    image[..., :3] = env.grid.encode(seen)
    here = tuple(int(i) for i in env.agent_pos)
    image[here] = (*TRIPLES[to_cell(env.carrying) & 255], env.agent_dir)  # what is in its hands is drawn there
    return image


def view_as_map(image: Any) -> NDArray[np.uint8]:
    """MiniGrid's views [..., V, V, 3] as maps uint8 [..., V, V, 4]: the agent is below in the middle and faces up."""
    view = np.asarray(image, np.uint8)
    size = view.shape[-2]
    out: NDArray[np.uint8] = np.full((*view.shape[:-1], 4), NO_AGENT, np.uint8)
    out[..., :3], out[..., size // 2, size - 1, 3] = view, 3
    return out


class Rewarded(gym.Wrapper[Any, Any, Any, Any]):
    """A MiniGrid environment whose infos say `success`: an end with reward."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        obs, info = self.env.reset(seed=seed, options=options)
        return obs, {"success": False} | info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """The environment's own step."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, float(reward), terminated, truncated, {"success": bool(terminated and float(reward) > 0)} | info


class SeenMap(Rewarded):
    """A MiniGrid environment whose observations are the map of what has been seen, uint8 [W, H, 4].

    This is what agents see of the levels that are played here by their rules (`docs/minigrid.md`).

    Args:
        env: A MiniGrid environment, as `gymnasium.make` makes it.

    Raises:
        UserError: It is no MiniGrid environment.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        if not isinstance(env.unwrapped, MiniGridEnv):
            raise UserError(f"{type(env.unwrapped).__name__} is not a MiniGrid environment.", "leave SeenMap out")
        self._inner = env.unwrapped
        self.observation_space = spaces.Box(0, 255, (self._inner.width, self._inner.height, 4), np.uint8)
        self._seen = np.zeros((self._inner.width, self._inner.height), np.bool_)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, of which nothing has been seen."""
        _, info = super().reset(seed=seed, options=options)
        self._seen[:] = False
        return seen_map(self._inner, self._seen), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """The environment's own step."""
        _, reward, terminated, truncated, info = super().step(action)
        return seen_map(self._inner, self._seen), reward, terminated, truncated, info


class OwnView(Rewarded):
    """A MiniGrid environment whose observations are `view_as_map`.

    Raises:
        UserError: Its observations are others than MiniGrid's.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        seen = env.observation_space
        shape = seen["image"].shape if isinstance(seen, spaces.Dict) and "image" in seen.spaces else None
        size = env.unwrapped.agent_view_size if isinstance(env.unwrapped, MiniGridEnv) else 0
        if shape != (size, size, 3):
            raise UserError(
                f"{type(env.unwrapped).__name__} does not show what MiniGrid's environments do, but {seen}.",
                "python main.py train --method ppo --task MiniGrid-Empty-5x5-v0",
            )
        self.observation_space = spaces.Box(0, 255, (size, size, 4), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        with redirect_stdout(None):  # BabyAI prints each time that it has to draw a level again
            obs, info = super().reset(seed=seed, options=options)
        return view_as_map(obs["image"]), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """The environment's own step."""
        obs, *outcome, info = super().step(action)
        return (view_as_map(obs["image"]), *outcome, info)  # type: ignore[return-value]


def _open_the_door() -> str:
    return "open the door"


class GridTaskEnv(MiniGridEnv):
    """One environment of a task; observations are the fog-of-war map `image` uint8 [W, H, 4] and the `mission`.

    Args:
        task: Name of one of the seven tasks, or of a variant (`variants.py`).
        split: `train` or `eval`, the range of the level seeds that `reset` draws.
        render_mode: As for any MiniGrid environment, None, `human` or `rgb_array`.
        **kwargs: Passed to `MiniGridEnv`; `max_steps` and `agent_view_size` instead of the task's own.
    """

    def __init__(self, task: str, split: str = "train", render_mode: str | None = None, **kwargs: Any) -> None:
        self.level_spec = rules = spec_of(task)
        split_range(split)  # an unknown split is an error at once
        self.split, self.level_seed = split, -1
        self._options: dict[str, Any] | None = None
        self._picked_at = 0  # step in which DynamicDoorKey's key was first picked up; 0 before
        self._seen = np.zeros((rules.width, rules.height), dtype=bool)
        self._level = np.zeros(1, dtype=GRID)[0]  # what the generator says of the level beside its cells
        own: dict[str, Any] = {"max_steps": rules.max_steps, "agent_view_size": rules.view_size} | kwargs
        super().__init__(
            MissionSpace(mission_func=_open_the_door),
            width=rules.width,
            height=rules.height,
            render_mode=render_mode,
            **own,
        )
        image = spaces.Box(0, 255, (rules.width, rules.height, 4), np.uint8)
        mission = spaces.Text(32, charset=ascii_lowercase + " ")  # others' tools cannot write a MissionSpace down
        self.observation_space = spaces.Dict({"image": image, "mission": mission})

    def reset(  # type: ignore[override]  # MiniGrid annotates with free type variables
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode, of level `options["level_seed"]` or one that `np_random` draws in the split.

        Raises:
            UserError: The level seed is not of this environment's split.
        """
        self._options, self._picked_at, self._seen[:] = options, 0, False
        obs, info = super().reset(seed=seed, options=options)
        return obs, info | {"level_seed": self.level_seed, "success": False}

    def _gen_grid(self, width: int, height: int) -> None:
        self.level_seed = next_level(self.np_random, self._options, self.split)
        cells = np.zeros((width, height), dtype=np.uint16)
        generate(self.level_spec.generator, self.level_spec.variety, self.level_seed, self._level, cells)
        self.grid = to_grid(cells)
        self.agent_pos = (int(self._level["x"]), int(self._level["y"]))
        self.agent_dir = int(self._level["direction"])
        self.mission = _open_the_door()

    def step(  # type: ignore[override]
        self, action: int
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """MiniGrid's step; toggling a door open ends the episode in success, and DynamicDoorKey's door may move."""
        obs, reward, terminated, truncated, info = super().step(action)
        front = self.grid.get(*self.front_pos)
        opened = action == self.actions.toggle and isinstance(front, Door) and bool(front.is_open)
        if opened:
            reward, terminated = self._reward(), True
        if not self._picked_at and isinstance(self.carrying, Key):
            self._picked_at = self.step_count
        due = self._picked_at and self.step_count == self._picked_at + DOOR_DELAY
        if due and self.level_spec.generator == DYNAMIC and not terminated:
            self._move_door()
            obs = self.gen_obs()
        return obs, float(reward), terminated, truncated, info | {"success": opened, "level_seed": self.level_seed}

    def gen_obs(self) -> Observation:
        """The map of all cells seen in this episode, with their present content."""
        return {"image": seen_map(self, self._seen), "mission": self.mission}

    def _move_door(self) -> None:
        at, door = next((i, found) for i, found in enumerate(self.grid.grid) if isinstance(found, Door))
        y, x = divmod(at, self.width)
        new_x, new_y = moved_door(self._level, to_cells(self.grid), x, y)
        self.put_obj(door, new_x, new_y)
        self.put_obj(Wall(), x, y)
        self._seen[x, y] = self._seen[new_x, new_y] = False
