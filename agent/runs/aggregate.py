"""Scores of several runs of several tasks as one figure: the interquartile mean, and performance profiles.

Definitions and intervals are those of Agarwal et al. (2021), "Deep reinforcement learning at the edge of the
statistical precipice", and of their library rliable: runs are resampled within each task.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preceptor.agent.runs.statistics import RESAMPLES, bootstrap


def interquartile_mean(scores: Sequence[ArrayLike]) -> tuple[float, float, float]:
    """Mean of the middle half of all runs, with its stratified 95% bootstrap interval: `(value, low, high)`.

    Args:
        scores: Of the runs of each task, [R_i] each.
    """

    def middle(tasks: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        ordered = np.sort(np.concatenate(tasks, axis=1), axis=1)
        cut = ordered.shape[1] // 4
        return ordered[:, cut : ordered.shape[1] - cut].mean(axis=1)

    value, low, high = bootstrap(scores, middle).tolist()
    return value, low, high


def performance_profile(
    scores: Sequence[ArrayLike], thresholds: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Share of runs whose score is above each threshold [T], tasks weighing alike, with a pointwise 95% interval.

    Args:
        scores: Of the runs of each task, [R_i] each.
        thresholds: [T].

    Returns:
        Shares, and the lower and upper ends of their intervals, [T] each.
    """
    above = [np.asarray(task, dtype=float)[:, None] > thresholds for task in scores]  # [R_i, T]
    shares, low, high = bootstrap(above, lambda tasks: np.mean([task.mean(1) for task in tasks], 0), RESAMPLES // 10)
    return shares, low, high
