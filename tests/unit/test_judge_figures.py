"""The figures of `labels judge`, against evidence whose figures are known."""

from typing import Any

import pytest

from agent.labels.figures import Evidence, MenuOrder, measure

RIGHT, WRONG = Evidence((1.0, 0.0), 0), Evidence((1.0, 0.0), 1)


def test_accuracy_counts_ties_and_abstentions_as_wrong() -> None:
    figures = measure([Evidence(probs) for probs in ((0.9, 0.1), (0.5, 0.5), (), (0.2, 0.8))])
    assert (figures["scenes"], figures["accuracy"], figures["abstained"]) == (4, 0.25, 0.25)
    assert figures["low"] == pytest.approx(0.0456, abs=1e-3)  # Wilson's interval of 1 in 4
    assert figures["high"] > 0.25


@pytest.mark.parametrize(
    ("scenes", "ece", "brier"),
    [
        ([RIGHT, Evidence()], 0.0, 0.0),
        ([WRONG], 1.0, 2.0),
        ([Evidence((0.75, 0.25), truth) for truth in (0, 0, 0, 1)], 0.0, (3 * 2 * 0.25**2 + 2 * 0.75**2) / 4),
        ([RIGHT, Evidence((0.0, 0.0, 1.0), 2)], 0.0, 0.0),
        ([Evidence()], None, None),
    ],
)
def test_calibration_is_of_the_best_option_and_leaves_abstentions_out(
    scenes: list[Evidence], ece: float | None, brier: float | None
) -> None:
    figures = measure(scenes)
    assert (figures["ece"], figures["brier"]) == (pytest.approx(ece, abs=1e-6), pytest.approx(brier))


@pytest.mark.parametrize(
    ("scenes", "bias", "changes"),
    [
        ([[((0, 1), (1.0, 0.0)), ((1, 0), (1.0, 0.0))]], 0.5, 1.0),  # likes the first place
        ([[((0, 1), (1.0, 0.0)), ((1, 0), (0.0, 1.0))]], 0.0, 0.0),
        ([[((0, 1), (0.5, 0.5))], [((0, 1, 2), (1.0, 0.0, 0.0))]], (0 + 2 / 3) / 2, None),  # none in several orders
        ([[((2, 1), (0.5, 0.5)), ((1, 2), (0.5, 0.5))]], 0.0, 0.0),  # a tie is the same choice in both orders
    ],
)
def test_places_on_the_menu(scenes: list[Any], bias: float, changes: float | None) -> None:
    figures = measure([Evidence(orders=[MenuOrder(*order) for order in orders]) for orders in scenes])
    assert (figures["position_bias"], figures["order_changes"]) == (pytest.approx(bias), changes)


def test_calls_and_their_cost() -> None:
    seconds = [0.01 * number for number in range(1, 101)]
    figures = measure([Evidence(calls=125, tokens=600, seconds=seconds), *[Evidence(calls=25, tokens=100)] * 3])
    assert (figures["valid"], figures["tokens_per_scene"], figures["calls"]) == (0.5, 225.0, 200)
    assert figures["seconds_p50"] == pytest.approx(0.505)
    assert figures["seconds_p95"] == pytest.approx(0.9505)
    nothing = measure([])
    assert all(nothing[name] is None for name in ("accuracy", "valid", "seconds_p50", "position_bias", "abstained"))
