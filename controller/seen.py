"""The first layer of a trunk over tokens, computed from seen cells only.

Most cells around an agent are beyond the map or not seen yet: they hold token 0. What that adds is the same everywhere
and is added once; for each other cell, the difference that its token makes. The gradient is written by hand likewise.
On a processor this takes a fifth of the time of a product with embeddings side by side, which is the reference
(`dense`), and what is computed elsewhere and exported.
"""

from typing import Any, Final

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

FAST: Final = {"reassoc", "contract", "nsz"}  # sums in any order; NaN stays NaN


def added_up(tokens: Tensor, table: Tensor, weight: Tensor) -> Tensor:
    """The first layer's sums [N, H]: tokens uint8 [N, C], embedded by a table [T, E], times weights [H, C E] of cells.

    Raises:
        ValueError: There are weights for another number of cells.
        IndexError: A token is not in the table.
    """
    if tokens.shape[1] * table.shape[1] != weight.shape[1]:
        raise ValueError(f"{tokens.shape[1]} cells, and weights for {weight.shape[1] // table.shape[1]}")
    plain = tokens.dtype == torch.uint8 and table.dtype == weight.dtype == torch.float32
    if plain and tokens.is_cpu and not torch.jit.is_tracing():
        return _Seen.apply(tokens, table, weight)  # type: ignore[no-any-return,no-untyped-call]
    return dense(tokens, table, weight)


def dense(tokens: Tensor, table: Tensor, weight: Tensor) -> Tensor:
    """The same by the definition."""
    # index_select, because the gradient of F.embedding takes five times as long on a CPU
    return table.index_select(0, tokens.flatten().long()).view(-1, weight.shape[1]) @ weight.t()


def check_shape(shape: tuple[int, ...], *parts: Tensor | NDArray[Any] | None) -> None:
    """Raise `ValueError` where a part, if there is one, has another shape: compiled code would go past its end."""
    for part in parts:
        if part is not None and part.shape != shape:
            raise ValueError(f"shapes {tuple(part.shape)} and {shape} are not the same")


