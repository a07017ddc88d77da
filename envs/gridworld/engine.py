"""N grids as arrays, stepped by compiled kernels: MiniGrid's rules, autoreset, no Python per grid."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from envs.gridworld.canvas import Canvas, Screen, paint, paint_grid, view
from envs.gridworld.cells import (
    BOX,
    CAN_ENTER,
    CAN_PICK_UP,
    CONTENTS_SHIFT,
    DOOR_CLOSED,
    DOOR_LOCKED,
    DOOR_OPEN,
    EMPTY,
    GOAL_KIND,
    KEY,
    LAVA,
    STEP_X,
    STEP_Y,
    TARGET,
    WALL,
    color_of,
    kind_of,
)
from envs.gridworld.levels import DOOR_DELAY, DYNAMIC, POOL, WIN_DOOR, WIN_TARGET, Grid, generate, moved_door
from envs.gridworld.sight import NO_AGENT, look, show
from ground.level_seeds import drawn_seed

LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE, DONE = range(7)
NUM_ACTIONS = 7

GOES_ON, SUCCEEDED, DIED = range(3)  # what `act` reports

Grids = NDArray[np.void]  # [N] of GRID
Episodes = NDArray[np.int64]  # [N]
Cells = NDArray[np.uint16]  # [N, W, H], see cells.py
Maps = NDArray[np.uint8]  # [N, W, H, 4], what each agent has seen: its memory and its observation; [0, ...] if unused


class Rules(NamedTuple):
    """What kernels need of a task: `LevelSpec` in integers."""

    generator: int
    win: int
    view_size: int
    max_steps: int
    see_through: bool


class Stream(NamedTuple):
    """Where level seeds come from: that of an episode lies in [low, high), drawn from (seed, environment, episode)."""

    seed: int
    low: int
    high: int


class Pool(NamedTuple):
    """P ready levels; level seed `first + p` is level p. Empty for tasks with a generator."""

    first: int
    cells: NDArray[np.uint16]  # [P, W, H]
    pose: NDArray[np.int64]  # [P, 3] the agent's x, y, direction


# What one step of a grid leads to; overwritten by the next.
OUTCOME = np.dtype(
    [
        ("reward", np.float64),
        ("terminated", np.bool_),
        ("truncated", np.bool_),
        ("success", np.bool_),
        ("final_seed", np.int64),  # level seed of the episode that ended, where one did
        ("final_direction", np.int64),  # and the agent's direction then
    ]
)

NO_POOL = Pool(0, np.zeros((0, 1, 1), dtype=np.uint16), np.zeros((0, 3), dtype=np.int64))


@njit(cache=True, forceinline=True)
def _toggle(grid: Grid, cells: Cells, n: int, x: int, y: int) -> bool:
    """MiniGrid's toggle of the object at (x, y); whether it opened a door."""
    cell = np.int64(cells[n, x, y])
    kind = kind_of(cell)
    if kind == BOX:
        contents = cell >> CONTENTS_SHIFT
        cells[n, x, y] = contents if contents else EMPTY
    elif kind == DOOR_OPEN:
        cells[n, x, y] = cell ^ DOOR_OPEN ^ DOOR_CLOSED
    elif kind == DOOR_CLOSED:
        cells[n, x, y] = cell ^ DOOR_CLOSED ^ DOOR_OPEN
        return True
    elif kind == DOOR_LOCKED and kind_of(grid.carried) == KEY and color_of(grid.carried) == color_of(cell):
        cells[n, x, y] = cell ^ DOOR_LOCKED ^ DOOR_OPEN
        return True
    return False


@njit(cache=True, forceinline=True)
def act(grid: Grid, cells: Cells, n: int, action: int, win: int) -> int:
    """MiniGrid's `step` for grid n, short of the clock: `GOES_ON`, `SUCCEEDED` or `DIED`."""
    if action <= RIGHT:
        grid.direction = (grid.direction + (1 if action == RIGHT else 3)) & 3
        return GOES_ON
    x, y = grid.x + STEP_X[grid.direction], grid.y + STEP_Y[grid.direction]
    inside = 0 <= x < cells.shape[1] and 0 <= y < cells.shape[2]
    front = np.int64(cells[n, x, y]) if inside else WALL
    kind = kind_of(front)
    if action == FORWARD:
        if CAN_ENTER[front & 255]:
            grid.x, grid.y = x, y
        return SUCCEEDED if kind == GOAL_KIND else DIED if kind == LAVA else GOES_ON
    if action == PICKUP and CAN_PICK_UP[front & 255] and grid.carried == 0:
        grid.carried = front
        cells[n, x, y] = EMPTY
        if kind == KEY and grid.picked_at < 0:
            grid.picked_at = grid.clock
        return SUCCEEDED if win == WIN_TARGET and front & TARGET else GOES_ON
    if action == DROP and front == EMPTY and grid.carried != 0:
        cells[n, x, y] = grid.carried
        grid.carried = 0
    elif action == TOGGLE and inside and _toggle(grid, cells, n, x, y) and win == WIN_DOOR:
        return SUCCEEDED
    return GOES_ON


