"""Whose fault was it? Success of policies by how a critic's values become advantages of body groups (issue 16).

`python -m bench.hvd` measures one seed on the kinematic twin, in about three minutes. The tables are of

    python -m bench.hvd --full --shard 0/2     # and 1/2 beside it; an interrupted call goes on where it was
    python -m bench.hvd --report log/hvd.jsonl

At a seed all arms see the same demonstrations and the same levels, so that differences are paired. An arm says which
critic its values are from: `shared` is one network for all subsets of the groups, `own` one for its own subsets alone.
Settings were chosen on seeds 0 and 1; tables show seeds from 10 on, each of which was run once.
"""

import argparse
import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from preceptor.agent.attribution import Word
from preceptor.agent.config import TrainConfig
from preceptor.agent.data.faults import Faults
from preceptor.agent.data.recording import Recording, joined
from preceptor.agent.demonstrating import record, with_optimal
from preceptor.agent.methods.hvd import Hvd, HvdSettings
from preceptor.agent.methods.protocol import Parts
from preceptor.agent.players import play
from preceptor.agent.runs.statistics import mean_interval, paired_difference
from preceptor.envs.catalog import get_task
from preceptor.envs.task import Task
from preceptor.envs.wholebody.tasks import WholeBodyTwin
from preceptor.ground.level_seeds import SEEDS_PER_SPLIT

SEEDS, FEW, FIRST = 10, 3, 10  # of the tables; of what needs fewer; the first of them
OPTIMAL, EPISODES = 4, 200  # optimal demonstrations; episodes on which an arm is judged
MIXED, ROBOT_MIXED = 100, 200  # mixed episodes, of the twin and of the robot
POLICIES = 2  # are trained for each arm, whose success is their mean: how one begins moves it by as much as the arm
CRITIC, POLICY = 1_500, 1_500  # gradient steps; an arm without a critic has all for its policy
ROBOT_POLICY = 5_000  # of the robot's policies, which are not finished after as many as the twin's
SHARED: tuple[Word, ...] = ("difference", "marginal", "flat", "prefix", "alone", "last")
BASELINES = [(word, critic) for critic in ("own", "shared") for word in ("flat", "prefix")] + [("difference", "shared")]
PAIRS = [((word, "shared"), baseline) for word in ("shapley", "shapley alone", "marginal") for baseline in BASELINES]
PAIRS += [(("prefix", "own"), ("flat", "own"))]
NAMED = [(("shapley", "shared"), baseline) for baseline in BASELINES[:2]]


@dataclass(frozen=True)
class Trial:
    """All arms at one seed.

    Attributes:
        task: WholeBodyTwin or WholeBody.
        groups: Of the body.
        mixed: Episodes of mixed quality.
        seed: Of demonstrations and learning.
        lean: Only the arms that a claim is about.
        policy: Gradient steps of a policy.
    """

    task: str = "WholeBodyTwin"
    groups: int = 4
    mixed: int = MIXED
    seed: int = 0
    lean: bool = False
    policy: int = POLICY


def trials() -> Iterator[Trial]:
    """Those of the tables: ten seeds; then three, of the curve over the number of episodes and of finer bodies."""
    yield from (Trial(seed=FIRST + n) for n in range(SEEDS))
    for n in range(SEEDS):
        yield Trial("WholeBody", mixed=ROBOT_MIXED, seed=FIRST + n, lean=True, policy=ROBOT_POLICY)
    yield from (Trial(groups=3, seed=FIRST + n, lean=True) for n in range(SEEDS))
    for groups, mixed in ((4, 50), (4, 200), (5, MIXED), (6, MIXED)):
        yield from (Trial(groups=groups, mixed=mixed, seed=FIRST + n, lean=True) for n in range(FEW))


Wanted = Callable[[str, str], bool]  # of the name of an arm and its critic


class Arm(NamedTuple):
    """A critic, `shared`, its `own` or `none`, with trained policies; what it found out about faults; CPU seconds."""

    name: str
    critic: str
    methods: list[Hvd]
    found: dict[str, float]
    seconds: float


def demonstrations(task: Task, trial: Trial) -> Recording:
    """Mixed episodes and a few optimal ones."""
    mixed = record(task, trial.mixed, [trial.seed, 0], faults=Faults())
    best = record(task, OPTIMAL, [trial.seed, 1])
    return joined([with_optimal(mixed, False), with_optimal(best, True)])


def made(task: Task, recording: Recording, seed: int, settings: HvdSettings, steps: int = CRITIC + POLICY) -> Hvd:
    """The method on demonstrations that are at hand."""
    torch.manual_seed(seed)
    config = TrainConfig(method="hvd", task=task.name, steps=steps, seed=seed, settings=settings)
    method = Hvd(Parts(task, config, np.random.SeedSequence(seed)))
    method.recording = recording
    method.begin(steps)
    return method


