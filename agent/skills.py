"""A space of skills: what is done in H steps, as D numbers that a decoder carries out in closed loop (SPiRL, HELIOS).

q(z | s_1..H, a_1..H) encodes a window of a demonstration, pi(a | s, z) decodes it step by step. The loss is that of a
variational autoencoder with sums throughout: sum over steps and actions of (a - a')^2 / 2, plus beta times the KL of q
from a prior that is N(0, I) or a Dirichlet-process mixture (`agent/dpm.py`).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from preceptor.agent.clock import Clock
from preceptor.agent.computed import Computed
from preceptor.agent.distributions import ClippedNormal, Distribution, GaussianMixture
from preceptor.agent.levels import Observations
from preceptor.agent.mixtures import MixtureNetwork
from preceptor.agent.networks import mlp
from preceptor.ground.device import normal, to_tensor

_LOG_STD = -5.0, 2.0  # range of the logarithm of a deviation


class RecurrentEncoder(nn.Module):
    """A GRU over the steps of a window, and numbers of its last state.

    Args:
        inputs: Numbers of a step.
        hidden: Width.
        outputs: Numbers of a window.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(inputs, hidden, batch_first=True), nn.Linear(hidden, outputs)

    def forward(self, window: Tensor) -> Tensor:
        """[B, outputs] of windows [B, H, inputs]."""
        numbers: Tensor = self.head(self.gru(window)[1][0])
        return numbers


class SkillModel(nn.Module):
    """Encoder and decoder of skills.

    Args:
        inputs: Width of the encoded observation.
        actions: A.
        horizon: H.
        dims: D.
        hidden: Width of the layers.
        encoder: `mlp` or `gru`.

    Attributes:
        noise: Deviation of the noise on actions in training levels.
    """

    noise = 0.0

    def __init__(self, inputs: int, actions: int, horizon: int, dims: int, hidden: int, encoder: str) -> None:
        super().__init__()
        self.dims = dims
        step = inputs + actions
        whole = nn.Sequential(nn.Flatten(), mlp(horizon * step, (hidden, hidden), 2 * dims))
        self.encoder = RecurrentEncoder(step, hidden, 2 * dims) if encoder == "gru" else whole
        self.decoder = mlp(inputs + dims, (hidden,) * 3, actions)

    def encode(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-deviation [B, D] of q, of encoded observations [B, H, inputs] and actions [B, H, A]."""
        mean, log_std = self.encoder(torch.cat([obs, action], -1)).chunk(2, -1)
        return mean, log_std.clamp(*_LOG_STD)

    def decode(self, obs: Tensor, skill: Tensor) -> Tensor:
        """Actions [..., A] in [-1, 1] for encoded observations [..., inputs] under skills [..., D]."""
        action: Tensor = self.decoder(torch.cat([obs, skill], -1))
        return torch.tanh(action)

    def loss(
        self,
        obs: Tensor,
        action: Tensor,
        beta: float,
        divergence: Callable[[Tensor, Tensor, Tensor], Tensor],
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of windows, and what it consists of.

        Args:
            obs: [B, H, inputs], encoded.
            action: [B, H, A].
            beta: Weight of the divergence.
            divergence: KL [B] of q from its prior, of means and log-deviations [B, D] and sampled skills [B, D].
            generator: Samples skills.
        """
        mean, log_std = self.encode(obs, action)
        skill = torch.addcmul(mean, log_std.exp(), normal(mean.shape, generator))
        told = skill[:, None].expand(-1, obs.shape[1], -1)
        error = 0.5 * (self.decode(obs, told) - action).square().sum((1, 2)).mean()
        kl = divergence(mean, log_std, skill).mean()
        return error + beta * kl, {"error": error.detach(), "kl": kl.detach()}

    def low_computed(self) -> Computed:
        """What is computed of observations and skills."""
        return Computed(self, ClippedNormal, lambda obs, skill: (self.decode(obs, skill),), ("parts", "command"))

    def act(self, observed: Observations, clock: Clock) -> Distribution:
        """As the low level of a player: the decoder's action under the clock's command, noisy where it may explore."""
        choice: Any = self.low_computed()(observed.inputs[0], to_tensor(clock.command))
        if not self.noise or not observed.training.any():
            return choice
        return replace(choice, std=(self.noise * observed.training[:, None]).astype(np.float32))


def standard_divergence(mean: Tensor, log_std: Tensor, skill: Tensor) -> Tensor:
    """KL [B] of N(mean, exp(log_std)^2) [B, D] from N(0, I)."""
    return (0.5 * ((2 * log_std).exp() + mean.square() - 1.0) - log_std).sum(-1)


class SkillHigh:
    """A high level that chooses skills.

    Attributes:
        network: What they are sampled from; to be set.
    """

    network: MixtureNetwork

    def high_computed(self) -> Computed:
        """What is computed of observations."""
        return Computed(self.network, GaussianMixture, self._parameters, ends="never")

    def _parameters(self, obs: Tensor) -> tuple[Tensor, ...]:
        mixture = self.network(obs)
        return mixture.log_weight.exp(), mixture.mean, mixture.log_std.exp()

    def choose(self, observed: Observations, running: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Distribution]:
        """No skill is over before its H steps; what the next one is sampled from."""
        return np.zeros(len(observed), np.bool_), self.high_computed()(observed.inputs[0])
