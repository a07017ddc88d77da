"""Random numbers for rows that are put together or taken out: each row draws what it would draw where it belongs."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Draws(ABC):
    """Stands in for a NumPy generator where distributions draw for a number of rows.

    Attributes:
        rows: How many rows it draws for.
    """

    rows: int

    def random(self, size: int) -> NDArray[np.float64]:
        """As NumPy's."""
        return self._drawn("random", (size,))

    def standard_normal(self, size: tuple[int, ...], dtype: Any = np.float64) -> NDArray:
        """As NumPy's."""
        return self._drawn("standard_normal", size, dtype=dtype)

    def uniform(self, low: float, high: float, size: tuple[int, ...]) -> NDArray[np.float64]:
        """As NumPy's."""
        return self._drawn("uniform", size, low=low, high=high)

    def _drawn(self, kind: str, size: tuple[int, ...], **how: Any) -> NDArray:
        each, rest = divmod(size[0], self.rows)
        assert not rest, "rows share their number of draws"
        return self._of_rows(kind, each, size[1:], how)

    @abstractmethod
    def _of_rows(self, kind: str, each: int, shape: tuple[int, ...], how: dict[str, Any]) -> NDArray:
        """So many draws of a kind for each row, those of a row side by side."""


class Joined(Draws):
    """The generators of several parties in the place of one: each draws for its own rows, as it would alone.

    Args:
        own: Each generator and its number of rows.
        idle: Rows after all others, whose draws are zeros.
    """

    def __init__(self, own: Sequence[tuple[Any, int]], idle: int) -> None:
        self._own, self._idle, self.rows = own, idle, sum(rows for _, rows in own) + idle

    def _of_rows(self, kind: str, each: int, shape: tuple[int, ...], how: dict[str, Any]) -> NDArray:
        parts = [getattr(rng, kind)(size=(each * rows, *shape), **how) for rng, rows in self._own]
        return np.concatenate([*parts, np.zeros((each * self._idle, *shape), parts[0].dtype)])


class Part(Draws):
    """Some rows of what a generator draws for more.

    Args:
        rng: Draws for all.
        count: How many these are.
        chosen: The numbers of the rows that count.
    """

    def __init__(self, rng: np.random.Generator, count: int, chosen: NDArray[np.int64]) -> None:
        self._rng, self._count, self._chosen, self.rows = rng, count, chosen, len(chosen)

    def _of_rows(self, kind: str, each: int, shape: tuple[int, ...], how: dict[str, Any]) -> NDArray:
        drawn = getattr(self._rng, kind)(size=(self._count * each, *shape), **how)
        return drawn.reshape(self._count, each, *shape)[self._chosen].reshape(-1, *shape)
