"""N grids as arrays, stepped by compiled kernels: MiniGrid's rules, no Python per grid.

Agents are shown either the fog-of-war map or MiniGrid's partial view. Kernels take the arrays of both, those that are
not shown as None, and Numba compiles what is behind `is not None` for the others alone.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from preceptor.envs.gridworld.canvas import Canvas, Screen, paint, paint_grid, view
from preceptor.envs.gridworld.cells import (
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
from preceptor.envs.gridworld.levels import (
    DOOR_DELAY,
    DYNAMIC,
    POOL,
    WIN_DOOR,
    WIN_TARGET,
    Grid,
    LevelSpec,
    Pool,
    Variety,
    generate,
    moved_door,
)
from preceptor.envs.gridworld.sight import NO_AGENT, look, show

LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE, DONE = range(7)
NUM_ACTIONS = 7

GOES_ON, SUCCEEDED, DIED = range(3)  # what `act` reports

Grids = NDArray[np.void]  # [N] of GRID
Cells = NDArray[np.uint16]  # [N, W, H], see cells.py
Maps = NDArray[np.uint8]  # [N, W, H, 4], what each agent has seen: its memory and its observation
Ends = NDArray[np.bool_]  # [3, N], whether a step terminated an episode, truncated it, ended it in success


class Rules(NamedTuple):
    """What kernels need of a task: `LevelSpec` in integers, and MiniGrid's rewards for success [max_steps + 1].

    Rewards are a table, by the clock, because a GPU would round 1 - 0.9 x once where a processor rounds it twice.
    """

    generator: int
    win: int
    view_size: int
    max_steps: int
    see_through: bool
    variety: Variety
    rewards: NDArray[np.float64]


def rules_of(spec: LevelSpec) -> Rules:
    """The rules of a task, for kernels."""
    rewards = 1 - 0.9 * (np.arange(spec.max_steps + 1) / spec.max_steps)
    return Rules(spec.generator, spec.win, spec.view_size, spec.max_steps, spec.see_through, spec.variety, rewards)


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


@njit(cache=True)
def _move_door(grid: Grid, cells: NDArray[np.uint16], maps: Maps | None, n: int) -> None:
    """DynamicDoorKey's locked door moves; the map forgets where it was and does not show where it is. cells [W, H]."""
    for x in range(grid.room_width):
        for y in range(grid.room_height):
            if kind_of(cells[x, y]) == DOOR_LOCKED:
                new_x, new_y = moved_door(grid, cells, x, y)
                cells[new_x, new_y] = cells[x, y]
                cells[x, y] = WALL
                if maps is not None:
                    maps[n, x, y, :3] = 0
                    maps[n, new_x, new_y, :3] = 0
                return


@njit(cache=True)
def begin(
    rules: Rules, pool: Pool, grids: Grids, cells: Cells, rows: NDArray[np.int64], level_seeds: NDArray[np.int64]
) -> None:
    """Start episodes of the level seeds [M] in the grids `rows` [M], short of seeing."""
    for m in range(rows.shape[0]):
        grid = grids[rows[m]]
        grid.level_seed = level_seeds[m]
        grid.carried = 0
        grid.clock = 0
        grid.picked_at = -1
        if rules.generator == POOL:
            p = level_seeds[m] - pool.first
            for x in range(cells.shape[1]):  # no slices: to copy one, a GPU would need memory
                for y in range(cells.shape[2]):
                    cells[rows[m], x, y] = pool.cells[p, x, y]
            grid.x, grid.y, grid.direction = pool.pose[p, 0], pool.pose[p, 1], pool.pose[p, 2]
        else:
            generate(rules.generator, rules.variety, level_seeds[m], grid, cells[rows[m]])


