"""Soft actor-critic over skills, held to a prior over them: loss L1 with a target divergence (SPiRL).

The actor has each component of the policy propose a skill, and averages their values as the policy weighs them; with
one component that is algorithm 1 of Pertsch et al. (2020).
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from preceptor.agent.data.views import Segments
from preceptor.agent.losses import PriorWeight, prior_regularised
from preceptor.agent.methods.sac import Transitions
from preceptor.agent.mixtures import Mixture, MixtureNetwork
from preceptor.agent.networks import TwinCritic
from preceptor.agent.resumable import Resumable, places
from preceptor.controller.encoders import Encoder
from preceptor.ground.device import to_device, to_tensor
from preceptor.ground.optim import FusedAdam, polyak

_LARGEST = 100.0  # of a divergence in a target; in the actor's loss a bound would have no gradient

Divergence = Callable[[Tensor, Mixture], Tensor]


class SkillLearner(Resumable):
    """Learns a policy over skills and twin critics from SMDP transitions.

    Args:
        inputs: Width of the encoded observation.
        policy: The policy to go on from.
        divergence: KL [B] in nats of the policy's mixtures from the prior, given encoded observations [B, inputs].
        hidden: Widths of the critics.
        lr: Learning rate of Adam.
        tau: Share by which the target critics follow.
        normed: Whether the critics have layer normalisation.
        weight: lambda of loss L1, and the divergence that it is tuned to.
        seed: Of the critics' weights and of the noise.

    Attributes:
        surprise: float [B], by how much skills of the last batch turned out better than they were valued.
    """

    saved = places(
        *("policy", "critic", "target", "generator", "weight"), optimizers=("policy_optimizer", "critic_optimizer")
    )

    def __init__(
        self,
        inputs: int,
        policy: MixtureNetwork,
        divergence: Divergence,
        *,
        hidden: tuple[int, ...],
        lr: float,
        tau: float,
        normed: bool = False,
        weight: PriorWeight,
        seed: int,
    ) -> None:
        self.policy, self._divergence, self._tau, self.weight = policy, divergence, tau, weight
        self.surprise = torch.zeros(0)
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.critic = to_device(TwinCritic(inputs + policy.dims, hidden, normed))
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.policy_optimizer = FusedAdam(policy.parameters(), lr)
        self.critic_optimizer = FusedAdam(self.critic.parameters(), lr)

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """One gradient step of critics and policy, and one of lambda; `batch.action` are skills [B, D]."""
        weight = self.weight(0)
        with torch.no_grad():
            mixture = self.policy(batch.next_obs)
            held = self._divergence(batch.next_obs, mixture).clamp(max=_LARGEST)
            ahead = self.target(batch.next_obs, mixture.sample(self.generator)).amin(0) - weight * held
            wanted = torch.addcmul(batch.reward, batch.discount, ahead)
        q = self.critic(batch.obs, batch.action)
        self.surprise = wanted - q.detach().amin(0)
        critic_loss = 0.5 * (q - wanted).square().mean(1).sum()
        self.critic_optimizer.minimize(critic_loss)
        mixture = self.policy(batch.obs)
        divergence = self._divergence(batch.obs, mixture)
        value = self._value(batch.obs, mixture)
        self.policy_optimizer.minimize(prior_regularised(-value, divergence, weight))
        strayed = divergence.detach().mean()
        self.weight.observe(float(strayed))
        polyak(self.target, self.critic, self._tau)
        return {"critic_loss": critic_loss.detach(), "q": q.detach().mean(), "divergence": strayed}

    def _value(self, obs: Tensor, mixture: Mixture) -> Tensor:
        """sum_k pi_k min Q(s, z_k) [B], a skill z_k of each component."""
        skills = mixture.of_each(self.generator)  # [B, K, D]
        count, components, _ = skills.shape
        told = obs[:, None].expand(-1, components, -1).flatten(0, 1)
        each: Tensor = self.critic(told, skills.flatten(0, 1)).amin(0).view(count, components)
        return (mixture.log_weight.exp() * each).sum(1)


def transitions(found: Segments, encoder: Encoder, gamma: float) -> Transitions:
    """Skills that were played, with what came of them: a time limit bootstraps, a true end does not."""
    obs, after = (to_tensor(encoder(each).parts[0]) for each in (found.obs[:, 0], found.final))
    discount = np.where(found.terminated, 0.0, gamma).astype(np.float32)
    reward = found.reward.sum(1, dtype=np.float32)
    return Transitions(obs, to_tensor(found.command), to_tensor(reward), after, to_tensor(discount))