def learned(method: Hvd, critic: Hvd | None = None) -> tuple[dict[str, float], float]:
    """Train it, with the critic of another where one is given: what it found out about faults, and CPU seconds."""
    start, found = time.process_time(), dict[str, float]()
    if critic is not None:
        method.q, method.v, method.taken = critic.q, critic.v, method.value_steps
    if critic not in (None, method):
        found = method.weigh()
    for phase in method.phases[-1 if critic is not None else 0 :]:
        while not phase.over(method.taken, method.total):
            phase.advance(None, method.taken, method.total)
        found = phase.end() or found
    return found, time.process_time() - start


def arms(task: Task, recording: Recording, trial: Trial, base: HvdSettings, wanted: Wanted) -> Iterator[Arm]:
    """Each arm that is wanted, once it is trained."""

    def trained(name: str, critic: str, data: Recording = recording, of: Hvd | None = None, **changes: Any) -> Arm:
        settings, steps = replace(base, value_steps=CRITIC, **changes), CRITIC + trial.policy
        methods = [made(task, data, trial.seed + 1_000 * n, settings, steps) for n in range(POLICIES)]
        found, seconds = learned(methods[0], of)
        for method in methods[1:]:
            method.weights, method.taken = methods[0].weights, method.value_steps
            seconds += learned(method, method)[1]
        return Arm(name, critic, methods, found, seconds)

    @cache
    def family() -> Arm:  # whose critic all shared ones have
        return trained("shapley", "shared", attribution="shapley")

    def arm(name: str, critic: str, data: Recording = recording, **changes: Any) -> Iterator[Arm]:
        if not wanted(name, critic):
            return
        of = family().methods[0] if critic == "shared" else None
        yield family() if name == "shapley" else trained(name, critic, data, of, **changes)

    yield from arm("shapley", "shared")
    yield from arm("shapley alone", "shared", attribution="shapley", joint=0.0)
    for word in SHARED[: 2 if trial.lean else 6 if trial.seed < FIRST + FEW else 4]:
        yield from arm(word, "shared", attribution=word)
    yield from arm("flat", "own", attribution="flat")
    yield from arm("prefix", "own", attribution="prefix")
    if trial.seed < FIRST + FEW and not trial.lean:  # controls that are far off need no more
        yield from arm("ordered dimensions", "own", attribution="marginal", groups="each")
        yield from arm("DDPG+BC", "own", attribution="flat", extract="ddpg")
    yield from arm("mask per group", "none", attribution="truth")
    if trial.lean:
        return
    yield from arm("mask of chunks", "none", attribution="truth-chunk")
    blameless = replace(recording, extra={**recording.extra, "faults": np.zeros_like(recording.extra["faults"])})
    yield from arm("BC all", "none", blameless, attribution="truth")
    best = blameless[np.flatnonzero(recording.extra["optimal"].any(1))]
    yield from arm("BC optimal", "none", best, attribution="truth")


