"""Reinforcement learning over skills: return by what shapes the skills and what holds the policy (issue 17).

`python -m bench.helios` measures one seed on the kinematic kitchen. The tables are of

    python -m bench.helios --full --shard 0/2     # and 1/2 beside it; an interrupted call goes on where it was
    python -m bench.helios --report log/helios.jsonl

At a seed all arms have the same task (an order of four subtasks that is in no demonstration), the same demonstrations
and, where they have the same latent, the same skill model, so that differences are paired. Settings were chosen on
seeds below 10; tables show seeds from 10 on, each of which was run once.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import preceptor
from preceptor.agent.config import TrainConfig
from preceptor.agent.data.recording import Recording
from preceptor.agent.demonstrating import record
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.methods.helios import Helios, HeliosSettings
from preceptor.agent.methods.protocol import Parts
from preceptor.agent.players import play
from preceptor.agent.runs.statistics import mean_interval, paired_difference
from preceptor.envs.catalog import get_task
from preceptor.envs.task import Task
from preceptor.ground.level_seeds import SEEDS_PER_SPLIT

SEEDS, FIRST = 10, 10  # of the tables; the first of them
DEMONSTRATIONS, NOISE = 300, 0.2  # of the expert, and the deviation of its noise
STEPS, ENVS, CURVE, EPISODES = 4_500, 8, 10, 100  # gradient steps; environments; judgements on the way, levels of each


class Arm(NamedTuple):
    """A latent, what holds the policy, and the policy's kind."""

    latent: str
    prior: str
    policy: str = "prior"


ARMS = {
    "SPiRL": Arm("plain", "gauss"),
    "HELIOS as published": Arm("shaped", "gauss"),
    "HELIOS": Arm("shaped", "dpm"),
    "MDN, plain": Arm("plain", "mdn"),
    "MDN, shaped": Arm("shaped", "mdn"),
    "mixture policy, Gaussian prior": Arm("shaped", "gauss", "mixture"),
    "no prior (SSP)": Arm("plain", "uniform"),
}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {  # methods without skills: what tells them to play, and their settings
    "qc": ("online", {"method": "qc", "demos": str(DEMONSTRATIONS)}),
    "SAC": ("steps", {"method": "sac"}),
    "BC": ("", {"method": "bc", "demos": str(DEMONSTRATIONS), "steps": 10_000, "chunk": 10}),
}
PAIRS = [
    ("HELIOS", "HELIOS as published"),
    ("HELIOS", "SPiRL"),
    ("HELIOS as published", "SPiRL"),
    ("HELIOS", "MDN, shaped"),
    ("MDN, shaped", "HELIOS as published"),
    ("MDN, plain", "SPiRL"),
    ("HELIOS", "qc"),
    ("HELIOS", "mixture policy, Gaussian prior"),
    ("SPiRL", "no prior (SSP)"),
]


def made(task: Task, recording: Recording, seed: int, settings: HeliosSettings) -> Helios:
    """The method on demonstrations that are at hand."""
    torch.manual_seed(seed)
    config = TrainConfig(method="helios", task=task.name, steps=STEPS, num_envs=ENVS, seed=seed, settings=settings)
    method = Helios(Parts(task, config, np.random.SeedSequence(seed)))
    method.begin(recording)
    return method


def skilled(method: Helios, like: Helios | None) -> None:
    """Learn the skill model, or take over the one of another, and then the prior."""
    skills, prior, _ = method.phases
    if like is not None:
        method.model, method.mixture, method.fits = like.model, like.mixture, like.fits
        method.taken = method.skill_steps
    for phase in (skills, prior):
        while not phase.over(method.taken, STEPS):
            phase.advance(None, method.taken, STEPS)
        phase.end()


def returned(task: Task, method: Helios, seed: int, greedy: bool = False) -> float:
    """Mean return on held-out levels."""
    levels = range(SEEDS_PER_SPLIT, SEEDS_PER_SPLIT + EPISODES)
    return float(play(task, method.player, levels, greedy=greedy, seed=seed).returns.mean())


