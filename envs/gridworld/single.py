"""The seven tasks as single MiniGrid environments: for users of Gymnasium, for rendering, and as the reference.

Only the levels and the draw of DynamicDoorKey's new door are shared with the batched engine; objects, movement, picking
up, toggling and visibility are MiniGrid's own code. The lock-step tests compare the two.
"""

from typing import Any

import numpy as np
from gymnasium import spaces
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Door, Key, Wall
from minigrid.minigrid_env import MiniGridEnv
from numpy.typing import NDArray

from envs.gridworld.cells import TRIPLES
from envs.gridworld.levels import DOOR_DELAY, DYNAMIC, GRID, SPECS, generate, moved_door
from envs.gridworld.objects import to_cell, to_cells, to_object
from envs.gridworld.sight import NO_AGENT
from ground.level_seeds import next_level, split_range

Observation = dict[str, Any]


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
        self.split = split
        self.level_seed = -1
        self._options: dict[str, Any] | None = None
        self._picked_at: int | None = None  # step in which DynamicDoorKey's key was first picked up
        self._seen = np.zeros((rules.width, rules.height), dtype=bool)
        self._level = np.zeros(1, dtype=GRID)[0]  # what the generator says of the level beside its cells
        mission = MissionSpace(mission_func=_open_the_door)
        super().__init__(
            mission_space=mission,
            width=rules.width,
            height=rules.height,
            max_steps=rules.max_steps,
            agent_view_size=rules.view_size,
            render_mode=render_mode,
            **kwargs,
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
        self._options, self._picked_at = options, None
        self._seen[:] = False
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
        opened = False
        if action == self.actions.toggle:
            front = self.grid.get(*self.front_pos)
            opened = isinstance(front, Door) and front.is_open
        if opened:
            reward, terminated = self._reward(), True
        if self._picked_at is None and isinstance(self.carrying, Key):
            self._picked_at = self.step_count
        due = self._picked_at is not None and self.step_count == self._picked_at + DOOR_DELAY
        if self.level_spec.generator == DYNAMIC and due and not terminated:
            self._move_door()
            obs = self.gen_obs()
        info |= {"success": opened, "level_seed": self.level_seed}
        return obs, float(reward), terminated, truncated, info

    def gen_obs(self) -> Observation:
        """The map of all cells seen in this episode, with their present content."""
        _, visible = self.gen_obs_grid()
        ahead = np.array(self.dir_vec)
        corner = np.array(self.agent_pos) + ahead * (self.agent_view_size - 1)
        corner -= self.right_vec * (self.agent_view_size // 2)
        for column, row in np.argwhere(visible):
            x, y = corner + self.right_vec * column - ahead * row
            if 0 <= x < self.width and 0 <= y < self.height:
                self._seen[x, y] = True
        image: NDArray[np.uint8] = np.full((self.width, self.height, 4), NO_AGENT, dtype=np.uint8)
        image[..., :3] = self.grid.encode(self._seen)
        here = tuple(int(i) for i in self.agent_pos)
        image[here] = (*TRIPLES[to_cell(self.carrying) & 255], self.agent_dir)  # what is in its hands is drawn there
        return {"image": image, "mission": self.mission}

    def _move_door(self) -> None:
        door, (x, y) = next(
            (cell, divmod(i, self.width)[::-1]) for i, cell in enumerate(self.grid.grid) if isinstance(cell, Door)
        )
        new_x, new_y = moved_door(self._level, to_cells(self.grid), x, y)
        self.put_obj(Wall(), x, y)
        self.put_obj(door, new_x, new_y)
        self._seen[x, y] = self._seen[new_x, new_y] = False
