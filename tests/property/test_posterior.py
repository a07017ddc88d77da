"""The posterior of the chain of options against the sum over all K^T paths, and where numbers become extreme."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.agent.halo.posterior import Answers, Chain, Posterior, infer, require_possible
from preceptor.ground.errors import UserError
from tests.small_rescue import labels

SETTINGS = settings(deadline=None, max_examples=60)


@st.composite
def chains(draw):
    """Up to three trajectories under two restarts, some transitions and emissions impossible; a spread of 1,000 is far
    beyond what exp can hold."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lengths = np.array(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    n, t, k = len(lengths), lengths.max(), draw(st.integers(1, 3))
    spread, zeros = draw(st.sampled_from([1.0, 10.0, 100.0, 1000.0])), draw(st.sampled_from([0.0, 0.3]))

    def logits(*shape):
        drawn = spread * rng.normal(size=(2, *shape))
        drawn -= drawn.max(-1, keepdims=True)
        drawn -= np.log(np.exp(drawn).sum(-1, keepdims=True))
        return np.where(rng.random(drawn.shape) < zeros, -np.inf, drawn)

    states = draw(st.sampled_from([2, n * t]))
    return Chain(logits(n, k), logits(states, k, k), logits(n, t, k), rng.integers(states, size=(n, t)), lengths)


def paths_of(chain, r, n):
    """All paths [P, T] of a trajectory and their log joints [P]."""
    length, options = chain.lengths[n], chain.emission.shape[-1]
    table = chain.transition[r][chain.rows[n]]
    paths, steps = np.array(list(itertools.product(range(options), repeat=length))), np.arange(length)
    joint = chain.initial[r, n][paths[:, 0]] + chain.emission[r, n, steps, paths].sum(1)
    return paths, joint + table[steps[1:], paths[:, :-1], paths[:, 1:]].sum(1)


def assert_equals_paths(posterior, chain, r, n, paths, joint):
    """log Z, gamma and xi of a trajectory are those of its paths."""
    length, top = chain.lengths[n], joint.max()
    assert not posterior.gamma[r, n, length:].any()
    assert not posterior.xi[r, n, length:].any()
    assert not posterior.xi[r, n, 0].any()
    if top == -np.inf:
        assert posterior.log_z[r, n] == -np.inf
        assert not posterior.gamma[r, n].any()
        assert not posterior.xi[r, n].any()
        return
    weights = np.exp(joint - top)
    np.testing.assert_allclose(posterior.log_z[r, n], top + np.log(weights.sum()), rtol=1e-9, atol=1e-9)
    hot = np.eye(chain.emission.shape[-1])[paths]  # [P, T, K]
    weights /= weights.sum()
    np.testing.assert_allclose(posterior.gamma[r, n, :length], np.einsum("p,pti->ti", weights, hot), atol=1e-9)
    xi = np.einsum("p,pti,ptj->tij", weights, hot[:, :-1], hot[:, 1:])
    np.testing.assert_allclose(posterior.xi[r, n, 1:length], xi, atol=1e-9)


@SETTINGS
@given(chains())
def test_everything_equals_the_sum_over_all_paths(chain):
    posterior = infer(chain)
    for r, n in np.ndindex(*posterior.log_z.shape):
        assert_equals_paths(posterior, chain, r, n, *paths_of(chain, r, n))


@SETTINGS
@given(chains(), st.data())
def test_exact_labels_equal_conditioning(chain, data):
    n = data.draw(st.integers(0, len(chain.lengths) - 1))
    options = chain.emission.shape[-1]
    steps = sorted(data.draw(st.sets(st.integers(0, int(chain.lengths[n]) - 1), min_size=1, max_size=3)))
    said = [data.draw(st.integers(0, options - 1)) for _ in steps]
    labelled = chain.given(labels([(n, t) for t in steps], said, options).evidence(chain.emission.shape[1:3]))
    posterior = infer(labelled)
    for r in range(2):
        paths, joint = paths_of(chain, r, n)
        joint = np.where((paths[:, steps] == said).all(1), joint, -np.inf)
        assert_equals_paths(posterior, chain, r, n, paths, joint)
        if joint.max() > -np.inf:
            assert (posterior.gamma[r, n, steps, said] == 1).all(), "not nearly one: one"
        else:
            with pytest.raises(UserError, match=f"cannot be produced: .*{n}"):
                require_possible(posterior)


