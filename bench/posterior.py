"""The posterior of options against NumPy, of the same trajectories, by CPU time on one core.

The size is that of the kitchen demonstrations that HALO was published on: 566 trajectories of 409 steps, 7 options. The
peer of the goal is an exact loop over trajectories and steps by scaled probabilities, with every exponential and all
pairs of a trajectory taken at once. A second peer takes each step of all trajectories at once, the best that NumPy does
without compiled code. All must find the same.
"""

from functools import partial
from typing import Any

import numpy as np

from bench.turns import compared
from preceptor.agent.halo.posterior import Chain, Floats, infer

TRAJECTORIES, STEPS, OPTIONS, TURNS = 566, 409, 7, 3

Figures = tuple[Floats, Floats, Floats]  # log Z [N], gamma [N, T, K], xi [N, T, K, K]


def drawn(rng: np.random.Generator) -> Chain:
    """A chain of options that stay, with actions that tell something about them."""
    n, t, k = TRAJECTORIES, STEPS, OPTIONS
    logits = 3 * np.eye(k) + rng.normal(size=(n, t, k, k))
    transition = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    emission = 2 * rng.normal(size=(n, t, k))
    every = np.arange(n * t).reshape(n, t)
    return Chain(np.full((1, n, k), -np.log(k)), transition.reshape(1, -1, k, k), emission[None], every, np.full(n, t))


def compiled(chain: Chain) -> Figures:
    """As `preceptor.agent.halo` does it."""
    posterior = infer(chain)
    return posterior.log_z[0], posterior.gamma[0], posterior.xi[0]


def by_trajectory(chain: Chain) -> Figures:
    """One trajectory after another, one step after another."""
    initial, transition, emission = chain.initial[0], chain.transition[0][chain.rows], chain.emission[0]
    n, t, k = emission.shape
    log_z, gamma, xi = np.empty(n), np.empty((n, t, k)), np.zeros((n, t, k, k))
    alpha, scale, ahead, beta = np.empty((t, k)), np.empty(t), np.empty((t, k)), np.ones((t, k))
    for m in range(n):
        table = np.exp(transition[m])
        top = emission[m].max(1, keepdims=True)
        likelihood = np.exp(emission[m] - top)
        now = np.exp(initial[m]) * likelihood[0]
        for i in range(t):
            if i:
                now = (now @ table[i]) * likelihood[i]
            scale[i] = now.sum()
            now = now / scale[i]
            alpha[i] = now
        for i in range(t - 1, 0, -1):
            ahead[i] = likelihood[i] * beta[i] / scale[i]
            beta[i - 1] = table[i] @ ahead[i]
        gamma[m] = alpha * beta
        xi[m, 1:] = alpha[:-1, :, None] * table[1:] * ahead[1:, None]
        log_z[m] = np.log(scale).sum() + top.sum()
    return log_z, gamma, xi


def by_step(chain: Chain) -> Figures:
    """One step after another, of all trajectories at once."""
    initial, transition, emission = chain.initial[0], chain.transition[0][chain.rows], chain.emission[0]
    n, t, k = emission.shape
    table, top = np.exp(transition), emission.max(2, keepdims=True)
    likelihood = np.exp(emission - top)
    alpha, scale, beta = np.empty((n, t, k)), np.empty((n, t, 1)), np.ones((n, t, k))
    ahead = np.empty((n, t, k))
    now = np.exp(initial) * likelihood[:, 0]
    for i in range(t):
        if i:
            now = (now[:, None] @ table[:, i])[:, 0] * likelihood[:, i]
        scale[:, i] = now.sum(1, keepdims=True)
        now = now / scale[:, i]
        alpha[:, i] = now
    for i in range(t - 1, 0, -1):
        ahead[:, i] = likelihood[:, i] * beta[:, i] / scale[:, i]
        beta[:, i - 1] = (table[:, i] @ ahead[:, i, :, None])[..., 0]
    xi = np.zeros((n, t, k, k))
    xi[:, 1:] = alpha[:, :-1, :, None] * table[:, 1:] * ahead[:, 1:, None]
    return np.log(scale).sum((1, 2)) + top.sum((1, 2)), alpha * beta, xi


def main() -> dict[str, Any]:
    """Measure, print and return the figures; `ratio` is the loop's time over ours."""
    chain = drawn(np.random.default_rng(0))
    sides = {"compiled": compiled, "NumPy, step by step": by_step, "NumPy, trajectory by trajectory": by_trajectory}
    ours = compiled(chain)
    for name, side in sides.items():
        for mine, theirs in zip(ours, side(chain), strict=True):
            assert np.allclose(mine, theirs, rtol=1e-9, atol=1e-9), f"{name} finds something else"
    what = f"gamma, xi and log Z of {TRAJECTORIES} trajectories x {STEPS} steps x {OPTIONS} options"
    return compared(what, {name: (partial(side, chain), 1) for name, side in sides.items()}, TURNS, goal=5)


if __name__ == "__main__":
    main()
