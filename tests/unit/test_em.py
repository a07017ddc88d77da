"""Fits of options from few labels: the mathematics of EM, and what it reaches on walks over a grid."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from preceptor.agent.halo.config import EMConfig, NeuralConfig, TabularConfig
from preceptor.agent.halo.em import fit, honest_but_fallible
from preceptor.agent.halo.policies import NeuralPolicies, TabularPolicies
from preceptor.agent.halo.posterior import infer
from preceptor.ground.errors import UserError
from tests.small_rescue import SIZE, labels, recording, walks


def tabular(options, seed=0, restarts=5, config=None):
    return TabularPolicies(SIZE**2, options, 4, restarts, config or TabularConfig(), np.random.default_rng(seed))


def asked(demos, share, rng, options, wrong=0.0):
    """Answers at random steps, some of them wrong."""
    real = np.argwhere(demos.inside)
    where = real[rng.permutation(len(real))[: int(share * len(real))]]
    label = demos.option[tuple(where.T)]
    slip = rng.random(len(label)) < wrong
    return labels(where, np.where(slip, (label + rng.integers(1, options, len(label))) % options, label), options)


def error(found, demos):
    return float((found.gamma.argmax(-1) != demos.option)[demos.inside].mean())


def test_the_seed_decides_and_padding_is_never_read_and_labels_are_exact():
    rng = np.random.default_rng(0)
    demos = walks(3, 10, rng)
    answers = asked(demos, 0.1, rng, 3)
    state, action = np.where(demos.inside, demos.obs, -7), np.where(demos.acted, demos.action, 10**6)
    cases = ((demos, 0), (replace(demos, obs=state, action=action), 0), (demos, 1))
    first, again, other = (fit(d, answers, tabular(3, seed), EMConfig(5)) for d, seed in cases)
    np.testing.assert_array_equal(first.posterior.gamma, again.posterior.gamma)
    assert not np.array_equal(first.score, other.score)
    assert first.best == first.score.argmax()
    np.testing.assert_array_equal(first.gamma, first.posterior.gamma[first.best])
    assert (first.posterior.gamma[:, answers.trajectory, answers.step] == answers.report).all()


@pytest.mark.parametrize("noisy", [False, True])
def test_every_step_raises_the_penalised_likelihood(noisy):
    """Dempster et al. (1977), theorem 1: a wrong count, prior or weight would break it."""
    rng = np.random.default_rng(0)
    demos, config = walks(3, 8, rng), TabularConfig(stay_weight=3.0, initial_smoothing=2.0)
    answers, confusion = asked(demos, 0.2, rng, 3, wrong=0.2 * noisy), honest_but_fallible(1, 3) if noisy else None
    scores = [
        fit(demos, answers, tabular(3, config=config), EMConfig(steps, anneal=0.0), confusion).score
        for steps in range(8)
    ]
    gains = np.diff(scores, axis=0)
    assert (gains > -1e-9).all()
    assert gains[:4].min() > 1e-3


def test_an_m_step_counts_what_the_posterior_expects():
    """One trajectory whose options are known: the tables are its counts and the priors'."""
    demos = recording(np.array([[0, 1, 1, 0]]), np.array([[1, 0, 1, 9]]), np.full((1, 4), -1), np.array([4]))
    config = TabularConfig(stay=0.9, stay_weight=2.0, smoothing=0.5, initial_smoothing=1.0)
    policies = TabularPolicies(2, 2, 2, 1, config, np.random.default_rng(0))
    fit(demos, labels([(0, t) for t in range(4)], [0, 0, 1, 1], 2), policies, EMConfig(steps=1, anneal=0.0))
    initial, low, high = (np.exp(getattr(policies, name)[0]) for name in ("log_initial", "log_low", "log_high"))
    np.testing.assert_allclose(initial, [2 / 3, 1 / 3])
    np.testing.assert_allclose(low[[0, 1, 1], [0, 0, 1]], [[0.25, 0.75], [0.75, 0.25], [0.25, 0.75]])
    np.testing.assert_allclose(low[0, 1], [0.5, 0.5], err_msg="nothing was done at the last observation")
    # The state where one arrives decides: 0 -> 0 and 0 -> 1 in state 1, 1 -> 1 in state 0; none in the first state.
    np.testing.assert_allclose(high[1, 0], [(1.8 + 1) / 4, (0.2 + 1) / 4])
    np.testing.assert_allclose(high[0], [[0.9, 0.1], [0.2 / 3, (1.8 + 1) / 3]])


