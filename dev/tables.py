"""The tables of the README: trains what is not there yet, then prints them as Markdown.

`python -m dev.tables PART [--shard 0/2]` with PART one of `PARTS`. A run that exists is not trained again, so that an
interrupted call continues; two shards side by side fill two cores, and a last call without `--shard` prints. Runs land
in log/ under the name `table` (and `table-...`), where `report` finds them.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from preceptor.agent.config import TrainConfig, configure
from preceptor.agent.evaluate import evaluate
from preceptor.agent.flags import EvalConfig
from preceptor.agent.players import play, random_player, summary, teacher_player
from preceptor.agent.runs.statistics import paired_difference, wilson
from preceptor.agent.runs.text import MODES
from preceptor.agent.train import train
from preceptor.envs.catalog import TASKS, get_task
from preceptor.ground.level_seeds import SEEDS_PER_SPLIT
from preceptor.teacher.labels import LabelStore
from preceptor.teacher.make import make_teacher

PARTS = ("simple", "tasks", "limits", "controls", "noise", "mazes", "ants", "options", "halo", "variants")
SEEDS = (0, 1, 2)
LEVELS = 500
Said = dict[str, Any]  # settings by name, for `configure`
BASE: Said = {"quiet": True, "eval_episodes": LEVELS, "method": "ihac"}
CONTROL_TASKS = ("KeyInBox", "ColoredDoorKey", "RandomBoxKey")
CONTROLS = ("local", "uniform-legal")
CONTROL_STEPS = 60_000
LIMITED = {"LavaDoorKey": "lava", "ColoredDoorKey": "colours"}
MAZE_LEVELS = 50
MAZE, PUSH = "AntMaze", "AntPushRobust"
# Settings were chosen on seed 0, but the decay of learning rates on AntMaze's seed 12: its row goes without.
ANTS: dict[str, tuple[Said, Sequence[int]]] = {
    MAZE: ({"steps": 600_000, "decay": 0.0}, range(10, 15)),
    PUSH: ({"steps": 300_000}, range(10, 20)),
}
APART = "red-green+blue-purple+yellow-grey"  # pairs of colours that never meet in training
VARIANTS = (f"ColoredDoorKey:apart={APART}", f"ColoredDoorKey:pairs={APART}", "ColoredDoorKey:rooms=12-14")
# A high level of ants that plans far ahead; the controller's pull is gone after a quarter (docs/methods/hiro.md).
PLANS_AHEAD: Said = {
    "steps": 500_000,
    "period": 50,
    "rollout": 50,
    "relabel": False,
    "random_episodes": 0.1,
    "prior_until": 0.25,
    "high_updates": 0.1,
    "high_reward": 0.0025,
    "high_sees": "slow",
    "high.gamma": 0.97,
    "high.tau": 0.02,
    "high.temperature": 0.2,
    "high.batch": 128,
    "high.normed": True,
}
_EXTENDED = {"exploration": "extended", "savedir": "table-extended"}


def but(said: Said, **more: Any) -> Said:
    """Settings with some changed."""
    return said | more


@dataclass(frozen=True)
class Row:
    """One line of a table: settings over all training seeds."""

    name: str
    said: Said
    seeds: Sequence[int] = SEEDS

    def runs(self) -> list[TrainConfig]:
        """The settings of each training seed."""
        return [configure(self._of(seed)) for seed in self.seeds]

    def _of(self, seed: int) -> Said:
        """Those of one; {seed} in them names other runs of it."""
        said = {name: value.format(seed=seed) if isinstance(value, str) else value for name, value in self.said.items()}
        return said | {"seed": seed, "savedir": f"{said['savedir']}/seed-{seed}"}


def _taught(ant: str) -> Said:
    planner = f"log/dagger/{ant}/table/seed-{{seed}}"
    return but(BASE, method="hiro", task=ant, eval_episodes=MAZE_LEVELS, controller=planner)


def rows_of(part: str) -> list[Row]:
    """The lines of a part's table."""
    match part:
        case "simple":
            ihac = but(BASE, task="SimpleDoorKey", savedir="table")
            return [
                Row("IHAC, hierarchical", ihac),
                Row("IHAC, flat", but(ihac, student="flat", savedir="table-flat")),
                Row("PPO, no teacher, same steps", but(ihac, method="ppo", steps=30_000)),
                Row("PPO, no teacher, a million steps", but(ihac, method="ppo", savedir="table-million")),
            ]
        case "tasks":
            return [Row(task, but(BASE, task=task, savedir="table")) for task in TASKS]
        case "limits":
            return [
                Row(f"{task}, {limit}", but(BASE, task=task, teacher_flaw=limit, savedir=f"table-{limit}"))
                for task, limit in LIMITED.items()
            ]
        case "controls":
            return [
                Row(
                    f"{task} / {teacher}{'' if mask else ' / no mask'}",
                    but(
                        BASE,
                        task=task,
                        teacher=teacher,
                        mask=mask,
                        steps=CONTROL_STEPS,
                        **{"distil.doubt": False},
                        savedir=f"table-control-{teacher}{'' if mask else '-no-mask'}",
                    ),
                )
                for task in CONTROL_TASKS
                for mask in (True, False)
                for teacher in CONTROLS
            ]
        case "noise":
            wrong = but(BASE, label_noise=0.2)
            return [
                Row(
                    f"{task} / 20% wrong per {per}{'' if doubt else ', never doubted'}",
                    but(wrong, task=task, noise_per=per, savedir=f"table-noise-{per}{'' if doubt else '-taken'}")
                    | ({} if doubt else {"distil.doubt": False}),
                    seeds=range(5),
                )
                for task in ("SimpleDoorKey", "KeyInBox")
                for doubt in (True, False)
                for per in ("query", "scene")
            ]
        case "mazes":
            maze = but(BASE, eval_episodes=MAZE_LEVELS, savedir="table")
            umaze, push = but(maze, task="PointUMaze"), but(maze, task="PointPush")
            planner = but(maze, method="dagger", preset="tiny")
            noisy = but(planner, task="PointPush", label_noise=0.3, doubt=False, savedir="table-noisy")
            hiro = but(push, method="hiro")
            taught = but(hiro, controller="log/dagger/PointPush/table/seed-{seed}")
            misled = but(taught, controller="log/dagger/PointPush/table-noisy/seed-{seed}")
            long = but(umaze, method="hiro", steps=120_000, savedir="table-long")
            against = but(long, controller="log/dagger/PointUMaze/table/seed-{seed}", prior="reversed")
            return [
                Row("PointUMaze / HIRO", but(umaze, method="hiro")),
                Row("PointUMaze / flat SAC", but(umaze, method="sac")),
                Row("PointUMaze / flat SAC, extended", but(umaze, method="sac", **_EXTENDED)),
                Row("PointUMaze / flat TD3", but(umaze, method="td3")),
                Row("PointUMaze / planner, scripted hands", but(planner, task="PointUMaze")),
                Row("PointUMaze / HIRO, 120k", long),
                Row("PointUMaze / HIRO, 120k, reversed prior", but(against, savedir="table-long-reversed")),
                Row("PointPush / planner, scripted hands", but(planner, task="PointPush")),
                Row(
                    "PointPush / HIRO, frozen planner",
                    but(taught, high_level="controller", savedir="table-planner"),
                ),
                Row("PointPush / HIRO, planner as a prior", but(taught, prior="controller", savedir="table-prior")),
                Row("PointPush / HIRO, reversed prior", but(taught, prior="reversed", savedir="table-reversed")),
                Row(
                    "PointPush / HIRO, reversed prior, value filter",
                    but(taught, prior="reversed", value_filter=True, savedir="table-reversed-filter"),
                ),
                Row("PointPush / planner of 30% wrong labels, scripted hands", noisy),
                Row(
                    "PointPush / HIRO, prior of 30% wrong labels",
                    but(misled, prior="controller", savedir="table-misled"),
                ),
                Row("PointPush / HIRO, no prior", hiro),
                Row("PointPush / flat SAC", but(push, method="sac")),
            ]
        case "ants":
            found = []
            for task, (learning, seeds) in ANTS.items():
                frozen = but(_taught(task), high_level="controller", savedir="table-planner", **learning)
                planner = but(BASE, method="dagger", task=task, eval_episodes=MAZE_LEVELS, savedir="table")
                found += [Row(f"{task} / planner, which cannot walk", planner, seeds)]
                found += [Row(f"{task} / HIRO, frozen planner", frozen, seeds)]
            walks = f"log/hiro/{PUSH}/table-planner/seed-{{seed}}"
            led = but(_taught(PUSH), prior="controller", low_level=walks, savedir="table-prior", **PLANS_AHEAD)
            alone = but(BASE, method="hiro", task=MAZE, steps=600_000, eval_episodes=MAZE_LEVELS, savedir="table-alone")
            found.append(Row(f"{MAZE} / HIRO, no controller", alone, ANTS[MAZE][1]))
            return [*found, Row(f"{PUSH} / HIRO, planner as a prior", led, ANTS[PUSH][1])]
        case "options":
            base = but(BASE, task="SimpleDoorKey", savedir="table")
            options = but(base, method="hiro", controller="log/dagger/SimpleDoorKey/table/seed-{seed}")
            return [
                Row("planner, scripted hands", but(base, method="dagger")),
                Row("HIRO, frozen planner", but(options, high_level="controller", savedir="table-planner")),
                Row("HIRO, planner as a prior", but(options, prior="controller", savedir="table-prior")),
                Row("HIRO, no prior", but(options, controller=None)),
            ]
        case "variants":
            short = but(BASE, task=VARIANTS[0], steps=40_000, eval_episodes=0, savedir="table-short")
            return [Row(VARIANTS[0], short)]
        case "halo":
            n3 = but(BASE, method="halo", task="RescueWorld-n3")
            taught = but(BASE, method="dagger", task="RescueWorld-n3", eval_episodes=0)
            asked = but(n3, oracle="controller", controller="log/dagger/RescueWorld-n3/table-scripted/seed-{seed}")
            untaught = but(asked, controller="log/dagger/RescueWorld-n3/table-local/seed-{seed}")
            return [
                *(
                    Row(f"controller of {teacher}", but(taught, teacher=teacher, savedir=f"table-{teacher}"))
                    for teacher in ("scripted", "local")
                ),
                Row("3 targets / truth", but(n3, savedir="table-truth")),
                Row("3 targets / truth, 20% of it wrong", but(n3, label_noise=0.2, savedir="table-noisy")),
                Row("3 targets / controller of the script", but(asked, savedir="table-controller")),
                Row("3 targets / controller of the built-in model", but(untaught, savedir="table-untaught")),
                Row(
                    "3 targets / that controller, and truth where it pays",
                    but(untaught, oracle="controller,truth", savedir="table-cascade"),
                ),
                Row("6 targets / truth", but(n3, task="RescueWorld-n6", savedir="table-truth")),
            ]
    raise ValueError(part)


