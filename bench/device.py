"""What a GPU is worth: the same work with the networks in main memory and on the GPU, in seconds of the clock.

`python -m bench.device` prints a line per work; where there is no GPU, it has the processor's seconds alone.
Environments, stores and posteriors are on the processor either way, and most networks are small: dev/LOG.md has what
came of it.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from bench.halo import asking, by_rule, demonstrated
from bench.labels import ours as label
from bench.sac import ours as gradient_steps
from bench.sac import trained
from preceptor.agent.config import configure
from preceptor.agent.halo.config import HaloConfig
from preceptor.agent.halo.method import Halo
from preceptor.agent.halo.oracles import Truth
from preceptor.agent.train import train
from preceptor.envs.catalog import get_task
from preceptor.ground.device import device, records, use_device
from preceptor.teacher.local import LocalModel

Work = Callable[[], object]


def training(method: str, task: str, steps: int) -> Work:
    """A run of so many environment steps."""
    config = configure(method=method, task=task)
    return lambda: trained(replace(config, steps=steps))


def sac(steps: int) -> Work:
    """Gradient steps of two layers of 256 units, batch 256."""
    learn = gradient_steps("HalfCheetah-v5", "float32")
    return lambda: learn(steps)


def neural_halo() -> Work:
    """The first fits of networks, all restarts, to 100 demonstrations."""
    task = get_task("RescueWorld-n3")
    recording = demonstrated(task, 0)
    halo = Halo(task, recording, HaloConfig(policies="neural", rule="random"), 0)
    oracle = Truth(recording, len(task.options), 0.0, 0)
    return lambda: asking(halo, oracle, (0.0005,), 2.0, by_rule(halo))


def labels(scenes: int) -> Work:
    """Scenes labelled by the built-in model, four menu orders each."""
    task, model = get_task("ColoredDoorKey"), LocalModel(device=device())
    drawn = {scene.facts: scene for scene in task.sample_scenes(np.random.default_rng(0), 20 * scenes)}
    distinct = list(drawn.values())[:scenes]
    return lambda: label(model, task, distinct)


def whole_run() -> Work:
    """SimpleDoorKey taught by the built-in model, distilled, improved by reward, and judged on 500 levels."""

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            words = {
                "device": str(device()),
                "graphs": records(),
                "logdir": folder,
                "eval_episodes": 500,
                "quiet": True,
            }
            train(configure(words, method="ihac", task="SimpleDoorKey"))

    return run


WORKS: dict[str, Callable[[], Work]] = {
    "SAC, 1,000 gradient steps, HalfCheetah-v5": lambda: sac(1_000),
    "PPO, 20,000 steps, SimpleDoorKey": lambda: training("ppo", "SimpleDoorKey", 20_000),
    "SimpleDoorKey taught, distilled, improved and judged": whole_run,
    "HIRO, 4,000 steps, PointPush": lambda: training("hiro", "PointPush", 4_000),
    "HALO, first fits of networks, RescueWorld-n3": neural_halo,
    "labels of --teacher local, 300 scenes": lambda: labels(300),
}


def seconds(work: Work) -> float:
    """Of the clock, once everything is warm and until the device is done."""
    started = time.perf_counter()
    work()
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    """Print a line per work."""
    torch.set_num_threads(1)
    devices = ["cpu", "cuda", "cuda, graphs"] if torch.cuda.is_available() else ["cpu"]
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name() if 'cuda' in devices else 'no GPU'}", flush=True)
    for name, prepare in WORKS.items():
        spent: dict[str, float] = {}
        for where in devices:
            kind, _, recorded = where.partition(", ")
            use_device(kind, recorded=bool(recorded))
            work = prepare()
            work()
            spent[where] = min(seconds(work) for _ in range(2))
        figures = ", ".join(f"{where} {took:.2f} s" for where, took in spent.items())
        ratio = f": the GPU is {spent['cpu'] / spent['cuda']:.2f} times as fast" if "cuda" in spent else ""
        print(f"{name}: {figures}{ratio}", flush=True)


if __name__ == "__main__":
    main()
