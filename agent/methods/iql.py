"""Implicit Q-learning (Kostrikov et al., 2022) over chunks of k actions: offline reinforcement learning.

V is an expectile of Q over the actions of the data, Q regresses on V of the state after the chunk, and the policy is
cloned with weights exp(beta (Q - V)): loss L2 with w from the advantage.
"""

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from agent.chunks import ChunkPolicy, ChunkValue, chunk_player, chunk_vectors, inputs_of
from agent.data.demonstrations import demonstrations_of
from agent.data.views import chunks, windows
from agent.losses import expectile_loss, weighted_regression
from agent.methods.protocol import Entry, Given, Parts, Preset
from agent.optim import FusedAdam, polyak
from agent.phases import Offline, Phase
from controller.encoders import encoder_of
from controller.network import ControllerNetwork, TrunkConfig
from ground.device import to_device, to_tensor
from ground.ranges import Count, Positive, Share


@dataclass(frozen=True)
class IqlSettings:
    """Implicit Q-learning on demonstrations (Kostrikov et al., 2022). --steps are gradient steps."""

    demos: str = "100"
    """Demonstrations: so many are recorded of the task's expert, and a quarter more that are held out; or a Minari
    dataset by its id, the last fifth of which is held out."""
    chunk: Count = 1
    """k, actions per chunk; the value is that of k steps."""
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
    lr: Positive = 1e-3
    """Learning rate of Adam, of all networks."""
    batch: Count = 256
    """Chunks per gradient step."""
    trunk: TrunkConfig = field(default_factory=lambda: TrunkConfig(hidden=128))
    """Size of the policy and of each value."""


class Iql:
    """The method: one phase, `Offline`.

    Args:
        parts: Task, settings and random streams.

    Raises:
        UserError: There are too few demonstrations, or they are not of this task.
    """

    controller: ControllerNetwork | None = None
    calibration: tuple[float, dict[str, float]] = (1.0, {})

    def __init__(self, parts: Parts) -> None:
        task, settings = parts.task, parts.settings
        self.task, self.settings, self.encoder = task, settings, encoder_of(task)
        self.facts: dict[str, Any] = {}
        self.policy = to_device(ChunkPolicy(task, settings.chunk, settings.trunk))
        width = settings.chunk * task.num_actions
        self.q = to_device(ChunkValue(self.encoder, width, settings.trunk, 2))
        self.v = to_device(ChunkValue(self.encoder, 0, settings.trunk, 1))
        self.target = copy.deepcopy(self.q).requires_grad_(False)
        self.optimizers = [FusedAdam(part.parameters(), settings.lr) for part in (self.policy, self.q, self.v)]
        self.rng = np.random.default_rng(parts.seeds)
        self.player = chunk_player(task, self.policy)
        self.phases: tuple[Phase, ...] = ()
        if parts.run is not None:
            self.recording, _ = demonstrations_of(settings.demos, task, parts.config.seed, parts.run)
            size = float(np.abs(self.recording.returns).mean())
            self._scale = settings.reward_scale or (10.0 / size if size else 1.0)
            self.windows = windows(self.recording, settings.chunk)
            self.phases = (Offline(self.recording, self.update),)

    def update(self) -> dict[str, float]:
        """One gradient step of V, Q and policy on a batch of chunks."""
        settings = self.settings
        rows = self.rng.integers(len(self.windows), size=settings.batch)
        batch = chunks(self.recording, self.windows, rows, settings.gamma)
        seen, after = (inputs_of(self.encoder, obs) for obs in (batch.obs, batch.next_obs))
        chunk, action = to_tensor(chunk_vectors(self.task, batch.action)), to_tensor(batch.action)
        policy_optimizer, q_optimizer, v_optimizer = self.optimizers
        with torch.no_grad():
            q = self.target(seen, chunk).amin(0)  # [B]
        v_error = q - self.v(seen)[0]
        v_loss = expectile_loss(v_error, settings.expectile).mean()
        v_optimizer.minimize(v_loss)
        with torch.no_grad():
            reward = to_tensor(batch.reward) * self._scale
            wanted = torch.addcmul(reward, to_tensor(batch.discount), self.v(after)[0])
        q_loss = (self.q(seen, chunk) - wanted).square().mean(1).sum()
        q_optimizer.minimize(q_loss)
        polyak(self.target, self.q, settings.tau)
        weight = (settings.beta * v_error.detach()).exp().clamp(max=settings.largest_weight)  # [B]
        log_probs = self.policy.log_probs(self.policy(*seen), action)  # [B, G]
        policy_loss = weighted_regression(log_probs, weight[:, None].expand_as(log_probs)).mean()
        policy_optimizer.minimize(policy_loss)
        terms = {"policy_loss": policy_loss, "q_loss": q_loss, "v_loss": v_loss, "q": q.mean(), "weight": weight.mean()}
        return {f"low/{name}": float(value.detach()) for name, value in terms.items()}

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers and random state, for an exact resume; the demonstrations are the run's own."""
        return {
            "modules": [module.state_dict() for module in (self.policy, self.q, self.v, self.target)],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for module, saved in zip((self.policy, self.q, self.v, self.target), state["modules"], strict=True):
            module.load_state_dict(saved)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.rng.bit_generator.state = state["rng"]

    def load_policy(self, state: dict[str, Any]) -> None:
        """Restore the policy alone, to play."""
        self.policy.load_state_dict(state["modules"][0])


def preset(given: Given) -> Preset:
    """Settings of implicit Q-learning for a task."""
    steps = given.steps or {"tiny": 500, "small": 5_000, "paper": 100_000}[given.size]
    return Preset(steps, 1, IqlSettings())


IQL = Entry((IqlSettings,), preset, Iql, plays=False)
