"""A Dirichlet-process mixture of Gaussians with diagonal covariance, by variational inference (Blei and Jordan, 2006).

    v_k ~ Beta(1, concentration),  weight_k = v_k prod_{j<k} (1 - v_j)
    precision_kd ~ Gamma(a0, b0_d),  mean_kd ~ N(m0_d, 1 / (beta0 precision_kd)),  z_n ~ N(mean_k, 1 / precision_k)

The prior of components is from the data, and weak: m0 is their mean, b0 is a0 times a tenth of their variance, a0 = 1
counts as two points, beta0 as a hundredth of one.

Coordinate ascent alone never finds more components than it began with, so components are split, merged and deleted
(Hughes and Sudderth, 2013), where that raises the evidence lower bound (ELBO). It is exact after each change, with the
posterior at its optimum for the responsibilities; components beyond K keep their prior and cost nothing, so that bounds
of different K compare. Sticks are broken in the order of falling mass, the best one: by exchanging two neighbours the
bound's exponential changes by (concentration + mass after both + the smaller) / (the same with the larger).
Components keep their places in arrays from fit to fit; new ones come last. Numbers are float64, where networks are.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preceptor.agent.resumable import Resumable, places
from preceptor.ground.device import device, to_tensor
from preceptor.ground.errors import UserError

_PULL, _SHAPE, _SPREAD = 0.01, 1.0, 0.1  # beta0; a0; b0 / (a0 variance of the data)
_LEAST = 20  # points, of a component
_LEAST_VARIANCE = 1e-6  # of data and components: latents have scale 1, and less is rounding
_SWEEPS, _TOLERANCE = 100, 1e-6  # of ascent between changes of K; nats a point, below which it has converged
_SLACK = 20.0  # nats that a stick less may be worth; about log N
_TRIES, _LOCAL = 8, 10  # splits of a component that are tried side by side; sweeps of each over its points

Numbers = dict[str, Tensor]


class Fit(NamedTuple):
    """What a fit did, and where it is: components K, ELBO in nats summed over points."""

    components: int
    births: int  # components that were split
    merges: int  # pairs that became one
    deletions: int  # components that were dissolved, those below the least mass included
    elbo: float
    trace: tuple[float, ...]  # the ELBO after each step; it falls only where one below the least mass was dissolved
    capped: bool  # K is the cap, so that the cap chose it
    collapsed: bool  # K is one, as if there were no mixture


class DPMixture(Resumable):
    """A mixture that finds its number of components, K; before the first fit it is one standard Gaussian.

    Attributes:
        weight: [K], expected, sum 1.
        mean: [K, D], expected.
        var: [K, D], one over the expected precision.

    Args:
        dims: D.
        concentration: Of the Dirichlet process; more expects more components.
        share: Rho, the least share of points that makes a component; 20 points are the least in any case.
        cap: Most components.
    """

    saved = places("numbers")

    def __init__(self, dims: int, concentration: float = 1.0, share: float = 0.01, cap: int = 32) -> None:
        self.dims, self.concentration, self.share, self.cap = dims, concentration, share, cap
        one = torch.ones(1, dims, dtype=torch.float64)
        sticks = torch.tensor([[1.0, concentration]], dtype=torch.float64)
        self.numbers = {"pull": one[:, 0], "mean": 0 * one, "shape": one[:, 0], "rate": one, "sticks": sticks}

    @property
    def numbers(self) -> Numbers:
        """The posterior: pull [K] (beta), mean [K, D], shape [K] (a), rate [K, D] (b), sticks [K, 2] of Betas.

        Raises:
            UserError: Those that are set are of other dimensions, or not finite.
        """
        return self._numbers

    @numbers.setter
    def numbers(self, numbers: Numbers) -> None:
        if numbers["mean"].shape[1] != self.dims:
            what = f"The mixture has {numbers['mean'].shape[1]} dimensions, and the skills have {self.dims}."
            raise UserError(what, "the settings with which the mixture was learned")
        if not all(part.isfinite().all() for part in numbers.values()):
            raise UserError("The mixture holds numbers that are NaN or infinite.", "learn the skills again")
        self._numbers = {name: part.to(device()) for name, part in numbers.items()}
        self.weight = _log_weight(self._numbers, torch.log).softmax(0)
        self.mean = self._numbers["mean"]
        self.var = (self._numbers["rate"] / self._numbers["shape"][:, None]).clamp_min(_LEAST_VARIANCE)

    def fit(self, z: Tensor | NDArray[Any], rng: np.random.Generator, warm: bool = True, laps: int = 30) -> Fit:
        """Learn from these points alone; K may change.

        Args:
            z: [N, D].
            rng: Draws where splits begin.
            warm: Begin with the posterior of the last fit, not with one component.
            laps: Rounds of ascent and changes of K, at most; it stops when no change is accepted.

        Raises:
            UserError: There are fewer than 20 points, or of other dimensions, or some are not finite.
        """
        z = (to_tensor(z) if isinstance(z, np.ndarray) else z.detach().to(device())).double()
        if z.ndim != 2 or z.shape[1] != self.dims or len(z) < _LEAST:
            what = f"A mixture of {self.dims} dimensions needs {_LEAST} latents or more, and got {list(z.shape)}."
            raise UserError(what, "more or longer demonstrations")
        if wrong := int((~z.square().isfinite()).any(1).sum()):
            raise UserError(f"{wrong} of {len(z)} latents are NaN, infinite or too large.", "a smaller --lr")
        centre = z.mean(0)
        ascent = _Ascent(z - centre, self, rng)
        begun = {**self.numbers, "mean": self.mean - centre}
        ascent.take(_responsibilities(ascent.features, begun) if warm else torch.ones_like(z[:, :1]))
        counts = np.zeros(3, int)
        for _ in range(laps):
            ascent.converge()
            changes = ascent.births(), ascent.merges(), ascent.deletions()
            counts += changes
            if not any(changes):
                break
        self.numbers = {**ascent.numbers, "mean": ascent.numbers["mean"] + centre}
        k, (births, merges, deletions) = len(self.weight), counts.tolist()
        return Fit(k, births, merges, deletions, ascent.bound, tuple(ascent.trace), k == self.cap, k == 1)

    def log_prob(self, z: Tensor) -> Tensor:
        """log weight_k + log N(z; mean_k, var_k), [N, K], of points [N, D], with gradient where they have one."""
        return (self._log_density(z, torch.zeros_like(z)) + self.weight.log()).to(z.dtype)

    def responsibilities(self, z: Tensor) -> Tensor:
        """P(component | z), [N, K], of points [N, D], with gradient where they have one."""
        return self.log_prob(z).softmax(1)

    def assign(self, z: Tensor) -> Tensor:
        """The likeliest component of each point, int64 [N]."""
        return self.log_prob(z).argmax(1)

    def divergence(self, mean: Tensor, log_std: Tensor, responsibilities: Tensor) -> Tensor:
        """sum_k r_k KL(N(mean, std^2) || N(mean_k, var_k)) in nats, [B], of mean and log_std [B, D], r [B, K]."""
        entropy = (log_std.double() + math.log(2 * math.pi * math.e) / 2).sum(1, keepdim=True)
        return -(responsibilities * (entropy + self._log_density(mean, log_std.exp()))).sum(1).to(mean.dtype)

    def _log_density(self, mean: Tensor, std: Tensor) -> Tensor:
        """E[log N(z; mean_k, var_k)] for Gaussian z, [B, K]."""
        centre = self.mean.mean(0)  # far from it squares would cancel
        features = _features(mean.double() - centre, std.double())
        return features @ _coefficients(torch.zeros_like(self.weight), self.mean - centre, 1 / self.var).T


class _Ascent:
    """Coordinate ascent on points with mean zero, [N, D]; changes of K, which return how many were accepted."""

    def __init__(self, z: Tensor, mixture: DPMixture, rng: np.random.Generator) -> None:
        self.features, self.rng = _features(z, torch.zeros_like(z)), rng
        self.concentration, self.cap = mixture.concentration, mixture.cap
        self.least = max(_LEAST, mixture.share * len(z))
        self.rate = _SHAPE * _SPREAD * z.square().mean(0).clamp_min(_LEAST_VARIANCE)  # b0, [D]
        self.trace: list[float] = []

    def take(self, responsibilities: Tensor, above: float = -math.inf) -> bool:
        """Go on from responsibilities [N, K] and the best posterior for them, if the bound is above that."""
        sums = responsibilities.T @ self.features
        numbers = self._posterior(sums)
        sticks = torch.lgamma(numbers["sticks"]).sum(1) - torch.lgamma(numbers["sticks"].sum(1))
        sticks += math.log(self.concentration)  # the prior's: log B(1, c) = -log c
        bound = float(self._evidence(sums).sum() + sticks.sum() - _each_log(responsibilities).sum())
        if better := bound > above + _TOLERANCE * len(self.features):
            self.responsibilities, self.sums, self.numbers, self.bound = responsibilities, sums, numbers, bound
            self.trace.append(bound)
        return better

    def converge(self) -> None:
        """Responsibilities and posterior in turn."""
        for _ in range(_SWEEPS):
            before = self.bound
            self.take(_responsibilities(self.features, self.numbers))
            if self.bound - before < _TOLERANCE * len(self.features):
                break

    def deletions(self) -> int:
        """Give points of the smallest component to the others, below the least mass at any price."""
        deleted = 0
        while len(self.sums) > 1:
            mass, k = self.sums[:, 0].min(0)
            others = _responsibilities(self.features, self._posterior(_dropped(self.sums, k)))
            if not self.take(others, above=self.bound if mass >= self.least else -math.inf):
                break
            deleted += 1
        return deleted

    def births(self) -> int:
        """Split components, the one that fits its points worst first."""
        born = 0
        for gain, k, parts in sorted(map(self._split, range(len(self.sums))), key=lambda split: -split[0]):
            if gain > -_SLACK and len(self.sums) < self.cap and parts.sum(0).min() >= self.least:
                columns = self.responsibilities.clone()
                columns[:, k] = parts[:, 0]
                born += self.take(torch.cat((columns, parts[:, 1:]), 1), above=self.bound)
        return born

    def merges(self) -> int:
        """Merge pairs as long as that raises the bound."""
        one, other = torch.triu_indices(len(self.sums), len(self.sums), 1, device=self.sums.device)
        own = self._score(self.sums)
        gain = self._score(self.sums[one] + self.sums[other]) - own[one] - own[other]
        for pair in gain.argsort(descending=True):  # entropy, which is added here, only falls
            both = self.responsibilities[:, torch.stack((one[pair], other[pair]))]
            whole = both.sum(1)
            if gain[pair] < -_SLACK:
                break
            if gain[pair] + _each_log(both).sum() - _each_log(whole).sum() < -_SLACK:
                continue
            columns = _dropped(self.responsibilities.T, other[pair]).T  # other comes after one
            columns[:, one[pair]] = whole
            if self.take(columns, above=self.bound):
                return 1 + self.merges()
        return 0

    def _posterior(self, sums: Tensor) -> Numbers:
        """The best one, for sums [K, 1 + 2 D] of features (Bishop, 10.60 to 10.63)."""
        mass, (first, second) = sums[:, 0], sums[:, 1:].chunk(2, 1)
        pull = _PULL + mass
        mean = first / pull[:, None]
        rate = self.rate + (second - pull[:, None] * mean.square()).clamp_min(0) / 2
        order = mass.argsort(descending=True, stable=True)
        after = mass[order].flip(0).cumsum(0).flip(0) - mass[order]
        sticks = torch.stack((1 + mass[order], self.concentration + after.clamp_min(0)), 1)[order.argsort()]
        return {"pull": pull, "mean": mean, "shape": _SHAPE + mass / 2, "rate": rate, "sticks": sticks}

    def _evidence(self, sums: Tensor) -> Tensor:
        """log of the integral of prior times likelihood over a component's parameters, [K] (Murphy, 2007, eq. 95)."""
        numbers = self._posterior(sums)
        shape, pull = numbers["shape"], numbers["pull"]
        rates = _SHAPE * self.rate.log().sum() - shape * numbers["rate"].log().sum(1)
        pulls = (math.log(_PULL) - pull.log() - sums[:, 0] * math.log(2 * math.pi)) / 2
        return rates + len(self.rate) * (torch.lgamma(shape) - math.lgamma(_SHAPE) + pulls)

    def _score(self, sums: Tensor) -> Tensor:
        """What components add to the bound, without entropy, and with sticks up to about log N, [K]."""
        return self._evidence(sums) + _each_log(sums[:, 0])

    def _split(self, k: int) -> tuple[float, int, Tensor]:
        """The best split of a component, on its points alone: about what the bound gains, k, the two parts [N, 2]."""
        whole = self.responsibilities[:, k]
        own = whole > 0.01
        features, weight = self.features[own], whole[own]
        parts = torch.stack((whole, 0 * whole), 1)
        if weight.sum() < 2 * self.least:
            return -math.inf, k, parts
        std = (self.numbers["rate"][k] / self.numbers["shape"][k]).sqrt()
        near = self._near(features[:, 1 : 1 + len(std)] / std, weight.log()[:, None])
        for _ in range(_LOCAL):
            sums = (weight[:, None, None] * near).flatten(1).T @ features
            logits = features @ _expected(self._posterior(sums), sums[:, 0].clamp_min(1e-9).log()).T
            first = torch.sigmoid(logits[:, ::2] - logits[:, 1::2])
            near = torch.stack((first, 1 - first), 2)
        part = weight[:, None, None] * near
        gain = self._score(part.flatten(1).T @ features).view(_TRIES, 2).sum(1) - _each_log(part).sum((0, 2))
        gain += _each_log(weight).sum() - self._score((weight @ features)[None])
        best = int(gain.argmax())
        parts[own] = part[:, best]
        return float(gain[best]), k, parts

    def _near(self, z: Tensor, log_weight: Tensor) -> Tensor:
        """Which of two points is nearer, one-hot [n, tries, 2]; k-means++ draws them (Arthur, Vassilvitskii, 2007)."""
        noise = to_tensor(self.rng.gumbel(size=(2, len(z), _TRIES)))  # the largest of logits and noise is a draw
        first = torch.cdist(z, z[(log_weight + noise[0]).argmax(0)])
        second = torch.cdist(z, z[(log_weight + 2 * first.log() + noise[1]).argmax(0)])
        return torch.stack((first < second, first >= second), 2).double()


