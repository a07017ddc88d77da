"""Larger rooms from small ones: maps in which rows and columns of bare floor are repeated.

What a scene says does not depend on how far away things are, so a label holds for the larger map as well; what a
scripted skill does there is computed anew.
"""

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from preceptor.ground.level_seeds import GOLDEN, combine, mix, scale

_SALT: Final = 20_261_128  # any constant; keeps these draws apart from the levels' own
_EMPTY, _WALL, _NO_AGENT = 1, 2, 4


@njit(cache=True)
def _repeat(kinds, poses, most, draw, source):  # type: ignore[no-untyped-def]
    # Fill `source` [L + most] with lines [L] of a map, in order, and -1 after the last. A line that shows floor, and
    # beside that only walls and what is unseen, may come again; up to `most` times do such lines, drawn at random.
    bare, count, end = np.zeros(kinds.shape[0], np.int64), 0, 0
    for line in range(kinds.shape[0]):
        if (kinds[line] == _EMPTY).any() and (kinds[line] <= _WALL).all() and (poses[line] == _NO_AGENT).all():
            bare[count] = line
            count += 1
    times = np.ones(kinds.shape[0], np.int64)
    for _ in range(scale(mix(draw), most + 1) if count else 0):
        draw += GOLDEN
        times[bare[scale(mix(draw), count)]] += 1
    source[:] = -1
    for line in range(kinds.shape[0]):
        source[end : end + times[line]] = line
        end += times[line]


@njit(cache=True)
def _stretch(obs, most, keys, out):  # type: ignore[no-untyped-def]
    columns, rows = np.empty(out.shape[1], np.int64), np.empty(out.shape[2], np.int64)
    for n in range(len(obs)):
        draw = combine(_SALT, keys[n])
        here = most if draw & np.uint64(1) else 0
        _repeat(obs[n, :, :, 0], obs[n, :, :, 3], here, draw, columns)
        _repeat(obs[n, :, :, 0].T, obs[n, :, :, 3].T, here, mix(draw), rows)
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                if columns[i] >= 0 and rows[j] >= 0:
                    out[n, i, j] = obs[n, columns[i], rows[j]]


def stretched(obs: NDArray[np.uint8], most: int, keys: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Maps [N, W + most, H + most, 4] of maps [N, W, H, 4]: about half of them larger, all with unseen cells behind.

    Args:
        obs: Fog-of-war maps.
        most: Rows, and columns, that are added at most.
        keys: int64 [N]; a map is a function of itself and of its key.
    """
    count, width, height, parts = obs.shape
    out = np.zeros((count, width + most, height + most, parts), np.uint8)
    out[..., 3] = _NO_AGENT
    _stretch(obs, most, keys, out)
    return out
