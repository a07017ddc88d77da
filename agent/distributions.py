"""What options, goals and actions are sampled from: N distributions at once, in NumPy."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

# Stored actions at the edge of the box have no finite pre-image under tanh in float32.
_INSIDE = 1.0 - 1e-6
Sampled = tuple[NDArray, NDArray[np.float32]]


class Distribution(Protocol):
    """N distributions, one per environment."""

    def sample(self, rng: np.random.Generator | None) -> Sampled:
        """One value per row, [N, ...], and its log-probability [N]; the most probable value where `rng` is None."""
        ...

    def replaced(self, rows: NDArray[np.bool_], other: Any) -> "Distribution":
        """The distributions of `other`, which is of the same kind, in `rows` [N]; these elsewhere."""
        ...


@dataclass(frozen=True)
class Categorical:
    """Distributions over C indices.

    Attributes:
        probs: float32 [N, C].
    """

    probs: NDArray[np.float32]

    def sample(self, rng: np.random.Generator | None) -> Sampled:
        """Indices [N] and their log-probabilities [N]."""
        if rng is None:
            index = self.probs.argmax(1)
        else:
            cumulative = self.probs.cumsum(1, dtype=np.float64)
            threshold = rng.random(len(self.probs)) * cumulative[:, -1]
            index = (cumulative > threshold[:, None]).argmax(1)
        return index, np.log(self.probs[np.arange(len(index)), index])

    def replaced(self, rows: NDArray[np.bool_], other: "Categorical") -> "Categorical":
        """The distributions of `other` in `rows` [N], these elsewhere."""
        return Categorical(np.where(rows[:, None], other.probs, self.probs))


@dataclass(frozen=True)
class SquashedNormal:
    """Gaussians squashed by tanh into [-1, 1].

    Attributes:
        mean: float32 [N, A], before squashing; `log_std` likewise.
    """

    mean: NDArray[np.float32]
    log_std: NDArray[np.float32]

    def sample(self, rng: np.random.Generator | None) -> Sampled:
        """Actions [N, A] and their log-probability [N]; the modes, of log-probability 0, where `rng` is None.

        The log-probability is that of the action as it is stored, which float32 has rounded: near the edge of the box
        that matters to a learner that computes it again from there.
        """
        if rng is None:
            return np.tanh(self.mean), np.zeros(len(self.mean), np.float32)
        action = np.tanh(self.mean + np.exp(self.log_std) * rng.standard_normal(self.mean.shape, np.float32))
        mean, log_std, played = (torch.as_tensor(column) for column in (self.mean, self.log_std, action))
        return action, squashed_log_prob(mean, log_std, played).numpy()

    def replaced(self, rows: NDArray[np.bool_], other: "SquashedNormal") -> "SquashedNormal":
        """The distributions of `other` in `rows` [N], these elsewhere."""
        across = rows[:, None]
        return SquashedNormal(np.where(across, other.mean, self.mean), np.where(across, other.log_std, self.log_std))


@dataclass(frozen=True)
class ClippedNormal:
    """Points with Gaussian noise around them, clipped to [-1, 1]; without noise, the points with certainty.

    Attributes:
        mean: float32 [N, A].
        std: Deviation of the noise, one or [N, 1].
    """

    mean: NDArray[np.float32]
    std: float | NDArray[np.float32] = 0.0

    def sample(self, rng: np.random.Generator | None) -> Sampled:
        """Actions [N, A]; log-probabilities of a clipped Gaussian are of no use, and given as 0."""
        nothing = np.zeros(len(self.mean), np.float32)
        if rng is None or (np.isscalar(self.std) and self.std == 0.0):
            return self.mean, nothing
        noise = np.float32(self.std) * rng.standard_normal(self.mean.shape, np.float32)
        return np.clip(self.mean + noise, -1.0, 1.0), nothing

    def replaced(self, rows: NDArray[np.bool_], other: "ClippedNormal") -> "ClippedNormal":
        """The distributions of `other` in `rows` [N], these elsewhere."""
        across = rows[:, None]
        std = self.std if np.array_equal(self.std, other.std) else np.where(across, other.std, self.std)
        return ClippedNormal(np.where(across, other.mean, self.mean), std)


@dataclass(frozen=True)
class UniformBox:
    """Uniform distributions over [-1, 1] per dimension.

    Attributes:
        shape: (N, A).
    """

    shape: tuple[int, int]

    def sample(self, rng: np.random.Generator | None) -> Sampled:
        """Actions [N, A] and their log-probability [N]; the middle of the box where `rng` is None."""
        if rng is None:
            return np.zeros(self.shape, np.float32), np.zeros(self.shape[0], np.float32)
        action = rng.uniform(-1.0, 1.0, self.shape).astype(np.float32)
        return action, np.full(self.shape[0], -self.shape[1] * math.log(2.0), np.float32)

    def replaced(self, rows: NDArray[np.bool_], other: "UniformBox") -> "UniformBox":
        """The distributions of `other` in `rows` [N], which are the same."""
        return self


def log_tanh_slope(unsquashed: Tensor) -> Tensor:
    """log(1 - tanh(u)^2) without cancellation: 2 (log 2 - u - softplus(-2 u))."""
    return 2.0 * (math.log(2.0) - unsquashed - functional.softplus(-2.0 * unsquashed))


def squashed_log_prob(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    """Log-probability [B] of actions [B, A] in [-1, 1] under a squashed Gaussian (Haarnoja et al., 2018, eq. 21)."""
    unsquashed = torch.atanh(action.clamp(-_INSIDE, _INSIDE))
    noise = (unsquashed - mean) * (-log_std).exp()
    log_prob = (-0.5 * noise.square() - log_std - log_tanh_slope(unsquashed)).sum(-1)
    return log_prob - 0.5 * math.log(2 * math.pi) * mean.shape[-1]
