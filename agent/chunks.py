"""Policies over chunks of k actions: the network, and the levels that play a chunk slice by slice."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from preceptor.agent.clock import Clock, sliced
from preceptor.agent.distributions import Categorical, ClippedNormal, Distribution, Sampled
from preceptor.agent.hierarchy import Observations, Player
from preceptor.agent.networks import linear
from preceptor.controller.encoders import Encoder, encoder_of
from preceptor.controller.network import TrunkConfig, make_trunk
from preceptor.envs.task import Task, action_groups_of
from preceptor.ground.device import to_numpy

_LOG_STD = -5.0, 1.0  # range of the logarithm of a deviation


@dataclass(frozen=True)
class CategoricalChunk(Distribution):
    """N distributions over k indices, which are independent given the observation.

    Attributes:
        probs: float32 [N, k, C].
    """

    probs: NDArray[np.float32]

    def sample(self, rng: np.random.Generator | None) -> Sampled:
        """Indices as numbers, float32 [N, k], and their log-probability [N]."""
        count, steps, actions = self.probs.shape
        index, log_prob = Categorical(self.probs.reshape(-1, actions)).sample(rng)
        return index.reshape(count, steps).astype(np.float32), log_prob.reshape(count, steps).sum(1)


class ChunkPolicy(nn.Module):
    """pi(a_t, ..., a_{t+k-1} | s_t): k actions at once, independent of each other given the observation.

    Named actions have logits; vectors have a mean within [-1, 1] and a deviation per dimension, the same everywhere.

    Args:
        task: Whose actions.
        steps: k.
        config: Size of the trunk.
    """

    def __init__(self, task: Task, steps: int, config: TrunkConfig) -> None:
        super().__init__()
        self.steps, self.actions, self.continuous = steps, task.num_actions, task.continuous
        self.trunk = make_trunk(encoder_of(task), 0, config)
        self.head = linear(config.hidden, steps * task.num_actions, 0.01)
        self.log_std = nn.Parameter(torch.full((steps, task.num_actions), -1.0)) if task.continuous else None
        self.groups = tuple(action_groups_of(task).values())

    def forward(self, *parts: Tensor) -> Tensor:
        """Logits [B, k, C], or means [B, k, A], of the trunk's inputs."""
        outputs: Tensor = self.head(self.trunk(*parts)).view(-1, self.steps, self.actions)
        return torch.tanh(outputs) if self.continuous else outputs

    def log_probs(self, outputs: Tensor, action: Tensor) -> Tensor:
        """Log-probability of chunks, float [B, k, A] or int64 [B, k], per group of actions: [B, G]."""
        if self.log_std is None:
            return outputs.log_softmax(-1).gather(-1, action[..., None]).squeeze(-1).sum(1, keepdim=True)
        log_std = self.log_std.clamp(*_LOG_STD)
        each = -0.5 * ((action - outputs) * (-log_std).exp()).square() - log_std  # [B, k, A]
        return torch.stack([each[..., list(group)].sum((1, 2)) for group in self.groups], 1)

    @torch.no_grad()
    def choose(self, observed: Observations, running: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Distribution]:
        """As the high level of a player: no chunk is over before its end; what the next one is sampled from."""
        never, outputs = np.zeros(len(observed), np.bool_), self(*observed.inputs)
        if self.log_std is None:
            return never, CategoricalChunk(to_numpy(outputs.softmax(-1)))
        std = to_numpy(self.log_std.clamp(*_LOG_STD).exp()).reshape(1, -1)
        return never, ClippedNormal(to_numpy(outputs).reshape(len(observed), -1), std)

    def act(self, observed: Observations, clock: Clock) -> Distribution:
        """As the low level of a player: the first slice of the clock's command, with certainty."""
        if self.continuous:
            return ClippedNormal(clock.command[:, : self.actions])
        return Categorical(np.eye(self.actions, dtype=np.float32)[clock.command[:, 0].astype(np.int64)])


def chunk_vectors(task: Task, action: NDArray) -> NDArray[np.float32]:
    """Chunks float [B, k, A] or int64 [B, k] as a critic's input, float32 [B, k A]; named actions are one-hot."""
    if not task.continuous:
        action = np.eye(task.num_actions, dtype=np.float32)[action]
    return action.reshape(len(action), -1).astype(np.float32)


def chunk_player(task: Task, policy: ChunkPolicy) -> Player:
    """The player of a policy over chunks."""
    transition = sliced(policy.steps, task.num_actions if task.continuous else 1)
    return Player(policy, policy, np.full(1, policy.steps), transition)


class ChunkValue(nn.Module):
    """V(s), or Q(s, a_t, ..., a_{t+k-1}) twice: what a state, or a chunk in it, is worth.

    Args:
        encoder: What its inputs come from.
        condition: Numbers of a chunk; 0 for V.
        config: Size of each trunk.
        copies: Networks side by side.
    """

    def __init__(self, encoder: Encoder, condition: int, config: TrunkConfig, copies: int) -> None:
        super().__init__()
        self.trunks = nn.ModuleList([make_trunk(encoder, condition, config) for _ in range(copies)])
        self.heads = nn.ModuleList([nn.Linear(config.hidden, 1) for _ in range(copies)])

    def forward(self, inputs: tuple[Tensor, ...], chunk: Tensor | None = None) -> Tensor:
        """[copies, B]."""
        pairs = zip(self.trunks, self.heads, strict=True)
        return torch.stack([head(trunk(*inputs, condition=chunk)).squeeze(-1) for trunk, head in pairs])
