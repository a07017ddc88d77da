"""Soft actor-critic (Haarnoja et al., 2018) for one policy over a box: flat, low or high level."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agent.continuous import FusedAdam, GaussianActor, SquashedNormal, TwinCritic, fast_precision, polyak, products_in
from agent.data.views import Transitions, prior_penalty
from ground.device import device, to_device, to_numpy


@dataclass(frozen=True)
class SACConfig:
    """Hyper-parameters of one SAC learner."""

    hidden: tuple[int, ...] = (256, 256)  # widths of actor and critics
    learning_rate: float = 3e-4  # Adam's, of actor, critics and temperature
    gamma: float = 0.99  # discount per transition
    tau: float = 0.005  # share by which the target critics follow
    batch: int = 256  # transitions per gradient step
    temperature: float | None = None  # weight of the entropy; None learns it
    target_entropy: float | None = None  # nats that a learned temperature holds; minus the number of actions if None
    precision: str | None = None  # of products of matrices, float32 or bfloat16; None: the faster for these widths


class SAC:
    """Learns an actor and twin critics from transitions, whoever made them.

    Args:
        inputs: Width of the observation.
        actions: A.
        config: Hyper-parameters.
        seed: Of the first weights and of the noise.
    """

    def __init__(self, inputs: int, actions: int, config: SACConfig, seed: int) -> None:
        self.config = config
        self._precision = config.precision or fast_precision(config.hidden)
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.actor = to_device(GaussianActor(inputs, actions, config.hidden))
            self.critic = to_device(TwinCritic(inputs + actions, config.hidden))
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        temperature = 1.0 if config.temperature is None else float(config.temperature)
        self.log_temperature = torch.tensor(temperature, device=device()).log()
        self.log_temperature.requires_grad_(config.temperature is None)
        self._target_entropy = config.target_entropy if config.target_entropy is not None else -float(actions)
        self.actor_optimizer = FusedAdam(self.actor.parameters(), config.learning_rate)
        self.critic_optimizer = FusedAdam(self.critic.parameters(), config.learning_rate)
        self.temperature_optimizer = FusedAdam([self.log_temperature], config.learning_rate)

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
        """Temperature times log-probability minus the smaller value (loss L1, uniform prior), and the prior's pull."""
        action, log_prob = self.actor.sample(batch.obs, self.generator)
        value = self.critic(batch.obs, action).amin(0)
        loss = (self.log_temperature.detach().exp() * log_prob - value).mean() + prior_penalty(
            batch, action, value, self.critic
        )
        return loss, {"actor_loss": loss.detach(), "entropy": -log_prob.detach().mean()}

    def temperature_loss(self, entropy: Tensor) -> Tensor:
        """Raises the temperature where the policy has less entropy than the target, and lowers it where it has more."""
        return self.log_temperature * (entropy - self._target_entropy)

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """One gradient step of critics, actor and temperature."""
        with products_in(self._precision):
            return self._update(batch)

    def _update(self, batch: Transitions) -> dict[str, Tensor]:
        loss, info = self.critic_loss(batch)
        self.critic_optimizer.minimize(loss)
        loss, actor_info = self.actor_loss(batch)
        self.actor_optimizer.minimize(loss)
        if self.log_temperature.requires_grad:
            self.temperature_optimizer.minimize(self.temperature_loss(actor_info["entropy"]))
        polyak(self.target, self.critic, self.config.tau)
        return info | actor_info | {"temperature": self.log_temperature.detach().exp()}

    @torch.no_grad()
    def act(self, obs: Tensor) -> SquashedNormal:
        """Where actions for observations [N, inputs] are drawn from."""
        mean, log_std = self.actor(obs)
        return SquashedNormal(to_numpy(mean), to_numpy(log_std))

    @torch.no_grad()
    def score(self, obs: Tensor, action: Tensor, by_distance: bool = True) -> Tensor:
        """How well the current policy explains actions [B, A], [B]: for relabelling.

        Minus half the squared distance from the policy's mode, as HIRO has it; or the log-probability, which prefers
        goals under which the policy is uncertain.
        """
        if by_distance:
            return -0.5 * (action - self.actor.mode(obs)).square().sum(-1)
        return self.actor.log_prob(obs, action)

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers and noise, for an exact resume."""
        modules = (self.actor, self.critic, self.target)
        optimizers = (self.actor_optimizer, self.critic_optimizer, self.temperature_optimizer)
        return {
            "modules": [module.state_dict() for module in modules],
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "log_temperature": self.log_temperature.detach(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for module, saved in zip((self.actor, self.critic, self.target), state["modules"], strict=True):
            module.load_state_dict(saved)
        optimizers = (self.actor_optimizer, self.critic_optimizer, self.temperature_optimizer)
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        with torch.no_grad():
            self.log_temperature.copy_(state["log_temperature"])
        self.generator.set_state(state["generator"])
