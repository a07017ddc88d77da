"""The two losses that train everything, each once, and their parts.

L1, prior-regularised reinforcement learning over options: maximise E[Q(s, o)] - lambda KL(pi(.|s) || prior(.|s)). A
uniform prior is the entropy bonus. L2, weighted regression on stored data: minimise E[sum_g w_g(s, a) (-log pi_g)] over
action groups g (`controller/distill.py`, since distillation is its case w = 1 with soft targets).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor, nn

from preceptor.agent.resumable import Resumable, places
from preceptor.controller.distill import weighted_regression

__all__ = ["PriorWeight", "option_advantages", "prior_regularised", "weighted_regression"]


def prior_regularised(loss: Tensor, divergence: Tensor, weight: float | Tensor) -> Tensor:
    """Loss L1: minus the value, plus lambda times the divergence from the prior, averaged.

    Args:
        loss: Minus the expected value of the policy, or its surrogate: [B], or [] where it is a mean already.
        divergence: [B], KL(pi || prior) in nats, exact or estimated; of a uniform prior, log pi up to a constant.
        weight: lambda.
    """
    if loss.ndim:
        return (loss + weight * divergence).mean()
    return loss + weight * divergence.mean()


class PriorWeight(Resumable):
    """lambda of loss L1: fixed, annealed to zero, or tuned until the divergence is what it should be.

    Args:
        first: lambda at the start.
        start: Step at which annealing begins.
        end: Step from which lambda is zero; None for a weight that is not annealed.
        target: Divergence in nats that lambda is tuned to, by steps on log lambda along divergence - target (the dual
            gradient of SAC's temperature and of SPiRL; Pertsch et al., 2020, eq. 6); None for no tuning.
        rate: Size of those steps.
    """

    saved = places(log_factor="_log_factor")

    def __init__(
        self, first: float, start: float = 0, end: float | None = None, target: float | None = None, rate: float = 0.05
    ) -> None:
        self.first, self.start, self.end, self.target, self.rate = first, start, end, target, rate
        self._log_factor = 0.0

    def left(self, steps: int) -> float:
        """What annealing has left of lambda after so many steps, from one down to zero; zero where it was none."""
        if self.first == 0:
            return 0.0
        if self.end is None:
            return 1.0
        return float(np.clip((self.end - steps) / max(1.0, self.end - self.start), 0, 1))

    def __call__(self, steps: int) -> float:
        """lambda after so many steps."""
        return self.first * self.left(steps) * math.exp(self._log_factor)

    def observe(self, divergence: float) -> None:
        """Raise lambda where the policy has strayed further than the target, and lower it where it is nearer."""
        if self.target is not None:
            step = self.rate * (divergence - self.target) / max(self.target, 1e-6)
            self._log_factor = float(np.clip(self._log_factor + np.clip(step, -1, 1), -10.0, 10.0))


@dataclass(frozen=True)
class PriorActions:
    """A deterministic prior on a batch.

    Attributes:
        action: [B, A], what the prior would do.
        weight: lambda, above zero.
        value_filter: Count only where the critics value the prior's action more than the actor's: a prior that is worse
            does not hold the actor back (Nair et al., 2018, section IV-C).
    """

    action: Tensor
    weight: float | Tensor
    value_filter: bool = False

    def regularised(self, loss: Tensor, obs: Tensor, action: Tensor, value: Tensor, critic: nn.Module) -> Tensor:
        """Loss L1: `loss` [] plus lambda |Q| ||a - prior||^2, in the unit of the values.

        The form of TD3+BC (Fujimoto & Gu, 2021, eq. 3), which divides the value by its mean size instead. `value` [B]
        is that of the actor's own `action` [B, A] at `obs` [B, inputs]; `critic` are twins.
        """
        divergence = (action - self.action).square().sum(-1)
        if self.value_filter:
            with torch.no_grad():
                better = critic(obs, self.action).amin(0) > value
            divergence = divergence * better
        return prior_regularised(loss, divergence, self.weight * value.detach().abs().mean())


class ValueLoss:
    """What V is of the values of the data's actions: a convex loss f of Q - V (Hansen-Estruch et al., 2023, section 4).

    expectile: |level - 1(u < 0)| u^2 / 2 (IQL; Kostrikov et al., 2022, eq. 5); quantile: |level - 1(u < 0)| |u|;
    exponential: exp(alpha u) - alpha u, whose minimum is log E exp(alpha Q) / alpha. The loss is w(u) u^2 / 2 with a
    constant w(u) = |f'(u)| / |u|, which has the same gradient, and which weighs a policy as the published HVD does.

    Args:
        kind: Of the three.
        level: Of expectile or quantile.
        alpha: Of the exponential.
    """

    _SMALLEST, _LARGEST = 1e-6, 100.0  # of |u|, and of exp(alpha u)

    def __init__(self, kind: str, level: float = 0.5, alpha: float = 1.0) -> None:
        self.kind, self.level, self.alpha = kind, level, alpha

    def weight(self, error: Tensor) -> Tensor:
        """w(u) of errors u [...], never negative."""
        if self.kind == "exponential":
            # Bounded in u and not in the exponential alone, so that it never falls as u rises to the bound.
            bounded = (self.alpha * error).clamp(max=math.log(self._LARGEST))
            small = bounded.abs() < self._SMALLEST
            return self.alpha**2 * torch.where(small, 1.0, torch.expm1(bounded) / torch.where(small, 1.0, bounded))
        side = torch.where(error < 0, 1.0 - self.level, self.level)
        return side if self.kind == "expectile" else side / error.abs().clamp(min=self._SMALLEST)

    def __call__(self, error: Tensor) -> Tensor:
        """The loss of errors, [...]."""
        return 0.5 * self.weight(error).detach() * error.square()


@njit(cache=True)
def option_advantages(  # type: ignore[no-untyped-def]
    rewards, chosen, values, bootstrap, terminated, truncated, gamma, lam
):
    """Generalised advantage estimates at the steps where a choice was made (Schulman et al., 2016, eq. 16; SMDP form).

    A choice at time t earns the discounted reward until the next choice at t + n, and the value there counts
    gamma**n. With a choice at every step this is ordinary GAE. Truncation bootstraps, termination does not, and
    no advantage crosses the end of an episode.

    Args:
        rewards: float [T, N].
        chosen: bool [T, N], where a choice was made; must hold at the first step after an episode's end.
        values: float [T, N], V(s_t); read only where `chosen`.
        bootstrap: float [T, N]; at an episode's last step V(final observation), in row T - 1 V(next observation).
            Elsewhere ignored.
        terminated: bool [T, N].
        truncated: bool [T, N].
        gamma: Discount per step.
        lam: Decay per choice.

    Returns:
        Advantages float [T, N], zero where nothing was chosen.
    """
    advantages = np.zeros(rewards.shape, np.float32)
    for n in range(rewards.shape[1]):
        put_advantages(n, rewards, chosen, values, bootstrap, terminated, truncated, gamma, lam, advantages)
    return advantages


@njit(cache=True, forceinline=True)
def put_advantages(  # type: ignore[no-untyped-def]
    n, rewards, chosen, values, bootstrap, terminated, truncated, gamma, lam, advantages
):
    """Fill in those of environment n, zeros before."""
    steps = len(rewards)
    reward_sum = 0.0  # discounted reward from t to the next choice
    discount = 1.0  # gamma ** (steps from t to the next choice)
    next_value = bootstrap[steps - 1, n]
    next_advantage = 0.0
    for t in range(steps - 1, -1, -1):
        if terminated[t, n] or truncated[t, n]:
            reward_sum = 0.0
            discount = 1.0
            next_value = 0.0 if terminated[t, n] else bootstrap[t, n]
            next_advantage = 0.0
        reward_sum = rewards[t, n] + gamma * reward_sum
        discount *= gamma
        if chosen[t, n]:
            delta = reward_sum + discount * next_value - values[t, n]
            next_advantage = delta + discount * lam * next_advantage
            advantages[t, n] = next_advantage
            next_value = values[t, n]
            reward_sum = 0.0
            discount = 1.0


def explained_variance(predicted: NDArray[np.float32], target: NDArray[np.float32]) -> float:
    """1 - Var(target - predicted) / Var(target); 0 is no better than the mean, 1 is perfect."""
    variance = float(np.var(target))
    return 0.0 if variance == 0 else 1.0 - float(np.var(target - predicted)) / variance
