"""Intervals for success rates, for paired comparisons on the same levels, and for means over training seeds."""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95% score interval of a success rate (Wilson, 1927); right at 0 of n and n of n, where the normal one is not.

    Returns `(0.0, 1.0)` if `n` is 0. Raises `ValueError` unless `0 <= successes <= n`.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.975)
    rate, z2 = successes / n, z * z
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    return low, 1.0 if successes == n else min(1.0, centre + half)


def widened(interval: tuple[float, float, float], episodes: float) -> tuple[float, float]:
    """The ends of an interval `(rate, low, high)` over runs, no narrower than Wilson's of all their episodes: two runs
    that happen to agree say no more than their episodes do."""
    rate, low, high = interval
    if not episodes:
        return low, high
    least, most = wilson(round(rate * episodes), round(episodes))
    return min(low, least), max(high, most)


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """Exact two-sided p-value that two players succeed equally often on the same levels (McNemar, 1947).

    Args:
        first: Success of one player on each level, [N].
        second: Success of the other on the same levels, [N].
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_first + only_second
    tail = sum(math.comb(discordant, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**discordant)


def paired_difference(first: ArrayLike, second: ArrayLike) -> tuple[float, float, float]:
    """Mean of `first - second` over the same levels, [N] each, with a bootstrap interval: `(mean, low, high)`."""
    return mean_interval(np.asarray(first, dtype=float) - np.asarray(second, dtype=float))


def mean_interval(values: ArrayLike) -> tuple[float, float, float]:
    """Mean of independent values [N], with its bootstrap interval: `(mean, low, high)`."""
    mean, low, high = bootstrap([values], lambda strata: strata[0].mean(axis=1)).tolist()
    return mean, low, high


def bootstrap(
    strata: Sequence[ArrayLike],
    statistic: Callable[[Sequence[NDArray[np.float64]]], NDArray[np.float64]],
    resamples: int = RESAMPLES,
) -> NDArray[np.float64]:
    """A statistic with its stratified 95% percentile interval, value, low and high, [3, ...]; each stratum is resampled
    by itself, with a seed of its own, so that a table prints the same twice.

    Args:
        strata: One sample per stratum (a task, say), [N_i, ...] each.
        statistic: From strata of shape [R, N_i, ...] to R values, [R, ...].
        resamples: R.
    """
    samples = [np.asarray(stratum, dtype=float) for stratum in strata]
    if not samples or any(len(sample) == 0 for sample in samples):
        raise ValueError("a stratum is empty")
    rng = np.random.default_rng(0)
    resampled = [sample[rng.integers(len(sample), size=(resamples, len(sample)))] for sample in samples]
    value = statistic([sample[None] for sample in samples])
    return np.concatenate([value, np.quantile(statistic(resampled), [0.025, 0.975], axis=0)])
