"""The figures of `labels judge`, against evidence whose figures are known."""

import pytest

from agent.labels.figures import Evidence, Shown, measure


def test_accuracy_counts_ties_and_abstentions_as_wrong() -> None:
    probs = [(0.9, 0.1), (0.5, 0.5), (), (0.2, 0.8)]
    figures = measure(Evidence(probs=probs, truth=[0, 0, 0, 0]))
    assert (figures["scenes"], figures["accuracy"], figures["abstained"]) == (4, 0.25, 0.25)
    assert figures["low"] < 0.25 < figures["high"]
    assert figures["low"] == pytest.approx(0.0456, abs=1e-3)  # Wilson's interval of 1 in 4


def test_calibration_is_of_the_best_option_and_leaves_abstentions_out() -> None:
    sure_and_right = Evidence(probs=[(1.0, 0.0), ()], truth=[0, 1])
    assert measure(sure_and_right)["ece"] == measure(sure_and_right)["brier"] == 0.0
    sure_and_wrong = measure(Evidence(probs=[(1.0, 0.0)], truth=[1]))
    assert (sure_and_wrong["ece"], sure_and_wrong["brier"]) == (1.0, 2.0)
    honest = measure(Evidence(probs=[(0.75, 0.25)] * 4, truth=[0, 0, 0, 1]))
    assert honest["ece"] == pytest.approx(0.0, abs=1e-6)
    assert honest["brier"] == pytest.approx((3 * 2 * 0.25**2 + 2 * 0.75**2) / 4)
    assert measure(Evidence(probs=[()], truth=[0]))["ece"] is None


def test_a_model_that_likes_the_first_place_is_seen() -> None:
    first = [Shown(0, (0, 1), (1.0, 0.0)), Shown(0, (1, 0), (1.0, 0.0))]
    figures = measure(Evidence(shown=first))
    assert (figures["position_bias"], figures["order_changes"]) == (0.5, 1.0)
    fair = [Shown(0, (0, 1), (1.0, 0.0)), Shown(0, (1, 0), (0.0, 1.0))]
    figures = measure(Evidence(shown=fair))
    assert (figures["position_bias"], figures["order_changes"]) == (0.0, 0.0)


def test_menus_of_each_length_are_compared_with_their_own_uniform_distribution() -> None:
    shown = [Shown(0, (0, 1), (0.5, 0.5)), Shown(1, (0, 1, 2), (1.0, 0.0, 0.0))]
    assert measure(Evidence(shown=shown))["position_bias"] == pytest.approx((0 + 2 / 3) / 2)
    assert measure(Evidence(shown=shown))["order_changes"] is None, "no scene was shown twice"


def test_equal_best_options_are_the_same_choice_wherever_they_stand() -> None:
    assert Shown(0, (2, 1), (0.5, 0.5)).choice == Shown(0, (1, 2), (0.5, 0.5)).choice == 1


def test_calls_and_their_cost() -> None:
    seconds = [0.01 * number for number in range(1, 101)]
    figures = measure(Evidence(truth=[0] * 4, probs=[()] * 4, calls=200, valid=150, tokens=1000, seconds=seconds))
    assert (figures["valid"], figures["tokens_per_scene"], figures["calls"]) == (0.75, 250.0, 200)
    assert figures["seconds_p50"] == pytest.approx(0.505)
    assert figures["seconds_p95"] == pytest.approx(0.9505)
    nothing = measure(Evidence())
    assert all(nothing[name] is None for name in ("accuracy", "valid", "seconds_p50", "position_bias", "abstained"))


def test_the_evidence_of_several_tasks_is_that_of_one() -> None:
    one = Evidence([(1.0, 0.0)], [0], [Shown(0, (0, 1), (1.0, 0.0))], 2, 1, 10, [0.1])
    other = Evidence([(0.0, 0.0, 1.0)], [2], [Shown(0, (2, 0), (0.0, 1.0))], 1, 1, 5, [0.2])
    both = Evidence.joined([one, other])
    assert [shown.scene for shown in both.shown] == [0, 1]
    figures = measure(both)
    assert (figures["scenes"], figures["accuracy"], figures["calls"], figures["tokens"]) == (2, 1.0, 3, 15)
