"""Rules that ask: exact budgets whatever the posterior, and scores against their definitions."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.halo.acquisition import (
    RULES,
    AskingContext,
    bald,
    bisection,
    by_committee,
    by_entropy,
    enough,
    error_reduction,
    get_rule,
    information,
    information_per_cost,
    unnamed,
)
from agent.halo.chain import Answers, Chain, inside
from agent.halo.posterior import entropy, infer, pairwise
from agent.halo.selection import questions, select
from ground.errors import UserError

SETTINGS = settings(deadline=None, max_examples=50)


def log_dirichlet(rng, *shape):
    return np.log(rng.dirichlet(np.full(shape[-1], 0.7), shape[:-1]))


def random_chain(rng, restarts, lengths, options):
    n, t, k, r = len(lengths), max(lengths), options, restarts
    return Chain(
        log_dirichlet(rng, r, n, k),
        log_dirichlet(rng, r, n, t, k, k),
        log_dirichlet(rng, r, n, t, k),
        np.array(lengths),
    )


def situation_of(chain, **more):
    posterior = infer(chain)
    shape = posterior.inside.shape
    start = {"allowed": posterior.inside, "asked": np.zeros(shape, np.int64), "label": np.full(shape, -1)}
    return AskingContext(posterior.gamma, posterior.xi, chain.lengths, **{**start, **more})


@st.composite
def situations(draw):
    """Random, uniform (all ties) and certain posteriors; some demonstrations held out, some steps asked already."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    options = draw(st.integers(1, 3))
    chain = random_chain(rng, draw(st.sampled_from([1, 3])), lengths, options)
    kind = draw(st.sampled_from(["random", "uniform", "certain"]))
    if kind == "uniform":
        flat = [np.full_like(part, -np.log(options)) for part in (chain.initial, chain.transition, chain.emission)]
        chain = Chain(*flat, chain.lengths)
    if kind == "certain":
        chain = chain.given(np.where(np.arange(options) == 0, 0.0, -np.inf))
    shape = chain.emission.shape[1:3]
    asked = np.where(inside(chain.lengths, shape[1]) & (rng.random(shape) < draw(st.sampled_from([0, 0.4, 1]))), 1, 0)
    kept = rng.random(len(lengths)) < 0.7
    noisy = draw(st.booleans())
    return situation_of(
        chain,
        allowed=inside(chain.lengths, shape[1]) & kept[:, None],
        asked=asked,
        label=np.where(asked > 0, rng.integers(options, size=shape), -1),
        confusion=rng.dirichlet(np.ones(options), options) if noisy else None,
        cost=draw(st.sampled_from([None, rng.choice([0.25, 1.0, 2.5], shape)])),
        again=noisy and draw(st.booleans()),
        best=int(rng.integers(chain.lead[0])),
    )


@SETTINGS
@given(situations(), st.sampled_from(sorted(RULES)), st.sampled_from(["demo", "top", "chain"]), st.data())
def test_every_rule_spends_its_budget_exactly_and_asks_nothing_twice(situation, rule, batching, data):
    budget = left = data.draw(st.sampled_from([0.0, 0.1, 1, 3, 7.5, 1e6]))
    cost = np.ones(situation.asked.shape) if situation.cost is None else situation.cost
    batch, rng = data.draw(st.integers(1, 9)), np.random.default_rng(0)
    rounds = 0
    while True:
        chosen = select(get_rule(rule), situation, left, batch, rng, batching)
        if not len(chosen):
            break
        n, t = chosen.T
        assert len(chosen) <= batch
        assert len(set(map(tuple, chosen))) == len(chosen)
        assert situation.allowed[n, t].all(), "held out, or padding"
        assert situation.again or not situation.asked[n, t].any(), "asked before"
        if batching == "demo":
            assert len(set(n)) == len(n)
        left -= cost[n, t].sum()
        assert left >= -1e-6
        asked = situation.asked.copy()
        asked[n, t] += 1
        situation = replace(situation, asked=asked, label=np.where(asked > 0, np.maximum(situation.label, 0), -1))
        rounds += 1
        if situation.again and rounds == 5:  # there is always something to ask again
            return
    affordable = situation.allowed & (situation.asked == 0) & (cost <= left)
    assert not affordable.any(), f"{left} of {budget} unspent while something could be asked"