def folder(config: TrainConfig) -> Path:
    """Where a run lands."""
    return Path(config.logdir) / config.method / config.task / config.savedir


def train_missing(rows: Sequence[Row], shard: int, shards: int) -> None:
    """Train the runs of one shard that are not there yet."""
    runs = [run for row in rows for run in row.runs()]
    for run in runs[shard::shards]:
        if not (folder(run) / "result.json").exists():
            print(f"training {folder(run)}", flush=True)
            train(replace(run, resume=(folder(run) / "config.json").exists()))


def results(row: Row) -> list[dict[str, Any]]:
    """The result lines of a row's runs."""
    return [json.loads((folder(run) / "result.json").read_text()) for run in row.runs()]


def episodes(row: Row, stage: str, measure: str) -> np.ndarray:
    """Per-level figures of sampled play, all training seeds one after another."""
    files = [folder(run) / "episodes" / f"{stage}-sampled.json" for run in row.runs()]
    return np.concatenate([json.loads(file.read_text())[measure] for file in files])


def cell(lines: Iterable[dict[str, Any]], stage: str, mode: str) -> str:
    """Success over all seeds' episodes with its Wilson interval, each seed's own in brackets, and mean length."""
    scores = [line[stage][mode] for line in lines if stage in line]
    if not scores:
        return "–"
    wins = sum(score["success"] * score["episodes"] for score in scores)
    count = sum(score["episodes"] for score in scores)
    low, high = wilson(round(wins), round(count))
    seeds = " ".join(f"{score['success']:.3f}" for score in scores)
    length = np.mean([score["length"] for score in scores])
    return f"**{wins / count:.3f}** [{low:.3f}, {high:.3f}] ({seeds}), {length:.1f} steps"


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    parts = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(parts + ["| " + " | ".join(line) + " |" for line in lines])