def _dropped(rows: Tensor, k: Tensor) -> Tensor:
    return rows[torch.arange(len(rows), device=rows.device) != k]


def _each_log(x: Tensor) -> Tensor:
    return torch.xlogy(x, x)


def _features(mean: Tensor, std: Tensor) -> Tensor:
    """(1, E[z], E[z^2]), [N, 1 + 2 D]."""
    return torch.cat((torch.ones_like(mean[:, :1]), mean, mean.square() + std.square()), 1)


def _coefficients(constant: Tensor, mean: Tensor, precision: Tensor) -> Tensor:
    """What gives constant + log N(z; mean, 1 / precision) by a product with features, [K, 1 + 2 D]."""
    logs = (precision / (2 * math.pi)).log() - precision * mean.square()
    return torch.cat(((constant + logs.sum(1) / 2)[:, None], precision * mean, -precision / 2), 1)


def _expected(numbers: Numbers, log_weight: Tensor) -> Tensor:
    """Coefficients of log weight + log N(z), expected over the posterior (Bishop, 10.64 to 10.65)."""
    shape, dims = numbers["shape"], numbers["mean"].shape[1]
    constant = log_weight + dims * (torch.digamma(shape) - shape.log() - 1 / numbers["pull"]) / 2
    return _coefficients(constant, numbers["mean"], shape[:, None] / numbers["rate"])


def _responsibilities(features: Tensor, numbers: Numbers) -> Tensor:
    """[N, K]. Points are the inner axis of the softmax, which takes a quarter of the time that N rows of K do."""
    return (_expected(numbers, _log_weight(numbers, torch.digamma)) @ features.T).softmax(0).T


def _log_weight(numbers: Numbers, log: Callable[[Tensor], Tensor]) -> Tensor:
    """Expected log of the weights [K] (digamma), or log of the expected ones (log)."""
    order = numbers["pull"].argsort(descending=True, stable=True)
    sticks = numbers["sticks"][order]
    broken, rest = (log(sticks) - log(sticks.sum(1, keepdim=True))).unbind(1)
    return (broken + rest.cumsum(0) - rest)[order.argsort()]
