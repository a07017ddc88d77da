"""Twin delayed deep deterministic policy gradient (Fujimoto et al., 2018), as HIRO uses it at both levels."""

import copy
from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from torch import Tensor
from torch.nn import functional

from preceptor.agent.computed import Computed
from preceptor.agent.distributions import ClippedNormal, Distribution
from preceptor.agent.methods.sac import ActorCriticConfig, Transitions
from preceptor.agent.networks import DeterministicActor, TwinCritic
from preceptor.agent.recorded import RecordedLearner
from preceptor.agent.resumable import places
from preceptor.ground.device import normal, to_device
from preceptor.ground.optim import FusedAdam, fast_precision, polyak, products_in
from preceptor.ground.ranges import Count, NotNegative, Positive


@dataclass(frozen=True)
class TD3Config(ActorCriticConfig):
    """One TD3 learner (Fujimoto et al., 2018). Noise is in the unit of the actions here, [-1, 1]."""

    actor_lr: Positive = 3e-4
    """Learning rate of Adam, of the actor."""
    actor_every: Count = 2
    """Critic steps per step of actor and targets (section 5.2)."""
    noise: NotNegative = 0.1
    """Deviation of the Gaussian noise on what is played."""
    target_noise: NotNegative = 0.2
    """Deviation of the noise on the target's action (section 5.3)."""
    target_clip: NotNegative = 0.5
    """Bound of that noise."""
    huber: Positive | None = None
    """Where the critics' error turns linear; None: squared everywhere."""
    kind: tyro.conf.Suppress[Literal["td3"]] = "td3"


class TD3(RecordedLearner):
    """Learns a deterministic actor and twin critics from transitions of any policy.

    Args:
        inputs: Width of the observation.
        actions: A.
        config: Hyper-parameters.
        seed: Of the first weights and of the noise.
    """

    saved = places(
        *("generator", "updates"),
        modules=("actor", "critic", "target_actor", "target_critic"),
        optimizers=("actor_optimizer", "critic_optimizer"),
    )

    def __init__(self, inputs: int, actions: int, config: TD3Config, seed: int) -> None:
        self.config = config
        self._precision = fast_precision(config.hidden, config.precision)
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.actor = to_device(DeterministicActor(inputs, actions, config.hidden))
            self.critic = to_device(TwinCritic(inputs + actions, config.hidden))
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.actor_optimizer = FusedAdam(self.actor.parameters(), config.actor_lr)
        self.critic_optimizer = FusedAdam(self.critic.parameters(), config.lr)
        self.updates = 0
        super().__init__()

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
        """Minus the first critic's value of the actor's action (loss L1 without entropy), and the batch's prior."""
        action = self.actor(batch.obs)
        value = self.critic(batch.obs, action)[0]
        loss = -value.mean()
        if batch.prior is not None:
            loss = batch.prior.regularised(loss, batch.obs, action, value, self.critic)
        return loss, {"actor_loss": loss.detach()}

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """One gradient step of the critics, and every so often one of the actor and the targets."""
        self.updates += 1
        return self._repeated(batch, self.updates % self.config.actor_every == 0)

    def _step(self, batch: Transitions, actor: bool) -> dict[str, Tensor]:
        with products_in(self._precision):
            loss, info = self.critic_loss(batch)
            self.critic_optimizer.minimize(loss)
            if actor:
                loss, actor_info = self.actor_loss(batch)
                self.actor_optimizer.minimize(loss)
                polyak(self.target_critic, self.critic, self.config.tau)
                polyak(self.target_actor, self.actor, self.config.tau)
                info |= actor_info
            return info

    def computed(self) -> Computed:
        """What is computed of observations [N, inputs]."""
        return Computed(self.actor, ClippedNormal, settings={"std": self.config.noise})

    def act(self, obs: Tensor) -> Distribution:
        """What actions for observations [N, inputs] are sampled from: the actor's with exploration noise."""
        return self.computed()(obs)

    @torch.no_grad()
    def mode(self, obs: Tensor) -> Tensor:
        """The actor's actions [B, A], without noise."""
        actions: Tensor = self.actor(obs)
        return actions