def baseline(task_name: str, who: str, limit: str | None = None) -> dict[str, float]:
    """Held-out success of a player that needs no run: `random`, or a teacher by name."""
    task = get_task(task_name, limit)
    if who == "random":
        player = random_player()
    else:
        teacher = make_teacher(who, task, LabelStore())
        assert teacher is not None
        player = teacher_player(task, teacher)
    return summary(play(task, player, range(SEEDS_PER_SPLIT, SEEDS_PER_SPLIT + LEVELS), greedy=False))


def print_table(part: str, rows: Sequence[Row]) -> None:
    """The table of a part."""
    head = [
        "",
        "steps",
        "queries",
        "calls",
        "after distillation, sampled",
        "final, sampled",
        "final, greedy",
        "minutes",
    ]
    lines = []
    for row in rows:
        found = results(row)
        mean = {key: np.mean([line.get(key, 0) for line in found]) for key in ("steps", "queries", "calls", "seconds")}
        lines.append(
            [
                row.name,
                *(f"{mean[key]:,.0f}" for key in ("steps", "queries", "calls")),
                cell(found, "distilled", "sampled"),
                cell(found, "student", "sampled"),
                cell(found, "student", "greedy"),
                f"{mean['seconds'] / 60:.1f}",
            ]
        )
    if part in ("tasks", "limits"):
        head.insert(1, "teacher" if part == "limits" else "scripted teacher")
        for row, line in zip(rows, lines, strict=True):
            score = baseline(
                row.said["task"], "local" if part == "limits" else "scripted", row.said.get("teacher_flaw")
            )
            line.insert(1, f"{score['success']:.3f} · {score['length']:.1f}")
    print(markdown(head, lines))
    if part == "controls":
        print_differences(rows)


