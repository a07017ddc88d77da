"""HVD, hierarchical value decomposition (Zhang et al., 2026): which body group acted well in a stored chunk?

A critic learns the values of subsets of action groups from recorded, partly bad demonstrations. From these each group
has an advantage of its own (`agent/attribution.py`), and loss L2 copies of each chunk the groups that did well.
"""

import copy
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor

from preceptor.agent.attribution import Word, attribution, fault_auc
from preceptor.agent.chunks import (
    ChunkPolicy,
    ChunkValue,
    FlowPolicy,
    StateNetwork,
    SubsetValues,
    chunk_player,
    chunk_vectors,
)
from preceptor.agent.data.recording import faults_of
from preceptor.agent.data.views import Chunks, chunks, windows
from preceptor.agent.demonstrating import demonstrations_of
from preceptor.agent.losses import ValueLoss, weighted_regression
from preceptor.agent.methods.cloning import CloningSettings
from preceptor.agent.methods.continuing import Continuation, ContinuedConfig
from preceptor.agent.methods.hvd_checks import check_demonstrations, doubts
from preceptor.agent.methods.protocol import Entry, Given, Method, Parts, Preset
from preceptor.agent.phases import Offline
from preceptor.agent.resumable import places
from preceptor.controller.encoders import encoder_of
from preceptor.controller.network import to_tensors
from preceptor.envs.action_groups import grouped
from preceptor.ground.device import to_device, to_numpy, to_tensor
from preceptor.ground.optim import FusedAdam, polyak
from preceptor.ground.ranges import Count, CountOrNone, Positive, Share

_LATE, _SLOWER = 0.7, 0.3  # from this share of the steps on, learning rates are so much smaller
_AT_ONCE = 1024  # chunks whose values are computed together
_LARGEST = 50.0  # of a logarithm of a weight


