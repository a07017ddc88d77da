"""HALO's levels as functions of tensors, from what is seen on, so that they can be exported."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from preceptor.agent.halo.policies import NeuralPolicies, Policies
from preceptor.controller.encoders import NUM_TOKENS

if TYPE_CHECKING:
    from preceptor.agent.halo.method import States


class LevelNetwork(nn.Module):
    """Both levels, of restart 0.

    Args:
        states: What policies see of observations; the same is worked out here of tensors.
        policies: The policies.

    Attributes:
        inputs: Names of what is seen, and of the option.
    """

    def __init__(self, states: "States", policies: Policies) -> None:
        super().__init__()
        task = states.task
        self.counted, self.neural = states.counted, isinstance(policies, NeuralPolicies)
        self.is_map = len(task.observation_shape) == 3
        seen = ("cells",) if states.counted else ("tokens" if self.is_map else "obs", "facts")
        self.inputs = (*seen, "option")
        scale = np.array(task.observation_scale, np.float32)
        kept = np.array(getattr(task, "halo_view", range(len(scale))), np.int64)
        columns = states.columns if self.is_map else kept[states.columns]
        self.register_buffer("scale", torch.as_tensor(scale))
        self.register_buffer("columns", torch.as_tensor(columns))
        self.register_buffer("codes", torch.as_tensor(states.codes))
        self.policies: Any = policies
        if not isinstance(policies, NeuralPolicies):
            for name in policies.saved:
                self.register_buffer(name, torch.as_tensor(getattr(policies, name)[0]))

    def next_option(self, *inputs: Tensor) -> tuple[Tensor]:
        """Probabilities of the next option [N, K]."""
        *seen, running = inputs
        if self.neural:
            return (self.policies.next_option(self._features(*seen), running).float(),)
        log_probs = self.get_buffer("log_high")[seen[0], running.clamp(min=0)]
        return (torch.where(running[:, None] < 0, self.get_buffer("log_initial"), log_probs).exp().float(),)

    def action(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the action is sampled from."""
        *seen, option = inputs
        if self.neural:
            found: tuple[Tensor, ...] = self.policies.action(self._features(*seen), option)
            return found
        return (self.get_buffer("log_low")[seen[0], option].exp().float(),)

    def _features(self, seen: Tensor, facts: Tensor) -> Tensor:
        if self.is_map:
            numbers = nn.functional.one_hot(seen.long(), NUM_TOKENS).float().flatten(1)
        else:
            numbers = seen / self.get_buffer("scale")
        told = (facts[:, None] == self.get_buffer("codes")).float()
        return torch.cat([numbers.index_select(1, self.get_buffer("columns")), told], 1)
