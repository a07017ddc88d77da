"""Tuning HIRO and flat agents on PointUMaze: as many trials for each, recorded, then fresh seeds for the best.

`python -m dev.tuning [--shard 0/2]` trains each setting of `GRID` with `TRIAL_SEED`, judges it on levels that no table
shows, then trains the best one of each agent with the table's seeds and judges these on the table's levels. A line of
JSON per run goes to log/tuning.jsonl; a run that stands there is not trained again, nor is the preset with a seed that
`dev.tables mazes` has trained. `--report` prints the tables.
"""

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from bench.sac import trained
from dev.tables import SEEDS, folder, markdown
from preceptor.agent.config import configure
from preceptor.agent.players import STYLES, play
from preceptor.agent.runs.statistics import wilson
from preceptor.envs.catalog import get_task

TASK = "PointUMaze"
TRIAL_SEED = 100
TRIAL_LEVELS, LEVELS = range(1_500_000, 1_500_050), range(1_000_000, 1_000_050)
FILE = Path("log/tuning.jsonl")
AGENTS = {
    "HIRO": configure(method="hiro", task=TASK, savedir="table"),
    "flat SAC": configure(method="sac", task=TASK, savedir="table"),
    "flat TD3": configure(method="td3", task=TASK, savedir="table"),
    "flat SAC, extended": configure(method="sac", task=TASK, exploration="extended", savedir="table-extended"),
}


def _nested(student: Any, part: str, **changes: Any) -> Any:
    return replace(student, **{part: replace(getattr(student, part), **changes)})


# Two knobs of each, two values of each knob. All had 0.25 gradient steps before; the preset is what came of this.
GRID: dict[str, dict[str, Callable[[Any], Any]]] = {
    "HIRO": {
        "low updates 0.25": lambda s: replace(s, low_updates=0.25),
        "preset": lambda s: s,
        "low updates 0.25, high updates 0.2": lambda s: replace(s, low_updates=0.25, high_updates=0.2),
        "high updates 0.2": lambda s: replace(s, high_updates=0.2),
    },
    "flat SAC": {
        "updates 0.25": lambda s: replace(s, updates=0.25),
        "preset": lambda s: s,
        "updates 0.25, rate 3e-4": lambda s: replace(_nested(s, "learner", lr=3e-4), updates=0.25),
        "rate 3e-4": lambda s: _nested(s, "learner", lr=3e-4),
    },
    "flat TD3": {
        "updates 0.25": lambda s: replace(s, updates=0.25),
        "preset": lambda s: s,
        "updates 0.25, noise 0.3": lambda s: replace(_nested(s, "learner", noise=0.3), updates=0.25),
        "noise 0.3": lambda s: _nested(s, "learner", noise=0.3),
    },
    "flat SAC, extended": {
        "updates 0.25": lambda s: replace(s, updates=0.25),
        "preset": lambda s: s,
        "updates 0.25, holding 0.03": lambda s: replace(s, updates=0.25, holding=0.03),
        "holding 0.03": lambda s: replace(s, holding=0.03),
    },
}


def lines() -> list[dict[str, Any]]:
    """The runs so far."""
    return [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []


def run(agent: str, setting: str, seed: int, levels: range) -> None:
    """Train and judge once, unless that is on record."""
    if any((line["agent"], line["setting"], line["seed"]) == (agent, setting, seed) for line in lines()):
        return
    config = replace(AGENTS[agent], seed=seed)
    row = folder(replace(config, savedir=f"{config.savedir}/seed-{seed}")) / "result.json"
    if setting == "preset" and levels == LEVELS and row.exists():
        student = json.loads(row.read_text())["student"]
        success = {style: student[style]["success"] for style in STYLES}
    else:
        player = trained(replace(config, settings=GRID[agent][setting](config.settings)))
        success = {
            style: float(play(get_task(TASK), player, levels, greedy=style == "greedy", seed=seed).success.mean())
            for style in STYLES
        }
    line = {"agent": agent, "setting": setting, "seed": seed, "steps": config.steps, **success}
    print(json.dumps(line), flush=True)
    FILE.parent.mkdir(exist_ok=True)
    with FILE.open("a") as file:
        file.write(json.dumps(line) + "\n")


def best(agent: str) -> str:
    """The setting with the most successes in its trial, sampled and greedy together; the first of several."""
    trials = {line["setting"]: line for line in lines() if line["agent"] == agent and line["seed"] == TRIAL_SEED}
    return max(GRID[agent], key=lambda setting: trials[setting]["sampled"] + trials[setting]["greedy"])


def report() -> str:
    """Trials, then the best settings over the table's seeds with Wilson intervals."""
    trials = [line for line in lines() if line["seed"] == TRIAL_SEED]
    rows = [(t["agent"], t["setting"], f"{t['greedy']:.2f}", f"{t['sampled']:.2f}") for t in trials]
    finals = []
    for agent in AGENTS:
        fresh = [line for line in lines() if line["agent"] == agent and line["seed"] in SEEDS]
        if not fresh:
            continue
        cells = []
        for style in ("greedy", "sampled"):
            scores = [line[style] for line in sorted(fresh, key=lambda line: line["seed"])]
            count = len(scores) * len(LEVELS)
            low, high = wilson(round(float(np.mean(scores)) * count), count)
            each = " ".join(f"{score:.3f}" for score in scores)
            cells.append(f"**{np.mean(scores):.3f}** [{low:.3f}, {high:.3f}] ({each})")
        finals.append((agent, fresh[0]["setting"], *cells))
    head = ("agent", "setting", "greedy", "sampled")
    return markdown(head, rows) + "\n\n" + markdown(head, finals)


def main() -> None:
    """Read the command line; train what is missing, or print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shard", default="0/1", help="i/n: train only every n-th agent")
    parser.add_argument("--report", action="store_true", help="print the tables, train nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.report:
        print(report())
        return
    shard, shards = map(int, arguments.shard.split("/"))
    for agent in list(AGENTS)[shard::shards]:
        for setting in GRID[agent]:
            run(agent, setting, TRIAL_SEED, TRIAL_LEVELS)
        for seed in SEEDS:
            run(agent, best(agent), seed, LEVELS)


if __name__ == "__main__":
    main()
