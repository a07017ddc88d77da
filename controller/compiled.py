"""A network over tokens for play: trunk and head compiled as one function, which a few observations at a time need.

There a library's overhead per operation is most of what a network costs. What a token adds in a cell is worked out when
it is first met, and kept until the weights change.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import nn

from preceptor.controller.seen import FAST, FirstLayer, added_by, check_shape

if TYPE_CHECKING:
    from preceptor.controller.network import TokenTrunk

MOST = 512  # observations; more are faster as matrix products


class InPlay:
    """A trunk and a linear head as one function of arrays in main memory, compiled anew where weights have changed.

    They have to change in ways that torch counts: not by way of `.data`.

    Args:
        trunk: Its features are what comes out, if there is no head.
        head: Its outputs come out.
    """

    def __init__(self, trunk: "TokenTrunk", head: nn.Linear | None = None) -> None:
        self._trunk, self._layers = trunk, (trunk.others, trunk.hidden, *([head] if head else []))
        self._state: list[tuple[int, int]] = []

    def __call__(self, tokens: NDArray[np.uint8], others: NDArray[np.float32]) -> NDArray[np.float32]:
        """Outputs [N, P] of tokens [N, cells] and the trunk's other inputs side by side [N, ...].

        Raises:
            ValueError: They are of other sizes than the weights are for.
            IndexError: There is no such token.
        """
        first = self._trunk.embed.weight, self._trunk.cells.weight
        parts = *first, *(part for layer in self._layers for part in (layer.weight, layer.bias))
        state = [(part.data_ptr(), part._version) for part in parts]
        if state != self._state:
            self._compile()
            self._state = state
        check_shape((len(tokens), len(self._seen[1]) // self._seen[0].shape[1]), tokens)
        check_shape((len(tokens), len(self._others[0])), others)
        summed, features = torch.empty(2, len(tokens), len(self._others[1])).numpy()
        outputs = np.empty((len(tokens), len(self._head[1])), np.float32)
        weights = self._seen, self._others, self._hidden, self._head
        _outputs(tokens, others, *weights, self._known, summed, features, outputs)
        return outputs if len(self._layers) > 2 else features

    def __getstate__(self) -> dict[str, Any]:
        """Without what is compiled, which a copy makes for itself."""
        return {"_trunk": self._trunk, "_layers": self._layers, "_state": []}

    def takes(self, observations: int) -> bool:
        """Whether so many go this way: few, and the network is in main memory."""
        return observations <= MOST and self._trunk.hidden.weight.is_cpu

    def _compile(self) -> None:
        layer = FirstLayer(self._trunk.embed(self._trunk.get_buffer("parts")), self._trunk.cells.weight)
        self._seen = layer.beyond, layer.rows
        others, self._hidden = map(_weights, self._layers[:2])
        self._others = others[0], others[1] + layer.always
        width = len(others[1])
        head = self._layers[2:]
        self._head = np.zeros((0, width), np.float32), np.zeros(0, np.float32)
        if head:
            self._head = head[0].weight.detach().numpy(), head[0].bias.detach().numpy()
        pairs = len(layer.rows) // layer.beyond.shape[1] * len(layer.beyond)
        self._known = np.zeros(pairs, np.bool_), torch.zeros(pairs, width).numpy()  # torch aligns it with vectors


def _weights(layer: nn.Linear) -> tuple[NDArray[Any], NDArray[Any]]:
    """Of a layer [inputs, outputs], and its bias."""
    return layer.weight.detach().t().contiguous().numpy(), layer.bias.detach().numpy()


@njit(cache=True, fastmath=FAST)
def _outputs(tokens, others, seen, of_others, of_hidden, of_head, known, summed, features, outputs):  # type: ignore[no-untyped-def]
    (table, rows), (met, added) = seen, known
    kinds, width, codes = len(table), summed.shape[1], np.empty(tokens.shape[1] + 3, np.int64)
    _layer(others, *of_others, summed)
    for n in range(len(tokens)):
        into, found = summed[n], 0
        for cell in range(tokens.shape[1]):
            token = tokens[n, cell]
            if token >= kinds:
                raise IndexError("a token is not in the table")
            if token != 0:
                code = cell * kinds + token
                if not met[code]:
                    added_by(cell, token, table, rows, added[code])
                    met[code] = True
                codes[found] = code
                found += 1
        codes[found : found + 3] = 0  # which adds nothing
        for at in range(0, found, 4):
            a, b, c, d = added[codes[at]], added[codes[at + 1]], added[codes[at + 2]], added[codes[at + 3]]
            for h in range(width):
                into[h] += (a[h] + b[h]) + (c[h] + d[h])
    rectify(summed)
    _layer(summed, *of_hidden, features)
    rectify(features)
    put_product(features, *of_head, outputs)


@njit(cache=True, fastmath=FAST)
def _layer(inputs, weights, bias, outputs):  # type: ignore[no-untyped-def]
    # Each row by itself, whatever the others are: play of several agents is to the bit that of each alone
    fours = inputs.shape[1] // 4 * 4
    for n in range(len(inputs)):
        row, into = inputs[n], outputs[n]
        into[:] = bias
        for i in range(0, fours, 4):  # four at once, so that sums are read and written a quarter as often
            a, b, c, d = row[i], row[i + 1], row[i + 2], row[i + 3]
            of_a, of_b, of_c, of_d = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
            for h in range(len(into)):
                into[h] += a * of_a[h] + b * of_b[h] + c * of_c[h] + d * of_d[h]
        for i in range(fours, len(row)):
            factor, weight = row[i], weights[i]
            for h in range(len(into)):
                into[h] += factor * weight[h]


@njit(cache=True, fastmath=FAST)
def put_product(left, right, bias, into):  # type: ignore[no-untyped-def]
    """Fill in the sums [N, P] of bias [P] and the product of left [N, I] and right [P, I], of which P are few."""
    for n in range(len(left)):
        row = left[n]
        for p in range(len(right)):
            other, total = right[p], bias[p]
            for i in range(len(row)):
                total += row[i] * other[i]
            into[n, p] = total


@njit(cache=True, fastmath=FAST)
def rectify(numbers):  # type: ignore[no-untyped-def]
    """Set what is negative of [N, H] to zero."""
    for n in range(len(numbers)):
        for h in range(numbers.shape[1]):
            numbers[n, h] = np.float32(0) if numbers[n, h] <= 0 else numbers[n, h]  # NaN stays NaN


def probabilities(outputs: NDArray[np.float32], first: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    """Softmax [N, C] of C outputs of [N, P], from `first` [N] on."""
    probs = np.empty((len(outputs), count), np.float32)
    _softmax(outputs, first, probs)
    return probs


@njit(cache=True)
def _softmax(outputs, first, probs):  # type: ignore[no-untyped-def]
    for n in range(len(outputs)):
        highest, total = -np.inf, 0.0
        for c in range(probs.shape[1]):
            highest = max(highest, outputs[n, first[n] + c])
        for c in range(probs.shape[1]):
            probs[n, c] = np.exp(outputs[n, first[n] + c] - highest)
            total += probs[n, c]
        for c in range(probs.shape[1]):
            probs[n, c] /= total
