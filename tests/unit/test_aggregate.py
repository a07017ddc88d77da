"""Interquartile mean and performance profiles as rliable defines them, by hand.

Its interquartile mean is `scipy.stats.trim_mean(scores, 0.25)` over all runs of all tasks, its profile the share of
runs strictly above a threshold, and its bootstrap draws runs with replacement within each task.
"""

import numpy as np
import pytest

from preceptor.agent.runs.aggregate import interquartile_mean, performance_profile
from preceptor.agent.runs.statistics import widened, wilson


@pytest.mark.parametrize(
    ("scores", "mean"),
    [
        ([[0, 1, 2, 3], [100, 5, 6, 7]], (2 + 3 + 5 + 6) / 4),  # 0 1 | 2 3 5 6 | 7 100
        ([[9, 1, 2], [3, 4]], (2 + 3 + 4) / 3),  # of five runs int(1.25) = 1 is cut at each end
        ([[0, 1], [1]], 2 / 3),  # and of three none
    ],
)
def test_a_quarter_of_all_runs_is_cut_at_each_end(scores: list[list[float]], mean: float) -> None:
    assert interquartile_mean(scores)[0] == pytest.approx(mean)


def test_runs_are_drawn_within_their_task() -> None:
    assert interquartile_mean([[0.0, 0.0], [1.0, 1.0]]) == (0.5, 0.5, 0.5), "drawn from all four, it would vary"
    assert interquartile_mean([[0.0, 1.0]]) == (0.5, 0.0, 1.0), "0, 1/2 and 1 with 1/4, 1/2 and 1/4"
    value, low, high = interquartile_mean([np.repeat([0.0, 1.0], 500)])
    assert value == 0.5
    assert 0.40 < low < 0.45, "the middle half is all 0s or 1s but for about 0.5 -+ 2 * 0.0158 * 2"
    assert 0.55 < high < 0.60


def test_a_profile_is_the_share_of_runs_strictly_above() -> None:
    shares, low, high = performance_profile([[0.2, 0.6], [0.6, 1.0]], np.array([0.0, 0.2, 0.6, 0.9, 1.0]))
    assert shares.tolist() == [1.0, 0.75, 0.25, 0.25, 0.0]
    assert low.tolist() == [1.0, 0.5, 0.0, 0.0, 0.0]
    assert high.tolist() == [1.0, 1.0, 0.5, 0.5, 0.0]
    assert performance_profile([[1.0], [0.0, 0.0, 0.0]], np.array([0.5]))[0].tolist() == [0.5], "tasks weigh alike"


def test_an_interval_over_runs_is_no_narrower_than_that_of_their_episodes() -> None:
    assert widened((0.85, 0.85, 0.85), 40) == wilson(34, 40)
    assert widened((0.5, 0.1, 0.9), 1000) == (0.1, 0.9)
    assert widened((0.5, 0.4, 0.6), 0) == (0.4, 0.6), "where they were not counted"
