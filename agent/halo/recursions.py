"""Recursions of the hidden chain of options, one trajectory at a time, compiled by Numba.

Arrays carry the restarts in front: [R, N, T, K]. `rows[n, t]` names the row of the transition table, [R, S, K, K], that
leads from t - 1 to t, so that a table over discrete states is never gathered. All terms are those of
`agent.halo.chain`; the scaled pass is Rabiner (1989, section V.A), with the guard that this file adds.
"""

import numpy as np
from numba import njit

# The scaled pass multiplies at most three numbers that are each 0 or at least this, so that no product underflows:
# zero always means impossible. Whatever is smaller goes to the pass in log space.
_TINY = 1e-100
_LOG_TINY = -230.25850929940458


@njit(cache=True)
def _exponentials(r, first, count, log_table, table, small):  # type: ignore[no-untyped-def]
    """exp of the table's rows first .. first + count into [count, K, K], and where something possible is too small."""
    options = log_table.shape[2]
    for s in range(count):
        small[s] = False
        for i in range(options):
            for j in range(options):
                value = log_table[r, first + s, i, j]
                table[s, i, j] = np.exp(value)
                if value < _LOG_TINY and value != -np.inf:
                    small[s] = True


@njit(cache=True)
def _scaled_pass(  # type: ignore[no-untyped-def]
    r, n, length, initial, table, small, first, rows, emission, alpha, likelihood, scale, gamma, xi
):
    """Forward and backward of one trajectory by scaled probabilities; (log Z, whether it may be trusted).

    `table` [S, K, K] holds the rows of the transition table from `first` on.
    """
    options = initial.shape[2]
    want_pairs = xi.shape[0] > 0
    log_z = 0.0
    for t in range(length):
        row = rows[n, t] - first
        if t > 0 and small[row]:
            return 0.0, False
        top = -np.inf
        for j in range(options):
            top = max(top, emission[r, n, t, j])
        total = 0.0
        for j in range(options):
            relative = emission[r, n, t, j] - top
            if not (relative >= _LOG_TINY or relative == -np.inf):  # also where top is infinite: NaN
                return 0.0, False
            likelihood[t, j] = np.exp(relative)
            predicted = 0.0
            if t == 0:
                predicted = np.exp(initial[r, n, j])
                if predicted == 0.0 and initial[r, n, j] != -np.inf:
                    return 0.0, False
            else:
                for i in range(options):
                    predicted += alpha[t - 1, i] * table[row, i, j]
            if 0.0 < predicted < _TINY:
                return 0.0, False
            alpha[t, j] = predicted * likelihood[t, j]
            total += alpha[t, j]
        if not total >= _TINY:
            return 0.0, False
        for j in range(options):
            alpha[t, j] /= total
            if 0.0 < alpha[t, j] < _TINY:
                return 0.0, False
        scale[t] = total
        log_z += np.log(total) + top
    beta, ahead = np.ones(options), np.empty(options)
    for t in range(length - 1, -1, -1):
        total = 0.0
        for j in range(options):
            gamma[r, n, t, j] = alpha[t, j] * beta[j]
            total += gamma[r, n, t, j]
        for j in range(options):
            gamma[r, n, t, j] /= total
            # An option that cannot be reached has no bound on its beta, and nothing reachable leads to it.
            ahead[j] = likelihood[t, j] * beta[j] / scale[t] if alpha[t, j] > 0.0 else 0.0
        if t == 0:
            break
        row = rows[n, t] - first
        for i in range(options):
            beta[i] = 0.0
            for j in range(options):
                onward = table[row, i, j] * ahead[j]
                beta[i] += onward
                if want_pairs:
                    xi[r, n, t, i, j] = alpha[t - 1, i] * onward
            if alpha[t - 1, i] == 0.0:
                beta[i] = 0.0
    return log_z, True


