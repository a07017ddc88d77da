"""Answers as evidence, extreme values, and the four faults of published inference (shared/reference/halo.md, 1.4)."""

import numpy as np
import pytest

from agent.halo.chain import Answers, Chain
from agent.halo.posterior import Posterior, infer, pairwise, require_possible, sample, viterbi
from ground.errors import UserError

A = np.array([[0.9, 0.1], [0.2, 0.8]])
E = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0.1, 0.9]])


def chain(initial=(0.5, 0.5), transitions=A, emissions=E):
    with np.errstate(divide="ignore"):
        steps = len(emissions)
        table = np.broadcast_to(np.log(transitions), (1, steps, 2, 2))
        return Chain(np.log([initial]), table, np.log([emissions]), np.array([steps]))


def labelled(base, *answers):
    said = Answers.of_labels([(0, t) for t, _ in answers], [label for _, label in answers], 2)
    return base.given(said.evidence(base.lengths, base.emission.shape[1]))


def test_forward_and_backward_sum_over_the_states_and_entropy_is_of_probabilities():
    """Fault 1: log matrices were added up elementwise, and the entropy was taken of logs."""
    posterior = infer(chain(emissions=np.ones((3, 2)), initial=(1.0, 0.0)))
    np.testing.assert_allclose(posterior.gamma[0, 2], [0.9 * 0.9 + 0.1 * 0.2, 0.9 * 0.1 + 0.1 * 0.8])
    expected = -sum(p * np.log(p) for p in (0.83, 0.17))
    np.testing.assert_allclose(posterior.entropy[0], [0, -0.9 * np.log(0.9) - 0.1 * np.log(0.1), expected])


def test_the_first_emission_and_the_prior_count_and_paths_end_at_the_best_end():
    """Fault 2: the path forgot the first emission, the prior and the last label, and began at a back-pointer."""
    flat = np.full((2, 2), 0.5)
    assert viterbi(chain(transitions=flat, emissions=E))[0].tolist() == [[0, 0, 1, 1]]
    assert viterbi(chain(transitions=flat, emissions=E[::-1]))[0].tolist() == [[1, 1, 0, 0]]
    assert viterbi(chain((0.05, 0.95), flat, np.ones((1, 2))))[0].tolist() == [[1]]
    assert viterbi(chain((0.05, 0.95), flat, E[:1]))[0].tolist() == [[1]]
    for t in range(4):
        for label in (0, 1):
            assert viterbi(labelled(chain(), (t, label)))[0][0, t] == label
    path, score = viterbi(labelled(chain(), (1, 1)))
    assert path.tolist() == [[0, 1, 1, 1]]
    np.testing.assert_allclose(score[0], np.log(0.5 * 0.9 * 0.1 * 0.5 * 0.8 * 0.8 * 0.8 * 0.9))


def test_the_emission_of_a_labelled_step_still_counts():
    """Fault 2, its other half: a labelled step keeps the probability of its action in log Z."""
    with_label = (
        infer(labelled(chain(), (0, 0))).log_z - infer(labelled(chain(emissions=np.ones((4, 2))), (0, 0))).log_z
    )
    without = infer(chain((1.0, 0.0))).log_z - infer(chain((1.0, 0.0), emissions=np.ones((4, 2)))).log_z
    np.testing.assert_allclose(with_label, without)


def test_each_emission_counts_once_and_the_last_one_too():
    """Fault 3: backward used the emission of the step before: counted twice, and the last one never."""
    emissions = np.array([[1.0, 1.0], [1.0, 1.0], [0.3, 0.6]])
    flat = np.full((2, 2), 0.5)
    np.testing.assert_allclose(infer(chain(transitions=flat, emissions=emissions)).gamma[0, 2], [1 / 3, 2 / 3])
    once = np.array([[0.3, 0.6]])
    np.testing.assert_allclose(infer(chain(emissions=once)).gamma[0, 0], [1 / 3, 2 / 3])
    posterior = infer(chain(emissions=emissions))
    backward = A @ (emissions[2] * 1.0)
    np.testing.assert_allclose(posterior.gamma[0, 1], (p := (np.array([0.5, 0.5]) @ A) * backward) / p.sum())


