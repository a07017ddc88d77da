"""Policies over features, as small networks with the weights of all restarts stacked: one product serves them all."""

import copy
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agent.halo.chain import Chain, Floats
from agent.halo.config import NeuralConfig
from agent.halo.demonstrations import Demonstrations
from agent.halo.posterior import Posterior
from ground.device import to_device, to_numpy, to_tensor

_LOG_STD = (-4.0, 1.0)  # bounds of the Gaussians' log deviations: below, one exact repetition would outweigh all else


class StackedNetwork(nn.Module):
    """R networks of two tanh layers, each read once for every option where it takes one.

    Args:
        restarts: R
        inputs: D
        options: K, for networks that read an option, as one-hot numbers; 0 for those that do not.
        outputs: F
        hidden: Width.
        generator: Draws the weights.
    """

    def __init__(
        self, restarts: int, inputs: int, options: int, outputs: int, hidden: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.options = options

        def drawn(rows: int, columns: int, fan_in: int, gain: float = 1.0) -> nn.Parameter:
            weights = torch.randn(restarts, rows, columns, generator=generator)
            return nn.Parameter(weights * gain / math.sqrt(fan_in))

        self.first = drawn(inputs, hidden, inputs)
        self.by_option = drawn(options, hidden, 1) if options else None
        self.second = drawn(hidden, hidden, hidden)
        self.last = drawn(hidden, outputs, hidden, 0.1)
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(restarts, 1, n)) for n in (hidden, hidden, outputs)])

    def forward(self, features: Tensor) -> Tensor:
        """[B, D] -> [R, B, F], or [R, B, K, F] where options are read."""
        hidden = features @ self.first + self.biases[0]  # [R, B, H]
        if self.by_option is not None:
            # A one-hot option adds its row to the first layer: K rows are added, not K inputs multiplied.
            hidden = (hidden[:, :, None] + self.by_option[:, None]).flatten(1, 2)  # [R, B K, H]
        hidden = torch.tanh(torch.baddbmm(self.biases[1], torch.tanh(hidden), self.second))
        out = torch.baddbmm(self.biases[2], hidden, self.last)
        return out if self.by_option is None else out.unflatten(1, (len(features), self.options))


