"""Policies over chunks of k actions: the network, and the levels that play a chunk slice by slice."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from preceptor.agent.clock import sliced
from preceptor.agent.computed import Computed, no_computation
from preceptor.agent.data.recording import Recording
from preceptor.agent.distributions import CategoricalChunk, ClippedNormal, Distribution, Sampled
from preceptor.agent.levels import Observations, Player, Slices
from preceptor.agent.networks import linear
from preceptor.controller.encoders import Encoder, encoder_of
from preceptor.controller.network import TrunkConfig, make_trunk
from preceptor.envs.action_groups import action_groups_of
from preceptor.envs.task import Task
from preceptor.ground.device import normal, orthogonal_, to_numpy, to_tensor
from preceptor.ground.errors import UserError

_LOG_STD = -5.0, 1.0  # range of the logarithm of a deviation
_FLOW_STEPS = 8


class ChunkPolicy(nn.Module):
    """pi(a_t, ..., a_{t+k-1} | s_t): k actions at once, independent of each other given the observation.

    Named actions have logits; vectors have a mean within [-1, 1] and a deviation per dimension, the same everywhere.

    Args:
        task: Whose actions.
        steps: k.
        config: Size of the trunk.
        groups: Positions of each group of actions; those of the task if not given.
        std: The deviation; it is learned if not given.
    """

    def __init__(
        self,
        task: Task,
        steps: int,
        config: TrunkConfig,
        groups: Iterable[tuple[int, ...]] | None = None,
        std: float | None = None,
    ) -> None:
        super().__init__()
        self.steps, self.actions, self.continuous = steps, task.num_actions, task.continuous
        self.trunk = make_trunk(encoder_of(task), 0, config)
        self.head = linear(config.hidden, steps * task.num_actions, 0.01)
        log_std = torch.full((steps, task.num_actions), -1.0 if std is None else math.log(std))
        self.log_std = nn.Parameter(log_std, requires_grad=std is None) if task.continuous else None
        self.groups = tuple(groups or action_groups_of(task).values())

    def forward(self, *parts: Tensor) -> Tensor:
        """Logits [B, k, C], or means [B, k, A], of the trunk's inputs."""
        outputs: Tensor = self.head(self.trunk(*parts)).view(-1, self.steps, self.actions)
        return torch.tanh(outputs) if self.continuous else outputs

    def log_probs(self, inputs: tuple[Tensor, ...], action: Tensor, inside: Tensor) -> Tensor:
        """Log-probability of chunks in observations, per group of actions: [B, G].

        Args:
            inputs: The trunk's.
            action: float [B, k, A], or int64 [B, k].
            inside: bool [B, k], the steps that count.
        """
        return self.by_group(self(*inputs), action, inside)

    def by_group(self, outputs: Tensor, action: Tensor, inside: Tensor) -> Tensor:
        """That of the outputs for them."""
        if self.log_std is None:
            each = outputs.log_softmax(-1).gather(-1, action[..., None]).squeeze(-1)  # [B, k]
            return (each * inside).sum(1, keepdim=True)
        log_std = self.log_std.clamp(*_LOG_STD)
        each = -0.5 * ((action - outputs) * (-log_std).exp()).square() - log_std  # [B, k, A]
        return summed(each * inside[..., None], self.groups)

    @torch.no_grad()
    def choose(self, observed: Observations, running: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Distribution]:
        """As the high level of a player: no chunk is over before its end; what the next one is sampled from."""
        return np.zeros(len(observed), np.bool_), self.distribution(observed.inputs)

    def distribution(self, inputs: tuple[Tensor, ...]) -> Distribution:
        """What chunks are sampled from, of the trunk's inputs."""
        return self.high_computed()(*inputs)

    def high_computed(self) -> Computed:
        """What is computed of the trunk's inputs."""
        return Computed(self, ClippedNormal if self.continuous else CategoricalChunk, self._chunk, ends="never")

    def _chunk(self, *parts: Tensor) -> tuple[Tensor, ...]:
        outputs = self(*parts)
        if self.log_std is None:
            return (outputs.softmax(-1),)
        return outputs.flatten(1), self.log_std.clamp(*_LOG_STD).exp().view(1, -1)


