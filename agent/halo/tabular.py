"""Policies over discrete states, as tables: the M-step is counting."""

from copy import copy
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from agent.halo.chain import Bools, Chain, Floats, Ints
from agent.halo.config import TabularConfig
from agent.halo.demonstrations import Demonstrations
from agent.halo.posterior import Posterior

_TABLES = ("log_initial", "log_high", "log_low")


@njit(cache=True, nogil=True)
def _counts(gamma, xi, weight, state, action, acted, lengths, low, high):  # type: ignore[no-untyped-def]
    """Adds expected counts to low [R, S, K, A] and high [R, S, K, K]."""
    restarts, count, _, options = gamma.shape
    for r in range(restarts):
        for n in range(count):
            for t in range(lengths[n]):
                s = state[n, t]
                for j in range(options):
                    if acted[n, t]:
                        low[r, s, j, action[n, t]] += weight[r, n, t] * gamma[r, n, t, j]
                    if t > 0:
                        for i in range(options):
                            high[r, s, i, j] += xi[r, n, t, i, j]


def _log_mean(pseudo: Floats) -> Floats:
    """log of counts over their sum on the last axis."""
    return np.log(pseudo) - np.log(pseudo.sum(-1, keepdims=True))


def _read(column: NDArray[Any], where: Bools) -> Ints:
    """Ids, with 0 where padding might hold anything."""
    return np.where(where, column, 0)


class TabularPolicies:
    """mu(z_0), pi_H(z_t | s_t, z_{t-1}) and pi_L(a | s, z) for R restarts.

    The initial policy is one for all states, because demonstrations seldom begin twice in the same one.

    Attributes:
        log_initial: [R, K]
        log_high: [R, S, K, K]
        log_low: [R, S, K, A]
    """

    def __init__(
        self, states: int, options: int, actions: int, restarts: int, config: TabularConfig, rng: np.random.Generator
    ) -> None:
        """Low levels drawn at random, which is all that tells restarts apart; high levels at their prior."""
        leave = (1 - config.stay) / max(options - 1, 1)
        stay = np.full((options, options), leave) + np.eye(options) * (config.stay - leave)
        self._high_prior = config.stay_weight * stay  # [K, K]
        self._low_prior, self._initial_prior = config.smoothing, config.initial_smoothing
        self.log_initial = np.full((restarts, options), -np.log(options))
        self.log_high = np.broadcast_to(_log_mean(stay), (restarts, states, options, options)).copy()
        # Draws below the smoothing would rule actions out that a first M-step would not.
        drawn = rng.dirichlet(np.ones(actions), (restarts, states, options))
        self.log_low = _log_mean(drawn + config.smoothing)

    def chain(self, demos: Demonstrations) -> Chain:
        """The chain of all restarts over demonstrations, without evidence."""
        n, options = len(demos.lengths), self.log_initial.shape[1]
        acted = demos.acted & demos.inside
        initial = np.broadcast_to(self.log_initial[:, None], (len(self.log_initial), n, options))
        state, action = _read(demos.state, demos.inside), _read(demos.action, acted)
        by_action = np.moveaxis(self.log_low, 2, 3)  # [R, S, A, K]
        emission = np.where(acted[..., None], by_action[:, state, action], 0.0)  # [R, N, T, K]
        return Chain(initial, self.log_high, emission, demos.lengths, state)

    def improve(self, demos: Demonstrations, posterior: Posterior, weight: Floats) -> None:
        """The M-step, exactly: expected counts plus the prior's (halo.md, section 1.1)."""
        low, high = np.empty(self.log_low.shape), np.empty(self.log_high.shape)
        low[:], high[:] = self._low_prior, self._high_prior
        steps = (demos.state, demos.action, demos.acted, demos.lengths)
        _counts(posterior.gamma, posterior.xi, weight, *steps, low, high)
        self.log_low, self.log_high = _log_mean(low), _log_mean(high)
        self.log_initial = _log_mean(posterior.gamma[:, :, 0].sum(1) + self._initial_prior)

    def log_prior(self) -> Floats:
        """Log-density of the tables under their priors, up to a constant, [R]."""
        return (
            (self._high_prior * self.log_high).sum((1, 2, 3))
            + self._low_prior * self.log_low.sum((1, 2, 3))
            + self._initial_prior * self.log_initial.sum(1)
        )

    def only(self, restart: int) -> "TabularPolicies":
        """One restart by itself."""
        one = copy(self)
        one.load_state_dict({name: table[restart : restart + 1] for name, table in self.state_dict().items()})
        return one

    def choosing(self, state: Ints) -> tuple[Floats, Floats]:
        """mu [N, K] and pi_H [N, K, K] of the first restart in states [N]."""
        initial = np.broadcast_to(np.exp(self.log_initial[0]), (len(state), self.log_initial.shape[1]))
        return initial, np.exp(self.log_high[0, state])

    def acting(self, state: Ints, option: Ints) -> Floats:
        """pi_L [N, A] of the first restart in states [N] under options [N]."""
        return np.exp(self.log_low[0, state, option])

    def state_dict(self) -> dict[str, Floats]:
        """The tables."""
        return {name: getattr(self, name) for name in _TABLES}

    def load_state_dict(self, state: dict[str, Floats]) -> None:
        """Take over tables that `state_dict` gave."""
        for name in _TABLES:
            setattr(self, name, np.array(state[name]))
