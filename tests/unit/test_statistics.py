"""Intervals against published and hand-computed values."""

import numpy as np
import pytest

from preceptor.agent.runs.statistics import mcnemar, mean_interval, paired_difference, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe (1998), table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson_equals_the_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_at_its_edges() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson(3, 2)


def test_mcnemar_is_the_binomial_tail_of_the_discordant_levels() -> None:
    first, second = ([one] * 8 + [not one] + [True] * 50 for one in (True, False))
    assert mcnemar(first, second) == pytest.approx(2 * (1 + 9) / 2**9)
    assert mcnemar(first, first) == 1.0


def test_a_paired_difference_is_tighter_than_an_unpaired_one() -> None:
    rng = np.random.default_rng(0)
    level = rng.random(300) < 0.5
    better = level | (rng.random(300) < 0.1)
    mean, low, high = paired_difference(better, level)
    assert mean == pytest.approx(better.mean() - level.mean())
    assert 0 < low < mean < high < 0.1


def test_a_bootstrap_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    intervals = [mean_interval(rng.normal(size=30)) for _ in range(60)]
    covered = sum(low < 0 < high for _, low, high in intervals)
    assert 50 <= covered < 60
    with pytest.raises(ValueError, match="empty"):
        mean_interval([])
