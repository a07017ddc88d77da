"""A trunk over tokens with linear heads, forwards and backwards, each as one compiled function of arrays.

Batches are so small that a library's overhead for each of some forty operations is more than their arithmetic. Products
of matrices are loops here: BLAS within compiled functions would need SciPy, and is no faster for these sizes.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from preceptor.controller.compiled import put_product, rectify
from preceptor.controller.seen import FAST, add, add_gradients, pairs, prepared, zeros

Floats = NDArray[np.float32]


class Weights(NamedTuple):
    """Of T tokens described by F numbers, E numbers per token, C cells, P other inputs, H units and O outputs.

    Attributes:
        parts: What tokens are [T, F].
        embed: [E, F].
        rows: Of the cells [C E, H].
        others: [H, P].
        bias: [H].
        hidden: [H, H], from the first layer (second index) to the second.
        hidden_bias: [H].
        heads: [O, H].
        heads_bias: [O].
    """

    parts: Floats
    embed: Floats
    rows: Floats
    others: Floats
    bias: Floats
    hidden: Floats
    hidden_bias: Floats
    heads: Floats
    heads_bias: Floats


@njit(cache=True, fastmath=FAST)
def forwards(tokens, others, weights):  # type: ignore[no-untyped-def]
    """Outputs [N, O] of tokens [N, C] and other inputs [N, P], and what `backwards` needs of the way there."""
    count, width = len(tokens), len(weights.bias)
    table = np.empty((len(weights.parts), len(weights.embed)), np.float32)
    put_product(weights.parts, weights.embed, np.zeros(len(weights.embed), np.float32), table)
    beyond, over_cells, always = prepared(table, weights.rows)
    seen = pairs(tokens, len(table))
    first = zeros(count, width)
    first[:] = weights.bias + always
    add_product(others, np.ascontiguousarray(weights.others.T), first)
    add(*seen, beyond, weights.rows, first)
    rectify(first)
    second = zeros(count, width)
    second[:] = weights.hidden_bias
    add_product(first, np.ascontiguousarray(weights.hidden.T), second)
    rectify(second)
    outputs = np.empty((count, len(weights.heads)), np.float32)
    put_product(second, weights.heads, weights.heads_bias, outputs)
    return outputs, (table, beyond, over_cells, seen, first, second)


@njit(cache=True, fastmath=FAST)
def backwards(given, others, weights, way, made):  # type: ignore[no-untyped-def]
    """Fill in the gradients of all weights.

    Args:
        given: That in the outputs [N, O].
        others: As `forwards` has it.
        weights: Likewise.
        way: What `forwards` gave besides outputs.
        made: The gradients, in arrays of the weights' shapes, but for that of `parts`, which stays as it is.
    """
    table, beyond, over_cells, seen, first, second = way
    to_second, to_first = zeros(*second.shape), zeros(*first.shape)
    made.heads_bias[:] = 0
    for n in range(len(given)):
        for o in range(given.shape[1]):
            made.heads_bias[o] += given[n, o]
    made.heads[:] = 0
    add_product(given.T, second, made.heads)
    add_product(given, weights.heads, to_second)
    stop(second, to_second, made.hidden_bias)
    made.hidden[:] = 0
    add_product(to_second.T, first, made.hidden)
    add_product(to_second, weights.hidden, to_first)
    stop(first, to_first, made.bias)
    of_others = zeros(others.shape[1], first.shape[1])
    add_product(others.T, to_first, of_others)
    made.others[:] = of_others.T
    of_table = np.empty_like(table)
    add_gradients(*seen, table, beyond, weights.rows, over_cells, to_first, made.bias, made.rows, of_table)
    made.embed[:] = 0
    add_product(of_table.T, weights.parts, made.embed)


@njit(cache=True, fastmath=FAST)
def stop(activated, gradient, over_samples):  # type: ignore[no-untyped-def]
    """Set a gradient [N, H] to zero where units are at rest, and fill in its sum over samples [H]."""
    over_samples[:] = 0
    for n in range(len(gradient)):
        units, given = activated[n], gradient[n]
        for h in range(len(given)):
            given[h] = np.float32(0) if units[h] <= 0 else given[h]
            over_samples[h] += given[h]


@njit(cache=True, fastmath=FAST)
def add_product(left, right, into):  # type: ignore[no-untyped-def]
    """Add the product of left [N, I] and right [I, H] to `into` [N, H]."""
    count, inner, width = len(left) // 4 * 4, left.shape[1] // 4 * 4, right.shape[1]
    for n in range(0, count, 4):  # blocks, of whose numbers each is used four times when it is loaded
        for i in range(0, inner, 4):
            a0, a1, a2, a3 = left[n, i], left[n, i + 1], left[n, i + 2], left[n, i + 3]
            b0, b1, b2, b3 = left[n + 1, i], left[n + 1, i + 1], left[n + 1, i + 2], left[n + 1, i + 3]
            c0, c1, c2, c3 = left[n + 2, i], left[n + 2, i + 1], left[n + 2, i + 2], left[n + 2, i + 3]
            d0, d1, d2, d3 = left[n + 3, i], left[n + 3, i + 1], left[n + 3, i + 2], left[n + 3, i + 3]
            for h in range(width):
                r0, r1, r2, r3 = right[i, h], right[i + 1, h], right[i + 2, h], right[i + 3, h]
                into[n, h] += a0 * r0 + a1 * r1 + a2 * r2 + a3 * r3
                into[n + 1, h] += b0 * r0 + b1 * r1 + b2 * r2 + b3 * r3
                into[n + 2, h] += c0 * r0 + c1 * r1 + c2 * r2 + c3 * r3
                into[n + 3, h] += d0 * r0 + d1 * r1 + d2 * r2 + d3 * r3
    for n in range(len(left)):
        for i in range(inner if n < count else 0, left.shape[1]):
            factor = left[n, i]
            for h in range(width):
                into[n, h] += factor * right[i, h]