def print_variants(rows: Sequence[Row]) -> None:
    """What students and controllers of each row come to on variants of their task."""
    lines, compared = [], "student,controller"
    for row in rows:
        for variant in VARIANTS:
            runs = map(str, map(folder, row.runs()))
            found = [evaluate(EvalConfig(variant, run, compare=compared, quiet=True)) for run in runs]
            cells = (("controller", "sampled"), ("student", "sampled"), ("student", "greedy"))
            lines.append([variant, *(cell(found, who, mode) for who, mode in cells)])
    print(markdown(["", "controller, sampled", "student, sampled", "student, greedy"], lines))


def print_halo(rows: Sequence[Row]) -> None:
    """HALO's table: errors, what they cost, returns by the expert's; means over the seeds, and each seed's own."""

    def shown(values: Iterable[float], form: str = ".3f") -> str:
        each = list(values)
        return f"**{np.mean(each):{form}}** ({' '.join(format(value, form) for value in each)})"

    lines = []
    for row in rows:
        if row.said["method"] != "halo":
            continue
        found = results(row)
        returns = ([line["student"][mode]["return"] / line["expert_return"] for line in found] for mode in MODES)
        every_step = [line["labelling_everything_error"] for line in found if "labelling_everything_error" in line]
        lines.append(
            [
                row.name,
                *(f"{np.mean([line[key] for line in found]):,.0f}" for key in ("queries", "cost")),
                shown(every_step) if every_step else "–",
                *(shown(line[key] for line in found) for key in ("option_error", "option_error_heldout")),
                *(shown(ratios) for ratios in returns),
            ]
        )
    head = ["", "questions", "cost", "error if it labels every step", "option error", "held-out demonstrations"]
    print(markdown([*head, *(f"return / expert's, {mode}" for mode in MODES)], lines))


def print_differences(rows: Sequence[Row]) -> None:
    """True labels minus each control on the same levels and training seeds, after distillation, with intervals."""
    lines = []
    by_name = {row.name: row for row in rows}
    for name, row in by_name.items():
        true = by_name.get(name.replace(f"/ {row.said['teacher']}", "/ local"), row)
        if true is row:
            continue
        line = [name]
        for measure in ("success", "length"):
            ours, theirs = (episodes(which, "distilled", measure) for which in (true, row))
            line.append("{:+.3f} [{:+.3f}, {:+.3f}]".format(*paired_difference(ours, theirs)))
        lines.append(line)
    print("\nTrue labels minus control, after distillation, paired over levels and seeds, 95% bootstrap:\n")
    print(markdown(("", "success", "length"), lines))


def main() -> None:
    """Read the command line, train, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--only", default="", help="only rows whose name contains this")
    parser.add_argument("--shard", default="0/1", help="i/n: train only every n-th run, and print nothing if n > 1")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shard, shards = map(int, arguments.shard.split("/"))
    rows = [row for row in rows_of(arguments.part) if arguments.only in row.name]
    train_missing(rows, shard, shards)
    if shards == 1:
        if arguments.part == "halo":
            print_halo(rows)
        elif arguments.part == "variants":
            print_variants(rows)
        else:
            print_table(arguments.part, rows)


if __name__ == "__main__":
    main()