def test_restarts_use_unlabelled_steps_sooner_and_sooner():
    """Labels always count."""
    demos = walks(2, 3, np.random.default_rng(0))
    seen, policies = [], tabular(2, restarts=3)
    improve = policies.improve
    policies.improve = lambda demos, posterior, weight: (seen.append(weight.copy()), improve(demos, posterior, weight))
    fit(demos, labels([(0, 0)], demos.option[0, :1], 2), policies, EMConfig(steps=5, anneal=0.8))
    seen = np.array(seen)  # [S, R, N, T]
    assert (seen[:, :, 0, 0] == 1).all()
    np.testing.assert_allclose(seen[:, :, 1, 0].T, [[0, 0.25, 0.5, 0.75, 1], [0, 0.5, 1, 1, 1], [1] * 5])
    fit(demos, labels([(0, 0)], demos.option[0, :1], 2), policies := tabular(2), EMConfig(steps=1, anneal=1.0))
    counted = (np.abs(policies.log_low - np.log(0.25)) > 1e-9).any(-1)  # [R, S, K]
    assert [list(where) for where in np.argwhere(counted[0])] == [[demos.obs[0, 0], demos.option[0, 0]]]


def test_contradictions_are_named_and_forgiven_where_annotators_may_err():
    demos = walks(3, 10, np.random.default_rng(0))
    both = labels([(4, 2), (4, 2)], [0, 1], 3)
    with pytest.raises(UserError, match=r"labels of 1 demonstrations contradict each other .*: 4"):
        fit(demos, both, tabular(3), EMConfig(5))
    assert np.isfinite(fit(demos, both, tabular(3), EMConfig(5), honest_but_fallible(1, 3)).score).all()
    nothing = fit(demos, labels([], [], 3), tabular(3), EMConfig(3))
    np.testing.assert_allclose(nothing.gamma[demos.inside].sum(-1), 1)


def test_annotators_are_told_apart_and_their_errors_forgiven():
    rng = np.random.default_rng(0)
    demos = walks(3, 60, rng)
    good, bad = (asked(demos, 0.05, rng, 3, wrong=wrong) for wrong in (0.0, 0.5))
    where = np.concatenate([np.stack([said.trajectory, said.step], 1) for said in (good, bad)])
    where, first = np.unique(where, axis=0, return_index=True)  # two exact labels of a step may contradict each other
    label = np.concatenate([good.report, bad.report]).argmax(1)[first]
    both = labels(where, label, 3, np.repeat([0, 1], [len(good.step), len(bad.step)])[first])
    found = fit(demos, both, tabular(3), EMConfig(confusion_weight=10.0), honest_but_fallible(3, 3))
    confusion = found.confusion
    prior = (10.0 * honest_but_fallible(3, 3) * np.log(confusion)).sum((1, 2, 3))
    np.testing.assert_allclose(found.score, found.posterior.log_z.sum(-1) + found.policies.log_prior() + prior)
    assert confusion.shape == (5, 3, 3, 3)
    np.testing.assert_allclose(confusion[:, 2], honest_but_fallible(5, 3), err_msg="never asked: as believed before")
    accuracy = np.diagonal(confusion, axis1=-2, axis2=-1).mean((0, -1))
    assert accuracy[0] > 0.9
    assert accuracy[1] < 0.65
    assert error(found, demos) < 0.75 * error(fit(demos, both, tabular(3), EMConfig()), demos)