def test_a_later_label_counts_once():
    """Fault 4: what a later label says about earlier steps went through forward and again through backward."""
    posterior = infer(labelled(chain(emissions=np.ones((3, 2))), (2, 1)))
    joint = np.array([[0.5 * A[i, j] * A[j, 1] for j in (0, 1)] for i in (0, 1)])
    np.testing.assert_allclose(posterior.gamma[0, 1], joint.sum(0) / joint.sum())
    np.testing.assert_allclose(posterior.gamma[0, 0], joint.sum(1) / joint.sum())


def test_transitions_belong_to_the_step_that_they_lead_to():
    """Fault 5's convention, written once: row t leads from z_{t-1} to z_t, and row 0 is not read."""
    base = chain((1.0, 0.0), emissions=np.ones((3, 2)))
    table = np.log(np.stack([np.full((2, 2), 1e-9), [[1e-12, 1.0], [1.0, 1e-12]], [[1.0, 1e-12], [1e-12, 1.0]]]))
    turned = Chain(base.initial, table[None], base.emission, base.lengths)
    assert viterbi(turned)[0].tolist() == [[0, 1, 1]]
    np.testing.assert_allclose(infer(turned).gamma[0].argmax(1), [0, 1, 1])
    assert not infer(turned).xi[0, 0].any()


def test_labels_reach_what_lies_far_below_the_reach_of_exp():
    emissions = np.full((1, 50, 2), 0.0)
    emissions[..., 1] = -1e4
    with np.errstate(divide="ignore"):
        one_way = np.broadcast_to(np.log([[1.0, 0.0], [0.0, 1.0]]), (1, 50, 2, 2))
    far = Chain(np.log([[0.5, 0.5]]), one_way, emissions, np.array([50]))
    np.testing.assert_allclose(infer(far).log_z, np.log(0.5))
    posterior = infer(labelled(far, (30, 1)))
    assert (posterior.gamma[0, :, 1] == 1).all()
    np.testing.assert_allclose(posterior.log_z, np.log(0.5) - 50e4)
    assert (viterbi(labelled(far, (30, 1)))[0] == 1).all()
    assert (sample(labelled(far, (30, 1)), 3, np.random.default_rng(0)) == 1).all()


@pytest.mark.parametrize("switch", [-225.0, -600.0, -800.0])
def test_a_switch_that_exp_cannot_hold_is_taken_when_staying_costs_more(switch):
    """Each emission alone is harmless; only their sum outweighs the switch. A zero in its place would hide the path."""
    steps = 10
    emission = np.tile([-150.0, 0.0], (1, steps, 1))
    emission[0, 0] = [0.0, -np.inf]
    table = np.broadcast_to(np.array([[0.0, switch], [-np.inf, 0.0]]), (1, steps, 2, 2))
    posterior = infer(Chain(np.log([[0.5, 0.5]]), table, emission, np.array([steps])))
    np.testing.assert_allclose(posterior.log_z, np.log(0.5) + switch)
    assert posterior.gamma[0].argmax(-1).tolist() == [0] + [1] * 9
    np.testing.assert_allclose(posterior.xi[0, 1], [[0, 1], [0, 0]], atol=1e-9)


