"""The two losses and their parts, against what they are by hand."""

import math

import numpy as np
import pytest
import torch

from preceptor.agent.losses import PriorActions, PriorWeight, ValueLoss, explained_variance, prior_regularised
from preceptor.controller.distill import weighted_regression


def test_the_best_policy_under_loss_l1_is_the_prior_tilted_by_the_values() -> None:
    """Of -E[Q] + lambda KL(pi || prior) the gradient vanishes where pi is prior * exp(Q / lambda), normalised."""
    values, prior, weight = torch.tensor([1.0, -0.5, 0.3]), torch.tensor([0.2, 0.5, 0.3]), 0.7
    for away in (0.0, 0.1):
        logits = (prior.log() + values / weight + torch.tensor([away, 0.0, 0.0])).requires_grad_()
        policy = torch.softmax(logits, 0)
        loss = prior_regularised(-(policy * values).sum()[None], (policy * (policy / prior).log()).sum()[None], weight)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert (gradient.abs().max() < 1e-6) == (away == 0)
    losses, divergence = torch.tensor([1.0, 3.0]), torch.tensor([0.5, 1.5])
    assert prior_regularised(losses, divergence, 2.0) == prior_regularised(losses.mean(), divergence, 2.0) == 4.0


def test_an_annealed_weight_falls_from_its_start_to_zero_at_its_end() -> None:
    weight = PriorWeight(0.4, start=100, end=300)
    assert [weight(step) for step in (0, 100, 200, 300, 900)] == pytest.approx([0.4, 0.4, 0.2, 0.0, 0.0])
    assert PriorWeight(0.4)(10**9) == 0.4


def test_a_tuned_weight_rises_while_the_policy_strays_and_goes_on_after_a_resume() -> None:
    weight = PriorWeight(1.0, target=0.1)
    weight.observe(0.1)
    assert weight(0) == 1.0
    weight.observe(0.2)
    assert weight(0) == pytest.approx(math.exp(0.05))
    again = PriorWeight(1.0, target=0.1)
    again.load_state_dict(weight.state_dict())
    for either in (weight, again):
        either.observe(0.0)
        either.observe(0.0)
    assert weight(0) == again(0) == pytest.approx(math.exp(-0.05))


def test_loss_l2_sums_over_groups_and_is_cross_entropy_for_soft_targets() -> None:
    log_probs = torch.log_softmax(torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0]]), 1)
    targets = torch.tensor([[0.1, 0.6, 0.3], [0.0, 0.0, 1.0]])
    expected = torch.nn.functional.cross_entropy(log_probs, targets, reduction="none")
    assert torch.allclose(weighted_regression(log_probs, targets), expected)
    two_groups = weighted_regression(torch.tensor([[-1.0, -2.0]]), torch.tensor([[0.5, 3.0]]))
    assert two_groups.tolist() == [6.5]


def test_the_minimum_of_the_expectile_loss_is_the_expectile() -> None:
    """0.9 of the pull from above balances 0.1 from below: of {0, 1} that is .9."""
    samples, grid = torch.tensor([0.0, 1.0]), torch.linspace(0, 1, 1001)
    loss = ValueLoss("expectile", 0.9)(samples[:, None] - grid).sum(0)
    assert float(grid[loss.argmin()]) == pytest.approx(0.9)
    assert torch.equal(ValueLoss("expectile", 0.5)(samples), 0.25 * samples.square())


def test_explained_variance_is_one_where_the_prediction_is_perfect_and_zero_at_the_mean() -> None:
    target = np.array([0.0, 1.0, 2.0], np.float32)
    assert [explained_variance(guess, target) for guess in (target + 5, 0 * target, -target)] == [1.0, 0.0, -3.0]
    assert explained_variance(target, 0 * target) == 0.0


def test_a_prior_that_the_critics_value_less_does_not_hold_the_actor_back() -> None:
    def twins(obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return torch.stack((action.sum(-1), action.sum(-1) - 0.1))

    obs, action = torch.zeros(3, 1), torch.tensor([[0.5], [0.5], [-0.5]], requires_grad=True)
    value, prior = action.sum(-1), torch.tensor([[1.0], [0.0], [-0.45]])
    for filtered, squares in ((False, 0.25 + 0.25 + 0.0025), (True, 0.25)):  # both critics have to value it more
        loss = PriorActions(prior, 0.4, filtered).regularised(torch.zeros(()), obs, action, value, twins)
        assert float(loss.detach()) == pytest.approx(0.4 * 0.5 * squares / 3)
    loss.backward()
    assert action.grad is not None
    assert action.grad[:, 0].tolist() == pytest.approx([-0.4 * 0.5 / 3, 0.0, 0.0]), "the unit of the values is fixed"
