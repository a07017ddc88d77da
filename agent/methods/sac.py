"""Soft actor-critic (Haarnoja et al., 2018) for one policy over a box: flat, low or high level."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from preceptor.agent.computed import Computed
from preceptor.agent.distributions import Distribution, SquashedNormal
from preceptor.agent.losses import PriorActions, prior_regularised
from preceptor.agent.networks import GaussianActor, TwinCritic
from preceptor.agent.recorded import RecordedLearner
from preceptor.agent.resumable import places
from preceptor.agent.sac_by_hand import ByHand, fits
from preceptor.ground.device import device, to_device
from preceptor.ground.optim import FusedAdam, fast_precision, polyak, products_in
from preceptor.ground.ranges import Count, Positive, Share, Widths


@dataclass(frozen=True)
class ActorCriticConfig:
    """What SAC and TD3 share."""

    hidden: Widths = (256, 256)
    """Widths of actor and critics."""
    lr: Positive = 3e-4
    """Learning rate of Adam, of all that has none of its own."""
    gamma: Share = 0.99
    """Discount per transition."""
    tau: Share = 0.005
    """Share by which the targets follow, whenever the actor learns."""
    batch: Count = 256
    """Transitions per gradient step."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Of products of matrices; None takes the faster for these widths."""


@dataclass(frozen=True)
class SACConfig(ActorCriticConfig):
    """One SAC learner (Haarnoja et al., 2018)."""

    temperature: Positive | None = None
    """Weight of the entropy; None learns it (section 5)."""
    target_entropy: float | None = None
    """Nats that a learned temperature holds; minus the number of actions if None."""
    normed: bool = False
    """Whether the critics have layer normalisation, which keeps them from overestimating (Ball et al., 2023)."""
    kind: tyro.conf.Suppress[Literal["sac"]] = "sac"


