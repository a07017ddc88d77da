"""What the options were, given actions and answers: exact, for all trajectories and restarts in one call.

    z_0 ~ mu(.|s_0);  z_t ~ pi_H(.|s_t, z_{t-1});  a_t ~ pi_L(.|s_t, z_t)

The option z_t drives the action a_t, and is chosen after s_t is seen. There is no separate termination: an option ends
where pi_H leaves the diagonal (the intent-switching chain of Jing et al., 2021, arXiv 2106.05530). With transitions A_t
and emissions e_t (Rabiner, 1989, eq. 27 and 37):

    alpha_0 ~ mu(s_0) e_0;  alpha_t ~ (alpha_{t-1} A_t) e_t;  beta_{T-1} = 1;  beta_{t-1} ~ A_t (e_t beta_t)
    gamma_t = P(z_t | all) ~ alpha_t beta_t
    xi_t(i, j) = P(z_{t-1} = i, z_t = j | all) ~ alpha_{t-1}(i) A_t(i, j) e_t(j) beta_t(j)

An exact label zeros the emission of every other option, so that no posterior contradicts one. A trajectory whose labels
the chain cannot produce has log Z = -inf and a gamma of zeros; `require_possible` names it.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from preceptor.ground.errors import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_LISTED = 5  # trajectories named in an error
# The scaled pass multiplies at most three numbers that are each 0 or at least this, so that no product underflows:
# zero always means impossible. A trajectory with smaller numbers is computed in log space.
_TINY = 1e-100
_LOG_TINY = -230.25850929940458


class Chain(NamedTuple):
    """Log-probabilities of N ragged trajectories under R restarts.

    Attributes:
        initial: log mu(j | s_0), [R, N, K].
        transition: log pi_H(j | s, i) at [r, s, i, j], a table of S states, [R, S, K, K].
        emission: log pi_L(a_t | s_t, j) plus the evidence of labels, [R, N, T, K]; zero where nothing was done, as at
            a terminal observation.
        rows: int [N, T], the row of the table by which step t is reached; that of step 0 is not read.
        lengths: Observations of each trajectory, [N], at least 1; the steps behind them are padding, never read.
    """

    initial: Floats
    transition: Floats
    emission: Floats
    rows: Ints
    lengths: Ints

    def given(self, evidence: Floats) -> "Chain":
        """This chain with the log-likelihood of answers, [(R,) N, T, K], on top of what it knows."""
        return self._replace(emission=self.emission + evidence)


class Answers(NamedTuple):
    """What annotators said, M answers; several may be about one step.

    Attributes:
        trajectory: int [M].
        step: int [M].
        report: float [M, K], the distribution over options that was reported; one-hot for a plain label.
        annotator: int [M], who said it, as a row of the confusion matrices.
    """

    trajectory: Ints
    step: Ints
    report: Floats
    annotator: Ints

    def evidence(self, shape: tuple[int, ...], confusion: Floats | None = None) -> Floats:
        """log P(answers | z_t = j) at [n, t, j]; zero without an answer, -inf where an exact label is not j.

        An answer of annotator m weighs option j by sum_y report(y) C_m[j, y]; the answers of one step are independent
        given its option.

        Args:
            shape: (N, T) of the demonstrations.
            confusion: P(annotator w says y | option j), [.., W, K, K]. Without it labels are exact.

        Returns:
            [.., N, T, K]
        """
        likelihood = self.report  # [M, K]
        if confusion is not None:
            likelihood = np.einsum("...mjy,my->...mj", confusion[..., self.annotator, :, :], self.report)
        evidence = np.zeros((*likelihood.shape[:-2], *shape, self.report.shape[1]))
        with np.errstate(divide="ignore"):
            logs = np.log(likelihood)
        # ufunc.at adds each of several answers about the same step, where an assignment would keep the last.
        np.add.at(evidence, (Ellipsis, self.trajectory, self.step, slice(None)), logs)  # type: ignore[arg-type]
        return evidence


class Posterior(NamedTuple):
    """Marginals of N trajectories under R restarts.

    Attributes:
        log_z: Log-likelihood of actions and answers, [R, N]; -inf where they contradict the chain.
        gamma: P(z_t = k | all), [R, N, T, K]; zero in padding and where log Z is -inf.
        xi: P(z_{t-1} = i, z_t = j | all), [R, N, T, K, K], zero at t = 0 and where gamma is.
    """

    log_z: Floats
    gamma: Floats
    xi: Floats


def infer(chain: Chain) -> Posterior:
    """The posterior of a chain, with the evidence of labels in its emissions.

    Raises:
        ValueError: The parts of the chain do not fit each other, or hold NaN or +inf.
    """
    r, n, t, k = chain.emission.shape
    states = chain.transition.shape[1]
    expected = {"initial": (r, n, k), "transition": (r, states, k, k), "rows": (n, t), "lengths": (n,)}
    for name, shape in expected.items():
        if getattr(chain, name).shape != shape:  # compiled code would read beyond
            raise ValueError(f"{name} has shape {getattr(chain, name).shape}, expected {shape}")
    if n == 0 or chain.lengths.min() < 1 or chain.lengths.max() > t:
        raise ValueError(f"lengths must be within 1 and {t}")
    if chain.rows.min() < 0 or chain.rows.max() >= states:
        raise ValueError(f"rows must be within 0 and {states - 1}")
    floats = (np.ascontiguousarray(part, np.float64) for part in chain[:3])
    found = Posterior(np.empty((r, n)), np.zeros((r, n, t, k)), np.zeros((r, n, t, k, k)))
    _posteriors(*floats, np.ascontiguousarray(chain.rows, np.int64), chain.lengths.astype(np.int64), *found)
    if np.isnan(found.log_z).any() or (found.log_z == np.inf).any():
        raise ValueError("NaN or +inf among the chain's log-probabilities")
    return found


def require_possible(posterior: Posterior) -> None:
    """Raises UserError, naming trajectories, if answers contradict the chain or each other."""
    impossible = np.flatnonzero(np.isneginf(posterior.log_z).any(0))
    if len(impossible):
        named = ", ".join(map(str, impossible[:_LISTED])) + (", ..." if len(impossible) > _LISTED else "")
        raise UserError(
            f"The labels of {len(impossible)} demonstrations contradict each other or cannot be produced: {named}. "
            "Where labels are exact, no sequence of options fits them.",
            "repeat the command with --resume --annotator-model learned, under which annotators may err",
        )


def entropy(probs: Floats) -> Floats:
    """-sum_k p log p in nats over the last axis; 0 log 0 = 0."""
    return -(probs * np.log(np.where(probs > 0, probs, 1.0))).sum(-1)


# --- compiled: one trajectory at a time, its steps [T, ..]; `rows` [T] names the transitions of each step ----------


@njit(cache=True, nogil=True)
def _posteriors(initial, log_table, emission, rows, lengths, log_z, gamma, xi):  # type: ignore[no-untyped-def]
    """Fills log Z [R, N], gamma [R, N, T, K] and xi [R, N, T, K, K]; padding stays."""
    _, count, steps, options = emission.shape
    shared = log_table.shape[1] < np.sum(lengths) - count  # else each step has a row of its own, read in the cache
    size, order = log_table.shape[1] if shared else steps, np.arange(steps)
    table, small = np.empty((size, options, options)), np.zeros(size, np.bool_)
    for r in range(len(log_table)):
        for s in range(size if shared else 0):
            small[s] = _exponentials(log_table[r, s], table[s])
        for n in range(count):
            first, seen, where, out, pairs = initial[r, n], emission[r, n, : lengths[n]], rows[n], gamma[r, n], xi[r, n]
            for t in range(1, 1 if shared else lengths[n]):
                small[t] = _exponentials(log_table[r, where[t]], table[t])
            log_z[r, n] = _scaled_pass(first, table, small, seen, where if shared else order, out, pairs)
            if np.isnan(log_z[r, n]):
                log_z[r, n] = _log_pass(first, log_table[r], seen, where, out, pairs)


@njit(cache=True)
def _exponentials(log_row, row):  # type: ignore[no-untyped-def]
    """Fills exp of a row [K, K] of the table; whether something possible in it is too small."""
    small = False
    for i in range(len(log_row)):
        for j in range(len(log_row)):
            row[i, j] = np.exp(log_row[i, j])
            small |= -np.inf < log_row[i, j] < _LOG_TINY
    return small


@njit(cache=True)
def _scaled_pass(initial, table, small, emission, rows, gamma, xi):  # type: ignore[no-untyped-def]
    """Forward and backward by scaled probabilities (Rabiner, 1989, section V.A); log Z, or NaN if one is too small."""
    length, options = emission.shape
    alpha, likelihood, scale = np.empty((length, options)), np.empty((length, options)), np.empty(length)
    log_z, lost = 0.0, False
    for t in range(length):
        row, top, total = rows[t], np.max(emission[t]), 0.0
        lost |= t > 0 and small[row]
        for j in range(options):
            relative = emission[t, j] - top
            lost |= not (relative >= _LOG_TINY or relative == -np.inf)  # also where top is infinite: NaN
            likelihood[t, j] = np.exp(relative)
            predicted = 0.0
            if t == 0:
                predicted = np.exp(initial[j])
                lost |= predicted == 0.0 and initial[j] != -np.inf
            else:
                for i in range(options):
                    predicted += alpha[t - 1, i] * table[row, i, j]
            lost |= 0.0 < predicted < _TINY
            alpha[t, j] = predicted * likelihood[t, j]
            total += alpha[t, j]
        if lost or not total >= _TINY:
            return np.nan
        for j in range(options):
            alpha[t, j] /= total
            lost |= 0.0 < alpha[t, j] < _TINY
        scale[t] = total
        log_z += np.log(total) + top
    if lost:
        return np.nan
    beta, ahead = np.ones(options), np.empty(options)
    for t in range(length - 1, -1, -1):
        total = 0.0
        for j in range(options):
            gamma[t, j] = alpha[t, j] * beta[j]
            total += gamma[t, j]
        for j in range(options):
            gamma[t, j] /= total
            # What cannot be reached has no bound on its beta, and may not count for what leads to it.
            ahead[j] = likelihood[t, j] * beta[j] / scale[t] if alpha[t, j] > 0.0 else 0.0
        for i in range(options if t > 0 else 0):
            beta[i] = 0.0
            for j in range(options):
                onward = table[rows[t], i, j] * ahead[j]
                beta[i] += onward
                xi[t, i, j] = alpha[t - 1, i] * onward
    return log_z


@njit(cache=True)
def _log_sum(terms):  # type: ignore[no-untyped-def]
    """log sum exp of numbers [K]; -inf if all are, NaN if one is."""
    top, total = np.max(terms), 0.0
    if top == -np.inf:
        return top
    for term in terms:
        total += np.exp(term - top)
    return top + np.log(total)


@njit(cache=True)
def _log_pass(initial, log_table, emission, rows, gamma, xi):  # type: ignore[no-untyped-def]
    """What `_scaled_pass` does, in log space throughout; log Z, which is -inf, and gamma zero, if it is impossible."""
    length, options = emission.shape
    log_alpha, norms, log_z = np.empty((length, options)), np.empty(length), 0.0
    for t in range(length):
        for j in range(options):
            predicted = initial[j] if t == 0 else _log_sum(log_alpha[t - 1] + log_table[rows[t], :, j])
            log_alpha[t, j] = predicted + emission[t, j]
        norms[t] = _log_sum(log_alpha[t])
        log_z += norms[t]
        if not log_z > -np.inf:
            return log_z
        log_alpha[t] -= norms[t]
    log_beta = np.zeros(options)
    for t in range(length - 1, -1, -1):
        gamma[t] = np.exp(log_alpha[t] + log_beta)
        gamma[t] /= np.sum(gamma[t])
        ahead = emission[t] + log_beta - norms[t]
        for i in range(options if t > 0 else 0):
            onward = log_table[rows[t], i] + ahead
            xi[t, i] = np.exp(log_alpha[t - 1, i] + onward)
            log_beta[i] = _log_sum(onward)
    return log_z
