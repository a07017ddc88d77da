"""MiniGrid's partial view at memory speed: every grid is kept painted four times, once per direction.

In the copy of a direction, the pixels of one column of the agent's view lie side by side in memory, so that a column
is three 64-bit words to copy, after masking what is not lit. Words overlap the next column by a few bytes, which is
then written over; buffers have spare bytes at their end. What lets light pass is kept as one bit board per row and
direction, and a row of light is a table look-up. A change of a cell is painted in four places; changes are rare.
"""

from typing import Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from preceptor.envs.gridworld.cells import EMPTY, SEE_THROUGH, TRIPLES, WALL
from preceptor.envs.gridworld.levels import Grid
from preceptor.envs.gridworld.sight import show

MAX_VIEW: Final = 7  # cells along the side of a view
MAX_SIDE: Final = 60  # cells along the side of a grid: bits of a board, less the margins
_WORDS: Final = 3  # 64-bit words that cover a column of seven pixels of three bytes
_SPARE: Final = 8 * _WORDS
_AHEAD: Final = MAX_VIEW - 1  # rows of wall before the grid's far edge
_MARGIN: Final = 3  # columns of a board to the left of the grid


class Canvas(NamedTuple):
    """The painted copies of N grids of at most S cells a side; direction d first, then columns, then rows from afar."""

    pixels: NDArray[np.uint8]  # [N, 4, S + 2, S + 6, 3], one column of wall on either side
    words: NDArray[np.uint64]  # [N, 4, S + 2, S + 6, 3], the 24 bytes from that pixel on
    boards: NDArray[np.uint64]  # [N, 4, S + 6], bit a + 3 of a row: light passes column a of the grid


class Screen(NamedTuple):
    """Images of N agents."""

    pixels: NDArray[np.uint8]  # [N, view * view, 3]
    words: NDArray[np.uint64]  # [N + 1, view, 3], the 24 bytes from the top of that column on; one image to spare


def _light_table() -> NDArray[np.uint8]:
    """Entry [light, clear]: what `sight.fill_runs` fills, and one cell to either side. Shape [128, 128]."""
    light, clear = np.meshgrid(np.arange(128), np.arange(128), indexing="ij")
    filled = light & clear
    for _ in range(MAX_VIEW):
        filled |= (filled << 1 | filled >> 1) & clear
    return ((filled | filled << 1 | filled >> 1) & 127).astype(np.uint8)


def _column_masks() -> NDArray[np.uint64]:
    """The words that keep the pixels of a column whose bits are set, shape [128, 3]."""
    bits = np.arange(128)[:, None] >> np.arange(8)[None, :] & 1  # the eighth pixel is always dark
    return np.ascontiguousarray(np.repeat(bits * 255, 3, axis=1).astype(np.uint8)).view(np.uint64)


_SPREAD: Final = _light_table()
_MASKS: Final = _column_masks()
_PASSES: Final = SEE_THROUGH.astype(np.uint64)
_ONE, _FULL = np.uint64(1), np.uint64(0x7F7F7F7F7F7F7F7F)
_SWAP_1, _SWAP_2, _SWAP_4 = (np.uint64(bits) for bits in (0x00AA00AA00AA00AA, 0x0000CCCC0000CCCC, 0x00000000F0F0F0F0))
_S7, _S14, _S28 = np.uint64(7), np.uint64(14), np.uint64(28)


def make_canvas(num_envs: int, side: int) -> Canvas:
    """Canvases of nothing but wall, for grids of at most `side` cells a side."""
    shape = (num_envs, 4, side + 2, side + _AHEAD, 3)
    memory = np.zeros(int(np.prod(shape)) + _SPARE, dtype=np.uint8)
    pixels = memory[:-_SPARE].reshape(shape)
    pixels[...] = TRIPLES[WALL]
    words = np.ndarray(shape, np.uint64, memory.data, 0, (*pixels.strides[:-1], 8))
    return Canvas(pixels, words, np.zeros(shape[:2] + shape[3:4], dtype=np.uint64))


