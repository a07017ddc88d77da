"""A trunk over tokens for play: compiled as one function, which a few observations at a time need.

There a library's overhead per operation is most of what a network costs. What a token adds in a cell is worked out when
it is first met, and kept until the weights change.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from preceptor.controller.seen import FAST, FirstLayer, added_by

MOST = 512  # observations; more are faster as matrix products


class CompiledTrunk:
    """Features of a trunk. Where its weights change, it has to be made anew.

    Args:
        table: Of tokens [T, E].
        cells: Weights [H, C E] of cells.
        others: Weights [H, P] of other inputs, and biases [H]; `hidden` likewise of the second layer.
    """

    def __init__(
        self, table: Tensor, cells: Tensor, others: tuple[Tensor, Tensor], hidden: tuple[Tensor, Tensor]
    ) -> None:
        layer, (tokens, size) = FirstLayer(table, cells), table.shape
        of_others, always = others[0].t().contiguous(), others[1] + layer.always
        found = layer.beyond, layer.rows, of_others, always, hidden[0].t().contiguous(), hidden[1]
        self._weights = tuple(part.detach().numpy() for part in found)
        pairs = len(layer.rows) // size, tokens
        self._known = np.zeros(pairs, np.bool_), np.empty((*pairs, len(cells)), np.float32)

    def __call__(self, tokens: NDArray[np.uint8], others: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features [N, H] of tokens [N, C] and other inputs [N, P]; `ValueError` for others than the weights are of."""
        wanted = (len(tokens), len(self._known[0])), (len(tokens), len(self._weights[2]))
        if (tokens.shape, others.shape) != wanted:
            raise ValueError(f"inputs of shapes {tokens.shape} and {others.shape}, not {wanted[0]} and {wanted[1]}")
        summed, features = np.empty((2, len(tokens), self._weights[1].shape[1]), np.float32)
        _features(tokens, others, *self._weights, *self._known, summed, features)
        return features  # type: ignore[no-any-return]


@njit(cache=True, fastmath=FAST)
def _features(tokens, others, table, rows, of_others, always, of_hidden, bias, known, added, summed, features):  # type: ignore[no-untyped-def]
    width = len(bias)
    _layer(others, of_others, always, summed)
    for n in range(len(tokens)):
        into = summed[n]
        for cell in range(tokens.shape[1]):
            token = tokens[n, cell]
            if token >= added.shape[1]:
                raise IndexError("a token is not in the table")
            if token != 0:
                if not known[cell, token]:
                    added_by(cell, token, table, rows, added[cell, token])
                    known[cell, token] = True
                more = added[cell, token]
                for h in range(width):
                    into[h] += more[h]
        for h in range(width):
            into[h] = np.float32(0) if into[h] <= 0 else into[h]  # NaN stays NaN
    _layer(summed, of_hidden, bias, features)
    for n in range(len(tokens)):
        for h in range(width):
            features[n, h] = np.float32(0) if features[n, h] <= 0 else features[n, h]


@njit(cache=True, fastmath=FAST)
def _layer(inputs, weights, bias, outputs):  # type: ignore[no-untyped-def]
    for n in range(len(inputs)):
        into = outputs[n]
        into[:] = bias
        for i in range(inputs.shape[1]):
            factor = inputs[n, i]
            if factor != 0:  # half of them are
                row = weights[i]
                for h in range(len(into)):
                    into[h] += factor * row[h]