class NeuralPolicies(nn.Module):
    """mu(z_0 | s_0), pi_H(z_t | s_t, z_{t-1}) and pi_L(a | s, z) for R restarts.

    Args:
        features: D
        options: K
        actions: Number of discrete actions, or the dimensions of continuous ones, which are Gaussian.
        continuous: Which of the two.
        restarts: R
        config: Networks and M-steps.
        seed: Draws weights and the order of steps.
    """

    def __init__(
        self,
        features: int,
        options: int,
        actions: int,
        continuous: bool,
        restarts: int,
        config: NeuralConfig,
        seed: int,
    ) -> None:
        super().__init__()
        self.config, self.continuous, self.restarts = config, continuous, restarts
        self._generator = torch.Generator().manual_seed(seed)

        def network(reads: int, outputs: int) -> StackedNetwork:
            return StackedNetwork(restarts, features, reads, outputs, config.hidden, self._generator)

        self.initial, self.high, self.low = network(0, options), network(options, options), network(options, actions)
        self.log_std = nn.Parameter(torch.zeros(restarts, 1, options, actions if continuous else 0))
        leave = (1 - config.stay) / max(options - 1, 1)
        sticky = torch.log(torch.full((options, options), leave) + torch.eye(options) * (config.stay - leave))
        self.register_buffer("sticky", sticky, persistent=False)
        to_device(self)
        self._optimiser = torch.optim.Adam(self.parameters(), config.lr)

    def log_initial(self, features: Tensor) -> Tensor:
        """log mu(k | s), [B, D] -> [R, B, K]."""
        return torch.log_softmax(self.initial(features), -1)

    def log_high(self, features: Tensor) -> Tensor:
        """log pi_H(j | s, i) at [r, b, i, j], [B, D] -> [R, B, K, K]: a correction to options that stay."""
        return torch.log_softmax(self.sticky + self.high(features), -1)

    def log_low(self, features: Tensor, action: Tensor) -> Tensor:
        """log pi_L(a | s, k) of actions [B] or [B, A], [R, B, K]."""
        out = self.low(features)
        if not self.continuous:
            chosen = action[None, :, None, None].expand(*out.shape[:-1], 1)
            return torch.log_softmax(out, -1).gather(-1, chosen).squeeze(-1)
        log_std = self.log_std.clamp(*_LOG_STD)
        scaled = (action[:, None] - out) * torch.exp(-log_std)
        return -(0.5 * scaled.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    @torch.no_grad()
    def chain(self, demos: Demonstrations) -> Chain:
        """The chain of all restarts over demonstrations, without evidence."""
        inside, acted = demos.inside, demos.inside & demos.acted
        features = _features(demos.state[inside])  # [M, D], M real steps
        high = self.log_high(features)  # [R, M, K, K]
        options = high.shape[-1]
        transition = np.zeros((self.restarts, *inside.shape, options, options))
        transition[:, inside] = to_numpy(high.double())
        emission = np.zeros((self.restarts, *inside.shape, options))
        emission[:, acted] = to_numpy(self.log_low(_features(demos.state[acted]), self._actions(demos.action[acted])))
        initial = to_numpy(self.log_initial(_features(demos.state[:, 0])).double())
        return Chain(initial, transition, emission, demos.lengths)

    def improve(self, demos: Demonstrations, posterior: Posterior, weight: Floats) -> None:
        """Some epochs of Adam on L_init + L_high + L_low (halo.md, section 1.1) plus the weights' prior."""
        if posterior.xi is None:
            raise ValueError("an M-step needs a posterior with pairs")
        inside = demos.inside
        features = _features(demos.state[inside])  # [M, D]
        low_weight = posterior.gamma[:, inside] * (weight * demos.acted)[:, inside][..., None]  # [R, M, K]
        low = to_tensor(low_weight).float()
        pairs = to_tensor(posterior.xi[:, inside]).float()  # [R, M, K, K], zero at t = 0
        first = to_tensor(posterior.gamma * (np.arange(inside.shape[1]) == 0)[:, None])[:, inside].float()
        action = self._actions(np.where(_like(demos.acted, demos.action), demos.action, 0)[inside])
        steps = len(features)
        for _ in range(self.config.epochs):
            for part in torch.randperm(steps, generator=self._generator).to(features.device).split(self.config.batch):
                seen = features[part]
                nll = (pairs[:, part] * -self.log_high(seen)).sum() + (first[:, part] * -self.log_initial(seen)).sum()
                nll = nll + (low[:, part] * -self.log_low(seen, action[part])).sum()
                # Per step, so that the learning rate does not depend on how many demonstrations there are.
                loss = nll / len(part) - self._log_density().sum() / steps
                self._optimiser.zero_grad()
                loss.backward()
                self._optimiser.step()

    @torch.no_grad()
    def log_prior(self) -> Floats:
        """Log-density of the weights under their Gaussian prior, up to a constant, [R]."""
        return to_numpy(self._log_density().double())

    def only(self, restart: int) -> "NeuralPolicies":
        """One restart by itself; it learns no more."""
        one = copy.deepcopy(self)
        for weights in one.parameters():
            weights.data = weights.data[restart : restart + 1].clone()
        one.restarts = 1
        return one

    @torch.no_grad()
    def choosing(self, state: NDArray[np.float32]) -> tuple[Floats, Floats]:
        """mu [N, K] and pi_H [N, K, K] of the first restart in states [N, D]."""
        features = _features(state)
        initial, high = self.log_initial(features)[0], self.log_high(features)[0]
        return to_numpy(initial.double().exp()), to_numpy(high.double().exp())

    @torch.no_grad()
    def acting(
        self, state: NDArray[np.float32], option: NDArray[np.int64]
    ) -> Floats | tuple[NDArray[np.float32], NDArray[np.float32]]:
        """pi_L of the first restart in states [N, D] under options [N]: probabilities [N, A], or mean and deviation
        [N, A] of continuous actions."""
        rows = np.arange(len(option)), option
        out = self.low(_features(state))[0][rows]  # [N, A]
        if not self.continuous:
            return to_numpy(torch.softmax(out.double(), -1))
        return to_numpy(out), to_numpy(self.log_std[0, 0, option].clamp(*_LOG_STD).exp())

    def _log_density(self) -> Tensor:
        squares = [weights.square().flatten(1).sum(1) for weights in self.parameters()]
        return -0.5 * self.config.decay * torch.stack(squares).sum(0)  # [R]

    def _actions(self, action: NDArray[np.generic]) -> Tensor:
        return to_tensor(action.astype(np.float32 if self.continuous else np.int64))


def _features(state: NDArray[np.generic]) -> Tensor:
    return to_tensor(state.astype(np.float32))


def _like(where: NDArray[np.bool_], column: NDArray[np.generic]) -> NDArray[np.bool_]:
    """A mask [N, T] that broadcasts against a column [N, T] or [N, T, A]."""
    return where if column.ndim == where.ndim else where[..., None]