def make_screen(num_envs: int, view_size: int) -> Screen:
    """Dark images."""
    column = view_size * 3
    memory = np.zeros((num_envs + 1) * view_size * column + _SPARE, dtype=np.uint8)
    pixels = memory[: num_envs * view_size * column].reshape(num_envs, view_size**2, 3)
    shape, strides = (num_envs + 1, view_size, _WORDS), (view_size * column, column, 8)
    return Screen(pixels, np.ndarray(shape, np.uint64, memory.data, 0, strides))


@njit(cache=True, forceinline=True)
def _place(direction: int, x: int, y: int, width: int, height: int) -> tuple[int, int]:
    """Column, to the agent's right, and row, from afar, of a cell in the copy of a direction; both from 0."""
    eastwest = direction & 1 == 0  # selections rather than branches, which would be mispredicted
    across, across_size = (y, height) if eastwest else (x, width)
    along, along_size = (x, width) if eastwest else (y, height)
    column = across if direction in (0, 3) else across_size - 1 - across
    row = along_size - 1 - along if direction < 2 else along
    return column, row


@njit(cache=True, forceinline=True)
def paint(
    pixels: NDArray[np.uint8], boards: NDArray[np.uint64], n: int, x: int, y: int, cell: int, width: int, height: int
) -> None:
    """Paint one cell of grid n on its canvas; width and height of the grid."""
    byte = np.int64(cell) & 255
    for direction in range(4):
        column, row = _place(direction, x, y, width, height)
        for channel in range(3):
            pixels[n, direction, column + 1, row + _AHEAD, channel] = TRIPLES[byte, channel]
        bit = np.uint64(column + _MARGIN)
        board = boards[n, direction, row + _AHEAD] & ~(_ONE << bit)
        boards[n, direction, row + _AHEAD] = board | (_PASSES[byte] << bit)


@njit(cache=True)
def paint_grid(pixels: NDArray[np.uint8], boards: NDArray[np.uint64], n: int, cells: NDArray[np.uint16]) -> None:
    """Paint all cells [W, H] of grid n."""
    width, height = cells.shape
    for x in range(width):
        for y in range(height):
            paint(pixels, boards, n, x, y, cells[x, y], width, height)


@njit(cache=True, forceinline=True)
def _transposed(bits: np.uint64) -> np.uint64:
    """The 8x8 bit matrix of a word's bytes, transposed (Warren, Hacker's Delight, section 7-3)."""
    swap = (bits ^ (bits >> _S7)) & _SWAP_1
    bits ^= swap ^ (swap << _S7)
    swap = (bits ^ (bits >> _S14)) & _SWAP_2
    bits ^= swap ^ (swap << _S14)
    swap = (bits ^ (bits >> _S28)) & _SWAP_4
    return bits ^ swap ^ (swap << _S28)


@njit(cache=True, forceinline=True)
def view(
    grid: Grid, canvas: Canvas, screen: Screen, n: int, size: int, see_through: bool, width: int, height: int
) -> None:
    """MiniGrid's own observation of agent n, from its canvas onto a screen; width and height are the grid's.

    Later grids must be drawn later, since the last column reaches into the next image.
    """
    canvas_words, words, direction = canvas.words, screen.words, grid.direction
    column, row = _place(direction, grid.x, grid.y, width, height)
    row += _AHEAD
    half, last = size // 2, canvas_words.shape[2] - 1
    shift, full = np.uint64(column + _MARGIN - half), (1 << size) - 1
    light = np.int64(1) << half
    lit = np.uint64(0)  # a byte per row of the view, from afar
    for ahead in range(size):
        clear = np.int64(canvas.boards[n, direction, row - ahead] >> shift) & full
        spread = np.int64(_SPREAD[light, clear]) & full
        lit |= np.uint64(light | spread) << np.uint64(8 * (size - 1 - ahead))
        light = spread
    columns = _transposed(_FULL if see_through else lit)
    for i in range(size):
        mask = np.int64(columns >> np.uint64(8 * i)) & full
        at = min(max(column + 1 - half + i, 0), last)
        for w in range(_WORDS):
            words[n, i, w] = canvas_words[n, direction, at, row - size + 1, w] & _MASKS[mask, w]
    show(screen.pixels, n, half * size + size - 1, grid.carried if grid.carried else EMPTY)
