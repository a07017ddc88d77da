"""Proximal policy optimisation (Schulman et al., 2017) for one policy head: the low level's, or the high level's."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agent.losses import LossWeights, surrogate_loss
from controller.network import mask_logits


@dataclass(frozen=True)
class PPOConfig:
    """Hyper-parameters of one PPO learner."""

    learning_rate: float = 5e-4  # Adam's, falling linearly to zero over the run
    gamma: float = 0.99  # discount per environment step
    lam: float = 0.95  # GAE's decay (Schulman et al., 2016)
    clip: float = 0.2  # trust region on the ratio
    epochs: int = 4  # passes over a rollout
    minibatch: int = 256  # samples per gradient step
    entropy: float = 0.01  # weight of the entropy bonus
    value: float = 0.5  # weight of the value error
    max_grad_norm: float = 0.5  # gradient clipping


@dataclass(frozen=True)
class PolicyBatch:
    """On-policy samples, B of them.

    Attributes:
        inputs: What the network takes, each [B, ...]: the trunk's inputs, then the option of a low level or the
            previous option of a high one.
        action: int64 [B].
        behaviour_logprob: float32 [B].
        advantage: float32 [B].
        returns: float32 [B].
        legal: bool [B, C], or None where everything is allowed.
    """

    inputs: tuple[Tensor, ...]
    action: Tensor
    behaviour_logprob: Tensor
    advantage: Tensor
    returns: Tensor
    legal: Tensor | None = None

    def __len__(self) -> int:
        return len(self.action)

    def select(self, rows: Tensor) -> "PolicyBatch":
        """The samples of `rows`, in that order."""
        return self._mapped(lambda column: column.index_select(0, rows))

    def split(self, count: int) -> Iterator["PolicyBatch"]:
        """`count` parts of nearly equal size, as views."""
        size, larger = divmod(len(self), count)
        edges = [part * size + min(part, larger) for part in range(count + 1)]
        for start, end in pairwise(edges):
            yield self._mapped(itemgetter(slice(start, end)))

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "PolicyBatch":
        legal = None if self.legal is None else change(self.legal)
        return PolicyBatch(
            tuple(change(column) for column in self.inputs),
            change(self.action),
            change(self.behaviour_logprob),
            change(self.advantage),
            change(self.returns),
            legal,
        )


class PPO:
    """Improves a network that maps a batch's inputs to (logits [B, C], value [B]).

    Args:
        network: Trained in place.
        config: Hyper-parameters.
        rng: Shuffles minibatches.
    """

    def __init__(self, network: nn.Module, config: PPOConfig, rng: np.random.Generator) -> None:
        self.network, self.config, self.rng = network, config, rng
        self.parameters = list(network.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, config.learning_rate, eps=1e-5, fused=True)

    def loss(
        self, batch: PolicyBatch, prior: nn.Module | None, prior_weight: float, policy: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss L1 on a minibatch; with `policy` false, the value error alone."""
        logits, value = self.network(*batch.inputs)
        if not policy:
            error = 0.5 * (value - batch.returns).square().mean()
            return error, {"value_loss": error.detach()}
        prior_logits = None
        if prior is not None and prior_weight > 0:
            with torch.no_grad():
                prior_logits = mask_logits(prior(*batch.inputs)[0], batch.legal)
        weights = LossWeights(self.config.clip, self.config.value, self.config.entropy, prior_weight)
        return surrogate_loss(
            mask_logits(logits, batch.legal),
            value,
            batch.action,
            batch.behaviour_logprob,
            batch.advantage,
            batch.returns,
            weights,
            prior_logits,
        )

    def update(
        self,
        batch: PolicyBatch,
        prior: nn.Module | None = None,
        prior_weight: float = 0.0,
        policy: bool = True,
        remaining: float = 1.0,
    ) -> dict[str, float]:
        """Several epochs of minibatches over one rollout; means of the loss terms over the last epoch.

        Args:
            batch: The rollout.
            prior: Network that the policy is held to, with `prior_weight` as lambda of loss L1.
            prior_weight: lambda.
            policy: Whether to train the policy, or the value alone.
            remaining: Share of the run that is left; the learning rate falls with it.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * remaining
        count = max(1, round(len(batch) / self.config.minibatch))
        terms: list[dict[str, Tensor]] = []
        for _ in range(self.config.epochs):
            order = torch.from_numpy(self.rng.permutation(len(batch)))
            terms = []
            for minibatch in batch.select(order).split(count):
                loss, info = self.loss(minibatch, prior, prior_weight, policy)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
                self.optimizer.step()
                terms.append(info)
        return {name: float(torch.stack([info[name] for info in terms]).mean()) for name in terms[0]}

    def state_dict(self) -> dict[str, Any]:
        """Network, optimiser and shuffling state, for an exact resume."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.bit_generator.state = state["rng"]


def normalised(advantage: np.ndarray) -> np.ndarray:
    """Advantages with zero mean and unit deviation over the rollout."""
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)