@SETTINGS
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_expected_error_reduction_equals_asking_and_looking(seed, noisy):
    rng = np.random.default_rng(seed)
    chain = random_chain(rng, 2, [4, 2], 3)
    confusion = rng.dirichlet(np.ones(3), 3) if noisy else np.eye(3)
    situation = situation_of(chain, confusion=confusion if noisy else None)
    score, now = error_reduction(situation, rng), infer(chain)
    for n, t in np.argwhere(situation.allowed):
        after = 0.0
        for y in range(3):
            told = Answers.of_labels([(n, t)], [y], 3).evidence(chain.lengths, 4, confusion[None])
            posterior = infer(chain.given(told))
            weight = np.exp(posterior.log_z[:, n] - now.log_z[:, n]) / 2  # P(restart, y), restarts alike before
            errors = (
                chain.lengths[n] * weight.sum() - (weight[:, None, None] * posterior.gamma[:, n]).sum(0).max(-1).sum()
            )
            after += errors
        before = ((1 - situation.mean.max(-1)) * situation.allowed)[n].sum()
        np.testing.assert_allclose(score[n, t], before - after, atol=1e-9)
    assert not score[~situation.allowed].any()


@SETTINGS
@given(st.integers(0, 2**32 - 1))
def test_chosen_in_the_chain_greedily_by_the_entropy_of_the_set(seed):
    """With one model, "chain" with the entropy is greedy on H(Z_A), which paths give by enumeration."""
    rng = np.random.default_rng(seed)
    chain = random_chain(rng, 1, [5, 3], 2)
    situation = situation_of(chain)

    def joint(n, steps):
        paths = np.array(list(itertools.product((0, 1), repeat=int(chain.lengths[n]))))
        table, at = chain.transition[0, n], np.arange(chain.lengths[n])
        logs = chain.initial[0, n][paths[:, 0]] + chain.emission[0, n][at, paths].sum(1)
        logs = logs + table[at[1:], paths[:, :-1], paths[:, 1:]].sum(1)
        weights = np.exp(logs - logs.max())
        keys = paths[:, sorted(steps)] @ (2 ** np.arange(len(steps)))
        return entropy(np.bincount(keys, weights) / weights.sum())

    chosen = [tuple(where) for where in select(by_entropy, situation, 8, 8, rng, "chain").tolist()]
    assert sorted(chosen) == [tuple(where) for where in np.argwhere(situation.allowed).tolist()]
    sets: dict[int, list[int]] = {0: [], 1: []}
    for n, t in chosen:
        gains = {}
        for m, s in np.argwhere(situation.allowed).tolist():
            if s not in sets[m]:
                gains[m, s] = joint(m, [*sets[m], s]) - (joint(m, sets[m]) if sets[m] else 0.0)
        assert gains[n, t] >= max(gains.values()) - 1e-6
        sets[n].append(t)


@SETTINGS
@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_information_is_that_of_the_joint_distribution(seed, options):
    rng = np.random.default_rng(seed)
    gamma, confusion = rng.dirichlet(np.ones(options)), rng.dirichlet(np.ones(options), options)
    joint = gamma[:, None] * confusion
    expected = (joint * np.log(joint / joint.sum(0) / joint.sum(1, keepdims=True))).sum()
    np.testing.assert_allclose(information(gamma, confusion), expected, atol=1e-12)
    np.testing.assert_allclose(information(gamma, np.eye(options)), information(gamma, None))
    assert information(gamma, confusion) <= information(gamma, None)
    per_cost = information_per_cost(gamma, np.stack([confusion, np.eye(options)]), np.array([0.5, 2.0]))
    np.testing.assert_allclose(per_cost, [expected / 0.5, entropy(gamma) / 2])


