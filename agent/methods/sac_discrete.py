"""Soft actor-critic over named options (Christodoulou, 2019): expectations over the K options are exact sums.

Loss L1 is here to the letter: the values of the options, an entropy bonus, and lambda KL(policy || prior).
"""

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from preceptor.agent.computed import Computed
from preceptor.agent.distributions import Categorical
from preceptor.agent.losses import prior_regularised
from preceptor.agent.networks import linear
from preceptor.agent.recorded import RecordedLearner
from preceptor.agent.resumable import places
from preceptor.controller.encoders import Encoder
from preceptor.controller.network import TrunkConfig, in_order, make_trunk, mask_logits
from preceptor.ground.device import to_device
from preceptor.ground.optim import FusedAdam, polyak
from preceptor.ground.ranges import Count, NotNegative, Positive, Share


@dataclass(frozen=True)
class DiscreteSACConfig:
    """One discrete SAC learner (Christodoulou, 2019)."""

    lr: Positive = 1e-3
    """Learning rate of Adam, of actor and critics."""
    gamma: Share = 0.99
    """Discount per environment step."""
    tau: Share = 0.01
    """Share by which the target critics follow."""
    batch: Count = 128
    """Transitions per gradient step."""
    temperature: NotNegative = 0.02
    """Weight of the entropy, in units of the reward."""
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    """Size of the actor and of each critic."""


@dataclass(frozen=True)
class OptionTransitions:
    """B choices of an option with what followed.

    Attributes:
        inputs: What the trunks take of the first observations, each [B, ...]; `next_inputs` of the last ones.
        legal: bool [B, K], options that could be chosen; `next_legal` at the last observations.
        option: int64 [B].
        reward: float32 [B], summed with its discount.
        discount: float32 [B], of the value afterwards: gamma to the number of steps, zero where the episode terminated.
        prior: float32 [B, K], the prior's distribution, or None.
        prior_weight: lambda of the divergence from it, above zero.
    """

    inputs: tuple[Tensor, ...]
    next_inputs: tuple[Tensor, ...]
    legal: Tensor
    next_legal: Tensor
    option: Tensor
    reward: Tensor
    discount: Tensor
    prior: Tensor | None = None
    prior_weight: float | Tensor = 0.0


class OptionNetwork(nn.Module):
    """One number per option, from observations.

    Args:
        encoder: What its inputs come from.
        num_options: K.
        config: Widths of the trunk.
    """

    def __init__(self, encoder: Encoder, num_options: int, config: TrunkConfig) -> None:
        super().__init__()
        self.trunk = make_trunk(encoder, 0, config)
        self.head = linear(config.hidden, num_options, 0.01)

    def forward(self, *parts: Tensor) -> Tensor:
        """[B, K]."""
        return in_order(self.head(self.trunk(*parts)), parts)


class DiscreteSAC(RecordedLearner):
    """Learns a distribution over options and their values from transitions of any policy.

    Args:
        encoder: What the networks' inputs come from.
        num_options: K.
        config: Hyper-parameters.
        seed: Of the first weights.
    """

    saved = places("actor", "critics", "targets", "actor_optimizer", "critic_optimizer")

    def __init__(self, encoder: Encoder, num_options: int, config: DiscreteSACConfig, seed: int) -> None:
        self.config = config
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.actor, *critics = (to_device(OptionNetwork(encoder, num_options, config.trunk)) for _ in range(3))
        self.critics = nn.ModuleList(critics)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.actor_optimizer = FusedAdam(self.actor.parameters(), config.lr)
        self.critic_optimizer = FusedAdam(self.critics.parameters(), config.lr)
        super().__init__()

    def critic_loss(self, batch: OptionTransitions) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared soft Bellman error of both critics at the options that ran."""
        with torch.no_grad():
            log_probs = torch.log_softmax(mask_logits(self.actor(*batch.next_inputs), batch.next_legal), 1)
            value = torch.minimum(*(target(*batch.next_inputs) for target in self.targets))
            soft_value = (log_probs.exp() * (value - self.config.temperature * log_probs)).sum(1)
            wanted = torch.addcmul(batch.reward, batch.discount, soft_value)
        q = torch.stack([critic(*batch.inputs).gather(1, batch.option[:, None]).squeeze(1) for critic in self.critics])
        loss = 0.5 * (q - wanted).square().mean(1).sum()
        return loss, {"critic_loss": loss.detach(), "q": q.detach().mean()}

    def actor_loss(self, batch: OptionTransitions) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss L1: minus the options' values, minus the entropy, plus lambda KL(policy || prior); all exact."""
        with torch.no_grad():
            value = torch.minimum(*(critic(*batch.inputs) for critic in self.critics))
        log_probs = torch.log_softmax(mask_logits(self.actor(*batch.inputs), batch.legal), 1)
        probs = log_probs.exp()
        loss = (probs * (self.config.temperature * log_probs - value)).sum(1).mean()
        info = {"entropy": -(probs * log_probs).sum(1).mean().detach()}
        if batch.prior is not None:
            divergence = (probs * (log_probs - batch.prior.clamp_min(1e-6).log())).sum(1)
            loss = prior_regularised(loss, divergence, batch.prior_weight)
            info["prior_kl"] = divergence.mean().detach()
        return loss, info | {"actor_loss": loss.detach()}

    def update(self, batch: OptionTransitions) -> dict[str, Tensor]:
        """One gradient step of critics and actor."""
        return self._repeated(batch)

    def _step(self, batch: OptionTransitions) -> dict[str, Tensor]:
        loss, info = self.critic_loss(batch)
        self.critic_optimizer.minimize(loss)
        loss, actor_info = self.actor_loss(batch)
        self.actor_optimizer.minimize(loss)
        polyak(self.targets, self.critics, self.config.tau)
        return info | actor_info

    def computed(self) -> Computed:
        """What is computed of the trunk's inputs, and of the options that are legal [N, K]."""
        return Computed(
            self.actor,
            Categorical,
            lambda *seen: (torch.softmax(mask_logits(self.actor(*seen[:-1]), seen[-1]), 1),),
            ("parts", "legal"),
        )
