"""What one step's option tells about another's: recursions over pairs of steps, compiled by Numba."""

import numpy as np
from numba import njit


@njit(cache=True)
def _onward(xi, gamma, r, n, length, onward):  # type: ignore[no-untyped-def]
    """Fills P(z_t = j | z_{t-1} = i, all), [T, K, K]; zero where z_{t-1} = i is impossible."""
    options = gamma.shape[3]
    for t in range(1, length):
        for i in range(options):
            total = 0.0
            for j in range(options):
                total += xi[r, n, t, i, j]
            for j in range(options):
                onward[t, i, j] = xi[r, n, t, i, j] / total if total > 0.0 else 0.0


@njit(cache=True)
def _certainty(joint, confusion):  # type: ignore[no-untyped-def]
    """sum_y max_k P(z = k, y) both ways, y being what is said of the other step: about the first, about the second.

    `joint` [K, K] is P(z_s = i, z_u = j).
    """
    options = joint.shape[0]
    asked_second, asked_first = 0.0, 0.0
    for y in range(confusion.shape[1]):
        best_first, best_second = 0.0, 0.0
        for k in range(options):
            first, second = 0.0, 0.0
            for j in range(options):
                first += joint[k, j] * confusion[j, y]
                second += joint[j, k] * confusion[j, y]
            best_first, best_second = max(best_first, first), max(best_second, second)
        asked_second += best_first
        asked_first += best_second
    return asked_first, asked_second


@njit(cache=True, nogil=True)
def error_reductions(gamma, xi, lengths, confusion, reduction):  # type: ignore[no-untyped-def]
    """Fills, for each step, by how much asking about it lowers the expected number of wrong steps, [N, T].

        sum_s [ sum_y max_k P(z_s = k, y_t = y) - max_k P(z_s = k) ]

    over the steps s of its trajectory, in O(R T^2 K^3) each. Restarts [R, N, T, K] are equally likely a priori, so that
    an answer also tells which of them is right about this trajectory.
    """
    restarts, count, steps, options = gamma.shape
    onward = np.zeros((restarts, steps, options, options))
    joint, moved = np.zeros((restarts, options, options)), np.zeros((options, options))
    mean = np.zeros((options, options))
    for n in range(count):
        length = lengths[n]
        for r in range(restarts):
            _onward(xi, gamma, r, n, length, onward[r])
        now = 0.0
        for t in range(length):
            mean[:] = 0.0
            for k in range(options):
                for r in range(restarts):
                    mean[k, k] += gamma[r, n, t, k] / restarts
            now += np.max(mean)
        for s in range(length):
            for r in range(restarts):
                for i in range(options):
                    for j in range(options):
                        joint[r, i, j] = gamma[r, n, s, i] if i == j else 0.0
            for u in range(s, length):
                mean[:] = 0.0
                for r in range(restarts):
                    if u > s:
                        for i in range(options):
                            for j in range(options):
                                moved[i, j] = 0.0
                                for k in range(options):
                                    moved[i, j] += joint[r, i, k] * onward[r, u, k, j]
                        joint[r] = moved
                    for i in range(options):
                        for j in range(options):
                            mean[i, j] += joint[r, i, j] / restarts
                asked_first, asked_second = _certainty(mean, confusion)
                reduction[n, s] += asked_first
                if u > s:
                    reduction[n, u] += asked_second
        for t in range(length):
            reduction[n, t] -= now


@njit(cache=True)
def joint_entropies(gamma, xi, length, at):  # type: ignore[no-untyped-def]
    """H(z_at, z_t) in nats for every step t of one trajectory, [L]; gamma [T, K], xi [T, K, K]."""
    options = gamma.shape[1]
    entropies = np.zeros(length)
    joint, moved = np.zeros((options, options)), np.zeros((options, options))
    for direction in (1, -1):
        for i in range(options):
            for j in range(options):
                joint[i, j] = gamma[at, i] if i == j else 0.0
        t = at
        while 0 <= t < length:
            if t != at:
                step = t if direction == 1 else t + 1  # the pair xi that joins t to its neighbour nearer to `at`
                for k in range(options):
                    total = 0.0
                    for j in range(options):
                        total += xi[step, k, j] if direction == 1 else xi[step, j, k]
                    for i in range(options):
                        moved[i, k] = joint[i, k] / total if total > 0.0 else 0.0
                for i in range(options):
                    for j in range(options):
                        joint[i, j] = 0.0
                        for k in range(options):
                            joint[i, j] += moved[i, k] * (xi[step, k, j] if direction == 1 else xi[step, j, k])
            total = 0.0
            for i in range(options):
                for j in range(options):
                    if joint[i, j] > 0.0:
                        total -= joint[i, j] * np.log(joint[i, j])
            entropies[t] = total
            t += direction
    return entropies
