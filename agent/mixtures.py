"""Mixtures of diagonal Gaussians over vectors, given an observation: priors over skills, and policies that begin so.

Components of a policy keep their numbers: component k of the policy is compared with component k of the prior, which
gives a divergence in closed form, and a bound of the one between the mixtures themselves.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from preceptor.agent.networks import linear, mlp
from preceptor.ground.device import normal

_LOG_STD = -4.0, 1.5  # range of the logarithm of a deviation
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Mixture(NamedTuple):
    """B mixtures of K diagonal Gaussians over D numbers.

    Attributes:
        log_weight: [B, K], normalised.
        mean: [B, K, D]; `log_std` likewise.
    """

    log_weight: Tensor
    mean: Tensor
    log_std: Tensor

    def log_prob(self, vector: Tensor) -> Tensor:
        """log p(k, vector) [B, K] of vectors [B, D], of each component; their logsumexp is the density's logarithm."""
        noise = (vector[:, None] - self.mean) * (-self.log_std).exp()
        return self.log_weight - (0.5 * noise.square() + self.log_std + _HALF_LOG_2PI).sum(-1)

    def of_each(self, generator: torch.Generator | None = None) -> Tensor:
        """A reparametrised vector of every component, [B, K, D]."""
        return torch.addcmul(self.mean, self.log_std.exp(), normal(self.mean.shape, generator))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A vector of each mixture, [B, D]."""
        uniform = torch.empty(self.log_weight.shape).uniform_(generator=generator).to(self.log_weight.device)
        chosen = (self.log_weight - (-uniform.log()).log()).argmax(
            1
        )  # the largest of logits and Gumbel noise is a draw
        rows = torch.arange(len(chosen), device=chosen.device)
        mean, std = self.mean[rows, chosen], self.log_std[rows, chosen].exp()
        return torch.addcmul(mean, std, normal(mean.shape, generator))

    def divergence(self, prior: "Mixture") -> Tensor:
        """KL [B] in nats from another mixture, or a bound above it: sum_k pi_k [log pi_k / p_k + KL(N_k || P_k)].

        Of two Gaussians it is exact. A prior that has one component counts as K equal ones; of a policy that has one,
        the bound is -log sum_k p_k exp(-KL(N || P_k)) (Hershey & Olsen, 2007, section 7).
        """
        each = _gaussian_divergence(self, prior)  # [B, K]
        if self.log_weight.shape[1] == 1:
            return -(prior.log_weight - each).logsumexp(1)
        weights = prior.log_weight if prior.log_weight.shape[1] > 1 else -math.log(self.log_weight.shape[1])
        return (self.log_weight.exp() * (self.log_weight - weights + each)).sum(1)

    def divergence_from_box(self, bound: Tensor) -> Tensor:
        """KL [B] from the uniform distribution between -bound and bound [D], which counts as K equal components."""
        log_density = -math.log(self.log_weight.shape[1]) - (2 * bound).log().sum()
        entropy = (self.log_std + _HALF_LOG_2PI + 0.5).sum(-1)
        return (self.log_weight.exp() * (self.log_weight - entropy - log_density)).sum(1)


def _gaussian_divergence(ours: Mixture, theirs: Mixture) -> Tensor:
    """KL(N_k || P_k), summed over the D numbers, [B, K]."""
    ratio = ours.log_std - theirs.log_std
    away = (ours.mean - theirs.mean) * (-theirs.log_std).exp()
    return (0.5 * ((2 * ratio).exp() + away.square() - 1.0) - ratio).sum(-1)


def cross_entropy(mean: Tensor, log_std: Tensor, mixture: Mixture) -> Tensor:
    """-E log P_k [B, K] of vectors distributed as N(mean, exp(log_std)^2) [B, D], under each component by itself."""
    away = (mean[:, None] - mixture.mean).square() + (2 * log_std).exp()[:, None]
    return (0.5 * away * (-2 * mixture.log_std).exp() + mixture.log_std + _HALF_LOG_2PI).sum(-1)


class MixtureNetwork(nn.Module):
    """p(k | s) and N(mu_k(s), sigma_k(s)).

    Args:
        inputs: Width of the encoded observation.
        hidden: Widths of the hidden layers.
        components: K.
        dims: D.
    """

    bound: Tensor

    def __init__(self, inputs: int, hidden: tuple[int, ...], components: int, dims: int) -> None:
        super().__init__()
        self.components, self.dims = components, dims
        self.trunk = mlp(inputs, hidden[:-1], hidden[-1])
        self.head = linear(hidden[-1], components * (1 + 2 * dims), 0.01)
        self.register_buffer("bound", torch.ones(dims))

    @torch.no_grad()
    def begin(self, mean: Tensor, std: Tensor, bound: Tensor) -> None:
        """Means and deviations [K, D] to start with, whatever the observation, and what no mean exceeds [D]."""
        self.bound.copy_(bound)
        raw = bound * torch.atanh((mean / bound).clamp(-0.99, 0.99))
        self.head.bias[self.components :] = torch.cat([raw.flatten(), std.log().flatten()])

    def forward(self, obs: Tensor) -> Mixture:
        """The mixtures of encoded observations [B, inputs]."""
        numbers = self.components * self.dims
        logits, mean, log_std = self.head(self.trunk(obs).relu()).split([self.components, numbers, numbers], -1)
        shape = -1, self.components, self.dims
        mean = self.bound * torch.tanh(mean.view(shape) / self.bound)
        return Mixture(logits.log_softmax(-1), mean, log_std.view(shape).clamp(*_LOG_STD))
