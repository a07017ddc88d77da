"""Discrete SAC: exact expectations, what is legal, the prior, termination, exact resume."""

import copy
from dataclasses import replace

import numpy as np
import torch

from preceptor.agent.methods.sac_discrete import DiscreteSAC, DiscreteSACConfig, OptionTransitions
from preceptor.controller.encoders import VectorEncoder
from preceptor.controller.network import TrunkConfig

OPTIONS, CONFIG = 4, DiscreteSACConfig(lr=1e-2, tau=0.2, temperature=0.1, trunk=TrunkConfig(hidden=16))
WORTH = torch.tensor([0.0, 0.5, 1.0, 0.2])


def learner(config=CONFIG):
    return DiscreteSAC(VectorEncoder([1.0, 1.0]), OPTIONS, config, 0)


def batch(seed, discount=0.0, prior=None, weight=0.0, legal=None):
    """Options drawn anywhere, each worth its own reward."""
    generator = torch.Generator().manual_seed(seed)
    obs = torch.randn(64, 2, generator=generator)
    legal = torch.ones(64, OPTIONS, dtype=torch.bool) if legal is None else legal.expand(64, -1)
    option = torch.multinomial(legal.float(), 1, generator=generator).squeeze(1)
    worth = torch.full((64,), discount)
    return OptionTransitions((obs,), (obs,), legal, legal, option, WORTH[option], worth, prior, weight)


def trained(steps=400, **kinds):
    learned = learner()
    for seed in range(steps):
        info = learned.update(batch(seed, **kinds))
    probs = learned.act((torch.zeros(1, 2),), kinds.get("legal", torch.ones(1, OPTIONS, dtype=torch.bool))).probs[0]
    return learned, probs, info


def test_the_policy_becomes_the_softmax_of_the_values_over_the_temperature():
    _, probs, info = trained()
    np.testing.assert_allclose(probs, torch.softmax(WORTH / 0.1, 0), atol=0.03)
    assert "prior_kl" not in info


def test_what_is_not_legal_is_neither_chosen_nor_hoped_for():
    legal = torch.tensor([[True, True, False, True]])
    learned, probs, _ = trained(discount=0.5, legal=legal)
    assert probs[2] == 0
    assert probs.argmax() == 1
    soft = 0.1 * torch.logsumexp(WORTH[[0, 1, 3]] / 0.1, 0)  # V = T log sum exp(Q / T) for one and the same state
    for _ in range(50):
        soft = 0.1 * torch.logsumexp((WORTH[[0, 1, 3]] + 0.5 * soft) / 0.1, 0)
    values = learned.critics[0](torch.zeros(1, 2))[0].detach()
    np.testing.assert_allclose(values[[0, 1, 3]], WORTH[[0, 1, 3]] + 0.5 * soft, atol=0.1)


def test_a_prior_with_a_great_weight_is_what_is_played_and_with_none_is_nothing():
    prior = torch.tensor([0.7, 0.1, 0.1, 0.1]).expand(64, -1)
    _, probs, info = trained(prior=prior, weight=50.0)
    np.testing.assert_allclose(probs, prior[0], atol=0.05)
    assert float(info["prior_kl"]) < 0.01
    _, probs, info = trained(prior=prior, weight=0.0)
    assert probs.argmax() == 2
    assert "prior_kl" not in info


def test_the_targets_only_follow():
    learned = learner(replace(CONFIG, tau=0.01))
    before = [parameter.clone() for parameter in learned.targets.parameters()]
    learned.update(batch(0))
    for old, target, critic in zip(before, learned.targets.parameters(), learned.critics.parameters(), strict=True):
        assert not target.requires_grad
        torch.testing.assert_close(target, torch.lerp(old, critic.detach(), 0.01))


def test_a_resumed_learner_learns_on_as_if_nothing_had_happened():
    one, other = learner(), learner()
    for seed in range(3):
        one.update(batch(seed))
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for seed in range(3, 6):
        one.update(batch(seed))
        other.update(batch(seed))
    for mine, theirs in zip(one.actor.parameters(), other.actor.parameters(), strict=True):
        assert torch.equal(mine, theirs)