@dataclass(frozen=True)
class HvdSettings(CloningSettings):
    """Hierarchical value decomposition on recorded demonstrations (Zhang et al., 2026). --steps are gradient steps, of
    the critic and then of the policy."""

    demos: str = "mixed:200+4"
    """Demonstrations, as `train --method bc` takes them."""
    chunk: Count = 4
    """k, actions that are valued, predicted and played at a time."""
    replan: CountOrNone = 0
    """Actions of a chunk that are played before the next one is chosen; 0 for half of them."""
    groups: str = ""
    """Action groups in their order, such as base=0-2,arm=3-6; each (every dimension by itself), or all (one group).
    The task's own if not given."""
    attribution: Word | Literal["truth", "truth-chunk"] = "shapley"
    """How a chunk's value becomes advantages of groups: flat (implicit Q-learning), difference (the same with the
    critic's own baseline), prefix (as published), marginal, shapley, alone, or last. For data that say which groups
    were faulty: truth (only what was not is copied), or truth-chunk (only chunks in which nothing was)."""
    joint: Share = 0.5
    """Share in which what all groups add counts for each of them, where an attribution is of differences: 0 looks at
    each group by itself, 1 is `difference`. What one group should do depends on whether the others do well."""
    with_option: bool = False
    """Count the option that was chosen as the first group: a wrong decision is told from a wrong motion."""
    value_data: Literal["mixed", "optimal"] = "mixed"
    """What the critic learns from: all demonstrations, or the optimal ones alone."""
    value_steps: CountOrNone = 0
    """Gradient steps of the critic; half of all if 0."""
    value_loss: Literal["expectile", "quantile", "exponential"] = "expectile"
    """What V is of the values of the data's actions."""
    level: Share = 0.7
    """tau, the expectile or quantile of V."""
    alpha: Positive = 8.0
    """Sharpness of the exponential loss."""
    gamma: Share = 0.97
    """Discount per environment step."""
    tau: Share = 0.01
    """Share by which the target critic follows."""
    weighting: Literal["exponential", "loss"] = "exponential"
    """Weights: exponential, exp(A / (T sd)); or loss, |f'(A)| / |A| with the loss f of V (as published)."""
    temperature: Positive = 0.6
    """T, in standard deviations of each group's advantages."""
    balance: bool = True
    """Bring the mean weight to 1 in each state; otherwise states in which advantages are large count more."""
    largest_weight: Positive = 20.0
    """Bound of the weights, whose mean is 1."""
    extract: Literal["regression", "ddpg"] = "regression"
    """How the policy follows the critic: weighted regression, or ddpg (it climbs the value of its own chunk while it
    clones; TD3+BC, Fujimoto & Gu, 2021)."""
    climb: Positive = 2.5
    """Weight of the value in ddpg, over its mean size."""
    head: Literal["gaussian", "flow"] = "gaussian"
    """The policy: a Gaussian, or flow matching."""
    std: Positive = 0.1
    """Deviation of the Gaussian."""
    continued: Annotated[ContinuedConfig, tyro.conf.arg(name="")] = field(default_factory=ContinuedConfig)
    """What comes after it online."""

    @property
    def played(self) -> int:
        """Actions of a chunk that are played."""
        return self.replan or max(1, self.chunk // 2)

    @property
    def online_steps(self) -> int:
        """Environment steps after the gradient steps."""
        return self.continued.online


class Hvd(Method):
    """The method: a phase for the critic, and one for the policy.

    Args:
        parts: Task, settings and random streams.

    Raises:
        UserError: The demonstrations are too few or too short, have no rewards, or do not fit the task or the settings.
    """

    saved = places(
        *("policy", "optimizer", "q", "v", "target", "q_optimizer", "v_optimizer", "rng", "noise", "weights", "taken"),
        "online",
    )
    played = ("policy",)

    def __init__(self, parts: Parts) -> None:
        task, settings = parts.task, parts.settings
        self.task, self.settings, self.encoder = task, settings, encoder_of(task)
        self.rng = np.random.default_rng(parts.seeds)
        groups = grouped(task, settings.groups)
        self.groups = tuple(groups.values())
        self.names = (*(("option",) if settings.with_option else ()), *groups)
        self.attribution = None
        if not settings.attribution.startswith("truth"):
            orders = np.random.default_rng(len(self.names))  # the same of every run, so that checkpoints fit
            self.attribution = attribution(settings.attribution, len(self.names), orders)
            self.sets = to_tensor(self.attribution.sets.astype(np.float32))  # [M, G]
        self.policy = to_device(make_policy(task, settings, self.groups))
        values = SubsetValues(self.encoder, self._positions(), settings.trunk, 2)
        self.q, self.v = to_device(values), to_device(ChunkValue(self.encoder, 0, settings.trunk, 1))
        self.level = to_device(StateNetwork(self.encoder, len(self.names), settings.trunk))  # of weights
        self.noise = getattr(self.policy, "generator", None)
        self.target = copy.deepcopy(self.q).requires_grad_(False)
        learned = [p for p in self.policy.parameters() if p.requires_grad]
        self.optimizer, self.q_optimizer, self.v_optimizer = (
            FusedAdam(each, settings.lr) for each in (learned, self.q.parameters(), self.v.parameters())
        )
        self.player = chunk_player(task, self.policy, settings.played)
        self.weights = np.zeros((0, len(self.names)), np.float32)
        self.taken = 0  # gradient steps
        self.online: Continuation | None = None
        if parts.run is not None:
            self.online = Continuation(parts, self.policy) if settings.continued.online else None
            self.recording, _ = demonstrations_of(settings.demos, task, parts.config.seed, parts.run)
            self.begin(parts.config.steps)
            look = f"python main.py doctor --data {settings.demos} --task {task.source}"
            for line in doubts(task, settings, self.recording, self.names):
                assert parts.log is not None
                parts.log.warn(f"{line}: {look}")

    def begin(self, total: int) -> None:
        """Make ready to learn from `recording` in so many gradient steps."""
        settings, recording = self.settings, self.recording
        self.windows = windows(recording, settings.chunk)
        check_demonstrations(self.task, settings, recording, self.names, self.faulty())
        self.valued = np.arange(len(self.windows))
        if settings.value_data == "optimal":
            self.valued = np.flatnonzero(self.windows.first(recording.extra["optimal"], self.valued))
        self.value_loss = ValueLoss(settings.value_loss, settings.level, settings.alpha)
        self.total, self.value_steps = total, min(total, settings.value_steps or total // 2)
        values = Offline(recording, self.update_values, until=self.value_steps, ended=self.weigh)
        self.phases = (values, Offline(recording, self.update_policy, until=total))
        if self.attribution is None:
            self.value_steps, self.phases = 0, self.phases[1:]
            self.weigh()
        if self.online is not None:
            self.phases = (*self.phases[:-1], *self.online.after(recording, self.update_policy, total))

    def update_values(self) -> dict[str, float]:
        """One gradient step of V and of the values of all subsets: y = r + gamma^k V(s'), the same for each of them."""
        settings, found = self.settings, self.attribution
        assert found is not None
        rate = self._slow_down(self.taken / self.value_steps, self.q_optimizer, self.v_optimizer)
        rows = self.rng.choice(self.valued, settings.batch)
        batch = chunks(self.recording, self.windows, rows, settings.gamma)
        seen, after = (to_tensors(self.encoder(obs)) for obs in (batch.obs, batch.next_obs))
        chunk = to_tensor(self.numbers(batch, rows))
        with torch.no_grad():
            values = self.target(seen, chunk, self.sets[to_tensor(found.levels)]).amin(0)  # [L, B]
        v_loss = self.value_loss(values - self.v(seen)).mean(1).sum()
        self.v_optimizer.minimize(v_loss)
        with torch.no_grad():
            wanted = torch.addcmul(to_tensor(batch.reward), to_tensor(batch.discount), self.v(after)[0])
        q_loss = (self.q(seen, chunk, self.sets) - wanted).square().mean(2).sum()
        self.q_optimizer.minimize(q_loss)
        polyak(self.target, self.q, settings.tau)
        self.taken += 1
        return {
            "low/q_loss": float(q_loss.detach()),
            "low/v_loss": float(v_loss.detach()),
            "low/q": float(values.mean()),
            **rate,
        }

    def update_policy(self) -> dict[str, float]:
        """One gradient step of the policy: loss L2 with a weight for each group."""
        rate = self._slow_down((self.taken - self.value_steps) / max(1, self.total - self.value_steps), self.optimizer)
        rows = self.rng.integers(len(self.windows), size=self.settings.batch)
        seen = to_tensors(self.encoder(self.windows.first(self.recording.obs, rows)))
        action, inside = to_tensor(self.windows.of(self.recording.action, rows)), to_tensor(self.windows.inside(rows))
        log_probs = self.policy.log_probs(seen, action, inside)  # [B, G]
        weights = self.weights[rows, len(self.names) - log_probs.shape[1] :]  # without that of the option
        loss = weighted_regression(log_probs, to_tensor(weights)).mean()
        if self.settings.extract == "ddpg":
            loss = loss * self.settings.std**2 - self.settings.climb * self._relative_value(seen)
        self.optimizer.minimize(loss)
        self.taken += 1
        return {"low/policy_loss": float(loss.detach()), **rate}

    def _relative_value(self, seen: tuple[Tensor, ...]) -> Tensor:
        """Mean value of the policy's own chunks, over its mean size."""
        full = to_tensor(np.ones((1, len(self.names)), np.float32))
        value = self.q(seen, self.policy(*seen).flatten(1), full)[0]
        return value.mean() / value.detach().abs().mean()

    def weigh(self) -> dict[str, float]:
        """The critic is finished: weights [M, G] of every chunk; where the data know which groups were faulty, how well
        low advantages tell that."""
        faulty = self.faulty()
        if self.attribution is None:
            assert faulty is not None
            fit = (
                ~faulty
                if self.settings.attribution == "truth"
                else ~faulty.any(1, keepdims=True) | np.zeros_like(faulty)
            )
            self.weights = (fit / np.maximum(fit.mean(0), 1e-6)).astype(np.float32)
            return {}
        advantages = self.advantages()
        joint = 0.0 if self.attribution.baseline else self.settings.joint
        self.weights = self.weights_of((1 - joint) * advantages + joint * advantages.sum(1, keepdims=True))
        return {} if faulty is None else told_apart(-advantages, faulty, self.names)

    def weights_of(self, advantages: NDArray[np.float32]) -> NDArray[np.float32]:
        """Weights [M, G] of advantages [M, G]: of mean 1 for each group, and bounded."""
        settings = self.settings
        if settings.weighting == "loss":
            weights = to_numpy(self.value_loss.weight(to_tensor(advantages)))
        else:
            scaled = advantages / (settings.temperature * np.maximum(advantages.std(0), 1e-8))
            scaled -= self._log_mean_exp(scaled) if settings.balance else scaled.max(0)
            weights = np.exp(np.minimum(scaled, _LARGEST))
        return np.minimum(weights / weights.mean(0), settings.largest_weight).astype(np.float32)

    def _log_mean_exp(self, scaled: NDArray[np.float32]) -> NDArray[np.float32]:
        """log E exp(A / T) of each group over the chunks that begin in a state, [M, G]: where the exponential loss is
        least. What it leaves has weights of mean 1 in each state, so that no state counts more than others."""
        obs = self.windows.first(self.recording.obs, np.arange(len(self.windows)))
        network = self.level
        optimizer, loss = FusedAdam(network.parameters(), self.settings.lr), ValueLoss("exponential")
        steps = self.value_steps // 2
        for step in range(steps):
            self._slow_down(step / steps, optimizer)
            rows = self.rng.integers(len(scaled), size=self.settings.batch)
            error = to_tensor(scaled[rows]) - network(*to_tensors(self.encoder(obs[rows])))
            optimizer.minimize(loss(error).mean(0).sum())
        with torch.no_grad():
            found = [to_numpy(network(*to_tensors(self.encoder(part)))) for part in np.array_split(obs, _parts(obs))]
        return np.concatenate(found)

    @torch.no_grad()
    def advantages(self) -> NDArray[np.float32]:
        """Of every chunk and group, [M, G]."""
        assert self.attribution is not None
        parts, every = [], np.arange(len(self.windows))
        for rows in np.array_split(every, _parts(every)):
            batch = chunks(self.recording, self.windows, rows, self.settings.gamma)
            seen = to_tensors(self.encoder(batch.obs))
            values = self.q(seen, to_tensor(self.numbers(batch, rows)), self.sets).amin(0)
            parts.append(to_numpy(self.attribution.advantages(values, self.v(seen)[0])))
        return np.concatenate(parts)

    def faulty(self) -> NDArray[np.bool_] | None:
        """Which groups were faulty somewhere in each chunk [M, G], where the data say so."""
        settings, rows = self.settings, np.arange(len(self.windows))
        truth = faults_of(self.recording, self.task, self.groups, settings.with_option)
        if truth is None:
            return None
        faulty: NDArray[np.bool_] = np.any(self.windows.of(truth, rows), axis=1)
        if settings.with_option:
            faulty[:, 0] = self.windows.first(truth, rows)[:, 0]
        return faulty

    def numbers(self, batch: Chunks, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """What the critic sees of chunks: the option where it counts, one-hot, and the actions, [B, numbers]."""
        vectors = chunk_vectors(self.task, batch.action) * np.repeat(batch.inside, self.task.num_actions, 1)
        if not self.settings.with_option:
            return vectors
        chosen = self.windows.first(self.recording.option, rows)
        options = np.eye(len(self.task.options) + 1, dtype=np.float32)[chosen][:, :-1]  # zeros where it is not known
        return np.concatenate([options, vectors], 1)

    def _positions(self) -> list[NDArray[np.int64]]:
        """Where each group is among the numbers of a chunk."""
        options = len(self.task.options) if self.settings.with_option else 0
        starts = options + self.task.num_actions * np.arange(self.settings.chunk)[:, None]
        actions = [(starts + np.array(group)).ravel() for group in self.groups]
        return [np.arange(options), *actions] if options else actions

    def _slow_down(self, share: float, *optimizers: FusedAdam) -> dict[str, float]:
        """Set the one learning rate of all to that after a share of the steps; to be logged."""
        rates = [optimizer.scale_rate(_SLOWER if share >= _LATE else 1.0) for optimizer in optimizers]
        return {"low/learning_rate": rates[0]}


def make_policy(task: Any, settings: HvdSettings, groups: Any) -> ChunkPolicy:
    """The policy of a head's name."""
    if settings.head == "flow":
        return FlowPolicy(task, settings.chunk, settings.trunk, groups)
    return ChunkPolicy(task, settings.chunk, settings.trunk, groups, settings.std)


def _parts(rows: NDArray[Any]) -> int:
    """Into how many parts so many rows are divided."""
    return -(-len(rows) // _AT_ONCE)


def told_apart(blame: NDArray[np.float32], faulty: NDArray[np.bool_], names: tuple[str, ...]) -> dict[str, float]:
    """How well blame [M, G] tells which groups were faulty [M, G]: an AUC of each, and how often the most blamed is the
    faulty one where there is one alone."""
    found = {f"low/auc_{name}": fault_auc(blame[:, g], faulty[:, g]) for g, name in enumerate(names)}
    alone = faulty.sum(1) == 1
    if alone.any():
        found["low/named"] = float((blame[alone].argmax(1) == faulty[alone].argmax(1)).mean())
    return {name: value for name, value in found.items() if not np.isnan(value)}


def preset(given: Given) -> Preset:
    """Settings of hierarchical value decomposition for a task."""
    steps = given.steps or {"tiny": 600, "small": 3_000, "paper": 3_000}[given.size]
    return Preset(steps, 8 if given.word("online", "0") != "0" else 1, HvdSettings())


HVD = Entry((HvdSettings,), preset, Hvd, plays=lambda settings: settings.online_steps > 0)
