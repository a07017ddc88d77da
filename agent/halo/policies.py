"""HALO's policies for R restarts, mu(z_0 | s_0), pi_H(z_t | s_t, z_{t-1}) and pi_L(a | s, z).

They are tables over discrete states, or small networks over features; both learn from recordings with states for
observations, ids int [N, T] or features float [N, T, D], and play as their first restart.
"""

import math
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import DTypeLike, NDArray
from torch import Tensor, nn

from preceptor.agent.data.recording import Recording
from preceptor.agent.distributions import Categorical, ClippedNormal, Distribution
from preceptor.agent.halo.config import NeuralConfig, TabularConfig
from preceptor.agent.halo.posterior import Chain, Floats, Ints, Posterior
from preceptor.agent.resumable import Resumable, places
from preceptor.ground.device import to_device, to_numpy, to_tensor
from preceptor.ground.optim import FusedAdam
from preceptor.ground.repeated import Repeated

_LOG_STD = (-4.0, 1.0)  # bounds of the Gaussians' log deviations: below, one exact repetition would outweigh all else


def near_identity(options: int, diagonal: float, dtype: DTypeLike = np.float64) -> NDArray[Any]:
    """Rows of probabilities [K, K]: the same one, `diagonal`, on the diagonal, and the rest shared among the others."""
    beside = (1 - diagonal) / max(options - 1, 1)
    return np.full((options, options), beside, dtype) + np.eye(options, dtype=dtype) * (diagonal - beside)


class TabularPolicies(Resumable):
    """Tables over S states: the M-step is counting.

    The initial policy is one for all states, because demonstrations seldom begin twice in the same one.

    Attributes:
        log_initial: [R, K]
        log_high: [R, S, K, K]
        log_low: [R, S, K, A]
    """

    saved = places("log_initial", "log_high", "log_low")

    def __init__(
        self, states: int, options: int, actions: int, restarts: int, config: TabularConfig, rng: np.random.Generator
    ) -> None:
        """Low levels drawn at random, which is all that tells restarts apart; high levels at their prior."""
        stay = near_identity(options, config.stay)
        self._high_prior = config.stay_weight * stay  # [K, K]
        self._low_prior, self._initial_prior = config.smoothing, config.initial_smoothing
        self.log_initial = np.full((restarts, options), -np.log(options))
        self.log_high = np.broadcast_to(_log_mean(stay), (restarts, states, options, options)).copy()
        # Draws below the smoothing would rule actions out that a first M-step would not.
        drawn = rng.dirichlet(np.ones(actions), (restarts, states, options))
        self.log_low = _log_mean(drawn + config.smoothing)

    def chain(self, demos: Recording) -> Chain:
        """The chain of all restarts over demonstrations, without evidence."""
        restarts, options = self.log_initial.shape
        initial = np.broadcast_to(self.log_initial[:, None], (restarts, len(demos.lengths), options))
        state, action = np.where(demos.inside, demos.obs, 0), np.where(demos.acted, demos.action, 0)
        by_action = np.moveaxis(self.log_low, 2, 3)  # [R, S, A, K]
        emission = np.where(demos.acted[..., None], by_action[:, state, action], 0.0)  # [R, N, T, K]
        return Chain(initial, self.log_high, emission, state, demos.lengths)

    def improve(self, demos: Recording, posterior: Posterior, weight: Floats) -> None:
        """The M-step, exactly: expected counts plus the prior's."""
        low, high = np.empty(self.log_low.shape), np.empty(self.log_high.shape)
        low[:], high[:] = self._low_prior, self._high_prior
        steps = (demos.obs, demos.action, demos.acted, demos.lengths)
        _counts(posterior.gamma, posterior.xi, weight, *steps, low, high)
        self.log_low, self.log_high = _log_mean(low), _log_mean(high)
        self.log_initial = _log_mean(posterior.gamma[:, :, 0].sum(1) + self._initial_prior)

    def log_prior(self) -> Floats:
        """Log-density of the tables under their priors, up to a constant, [R]."""
        return (
            (self._high_prior * self.log_high).sum((1, 2, 3))
            + self._low_prior * self.log_low.sum((1, 2, 3))
            + self._initial_prior * self.log_initial.sum(1)
        )

    def choosing(self, state: Ints, running: Ints) -> Floats:
        """Distribution over the next options [N, K] in states [N], given those before [N]; -1 at the beginning."""
        high = self.log_high[0, state, running]
        return np.exp(np.where((running < 0)[:, None], self.log_initial[0], high))

    def acting(self, state: Ints, option: Ints) -> Distribution:
        """pi_L in states [N] under options [N]."""
        return Categorical(np.exp(self.log_low[0, state, option]).astype(np.float32))


@njit(cache=True, nogil=True)
def _counts(gamma, xi, weight, state, action, acted, lengths, low, high):  # type: ignore[no-untyped-def]
    """Adds expected counts to low [R, S, K, A] and high [R, S, K, K]."""
    restarts, count, _, options = gamma.shape
    for r in range(restarts):
        for n in range(count):
            for t in range(lengths[n]):
                s = state[n, t]
                for j in range(options):
                    if acted[n, t]:
                        low[r, s, j, action[n, t]] += weight[r, n, t] * gamma[r, n, t, j]
                    for i in range(options):
                        high[r, s, i, j] += xi[r, n, t, i, j]  # zero at t = 0


def _log_mean(pseudo: Floats) -> Floats:
    """log of counts over their sum on the last axis."""
    return np.log(pseudo) - np.log(pseudo.sum(-1, keepdims=True))