def test_contradictory_labels_are_reported_by_trajectory_and_are_never_nan():
    with np.errstate(divide="ignore"):
        stays = np.broadcast_to(np.log(np.eye(2)), (3, 4, 2, 2))
    three = Chain(np.log(np.full((3, 2), 0.5)), stays, np.zeros((3, 4, 2)), np.full(3, 4))
    for where, label in (([(1, 0), (1, 3)], [0, 1]), ([(1, 2), (1, 2)], [0, 1])):
        posterior = infer(three.given(Answers.of_labels(where, label, 2).evidence(three.lengths, 4)))
        assert np.isneginf(posterior.log_z).tolist() == [False, True, False]
        assert not posterior.gamma[1].any()
        for figures in (posterior.gamma, posterior.xi, posterior.entropy, posterior.chain_entropy):
            assert np.isfinite(figures).all()
        assert not pairwise(posterior.gamma[1], posterior.xi[1], 4).any()
        with pytest.raises(UserError, match=r"1 demonstrations contradict .*: 1\."):
            require_possible(posterior)
        require_possible(infer(three))


def test_many_contradictions_are_not_all_listed():
    with pytest.raises(UserError, match=r"9 demonstrations .*: 0, 1, 2, 3, 4, \.\.\.\."):
        require_possible(Posterior(np.full(9, -np.inf), np.zeros((9, 1, 2)), None, np.ones((9, 1), bool)))


def test_answers_about_one_step_add_up_and_a_report_may_be_a_distribution():
    confusion = np.array([[[0.8, 0.2], [0.3, 0.7]]])
    base = chain(emissions=np.ones((1, 2)))
    twice = Answers.of_labels([(0, 0), (0, 0)], [1, 1], 2).evidence(base.lengths, 1, confusion)
    np.testing.assert_allclose(np.exp(twice[0, 0]), [0.04, 0.49])
    soft = Answers(np.array([0]), np.array([0]), np.array([[0.5, 0.5]]), np.array([0]))
    np.testing.assert_allclose(np.exp(soft.evidence(base.lengths, 1, confusion)[0, 0]), [0.5, 0.5])
    per_restart = Answers.of_labels([(0, 0)], [0], 2).evidence(
        base.lengths, 1, np.stack([confusion, confusion[:, ::-1]])
    )
    np.testing.assert_allclose(np.exp(per_restart[:, 0, 0]), [[0.8, 0.3], [0.3, 0.8]])
    assert not Answers.of_labels(np.zeros((0, 2)), [], 2).evidence(base.lengths, 1).any()


def test_bad_answers_and_shapes_say_what_is_wrong():
    with pytest.raises(UserError, match="Label 2 is not one of the 2 options"):
        Answers.of_labels([(0, 0)], [2], 2)
    for where in ((0, 3), (2, 0), (-1, 0), (0, -1)):
        with pytest.raises(UserError, match=f"about step {where[1]} of demonstration {where[0]}"):
            Answers.of_labels([where], [0], 2).evidence(np.array([3, 5]), 5)
    base = chain()
    with pytest.raises(ValueError, match=r"initial has shape \(1, 3\)"):
        Chain(np.zeros((1, 3)), base.transition, base.emission, base.lengths)
    with pytest.raises(ValueError, match="lengths must be within 1 and 4"):
        Chain(base.initial, base.transition, base.emission, np.array([0]))
    for bad in (np.nan, np.inf):
        emission = base.emission.copy()
        emission[0, 1] = bad
        with pytest.raises(ValueError, match="NaN or"):
            infer(Chain(base.initial, base.transition, emission, base.lengths))
    with pytest.raises(ValueError, match="pairs=True"):
        _ = infer(base, pairs=False).chain_entropy


def test_asking_lowers_the_entropy_of_the_path_by_the_entropy_of_the_step_in_expectation():
    """The chain rule, which makes the entropy of a step what its answer is worth: H(Z) - E H(Z | z_t) = H(z_t)."""
    base = chain()
    posterior = infer(base)
    for t in range(4):
        after = [infer(labelled(base, (t, k))).chain_entropy[0] for k in (0, 1)]
        expected = posterior.gamma[0, t] @ after
        np.testing.assert_allclose(posterior.chain_entropy[0] - expected, posterior.entropy[0, t])