class FirstLayer:
    """The sums, forwards and backwards, of a table [T, E] and weights [H, C E].

    Attributes:
        beyond: How each token differs from token 0 [T, E].
        rows: The weights [C E, H], those of each number of each cell next to one another.
        always: What token 0 in all cells adds [H].
    """

    def __init__(self, table: Tensor, weight: Tensor) -> None:
        self._table, self.rows = table.detach().numpy(), rows_of(weight)
        self.beyond, self._over_cells, self.always = prepared(self._table, self.rows)

    def add_to(self, summed: Tensor, tokens: Tensor) -> tuple[NDArray[Any], ...]:
        """Add what seen tokens [N, C] add to sums [N, H] that hold `always`; what is returned is for `gradients`.

        Raises:
            ValueError: There are tokens for another number of samples or cells.
        """
        check_shape((len(summed), len(self.rows) // self.beyond.shape[1]), tokens)
        seen: tuple[NDArray[Any], ...] = pairs(tokens.numpy(), len(self.beyond))
        add(*seen, self.beyond, self.rows, summed.numpy())
        return seen

    def gradients(self, seen: tuple[NDArray[Any], ...], gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Of the table and of the weights, of the sums' gradient [N, H]."""
        of_rows, of_table = np.empty_like(self.rows), np.empty_like(self.beyond)
        over_samples = gradient.sum(0).numpy()
        first = self._table, self.beyond, self.rows, self._over_cells
        add_gradients(*seen, *first, gradient.numpy(), over_samples, of_rows, of_table)
        return torch.as_tensor(of_table), torch.as_tensor(of_rows).t()


def rows_of(weight: Tensor) -> NDArray[np.float32]:
    """Weights [H, C E] as [C E, H]."""
    return weight.detach().t().contiguous().numpy()


class _Seen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, table: Tensor, weight: Tensor) -> Tensor:
        ctx.layer = FirstLayer(table, weight)
        summed = torch.as_tensor(ctx.layer.always).expand(len(tokens), -1).contiguous()
        ctx.seen = ctx.layer.add_to(summed, tokens)
        return summed

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:  # type: ignore[override]
        return None, *ctx.layer.gradients(ctx.seen, gradient.contiguous())


@njit(cache=True)
def pairs(tokens, kinds):  # type: ignore[no-untyped-def]
    """The pairs [M, 2] of a cell and a token that occur, and which of them are in each sample.

    The number of a sample's pairs is filled up to a multiple of four, with M, M + 1 and M + 2, of which there are none.

    Args:
        tokens: uint8 [N, C].
        kinds: T.

    Returns:
        The pairs; the indices int32 [L] of each sample's pairs, one sample after the other; where each ends, int64 [N].
    """
    count, cells = tokens.shape
    number, found, size = np.full((cells, kinds), -1, np.int32), np.empty((cells * kinds, 2), np.int32), 0
    pair_of, ends, length = np.empty(tokens.size + 3 * count, np.int32), np.empty(count, np.int64), 0
    for n in range(count):
        for cell in range(cells):
            token = tokens[n, cell]
            if token != 0:
                if token >= kinds:
                    raise IndexError("a token is not in the table")
                pair = number[cell, token]
                if pair < 0:
                    pair = size
                    number[cell, token] = pair
                    found[pair, 0], found[pair, 1] = cell, token
                    size += 1
                pair_of[length] = pair
                length += 1
        for missing in range(-length % 4):
            pair_of[length + missing] = -1 - missing
        length += -length % 4
        ends[n] = length
    for at in range(length):
        if pair_of[at] < 0:
            pair_of[at] = size - 1 - pair_of[at]
    return found[:size], pair_of[:length], ends


@njit(cache=True)
def zeros(count, width):  # type: ignore[no-untyped-def]
    """Zeros float32 [N, H] which begin where a line of the cache does: vectors across two lines take twice as long."""
    numbers = np.zeros(count * width + 16, np.float32)
    first = -(numbers.ctypes.data // 4) % 16
    return numbers[first : first + count * width].reshape(count, width)


@njit(cache=True, fastmath=FAST)
def prepared(table, rows):  # type: ignore[no-untyped-def]
    """Of a table [T, E] and rows [C E, H] what `FirstLayer` needs: how tokens differ from token 0 [T, E], the rows'
    sums over cells [E, H], and what token 0 in all cells adds [H]."""
    beyond, over_cells, always = table - table[0], np.zeros((table.shape[1], rows.shape[1]), rows.dtype), rows[0] * 0
    for row in range(len(rows)):
        into, weights = over_cells[row % len(over_cells)], rows[row]
        for h in range(len(into)):
            into[h] += weights[h]
    for k in range(len(over_cells)):
        for h in range(len(always)):
            always[h] += table[0, k] * over_cells[k, h]
    return beyond, over_cells, always


@njit(cache=True, fastmath=FAST)
def added_by(cell, token, table, rows, into):  # type: ignore[no-untyped-def]
    """What a token adds in a cell, into [H]; for the rest see `add`."""
    size = table.shape[1]
    into[:] = 0
    for k in range(size):
        factor, weights = table[token, k], rows[cell * size + k]
        for h in range(len(into)):
            into[h] += factor * weights[h]


@njit(cache=True, fastmath=FAST)
def add(found, pair_of, ends, table, rows, summed):  # type: ignore[no-untyped-def]
    """Add to sums [N, H] what each token adds in its cell, of a table [T, E] and the rows [C E, H] of weights."""
    width = rows.shape[1]
    added = zeros(len(found) + 3, width)
    for pair in range(len(found)):
        added_by(found[pair, 0], found[pair, 1], table, rows, added[pair])
    begin = 0
    for n in range(len(ends)):
        into = summed[n]
        for at in range(begin, ends[n], 4):  # four at once, so that sums are read and written a quarter as often
            a, b, c, d = added[pair_of[at]], added[pair_of[at + 1]], added[pair_of[at + 2]], added[pair_of[at + 3]]
            for h in range(width):
                into[h] += (a[h] + b[h]) + (c[h] + d[h])
        begin = ends[n]


@njit(cache=True, fastmath=FAST)
def add_gradients(found, pair_of, ends, table, beyond, rows, over_cells, gradient, over_samples, of_rows, of_table):  # type: ignore[no-untyped-def]
    """Fill in the gradients of rows and table, of that in the sums [N, H] and of its sum over samples [H].

    Token 0 adds the same in all samples and cells, and the others what they differ by.
    """
    size, width = table.shape[1], rows.shape[1]
    for row in range(len(rows)):
        factor, into = table[0, row % size], of_rows[row]
        for h in range(width):
            into[h] = factor * over_samples[h]
    of_added = zeros(len(found) + 3, width)
    begin = 0
    for n in range(len(ends)):
        given = gradient[n]
        for at in range(begin, ends[n], 2):
            a, b = of_added[pair_of[at]], of_added[pair_of[at + 1]]
            for h in range(width):
                a[h] += given[h]
                b[h] += given[h]
        begin = ends[n]
    of_table[:] = 0
    for pair in range(len(found)):
        cell, token, given = found[pair, 0], found[pair, 1], of_added[pair]
        for k in range(size):
            factor, weights, into = beyond[token, k], rows[cell * size + k], of_rows[cell * size + k]
            total = np.float32(0)
            for h in range(width):
                into[h] += factor * given[h]
                total += weights[h] * given[h]
            of_table[token, k] += total
    for k in range(size):
        total = np.float32(0)
        for h in range(width):
            total += over_cells[k, h] * over_samples[h]
        for token in range(1, len(of_table)):
            total -= of_table[token, k]
        of_table[0, k] = total
