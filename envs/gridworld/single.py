"""The seven tasks as MiniGrid environments, one world each: for Gymnasium users, for rendering, and as the reference.

Only the levels and the draw of DynamicDoorKey's new door are shared with the batched engine; objects, movement, picking
up, toggling and visibility are MiniGrid's own code. The lock-step tests compare the two.
"""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Door, Key, Wall
from minigrid.minigrid_env import MiniGridEnv
from numpy.typing import NDArray

from envs.gridworld.levels import (
    DOOR_DELAY,
    SPECS,
    WORLD,
    LevelSpec,
    generate,
    moved_door,
)
from envs.gridworld.objects import to_cells, to_object
from ground.level_seeds import check_level_seeds, split_range

Observation = dict[str, Any]
_NO_AGENT = 4


def _open_the_door() -> str:
    return "open the door"


class GridTaskEnv(MiniGridEnv):
    """One world of a task; the observation is the fog-of-war map `image` uint8 [W, H, 4] and the `mission`.

    Args:
        split: `train` or `eval`, the range of the level seeds that `reset` draws.
        render_mode: As for any MiniGrid environment, None, `human` or `rgb_array`.
        **kwargs: Passed to `MiniGridEnv`.
    """

    level_spec: ClassVar[LevelSpec]

    def __init__(self, split: str = "train", render_mode: str | None = None, **kwargs: Any) -> None:
        rules = self.level_spec
        self.split = split
        self._low, self._high = split_range(split)
        self.level_seed = -1
        self._wanted_seed: int | None = None
        self._seen = np.zeros((rules.width, rules.height), dtype=bool)
        self._world = np.zeros(1, dtype=WORLD)[0]  # what the generator says of the level beside its cells
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
        self._wanted_seed = (options or {}).get("level_seed")
        if self._wanted_seed is not None:
            check_level_seeds(np.array([self._wanted_seed]), self.split)
        self._seen[:] = False
        obs, info = super().reset(seed=seed, options=options)
        return obs, info | {"level_seed": self.level_seed}

    def _gen_grid(self, width: int, height: int) -> None:
        drawn = self._wanted_seed
        self.level_seed = int(self.np_random.integers(self._low, self._high) if drawn is None else drawn)
        cells = np.zeros((width, height), dtype=np.uint16)
        generate(self.level_spec.generator, self.level_seed, self._world, cells)
        self.grid = Grid(width, height)
        for x, y in np.ndindex(width, height):
            made = to_object(int(cells[x, y]))
            if made is not None:
                self.put_obj(made, x, y)
        self.agent_pos = (int(self._world["x"]), int(self._world["y"]))
        self.agent_dir = int(self._world["direction"])
        self.mission = self.level_spec.mission

    def step(  # type: ignore[override]
        self, action: int
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """MiniGrid's step; toggling a door open ends the episode in success."""
        obs, reward, terminated, truncated, info = super().step(action)
        opened = False
        if action == self.actions.toggle:
            front = self.grid.get(*self.front_pos)
            opened = isinstance(front, Door) and front.is_open
        if opened:
            reward, terminated = self._reward(), True
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
        image: NDArray[np.uint8] = np.full((self.width, self.height, 4), _NO_AGENT, dtype=np.uint8)
        image[..., :3] = self.grid.encode(self._seen)
        here = tuple(int(i) for i in self.agent_pos)
        image[here] = (*self._held(), self.agent_dir)
        return {"image": image, "mission": self.mission}

    def _held(self) -> tuple[int, int, int]:
        """What is drawn at the agent's cell: the object that it carries, or an empty cell."""
        if self.carrying is None:
            return OBJECT_TO_IDX["empty"], 0, 0
        return OBJECT_TO_IDX[self.carrying.type], COLOR_TO_IDX[self.carrying.color], 0


class SimpleDoorKeyEnv(GridTaskEnv):
    """A room, a locked door, its key."""

    level_spec = SPECS["SimpleDoorKey"]


class LavaDoorKeyEnv(GridTaskEnv):
    """SimpleDoorKey and one cell of lava, never in front of the door."""

    level_spec = SPECS["LavaDoorKey"]


class ColoredDoorKeyEnv(GridTaskEnv):
    """The door's key and a key of another colour."""

    level_spec = SPECS["ColoredDoorKey"]


class TwoDoorEnv(GridTaskEnv):
    """A room of 20x20, two doors of one colour in opposite walls, the key in the middle; either door wins."""

    level_spec = SPECS["TwoDoor"]


class KeyInBoxEnv(GridTaskEnv):
    """The key is in a box, which a toggle opens."""

    level_spec = SPECS["KeyInBox"]


class RandomBoxKeyEnv(GridTaskEnv):
    """A box that holds the key, or an empty box and the key beside it, each on half of the levels."""

    level_spec = SPECS["RandomBoxKey"]


class DynamicDoorKeyEnv(GridTaskEnv):
    """SimpleDoorKey whose door moves once, a few steps after the key is first picked up. Our own definition."""

    level_spec = SPECS["DynamicDoorKey"]

    def reset(  # type: ignore[override]  # MiniGrid annotates with free type variables
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """As `GridTaskEnv.reset`."""
        self._picked_at: int | None = None
        return super().reset(seed=seed, options=options)

    def step(  # type: ignore[override]
        self, action: int
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """As `GridTaskEnv.step`, and the door may move."""
        obs, reward, terminated, truncated, info = super().step(action)
        if self._picked_at is None and isinstance(self.carrying, Key):
            self._picked_at = self.step_count
        if not terminated and self._picked_at is not None and self.step_count == self._picked_at + DOOR_DELAY:
            self._move_door()
            obs = self.gen_obs()
        return obs, reward, terminated, truncated, info

    def _move_door(self) -> None:
        door, (x, y) = next(
            (cell, divmod(i, self.width)[::-1]) for i, cell in enumerate(self.grid.grid) if isinstance(cell, Door)
        )
        new_x, new_y = moved_door(self._world, to_cells(self.grid), x, y)
        self.put_obj(Wall(), x, y)
        self.put_obj(door, new_x, new_y)
        self._seen[x, y] = self._seen[new_x, new_y] = False


ENVIRONMENTS: tuple[type[GridTaskEnv], ...] = (
    SimpleDoorKeyEnv,
    LavaDoorKeyEnv,
    ColoredDoorKeyEnv,
    TwoDoorEnv,
    KeyInBoxEnv,
    RandomBoxKeyEnv,
    DynamicDoorKeyEnv,
)


def register() -> None:
    """Register `Preceptor/<Task>-v0` with Gymnasium; harmless if done before."""
    for environment in ENVIRONMENTS:
        env_id = f"Preceptor/{environment.level_spec.name}-v0"
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=f"{__name__}:{environment.__name__}")