def features(demos):
    """Rows and columns of the cells, one-hot."""
    return np.concatenate([np.eye(SIZE)[demos.obs // SIZE], np.eye(SIZE)[demos.obs % SIZE]], -1)


def neural(options, continuous=False, restarts=2, config=None):
    actions = 2 if continuous else 4
    return NeuralPolicies(2 * SIZE, options, actions, continuous, restarts, config or NeuralConfig(), 0)


@pytest.mark.parametrize("continuous", [False, True])
def test_networks_learn_options_from_a_few_labels(continuous):
    rng = np.random.default_rng(0)
    demos = walks(2, 30, rng)
    answers, action = asked(demos, 0.1, rng, 2), np.where(demos.acted, demos.action, 10**6)
    if continuous:
        angle = action * np.pi / 2
        action = np.stack([np.cos(angle), np.sin(angle)], -1) + 0.1 * rng.normal(size=(*angle.shape, 2))
    demos = replace(demos, obs=features(demos), action=action)
    found = fit(demos, answers, neural(2, continuous), EMConfig(15))
    assert error(found, demos) < 0.06
    one, other = (fit(demos, answers, neural(2, continuous), EMConfig(2)).gamma for _ in range(2))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("continuous", [False, True])
def test_networks_stacked_over_restarts_equal_networks_one_by_one(continuous):
    demos = walks(3, 4, np.random.default_rng(0))
    column = np.random.default_rng(1).normal(size=(*demos.action.shape, 2)) if continuous else demos.action
    demos = replace(demos, obs=features(demos), action=column)
    stacked = neural(3, continuous, restarts=3)
    chain = stacked.chain(demos)
    for r in range(3):
        alone = neural(3, continuous, restarts=1)
        alone.load_state_dict({name: weights[r : r + 1] for name, weights in stacked.state_dict().items()})
        single = alone.chain(demos)
        for name in ("initial", "transition", "emission"):
            np.testing.assert_allclose(getattr(single, name)[0], getattr(chain, name)[r], atol=1e-5)
        np.testing.assert_allclose(alone.log_prior(), stacked.log_prior()[r], rtol=1e-5)
    assert not chain.emission[:, ~demos.acted].any()
    np.testing.assert_allclose(np.exp(chain.initial).sum(-1), 1, atol=1e-6)
    high = np.exp(chain.transition)
    np.testing.assert_allclose(high.sum(-1), 1, atol=1e-6)
    assert np.diagonal(high, axis1=-2, axis2=-1).min() > 0.8, "sticky before training"
    features_at = stacked.log_high(torch.from_numpy(demos.obs[2:3, 4]).float())[:, 0].detach()
    np.testing.assert_allclose(features_at, chain.transition[:, chain.rows[2, 4]], atol=1e-5)


def test_the_networks_emissions_are_densities():
    seen = torch.from_numpy(features(walks(2, 2, np.random.default_rng(0)))[0, :5]).float()
    discrete, gaussian = neural(2), neural(2, continuous=True)
    every = torch.stack([discrete.log_low(seen, torch.full((5,), a)) for a in range(4)])
    torch.testing.assert_close(every.exp().sum(0), torch.ones(2, 5, 2))
    grid = torch.cartesian_prod(*[torch.linspace(-6, 6, 61)] * 2)
    density = gaussian.log_low(seen[:1].expand(len(grid), -1), grid).exp()
    torch.testing.assert_close(density.sum(1) * 0.2**2, torch.ones(2, 2), atol=1e-3, rtol=0)


def test_the_networks_prior_pulls_weights_to_zero():
    demos, sizes = walks(2, 3, np.random.default_rng(0)), []
    demos = replace(demos, obs=features(demos))
    for decay in (0.0, 100.0):
        policies = neural(2, restarts=1, config=NeuralConfig(decay=decay, epochs=20))
        policies.improve(demos, infer(policies.chain(demos)), np.ones((1, *demos.acted.shape)))
        sizes.append(sum(float(weights.detach().square().sum()) for weights in policies.parameters()))
    assert sizes[1] < 0.8 * sizes[0]


def test_a_gradient_step_of_the_networks_follows_the_loss_and_a_share_of_the_prior():
    config, rng = NeuralConfig(decay=10.0), torch.Generator().manual_seed(0)
    policies, share = neural(2, restarts=1, config=config), 0.5
    other = copy.deepcopy(policies)
    optimiser = torch.optim.Adam(other.parameters(), config.lr)
    for _ in range(3):
        seen, action = torch.randn(8, 2 * SIZE, generator=rng), torch.randint(4, (8,), generator=rng)
        low, pairs = torch.rand(1, 8, 2, generator=rng), torch.rand(1, 8, 2, 2, generator=rng)
        policies.step(seen, action, low, pairs, low / 2, torch.tensor(share))
        likely = (low * other.log_low(seen, action)).sum() + (pairs * other.log_high(seen)).sum()
        likely = (likely + (low / 2 * other.log_initial(seen)).sum()) / 8
        pull = 0.5 * config.decay * sum(weights.square().sum() for weights in other.parameters())
        optimiser.zero_grad()
        (share * pull - likely).backward()
        optimiser.step()
    for one, wanted in zip(policies.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-6)
