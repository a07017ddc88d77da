"""Behavioural cloning: loss L2 with w = 1 on demonstrations, one action or a chunk of them at a time."""

from dataclasses import dataclass, field

import numpy as np
import torch

from preceptor.agent.chunks import ChunkPolicy, check_length, chunk_player
from preceptor.agent.data.views import windows
from preceptor.agent.demonstrating import demonstrations_of
from preceptor.agent.losses import weighted_regression
from preceptor.agent.methods.protocol import Entry, Given, Method, Parts, Preset
from preceptor.agent.phases import Offline
from preceptor.agent.resumable import places
from preceptor.controller.encoders import encoder_of
from preceptor.controller.network import TrunkConfig, to_tensors
from preceptor.ground.device import to_device, to_tensor
from preceptor.ground.optim import FusedAdam
from preceptor.ground.ranges import Count, Positive


@dataclass(frozen=True)
class CloningSettings:
    """Behavioural cloning of demonstrations (Pomerleau, 1991). --steps are gradient steps."""

    demos: str = "100"
    """Demonstrations: so many are recorded of the task's expert, and a quarter more that are held out; with
    `mixed:` before the number, some of the expert's action groups are faulty at times; or a dataset, the last fifth of
    which is held out: of Minari by its id, of LeRobot by its folder, of D4RL by its file. Several with a plus sign:
    mixed:200+4."""
    chunk: Count = 1
    """k, actions that are predicted and played at a time (action chunking; Zhao et al., 2023)."""
    lr: Positive = 1e-3
    """Learning rate of Adam."""
    batch: Count = 256
    """Chunks of k steps per gradient step."""
    trunk: TrunkConfig = field(default_factory=lambda: TrunkConfig(hidden=128))
    """Size of the network."""


class Cloning(Method):
    """The method: one phase, `Offline`.

    Args:
        parts: Task, settings and random streams.

    Raises:
        UserError: There are too few demonstrations, or they are not of this task.
    """

    saved = places("policy", "optimizer", "rng")  # the demonstrations are the run's own
    played = ("policy",)

    def __init__(self, parts: Parts) -> None:
        task, settings = parts.task, parts.settings
        self.settings, self.encoder = settings, encoder_of(task)
        self.policy = to_device(ChunkPolicy(task, settings.chunk, settings.trunk))
        self.optimizer = FusedAdam(self.policy.parameters(), settings.lr)
        self.rng = np.random.default_rng(parts.seeds)
        self.player = chunk_player(task, self.policy)
        if parts.run is not None:
            self.recording, _ = demonstrations_of(settings.demos, task, parts.config.seed, parts.run)
            self.windows = windows(self.recording, settings.chunk)
            check_length(self.recording, settings.chunk)
            self.phases = (Offline(self.recording, self.update),)

    def update(self) -> dict[str, float]:
        """One gradient step on a batch of windows."""
        rows = self.rng.integers(len(self.windows), size=self.settings.batch)
        seen = to_tensors(self.encoder(self.windows.first(self.recording.obs, rows)))
        action, inside = (to_tensor(self.windows.of(self.recording.action, rows)), to_tensor(self.windows.inside(rows)))
        log_probs = self.policy.log_probs(seen, action, inside)  # [B, G]
        loss = weighted_regression(log_probs, torch.ones_like(log_probs)).mean()
        self.optimizer.minimize(loss)
        return {"low/nll": float(loss.detach())}


def preset(given: Given) -> Preset:
    """Settings of behavioural cloning for a task."""
    steps = given.steps or {"tiny": 500, "small": 5_000, "paper": 50_000}[given.size]
    return Preset(steps, 1, CloningSettings())


BC = Entry((CloningSettings,), preset, Cloning, plays=lambda settings: False)
