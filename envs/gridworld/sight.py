"""What an agent sees: MiniGrid's occlusion with bit masks, and the fog-of-war map.

MiniGrid's `process_vis` sweeps every row of the view twice, from the agent outwards. What the sweeps amount to: light
fills every run of see-through cells that it touches, shows the run and the cell at either end of it, and enters the
next row above those. A row is therefore a bit mask here, and filling runs is a few shifts.

Cells are addressed flat, as x * height + y, so that a step ahead or to the right is one addition.
"""

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from preceptor.envs.gridworld.cells import EMPTY, SEE_THROUGH, STEP_X, STEP_Y, TRIPLES
from preceptor.envs.gridworld.levels import Grid

NO_AGENT: Final = 4  # in the map's fourth channel
_CLEAR: Final = SEE_THROUGH.astype(np.int64)


@njit(cache=True, forceinline=True)
def fill_runs(light: int, clear: int) -> int:
    """The runs of set bits of `clear` that touch a set bit of `light`; at most 16 bits."""
    source = light & clear
    reached = (((source + clear) ^ clear) | source) & clear  # upwards: the carry runs to the end of each run
    for shift in (1, 2, 4, 8):  # downwards: Kogge-Stone
        reached |= clear & (reached >> shift)
        clear &= clear >> shift
    return reached


@njit(cache=True, forceinline=True)
def _window(grid: Grid, size: int, width: int, height: int) -> tuple[int, int, int, int, int, int]:
    """The agent's view over the grid.

    Returns:
        Flat index of the view's cell on the agent's far left, steps to the right and ahead, the columns [low, high) of
        the view that lie on the grid, and how many rows do.
    """
    x, y, direction, half = grid.x, grid.y, grid.direction, size // 2
    eastwest = direction & 1 == 0
    side, length = (y, height) if eastwest else (x, width)
    if direction in (0, 3):
        sign, low, high = 1, half - side, length - side + half
    else:
        sign, low, high = -1, side + half - length + 1, side + half + 1
    depth = width - x if direction == 0 else height - y if direction == 1 else x + 1 if direction == 2 else y + 1
    right = sign if eastwest else sign * height
    ahead = STEP_X[direction] * height + STEP_Y[direction]
    return x * height + y - half * right, right, ahead, max(low, 0), min(high, size), depth


@njit(cache=True, forceinline=True)
def look(
    grid: Grid,
    cells: NDArray[np.uint16],
    seen_map: NDArray[np.uint8],
    n: int,
    size: int,
    see_through: bool,
    height: int,
) -> None:
    """Add what agent n sees to its map, and the agent itself; cells [N, W*H], map [N, W*H, 4]."""
    base, right, ahead, low, high, depth = _window(grid, size, cells.shape[1] // height, height)
    full, light = (1 << size) - 1, 1 << (size // 2)
    always_clear = full if see_through else 0
    for _ in range(min(size, depth)):
        clear = always_clear
        for i in range(low, high):
            clear |= _CLEAR[cells[n, base + i * right] & 255] << i
        spread = fill_runs(light, clear)
        spread |= (spread << 1 | spread >> 1) & full
        shown = light | spread
        for i in range(low, high):
            if shown >> i & 1:
                at = base + i * right
                show(seen_map, n, at, cells[n, at])
        base += ahead
        light = spread
        if light == 0:
            break
    at = grid.x * height + grid.y
    show(seen_map, n, at, grid.carried if grid.carried else EMPTY)
    seen_map[n, at, 3] = grid.direction


@njit(cache=True, forceinline=True)
def show(image: NDArray[np.uint8], n: int, at: int, cell: int) -> None:
    """Write MiniGrid's (object, colour, state) of a stored cell to pixel `at` of image n; image [N, pixels, >= 3]."""
    byte = np.int64(cell) & 255
    image[n, at, 0] = TRIPLES[byte, 0]
    image[n, at, 1] = TRIPLES[byte, 1]
    image[n, at, 2] = TRIPLES[byte, 2]
