"""Advantages against a definition that anyone can check, over random episodes, options and time limits."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from preceptor.agent.losses import option_advantages
from preceptor.agent.methods.ppo import PPO, PolicyBatch, PPOConfig
from preceptor.agent.networks import CategoricalHead


def by_definition(rewards, chosen, values, bootstrap, terminated, truncated, gamma, lam):
    """A_k = sum_i lam^i gamma^(t_{k+i} - t_k) delta_{k+i}, over the choices up to the end of the episode or rollout."""
    steps = len(rewards)
    advantages = np.zeros(steps)
    for t in np.flatnonzero(chosen):
        total, weight, start = 0.0, 1.0, t
        while True:
            end, reward, discount = start, 0.0, 1.0
            while True:
                reward += discount * rewards[end]
                discount *= gamma
                over = terminated[end] or truncated[end] or end == steps - 1
                end += 1
                if over or chosen[end]:
                    break
            if over:
                following = 0.0 if terminated[end - 1] else bootstrap[end - 1]
            else:
                following = values[end]
            total += weight * (reward + discount * following - values[start])
            weight *= lam * discount
            if over:
                break
            start = end
        advantages[t] = total
    return advantages


@st.composite
def rollouts(draw):
    steps = draw(st.integers(1, 12))
    floats = st.floats(-2, 2, width=32)
    column = lambda kind: np.array(draw(st.lists(kind, min_size=steps, max_size=steps)))  # noqa: E731
    terminated, truncated = column(st.booleans()), column(st.booleans())
    truncated &= ~terminated
    chosen = column(st.booleans())
    chosen[0] = True
    chosen[1:] |= (terminated | truncated)[:-1]
    return column(floats), chosen, column(floats), column(floats), terminated, truncated


@settings(deadline=None, max_examples=200)
@given(rollouts(), st.sampled_from([0.9, 0.99, 1.0]), st.sampled_from([0.0, 0.95, 1.0]))
def test_advantages_match_their_definition(rollout, gamma, lam):
    expected = by_definition(*rollout, gamma, lam)
    columns = [np.ascontiguousarray(column[:, None]) for column in rollout]
    np.testing.assert_allclose(option_advantages(*columns, gamma, lam)[:, 0], expected, atol=1e-4)


def test_truncation_bootstraps_and_termination_does_not():
    one = np.ones((1, 1))
    yes, no = np.array([[True]]), np.array([[False]])
    rewarded = (one, yes, 0 * one, 10 * one)
    assert option_advantages(*rewarded, no, yes, 0.5, 1.0).item() == 1 + 0.5 * 10
    assert option_advantages(*rewarded, yes, no, 0.5, 1.0).item() == 1
    assert option_advantages(*rewarded, no, no, 0.5, 1.0).item() == 1 + 0.5 * 10


class Fixed(nn.Module):
    """A network whose outputs are given; its values are 0."""

    head = CategoricalHead()

    def __init__(self, logits):
        super().__init__()
        self.logits, self.value = logits, nn.Parameter(torch.zeros(len(logits)))

    def forward(self):
        return self.logits, self.value


def learner(logits, config):
    return PPO(Fixed(logits), config, np.random.default_rng(0))


def test_the_surrogate_has_the_policy_gradient_at_ratio_one():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(32, 5, generator=generator, requires_grad=True)
    action = torch.randint(5, (32,), generator=generator)
    advantage = torch.randn(32, generator=generator)
    logprob = torch.log_softmax(logits, 1).gather(1, action[:, None]).squeeze(1)
    zeros = torch.zeros(32)
    batch = PolicyBatch((), action, logprob.detach(), advantage, zeros)
    loss, info = learner(logits, PPOConfig(value=0.0, entropy=0.0)).loss(batch)
    (gradient,) = torch.autograd.grad(loss, logits)
    (expected,) = torch.autograd.grad(-(logprob * advantage).mean(), logits)
    torch.testing.assert_close(gradient, expected)
    assert info["clip_fraction"] == 0


def test_the_prior_the_entropy_and_the_value_have_their_weights_among_what_is_legal():
    logits = torch.tensor([[0.0, 1.0, 0.5]], requires_grad=True)
    prior, legal = torch.tensor([[2.0, 0.0, 4.0]]), torch.tensor([[True, True, False]])
    zero, action = torch.zeros(1), torch.zeros(1, dtype=torch.int64)
    p, q = torch.softmax(logits[0, :2], 0), torch.softmax(prior[0, :2], 0)
    batch = PolicyBatch((), action, p[:1].log().detach(), zero, zero + 3, legal, prior)
    loss, info = learner(logits, PPOConfig(value=0.5, entropy=0.1)).loss(batch, 2.0)
    divergence, entropy = (p * (p / q).log()).sum(), -(p * p.log()).sum()
    torch.testing.assert_close(info["prior_kl"], divergence.detach())
    torch.testing.assert_close(loss, 2.0 * divergence - 0.1 * entropy + 0.5 * 0.5 * 9)
    loss.backward()
    assert torch.isfinite(logits.grad[0, :2]).all()