@SETTINGS
@given(st.integers(0, 2**32 - 1))
def test_committees_see_permutations_that_one_model_does_not(seed):
    rng = np.random.default_rng(seed)
    chain = random_chain(rng, 1, [4], 3)
    one = infer(chain)
    same = AskingContext(
        *(np.repeat(part, 2, 0) for part in (one.gamma, one.xi)), chain.lengths, one.inside, *_nothing(one)
    )
    np.testing.assert_allclose(bald(same, rng), 0, atol=1e-12)
    np.testing.assert_allclose(by_committee(same, rng), by_entropy(same, rng))
    certain = np.zeros((2, 1, 4, 2))
    certain[0, ..., 0] = certain[1, ..., 1] = 1
    swapped = AskingContext(certain, np.zeros((2, 1, 4, 2, 2)), chain.lengths, one.inside, *_nothing(one))
    assert not by_entropy(swapped, rng).any()
    np.testing.assert_allclose(bald(swapped, rng), np.log(2))
    np.testing.assert_allclose(by_committee(swapped, rng), np.log(2))
    useless = replace(swapped, confusion=np.full((2, 2), 0.5))
    assert bald(useless, rng).max() < 1e-12
    assert by_committee(useless, rng).max() < 1e-12


@SETTINGS
@given(st.integers(0, 2**32 - 1), st.integers(0, 3), st.booleans())
def test_options_without_an_answer_are_doubted_as_in_a_committee_of_all_their_names(seed, heard, noisy):
    rng = np.random.default_rng(seed)
    chain = random_chain(rng, 2, [4, 3], 3)
    situation = situation_of(chain)
    label = situation.label.copy()
    label[0, :heard] = rng.permutation(3)[:heard]
    silent = np.setdiff1d(np.arange(3), label)
    wrong = 0.2 if noisy else 0.0  # in no direction, so that names do not change how much an answer tells
    confusion = np.full((3, 3), wrong / 3) + (1 - wrong) * np.eye(3)
    committee = []
    for names in itertools.permutations(silent):
        order = np.arange(3)
        order[silent] = names
        committee.append(situation.gamma[..., order])
    everyone = replace(situation, gamma=np.concatenate(committee), confusion=confusion if noisy else None)
    told = replace(situation, label=label, confusion=everyone.confusion)
    np.testing.assert_allclose(unnamed(told), bald(everyone, rng), atol=1e-9)


def _nothing(posterior):
    return np.zeros(posterior.inside.shape, np.int64), np.full(posterior.inside.shape, -1)


