"""Draws from logits follow the distribution that temperature and nucleus leave, whatever else is in the batch."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.serving.local.sampling import draw, scored

LOGITS = st.lists(st.floats(-8, 8), min_size=2, max_size=12)


def distribution(logits: list[float], temperature: float, top_p: float, points: int = 4000) -> list[float]:
    """Frequencies over evenly spread numbers, which stand for all draws."""
    rows = torch.tensor([logits]).expand(points, -1)
    drawn = draw(rows, [temperature] * points, [top_p] * points, [(i + 0.5) / points for i in range(points)])
    return [drawn.count(token) / points for token in range(len(logits))]


@given(LOGITS, st.floats(0.2, 3.0))
@settings(max_examples=30, deadline=None)
def test_draws_follow_the_softmax_of_the_temperature(logits: list[float], temperature: float) -> None:
    expected = (torch.tensor(logits).double() / temperature).softmax(-1).tolist()
    assert distribution(logits, temperature, 1.0) == pytest.approx(expected, abs=1e-3)


@given(LOGITS, st.floats(0.05, 0.999))
@settings(max_examples=30, deadline=None)
def test_a_nucleus_is_the_fewest_tokens_that_hold_its_share(logits: list[float], top_p: float) -> None:
    probs = torch.tensor(logits).double().softmax(-1).tolist()
    order = sorted(range(len(probs)), key=lambda i: -probs[i])
    drawn = {token for token, share in enumerate(distribution(logits, 1.0, top_p)) if share > 0}
    least = next(n for n in range(1, len(order) + 1) if sum(probs[i] for i in order[:n]) >= top_p - 1e-9)
    floor = min(probs[i] for i in order[:least])
    assert all(probs[token] >= floor - 1e-9 for token in drawn)
    assert sum(probs[token] for token in drawn) >= min(top_p, sum(probs)) - 5e-3


def test_no_temperature_takes_the_most_probable_and_what_is_excluded_is_never_drawn() -> None:
    rows = torch.tensor([[1.0, 3.0, 2.0], [-math.inf, 0.0, -math.inf], [0.0, -math.inf, 0.0]])
    for number in (0.0, 0.5, math.nextafter(1.0, 0.0)):
        first, second, third = draw(rows, [0.0, 1.0, 1.0], [1.0, 1.0, 1.0], [number] * 3)
        assert (first, second) == (1, 1)
        assert third != 1


def test_a_draw_does_not_depend_on_the_batch() -> None:
    rows = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    temperatures, top_ps = [0.5 + i / 20 for i in range(20)], [0.9] * 10 + [1.0] * 10
    numbers = [i / 20 for i in range(20)]
    alone = [
        draw(rows[i : i + 1], temperatures[i : i + 1], top_ps[i : i + 1], numbers[i : i + 1])[0] for i in range(20)
    ]
    assert draw(rows, temperatures, top_ps, numbers) == alone


def test_scores_are_raw_log_probabilities_and_json_can_hold_them() -> None:
    (score,) = scored(torch.tensor([[0.0, math.log(3.0), -math.inf]]), [2], 5)
    assert score.logprob == -9999.0
    assert [token for token, _ in score.top] == [1, 0, 2]
    assert [value for _, value in score.top] == pytest.approx([math.log(0.75), math.log(0.25), -9999.0])
