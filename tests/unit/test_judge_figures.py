"""The figures of `labels judge`, against labels and calls whose figures are known."""

from typing import Any

import pytest

from preceptor.agent.labels.judge import Seen, measure
from preceptor.teacher.base import Label
from preceptor.teacher.call import Call


def labelled(*pairs: tuple[tuple[float, ...], int]) -> dict[str, Any]:
    """The figures of labels, each with the right option; no probabilities are an abstention."""
    labels = [Label(probs or (0.0,), "s", "m", abstained=not probs) for probs, _ in pairs]
    return measure(Seen(labels, [truth for _, truth in pairs], []))


def call(scene: str, menu: tuple[int, ...], probs: tuple[float, ...], **rest: Any) -> Call:
    return Call("m", "p", "t", "o", (scene,), menu, 0, "", menu, "s", "m", "ok" if probs else "empty", probs, **rest)


def test_accuracy_counts_ties_and_abstentions_as_wrong() -> None:
    figures = labelled(*((probs, 0) for probs in ((0.9, 0.1), (0.5, 0.5), (), (0.2, 0.8))))
    assert (figures["scenes"], figures["accuracy"], figures["abstained"]) == (4, 0.25, 0.25)
    assert figures["low"] == pytest.approx(0.0456, abs=1e-3)  # Wilson's interval of 1 in 4
    assert figures["high"] > 0.25


@pytest.mark.parametrize(
    ("said", "ece", "brier"),
    [
        ([((1.0, 0.0), 0), ((), 0)], 0.0, 0.0),
        ([((1.0, 0.0), 1)], 1.0, 2.0),
        ([((0.75, 0.25), truth) for truth in (0, 0, 0, 1)], 0.0, (3 * 2 * 0.25**2 + 2 * 0.75**2) / 4),
        ([((1.0, 0.0), 0), ((0.0, 0.0, 1.0), 2)], 0.0, 0.0),  # of two tasks
        ([((), 0)], None, None),
    ],
)
def test_calibration_is_of_the_best_option_and_leaves_abstentions_out(
    said: list[Any], ece: float | None, brier: float | None
) -> None:
    figures = labelled(*said)
    assert (figures["ece"], figures["brier"]) == (pytest.approx(ece, abs=1e-6), pytest.approx(brier))


@pytest.mark.parametrize(
    ("orders", "bias", "changes"),
    [
        ([("x", (0, 1), (1.0, 0.0)), ("x", (1, 0), (0.0, 1.0))], 0.5, 1.0),  # likes the first place
        ([("x", (0, 1), (1.0, 0.0)), ("x", (1, 0), (1.0, 0.0))], 0.0, 0.0),
        ([("x", (0, 1), (1.0, 0.0)), ("x", (0, 1), (0.0, 1.0))], 0.0, None),  # two samples of one order
        ([("x", (0, 1), (0.5, 0.5)), ("y", (0, 1, 2), (1.0, 0.0, 0.0))], (0 + 2 / 3) / 2, None),
        ([("x", (2, 1), (0.0, 0.5, 0.5)), ("x", (1, 2), (0.0, 0.5, 0.5))], 0.0, 0.0),  # a tie is the same choice
    ],
)
def test_places_on_the_menu(orders: list[Any], bias: float, changes: float | None) -> None:
    figures = measure(Seen([], [], [call(*order) for order in orders]))
    assert (figures["position_bias"], figures["order_changes"]) == (pytest.approx(bias), changes)


def test_calls_and_their_cost() -> None:
    labels = [Label((1.0, 0.0), "s", "m")] * 4
    answers = [call(str(n), (0, 1), (1.0, 0.0), seconds=0.01 * n, tokens=6) for n in range(1, 101)]
    figures = measure(Seen(labels, [0] * 4, [*answers, *[call("", (0, 1), (), seconds=9.0, tokens=3)] * 100]))
    assert (figures["valid"], figures["tokens_per_scene"], figures["calls"]) == (0.5, 225.0, 200)
    assert figures["seconds_p50"] == pytest.approx(0.505)
    assert figures["seconds_p95"] == pytest.approx(0.9505)
    nothing = measure(Seen([], [], []))
    assert all(nothing[name] is None for name in ("accuracy", "valid", "seconds_p50", "position_bias", "abstained"))