class StackedNetwork(nn.Module):
    """R networks of two tanh layers, with the weights of all stacked: one product serves them all.

    Given a number of `options` above 0, they are read once for every option, as a one-hot input.
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
        return out if self.by_option is None else out.unflatten(1, (-1, self.options))


class NeuralPolicies(nn.Module):
    """Networks over D features, K options, and A actions or, where they are `continuous`, Gaussians in A dimensions.

    The seed draws weights and the order of steps.

    Attributes:
        step: Takes a gradient step, of what `_descend` has.
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
        self.config, self.continuous = config, continuous
        self._generator = torch.Generator().manual_seed(seed)

        def network(reads: int, outputs: int) -> StackedNetwork:
            return StackedNetwork(restarts, features, reads, outputs, config.hidden, self._generator)

        self.initial, self.high, self.low = network(0, options), network(options, options), network(options, actions)
        self.log_std = nn.Parameter(torch.zeros(restarts, 1, options, actions if continuous else 0))
        sticky = torch.log(torch.as_tensor(near_identity(options, config.stay, np.float32)))
        self.register_buffer("sticky", sticky, persistent=False)
        to_device(self)
        self._optimiser = FusedAdam(list(self.parameters()), config.lr)
        self.step = Repeated(self._descend)

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
    def chain(self, demos: Recording) -> Chain:
        """The chain of all restarts over demonstrations, without evidence."""
        inside, acted = demos.inside, demos.acted
        high = self.log_high(_features(demos.obs[inside]))  # [R, M, K, K]: each of the M real steps is a state
        rows = np.cumsum(inside).reshape(inside.shape) - 1
        emission = np.zeros((len(high), *inside.shape, high.shape[-1]))
        emission[:, acted] = to_numpy(self.log_low(_features(demos.obs[acted]), self._actions(demos.action[acted])))
        initial = to_numpy(self.log_initial(_features(demos.obs[:, 0])).double())
        return Chain(initial, to_numpy(high.double()), emission, rows, demos.lengths)

    def improve(self, demos: Recording, posterior: Posterior, weight: Floats) -> None:
        """Some epochs of Adam on L_init + L_high + L_low plus the weights' prior."""
        inside = demos.inside
        features, action = _features(demos.obs[inside]), demos.action[inside]  # [M, D], [M, ..]
        action[~demos.acted[inside]] = 0
        actions = self._actions(action)
        low = to_tensor(posterior.gamma[:, inside] * (weight * demos.acted)[:, inside][..., None]).float()  # [R, M, K]
        pairs = to_tensor(posterior.xi[:, inside]).float()  # [R, M, K, K], zero at t = 0
        first = to_tensor(posterior.gamma * (np.arange(inside.shape[1]) == 0)[:, None])[:, inside].float()
        steps, share = len(features), features.new_tensor(1 / len(features))
        for _ in range(self.config.epochs):
            for part in torch.randperm(steps, generator=self._generator).to(features.device).split(self.config.batch):
                self.step(features[part], actions[part], low[:, part], pairs[:, part], first[:, part], share)

    def _descend(
        self, features: Tensor, action: Tensor, low: Tensor, pairs: Tensor, first: Tensor, share: Tensor
    ) -> None:
        """A gradient step; the prior counts by a `share`, one step's of all."""
        nll = (pairs * -self.log_high(features)).sum() + (first * -self.log_initial(features)).sum()
        nll = nll + (low * -self.log_low(features, action)).sum()
        # Per step, so that the learning rate does not depend on how many demonstrations there are.
        self._optimiser.minimize(nll / len(features) - self._log_density().sum() * share)

    @torch.no_grad()
    def log_prior(self) -> Floats:
        """Log-density of the weights under their Gaussian prior, up to a constant, [R]."""
        return to_numpy(self._log_density().double())

    @torch.no_grad()
    def choosing(self, state: NDArray[np.float32], running: Ints) -> Floats:
        """Distribution over the next options [N, K] in states [N, D], given those before [N]; -1 at the beginning."""
        return to_numpy(self.next_option(_features(state), to_tensor(running)))

    def next_option(self, features: Tensor, running: Tensor) -> Tensor:
        """The same of tensors: float64 [N, K]."""
        log_probs = under(self.log_high(features)[0], running)
        return torch.where(running[:, None] < 0, self.log_initial(features)[0], log_probs).double().exp()

    @torch.no_grad()
    def acting(self, state: NDArray[np.float32], option: Ints) -> Distribution:
        """pi_L in states [N, D] under options [N]."""
        kind: Any = ClippedNormal if self.continuous else Categorical
        return kind(*map(to_numpy, self.action(_features(state), to_tensor(option))))

    def action(self, features: Tensor, option: Tensor) -> tuple[Tensor, ...]:
        """Probabilities of named actions [N, A] in states under options; of vectors, means and deviations."""
        out = under(self.low(features)[0], option)
        if not self.continuous:
            return (torch.softmax(out.double(), -1).float(),)
        return out, self.log_std[0, 0].clamp(*_LOG_STD).exp()[option]

    def _log_density(self) -> Tensor:
        squares = [weights.square().flatten(1).sum(1) for weights in self.parameters()]
        return -0.5 * self.config.decay * torch.stack(squares).sum(0)  # [R]

    def _actions(self, action: NDArray[Any]) -> Tensor:
        return to_tensor(action.astype(np.float32 if self.continuous else np.int64))


def under(by_option: Tensor, option: Tensor) -> Tensor:
    """Of numbers for each option [N, K, ...], those of one [N, ...]; of any one where there is none, -1."""
    rows = option.clamp(min=0)[:, None, None].expand(-1, 1, by_option.shape[2])
    return by_option.gather(1, rows).squeeze(1)


def _features(state: NDArray[Any]) -> Tensor:
    return to_tensor(state.astype(np.float32))


Policies = TabularPolicies | NeuralPolicies
