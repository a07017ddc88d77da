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

    return bootstrap(scores, middle)


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
    rng, samples = np.random.default_rng(0), [np.asarray(task, dtype=float) for task in scores]
    above = [(sample[:, None] > thresholds).astype(float) for sample in samples]  # [R_i, T]
    shares = [task.mean(axis=0) for task in above]
    resamples = RESAMPLES // 10
    drawn = [task[rng.integers(len(task), size=(resamples, len(task)))].mean(axis=1) for task in above]  # [B, T]
    low, high = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975], axis=0)
    return np.mean(shares, axis=0), low, high