def measure(task_name: str, seed: int, base: HeliosSettings, arms: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row per arm: returns of prior roll-outs, on the way and in the end, and CPU seconds."""
    yield from (measure_other(task_name, seed, base.online, name) for name in arms if name in OTHERS)
    if not (arms := [name for name in arms if name in ARMS]):
        return
    task = get_task(task_name.format(seed=seed))
    recording = record(task, DEMONSTRATIONS, [seed, 0], NOISE)
    models: dict[str, Helios] = {}
    for name in arms:
        arm, start = ARMS[name], time.process_time()
        method = made(task, recording, seed, replace(base, latent=arm.latent, prior=arm.prior, policy=arm.policy))  # type: ignore[arg-type]
        skilled(method, models.get(arm.latent))
        models.setdefault(arm.latent, method)
        offline = time.process_time() - start
        curve = [returned(task, method, seed)]
        environments = task.make_vec(ENVS, seed=seed)
        hierarchy = Hierarchy(task, environments, method.player, rng=np.random.default_rng([seed, 1]))
        steps, total, online, start = STEPS, STEPS + base.online, method.phases[-1], time.process_time()
        info: dict[str, float] = {}
        while not online.over(steps, total):
            steps, new = online.advance(hierarchy, steps, total)
            info |= new
            if len(curve) <= (steps - STEPS) * CURVE // base.online:
                curve.append(returned(task, method, seed))
        seconds = time.process_time() - start
        yield {
            "task": task.name, "arm": name, "seed": seed, "curve": curve, "greedy": returned(task, method, seed, True),
            "components": method.components[0], "found": len(method.mixture.weight),
            "offline_seconds": offline, "seconds": seconds,
            **{name: info.get(f"high/{name}") for name in ("divergence", "hold", "q")},
        }  # fmt: skip


def measure_other(task_name: str, seed: int, online: int, name: str) -> dict[str, Any]:
    """The row of a method without skills. Its curve begins before it plays; that of a clone is flat."""
    (plays, settings), start = OTHERS[name], time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = preceptor.train(
            task_name.format(seed=seed), seed=seed, logdir=folder, eval_episodes=EPISODES, eval_every=online // CURVE,
            **settings | ({plays: online} if plays else {}),
        )  # fmt: skip
        lines = (run.path / "metrics.jsonl").read_text().splitlines()
    judged = [row["eval/sampled_return"] for row in map(json.loads, lines) if "eval/sampled_return" in row]
    first, student = run.result.get("offline", {}), run.result["student"]
    before = first["sampled"]["return"] if first else 0.0
    curve = [before, *judged[-CURVE:]] if plays else [student["sampled"]["return"]] * (CURVE + 1)
    return {
        "task": run.result["task"], "arm": name, "seed": seed, "curve": curve, "greedy": student["greedy"]["return"],
        "offline_seconds": 0.0, "seconds": time.process_time() - start,
    }  # fmt: skip


def report(path: Path) -> str:
    """The tables in Markdown: returns of each arm with their intervals, and paired differences."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    by_arm: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_arm.setdefault(row["arm"], {})[row["seed"]] = row

    def measures(arm: str, seeds: Collection[int] | None = None) -> dict[str, list[float]]:
        mine = [row for seed, row in sorted(by_arm[arm].items()) if seeds is None or seed in seeds]
        half = [float(np.mean(row["curve"][1 : CURVE // 2 + 1])) for row in mine]
        return {
            "prior alone": [row["curve"][0] for row in mine],
            "first half": half,
            "end": [row["curve"][-1] for row in mine],
            "end, greedy": [row["greedy"] for row in mine],
        }

    heads = list(measures(next(iter(by_arm))))
    lines = [f"| arm | seeds | {' | '.join(heads)} | CPU s |", "|---" * (len(heads) + 3) + "|"]
    for arm, mine in by_arm.items():
        told = [f"{mean:.2f} [{low:.2f}, {high:.2f}]" for mean, low, high in map(mean_interval, measures(arm).values())]
        seconds = np.mean([row["offline_seconds"] + row["seconds"] for row in mine.values()])
        lines.append(f"| {arm} | {len(mine)} | {' | '.join(told)} | {seconds:.0f} |")
    lines += ["", "| paired | first half | end |", "|---|---|---|"]
    for pair in PAIRS:
        if all(name in by_arm for name in pair):
            both = by_arm[pair[0]].keys() & by_arm[pair[1]].keys()
            ours, theirs = (measures(name, both) for name in pair)
            told = []
            for name in ("first half", "end"):
                mean, low, high = paired_difference(ours[name], theirs[name])
                better = sum(a > b for a, b in zip(ours[name], theirs[name], strict=True))
                told.append(f"{mean:+.2f} [{low:+.2f}, {high:+.2f}], {better} of {len(ours[name])}")
            lines.append(f"| {' - '.join(pair)} | {' | '.join(told)} |")
    return "\n".join(lines)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all seeds of the tables")
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th seed from the i-th on")
    parser.add_argument("--out", type=Path, default=Path("log/helios.jsonl"))
    parser.add_argument("--report", type=Path, help="print the tables of this file")
    parser.add_argument("--task", default="KitchenKinematic:{seed}", help="{seed} stands for the seed")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--arms", nargs="*", default=list(ARMS)[:5], choices=[*ARMS, *OTHERS])
    parser.add_argument("--set", nargs="*", default=[], help="settings, such as beta=0.1")
    words = parser.parse_args()
    torch.set_num_threads(1)
    if words.report:
        print(report(words.report))
        return
    index, count = map(int, words.shard.split("/"))
    changes = {name: json.loads(value) for name, _, value in (each.partition("=") for each in words.set)}
    seeds = [FIRST + n for n in range(SEEDS)] if words.full else words.seeds
    words.out.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in words.out.read_text().splitlines()] if words.out.exists() else []
    for seed in seeds[index::count]:
        left = [arm for arm in words.arms if (arm, seed) not in {(row["arm"], row["seed"]) for row in done}]
        for row in measure(words.task, seed, replace(HeliosSettings(), **changes), left):
            with words.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
