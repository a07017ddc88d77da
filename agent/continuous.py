"""Networks of continuous control. Actions and goals are in [-1, 1] here; `Box` carries them to their units.

The twin critics are one network with a leading axis of two, so that a layer is one batched product (`torch.baddbmm`).
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

# The range that Stable-Baselines3 and the authors' code of SAC leave to the logarithm of the deviation.
_LOG_STD_MIN, _LOG_STD_MAX = -20.0, 2.0
# Stored actions at the edge of the box have no finite pre-image under tanh in float32.
_INSIDE = 1.0 - 1e-6


@dataclass(frozen=True)
class Box:
    """Bounds of an action or a goal in its own units, each float32 [A]."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all() and (self.low < self.high).all()):
            raise ValueError("a box has finite bounds with low < high")

    def from_unit(self, unit: NDArray[np.float32]) -> NDArray[np.float32]:
        """[-1, 1] -> units, [..., A]."""
        return self.low + 0.5 * (unit + 1.0) * (self.high - self.low)

    def to_unit(self, value: NDArray[np.float32]) -> NDArray[np.float32]:
        """Units -> [-1, 1], [..., A]."""
        return 2.0 * (value - self.low) / (self.high - self.low) - 1.0


def mlp(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    widths = (inputs, *hidden)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


class GaussianActor(nn.Module):
    """pi(a | s): a Gaussian squashed by tanh (Haarnoja et al., 2018, appendix C).

    Args:
        inputs: Width of the observation.
        actions: A.
        hidden: Widths of the hidden layers.
    """

    def __init__(self, inputs: int, actions: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.net = mlp(inputs, hidden, 2 * actions)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-deviation [B, A] before squashing."""
        mean, log_std = self.net(obs).chunk(2, -1)
        return mean, log_std.clamp(_LOG_STD_MIN, _LOG_STD_MAX)

    def sample(self, obs: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Reparametrised actions [B, A] and their log-probability [B]."""
        mean, log_std = self(obs)
        noise = torch.empty_like(mean).normal_(generator=generator)
        unsquashed = torch.addcmul(mean, log_std.exp(), noise)
        log_prob = (-0.5 * noise.square() - log_std - log_tanh_slope(unsquashed)).sum(-1)
        return torch.tanh(unsquashed), log_prob - 0.5 * math.log(2 * math.pi) * mean.shape[-1]

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log-probability [B] of given actions [B, A], clipped just inside the box."""
        mean, log_std = self(obs)
        unsquashed = torch.atanh(action.clamp(-_INSIDE, _INSIDE))
        noise = (unsquashed - mean) * (-log_std).exp()
        log_prob = (-0.5 * noise.square() - log_std - log_tanh_slope(unsquashed)).sum(-1)
        return log_prob - 0.5 * math.log(2 * math.pi) * mean.shape[-1]

    def mode(self, obs: Tensor) -> Tensor:
        """The greedy action [B, A]."""
        return torch.tanh(self(obs)[0])


def log_tanh_slope(unsquashed: Tensor) -> Tensor:
    """log(1 - tanh(u)^2) without cancellation: 2 (log 2 - u - softplus(-2 u))."""
    return 2.0 * (math.log(2.0) - unsquashed - functional.softplus(-2.0 * unsquashed))


class DeterministicActor(nn.Module):
    """mu(s) (Lillicrap et al., 2016), squashed by tanh.

    Args:
        inputs: Width of the observation.
        actions: A.
        hidden: Widths of the hidden layers.
        final_range: The last layer starts uniform within this, so that the first actions are near the middle.
    """

    def __init__(self, inputs: int, actions: int, hidden: tuple[int, ...], final_range: float = 3e-3) -> None:
        super().__init__()
        self.net = mlp(inputs, hidden, actions)
        for parameter in self.net[-1].parameters():
            nn.init.uniform_(parameter, -final_range, final_range)

    def forward(self, obs: Tensor) -> Tensor:
        """Actions [B, A]."""
        return torch.tanh(self.net(obs))

    mode = forward


class TwinCritic(nn.Module):
    """Q1(s, a) and Q2(s, a), each an MLP of its own (Fujimoto et al., 2018), computed together.

    Args:
        inputs: Width of observation and action together.
        hidden: Widths of the hidden layers.
    """

    def __init__(self, inputs: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        widths = (inputs, *hidden, 1)
        pairs = list(pairwise(widths))
        self.weights = nn.ParameterList([torch.empty(2, before, after) for before, after in pairs])
        self.biases = nn.ParameterList([torch.empty(2, 1, after) for _, after in pairs])
        for weight, bias in zip(self.weights, self.biases, strict=True):
            bound = 1.0 / math.sqrt(weight.shape[1])  # as nn.Linear does
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """Both values, [2, B]."""
        hidden = torch.cat((obs, action), -1).expand(2, -1, -1)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden, weight)
            if layer < last:
                hidden = hidden.relu_()
        return hidden.squeeze(-1)


@torch.no_grad()
def polyak(target: nn.Module, source: nn.Module, share: float) -> None:
    """Move the target's parameters towards the source's by `share`."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), share)
