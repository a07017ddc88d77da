"""SAC's gradient steps per CPU second against Stable-Baselines3's, on the same networks, batch and observations.

`python -m bench.sac [--steps N] [--tasks ID ...]` fills the memory of both with random play of the same Gymnasium
environments, and then measures gradient steps alone, transitions drawn from the memory included: 256 units twice, batch
256, one thread, both at once in turns, so that a busy machine is busy for both. Ratios are medians over the turns, once
with products in float32 and once in bfloat16 (`SACConfig.precision`). Seconds are those of the processor.

`python -m bench.sac --returns 100000 --seeds 0 1 2 --tasks HalfCheetah-v5` trains both for so many environment steps
with the same settings, and prints the mean greedy returns of the final policies on the same ten held-out levels, one
line per seed and learner, beside the CPU seconds (3.5 hours of one core here; `--learners` splits them over cores).
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import product
from statistics import median
from typing import Any, Literal

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
import torch

from preceptor.agent.config import TrainConfig, configure
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.levels import Player
from preceptor.agent.methods import entry_of
from preceptor.agent.methods.off_policy import OffPolicy, SACSettings
from preceptor.agent.methods.protocol import Parts
from preceptor.agent.methods.sac import SACConfig
from preceptor.agent.players import play
from preceptor.envs.catalog import get_task
from preceptor.ground.optim import bfloat16_rounds

TASKS = ("HalfCheetah-v5", "Ant-v5")
TURNS = 7
_MEMORY = 3_000  # environment steps to draw from
_SAME = SACConfig()
_HELD_OUT = range(1_000_000, 1_000_010)


def ours(name: str, precision: Literal["float32", "bfloat16"]) -> Callable[[int], None]:
    """Takes gradient steps as `OffPolicy` does."""
    task = get_task(name)
    config = SACSettings(warmup=_MEMORY, learner=replace(_SAME, precision=precision))
    run = TrainConfig(method="sac", task=task.name, steps=_MEMORY, num_envs=1, settings=config)
    flat = OffPolicy(Parts(task, run, np.random.SeedSequence(0)))
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
        learning_rate=_SAME.lr,
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


def trained(config: TrainConfig) -> Player:
    """The student of a method whose only phase is `Online`, after its steps, without a run directory."""
    task = get_task(config.task)
    learning, levels, acting = np.random.SeedSequence(config.seed).spawn(3)
    method = entry_of(config.method).make(Parts(task, config, learning))
    env = task.make_vec(config.num_envs, seed=int(levels.generate_state(1)[0]))
    hierarchy, done = Hierarchy(task, env, method.player, rng=np.random.default_rng(acting)), 0
    (phase,) = method.phases
    while not phase.over(done, config.steps):
        done, _ = phase.advance(hierarchy, done, config.steps)
        hierarchy.drain_finished()
    return method.player


def our_return(name: str, steps: int, seed: int) -> float:
    """Mean greedy return on held-out levels after training, by the preset."""
    config = configure(method="sac", task=name, seed=seed, steps=steps)
    player = trained(config)
    return float(play(get_task(name), player, _HELD_OUT, greedy=True).returns.mean())


def their_return(name: str, steps: int, seed: int) -> float:
    """The same of Stable-Baselines3's SAC: its defaults, but for as many random steps at first as ours."""
    model = sb3.SAC("MlpPolicy", name, learning_starts=SACSettings().warmup, device="cpu", seed=seed)
    model.learn(steps)
    env, total = gym.make(name), 0.0
    for level in _HELD_OUT:
        (obs, _), over = env.reset(seed=level), False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(model.predict(obs, deterministic=True)[0])
            total, over = total + float(reward), terminated or truncated
    return total / len(_HELD_OUT)


LEARNERS = {"ours": our_return, "stable-baselines3": their_return}


def trial(who: str, name: str, steps: int, seed: int) -> dict[str, Any]:
    """Return and CPU seconds of one training."""
    start = time.process_time()
    reached = LEARNERS[who](name, steps, seed)
    seconds = round(time.process_time() - start)
    return {"task": name, "steps": steps, "seed": seed, "who": who, "return": round(reached, 1), "CPU seconds": seconds}


def main(steps: int = 150, tasks: Sequence[str] = TASKS) -> dict[str, Any]:
    """Measure everything once and return the figures."""
    torch.set_num_threads(1)
    return {
        "gradient steps per CPU second": {name: compare(name, steps) for name in tasks},
        "bfloat16 rounds": bfloat16_rounds(),
        "versions": {name: version(name) for name in ("stable-baselines3", "torch", "gymnasium")},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150, help="gradient steps per turn")
    parser.add_argument("--tasks", nargs="+", default=TASKS, help="Gymnasium ids")
    parser.add_argument("--returns", type=int, help="environment steps to train both for, instead of measuring speed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="training seeds of that")
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS), help="whom to train")
    said = parser.parse_args()
    if said.returns:
        torch.set_num_threads(1)
        for task_name, number, learner in product(said.tasks, said.seeds, said.learners):
            print(json.dumps(trial(learner, task_name, said.returns, number)), flush=True)
    else:
        print(json.dumps(main(said.steps, said.tasks), indent=1))
