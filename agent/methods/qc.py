"""Q-chunking (Li, Zhou & Levine, 2025): a flat learner over chunks of actions, from demonstrations and then online.

A behaviour policy clones what is in the replay, demonstrations and own play, and the critics value whole chunks. What
is played is the best of some chunks that the behaviour policy proposes, so that what nobody did is not played; the
critics' target takes the best of as many.
"""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preceptor.agent.chunks import ChunkPolicy, FlowPolicy, check_length, chunk_player
from preceptor.agent.data.chunk_replay import ChunkReplay
from preceptor.agent.demonstrating import demonstrations_of
from preceptor.agent.distributions import Distribution, Sampled
from preceptor.agent.levels import Observations
from preceptor.agent.losses import weighted_regression
from preceptor.agent.methods.cloning import CloningSettings
from preceptor.agent.methods.off_policy import UpdateRatio, ring_for
from preceptor.agent.methods.protocol import Entry, Given, Method, Parts, Preset
from preceptor.agent.networks import TwinCritic
from preceptor.agent.phases import Offline, Online
from preceptor.agent.resumable import places
from preceptor.controller.encoders import encoder_of
from preceptor.controller.network import to_tensors
from preceptor.envs.action_groups import action_groups_of
from preceptor.ground.device import to_device, to_tensor
from preceptor.ground.errors import UserError
from preceptor.ground.optim import FusedAdam, polyak
from preceptor.ground.ranges import Count, CountOrNone, Positive, Share

_ROLLOUT = 4  # chunks of each environment between updates


@dataclass(frozen=True)
class QcSettings(CloningSettings):
    """Q-chunking from demonstrations, then online (Li, Zhou & Levine, 2025). --steps are gradient steps; --online
    environment steps come after them."""

    demos: str = "300"
    """Demonstrations, as `train --method bc` takes them."""
    chunk: Count = 5
    """k, actions that are predicted, valued and played at a time."""
    batch: Count = 128
    """Chunks per gradient step."""
    head: Literal["flow", "gaussian"] = "flow"
    """The behaviour policy: flow matching, or a Gaussian."""
    candidates: Count = 8
    """Chunks of which the best is played, and taken in targets."""
    gamma: Share = 0.99
    """Discount per environment step."""
    tau: Share = 0.005
    """Share by which the target critics follow."""
    online: CountOrNone = 63_000
    """Environment steps after the gradient steps."""
    updates: Positive = 0.2
    """Gradient steps per environment step."""
    recorded: Share = 0.5
    """Share of demonstrations in each batch online."""

    @property
    def online_steps(self) -> int:
        """Environment steps after the gradient steps."""
        return self.online


@dataclass(frozen=True)
class BestChunks(Distribution):
    """N distributions over chunks: the best by the critics of some that the policy proposes; greedily, of always the
    same noise."""

    method: "Qc"
    inputs: tuple[Tensor, ...]

    def sample(self, rng: np.random.Generator | None) -> Sampled:
        """Chunks float32 [N, k A]; their log-probabilities are of no use here, and given as 0."""
        chunk, _ = self.method.best(self.inputs, self.method.critic, rng or _Repeated(self.method.settings.candidates))
        return chunk, np.zeros(len(chunk), np.float32)