@SETTINGS
@given(chains(), st.data())
def test_answers_through_a_confusion_matrix_weigh_paths(chain, data):
    """Several may be about one step, each a distribution, and what is believed of annotators differs by restart."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    options, count = chain.emission.shape[-1], data.draw(st.integers(1, 6))
    confusion = rng.dirichlet(np.ones(options), size=(2, 2, options))  # [R, W, K, K]
    where = np.array([(n, rng.integers(chain.lengths[n])) for n in rng.integers(len(chain.lengths), size=count)])
    who = rng.integers(2, size=count)
    answers = Answers(where[:, 0], where[:, 1], rng.dirichlet(np.ones(options), size=count), who)
    posterior = infer(chain.given(answers.evidence(chain.emission.shape[1:3], confusion)))
    for r, n in np.ndindex(*posterior.log_z.shape):
        paths, joint = paths_of(chain, r, n)
        for m in np.flatnonzero(where[:, 0] == n):
            joint = joint + np.log(confusion[r, who[m]] @ answers.report[m])[paths[:, where[m, 1]]]
        assert_equals_paths(posterior, chain, r, n, paths, joint)


def two_options(initial, table, emission):
    """One trajectory of two options [T, 2] whose transitions are the same at all steps."""
    same = np.zeros((1, len(emission)), np.int64)
    return Chain(np.array([[initial]]), np.array([[table]]), np.array([[emission]]), same, np.array([len(emission)]))


def test_labels_reach_what_lies_far_below_the_reach_of_exp():
    never = np.where(np.eye(2), 0.0, -np.inf)
    far = two_options(np.log([0.5, 0.5]), never, np.tile([0.0, -1e4], (50, 1)))
    np.testing.assert_allclose(infer(far).log_z, np.log(0.5))
    posterior = infer(far.given(labels([(0, 30)], [1], 2).evidence((1, 50))))
    assert (posterior.gamma[0, 0, :, 1] == 1).all()
    np.testing.assert_allclose(posterior.log_z, np.log(0.5) - 50e4)


@pytest.mark.parametrize("switch", [-225.0, -600.0, -800.0])
def test_a_switch_that_exp_cannot_hold_is_taken_when_staying_costs_more(switch):
    """Each emission alone is harmless; only their sum outweighs the switch. A zero in its place would hide the path."""
    emission = np.tile([-150.0, 0.0], (10, 1))
    emission[0] = [0.0, -np.inf]
    posterior = infer(two_options(np.log([0.5, 0.5]), [[0.0, switch], [-np.inf, 0.0]], emission))
    np.testing.assert_allclose(posterior.log_z, np.log(0.5) + switch)
    assert posterior.gamma[0, 0].argmax(-1).tolist() == [0] + [1] * 9
    np.testing.assert_allclose(posterior.xi[0, 0, 1], [[0, 1], [0, 0]], atol=1e-9)


def test_contradictory_labels_are_reported_by_trajectory():
    stays, same = np.where(np.eye(2), 0.0, -np.inf)[None, None], np.zeros((3, 4), np.int64)
    three = Chain(np.log(np.full((1, 3, 2), 0.5)), stays, np.zeros((1, 3, 4, 2)), same, np.full(3, 4))
    require_possible(infer(three))
    for where in ([(1, 0), (1, 3)], [(1, 2), (1, 2)]):
        posterior = infer(three.given(labels(where, [0, 1], 2).evidence((3, 4))))
        assert np.isneginf(posterior.log_z).tolist() == [[False, True, False]]
        with pytest.raises(UserError, match=r"1 demonstrations contradict .*: 1\."):
            require_possible(posterior)
    with pytest.raises(UserError, match=r"9 demonstrations .*: 0, 1, 2, 3, 4, \.\.\.\."):
        require_possible(Posterior(np.full((1, 9), -np.inf), np.zeros(()), np.zeros(())))


@pytest.mark.parametrize(
    ("complaint", "wrong"),
    [
        ("initial has shape", {"initial": np.zeros((1, 1, 3))}),
        ("rows has shape", {"rows": np.zeros((2, 4))}),
        ("rows must be within 0 and 0", {"rows": np.ones((1, 4), np.int64)}),
        *[("lengths must be within 1 and 4", {"lengths": np.array([length])}) for length in (0, 5)],
        *[(r"NaN or .inf", {"emission": np.full((1, 1, 4, 2), value)}) for value in (np.nan, np.inf)],
    ],
)
def test_what_is_no_chain_is_refused(complaint, wrong):
    base = two_options(np.log([0.5, 0.5]), np.log([[0.9, 0.1], [0.2, 0.8]]), np.zeros((4, 2)))
    with pytest.raises(ValueError, match=complaint):
        infer(base._replace(**wrong))
