"""The seven tasks' rules, and their levels as a pure function of (task, level seed).

One generator serves the batched engine and the MiniGrid classes of `single.py`, so the two can be compared in lock
step. The tasks are those of IHAC, after LLM4Teach (arXiv 2311.13373).

DynamicDoorKey is our own definition, since IHAC names the task and defines it nowhere: `DOOR_DELAY` steps after the key
is first picked up, the locked door moves to another wall cell.
"""

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from preceptor.envs.gridworld.cells import (
    BOX,
    COLOR_SHIFT,
    CONTENTS_SHIFT,
    DOOR_LOCKED,
    EMPTY,
    GOAL,
    KEY,
    KIND_MASK,
    LAVA,
    NUM_COLORS,
    STEP_X,
    STEP_Y,
    WALL,
    WALL_KIND,
)
from preceptor.ground.errors import UserError
from preceptor.ground.level_seeds import GOLDEN, combine, mix, scale

Cells = NDArray[np.uint16]  # [W, H]

# All of one grid but its cells. Records rather than an array per field: one cache line per grid, and kernels reach
# the fields without touching reference counts, which cost more than the step itself.
GRID: Final = np.dtype(
    [
        ("x", np.int64),  # the agent's place and direction
        ("y", np.int64),
        ("direction", np.int64),
        ("carried", np.int64),  # stored cell, zero if nothing
        ("clock", np.int64),  # steps in this episode
        ("picked_at", np.int64),  # clock at which a key was first picked up, -1 before
        ("room_width", np.int64),  # walls included
        ("room_height", np.int64),
        ("stream", np.uint64),  # state of the level's random stream
        ("level_seed", np.int64),
    ],
    align=True,  # a GPU loads what may not be aligned byte by byte
)
Grid = Any  # one record of that type

MIN_ROOM, MAX_ROOM = 5, 10  # walls included, where no other sizes are asked for
DOOR_DELAY: Final = 3  # steps between the first pick-up of the key and the move of the door

# Which generator makes the level. POOL levels are copied from arrays that minigrid's own generators filled.
POOL, SIMPLE, LAVA_DOOR, COLORED, TWO_DOOR, KEY_IN_BOX, RANDOM_BOX, DYNAMIC, STOCK_DOOR_KEY = range(-1, 8)

# What ends an episode in success, beside reaching a goal cell; of a mission in words, `envs.missions` says it.
WIN_GOAL, WIN_DOOR, WIN_TARGET, WIN_MISSION = range(4)


class Variety(NamedTuple):
    """What a generator draws from.

    Attributes:
        smallest, largest: Sides of rooms, walls included.
        pairs: Bit 6a + b is set where a door of colour a may come with another key of colour b; where there is no
            other key, a door may have the colours that come with any.
    """

    smallest: int = MIN_ROOM
    largest: int = MAX_ROOM
    pairs: int = (1 << NUM_COLORS**2) - 1


USUAL: Final = Variety()


class Pool(NamedTuple):
    """P ready levels; level seed `first + p` is level p."""

    first: int
    cells: NDArray[np.uint16]  # [P, W, H]
    pose: NDArray[np.int64]  # [P, 3] the agent's x, y, direction


NO_POOL: Final = Pool(0, np.zeros((0, 1, 1), dtype=np.uint16), np.zeros((0, 3), dtype=np.int64))


@dataclass(frozen=True)
class LevelSpec:
    """The rules of a task.

    Attributes:
        name: Catalogue name.
        width, height: Size of the grid in cells, outer walls included.
        view_size: Side of the square that the agent sees, odd, at most 15.
        max_steps: Steps after which an episode is truncated.
        generator: Which generator makes the levels; `POOL` for levels that come as arrays.
        win: `WIN_GOAL`, `WIN_DOOR` (a toggle opened a door), `WIN_TARGET` (the mission's object was picked up) or
            `WIN_MISSION`.
        see_through: MiniGrid's `see_through_walls`.
        pool: The levels, where no generator makes them.
        variety: What the generator draws from.

    Raises:
        UserError: The view or the levels do not fit, or a level is not enclosed by walls: kernels check no bounds.
    """

    name: str
    width: int
    height: int
    view_size: int
    max_steps: int
    generator: int
    win: int
    see_through: bool = False
    pool: Pool = field(default=NO_POOL, compare=False, repr=False)
    variety: Variety = USUAL

    def __post_init__(self) -> None:
        if self.view_size % 2 == 0 or not 3 <= self.view_size <= 15:
            raise UserError(f"{self.name}: the view must be an odd number of cells from 3 to 15, not {self.view_size}.")
        cells, pose, shape = self.pool.cells, self.pool.pose, (self.width, self.height)
        if (self.generator == POOL) != (len(cells) > 0) or (len(cells) and cells.shape[1:] != shape):
            raise UserError(f"{self.name}: the levels are not {shape[0]} by {shape[1]} cells, or there are none.")
        border = (cells[:, 0], cells[:, -1], cells[:, :, 0], cells[:, :, -1])
        inside = (pose >= (1, 1, 0)) & (pose < (shape[0] - 1, shape[1] - 1, 4))
        if not inside.all() or any(((side & KIND_MASK) != WALL_KIND).any() for side in border):
            raise UserError(f"{self.name}: every level must be enclosed by walls, with the agent inside.")