@njit(cache=True, forceinline=True)
def _door_moves(rules: Rules, grid: Grid, outcome: Grid) -> bool:
    """Whether it is time for DynamicDoorKey's door to move. Kernels ask here and call `_move_door` themselves: a call
    with a slice inside `_advance` would make every step count references."""
    due = rules.generator == DYNAMIC and grid.picked_at > 0 and grid.clock == grid.picked_at + DOOR_DELAY
    return due and not outcome.terminated


@njit(cache=True)
def _move_door(grid: Grid, cells: NDArray[np.uint16], maps: Maps, n: int) -> None:
    """DynamicDoorKey's locked door moves; the map forgets where it was and does not show where it is. cells [W, H]."""
    for x in range(grid.room_width):
        for y in range(grid.room_height):
            if kind_of(cells[x, y]) == DOOR_LOCKED:
                new_x, new_y = moved_door(grid, cells, x, y)
                cells[new_x, new_y] = cells[x, y]
                cells[x, y] = WALL
                if maps.shape[0] > 0:
                    maps[n, x, y, :3] = 0
                    maps[n, new_x, new_y, :3] = 0
                return


@njit(cache=True)
def begin(rules: Rules, pool: Pool, grid: Grid, cells: NDArray[np.uint16], level_seed: int) -> None:
    """Start an episode of the given level in one grid; cells [W, H]."""
    grid.level_seed = level_seed
    grid.carried = 0
    grid.clock = 0
    grid.picked_at = -1
    if rules.generator == POOL:
        p = level_seed - pool.first
        cells[:, :] = pool.cells[p]
        grid.x, grid.y, grid.direction = pool.pose[p, 0], pool.pose[p, 1], pool.pose[p, 2]
    else:
        generate(rules.generator, level_seed, grid, cells)


@njit(cache=True)
def begin_next(
    rules: Rules, stream: Stream, episodes: Episodes, pool: Pool, grid: Grid, cells: NDArray[np.uint16], n: int
) -> None:
    """Start grid n's next episode, on a level that its own stream draws; cells [W, H]."""
    level_seed = drawn_seed(stream.seed, n, episodes[n], stream.low, stream.high)
    episodes[n] += 1
    begin(rules, pool, grid, cells, level_seed)


@njit(cache=True)
def begin_grids(
    rules: Rules,
    pool: Pool,
    grids: Grids,
    cells: Cells,
    maps: Maps,
    rows: NDArray[np.int64],
    level_seeds: NDArray[np.int64],
) -> None:
    """Start the episodes of level seeds [M] in grids `rows` [M], and their maps, where there are maps."""
    num_envs, width, height = cells.shape
    flat_cells = cells.reshape(num_envs, width * height)
    flat_maps = maps.reshape(maps.shape[0], width * height, 4)
    for m in range(rows.shape[0]):
        n = rows[m]
        begin(rules, pool, grids[n], cells[n], level_seeds[m])
        if maps.shape[0] > 0:
            _blank_map(maps, n)
            look(grids[n], flat_cells, flat_maps, n, rules.view_size, rules.see_through, height)


@njit(cache=True, forceinline=True)
def _advance(rules: Rules, grid: Grid, cells: Cells, outcome: Grid, n: int, action: int) -> bool:
    """One step of grid n short of seeing; whether the episode is over. Reward as MiniGrid's `_reward`."""
    grid.clock += 1
    result = act(grid, cells, n, action, rules.win)
    outcome.success = result == SUCCEEDED
    outcome.terminated = result != GOES_ON
    outcome.truncated = grid.clock >= rules.max_steps
    outcome.reward = 1 - 0.9 * (grid.clock / rules.max_steps) if result == SUCCEEDED else 0.0
    return outcome.terminated or outcome.truncated


