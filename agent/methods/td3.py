"""Twin delayed deep deterministic policy gradient (Fujimoto et al., 2018), as HIRO uses it at both levels."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from agent.continuous import (
    ClippedNormal,
    DeterministicActor,
    FusedAdam,
    TwinCritic,
    fast_precision,
    polyak,
    products_in,
)
from agent.data.views import Transitions, prior_penalty
from ground.device import normal, to_device, to_numpy


@dataclass(frozen=True)
class TD3Config:
    """Hyper-parameters of one TD3 learner. Noise is in the unit of the actions here, [-1, 1]."""

    hidden: tuple[int, ...] = (256, 256)  # widths of actor and critics
    actor_learning_rate: float = 3e-4  # Adam's
    critic_learning_rate: float = 3e-4  # Adam's
    gamma: float = 0.99  # discount per transition
    tau: float = 0.005  # share by which the targets follow, at each step of the actor
    batch: int = 256  # transitions per gradient step
    actor_every: int = 2  # critic steps per step of actor and targets
    exploration: float = 0.1  # deviation of the Gaussian noise on what is played
    target_noise: float = 0.2  # deviation of the noise on the target's action
    target_clip: float = 0.5  # bound of that noise
    huber: float | None = None  # where the critics' error turns linear; None: squared everywhere
    precision: str | None = None  # of products of matrices, float32 or bfloat16; None: the faster for these widths


class TD3:
    """Learns a deterministic actor and twin critics from transitions, whoever made them.

    Args:
        inputs: Width of the observation.
        actions: A.
        config: Hyper-parameters.
        seed: Of the first weights and of the noise.
    """

    def __init__(self, inputs: int, actions: int, config: TD3Config, seed: int) -> None:
        self.config = config
        self._precision = config.precision or fast_precision(config.hidden)
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.actor = to_device(DeterministicActor(inputs, actions, config.hidden))
            self.critic = to_device(TwinCritic(inputs + actions, config.hidden))
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.actor_optimizer = FusedAdam(self.actor.parameters(), config.actor_learning_rate)
        self.critic_optimizer = FusedAdam(self.critic.parameters(), config.critic_learning_rate)
        self.updates = 0

    def critic_loss(self, batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        """Bellman error of both critics against the smaller target, its action smoothed by clipped noise."""
        config = self.config
        with torch.no_grad():
            action = self.target_actor(batch.next_obs)
            noise = config.target_noise * normal(action.shape, self.generator)
            action = (action + noise.clamp_(-config.target_clip, config.target_clip)).clamp_(-1.0, 1.0)
            target = torch.addcmul(batch.reward, batch.discount, self.target_critic(batch.next_obs, action).amin(0))
        q = self.critic(batch.obs, batch.action)
        if config.huber is None:
            loss = (q - target).square().mean(1).sum()
        else:
            loss = functional.huber_loss(q, target.expand_as(q), reduction="none", delta=config.huber).mean(1).sum()
        return loss, {"critic_loss": loss.detach(), "q": q.detach().mean()}

    def actor_loss(self, batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus the first critic's value of the actor's action; and the prior's pull."""
        action = self.actor(batch.obs)
        value = self.critic(batch.obs, action)[0]
        loss = -value.mean() + prior_penalty(batch, action, value, self.critic)
        return loss, {"actor_loss": loss.detach()}

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """One gradient step of the critics, and every so often one of the actor and the targets."""
        with products_in(self._precision):
            return self._update(batch)

    def _update(self, batch: Transitions) -> dict[str, Tensor]:
        self.updates += 1
        loss, info = self.critic_loss(batch)
        self.critic_optimizer.minimize(loss)
        if self.updates % self.config.actor_every == 0:
            loss, actor_info = self.actor_loss(batch)
            self.actor_optimizer.minimize(loss)
            polyak(self.target_critic, self.critic, self.config.tau)
            polyak(self.target_actor, self.actor, self.config.tau)
            info |= actor_info
        return info

    @torch.no_grad()
    def act(self, obs: Tensor) -> ClippedNormal:
        """Where actions for observations [N, inputs] are drawn from: the actor's with exploration noise."""
        return ClippedNormal(to_numpy(self.actor(obs)), self.config.exploration)

    @torch.no_grad()
    def score(self, obs: Tensor, action: Tensor, by_distance: bool = True) -> Tensor:
        """Minus half the squared distance [B] of actions [B, A] from the policy's, for relabelling (HIRO, eq. 5).

        By the log-probability it would be the same goal: the exploration has one deviation.
        """
        return -0.5 * (action - self.actor(obs)).square().sum(-1)

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers, noise and the number of updates, for an exact resume."""
        return {
            "modules": [module.state_dict() for module in self._modules()],
            "optimizers": [self.actor_optimizer.state_dict(), self.critic_optimizer.state_dict()],
            "generator": self.generator.get_state(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for module, saved in zip(self._modules(), state["modules"], strict=True):
            module.load_state_dict(saved)
        for optimizer, saved in zip((self.actor_optimizer, self.critic_optimizer), state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.generator.set_state(state["generator"])
        self.updates = state["updates"]

    def _modules(self) -> tuple[torch.nn.Module, ...]:
        return self.actor, self.critic, self.target_actor, self.target_critic
