"""From offline to online: SAC goes on from a policy over chunks that was learned from a recording, without a drop.

An action of SAC is what is played of a chunk, and a transition is what came of it (an SMDP). The actor is the policy
itself. The critics first learn from the recording alone, then from as much of it as of what is played (RLPD; Ball et
al., 2023). At first the policy as it was, the prior of loss L1, holds the actor.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from preceptor.agent.chunks import ChunkActor, ChunkPolicy, FlowPolicy
from preceptor.agent.data.chunk_replay import ChunkReplay
from preceptor.agent.data.recording import Recording
from preceptor.agent.levels import Observations
from preceptor.agent.losses import PriorActions, PriorWeight
from preceptor.agent.methods.off_policy import UpdateRatio, ring_for
from preceptor.agent.methods.protocol import Parts
from preceptor.agent.methods.sac import SAC, SACConfig, Transitions
from preceptor.agent.networks import frozen
from preceptor.agent.phases import Offline, Online, Phase
from preceptor.agent.resumable import Resumable, places
from preceptor.controller.encoders import encoder_of
from preceptor.ground.device import to_tensor
from preceptor.ground.errors import UserError
from preceptor.ground.ranges import CountOrNone, NotNegative, Positive, Share

_NO_ENTROPY = 1e-6  # weight of an entropy that is the same everywhere, since the deviation is
_ROLLOUT = 8  # chunks of each environment between updates


@dataclass(frozen=True)
class ContinuedConfig:
    """What comes after the gradient steps: the policy goes on online, with SAC."""

    online: CountOrNone = 0
    """Environment steps of SAC from the policy on, after the gradient steps of --steps; the x-axis counts first these,
    then those."""
    online_updates: Positive = 0.5
    """Gradient steps per environment step."""
    online_warmup: CountOrNone = 3_000
    """Gradient steps of the critics alone on the demonstrations, before the first environment step."""
    online_recorded: Share = 0.5
    """Share of demonstrations in each batch."""
    online_lr: Positive = 3e-4
    """Learning rate of Adam."""
    online_hold: NotNegative = 0.3
    """lambda, by which the policy as it was holds the new one (loss L1)."""
    online_hold_until: Positive = 2.0
    """Share of the environment steps over which lambda falls to zero; with 2, half of it is left in the end.
    Without it the actor finds chunks that nobody played and the critics overrate."""


class Continuation(Resumable):
    """SAC over the chunks of a policy, from there on.

    Args:
        parts: Task, settings and random streams; of the settings, `continued`, `chunk`, `played`, `gamma` and `batch`.
        policy: Goes on learning in place.

    Raises:
        UserError: The policy has no means, or its actions are named.
    """

    saved = places("learner", "prior", "store", "rng", left="ratio.left")

    def __init__(self, parts: Parts, policy: ChunkPolicy) -> None:
        task, settings, config = parts.task, parts.settings, parts.settings.continued
        if policy.log_std is None or isinstance(policy, FlowPolicy):
            what = "SAC continues a policy with the mean and the deviation of vectors, and this one has none."
            raise UserError(what, "--head gaussian, a task whose actions are vectors, or leave --online out")
        self.config, self.settings, self.encoder = config, settings, encoder_of(task)
        self.played = settings.played
        weights, draws = parts.seeds.spawn(2)
        learner = SACConfig(
            (settings.trunk.hidden,) * 2, config.online_lr, settings.gamma, temperature=_NO_ENTROPY, normed=True
        )
        actor, seed = ChunkActor(policy, self.played), int(weights.generate_state(1)[0])
        self.learner = SAC(task.observation_shape[0], self.played * task.num_actions, learner, seed, actor)
        self.prior: Any = frozen(actor)
        self.rng = np.random.default_rng(draws)
        least, command = self.played * (_ROLLOUT + 1), settings.chunk * task.num_actions
        self.store = ring_for(parts, config.online, least, command)
        self.replay = ChunkReplay(task, self.store, self.played, settings.gamma, self.rng)
        self.ratio = UpdateRatio(config.online_updates)
        self.prior_weight = PriorWeight(config.online_hold, end=config.online_hold_until * config.online)

    def after(self, recording: Recording, update: Callable[[], dict[str, float]], total: int) -> tuple[Phase, ...]:
        """The last phase on a recording, up to `total` gradient steps, and the one that is played after it."""
        self.replay.begin(recording)
        self._began = total
        offline = Offline(recording, update, until=total, ended=self.begin)
        offline.judged_as, offline.farewell = "offline", "learned offline; SAC goes on online"
        online = Online(self.store, self.played * _ROLLOUT, self.update)
        self.result = online.result = dict(offline.result)
        self._recorded_steps = self.result["steps"]
        return offline, online

    def begin(self) -> dict[str, float]:
        """The policy is learned: it is the prior from now on, and the critics learn what it is worth."""
        self.prior.load_state_dict(self.learner.actor.state_dict())
        info: dict[str, torch.Tensor] = {}
        for _ in range(self.config.online_warmup):
            info = self.learner.update(self.batch(1.0), actor=False)
        return {f"low/{name}": float(value) for name, value in info.items()}

    def update(self, observed: Observations, steps: int) -> dict[str, float]:
        """As many gradient steps as are due."""
        played, info = steps - self._began, dict[str, torch.Tensor]()
        self.result |= {"steps": self._recorded_steps + played, "online_steps": played}
        weight = self.prior_weight(played)
        if not self.replay.any_lived:
            return {}
        for _ in range(self.ratio.due(self.played * _ROLLOUT * self.store.num_envs)):
            info = self.learner.update(self.batch(self.config.online_recorded, weight))
        return {f"low/{name}": float(value) for name, value in info.items()} | {"low/prior": weight}

    def batch(self, recorded: float, weight: float = 0.0) -> Transitions:
        """Chunks as the learner reads them, a share of them recorded and the others played."""
        seen, action, _, reward, after, discount = self.replay.sample(self.settings.batch, recorded)
        obs, next_obs = (to_tensor(self.encoder(each).parts[0]) for each in (seen, after))
        prior = PriorActions(self.prior.mode(obs), weight) if weight else None
        return Transitions(obs, to_tensor(action), to_tensor(reward), next_obs, to_tensor(discount), prior)

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Restore what `state_dict` gave; nothing where there was no such part."""
        if state is not None:
            super().load_state_dict(state)