class _Repeated(np.random.Generator):
    """Draws the same for every so many rows, so that what is played greedily does not depend on how many play."""

    def __init__(self, rows: int) -> None:
        super().__init__(np.random.PCG64(0))
        self._rows = rows

    def standard_normal(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        """Numbers of this size, the rows of which come again after the first few."""
        count, *shape = size
        drawn = super().standard_normal((self._rows, *shape), dtype, out)
        return np.tile(drawn, (count // self._rows, *[1] * len(shape)))


class Qc(Method):
    """The method: a phase on the demonstrations, and one that is played.

    Args:
        parts: Task, settings and random streams.

    Raises:
        UserError: Actions are named, or there are too few demonstrations, or they are not of this task.
    """

    saved = places(
        *("policy", "optimizer", "critic", "target", "critic_optimizer", "rng", "noise", "store"), left="ratio.left"
    )
    played = ("policy", "critic")

    def __init__(self, parts: Parts) -> None:
        task, settings = parts.task, parts.settings
        if not task.continuous or len(task.observation_shape) != 1:
            what = f"qc chooses among chunks of vectors, and {task.name} has named actions or maps."
            raise UserError(what, f"python main.py train --method iql --task {task.source}")
        self.settings, self.encoder = settings, encoder_of(task)
        groups, kind = action_groups_of(task).values(), FlowPolicy if settings.head == "flow" else ChunkPolicy
        self.policy = to_device(kind(task, settings.chunk, settings.trunk, groups))
        self.noise = getattr(self.policy, "generator", None)
        width, hidden = task.observation_shape[0] + settings.chunk * task.num_actions, (settings.trunk.hidden,) * 2
        self.critic = to_device(TwinCritic(width, hidden, normed=True))
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        learned = [p for p in self.policy.parameters() if p.requires_grad]
        self.optimizer, self.critic_optimizer = (
            FusedAdam(each, settings.lr) for each in (learned, self.critic.parameters())
        )
        self.rng = np.random.default_rng(parts.seeds)
        self.player = chunk_player(task, self.policy)._replace(high=self)
        command, least = settings.chunk * task.num_actions, settings.chunk * (_ROLLOUT + 1)
        self.store = ring_for(parts, settings.online, least, command)
        self.replay = ChunkReplay(task, self.store, settings.chunk, settings.gamma, self.rng)
        self.ratio = UpdateRatio(settings.updates)
        if parts.run is not None:
            recording, _ = demonstrations_of(settings.demos, task, parts.config.seed, parts.run)
            check_length(recording, settings.chunk)
            self.replay.begin(recording)
            self._began = parts.config.steps
            offline = Offline(recording, lambda: self.learn(1.0), until=self._began)
            offline.judged_as, offline.farewell = "offline", "learned offline; it goes on online"
            online = Online(self.store, settings.chunk * _ROLLOUT, self.update)
            self.result = online.result = dict(offline.result)
            self._recorded_steps = self.result["steps"]
            self.phases = (offline, online)

    @torch.no_grad()
    def choose(self, observed: Observations, running: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Distribution]:
        """As the high level of a player: no chunk is over before its end; the best of some that are sampled."""
        return np.zeros(len(observed), np.bool_), BestChunks(self, observed.inputs)

    @torch.no_grad()
    def best(
        self, inputs: tuple[Tensor, ...], critic: TwinCritic, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], Tensor]:
        """The best of some chunks that the policy proposes [B, k A], and their values [B]."""
        count = self.settings.candidates
        told = tuple(part.repeat_interleave(count, 0) for part in inputs)
        chunk, _ = self.policy.distribution(told).sample(rng)
        value, which = critic(told[0], to_tensor(chunk)).amin(0).view(-1, count).max(1)
        rows = np.arange(len(which))
        return chunk.reshape(len(which), count, -1)[rows, which.cpu().numpy()], value

    def update(self, observed: Observations, steps: int) -> dict[str, float]:
        """As many gradient steps as are due."""
        played = steps - self._began
        self.result |= {"steps": self._recorded_steps + played, "online_steps": played}
        info: dict[str, float] = {}
        if self.replay.any_lived:
            for _ in range(self.ratio.due(self.settings.chunk * _ROLLOUT * self.store.num_envs)):
                info = self.learn(self.settings.recorded)
        return info

    def learn(self, recorded: float) -> dict[str, float]:
        """One gradient step of the critics, and one of the policy, on chunks of which a share is recorded."""
        settings = self.settings
        batch = self.replay.sample(settings.batch, recorded)
        seen, after = (to_tensors(self.encoder(each)) for each in (batch.obs, batch.next_obs))
        chunk, inside = to_tensor(batch.action), to_tensor(batch.inside)
        _, ahead = self.best(after, self.target, self.rng)
        wanted = torch.addcmul(to_tensor(batch.reward), to_tensor(batch.discount), ahead)
        q = self.critic(seen[0], chunk)
        critic_loss = 0.5 * (q - wanted).square().mean(1).sum()
        self.critic_optimizer.minimize(critic_loss)
        polyak(self.target, self.critic, settings.tau)
        log_probs = self.policy.log_probs(seen, chunk.view(len(chunk), settings.chunk, -1), inside)  # [B, G]
        policy_loss = weighted_regression(log_probs, torch.ones_like(log_probs)).mean()
        self.optimizer.minimize(policy_loss)
        terms = {"critic_loss": critic_loss, "policy_loss": policy_loss, "q": q.mean()}
        return {f"low/{name}": float(value.detach()) for name, value in terms.items()}


def preset(given: Given) -> Preset:
    """Settings of Q-chunking for a task."""
    steps = given.steps or {"tiny": 600, "small": 5_000, "paper": 50_000}[given.size]
    settings = QcSettings(demos="60", online=2_000) if given.size == "tiny" else QcSettings()
    return Preset(steps, 8, settings)


QC = Entry((QcSettings,), preset, Qc, plays=lambda settings: settings.online_steps > 0)
