"""The student's networks: a low level with one head per option, and a controller with a value beside it."""

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agent.core import Categorical, Clock, Distribution, Observations
from agent.heads import CategoricalHead, GaussianHead, Head
from controller.encoders import Encoder
from controller.network import ControllerNetwork, TrunkConfig, make_trunk, mask_logits
from ground.device import to_numpy, to_tensor

_FIRST_LOG_STD = -0.5  # of actions in [-1, 1], before squashing


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
        nn.init.orthogonal_(self.action_head.weight, 0.01)
        nn.init.orthogonal_(self.value_head.weight, 0.1)
        nn.init.zeros_(self.action_head.bias)
        nn.init.zeros_(self.value_head.bias)

    def all_options(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs [N, K, P] and values [N, K] under every option, from the trunk's inputs; P is A, or 2A of vectors."""
        hidden = self.trunk(*parts)
        outputs = self.action_head(hidden).view(-1, self.num_options, self.num_actions)
        if self.log_std is not None:
            outputs = torch.cat([outputs, self.log_std.expand_as(outputs)], -1)
        return outputs, self.value_head(hidden if self.value_trunk is None else self.value_trunk(*parts))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs [N, P] and value [N], from the trunk's inputs and the option, int64 [N]."""
        *parts, option = inputs
        outputs, values = self.all_options(*parts)
        if self.num_options == 1:
            return outputs[:, 0], values[:, 0]
        heads = option[:, None, None].expand(-1, 1, outputs.shape[2])
        return outputs.gather(1, heads).squeeze(1), values.gather(1, option[:, None]).squeeze(1)


class HighNetwork(nn.Module):
    """The controller's network with a value head: pi(o | s, previous), beta(s, o) and V(s).

    Args:
        controller: Network to start from; it is trained further in place.
    """

    head: Head = CategoricalHead()

    def __init__(self, controller: ControllerNetwork) -> None:
        super().__init__()
        self.controller = controller
        self.value_head = nn.Linear(controller.config.hidden, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Option logits [N, K], not yet masked, and value [N], of what `ControllerNetwork.features` takes."""
        hidden = self.controller.features(*inputs)
        return self.controller.option_head(hidden), self.value_head(hidden).squeeze(1)


class NetworkHigh:
    """The high level that a controller network plays.

    Args:
        network: The network, shared with whoever trains it.
        masked: Choose among legal options only.
    """

    def __init__(self, network: ControllerNetwork, masked: bool) -> None:
        self.network, self.masked = network, masked

    @torch.no_grad()
    def choose(self, observed: Observations, running: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Categorical]:
        """Learned termination of the running option [N], and the next option's distribution [N, K]."""
        option_logits, done_logits = self.network(*observed.inputs, to_tensor(running))
        legal = to_tensor(observed.legal) if self.masked else None
        probs = to_numpy(torch.softmax(mask_logits(option_logits, legal), 1))
        return to_numpy(done_logits)[np.arange(len(running)), running] > 0, Categorical(probs)


class NetworkLow:
    """The low level that a `LowNetwork` plays."""

    def __init__(self, network: LowNetwork) -> None:
        self.network = network

    @torch.no_grad()
    def act(self, observed: Observations, clock: Clock) -> Distribution:
        """Where actions are drawn from."""
        outputs, _ = self.network(*observed.inputs, to_tensor(clock.option))
        return self.network.head.choice(outputs)


def frozen(network: nn.Module) -> nn.Module:
    """A copy that no optimiser will change: the prior of loss L1."""
    duplicate = copy.deepcopy(network)
    return duplicate.requires_grad_(False)