@njit(cache=True)
def actions_exist(actions: NDArray[np.int64]) -> bool:
    """Whether all actions are MiniGrid actions."""
    unknown = False
    for action in actions:
        unknown |= action < 0 or action >= NUM_ACTIONS
    return not unknown


@njit(cache=True)
def _blank_map(maps: Maps, n: int) -> None:
    maps[n, :, :, :3] = 0
    maps[n, :, :, 3] = NO_AGENT


@njit(cache=True)
def step_maps(
    rules: Rules,
    stream: Stream,
    episodes: Episodes,
    pool: Pool,
    grids: Grids,
    cells: Cells,
    maps: Maps,
    outcomes: NDArray[np.void],
    actions: NDArray[np.int64],
    final_maps: NDArray[np.uint8],
) -> int:
    """Step N grids that observe the map; those that finish begin their next episode.

    Args:
        rules, pool: The task.
        stream, episodes: The stream of level seeds, and int64 [N], the episodes that it has drawn, updated.
        grids, cells, maps: The state, updated.
        outcomes: `OUTCOME` [N], output.
        actions: int64 [N].
        final_maps: uint8 [N, W, H, 4], output: the last observation of the grids that finished.

    Returns:
        How many grids finished.
    """
    num_envs, width, height = cells.shape
    flat_cells, flat_maps = cells.reshape(num_envs, width * height), maps.reshape(num_envs, width * height, 4)
    finished = 0
    for n in range(num_envs):
        grid, outcome = grids[n], outcomes[n]
        at = grid.x * height + grid.y
        show(flat_maps, n, at, flat_cells[n, at])
        flat_maps[n, at, 3] = NO_AGENT
        over = _advance(rules, grid, cells, outcome, n, actions[n])
        if _door_moves(rules, grid, outcome):
            _move_door(grid, cells[n], maps, n)
        look(grid, flat_cells, flat_maps, n, rules.view_size, rules.see_through, height)
        if over:
            finished += 1
            final_maps[n] = maps[n]
            outcome.final_seed, outcome.final_direction = grid.level_seed, grid.direction
            begin_next(rules, stream, episodes, pool, grid, cells[n], n)
            _blank_map(maps, n)
            look(grid, flat_cells, flat_maps, n, rules.view_size, rules.see_through, height)
    return finished


@njit(cache=True)
def view_partials(rules: Rules, grids: Grids, cells: Cells, canvas: Canvas, screen: Screen) -> None:
    """Paint N grids and draw what their agents see."""
    num_envs, width, height = cells.shape
    sides = (rules.view_size, rules.see_through, width, height)
    for n in range(num_envs):
        paint_grid(canvas.pixels, canvas.boards, n, cells[n])
        view(grids[n], canvas.words, canvas.boards, screen.pixels, screen.words, n, *sides)


@njit(cache=True)
def step_partials(
    rules: Rules,
    stream: Stream,
    episodes: Episodes,
    pool: Pool,
    grids: Grids,
    cells: Cells,
    maps: Maps,
    outcomes: NDArray[np.void],
    actions: NDArray[np.int64],
    canvas: Canvas,
    screen: Screen,
    final: Screen,
) -> int:
    """`step_maps` for grids that observe as MiniGrid does; `maps` is empty.

    `canvas` is state, `screen` and `final` are outputs, the latter where a grid finished.
    """
    num_envs, width, height = cells.shape
    painted, words, boards = canvas
    pixels, pixel_words = screen
    finished = 0
    for n in range(num_envs):
        grid, outcome, action = grids[n], outcomes[n], actions[n]
        x, y = grid.x + STEP_X[grid.direction], grid.y + STEP_Y[grid.direction]
        before = cells[n, x, y]
        over = _advance(rules, grid, cells, outcome, n, action)
        if cells[n, x, y] != before:
            paint(painted, boards, n, x, y, cells[n, x, y], width, height)
        if _door_moves(rules, grid, outcome):
            _move_door(grid, cells[n], maps, n)
            paint_grid(painted, boards, n, cells[n])
        if over:
            finished += 1
            view(grid, words, boards, final.pixels, final.words, n, rules.view_size, rules.see_through, width, height)
            outcome.final_seed, outcome.final_direction = grid.level_seed, grid.direction
            begin_next(rules, stream, episodes, pool, grid, cells[n], n)
            paint_grid(painted, boards, n, cells[n])
        view(grid, words, boards, pixels, pixel_words, n, rules.view_size, rules.see_through, width, height)
    return finished
