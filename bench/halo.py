"""HALO's learning curves: wrong options by the share of steps that were asked about (issue 5).

`python -m bench.halo` measures a little, in about a minute. The README's figures are of

    python -m bench.halo --full --shard 0/2     # and 1/2 beside it; an interrupted call goes on where it was
    python -m bench.halo --report log/halo.jsonl

At a seed all rules see the same demonstrations, so that differences are paired. A pass asks in rounds that grow, and
its error is looked at after each. It ends in a line of JSON; nothing that has one is measured again.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.halo_report import BUDGETS, report
from preceptor.agent.config import configure
from preceptor.agent.data.recording import Recording, segments
from preceptor.agent.demonstrating import record
from preceptor.agent.halo.acquisition import RULES
from preceptor.agent.halo.config import HaloConfig, PolicyKind
from preceptor.agent.halo.ledger import Answer, Ledger, Question
from preceptor.agent.halo.method import Halo, wrong_share
from preceptor.agent.halo.oracles import LabellerOracle, Member, Oracle, Truth
from preceptor.agent.teaching import ControllerLabels
from preceptor.agent.train import train
from preceptor.controller.checkpoint import load_controller
from preceptor.envs.catalog import get_task
from preceptor.envs.task import Task
from preceptor.ground.device import device, use_device

TASKS = ("RescueWorld-n2-random", "RescueWorld-n3", "RescueWorld-n6")
TIMELINE = "timeline"  # no rule: whole demonstrations, of which an annotator marks where each option begins
DEMONSTRATIONS, NOISE, FIRST = 100, 0.2, 2
GROWTH = {"tabular": 1.33, "neural": 2.0}  # networks take far longer to fit
TEACHERS = ("scripted", "local")  # of the controllers that answer


@dataclass(frozen=True)
class Pass:
    """One measurement.

    Attributes:
        task: What is demonstrated.
        rule: Where it is asked.
        seed: Of demonstrations, learning and asking.
        policies: tabular or neural.
        answers: Who answers: truth; noisy (20% of the labels are wrong, and a confusion matrix is learned); exact
            (the same, but labels count as exact); or the teacher whose controller answers.
        upto: The largest share of steps that is asked about.
    """

    task: str
    rule: str
    seed: int
    policies: PolicyKind = "tabular"
    answers: str = "truth"
    upto: float = BUDGETS[-1]


class Memory(Ledger):
    """A ledger that is kept nowhere: a pass is short, and flushing thousands of answers to the disk is not."""

    def _write(self, line: dict[str, Any]) -> None:
        pass


class Timeline(Truth):
    """An annotator who sees the whole demonstration and marks the stretch of each option with one interaction."""

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """The true option of the whole stretch that begins at the step."""
        said = super().ask(questions)
        following = [np.append(self._option[q.trajectory, q.step :], -1) for q in questions]
        lasting = [int((option != option[0]).argmax()) for option in following]
        return [replace(answer, stop=answer.start + steps) for answer, steps in zip(said, lasting, strict=True)]


def asking(
    halo: Halo, annotator: Member, shares: Sequence[float], growth: float, choose: Callable[..., list[Question]]
) -> np.ndarray:
    """Questions asked and the wrong share of all other steps after each round [rounds, 2], up to the largest share.

    What was asked grows by the same factor in each round, so that early rounds are small and late ones few; each of the
    shares is met exactly, unless `choose` cannot.
    """
    recording = halo.recording
    ledger = Memory(Path("nowhere"), halo.task, recording)
    marks = [int(share * recording.acted.sum()) for share in shares]
    curve: list[tuple[int, float]] = []
    while True:
        found = halo.learn(ledger.evidence((annotator.name,), len(curve)), len(curve))
        unasked = recording.acted & (ledger.times_asked() == 0)
        curve.append((ledger.asked, wrong_share(found.gamma, recording, unasked)))
        if ledger.asked >= marks[-1]:
            return np.array(curve)
        wanted = max(math.ceil(ledger.asked * growth), ledger.asked + FIRST)
        batch = min(wanted, next(mark for mark in marks if mark > ledger.asked)) - ledger.asked
        chosen = choose(found, ledger, batch, len(curve))
        if not chosen:
            return np.array(curve)
        ledger.ask(chosen)
        for answer in annotator.ask(chosen):
            ledger.answer(answer)


def by_rule(halo: Halo) -> Callable[..., list[Question]]:
    """What the method itself would ask."""

    def choose(found: Any, ledger: Ledger, batch: int, round_: int) -> list[Question]:
        halo.config = replace(halo.config, batch=batch)
        return halo.choose(found, ledger, batch, round_)

    return choose


def by_timeline(halo: Halo, seed: int) -> Callable[..., list[Question]]:
    """All stretches of demonstrations in random order, as many as the batch has room for, but one at least."""
    runs = segments(halo.recording.option, halo.recording.acted)
    order = iter(np.random.default_rng(seed).permutation(len(halo.recording)))

    def choose(found: Any, ledger: Ledger, batch: int, round_: int) -> list[Question]:
        chosen: list[Question] = []
        while len(chosen) < batch and (n := next(order, None)) is not None:
            chosen += [Question(int(n), int(start)) for start in runs.start[runs.episode == n]]
        return chosen

    return choose


@lru_cache(maxsize=1)
def demonstrated(task: Task, seed: int) -> Recording:
    """The demonstrations of a seed."""
    return record(task, DEMONSTRATIONS, seed)


def controller_of(task: Task, teacher: str, folder: Path) -> Any:
    """What `train --method dagger` distils from a teacher, trained once."""
    config = configure(
        method="dagger",
        task=task.name,
        teacher=teacher,
        savedir=teacher,
        logdir=str(folder),
        quiet=True,
        device=str(device()),  # or it would move what is measured, too
    )
    run = folder / config.method / task.name / teacher
    if not (run / "result.json").exists():
        train(replace(config, resume=run.exists()))
    return load_controller(run / "controller", task)


def measure(one: Pass, controllers: Path) -> dict[str, Any]:
    """A line of the file."""
    started = time.process_time()
    task = get_task(one.task)
    recording, options = demonstrated(task, one.seed), len(task.options)
    annotator: Member
    if one.answers in TEACHERS:
        labels = ControllerLabels(controller_of(task, one.answers, controllers))
        annotator = LabellerOracle("controller", labels, recording)
    elif one.rule == TIMELINE:
        annotator = Timeline(recording, options, 0.0, one.seed)
    else:
        annotator = Truth(recording, options, 0.0 if one.answers == "truth" else NOISE, one.seed)
    learned = annotator.fallible and one.answers != "exact"
    confusion = Oracle([annotator]).at_first(options) if learned else None
    rule: Any = "random" if one.rule == TIMELINE else one.rule
    config = HaloConfig(policies=one.policies, rule=rule)
    halo = Halo(task, recording, config, one.seed, confusion, again=learned and annotator.varies)
    choose = by_timeline(halo, one.seed) if one.rule == TIMELINE else by_rule(halo)
    shares = [share for share in BUDGETS if share <= one.upto]
    curve = asking(halo, annotator, shares, GROWTH[one.policies], choose)
    line: dict[str, Any] = {
        **asdict(one),
        "steps": int(recording.acted.sum()),
        "marks": len(segments(recording.option, recording.acted).start),
        "curve": [[int(asked), round(error, 6)] for asked, error in curve],
    }
    if isinstance(annotator, LabellerOracle):
        wrong = annotator.everywhere() != recording.option
        line |= {"everywhere": float(wrong[recording.acted].mean()), "calls": annotator.cost_before}
    return {**line, "seconds": round(time.process_time() - started, 2)}


def passes(args: argparse.Namespace) -> Iterator[Pass]:
    """What was asked for, a seed after the other, so that an interrupted measurement has few but paired ones."""
    for seed in range(args.seeds):
        for task in args.tasks:
            yield from (Pass(task, rule, seed) for rule in args.rules)
            if not task.endswith("-random"):
                yield from (Pass(task, "auto", seed, answers=who, upto=0.04) for who in ("noisy", "exact"))
    fixed = "RescueWorld-n3"
    for seed in range(min(args.seeds, 5)):
        yield from (Pass(fixed, "auto", seed, answers=teacher, upto=0.04) for teacher in args.teachers)
    for seed in range(args.neural):
        for task in args.tasks:
            yield from (Pass(task, rule, seed, "neural") for rule in ("auto", "random", "entropy"))


def main() -> None:
    """Measure what is missing, and report."""
    small = {"tasks": ["RescueWorld-n3"], "rules": ["auto", "random", "entropy", TIMELINE], "seeds": 2}
    parser = argparse.ArgumentParser(prog="bench.halo", description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=small["tasks"], metavar="TASK")
    parser.add_argument("--rules", nargs="+", default=small["rules"], choices=[*RULES, TIMELINE])
    parser.add_argument("--seeds", type=int, default=small["seeds"])
    parser.add_argument("--teachers", nargs="*", default=[], choices=TEACHERS, help="whose controllers answer")
    parser.add_argument("--neural", type=int, default=0, metavar="SEEDS", help="of neural policies")
    parser.add_argument("--device", default="cpu", help="where networks are: cpu, cuda")
    parser.add_argument("--full", action="store_true", help="all tasks, rules and teachers, 10 seeds")
    parser.add_argument("--out", type=Path, default=Path("log/halo.jsonl"))
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="every N-th pass from the I-th on")
    parser.add_argument("--report", type=Path, metavar="FILE", help="print tables and draw the curves, measure nothing")
    parser.add_argument("--plot", type=Path, default=Path("docs/halo.png"))
    args = parser.parse_args()
    if args.report:
        report(args.report, args.plot)
        return
    if args.full:
        args.tasks, args.rules, args.seeds, args.teachers = TASKS, [*RULES, TIMELINE], 10, TEACHERS
    torch.set_num_threads(1)
    use_device(args.device)
    part, of = map(int, args.shard.split("/"))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = {Pass(**{name: row[name] for name in Pass.__dataclass_fields__}) for row in map(json.loads, lines)}
    print(f"{len(done)} passes were measured before: {args.out}" if done else f"passes go to {args.out}")
    for one in list(passes(args))[part::of]:
        if one in done:
            continue
        row = measure(one, args.out.parent / "halo-controllers")
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{one.task} {one.rule} {one.policies} {one.answers} seed {one.seed}: {row['seconds']} s", flush=True)
    if not args.full:
        report(args.out, None)


if __name__ == "__main__":
    main()
