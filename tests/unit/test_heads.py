"""Heads of policies against torch's own distributions."""

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, TanhTransform, TransformedDistribution, kl_divergence

from preceptor.agent import distributions
from preceptor.agent.distributions import ClippedNormal, SquashedNormal, UniformBox
from preceptor.agent.networks import CategoricalHead, GaussianHead


def gaussian(outputs):
    mean, log_std = outputs.double().chunk(2, -1)
    return Independent(Normal(mean, log_std.exp()), 1)


def test_gaussians_are_those_of_torch():
    torch.manual_seed(0)
    head, outputs, prior = GaussianHead(), 0.5 * torch.randn(40, 6), 0.5 * torch.randn(40, 6)
    action = torch.tanh(torch.randn(40, 3))
    squashed = TransformedDistribution(gaussian(outputs), [TanhTransform(cache_size=1)])
    divergence = kl_divergence(gaussian(outputs), gaussian(prior))
    for ours, theirs in (
        (head.log_prob(outputs, action), squashed.log_prob(action.double())),
        (head.entropy(outputs), gaussian(outputs).entropy()),
        (head.divergence(outputs, prior), divergence),
    ):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-3, rtol=1e-3)


def test_categoricals_are_those_of_torch_among_what_is_legal():
    torch.manual_seed(0)
    head, outputs, prior = CategoricalHead(), torch.randn(40, 5), torch.randn(40, 5)
    legal = torch.rand(40, 5) < 0.6
    legal[:, 0] = True
    allowed, wanted = (Categorical(logits=x.masked_fill(~legal, -1e9)) for x in (outputs, prior))
    action = allowed.sample()
    torch.testing.assert_close(head.log_prob(outputs, action, legal), allowed.log_prob(action))
    torch.testing.assert_close(head.entropy(outputs, legal), allowed.entropy())
    torch.testing.assert_close(head.divergence(outputs, prior, legal), kl_divergence(allowed, wanted))


@pytest.mark.parametrize("spread", [-2.0, 0.5, 2.0])
def test_what_is_drawn_has_the_log_probability_that_is_computed_again_from_the_stored_action(spread):
    """To the edge of the box, where float32 rounds most: the ratio of an unchanged policy is one."""
    torch.manual_seed(0)
    head, outputs = GaussianHead(), torch.cat([3 * torch.randn(500, 2), torch.full((500, 2), spread)], 1)
    action, log_prob = head.kind(*(part.numpy() for part in head.parameters(outputs))).sample(np.random.default_rng(0))
    again = head.log_prob(outputs, torch.from_numpy(action))
    torch.testing.assert_close(torch.from_numpy(log_prob), again, atol=1e-4, rtol=1e-4)
    drawn, log_prob = UniformBox((500, 2)).sample(np.random.default_rng(0))
    assert np.exp(log_prob) == pytest.approx(1 / 4), "of a box whose sides are 2"
    assert np.abs(drawn).max(0) == pytest.approx(1.0, abs=0.02)


def test_some_rows_are_replaced_by_those_of_another():
    here, there = (np.full((3, 2), value, np.float32) for value in (0.25, 0.75))
    rows = np.array([True, False, True])
    pairs = [
        (distributions.Categorical(here), distributions.Categorical(there)),
        (SquashedNormal(here, here), SquashedNormal(there, there)),
        (ClippedNormal(here, here[:, :1]), ClippedNormal(there, there[:, :1])),
    ]
    for one, other in pairs:
        for column in vars(one.replaced(rows, other)).values():
            assert column[:, 0].tolist() == [0.75, 0.25, 0.75]
