"""Adam's step (Kingma and Ba, 2015, algorithm 1) for many small arrays as one compiled function, gradients clipped.

Torch's fused function costs some microseconds for each of them, and clipping as many again. Here arrays are addresses
in main memory, so that one function, compiled once, takes any number of them.
"""

from collections.abc import Sequence

import numpy as np
from llvmlite.ir import IRBuilder, Value
from numba import carray, njit, types
from numba.extending import intrinsic
from torch import Tensor

_FAST = {"reassoc", "contract", "nsz"}  # sums in any order; NaN stays NaN


def step(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    counts: Sequence[float],
    lr: float,
    betas: Sequence[float],
    eps: float,
    max_norm: float | None,
) -> None:
    """One step in place, of float32 in main memory; what belongs to one parameter is laid out alike, without gaps.

    Args:
        parameters: What learns.
        gradients: Of each.
        means: The first moments.
        squares: The second moments.
        counts: How many steps each has made, this one included.
        lr: Learning rate.
        betas: How much of the moments is kept.
        eps: Added to the root of the second moment.
        max_norm: Norm to which all gradients together are scaled down where they are longer; None for no scaling.
    """
    places = np.array([[each.data_ptr() for each in kind] for kind in (parameters, gradients, means, squares)])
    sizes = np.array([each.numel() for each in parameters])
    settings = lr, *betas, eps, np.inf if max_norm is None else max_norm
    _step(places, sizes, np.array(counts), *map(float, settings))


@intrinsic
def _pointer(typing, address):  # type: ignore[no-untyped-def]
    kind = types.CPointer(types.float32)

    def made(context, builder: IRBuilder, signature, arguments: Sequence[Value]) -> Value:  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[0], context.get_value_type(kind))

    return kind(types.intp), made


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _step(places, sizes, counts, lr, beta, beta_of_squares, eps, max_norm):  # type: ignore[no-untyped-def]
    scale, squares = np.float32(1), 0.0
    if max_norm < np.inf:
        for k in range(len(sizes)):
            gradient, total = carray(_pointer(places[1, k]), (sizes[k],)), np.float32(0)
            for i in range(len(gradient)):
                total += gradient[i] * gradient[i]
            squares += float(total)
        over = (np.sqrt(squares) + 1e-6) / max_norm
        scale = np.float32(1 if over <= 1 else 1 / over)  # NaN where it is
    # 1 - .999 in double precision: of a rounded .999 it is wrong by 1e-5
    new, kept_squares, new_squares = np.float32(1 - beta), np.float32(beta_of_squares), np.float32(1 - beta_of_squares)
    for k in range(len(sizes)):
        weights, gradient = carray(_pointer(places[0, k]), (sizes[k],)), carray(_pointer(places[1, k]), (sizes[k],))
        mean, square = carray(_pointer(places[2, k]), (sizes[k],)), carray(_pointer(places[3, k]), (sizes[k],))
        pace = np.float32(lr / (1 - beta ** counts[k]))
        correction, least = np.float32(1 / np.sqrt(1 - beta_of_squares ** counts[k])), np.float32(eps)
        for i in range(len(weights)):
            given = scale * gradient[i]
            mean[i] += new * (given - mean[i])
            square[i] = kept_squares * square[i] + new_squares * given * given
            weights[i] -= pace * mean[i] / (correction * np.sqrt(square[i]) + least)