@njit(cache=True)
def see_anew(
    rules: Rules,
    grids: Grids,
    cells: Cells,
    rows: NDArray[np.int64],
    maps: Maps | None,
    canvas: Canvas | None,
    screen: Screen | None,
) -> None:
    """What agents `rows` [M] see who remember nothing."""
    num_envs, width, height = cells.shape
    flat_cells = cells.reshape(num_envs, width * height)
    for n in rows:
        if maps is not None:
            maps[n, :, :, :3] = 0
            maps[n, :, :, 3] = NO_AGENT
            flat_maps = maps.reshape(num_envs, width * height, 4)
            look(grids[n], flat_cells, flat_maps, n, rules.view_size, rules.see_through, height)
        if canvas is not None and screen is not None:
            paint_grid(canvas.pixels, canvas.boards, n, cells[n])
            following = screen.words[n + 1, 0].copy()  # which drawing this image overwrites
            view(grids[n], canvas, screen, n, rules.view_size, rules.see_through, width, height)
            screen.words[n + 1, 0] = following


@njit(cache=True)
def step_some(
    rules: Rules,
    grids: Grids,
    cells: Cells,
    actions: NDArray[np.integer],
    reward: NDArray[np.float64],
    ends: Ends,
    maps: Maps | None,
    canvas: Canvas | None,
    screen: Screen | None,
    first: int,
    last: int,
) -> None:
    """Step the grids [first, last) and show their agents what they see: all the rules, whatever runs them.

    The loop is in here, because Numba counts references to arrays at every call: once for all grids of a processor,
    which steps all of them; on a GPU, where nothing is counted, each thread steps one.
    """
    num_envs, width, height = cells.shape
    flat_cells = cells.reshape(num_envs, width * height)
    if maps is not None:
        flat_maps = maps.reshape(num_envs, width * height, 4)
    for n in range(first, last):
        grid = grids[n]
        if canvas is not None:
            x, y = grid.x + STEP_X[grid.direction], grid.y + STEP_Y[grid.direction]
            before = cells[n, x, y]
        if maps is not None:
            at = grid.x * height + grid.y
            show(flat_maps, n, at, flat_cells[n, at])
            flat_maps[n, at, 3] = NO_AGENT
        grid.clock += 1
        result = act(grid, cells, n, actions[n], rules.win)
        if canvas is not None and cells[n, x, y] != before:
            paint(canvas.pixels, canvas.boards, n, x, y, cells[n, x, y], width, height)
        ends[0, n], ends[1, n], ends[2, n] = result != GOES_ON, grid.clock >= rules.max_steps, result == SUCCEEDED
        reward[n] = rules.rewards[min(grid.clock, rules.max_steps)] if result == SUCCEEDED else 0.0
        due = rules.generator == DYNAMIC and grid.picked_at > 0 and grid.clock == grid.picked_at + DOOR_DELAY
        if due and result == GOES_ON:
            _move_door(grid, cells[n], maps, n)
            if canvas is not None:
                paint_grid(canvas.pixels, canvas.boards, n, cells[n])
        if maps is not None:
            look(grid, flat_cells, flat_maps, n, rules.view_size, rules.see_through, height)
        if canvas is not None:
            view(grid, canvas, screen, n, rules.view_size, rules.see_through, width, height)


@njit(cache=True)
def step(
    rules: Rules,
    grids: Grids,
    cells: Cells,
    actions: NDArray[np.int64],
    reward: NDArray[np.float64],
    ends: Ends,
    maps: Maps | None,
    canvas: Canvas | None,
    screen: Screen | None,
) -> bool:
    """Step N grids and show their agents what they see; false, and nothing done, if there is no such action.

    Args:
        rules: The task's.
        grids, cells, maps, canvas: The state, updated.
        actions: int64 [N].
        reward, ends: Output, [N] as MiniGrid's `_reward` and [3, N].
        screen: Output.
    """
    for action in actions:
        if action < 0 or action >= NUM_ACTIONS:
            return False
    step_some(rules, grids, cells, actions, reward, ends, maps, canvas, screen, 0, len(actions))
    return True