def measure(trial: Trial, base: HvdSettings, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """A row per arm that is wanted: success, greedy and sampled, fault detection, CPU seconds of its training."""
    task = WholeBodyTwin(trial.groups) if trial.task == "WholeBodyTwin" else get_task(trial.task)
    recording = demonstrations(task, trial)
    episodes = EPISODES if trial.task == "WholeBodyTwin" else EPISODES // 2  # physics takes its time
    levels = range(SEEDS_PER_SPLIT, SEEDS_PER_SPLIT + episodes)
    success = float(recording.extra["success"][: trial.mixed].any(1).mean())
    for arm in arms(task, recording, trial, base, wanted):
        row = {"arm": arm.name, "critic": arm.critic, "seconds": arm.seconds, "mixed_success": success, **arm.found}
        for mode in ("greedy", "sampled"):
            played = [play(task, m.player, levels, greedy=mode == "greedy", seed=trial.seed) for m in arm.methods]
            row[mode] = float(np.mean([each.success.mean() for each in played]))
        yield asdict(trial) | row


def cost(groups: int, updates: int = 100) -> dict[str, float]:
    """What an update of the values of all subsets costs, over that of the full set alone: a critic for each subset
    would cost 2^groups."""
    task, times = WholeBodyTwin(groups), {}
    recording = demonstrations(task, Trial(mixed=20))
    for word in ("shapley", "flat"):
        method = made(task, recording, 0, HvdSettings(attribution=word))
        start = time.process_time()
        for _ in range(updates):
            method.update_values()
        times[word] = time.process_time() - start
    ratio = times["shapley"] / times["flat"]
    return {"groups": groups, "over one critic": ratio, "over separate critics": ratio / 2**groups}


def speed(task: str, envs: int, steps: int = 100) -> float:
    """Environment steps per CPU second of random actions."""
    env = get_task(task).make_vec(envs, seed=0)
    env.reset()
    actions, start = env.action_space.sample(), time.process_time()
    for _ in range(steps):
        env.step(actions)
    env.close()
    return envs * steps / (time.process_time() - start)


def report(path: Path) -> str:
    """The tables in Markdown: success of each arm with its interval, and paired differences."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for row in measured(path):
        what = f"{row['task']}, {row['groups']} groups, {row['mixed']} mixed and {OPTIMAL} optimal episodes"
        tables.setdefault(f"{what}, {row['policy']} steps of a policy", []).append(row)
    lines = [line for title, rows in tables.items() for line in _table(title, rows)]
    return "\n".join(lines)


def measured(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; in older ones all policies had the same steps."""
    return [{"policy": POLICY} | json.loads(line) for line in path.read_text().splitlines()]


def _table(title: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    by_arm: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_arm.setdefault((row["arm"], row["critic"]), {})[row["seed"]] = row
    seeds = sorted(by_arm["shapley", "shared"])

    def column(arm: tuple[str, str], name: str, only: Collection[int] = seeds) -> list[float]:
        return [row.get(name, float("nan")) for seed, row in sorted(by_arm[arm].items()) if seed in only]

    mixed = np.mean(column(("shapley", "shared"), "mixed_success"))
    aucs = sorted({name for row in rows for name in row if name.startswith("low/auc")})
    heads = ["seeds", "greedy", "sampled", *(name.removeprefix("low/auc_") for name in aucs), "named", "CPU s"]
    lines = ["", f"**{title}**, seeds {seeds[0]} to {seeds[-1]} ({len(seeds)}); mixed success {mixed:.2f}.", ""]
    lines += [f"| arm | critic | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    for arm in by_arm:
        mean, low, high = mean_interval(column(arm, "greedy"))
        rest = [np.mean(column(arm, name)) for name in ("sampled", *aucs, "low/named")]
        told = " | ".join("" if np.isnan(value) else f"{value:.3f}" for value in rest)
        seconds = np.mean(column(arm, "seconds"))
        success = f"{mean:.3f} [{low:.3f}, {high:.3f}]"
        lines += [f"| {arm[0]} | {arm[1]} | {len(by_arm[arm])} | {success} | {told} | {seconds:.0f} |"]
    for told, name in (("greedy success", "greedy"), ("faulty group named", "low/named")):
        lines += ["", f"| {told}, paired | difference | better in |", "|---|---|---|"]
        for first, second in PAIRS if name == "greedy" else NAMED:
            if first in by_arm and second in by_arm:
                both = by_arm[first].keys() & by_arm[second].keys()  # a call may have been interrupted
                ours, theirs = column(first, name, both), column(second, name, both)
                mean, low, high = paired_difference(ours, theirs)
                better = f"{sum(a > b for a, b in zip(ours, theirs, strict=True))} of {len(both)}"
                names = f"{' '.join(first)} - {' '.join(second)}"
                lines += [f"| {names} | {mean:+.3f} [{low:+.3f}, {high:+.3f}] | {better} |"]
    return lines


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all trials of the tables")
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th trial from the i-th on")
    parser.add_argument("--out", type=Path, default=Path("log/hvd.jsonl"))
    parser.add_argument("--cost", action="store_true", help="of the family of critics, and of environment steps")
    parser.add_argument("--report", type=Path, help="print the tables of this file")
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--mixed", type=int, default=MIXED)
    parser.add_argument("--task", default="WholeBodyTwin")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--policy", type=int, default=POLICY, help="gradient steps of a policy")
    parser.add_argument("--lean", action="store_true", help="only the arms that a claim is about")
    parser.add_argument("--only", help="names of arms, with commas between; all if not given")
    words = parser.parse_args()
    torch.set_num_threads(1)
    if words.report:
        print(report(words.report))
        return
    if words.cost:
        for groups in (3, 4, 5):
            print(json.dumps(cost(groups)), flush=True)
        for task, envs in (("WholeBodyTwin", 1024), ("WholeBody", 16), ("KitchenKinematic", 256)):
            print(json.dumps({"task": task, "steps per CPU second": round(speed(task, envs))}), flush=True)
        return
    index, count = map(int, words.shard.split("/"))
    wanted = (
        list(trials())[index::count]
        if words.full
        else [Trial(words.task, words.groups, words.mixed, words.seed, words.lean, words.policy)]
    )
    words.out.parent.mkdir(parents=True, exist_ok=True)
    old = measured(words.out) if words.out.exists() else []
    for trial in wanted:
        done = {(row["arm"], row["critic"]) for row in old if asdict(trial).items() <= row.items()}

        def missing(name: str, critic: str, done: set[tuple[str, str]] = done) -> bool:
            return (name, critic) not in done and (not words.only or name in words.only.split(","))

        for row in measure(trial, HvdSettings(), missing):
            with words.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
