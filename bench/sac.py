"""SAC's gradient steps per CPU second against Stable-Baselines3's, on the same networks, batch and observations.

`python -m bench.sac [--steps N] [--tasks ID ...]` fills the memory of both with random play of the same Gymnasium
environments, and then measures gradient steps alone, transitions drawn from the memory included: 256 units twice, batch
256, one thread, both at once in turns, so that a busy machine is busy for both. Ratios are medians over the turns, once
with products in float32 and once in bfloat16 (`SACConfig.precision`). Seconds are those of the processor.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import stable_baselines3 as sb3
import torch

from agent.hierarchy import Hierarchy
from agent.methods.flat import Flat, FlatConfig
from agent.methods.sac import SACConfig
from envs.catalog import get_task

TASKS = ("HalfCheetah-v5", "Ant-v5")
TURNS = 7
_MEMORY = 3_000  # environment steps to draw from
_SAME = SACConfig()


def ours(name: str, precision: str) -> Callable[[int], None]:
    """Takes gradient steps as `Flat` does."""
    task = get_task(name)
    config = FlatConfig(replace(_SAME, precision=precision), warmup=_MEMORY)
    flat = Flat(task, config, 1, np.random.SeedSequence(0), _MEMORY)
    hierarchy = Hierarchy(task, task.make_vec(1), flat.player, rng=np.random.default_rng(0))
    hierarchy.collect(flat.store, _MEMORY)

    def train(steps: int) -> None:
        for _ in range(steps):
            flat.learner.update(flat.batch())

    return train


def theirs(name: str) -> Callable[[int], None]:
    """Takes gradient steps as Stable-Baselines3's SAC does, with its own memory."""
    model = sb3.SAC(
        "MlpPolicy",
        name,
        learning_rate=_SAME.learning_rate,
        buffer_size=_MEMORY,
        learning_starts=_MEMORY,
        policy_kwargs={"net_arch": list(_SAME.hidden)},
        device="cpu",
        seed=0,
    )
    model.learn(_MEMORY)
    return lambda steps: model.train(steps, _SAME.batch)


def speed(train: Callable[[int], None], steps: int) -> float:
    """Gradient steps per CPU second."""
    start = time.process_time()
    train(steps)
    return steps / (time.process_time() - start)


def compare(name: str, steps: int) -> dict[str, Any]:
    """Speeds and ratios on one task."""
    learners = {
        "float32": ours(name, "float32"),
        "bfloat16": ours(name, "bfloat16"),
        "stable-baselines3": theirs(name),
    }
    for train in learners.values():
        train(20)
    turns = [{who: speed(train, steps) for who, train in learners.items()} for _ in range(TURNS)]
    figures: dict[str, Any] = {who: round(median(turn[who] for turn in turns)) for who in learners}
    for precision in ("float32", "bfloat16"):
        ratio = median(turn[precision] / turn["stable-baselines3"] for turn in turns)
        figures[f"ratio, {precision}"] = round(ratio, 2)
    return figures


def main(steps: int = 150, tasks: Sequence[str] = TASKS) -> dict[str, Any]:
    """Measure everything once and return the figures."""
    torch.set_num_threads(1)
    return {
        "gradient steps per CPU second": {name: compare(name, steps) for name in tasks},
        "bfloat16 in hardware": torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        "versions": {name: version(name) for name in ("stable-baselines3", "torch", "gymnasium")},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150, help="gradient steps per turn")
    parser.add_argument("--tasks", nargs="+", default=TASKS, help="Gymnasium ids")
    said = parser.parse_args()
    print(json.dumps(main(said.steps, said.tasks), indent=1))
