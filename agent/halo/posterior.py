"""What the options were, given actions and answers: exact, for all trajectories and restarts in one call.

    alpha_0 ~ mu(s_0) e_0;  alpha_t ~ (alpha_{t-1} A_t) e_t;  beta_{T-1} = 1;  beta_{t-1} ~ A_t (e_t beta_t)
    gamma_t = P(z_t | all) ~ alpha_t beta_t
    xi_t(i, j) = P(z_{t-1} = i, z_t = j | all) ~ alpha_{t-1}(i) A_t(i, j) e_t(j) beta_t(j)

Labels are law: they zero the emission of every other option, so that no posterior, path or draw contradicts one. A
trajectory whose labels the chain cannot produce has log Z = -inf and a gamma of zeros; `require_possible` names it.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from agent.halo import recursions
from agent.halo.chain import Bools, Chain, Floats, Ints
from ground.errors import UserError

_LISTED = 5  # trajectories named in an error


@dataclass(frozen=True)
class Posterior:
    """Marginals of N trajectories, with the axis of restarts in front if the chain had one.

    Attributes:
        log_z: Log-likelihood of actions and answers, [(R,) N]; -inf where they contradict the chain.
        gamma: P(z_t = k | all), [(R,) N, T, K]; zero in padding and where log Z is -inf.
        xi: P(z_{t-1} = i, z_t = j | all), [(R,) N, T, K, K], zero at t = 0; None if it was not asked for.
        inside: bool [N, T], the steps that are not padding.
    """

    log_z: Floats
    gamma: Floats
    xi: Floats | None
    inside: Bools

    @cached_property
    def entropy(self) -> Floats:
        """H(z_t | all) in nats, [(R,) N, T]; zero in padding."""
        return entropy(self.gamma)

    @property
    def chain_entropy(self) -> Floats:
        """H(z_0, .., z_{T-1} | all) in nats, [(R,) N]: H(z_0) + sum_t H(z_t | z_{t-1}).

        Raises:
            ValueError: If xi was not computed.
        """
        joint = entropy(_pairs(self).reshape(*self.gamma.shape[:-1], -1))  # [(R,) N, T], H(z_{t-1}, z_t)
        return self.entropy[..., 0] + (joint[..., 1:] - self.entropy[..., :-1] * self.inside[:, 1:]).sum(-1)

    @property
    def expected_errors(self) -> Floats:
        """sum_t 1 - max_k gamma_t(k): how many steps the likeliest options are expected to get wrong, [(R,) N]."""
        return ((1 - self.gamma.max(-1)) * self.inside).sum(-1)


def entropy(probs: Floats) -> Floats:
    """-sum_k p log p in nats over the last axis; 0 log 0 = 0."""
    return -(probs * np.log(np.where(probs > 0, probs, 1.0))).sum(-1)


def _pairs(posterior: Posterior) -> Floats:
    if posterior.xi is None:
        raise ValueError("this posterior was computed without pairs: infer(chain, pairs=True)")
    return posterior.xi


def _arrays(chain: Chain) -> tuple[Floats, Floats, Ints, Floats, Ints]:
    """Initial [R, N, K], transition table [R, S, K, K], rows [N, T], emission [R, N, T, K] and lengths of a chain."""
    *_, n, t, k = chain.emission.shape
    rows = np.arange(n * t).reshape(n, t) if chain.rows is None else chain.rows
    restarts = chain.lead[0] if chain.lead else 1
    tables = chain.transition.reshape(restarts, -1, k, k)
    floats = (chain.initial.reshape(restarts, n, k), tables, chain.emission.reshape(restarts, n, t, k))
    initial, transition, emission = (np.ascontiguousarray(array, np.float64) for array in floats)
    return initial, transition, np.ascontiguousarray(rows, np.int64), emission, chain.lengths.astype(np.int64)


def infer(chain: Chain, pairs: bool = True) -> Posterior:
    """The posterior of a chain (Rabiner, 1989, eq. 27 and 37), by scaled probabilities where nothing can underflow.

    Args:
        chain: The chain, with the evidence of labels in its emissions.
        pairs: Compute xi, which takes most of the memory.

    Raises:
        ValueError: If the chain holds NaN or +inf.
    """
    initial, transition, rows, emission, lengths = _arrays(chain)
    restarts, n, t, k = emission.shape
    gamma, log_z = np.zeros((restarts, n, t, k)), np.empty((restarts, n))
    xi = np.zeros((restarts if pairs else 0, n, t, k, k))
    shared = chain.rows is not None
    recursions.posteriors(initial, transition, rows, shared, emission, lengths, gamma, xi, log_z)
    if np.isnan(log_z).any() or (log_z == np.inf).any():
        raise ValueError("NaN or +inf among the chain's log-probabilities")
    lead = chain.lead
    return Posterior(
        log_z.reshape(*lead, n),
        gamma.reshape(*lead, n, t, k),
        xi.reshape(*lead, n, t, k, k) if pairs else None,
        chain.inside,
    )


def require_possible(posterior: Posterior) -> None:
    """Raises UserError, naming trajectories, if answers contradict the chain or each other."""
    impossible = np.isneginf(posterior.log_z).reshape(-1, len(posterior.inside)).any(0)
    if impossible.any():
        listed = np.flatnonzero(impossible)
        named = ", ".join(map(str, listed[:_LISTED])) + (", ..." if len(listed) > _LISTED else "")
        raise UserError(
            f"The labels of {len(listed)} demonstrations contradict each other or cannot be produced: {named}. Labels "
            "that are law leave no sequence of options there.",
            "repeat the command with --resume --trust learnt, under which annotators may err",
        )


def filtered(chain: Chain) -> tuple[Floats, Floats]:
    """P(z_t | evidence up to t) [(R,) N, T, K], what can be known while acting, and log Z [(R,) N]."""
    arrays = _arrays(chain)
    alpha, log_z = np.zeros(arrays[3].shape), np.empty(arrays[3].shape[:2])
    recursions.filtered_steps(*arrays, alpha, log_z)
    return alpha.reshape(chain.emission.shape), log_z.reshape(chain.initial.shape[:-1])


def viterbi(chain: Chain) -> tuple[Ints, Floats]:
    """The likeliest path [(R,) N, T] and its log joint probability [(R,) N]; the lowest option wins ties.

    -1 in padding, and throughout a trajectory that is impossible (log joint -inf).
    """
    arrays = _arrays(chain)
    shape = arrays[3].shape[:3]
    path, score = np.full(shape, -1), np.empty(shape[:2])
    recursions.best_paths(*arrays, path, score)
    return path.reshape(chain.emission.shape[:-1]), score.reshape(chain.initial.shape[:-1])


def sample(chain: Chain, draws: int, rng: np.random.Generator) -> Ints:
    """Draws of whole paths from the posterior, [draws, (R,) N, T]: forward filtering, backward sampling.

    Options of neighbouring steps are drawn together, which independent draws from gamma are not. -1 as in `viterbi`.
    """
    arrays = _arrays(chain)
    shape = (draws, *arrays[3].shape[:3])
    paths = np.full(shape, -1)
    recursions.sampled_paths(*arrays, rng.random(shape), paths)
    return paths.reshape(draws, *chain.emission.shape[:-1])


def pairwise(gamma: Floats, xi: Floats, length: int) -> Floats:
    """P(z_s = i, z_t = j | all) of one trajectory, [L, L, K, K], in O(L^2 K^3).

    Given everything, the options are a Markov chain with transitions B_t(i, j) = xi_t(i, j) / gamma_{t-1}(i), so that
    P(z_s, z_t) = P(z_s, z_{t-1}) B_t.

    Args:
        gamma: [T, K]
        xi: [T, K, K]
        length: L, the steps that are not padding.
    """
    options = gamma.shape[-1]
    before = xi[1:length].sum(-1, keepdims=True)  # [L - 1, K, 1], gamma_{t-1}
    onward = np.divide(xi[1:length], before, out=np.zeros_like(xi[1:length]), where=before > 0)
    joint = np.zeros((length, length, options, options))
    joint[np.arange(length), np.arange(length)] = gamma[:length, :, None] * np.eye(options)
    for t in range(1, length):
        joint[:t, t] = joint[:t, t - 1] @ onward[t - 1]
        joint[t, :t] = joint[:t, t].swapaxes(-1, -2)
    return joint
