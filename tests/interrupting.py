"""Training that is interrupted, as by Ctrl-C."""

from typing import Any

import pytest

from agent.config import TrainConfig
from agent.tracking.metrics import Metrics
from agent.tracking.run import Run
from agent.train import train


def train_until(config: TrainConfig, step: int | None) -> Run:
    """Train; a step interrupts at the first metrics after it, between two checkpoints."""
    written = Metrics.scalars

    def interrupt(self: Metrics, at: int, values: Any) -> None:
        written(self, at, values)
        if step is not None and at > step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Metrics, "scalars", interrupt)
        try:
            train(config)
        except KeyboardInterrupt:
            assert step is not None
    return Run.find(config.logdir, config.method, config.task, config.savedir)
