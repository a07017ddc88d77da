"""Networks of continuous control. Actions and goals are in [-1, 1] per dimension.

The twin critics are one network with a leading axis of two, so that a layer is one batched product (`torch.baddbmm`).
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ground.device import normal

# The range that Stable-Baselines3 and the authors' code of SAC leave to the logarithm of the deviation.
_LOG_STD_MIN, _LOG_STD_MAX = -20.0, 2.0
# Stored actions at the edge of the box have no finite pre-image under tanh in float32.
_INSIDE = 1.0 - 1e-6


@dataclass(frozen=True)
class SquashedNormal:
    """N Gaussians squashed by tanh, from which actions are drawn (`agent.core.Distribution`).

    Attributes:
        mean: float32 [N, A], before squashing; `log_std` likewise.
    """

    mean: NDArray[np.float32]
    log_std: NDArray[np.float32]

    def sample(self, rng: np.random.Generator | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Actions [N, A] and their log-probability [N]; the modes, of log-probability 0, where `rng` is None.

        It is that of the action as it is stored, which float32 has rounded: near the edge of the box that matters to
        whoever computes it again from there.
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
    """N points with Gaussian noise around them, clipped to [-1, 1] (`agent.core.Distribution`).

    Attributes:
        mean: float32 [N, A].
        std: Deviation of the noise, one or [N, 1].
    """

    mean: NDArray[np.float32]
    std: float | NDArray[np.float32]

    def sample(self, rng: np.random.Generator | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Actions [N, A]; log-probabilities of a clipped Gaussian are of no use, and given as 0."""
        nothing = np.zeros(len(self.mean), np.float32)
        if rng is None:
            return self.mean, nothing
        noise = np.float32(self.std) * rng.standard_normal(self.mean.shape, np.float32)
        return np.clip(self.mean + noise, -1.0, 1.0), nothing

    def replaced(self, rows: NDArray[np.bool_], other: "ClippedNormal") -> "ClippedNormal":
        """The distributions of `other` in `rows` [N], these elsewhere."""
        across = rows[:, None]
        return ClippedNormal(np.where(across, other.mean, self.mean), np.where(across, other.std, self.std))


@dataclass(frozen=True)
class Certain:
    """N points, drawn with certainty (`agent.core.Distribution`).

    Attributes:
        value: float32 [N, A].
    """

    value: NDArray[np.float32]

    def sample(self, rng: np.random.Generator | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The points, and their log-probability 0."""
        return self.value, np.zeros(len(self.value), np.float32)

    def replaced(self, rows: NDArray[np.bool_], other: "Certain") -> "Certain":
        """The points of `other` in `rows` [N], these elsewhere."""
        return Certain(np.where(rows[:, None], other.value, self.value))


@dataclass(frozen=True)
class UniformBox:
    """N uniform distributions over [-1, 1] per dimension (`agent.core.Distribution`).

    Attributes:
        shape: (N, A).
    """

    shape: tuple[int, int]

    def sample(self, rng: np.random.Generator | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Actions [N, A] and their log-probability [N]; the middle of the box where `rng` is None."""
        if rng is None:
            return np.zeros(self.shape, np.float32), np.zeros(self.shape[0], np.float32)
        action = rng.uniform(-1.0, 1.0, self.shape).astype(np.float32)
        return action, np.full(self.shape[0], -self.shape[1] * math.log(2.0), np.float32)

    def replaced(self, rows: NDArray[np.bool_], other: "UniformBox") -> "UniformBox":
        """The distributions of `other` in `rows` [N], which are the same."""
        return self


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
        noise = normal(mean.shape, generator)
        unsquashed = torch.addcmul(mean, log_std.exp(), noise)
        log_prob = (-0.5 * noise.square() - log_std - log_tanh_slope(unsquashed)).sum(-1)
        return torch.tanh(unsquashed), log_prob - 0.5 * math.log(2 * math.pi) * mean.shape[-1]

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log-probability [B] of given actions [B, A], clipped just inside the box."""
        mean, log_std = self(obs)
        return squashed_log_prob(mean, log_std, action)

    def mode(self, obs: Tensor) -> Tensor:
        """The greedy action [B, A]."""
        return torch.tanh(self(obs)[0])


def log_tanh_slope(unsquashed: Tensor) -> Tensor:
    """log(1 - tanh(u)^2) without cancellation: 2 (log 2 - u - softplus(-2 u))."""
    return 2.0 * (math.log(2.0) - unsquashed - functional.softplus(-2.0 * unsquashed))


def squashed_log_prob(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    """Log-probability [B] of actions [B, A] in [-1, 1] under a squashed Gaussian, through what tanh made them of."""
    unsquashed = torch.atanh(action.clamp(-_INSIDE, _INSIDE))
    noise = (unsquashed - mean) * (-log_std).exp()
    log_prob = (-0.5 * noise.square() - log_std - log_tanh_slope(unsquashed)).sum(-1)
    return log_prob - 0.5 * math.log(2 * math.pi) * mean.shape[-1]


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


class FusedAdam(torch.optim.Adam):
    """Adam on parameters that all learn at every step: fused, and without the bookkeeping of `step` and `zero_grad`.

    Args:
        parameters: What learns.
        learning_rate: Of all.
    """

    def __init__(self, parameters: Iterable[Tensor], learning_rate: float) -> None:
        super().__init__(parameters, learning_rate, fused=True)
        (group,) = self.param_groups
        count = group["params"][0].new_zeros(())  # of steps, one for all
        for parameter in group["params"]:
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            self.state[parameter] = {"step": count, **moments}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; there is one count of steps again."""
        super().load_state_dict(state_dict)
        states = list(self.state.values())
        for state in states:
            state["step"] = states[0]["step"]

    @torch.no_grad()
    def minimize(self, loss: Tensor) -> None:
        """One step against the gradient of a loss; nothing else gets a gradient of it."""
        (group,) = self.param_groups
        parameters = group["params"]
        gradients = torch.autograd.grad(loss, parameters)
        states = [self.state[parameter] for parameter in parameters]
        count = states[0]["step"]
        count += 1
        torch._fused_adam_(
            parameters,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [count] * len(parameters),
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=0.0,
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )


def fast_precision(hidden: tuple[int, ...]) -> str:
    """The precision of products that is faster for layers of these widths: small ones do not repay the rounding."""
    return "bfloat16" if max(hidden, default=0) >= 256 else "float32"


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Within it, products of float32 matrices are computed in that precision.

    Under `bfloat16` oneDNN rounds the factors and sums in float32, which is three to four times faster where the
    processor has instructions for it, and changes nothing elsewhere. Whatever is stored stays float32.
    """
    switch = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # the module is replaced when it is imported
    before, switch.fp32_precision = switch.fp32_precision, "bf16" if precision == "bfloat16" else "ieee"
    try:
        yield
    finally:
        switch.fp32_precision = before


@torch.no_grad()
def polyak(target: nn.Module, source: nn.Module, share: float) -> None:
    """Move the target's parameters towards the source's by `share`."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), share)
