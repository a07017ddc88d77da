"""Rules that ask: exact budgets whatever the posterior, and scores against their definitions."""

import itertools
import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.agent.halo.acquisition import (
    RULES,
    AskingContext,
    anchors,
    bisection,
    expected_error,
    information,
    questions,
    select,
    unnamed,
)
from preceptor.agent.halo.config import RuleName
from preceptor.agent.halo.posterior import entropy
from preceptor.ground.errors import UserError

SETTINGS = settings(deadline=None, max_examples=50)


def context_of(gamma, **more):
    """What is known where nothing was asked yet."""
    shape = gamma.shape[1:3]
    start = {"lengths": np.full(shape[0], shape[1]), "allowed": np.ones(shape, bool)}
    start |= {"asked": np.zeros(shape, np.int64), "label": np.full(shape, -1)}
    return AskingContext(gamma, **{**start, **more})


def drawn(rng, restarts, count, steps, options):
    return rng.dirichlet(np.full(options, 0.7), (restarts, count, steps))


@st.composite
def contexts(draw):
    """Random, uniform (all ties) and certain posteriors; some demonstrations held out, some steps asked already."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lengths = np.array(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    options, restarts = draw(st.integers(1, 3)), draw(st.sampled_from([1, 3]))
    gamma = drawn(rng, restarts, len(lengths), lengths.max(), options)
    gamma[:] = draw(st.sampled_from([gamma, np.full(options, 1 / options), np.eye(options)[0]]))
    inside = np.arange(lengths.max()) < lengths[:, None]
    asked = (inside & (rng.random(inside.shape) < draw(st.sampled_from([0, 0.4, 1])))).astype(np.int64)
    noisy = draw(st.booleans())
    return context_of(
        gamma,
        lengths=lengths,
        allowed=inside & (rng.random(len(lengths)) < 0.7)[:, None],
        asked=asked,
        label=np.where(asked > 0, rng.integers(options, size=inside.shape), -1),
        confusion=rng.dirichlet(np.ones(options), options) if noisy else None,
        again=noisy and draw(st.booleans()),
        best=int(rng.integers(restarts)),
    )


@SETTINGS
@given(contexts(), st.sampled_from(sorted(RULES)), st.data())
def test_every_rule_spends_its_budget_exactly_and_asks_nothing_twice(context, rule, data):
    left = data.draw(st.sampled_from([0, 1, 3, 7, 10**6]))
    batch, rng, rounds = data.draw(st.integers(1, 9)), np.random.default_rng(0), 0
    while len(chosen := select(RULES[rule], context, min(batch, left), rng)):
        n, t = chosen.T
        assert len(chosen) <= min(batch, left)
        assert len(set(n)) == len(n), "one of each demonstration"
        assert context.allowed[n, t].all(), "held out, or padding"
        assert context.again or not context.asked[n, t].any(), "asked before"
        left -= len(chosen)
        asked = context.asked.copy()
        asked[n, t] += 1
        context = replace(context, asked=asked, label=np.where(asked > 0, np.maximum(context.label, 0), -1))
        rounds += 1
        if context.again and rounds == 5:  # there is always something to ask again
            return
    assert not left or not context.open.any(), f"{left} unspent while something could be asked"


@SETTINGS
@given(contexts(), st.integers(1, 5))
def test_the_best_step_of_the_best_demonstrations_is_asked(context, count):
    score = np.round(np.random.default_rng(1).random(context.asked.shape), 1)  # with ties
    chosen = select(lambda *_: score, context, count, np.random.default_rng(0))
    best = np.where(context.open, score, -np.inf).max(1)
    taken = [score[n, t] for n, t in chosen]
    assert taken == [best[n] for n, _ in chosen]
    assert taken == sorted(best[best > -np.inf], reverse=True)[:count]


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


def test_a_committee_sees_permutations_that_one_fit_does_not():
    """Two restarts that are certain, of names that are swapped; anchors are asked already."""
    rng, certain = np.random.default_rng(0), np.zeros((2, 1, 4, 2))
    certain[0, ..., 0] = certain[1, ..., 1] = 1
    swapped = context_of(certain, asked=np.array([[1, 0, 0, 0]]))
    assert not RULES["entropy"](swapped, rng).any()
    np.testing.assert_allclose(RULES["auto"](swapped, rng), np.log(2))
    useless = replace(swapped, confusion=np.full((2, 2), 0.5))
    assert RULES["auto"](useless, rng).max() < 1e-12


@SETTINGS
@given(st.integers(0, 2**32 - 1), st.integers(0, 3), st.booleans())
def test_options_without_an_answer_are_doubted_as_in_a_committee_of_all_their_names(seed, heard, noisy):
    rng = np.random.default_rng(seed)
    context = context_of(drawn(rng, 2, 2, 4, 3))
    label = context.label.copy()
    label[0, :heard] = rng.permutation(3)[:heard]
    silent = np.setdiff1d(np.arange(3), label)
    wrong = 0.2 if noisy else 0.0  # in no direction, so that names do not change how much an answer tells
    confusion, committee = np.full((3, 3), wrong / 3) + (1 - wrong) * np.eye(3), []
    for names in itertools.permutations(silent):
        order = np.arange(3)
        order[silent] = names
        committee.append(context.gamma[..., order] @ confusion)
    said = np.concatenate(committee)
    bald = entropy(said.mean(0)) - entropy(said).mean(0)  # Houlsby et al. (2011), eq. 2
    told = replace(context, label=label, confusion=confusion if noisy else None)
    np.testing.assert_allclose(unnamed(told), bald, atol=1e-9)


@SETTINGS
@given(st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_bisection_finds_every_switch_within_its_bound(runs):
    """Options that never come twice: both ends and ceil(log2 T) answers per switch, and the rest follows."""
    truth = np.repeat(np.arange(len(runs)), runs)
    length, switches = len(truth), len(runs) - 1
    allowed = np.arange(length + 1)[None] < length  # as in a recording, nothing was done at the last observation
    context, rng = context_of(np.ones((1, 1, length + 1, len(runs))), allowed=allowed), np.random.default_rng(0)
    for _ in range(length):
        t = select(bisection, context, 1, rng)[0, 1]
        counts, label = context.asked.copy(), context.label.copy()
        counts[0, t], label[0, t] = 1, truth[t]
        context = replace(context, asked=counts, label=label)
        known = np.flatnonzero(label[0] >= 0)
        ends = known[0] == 0 and known[-1] == length - 1
        if ends and all(b == a + 1 or truth[a] == truth[b] for a, b in itertools.pairwise(known)):
            break
    assert len(known) <= 2 + switches * math.ceil(math.log2(length))


def test_anchors_reach_every_demonstration_and_all_times_before_the_committee_is_asked():
    context, rng = context_of(drawn(np.random.default_rng(0), 2, 20, 50, 2)), np.random.default_rng(1)
    first = select(lambda context, _: anchors(context), context, 20, rng)
    assert sorted(first[:, 0]) == list(range(20))
    assert np.diff(np.sort(first[:, 1])).max() <= 6, "spread over time"
    asked = np.zeros(context.asked.shape, np.int64)
    asked[tuple(select(RULES["auto"], context, 10, rng).T)] = 1  # 1% of 1,000 steps
    for count, committee in ((10, True), (9, False)):
        asked[tuple(np.argwhere(asked)[count:].T)] = 0
        informed = replace(context, asked=asked)
        score = RULES["auto"](informed, rng)
        assert np.array_equal(score, information(context.mean, None)) == committee


def test_the_default_asks_early_about_options_that_no_answer_has_named():
    """Two options are known by their answers, and where the third and fourth are, restarts agree."""
    asked, label = np.zeros((40, 4), np.int64), np.full((40, 4), -1)
    asked[0, 0], label[0, :2] = 1, [0, 1]
    context = context_of(np.broadcast_to(np.eye(4), (2, 40, 4, 4)), asked=asked, label=label)
    chosen = select(RULES["auto"], context, 40, np.random.default_rng(0))
    assert chosen[0, 1] in (2, 3)
    assert chosen[-1, 0] == 0, "all others come before the demonstration that was asked about"


def test_chance_is_drawn_from_the_seed():
    context = context_of(drawn(np.random.default_rng(0), 2, 20, 50, 2))
    for rule in (RULES["random"], lambda context, _: np.zeros(context.asked.shape)):  # ties, too
        random = [select(rule, context, 5, np.random.default_rng(s)).tolist() for s in (0, 0, 1)]
        assert random[0] == random[1] != random[2]


def test_expected_errors_are_those_of_the_committee_on_the_steps_in_question():
    gamma = np.array([[[[0.9, 0.1], [0.6, 0.4]]], [[[0.9, 0.1], [0.2, 0.8]]]])  # mean: .9 and .4/.6
    assert expected_error(gamma, np.array([[True, True]])) == pytest.approx(0.25)
    assert expected_error(gamma, np.array([[True, False]])) == pytest.approx(0.1)


def test_budgets_are_numbers_or_shares():
    for text, count in {"4%": 40, "0.25%": 2, "160": 160, " 100% ": 1000, "0.3%": 3}.items():
        assert questions(text, 1000) == count
    for text in ("0", "0%", "-3", "1001", "101%", "much", "%", "nan%", "inf%", "4.5"):
        with pytest.raises(UserError, match="budget"):
            questions(text, 1000)


def test_the_command_line_names_the_rules_that_there_are():
    assert tuple(RULES) == get_args(RuleName)
