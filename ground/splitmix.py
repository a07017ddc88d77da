"""splitmix64 (Steele, Lea & Flood, 2014): random numbers as a function of a counter, in compiled code.

The state is one integer, so that neither NumPy's streams nor the order of environments can change what one is given.
"""

import numpy as np
from numba import njit

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # what the counter grows by
_MIX_A, _MIX_B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)


@njit(cache=True)
def mix(z: np.uint64) -> np.uint64:
    """The output function of splitmix64."""
    z = (z ^ (z >> _S30)) * _MIX_A
    z = (z ^ (z >> _S27)) * _MIX_B
    return z ^ (z >> _S31)


@njit(cache=True)
def combine(first: int, second: int) -> np.uint64:
    """One 64-bit key of two integers."""
    return mix(mix(np.uint64(first) + GOLDEN) ^ np.uint64(second))


@njit(cache=True)
def scale(bits: np.uint64, n: int) -> np.int64:
    """An integer in [0, n) from 64 random bits; the bias, n / 2**32, is below 0.03% for all our n."""
    return np.int64(((bits >> _S32) * np.uint64(n)) >> _S32)
