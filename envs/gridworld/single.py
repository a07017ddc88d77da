"""The seven tasks as single MiniGrid environments, and MiniGrid's objects as stored cells and back.

They are for users of Gymnasium, for rendering, and the reference: only the levels and the draw of DynamicDoorKey's new
door are shared with the batched engine; objects, movement, picking up, toggling and visibility are MiniGrid's own code.
The lock-step tests compare the two.
"""

from typing import Any

import numpy as np
from gymnasium import spaces
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Box, Door, Key, Wall, WorldObj
from minigrid.minigrid_env import MiniGridEnv
from numpy.typing import NDArray

from preceptor.envs.gridworld.cells import CONTENTS_SHIFT, EMPTY, TRIPLES, encode_cell
from preceptor.envs.gridworld.levels import DOOR_DELAY, DYNAMIC, GRID, SPECS, generate, moved_door
from preceptor.envs.gridworld.sight import NO_AGENT
from preceptor.ground.errors import UserError
from preceptor.ground.level_seeds import next_level, split_range

Observation = dict[str, Any]


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


def to_cells(grid: Grid, target: WorldObj | None = None) -> NDArray[np.uint16]:
    """Stored cells of a MiniGrid grid, uint16 [W, H]. Raises `UserError` as `to_cell` does."""
    cells = np.array([to_cell(found, target) for found in grid.grid], dtype=np.uint16)
    return np.ascontiguousarray(cells.reshape(grid.height, grid.width).T)


def _open_the_door() -> str:
    return "open the door"


class GridTaskEnv(MiniGridEnv):
    """One environment of a task; observations are the fog-of-war map `image` uint8 [W, H, 4] and the `mission`.

    Args:
        task: Name of one of the seven tasks.
        split: `train` or `eval`, the range of the level seeds that `reset` draws.
        render_mode: As for any MiniGrid environment, None, `human` or `rgb_array`.
        **kwargs: Passed to `MiniGridEnv`.
    """

    def __init__(self, task: str, split: str = "train", render_mode: str | None = None, **kwargs: Any) -> None:
        self.level_spec = rules = SPECS[task]
        split_range(split)  # an unknown split is an error at once
        self.split, self.level_seed = split, -1
        self._options: dict[str, Any] | None = None
        self._picked_at = 0  # step in which DynamicDoorKey's key was first picked up; 0 before
        self._seen = np.zeros((rules.width, rules.height), dtype=bool)
        self._level = np.zeros(1, dtype=GRID)[0]  # what the generator says of the level beside its cells
        limits: dict[str, Any] = {"max_steps": rules.max_steps, "agent_view_size": rules.view_size}
        mission = MissionSpace(mission_func=_open_the_door)
        super().__init__(
            mission_space=mission, width=rules.width, height=rules.height, render_mode=render_mode, **limits, **kwargs
        )
        image = spaces.Box(0, 255, (rules.width, rules.height, 4), np.uint8)
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
        return obs, info | {"level_seed": self.level_seed}

    def _gen_grid(self, width: int, height: int) -> None:
        self.level_seed = next_level(self.np_random, self._options, self.split)
        cells = np.zeros((width, height), dtype=np.uint16)
        generate(self.level_spec.generator, self.level_seed, self._level, cells)
        self.grid = Grid(width, height)
        for x, y in np.ndindex(width, height):
            made = to_object(int(cells[x, y]))
            if made is not None:
                self.put_obj(made, x, y)
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
        _, visible = self.gen_obs_grid()
        column, row = np.nonzero(visible)
        right, ahead = column - self.agent_view_size // 2, self.agent_view_size - 1 - row
        x, y = np.array(self.agent_pos)[:, None] + np.outer(self.right_vec, right) + np.outer(self.dir_vec, ahead)
        inside = (x >= 0) & (x < self.width) & (y >= 0) & (y < self.height)
        self._seen[x[inside], y[inside]] = True
        image: NDArray[np.uint8] = np.full((self.width, self.height, 4), NO_AGENT, dtype=np.uint8)
        image[..., :3] = self.grid.encode(self._seen)
        here = tuple(int(i) for i in self.agent_pos)
        image[here] = (*TRIPLES[to_cell(self.carrying) & 255], self.agent_dir)  # what is in its hands is drawn there
        return {"image": image, "mission": self.mission}

    def _move_door(self) -> None:
        at, door = next((i, found) for i, found in enumerate(self.grid.grid) if isinstance(found, Door))
        y, x = divmod(at, self.width)
        new_x, new_y = moved_door(self._level, to_cells(self.grid), x, y)
        self.put_obj(door, new_x, new_y)
        self.put_obj(Wall(), x, y)
        self._seen[x, y] = self._seen[new_x, new_y] = False