def _room_task(name: str, generator: int) -> LevelSpec:
    return LevelSpec(name, MAX_ROOM, MAX_ROOM, 3, 150, generator, WIN_DOOR)


SPECS: Final[dict[str, LevelSpec]] = {
    spec.name: spec
    for spec in (
        _room_task("SimpleDoorKey", SIMPLE),
        _room_task("LavaDoorKey", LAVA_DOOR),
        _room_task("ColoredDoorKey", COLORED),
        # 150 steps cannot sweep 400 cells with a 3x3 view, so the limit grows with the area.
        LevelSpec("TwoDoor", 20, 20, 3, 4 * 20 * 20, TWO_DOOR, WIN_DOOR),
        _room_task("KeyInBox", KEY_IN_BOX),
        _room_task("RandomBoxKey", RANDOM_BOX),
        _room_task("DynamicDoorKey", DYNAMIC),
    )
}


def doorkey_spec(size: int = 8) -> LevelSpec:
    """Stock `MiniGrid-DoorKey-{size}x{size}-v0` with a generator that equals minigrid's in distribution."""
    return LevelSpec(f"DoorKey-{size}x{size}", size, size, 7, 10 * size**2, STOCK_DOOR_KEY, WIN_GOAL)


@njit(cache=True)
def below(grid: Grid, n: int) -> np.int64:
    """The next integer of the level's stream, uniform in [0, n)."""
    grid.stream += GOLDEN
    return scale(mix(grid.stream), n)


@njit(cache=True)
def _colour(grid: Grid, pairs: int) -> np.int64:
    """A colour that a door may have, as `Variety` has it."""
    while True:
        color = below(grid, NUM_COLORS)
        if pairs >> NUM_COLORS * color & ((1 << NUM_COLORS) - 1):
            return color


@njit(cache=True)
def _walls(cells: Cells, width: int, height: int) -> None:
    cells[:width, 0] = WALL
    cells[:width, height - 1] = WALL
    cells[0, :height] = WALL
    cells[width - 1, :height] = WALL


@njit(cache=True)
def _wall_cell(side: int, along: int, width: int, height: int) -> tuple[int, int]:
    """Non-corner wall cell: side east, south, west or north; `along` from 1."""
    if side == 0:
        return width - 1, along
    if side == 1:
        return along, height - 1
    if side == 2:
        return 0, along
    return along, 0


@njit(cache=True)
def _free_cell(
    grid: Grid, cells: Cells, area: tuple[int, int, int, int], avoid: tuple[int, int], avoid_too: tuple[int, int]
) -> tuple[int, int]:
    """Uniform empty cell of area (x, y, width, height) other than two given ones."""
    left, top, width, height = area
    while True:
        x, y = left + below(grid, width), top + below(grid, height)
        if cells[x, y] == EMPTY and (x, y) != avoid and (x, y) != avoid_too:
            return x, y


