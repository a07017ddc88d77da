"""Networks of students and what their outputs mean: heads, the low level, the high level, actors and twin critics.

Actions that are vectors, and goals, are in [-1, 1] per dimension.
"""

import copy
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from preceptor.agent.clock import Clock
from preceptor.agent.computed import Computed
from preceptor.agent.distributions import Categorical, Distribution, SquashedNormal
from preceptor.agent.levels import Observations
from preceptor.agent.squashing import log_tanh_slope, squashed_log_prob
from preceptor.controller.compiled import InPlay, probabilities
from preceptor.controller.encoders import Encoder
from preceptor.controller.network import (
    ControllerNetwork,
    TokenTrunk,
    TrunkConfig,
    in_order,
    make_trunk,
    mask_logits,
    numbered,
)
from preceptor.ground.device import normal, orthogonal_, to_numpy, to_tensor

_FIRST_LOG_STD = -0.5  # of actions in [-1, 1], before squashing
# The range that Stable-Baselines3 and the authors' code of SAC leave to the logarithm of the deviation.
LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0


class Head(Protocol):
    """Reads outputs [B, P] of a policy network; `legal` bool [B, C] says which named actions are allowed, or None."""

    kind: type[Distribution]

    def parameters(self, outputs: Tensor) -> tuple[Tensor, ...]:
        """Of outputs, what that is made of."""
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

    kind: type[Distribution] = Categorical

    def parameters(self, outputs: Tensor) -> tuple[Tensor]:
        """Probabilities [B, C]."""
        return (torch.softmax(outputs, 1),)

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

    kind: type[Distribution] = SquashedNormal

    def parameters(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-deviation [B, A]."""
        mean, log_std = outputs.chunk(2, -1)
        return mean, log_std

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


class LowNetwork(nn.Module):
    """pi(a | s, o) and V(s, o): one trunk, one action head and one value per option.

    Its outputs for an option are the logits of A named actions, or mean and log-deviation of A numbers (`head`). The
    deviations are parameters of their own, as PPO's usually are. Actions that are vectors come with rewards of any
    size, so there the values have a trunk to themselves.

    Args:
        encoder: What its inputs come from.
        num_options: K; a flat policy is the case of one option.
        num_actions: A.
        config: Widths of the trunk.
        continuous: Whether actions are vectors.
    """

    def __init__(
        self, encoder: Encoder, num_options: int, num_actions: int, config: TrunkConfig, continuous: bool = False
    ) -> None:
        super().__init__()
        self.num_options, self.num_actions = num_options, num_actions
        self.head: Head = GaussianHead() if continuous else CategoricalHead()
        self.trunk = make_trunk(encoder, 0, config)
        self.value_trunk = make_trunk(encoder, 0, config) if continuous else None
        self.log_std = nn.Parameter(torch.full((num_options, num_actions), _FIRST_LOG_STD)) if continuous else None
        self.action_head = nn.Linear(config.hidden, num_options * num_actions)
        self.value_head = nn.Linear(config.hidden, num_options)
        orthogonal_(self.action_head.weight, 0.01)
        orthogonal_(self.value_head.weight, 0.1)
        nn.init.zeros_(self.action_head.bias)
        nn.init.zeros_(self.value_head.bias)
        trunk = None if continuous else self.trunk
        self._in_play = InPlay(trunk, self.action_head) if isinstance(trunk, TokenTrunk) else None

    def all_options(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs [N, K, P] and values [N, K] under every option, from the trunk's inputs; P is A, or 2A of vectors."""
        hidden = self.trunk(*parts)
        values = self.value_head(hidden if self.value_trunk is None else self.value_trunk(*parts))
        return self._outputs_of_all(hidden, parts), values if self.num_options == 1 else in_order(values, parts)

    def _outputs_of_all(self, hidden: Tensor, parts: Sequence[Tensor]) -> Tensor:
        outputs = self.action_head(hidden).view(-1, self.num_options, self.num_actions)
        if self.log_std is not None:
            outputs = torch.cat([outputs, self.log_std.expand_as(outputs)], -1)
        return outputs if self.num_options == 1 else in_order(outputs, parts)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs [N, P] and value [N], from the trunk's inputs and the option, int64 [N]."""
        *parts, option = inputs
        outputs, values = self.all_options(*parts)
        value = values[:, 0] if self.num_options == 1 else values.gather(1, option[:, None]).squeeze(1)
        return _of_option(outputs, option), value

    def outputs(self, *inputs: Tensor) -> Tensor:
        """The outputs alone, which are what is played."""
        *parts, option = inputs
        return _of_option(self._outputs_of_all(self.trunk(*parts), parts), option)

    def low_computed(self) -> Computed:
        """What is computed of the running option."""
        return Computed(
            self, self.head.kind, lambda *inputs: self.head.parameters(self.outputs(*inputs)), ("parts", "option")
        )

    def act(self, observed: Observations, clock: Clock) -> Distribution:
        """As the low level of a player: what actions are sampled from under the running option."""
        if self._in_play is None or not self._in_play.takes(len(observed)):
            return self.low_computed()(*observed.inputs, to_tensor(clock.option))
        (tokens, present, *_), option = observed.encoded.parts, clock.option
        if self.num_options > 1:
            option = to_numpy(numbered(to_tensor(option), observed.inputs))
        first = option * self.num_actions
        return Categorical(probabilities(self._in_play(tokens, present), first, self.num_actions))


def _of_option(outputs: Tensor, option: Tensor) -> Tensor:
    """Outputs [N, P] of one of K options, of those of all [N, K, P]."""
    if outputs.shape[1] == 1:
        return outputs[:, 0]
    return outputs.gather(1, option[:, None, None].expand(-1, 1, outputs.shape[2])).squeeze(1)


class HighNetwork(nn.Module):
    """The controller's network with a value head: pi(o | s, previous), beta(s, o) and V(s).

    Args:
        controller: Network to start from; it is trained further in place.
    """

    head: Head = CategoricalHead()

    def __init__(self, controller: ControllerNetwork) -> None:
        super().__init__()
        self.controller = controller
        self.value_head = nn.Linear(controller.width, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Option logits [N, K], not yet masked, and value [N], of what `ControllerNetwork.features` takes."""
        option_logits, hidden = self.controller.scored(*inputs)
        return option_logits, self.value_head(hidden).squeeze(1)


class NetworkHigh:
    """The high level that a controller network plays.

    Args:
        network: The network, shared with its learner.
        masked: Choose among legal options only.
    """

    def __init__(self, network: ControllerNetwork, masked: bool) -> None:
        self.network, self.masked = network, masked

    def high_computed(self) -> Computed:
        """What is computed of the running option, and of what is legal where that counts."""
        names = ("parts", "option", "legal") if self.masked else ("parts", "option")
        return Computed(self.network, Categorical, self._outputs, names)

    def _outputs(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        inputs, legal = (inputs[:-1], inputs[-1]) if self.masked else (inputs, None)
        option_logits, done_logits = self.network(*inputs)
        over = done_logits.gather(1, inputs[-1].clamp(min=0)[:, None]).squeeze(1) > 0
        return over, torch.softmax(mask_logits(option_logits, legal), 1)

    @torch.no_grad()
    def choose(self, observed: Observations, running: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Categorical]:
        """Learned termination of the running option [N], and the next option's distribution [N, K]."""
        legal = (to_tensor(observed.legal),) if self.masked else ()
        over, probs = self._outputs(*observed.inputs, to_tensor(running), *legal)
        return to_numpy(over), Categorical(to_numpy(probs))


def linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    """A last layer that starts orthogonal, with so small outputs, and a bias of zero."""
    layer = nn.Linear(inputs, outputs)
    orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def frozen(network: nn.Module) -> nn.Module:
    """A copy that no optimiser will change: the prior of loss L1."""
    duplicate = copy.deepcopy(network)
    return duplicate.requires_grad_(False)


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
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    def sample(self, obs: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Reparametrised actions [B, A] and their log-probability [B]."""
        mean, log_std = self(obs)
        noise = normal(mean.shape, generator)
        unsquashed = torch.addcmul(mean, log_std.exp(), noise)
        log_prob = (-0.5 * noise.square() - log_std - log_tanh_slope(unsquashed)).sum(-1)
        return torch.tanh(unsquashed), log_prob - 0.5 * math.log(2 * math.pi) * mean.shape[-1]

    def mode(self, obs: Tensor) -> Tensor:
        """The greedy action [B, A]."""
        return torch.tanh(self(obs)[0])


class DeterministicActor(nn.Module):
    """mu(s) (Lillicrap et al., 2016), squashed by tanh.

    Args:
        inputs: Width of the observation.
        actions: A.
        hidden: Widths of the hidden layers.
    """

    def __init__(self, inputs: int, actions: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.net = mlp(inputs, hidden, actions)
        for parameter in self.net[-1].parameters():
            nn.init.uniform_(parameter, -3e-3, 3e-3)  # so that the first actions are near the middle

    def forward(self, obs: Tensor) -> Tensor:
        """Actions [B, A]."""
        return torch.tanh(self.net(obs))

    mode = forward


class TwinCritic(nn.Module):
    """Q1(s, a) and Q2(s, a), each an MLP of its own (Fujimoto et al., 2018), computed together.

    Args:
        inputs: Width of observation and action together.
        hidden: Widths of the hidden layers.
        normed: Normalise what each hidden layer adds up, which bounds the values of actions that were never seen (Ball
            et al., 2023, section 4.2).
    """

    def __init__(self, inputs: int, hidden: tuple[int, ...], normed: bool = False) -> None:
        super().__init__()
        self.normed = normed
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
                hidden = functional.layer_norm(hidden, hidden.shape[-1:]) if self.normed else hidden
                hidden = hidden.relu_()
        return hidden.squeeze(-1)
