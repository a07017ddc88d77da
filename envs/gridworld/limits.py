"""The teacher that is wrong on purpose about colours, so that a student can be shown to surpass its teacher.

On 30% of the levels, by a hash of the level seed, the teacher gets observations in which the two keys have exchanged
their colours (on the floor, in front and in the hand), so that the wrong key seems to fit the door. Its answer about
one key is then executed for the other. Executors and students see the truth; only the teacher is fooled.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from envs.gridworld.cells import color_of, kind_of
from envs.gridworld.levels import WORLD, LevelSpec, combine, generate
from envs.gridworld.planning import KEY

_SALT = 20_260_731  # any constant; keeps this draw apart from the level's own stream
_TENTHS = 3  # of the levels


class ColourSwap:
    """Which levels are swapped, and what that does to observations and options.

    Args:
        spec: A task with two keys of different colours whose options are ordered as `explore`, six keys by colour, ...
    """

    def __init__(self, spec: LevelSpec) -> None:
        self._spec = spec
        self._pair_of = lru_cache(maxsize=65_536)(self._find_pair)

    def pairs(self, level_seeds: NDArray[np.int64]) -> NDArray[np.int64]:
        """Colour indices to exchange on each level, int64 [N, 2]; two equal ones where nothing is exchanged."""
        return np.array([self._pair_of(seed) for seed in level_seeds.tolist()], dtype=np.int64).reshape(-1, 2)

    def view(self, obs: NDArray[np.uint8], level_seeds: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Observations [N, W, H, 4] with the two key colours exchanged; nothing else changes."""
        first, second = self.pairs(level_seeds).T[:, :, None, None]
        colour = obs[..., 1]
        swapped = np.where(colour == first, second, np.where(colour == second, first, colour))
        fooled = obs.copy()
        fooled[..., 1] = np.where(obs[..., 0] == KEY, swapped, colour)
        return fooled

    def exchange(self, index: NDArray[np.int64], level_seeds: NDArray[np.int64]) -> NDArray[np.int64]:
        """Exchange the columns of the two keys' options in an index [N, K], in place."""
        columns = self.pairs(level_seeds) + 1  # option 0 is `explore`
        rows = np.arange(len(index))[:, None]
        index[rows, columns] = index[rows, columns[:, ::-1]]
        return index

    def _find_pair(self, level_seed: int) -> tuple[int, int]:
        if combine(_SALT, level_seed) % 10 >= _TENTHS:
            return 0, 0
        cells = np.zeros((self._spec.width, self._spec.height), dtype=np.uint16)
        generate(self._spec.generator, level_seed, np.zeros(1, dtype=WORLD)[0], cells)
        low, high = sorted({int(color_of(cell)) for cell in cells.ravel() if kind_of(cell) == KEY})
        return low, high