@dataclass(frozen=True)
class Transitions:
    """B transitions for an off-policy learner, float32. Actions are in [-1, 1].

    Attributes:
        obs: [B, inputs], what the actor saw.
        action: [B, A].
        reward: [B], summed with its discount where a transition spans several steps.
        next_obs: [B, inputs], what the actor would see next; the episode's own last observation at its end.
        discount: [B], of the value there: gamma to the number of steps, and zero where the episode terminated.
        prior: What a prior would do, or None.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    discount: Tensor
    prior: PriorActions | None = None


class SAC(RecordedLearner):
    """Learns an actor and twin critics from transitions of any policy.

    Args:
        inputs: Width of the observation.
        actions: A.
        config: Hyper-parameters.
        seed: Of the first weights and of the noise.
        actor: Takes the place of a new one: gives mean and log-deviation, `sample` and `mode` as `GaussianActor`.
    """

    saved = places(
        *("log_temperature", "generator"),
        modules=("actor", "critic", "target"),
        optimizers=("actor_optimizer", "critic_optimizer", "temperature_optimizer"),
    )

    def __init__(self, inputs: int, actions: int, config: SACConfig, seed: int, actor: Any = None) -> None:
        self.config = config
        self._precision = fast_precision(config.hidden, config.precision)
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.actor = actor or to_device(GaussianActor(inputs, actions, config.hidden))
            self.critic = to_device(TwinCritic(inputs + actions, config.hidden, config.normed))
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        temperature = 1.0 if config.temperature is None else float(config.temperature)
        self.log_temperature = torch.tensor(temperature, device=device()).log()
        self.log_temperature.requires_grad_(config.temperature is None)
        self._target_entropy = config.target_entropy if config.target_entropy is not None else -float(actions)
        self.actor_optimizer = FusedAdam((p for p in self.actor.parameters() if p.requires_grad), config.lr)
        self.critic_optimizer = FusedAdam(self.critic.parameters(), config.lr)
        self.temperature_optimizer = FusedAdam([self.log_temperature], config.lr)
        self._by_hand: ByHand | None = None
        super().__init__()

    def critic_loss(self, batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared soft Bellman error of both critics; `batch.discount` is zero where an episode terminated."""
        with torch.no_grad():
            action, log_prob = self.actor.sample(batch.next_obs, self.generator)
            soft_value = self.target(batch.next_obs, action).amin(0) - self.log_temperature.exp() * log_prob
            target = torch.addcmul(batch.reward, batch.discount, soft_value)
        q = self.critic(batch.obs, batch.action)
        loss = 0.5 * (q - target).square().mean(1).sum()
        return loss, {"critic_loss": loss.detach(), "q": q.detach().mean()}

    def actor_loss(self, batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss L1: minus the smaller value, a uniform prior weighted by the temperature, and the batch's prior."""
        action, log_prob = self.actor.sample(batch.obs, self.generator)
        value = self.critic(batch.obs, action).amin(0)
        loss = prior_regularised(-value, log_prob, self.log_temperature.detach().exp())
        if batch.prior is not None:
            loss = batch.prior.regularised(loss, batch.obs, action, value, self.critic)
        return loss, {"actor_loss": loss.detach(), "entropy": -log_prob.detach().mean()}

    def critic_gradients(
        self, batch: Transitions, by_hand: ByHand | None = None
    ) -> tuple[Sequence[Tensor], dict[str, Tensor]]:
        """The gradient of `critic_loss` in the critics' parameters, and the figures that the loss reports.

        It is worked out `by_hand`, which overwrites it at the next call, or by autograd.
        """
        if by_hand is not None:
            return by_hand.critics(batch, self._temperature(), self.generator)
        loss, info = self.critic_loss(batch)
        return torch.autograd.grad(loss, self.critic_optimizer.parameters), info

    def actor_gradients(
        self, batch: Transitions, by_hand: ByHand | None = None
    ) -> tuple[Sequence[Tensor], dict[str, Tensor]]:
        """The gradient of `actor_loss` in those of the actor's parameters that learn; else as `critic_gradients`."""
        if by_hand is not None:
            return by_hand.actor(batch, self._temperature(), self.generator)
        loss, info = self.actor_loss(batch)
        return torch.autograd.grad(loss, self.actor_optimizer.parameters), info

    def by_hand(self, batch: Transitions) -> ByHand | None:
        """What works gradients out by hand, for the networks as they are now and this batch, where something does."""
        networks = self.actor, self.critic, self.target
        if not self._plain:
            return None
        if self._by_hand is None or not self._by_hand.takes(networks, batch):
            learning = self.actor_optimizer.parameters + self.critic_optimizer.parameters
            fit = fits(self.actor, self.critic, learning, batch)
            self._by_hand = ByHand(*networks, len(batch.obs)) if fit else None
        return self._by_hand

    @property
    def _plain(self) -> bool:
        """Whether losses are those of this class."""
        kind = type(self)
        return kind.critic_loss is SAC.critic_loss and kind.actor_loss is SAC.actor_loss

    def __getstate__(self) -> dict[str, Any]:
        """What is copied: all but `_by_hand`, whose arrays are of these networks' memory. A copy makes its own."""
        return self.__dict__ | {"_by_hand": None}

    def _temperature(self) -> float:
        return float(self.log_temperature.detach().exp())

    def temperature_gradient(self, entropy: Tensor) -> Tensor:
        """The gradient of the temperature's loss in `log_temperature`: the policy's entropy minus the target entropy.

        So descent raises the temperature of a policy with less entropy than the target, and lowers that of others.
        """
        return entropy - self._target_entropy

    def update(self, batch: Transitions, actor: bool = True) -> dict[str, Tensor]:
        """One gradient step of critics, actor and temperature; of the critics alone if so said."""
        recorded = self._plain and isinstance(self.actor, GaussianActor)
        return (self._repeated if recorded else self._step)(batch, actor)

    def _step(self, batch: Transitions, actor: bool) -> dict[str, Tensor]:
        with products_in(self._precision):
            by_hand = self.by_hand(batch)
            gradients, info = self.critic_gradients(batch, by_hand)
            self.critic_optimizer.follow(gradients)
            if actor:
                gradients, actor_info = self.actor_gradients(batch, by_hand)
                self.actor_optimizer.follow(gradients)
                if self.log_temperature.requires_grad:
                    self.temperature_optimizer.follow([self.temperature_gradient(actor_info["entropy"])])
                info |= actor_info | {"temperature": self.log_temperature.detach().exp()}
            polyak(self.target, self.critic, self.config.tau)
            return info

    def computed(self) -> Computed:
        """What is computed of observations [N, inputs]."""
        return Computed(self.actor, SquashedNormal)

    def act(self, obs: Tensor) -> Distribution:
        """What actions for observations [N, inputs] are sampled from."""
        return self.computed()(obs)

    @torch.no_grad()
    def mode(self, obs: Tensor) -> Tensor:
        """The most probable actions [B, A]."""
        return self.actor.mode(obs)