class FlowPolicy(ChunkPolicy):
    """Chunks by flow matching (Lipman et al., 2023): from noise to actions along straight lines, in eight Euler steps.

    Args:
        task: Whose actions, which are vectors.
        steps: k.
        config: Size of the trunk.
        groups: Positions of each group of actions.
    """

    def __init__(self, task: Task, steps: int, config: TrunkConfig, groups: Iterable[tuple[int, ...]]) -> None:
        super().__init__(task, steps, config, groups, 1.0)
        self.generator = torch.Generator().manual_seed(torch.initial_seed())  # of what the lines begin with
        self.trunk = make_trunk(encoder_of(task), steps * task.num_actions + 1, config)

    def velocity(self, inputs: tuple[Tensor, ...], chunk: Tensor, time: Tensor) -> Tensor:
        """Where chunks [B, k, A] move at times [B, 1] between noise, 0, and actions, 1: [B, k, A]."""
        hidden = self.trunk(*inputs, condition=torch.cat([chunk.flatten(1), time], 1))
        moved: Tensor = self.head(hidden).view(-1, self.steps, self.actions)
        return moved

    def log_probs(self, inputs: tuple[Tensor, ...], action: Tensor, inside: Tensor) -> Tensor:
        """Minus the squared error of the velocity per group, [B, G], at a random time of a random line to each chunk.

        It stands for the log-probability, of which it is a bound up to weights of the times (Kingma & Gao, 2023).
        """
        noise = normal(tuple(action.shape), self.generator)
        time = torch.empty(len(action), 1).uniform_(generator=self.generator).to(noise.device)
        at = torch.lerp(noise, action, time[..., None])
        error = self.velocity(inputs, at, time) - (action - noise)
        return summed(-0.5 * error.square() * inside[..., None], self.groups)

    def high_computed(self) -> Computed:
        """Raises `UserError`: noise comes in between."""
        raise no_computation("a flow leads noise to its actions")

    def distribution(self, inputs: tuple[Tensor, ...]) -> Distribution:
        """What chunks are sampled from, of the trunk's inputs."""
        return FlowChunks(self, inputs, len(inputs[0]))


@dataclass(frozen=True)
class FlowChunks(Distribution):
    """N distributions over chunks, from which a policy's flow leads noise to samples; the greedy one starts at zero."""

    policy: FlowPolicy
    inputs: tuple[Tensor, ...]
    count: int

    @torch.no_grad()
    def sample(self, rng: np.random.Generator | None) -> Sampled:
        """Chunks as numbers, float32 [N, k A]; their log-probabilities are of no use here, and given as 0."""
        shape = self.count, self.policy.steps, self.policy.actions
        start = np.zeros(shape, np.float32) if rng is None else rng.standard_normal(shape, np.float32)
        chunk = to_tensor(start)
        for step in range(_FLOW_STEPS):
            time = chunk.new_full((self.count, 1), step / _FLOW_STEPS)
            chunk = chunk + self.policy.velocity(self.inputs, chunk, time) / _FLOW_STEPS
        return to_numpy(chunk.clamp(-1, 1)).reshape(self.count, -1), np.zeros(self.count, np.float32)