@njit(cache=True)
def log_forward(r, n, length, initial, log_table, rows, emission, log_alpha, norms):  # type: ignore[no-untyped-def]
    """Fills log alpha_t [T, K], normalised at each step, and its norms [T]; log Z: -inf if impossible, NaN of NaN."""
    options = initial.shape[2]
    log_z = 0.0
    for t in range(length):
        row = rows[n, t]
        for j in range(options):
            if t == 0:
                predicted = initial[r, n, j]
            else:
                top = -np.inf
                for i in range(options):
                    value = log_alpha[t - 1, i] + log_table[r, row, i, j]
                    if np.isnan(value):
                        return np.nan
                    top = max(top, value)
                predicted = top
                if top != -np.inf:
                    total = 0.0
                    for i in range(options):
                        total += np.exp(log_alpha[t - 1, i] + log_table[r, row, i, j] - top)
                    predicted += np.log(total)
            log_alpha[t, j] = predicted + emission[r, n, t, j]
            if np.isnan(log_alpha[t, j]):
                return np.nan
        top = -np.inf
        for j in range(options):
            top = max(top, log_alpha[t, j])
        if top == -np.inf:
            return -np.inf
        total = 0.0
        for j in range(options):
            total += np.exp(log_alpha[t, j] - top)
        norms[t] = top + np.log(total)
        log_z += norms[t]
        for j in range(options):
            log_alpha[t, j] -= norms[t]
    return log_z


@njit(cache=True)
def _log_pass(  # type: ignore[no-untyped-def]
    r, n, length, initial, log_table, rows, emission, log_alpha, norms, gamma, xi
):
    """What `_scaled_pass` does, in log space throughout; log Z, with gamma and xi zero where that is -inf."""
    options = initial.shape[2]
    log_z = log_forward(r, n, length, initial, log_table, rows, emission, log_alpha, norms)
    want_pairs = xi.shape[0] > 0
    if not log_z > -np.inf:
        gamma[r, n] = 0.0
        if want_pairs:
            xi[r, n] = 0.0
        return log_z
    log_beta, ahead = np.zeros(options), np.empty(options)
    for t in range(length - 1, -1, -1):
        total = 0.0
        for j in range(options):
            gamma[r, n, t, j] = np.exp(log_alpha[t, j] + log_beta[j])
            total += gamma[r, n, t, j]
        for j in range(options):
            gamma[r, n, t, j] /= total
            ahead[j] = emission[r, n, t, j] + log_beta[j] - norms[t]
        if t == 0:
            break
        row = rows[n, t]
        for i in range(options):
            top = -np.inf
            for j in range(options):
                top = max(top, log_table[r, row, i, j] + ahead[j])
            total = 0.0
            for j in range(options):
                onward = log_table[r, row, i, j] + ahead[j]
                if top != -np.inf:
                    total += np.exp(onward - top)
                if want_pairs:
                    xi[r, n, t, i, j] = np.exp(log_alpha[t - 1, i] + onward)
            log_beta[i] = top + np.log(total) if top != -np.inf else -np.inf
    return log_z


@njit(cache=True, nogil=True)
def posteriors(  # type: ignore[no-untyped-def]
    initial, log_table, rows, shared, emission, lengths, gamma, xi, log_z
):
    """Fills gamma [R, N, T, K], xi [R, N, T, K, K] (or none: first axis 0) and log Z [R, N]; padding stays.

    `shared` says that trajectories use rows of one table, which is exponentiated once; else each has rows of its own,
    which are exponentiated where they stay in the cache: that is half of the time.
    """
    restarts, count, steps, options = emission.shape
    alpha, likelihood = np.empty((steps, options)), np.empty((steps, options))
    scale = np.empty(steps)
    table_rows = log_table.shape[1] if shared else steps
    table, small = np.empty((table_rows, options, options)), np.empty(table_rows, np.bool_)
    for r in range(restarts):
        if shared:
            _exponentials(r, 0, table_rows, log_table, table, small)
        for n in range(count):
            first = 0
            if not shared:
                first = n * steps
                _exponentials(r, first, lengths[n], log_table, table, small)
            value, trusted = _scaled_pass(
                r, n, lengths[n], initial, table, small, first, rows, emission, alpha, likelihood, scale, gamma, xi
            )
            if not trusted:
                value = _log_pass(r, n, lengths[n], initial, log_table, rows, emission, alpha, scale, gamma, xi)
            log_z[r, n] = value


