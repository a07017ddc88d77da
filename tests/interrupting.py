"""Training that is interrupted, as by Ctrl-C, and what a run leaves behind."""

import json
import re
from typing import Any

import pytest

from preceptor.agent.config import TrainConfig
from preceptor.agent.runs.metrics import CLOCKED, Metrics, read_metrics
from preceptor.agent.runs.run import Run
from preceptor.agent.train import train


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


def left_behind(run: Run) -> tuple[int, bytes, str, list[dict[str, float]]]:
    """Step, tensors, structure and metrics, without what a clock measured."""
    assert run.last_step is not None
    folder = run.checkpoint(run.last_step)
    structure = json.dumps(json.loads((folder / "state.json").read_text())["tree"])
    structure = re.sub(r'\["seconds", [^\]]*\]', "", structure)
    numbers = [
        {tag: number for tag, number in row.items() if not tag.startswith(CLOCKED)}
        for row in read_metrics(run.path / "metrics.jsonl")
    ]
    return run.last_step, (folder / "state.safetensors").read_bytes(), structure, numbers