@njit(cache=True)
def _one_room(generator: int, variety: Variety, grid: Grid, cells: Cells) -> None:
    """One room with a locked door at the top left of the grid, and what the task puts into it."""
    nowhere = (-1, -1)
    sizes = variety.largest - variety.smallest + 1
    width, height = variety.smallest + below(grid, sizes), variety.smallest + below(grid, sizes)
    grid.room_width, grid.room_height = width, height
    inside = (1, 1, width - 2, height - 2)
    _walls(cells, width, height)

    side = below(grid, 4)
    door = _wall_cell(side, 1 + below(grid, (height if side % 2 == 0 else width) - 2), width, height)
    before_door = (door[0] - STEP_X[side], door[1] - STEP_Y[side])
    color = _colour(grid, variety.pairs)
    key = KEY | color << COLOR_SHIFT
    cells[door] = DOOR_LOCKED | color << COLOR_SHIFT

    agent = _free_cell(grid, cells, inside, nowhere, nowhere)
    grid.x, grid.y, grid.direction = agent[0], agent[1], below(grid, 4)

    if generator == LAVA_DOOR:
        cells[_free_cell(grid, cells, inside, agent, before_door)] = LAVA
    if generator == COLORED:
        other = color
        while not variety.pairs >> NUM_COLORS * color + other & 1 or other == color:
            other = (color + 1 + below(grid, NUM_COLORS - 1)) % NUM_COLORS
        cells[_free_cell(grid, cells, inside, agent, before_door)] = key
        cells[_free_cell(grid, cells, inside, agent, before_door)] = KEY | other << COLOR_SHIFT
    elif generator in (KEY_IN_BOX, RANDOM_BOX):
        hidden = generator == KEY_IN_BOX or below(grid, 2) == 1
        keep_clear = before_door if generator == RANDOM_BOX else nowhere
        contents = key << CONTENTS_SHIFT if hidden else 0
        cells[_free_cell(grid, cells, inside, agent, keep_clear)] = BOX | color << COLOR_SHIFT | contents
        if not hidden:
            cells[_free_cell(grid, cells, inside, agent, nowhere)] = key
    else:
        cells[_free_cell(grid, cells, inside, agent, nowhere)] = key


@njit(cache=True)
def _two_door(variety: Variety, grid: Grid, cells: Cells) -> None:
    """A room as large as the grid, locked doors of one colour on opposite walls, the key in the central 2x2."""
    width, height = cells.shape
    grid.room_width, grid.room_height = width, height
    _walls(cells, width, height)
    color = _colour(grid, variety.pairs)
    side = below(grid, 2)
    for wall in (side, side + 2):
        along = 1 + below(grid, (height if side == 0 else width) - 2)
        cells[_wall_cell(wall, along, width, height)] = DOOR_LOCKED | color << COLOR_SHIFT
    agent = _free_cell(grid, cells, (1, 1, width - 2, height - 2), (-1, -1), (-1, -1))
    grid.x, grid.y, grid.direction = agent[0], agent[1], below(grid, 4)
    cells[_free_cell(grid, cells, (width // 2 - 1, height // 2 - 1, 2, 2), agent, agent)] = KEY | color << COLOR_SHIFT


@njit(cache=True)
def _stock_door_key(grid: Grid, cells: Cells) -> None:
    """MiniGrid's DoorKey: the left part has the agent and the key, the right part the goal, a locked door between."""
    yellow = 4 << COLOR_SHIFT
    width, height = cells.shape
    grid.room_width, grid.room_height = width, height
    _walls(cells, width, height)
    cells[width - 2, height - 2] = GOAL
    split = 2 + below(grid, width - 4)
    cells[split, :] = WALL
    left = (1, 1, split - 1, height - 2)
    agent = _free_cell(grid, cells, left, (-1, -1), (-1, -1))
    grid.x, grid.y, grid.direction = agent[0], agent[1], below(grid, 4)
    cells[split, 1 + below(grid, height - 3)] = DOOR_LOCKED | yellow
    cells[_free_cell(grid, cells, left, agent, agent)] = KEY | yellow


@njit(cache=True)
def generate(generator: int, variety: Variety, level_seed: int, grid: Grid, cells: Cells) -> None:
    """Fill one grid with a level, a pure function of (generator, variety, level seed).

    Args:
        generator: One of this module's generators, not `POOL`.
        variety: What it draws from.
        level_seed: Any integer.
        grid: `GRID` record, output: the agent, the room, and the stream for what happens later in the level.
        cells: uint16 [W, H], output: see `cells.py`.
    """
    grid.stream = combine(generator, level_seed)
    cells[:, :] = EMPTY
    if generator == TWO_DOOR:
        _two_door(variety, grid, cells)
    elif generator == STOCK_DOOR_KEY:
        _stock_door_key(grid, cells)
    else:
        _one_room(generator, variety, grid, cells)


@njit(cache=True)
def moved_door(grid: Grid, cells: Cells, door_x: int, door_y: int) -> tuple[int, int]:
    """Where DynamicDoorKey's door goes: a uniform other non-corner wall cell whose inner neighbour is bare."""
    width, height = grid.room_width, grid.room_height
    while True:
        side, along = below(grid, 4), 1 + below(grid, max(MAX_ROOM, width, height) - 2)
        if along > (height if side % 2 == 0 else width) - 2:
            continue
        x, y = _wall_cell(side, along, width, height)
        if (x, y) != (door_x, door_y) and cells[x - STEP_X[side], y - STEP_Y[side]] == EMPTY:
            return x, y
