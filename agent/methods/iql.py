"""Implicit Q-learning (Kostrikov et al., 2022) over chunks of k actions: offline reinforcement learning.

V is an expectile of Q over the actions of the data, Q regresses on V of the state after the chunk, and the policy is
cloned with weights exp(beta (Q - V)): loss L2 with w from the advantage.
"""

import copy
from dataclasses import dataclass

import numpy as np
import torch

from preceptor.agent.chunks import ChunkValue, chunk_vectors
from preceptor.agent.data.views import chunks
from preceptor.agent.losses import ValueLoss, weighted_regression
from preceptor.agent.methods.cloning import Cloning, CloningSettings
from preceptor.agent.methods.protocol import Entry, Given, Parts, Preset
from preceptor.agent.resumable import places
from preceptor.controller.network import to_tensors
from preceptor.ground.device import to_device, to_tensor
from preceptor.ground.optim import FusedAdam, polyak
from preceptor.ground.ranges import Positive, Share


@dataclass(frozen=True)
class IqlSettings(CloningSettings):
    """Implicit Q-learning on demonstrations (Kostrikov et al., 2022). --steps are gradient steps."""

    gamma: Share = 0.99
    """Discount per environment step."""
    reward_scale: Positive | None = None
    """Factor on rewards; None brings the recorded returns to a mean size of 10."""
    expectile: Share = 0.7
    """tau of V (eq. 5)."""
    beta: Positive = 3.0
    """Inverse temperature of the weights (eq. 7), per unit of scaled reward."""
    largest_weight: Positive = 100.0
    """Bound of the weights."""
    tau: Share = 0.005
    """Share by which the target critics follow."""


class Iql(Cloning):
    """The method: cloning with weights, and the values that they come from; sizes and rates are those of the policy."""

    saved = places(*Cloning.saved, "q", "v", "target", "q_optimizer", "v_optimizer")

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.task, settings = parts.task, parts.settings
        width = settings.chunk * self.task.num_actions
        self.q = to_device(ChunkValue(self.encoder, width, settings.trunk, 2))
        self.v = to_device(ChunkValue(self.encoder, 0, settings.trunk, 1))
        self.target = copy.deepcopy(self.q).requires_grad_(False)
        self.q_optimizer, self.v_optimizer = (FusedAdam(part.parameters(), settings.lr) for part in (self.q, self.v))
        self.value_loss = ValueLoss("expectile", settings.expectile)
        if parts.run is not None:
            size = float(np.abs(self.recording.returns).mean())
            self._scale = settings.reward_scale or (10.0 / size if size else 1.0)

    def update(self) -> dict[str, float]:
        """One gradient step of V, Q and policy on a batch of chunks."""
        settings = self.settings
        rows = self.rng.integers(len(self.windows), size=settings.batch)
        batch = chunks(self.recording, self.windows, rows, settings.gamma)
        seen, after = (to_tensors(self.encoder(obs)) for obs in (batch.obs, batch.next_obs))
        chunk, action = to_tensor(chunk_vectors(self.task, batch.action)), to_tensor(batch.action)
        with torch.no_grad():
            q = self.target(seen, chunk).amin(0)  # [B]
        v_error = q - self.v(seen)[0]
        v_loss = 2 * self.value_loss(v_error).mean()
        self.v_optimizer.minimize(v_loss)
        with torch.no_grad():
            reward = to_tensor(batch.reward) * self._scale
            wanted = torch.addcmul(reward, to_tensor(batch.discount), self.v(after)[0])
        q_loss = (self.q(seen, chunk) - wanted).square().mean(1).sum()
        self.q_optimizer.minimize(q_loss)
        polyak(self.target, self.q, settings.tau)
        weight = (settings.beta * v_error.detach()).exp().clamp(max=settings.largest_weight)  # [B]
        log_probs = self.policy.log_probs(seen, action, to_tensor(batch.inside))  # [B, G]
        policy_loss = weighted_regression(log_probs, weight[:, None].expand_as(log_probs)).mean()
        self.optimizer.minimize(policy_loss)
        terms = {"policy_loss": policy_loss, "q_loss": q_loss, "v_loss": v_loss, "q": q.mean(), "weight": weight.mean()}
        return {f"low/{name}": float(value.detach()) for name, value in terms.items()}


def preset(given: Given) -> Preset:
    """Settings of implicit Q-learning for a task."""
    steps = given.steps or {"tiny": 500, "small": 5_000, "paper": 100_000}[given.size]
    return Preset(steps, 1, IqlSettings())


IQL = Entry((IqlSettings,), preset, Iql, plays=lambda settings: False)
