"""What options, goals and actions are sampled from: N distributions at once, in NumPy; nothing is drawn by torch."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

Sampled = tuple[NDArray, NDArray[np.float32]]


class Distribution(ABC):
    """N distributions, one per environment: a dataclass of arrays [N, ...] and of settings that all N share."""

    @abstractmethod
    def sample(self, rng: np.random.Generator | None) -> Sampled:
        """One value per row, [N, ...], and its log-probability [N]; the most probable value where `rng` is None."""

    def draw(self, rng: np.random.Generator | None) -> NDArray:
        """The same values, where nobody asks how probable they were."""
        return self.sample(rng)[0]

    def replaced(self, rows: NDArray[np.bool_], other: Self) -> Self:
        """The distributions of `other` in `rows` [N], these elsewhere."""

        def mixed(ours: Any, theirs: Any) -> Any:
            if not isinstance(ours, np.ndarray) and not isinstance(theirs, np.ndarray) and ours == theirs:
                return ours
            across = rows.reshape(-1, *(1,) * (max(np.ndim(ours), np.ndim(theirs)) - 1))
            return np.where(across, theirs, ours)

        return type(self)(*(mixed(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Categorical(Distribution):
    """Distributions over C indices.

    Attributes:
        probs: float32 [N, C].
    """

    probs: NDArray[np.float32]

    def sample(self, rng: np.random.Generator | None) -> Sampled:
        """Indices [N] and their log-probabilities [N]."""
        if rng is None:
            index = self.probs.argmax(1)
            return index, np.log(self.probs[np.arange(len(index)), index])
        index, log_prob = np.zeros(len(self.probs), np.int64), np.empty(len(self.probs), np.float32)
        _draw(self.probs, rng.random(len(self.probs)), index, log_prob)
        return index, log_prob


@njit(cache=True)
def _draw(probs, uniform, index, log_prob):  # type: ignore[no-untyped-def]
    # The first index [N] whose cumulative probability exceeds a uniform share of the total, and its log-probability
    for n in range(len(probs)):
        total = 0.0
        for probability in probs[n]:
            total += probability
        threshold, reached = uniform[n] * total, np.float64(probs[n, 0])
        while reached <= threshold and index[n] + 1 < probs.shape[1]:
            index[n] += 1
            reached += probs[n, index[n]]
        log_prob[n] = np.log(probs[n, index[n]])


@dataclass(frozen=True)
class CategoricalChunk(Distribution):
    """N distributions over k indices, which are independent given the observation.

    Attributes:
        probs: float32 [N, k, C].
    """

    probs: NDArray[np.float32]

    def sample(self, rng: np.random.Generator | None) -> Sampled:
        """Indices as numbers, float32 [N, k], and their log-probability [N]."""
        count, steps, actions = self.probs.shape
        index, log_prob = Categorical(self.probs.reshape(-1, actions)).sample(rng)
        return index.reshape(count, steps).astype(np.float32), log_prob.reshape(count, steps).sum(1)


@dataclass(frozen=True)
class SquashedNormal(Distribution):
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
        action = self.draw(rng)
        if rng is None:
            return action, np.zeros(len(self.mean), np.float32)
        import torch

        from preceptor.agent.squashing import squashed_log_prob  # who only draws needs no torch

        mean, log_std, played = (torch.as_tensor(column) for column in (self.mean, self.log_std, action))
        return action, squashed_log_prob(mean, log_std, played).numpy()

    def draw(self, rng: np.random.Generator | None) -> NDArray[np.float32]:
        """Actions [N, A]."""
        if rng is None:
            return np.tanh(self.mean)
        return np.tanh(self.mean + np.exp(self.log_std) * rng.standard_normal(self.mean.shape, np.float32))


@dataclass(frozen=True)
class ClippedNormal(Distribution):
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


@dataclass(frozen=True)
class GaussianMixture(Distribution):
    """Mixtures of K diagonal Gaussians.

    Attributes:
        probs: float32 [N, K], of the components.
        mean: float32 [N, K, D]; `std` likewise.
    """

    probs: NDArray[np.float32]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    def sample(self, rng: np.random.Generator | None) -> Sampled:
        """Vectors [N, D], and the log-probability [N] of their components; where `rng` is None, the mean of the most
        probable component."""
        chosen, log_prob = Categorical(self.probs).sample(rng)
        rows = np.arange(len(chosen)), chosen
        vector = self.mean[rows]
        if rng is not None:
            vector = vector + self.std[rows] * rng.standard_normal(vector.shape, np.float32)
        return vector.astype(np.float32), log_prob


@dataclass(frozen=True)
class UniformBox(Distribution):
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