@SETTINGS
@given(st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_bisection_finds_every_switch_within_its_bound(runs):
    """Options that never come twice: both ends and ceil(log2 T) answers per switch, and the rest follows."""
    truth = np.repeat(np.arange(len(runs)), runs)
    length, options, switches = len(truth), len(runs), len(runs) - 1
    flat = Chain(
        np.zeros((1, 1, options)),
        np.zeros((1, 1, length, options, options)),
        np.zeros((1, 1, length, options)),
        np.array([length]),
    )
    situation = situation_of(flat)
    rng = np.random.default_rng(0)
    for _ in range(length):
        t = select(bisection, situation, 1, 1, rng)[0, 1]
        counts, label = situation.asked.copy(), situation.label.copy()
        counts[0, t], label[0, t] = 1, truth[t]
        situation = replace(situation, asked=counts, label=label)
        known = np.flatnonzero(label[0] >= 0)
        ends = known[0] == 0 and known[-1] == length - 1
        if ends and all(b == a + 1 or truth[a] == truth[b] for a, b in itertools.pairwise(known)):
            break
    assert len(known) <= 2 + switches * math.ceil(math.log2(length))


def test_anchors_reach_every_demonstration_and_all_times_before_the_committee_is_asked():
    chain = random_chain(np.random.default_rng(0), 2, [50] * 20, 2)
    situation, rng = situation_of(chain), np.random.default_rng(1)
    first = select(get_rule("stratified"), situation, 20, 20, rng, "top")
    assert sorted(first[:, 0]) == list(range(20))
    assert np.diff(np.sort(first[:, 1])).max() <= 6, "spread over time"
    anchors = select(get_rule("auto"), situation, 10, 10, rng)  # 1% of 1,000 steps
    asked = np.zeros(situation.asked.shape, np.int64)
    asked[tuple(anchors.T)] = 1
    informed = replace(situation, asked=asked)
    again = select(get_rule("auto"), informed, 1, 1, rng)
    scores = np.where(informed.open, by_committee(informed, rng), -1)
    assert scores[tuple(again[0])] == scores.max()


def test_the_default_asks_early_about_options_that_nobody_has_named():
    """Two options are known by their answers, and where the third and fourth are, restarts agree."""
    gamma = np.full((2, 40, 4, 4), 0.0)
    gamma[:, :, [0, 1, 2, 3], [0, 1, 2, 3]] = 1.0
    asked, label = np.zeros((40, 4), np.int64), np.full((40, 4), -1)
    asked[0, 0], label[0, 1] = 1, 1
    label[0, 0] = 0
    situation = AskingContext(gamma, np.zeros((2, 40, 4, 4, 4)), np.full(40, 4), np.ones((40, 4), bool), asked, label)
    chosen = select(get_rule("auto"), situation, 1, 1, np.random.default_rng(0))
    assert chosen[0, 1] in (2, 3)
    assert chosen[0, 0] != 0, "another demonstration"


def test_chance_is_drawn_from_the_seed():
    situation = situation_of(random_chain(np.random.default_rng(0), 2, [50] * 20, 2))
    random = [select(get_rule("random"), situation, 5, 5, np.random.default_rng(s)).tolist() for s in (0, 0, 1)]
    assert random[0] == random[1] != random[2]


def test_a_dear_step_is_asked_when_it_tells_more_per_cost():
    certain = np.array([[[[0.5, 0.5], [0.9, 0.1]]]])
    situation = AskingContext(
        certain,
        np.zeros((1, 1, 2, 2, 2)),
        np.array([2]),
        np.ones((1, 2), bool),
        np.zeros((1, 2), np.int64),
        np.full((1, 2), -1),
        cost=np.array([[3.0, 1.0]]),
    )
    rng = np.random.default_rng(0)
    assert select(by_entropy, situation, 9, 1, rng).tolist() == [[0, 1]]
    assert select(by_entropy, replace(situation, cost=np.array([[2.0, 1.0]])), 9, 1, rng).tolist() == [[0, 0]]


def test_the_stop_rule_counts_expected_errors_of_the_committee_on_allowed_steps():
    gamma = np.array([[[[0.9, 0.1], [0.6, 0.4]]], [[[0.9, 0.1], [0.2, 0.8]]]])  # mean: .9 and .4/.6
    base = AskingContext(
        gamma,
        np.zeros((2, 1, 2, 2, 2)),
        np.array([2]),
        np.ones((1, 2), bool),
        np.zeros((1, 2), np.int64),
        np.full((1, 2), -1),
    )
    assert enough(base, 0.25 + 1e-9)
    assert not enough(base, 0.24)
    assert enough(replace(base, allowed=np.array([[True, False]])), 0.11)


def test_what_a_pair_tells_is_read_from_the_pairwise_posterior():
    chain = random_chain(np.random.default_rng(3), 1, [5], 2)
    one = infer(chain)
    pairs = pairwise(one.gamma[0, 0], one.xi[0, 0], 5)
    expected = pairs.max(-2).sum(-1).sum(0) - one.gamma[0, 0].max(-1).sum()
    np.testing.assert_allclose(error_reduction(situation_of(chain), np.random.default_rng(0))[0], expected)


@pytest.mark.parametrize(("text", "count"), [("4%", 40), ("0.25%", 2), ("160", 160), (" 100% ", 1000), ("0.3%", 3)])
def test_budgets(text, count):
    assert questions(text, 1000) == count


@pytest.mark.parametrize("text", ["0", "0%", "-3", "1001", "101%", "much", "%", "nan%", "inf%", "4.5"])
def test_impossible_budgets(text):
    with pytest.raises(UserError, match="budget"):
        questions(text, 1000)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="Did you mean 'bisection'"):
        get_rule("bisect")
    situation = situation_of(random_chain(np.random.default_rng(0), 1, [2], 2))
    with pytest.raises(UserError, match="Unknown batching 'demos'"):
        select(by_entropy, situation, 1, 1, np.random.default_rng(0), "demos")
    with pytest.raises(UserError, match="tell nothing"):
        replace(situation, again=True)
    with pytest.raises(UserError, match="more than nothing"):
        replace(situation, cost=np.zeros((1, 2)))
