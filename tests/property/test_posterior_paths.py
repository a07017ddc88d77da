"""The posterior of the chain of options against the sum over all K^T paths, which anyone can check."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.halo.chain import Answers, Chain
from agent.halo.posterior import entropy, filtered, infer, pairwise, require_possible, sample, viterbi
from ground.errors import UserError

SETTINGS = settings(deadline=None, max_examples=60)


def normalised(logits):
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


def random_chain(rng, lengths, options, spread=1.0, zeros=0.0, restarts=None, rows=False):
    """A chain with some transitions and emissions impossible; `spread` 1,000 is far beyond what exp can hold."""
    n, t, k = len(lengths), max(lengths), options
    lead = () if restarts is None else (restarts,)
    table = (2,) if rows else (n, t)

    def logits(*shape):
        drawn = normalised(spread * rng.normal(size=(*lead, *shape)))
        return np.where(rng.random(drawn.shape) < zeros, -np.inf, drawn)

    index = rng.integers(2, size=(n, t)) if rows else None
    return Chain(logits(n, k), logits(*table, k, k), logits(n, t, k), np.array(lengths), index)


def parts(chain, n):
    """Initial [K], transitions [T, K, K] and emissions [T, K] of one trajectory without restarts, padding cut."""
    length = chain.lengths[n]
    table = chain.transition[n] if chain.rows is None else chain.transition[chain.rows[n]]
    return chain.initial[n], table[:length], chain.emission[n, :length]


def by_enumeration(chain, n):
    """log Z, gamma [T, K], xi [T, K, K], pairs [T, T, K, K], paths and their log joints."""
    initial, table, emission = parts(chain, n)
    length, options = emission.shape
    paths = np.array(list(itertools.product(range(options), repeat=length)))
    steps = np.arange(length)
    joint = initial[paths[:, 0]] + emission[steps, paths].sum(1)
    joint = joint + table[steps[1:], paths[:, :-1], paths[:, 1:]].sum(1)
    top = joint.max()
    if top == -np.inf:
        return -np.inf, None, None, None, paths, joint
    weights = np.exp(joint - top)
    log_z = top + np.log(weights.sum())
    hot = np.eye(options)[paths]  # [P, T, K]
    pairs = np.einsum("p,psi,ptj->stij", weights / weights.sum(), hot, hot)
    xi = np.zeros((length, options, options))
    xi[1:] = pairs[steps[:-1], steps[1:]]
    return log_z, np.einsum("ttii->ti", pairs), xi, pairs, paths, joint


@st.composite
def chains(draw, restarts=False):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    return random_chain(
        rng,
        lengths,
        draw(st.integers(1, 3)),
        draw(st.sampled_from([1.0, 10.0, 100.0, 1000.0])),
        draw(st.sampled_from([0.0, 0.3])),
        draw(st.sampled_from([1, 2])) if restarts else None,
        draw(st.booleans()),
    )


@SETTINGS
@given(chains())
def test_everything_equals_the_sum_over_all_paths(chain):
    posterior, (path, score), (alpha, filtered_z) = infer(chain), viterbi(chain), filtered(chain)
    for n, length in enumerate(chain.lengths):
        log_z, gamma, xi, pairs, paths, joint = by_enumeration(chain, n)
        np.testing.assert_allclose(posterior.log_z[n], log_z, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(filtered_z[n], log_z, rtol=1e-9, atol=1e-9)
        assert not posterior.gamma[n, length:].any()
        assert (path[n, length:] == -1).all()
        if gamma is None:
            assert not posterior.gamma[n].any()
            assert (path[n] == -1).all()
            continue
        np.testing.assert_allclose(posterior.gamma[n, :length], gamma, atol=1e-9)
        np.testing.assert_allclose(posterior.xi[n, :length], xi, atol=1e-9)
        np.testing.assert_allclose(pairwise(posterior.gamma[n], posterior.xi[n], length), pairs, atol=1e-9)
        np.testing.assert_allclose(score[n], joint.max(), rtol=1e-12)
        at = np.flatnonzero((paths == path[n, :length]).all(1))
        np.testing.assert_allclose(joint[at], joint.max(), rtol=1e-12)
        weights = np.exp(joint - log_z)
        np.testing.assert_allclose(posterior.chain_entropy[n], entropy(weights / weights.sum()), atol=1e-8)
        np.testing.assert_allclose(posterior.entropy[n, :length], entropy(gamma), atol=1e-8)
        np.testing.assert_allclose(posterior.expected_errors[n], (1 - gamma.max(1)).sum(), atol=1e-8)
        until = np.maximum(1, chain.lengths // 2)
        so_far = by_enumeration(replace(chain, lengths=until), n)[1]  # the filter has not seen what comes later
        np.testing.assert_allclose(alpha[n, until[n] - 1], so_far[-1], atol=1e-9)


@SETTINGS
@given(chains(restarts=True))
def test_a_ragged_batch_with_restarts_equals_one_by_one(chain):
    posterior, (path, score) = infer(chain), viterbi(chain)
    for r, n in np.ndindex(*chain.initial.shape[:2]):
        length = chain.lengths[n]
        table = chain.transition[r, n] if chain.rows is None else chain.transition[r, chain.rows[n]]
        alone = Chain(
            chain.initial[r, n, None], table[None, :length], chain.emission[r, n, None, :length], np.array([length])
        )
        single, (single_path, single_score) = infer(alone), viterbi(alone)
        np.testing.assert_array_equal(posterior.gamma[r, n, :length], single.gamma[0])
        np.testing.assert_array_equal(posterior.xi[r, n, :length], single.xi[0])
        np.testing.assert_array_equal(posterior.log_z[r, n], single.log_z[0])
        np.testing.assert_array_equal(path[r, n, :length], single_path[0])
        np.testing.assert_array_equal(score[r, n], single_score[0])
    np.testing.assert_array_equal(infer(chain, pairs=False).gamma, posterior.gamma)


@SETTINGS
@given(chains(), st.data())
def test_labels_are_law_and_equal_conditioning(chain, data):
    n = data.draw(st.integers(0, len(chain.lengths) - 1))
    options, (*_, paths, joint) = chain.emission.shape[-1], by_enumeration(chain, n)
    steps = sorted(data.draw(st.sets(st.integers(0, int(chain.lengths[n]) - 1), min_size=1, max_size=3)))
    labels = [data.draw(st.integers(0, options - 1)) for _ in steps]
    answers = Answers.of_labels([(n, t) for t in steps], labels, options)
    labelled = chain.given(answers.evidence(chain.lengths, chain.emission.shape[1]))
    agrees = (paths[:, steps] == labels).all(1)
    posterior, path, drawn = infer(labelled), viterbi(labelled)[0], sample(labelled, 20, np.random.default_rng(0))
    if not agrees.any() or joint[agrees].max() == -np.inf:
        assert posterior.log_z[n] == -np.inf
        with pytest.raises(UserError, match=f"cannot be produced: .*{n}"):
            require_possible(posterior)
        assert (drawn[:, n] == -1).all()
        return
    assert (path[n, steps] == labels).all()
    assert (drawn[:, n, steps] == labels).all()
    assert (posterior.gamma[n, steps, labels] == 1).all(), "not nearly one: one"
    joint = np.where(agrees, joint, -np.inf)
    weights = np.exp(joint - joint.max())
    conditional = np.einsum("p,ptk->tk", weights / weights.sum(), np.eye(options)[paths])
    np.testing.assert_allclose(posterior.gamma[n, : chain.lengths[n]], conditional, atol=1e-9)


@SETTINGS
@given(chains(), st.integers(0, 10**6))
def test_drawn_paths_have_the_frequencies_of_the_posterior(chain, seed):
    draws = 4_000
    drawn = sample(chain, draws, np.random.default_rng(seed))
    for n, length in enumerate(chain.lengths):
        log_z, _, _, pairs, *_ = by_enumeration(chain, n)
        if log_z == -np.inf:
            assert (drawn[:, n] == -1).all()
            continue
        hot = np.eye(chain.emission.shape[-1])[drawn[:, n, :length]]
        seen = np.einsum("dsi,dtj->stij", hot, hot) / draws
        # Pairs, not only marginals: independent draws from gamma (halo.md, bug 9) would fail here.
        np.testing.assert_allclose(seen, pairs, atol=5.5 * 0.5 / draws**0.5)
        assert (drawn[:, n, length:] == -1).all()


@SETTINGS
@given(chains(), st.data())
def test_answers_through_a_confusion_matrix_weigh_paths(chain, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    options, count = chain.emission.shape[-1], data.draw(st.integers(1, 6))
    confusion = rng.dirichlet(np.ones(options), size=(2, options))  # [W, K, K]
    where = np.array([(n, rng.integers(chain.lengths[n])) for n in rng.integers(len(chain.lengths), size=count)])
    who = rng.integers(2, size=count)
    answers = Answers(where[:, 0], where[:, 1], rng.dirichlet(np.ones(options), size=count), who)
    posterior = infer(chain.given(answers.evidence(chain.lengths, chain.emission.shape[1], confusion)))
    for n in range(len(chain.lengths)):
        log_z, _, _, _, paths, joint = by_enumeration(chain, n)
        for m in np.flatnonzero(where[:, 0] == n):
            likelihood = [confusion[who[m], j] @ answers.report[m] for j in paths[:, where[m, 1]]]
            joint = joint + np.log(likelihood)
        if log_z > -np.inf:
            total = joint.max() + np.log(np.exp(joint - joint.max()).sum())
            np.testing.assert_allclose(posterior.log_z[n], total, rtol=1e-9, atol=1e-9)
