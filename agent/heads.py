"""What the outputs of a policy network mean: logits of named actions, or a squashed Gaussian over a box.

PPO, relabelling and whoever plays read a policy through its head alone, so that one learner serves both.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from agent.continuous import SquashedNormal, squashed_log_prob
from agent.core import Categorical, Distribution
from controller.network import mask_logits
from ground.device import to_numpy


class Head(Protocol):
    """Reads outputs [B, P] of a policy network; `legal` bool [B, C] says which named actions are allowed, or None."""

    def choice(self, outputs: Tensor) -> Distribution:
        """Where actions are drawn from."""
        ...

    def log_prob(self, outputs: Tensor, action: Tensor, legal: Tensor | None = None) -> Tensor:
        """Log-probability [B] of actions [B, ...]."""
        ...

    def entropy(self, outputs: Tensor, legal: Tensor | None = None) -> Tensor:
        """Entropy [B] in nats."""
        ...

    def divergence(self, outputs: Tensor, prior: Tensor, legal: Tensor | None = None) -> Tensor:
        """KL(policy || prior) [B] in nats, where `prior` [B, P] are outputs of another network."""
        ...


class CategoricalHead:
    """Outputs are logits [B, C] of C named actions."""

    def choice(self, outputs: Tensor) -> Categorical:
        """Where indices are drawn from."""
        return Categorical(to_numpy(torch.softmax(outputs, 1)))

    def log_prob(self, outputs: Tensor, action: Tensor, legal: Tensor | None = None) -> Tensor:
        """Log-probability [B] of indices [B]."""
        return torch.log_softmax(mask_logits(outputs, legal), 1).gather(1, action[:, None]).squeeze(1)

    def entropy(self, outputs: Tensor, legal: Tensor | None = None) -> Tensor:
        """Entropy [B]."""
        log_probs = torch.log_softmax(mask_logits(outputs, legal), 1)
        return -(log_probs.exp() * log_probs).sum(1)

    def divergence(self, outputs: Tensor, prior: Tensor, legal: Tensor | None = None) -> Tensor:
        """KL(policy || prior) [B]."""
        log_probs, wanted = (torch.log_softmax(mask_logits(logits, legal), 1) for logits in (outputs, prior))
        return (log_probs.exp() * (log_probs - wanted)).sum(1)


class GaussianHead:
    """Outputs are mean and log-deviation [B, 2A] of a Gaussian that tanh squashes into [-1, 1].

    Entropies and divergences are those before squashing: the divergence is the same after it, since tanh is a
    bijection, and the entropy has no closed form there.
    """

    def choice(self, outputs: Tensor) -> SquashedNormal:
        """Where vectors are drawn from."""
        mean, log_std = outputs.chunk(2, -1)
        return SquashedNormal(to_numpy(mean), to_numpy(log_std))

    def log_prob(self, outputs: Tensor, action: Tensor, legal: Tensor | None = None) -> Tensor:
        """Log-probability [B] of actions [B, A]."""
        mean, log_std = outputs.chunk(2, -1)
        return squashed_log_prob(mean, log_std, action)

    def entropy(self, outputs: Tensor, legal: Tensor | None = None) -> Tensor:
        """Entropy [B] before squashing."""
        log_std = outputs.chunk(2, -1)[1]
        return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def divergence(self, outputs: Tensor, prior: Tensor, legal: Tensor | None = None) -> Tensor:
        """KL(policy || prior) [B]."""
        mean, log_std = outputs.chunk(2, -1)
        wanted, wanted_log_std = prior.chunk(2, -1)
        spread = (2 * (log_std - wanted_log_std)).exp() + ((mean - wanted) * (-wanted_log_std).exp()).square()
        return (wanted_log_std - log_std + 0.5 * (spread - 1)).sum(-1)