class ChunkActor(nn.Module):
    """The first h actions of a policy's chunks as an actor of SAC: Gaussian around its means, clipped to [-1, 1].

    Not squashed: actions at the edge of the box, which robots take often, would have next to no deviation.

    Args:
        policy: The policy; its weights are shared.
        played: h.
    """

    def __init__(self, policy: ChunkPolicy, played: int) -> None:
        super().__init__()
        self.policy, self.played = policy, played

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Means within [-1, 1] and log-deviations, [B, h A]."""
        assert self.policy.log_std is not None, "actions are vectors"
        mean: Tensor = self.policy(obs)[:, : self.played]
        log_std = self.policy.log_std[: self.played].clamp(*_LOG_STD)
        return mean.flatten(1), log_std.expand_as(mean).flatten(1)

    def sample(self, obs: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Reparametrised actions [B, h A], and their log-probability [B] before they are clipped."""
        mean, log_std = self(obs)
        noise = normal(mean.shape, generator)
        log_prob = (-0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
        return torch.addcmul(mean, log_std.exp(), noise).clamp(-1.0, 1.0), log_prob

    def mode(self, obs: Tensor) -> Tensor:
        """The means, [B, h A]."""
        mean: Tensor = self(obs)[0]
        return mean


def summed(each: Tensor, groups: Iterable[tuple[int, ...]]) -> Tensor:
    """Numbers of each action [B, k, A], summed by group: [B, G]."""
    return torch.stack([each[..., list(group)].sum((1, 2)) for group in groups], 1)


def chunk_vectors(task: Task, action: NDArray) -> NDArray[np.float32]:
    """Chunks float [B, k, A] or int64 [B, k] as a critic's input, float32 [B, k A]; named actions are one-hot."""
    if not task.continuous:
        action = np.eye(task.num_actions, dtype=np.float32)[action]
    return action.reshape(len(action), -1).astype(np.float32)


def check_length(recording: Recording, steps: int) -> None:
    """Raise `UserError` if no demonstration has so many actions."""
    if (longest := int(recording.lengths.max()) - 1) < steps:
        raise UserError(f"No demonstration has {steps} actions.", f"--chunk {longest}  # or less")


def chunk_player(task: Task, policy: ChunkPolicy, played: int | None = None) -> Player:
    """The player of a policy over chunks; it chooses anew after so many steps, all k if not given."""
    transition = sliced(policy.steps, task.num_actions if task.continuous else 1)
    return Player(policy, Slices(), np.full(1, played or policy.steps), transition)


class SubsetValues(nn.Module):
    """Q(s, a_S) for subsets S of the action groups, twice: what a chunk is worth that shows the actions of S alone.

    One network for all of them. It sees the actions of the groups in S, zeros for the others, and which they are. What
    each group adds to the first layer is computed once for all subsets that have it.

    Args:
        encoder: What its inputs come from.
        groups: Positions of each of G groups among the numbers of a chunk.
        config: Size of each trunk.
        copies: Networks side by side.
    """

    member: Tensor

    def __init__(self, encoder: Encoder, groups: Iterable[NDArray[np.int64]], config: TrunkConfig, copies: int) -> None:
        super().__init__()
        positions = list(groups)
        width = sum(map(len, positions))
        member = torch.zeros(len(positions), width + len(positions))
        for group, at in enumerate(positions):
            member[group, at] = 1.0
            member[group, width + group] = 1.0
        self.register_buffer("member", member, persistent=False)
        self.trunks = nn.ModuleList([make_trunk(encoder, 0, config) for _ in range(copies)])
        added = [nn.Linear(member.shape[1], config.hidden, bias=False) for _ in range(copies)]
        for layer in added:
            orthogonal_(layer.weight, 2**0.5)
        self.added = nn.ModuleList(added)
        self.heads = nn.ModuleList([nn.Linear(config.hidden, 1) for _ in range(copies)])

    def forward(self, inputs: tuple[Tensor, ...], chunk: Tensor, sets: Tensor) -> Tensor:
        """[copies, M, B] of observations, chunks [B, numbers] and subsets float [M, G]."""
        told = torch.cat([chunk, chunk.new_ones(len(chunk), len(self.member))], 1)  # [B, numbers + G]
        values = []
        trunks: Any = self.trunks
        for trunk, added, head in zip(trunks, self.added, self.heads, strict=True):
            each = torch.stack([added(told * row) for row in self.member])  # [G, B, hidden]
            seen = torch.tensordot(sets, each, 1)  # [M, B, hidden]
            values.append(head(trunk.after(trunk.before(*inputs) + seen)).squeeze(-1))
        return torch.stack(values)


class StateNetwork(nn.Module):
    """Some numbers for each state.

    Args:
        encoder: What its inputs come from.
        outputs: How many.
        config: Size of the trunk.
    """

    def __init__(self, encoder: Encoder, outputs: int, config: TrunkConfig) -> None:
        super().__init__()
        self.trunk, self.head = make_trunk(encoder, 0, config), nn.Linear(config.hidden, outputs)

    def forward(self, *inputs: Tensor) -> Tensor:
        """[B, outputs]."""
        numbers: Tensor = self.head(self.trunk(*inputs))
        return numbers


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
