"""Loss L1 and its parts: advantages over steps or options, the clipped surrogate, the divergence to a prior."""

from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from agent.heads import Head


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
    steps, worlds = rewards.shape
    advantages = np.zeros((steps, worlds), np.float32)
    for n in range(worlds):
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
    return advantages


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of loss L1."""

    clip: float = 0.2  # PPO's trust region on the ratio (Schulman et al., 2017, eq. 7)
    value: float = 0.5  # weight of the squared value error
    entropy: float = 0.0  # weight of the entropy bonus: lambda for a uniform prior
    prior: float = 0.0  # lambda of KL(policy || prior)


def surrogate_loss(
    head: Head,
    outputs: Tensor,
    value: Tensor,
    action: Tensor,
    behaviour_logprob: Tensor,
    advantage: Tensor,
    returns: Tensor,
    weights: LossWeights,
    legal: Tensor | None = None,
    prior: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped surrogate + value error - entropy bonus + lambda KL(policy || prior): loss L1 of DESIGN section 2.

    Args:
        head: Reads `outputs`.
        outputs: [B, P], the policy's.
        value: [B].
        action: [B, ...], what was done.
        behaviour_logprob: [B], its log-probability under whoever did it.
        advantage: [B], normalised by the caller.
        returns: [B], targets of the value.
        weights: Weights of the terms.
        legal: bool [B, C], the named actions that are allowed, or None.
        prior: [B, P], outputs of the network that the policy is held to; only read when `weights.prior` > 0.
    """
    log_ratio = head.log_prob(outputs, action, legal) - behaviour_logprob
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - weights.clip, 1 + weights.clip)
    policy_loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
    value_loss = (value - returns).square().mean()
    loss = policy_loss + 0.5 * weights.value * value_loss
    terms = {"policy_loss": policy_loss, "value_loss": value_loss}
    if weights.entropy > 0:
        terms["entropy"] = entropy = head.entropy(outputs, legal).mean()
        loss = loss - weights.entropy * entropy
    if prior is not None and weights.prior > 0:
        terms["prior_kl"] = head.divergence(outputs, prior, legal).mean()
        loss = loss + weights.prior * terms["prior_kl"]
    with torch.no_grad():
        terms["approximate_kl"] = (ratio - 1 - log_ratio).mean()
        terms["clip_fraction"] = (ratio != clipped).float().mean()
    return loss, {name: term.detach() for name, term in terms.items()}


def explained_variance(predicted: NDArray[np.float32], target: NDArray[np.float32]) -> float:
    """1 - Var(target - predicted) / Var(target); 0 is no better than the mean, 1 is perfect."""
    variance = float(np.var(target))
    return 0.0 if variance == 0 else 1.0 - float(np.var(target - predicted)) / variance