@njit(cache=True)
def best_paths(initial, log_table, rows, emission, lengths, path, score):  # type: ignore[no-untyped-def]
    """Fills the likeliest path [R, N, T] and its log joint [R, N] (Viterbi, 1967); impossible ones are left alone."""
    restarts, count, steps, options = emission.shape
    came_from = np.empty((steps, options), np.int64)
    best, following = np.empty(options), np.empty(options)
    for r in range(restarts):
        for n in range(count):
            for j in range(options):
                best[j] = initial[r, n, j] + emission[r, n, 0, j]
            for t in range(1, lengths[n]):
                row = rows[n, t]
                for j in range(options):
                    came_from[t, j] = 0
                    for i in range(options):
                        value = best[i] + log_table[r, row, i, j]
                        if i == 0 or value > following[j]:
                            following[j], came_from[t, j] = value, i
                    following[j] += emission[r, n, t, j]
                best[:] = following
            last = np.argmax(best)
            score[r, n] = best[last]
            if best[last] == -np.inf:
                continue
            for t in range(lengths[n] - 1, -1, -1):
                path[r, n, t] = last
                last = came_from[t, last]


@njit(cache=True)
def _drawn(log_weights, uniform):  # type: ignore[no-untyped-def]
    """An index with probability proportional to exp(log_weights) [K], never one whose weight is zero."""
    top = np.max(log_weights)
    total = 0.0
    for k in range(len(log_weights)):
        total += np.exp(log_weights[k] - top)
    chosen = int(np.argmax(log_weights))  # should rounding leave the sum short of the draw
    cumulative = 0.0
    for k in range(len(log_weights)):
        weight = np.exp(log_weights[k] - top)
        cumulative += weight
        if weight > 0.0 and cumulative > uniform * total:
            chosen = k
            break
    return chosen


@njit(cache=True)
def sampled_paths(initial, log_table, rows, emission, lengths, uniform, paths):  # type: ignore[no-untyped-def]
    """Fills draws of whole paths [D, R, N, T] from uniform numbers of that shape; impossible ones are left alone."""
    restarts, count, steps, options = emission.shape
    log_alpha, norms, weights = np.empty((steps, options)), np.empty(steps), np.empty(options)
    for r in range(restarts):
        for n in range(count):
            if log_forward(r, n, lengths[n], initial, log_table, rows, emission, log_alpha, norms) == -np.inf:
                continue
            for d in range(len(paths)):
                following = -1
                for t in range(lengths[n] - 1, -1, -1):
                    weights[:] = log_alpha[t]
                    if following >= 0:
                        for i in range(options):
                            weights[i] += log_table[r, rows[n, t + 1], i, following]
                    following = _drawn(weights, uniform[d, r, n, t])
                    paths[d, r, n, t] = following


@njit(cache=True)
def filtered_steps(initial, log_table, rows, emission, lengths, alpha, log_z):  # type: ignore[no-untyped-def]
    """Fills P(z_t | evidence up to t) [R, N, T, K] and log Z [R, N]; impossible trajectories are left alone."""
    restarts, count, steps, options = emission.shape
    log_alpha, norms = np.empty((steps, options)), np.empty(steps)
    for r in range(restarts):
        for n in range(count):
            log_z[r, n] = log_forward(r, n, lengths[n], initial, log_table, rows, emission, log_alpha, norms)
            if log_z[r, n] != -np.inf:
                alpha[r, n, : lengths[n]] = np.exp(log_alpha[: lengths[n]])
