"""Many runs as one command: the trials of a grid, where each is trained, and the table of what they came to.

A trial is `train` in another process, in a run folder that its settings name. Nothing but these folders says
what is done, so that processes here, tasks of Ray and arrays of SLURM may take turns at the same grid.
"""

import contextlib
import os
import re
import shlex
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from preceptor.agent.checks import check_train
from preceptor.agent.config import TrainConfig, configure, continued
from preceptor.agent.executors import Executor, Processes
from preceptor.agent.flags import ReportConfig
from preceptor.agent.grid_config import GridConfig, settings_of, tasks_of
from preceptor.agent.halving import Halving
from preceptor.agent.runs.carried import task_of
from preceptor.agent.runs.report import report
from preceptor.agent.runs.run import Run
from preceptor.agent.runs.text import render
from preceptor.agent.train import by_seed, train_one
from preceptor.ground.atomic import CheckpointError, alone, write_file
from preceptor.ground.errors import UserError
from preceptor.ground.program import INVOCATION

_LEFT_BY_KILLED = 60.0  # seconds until a trial's folder is free, whose process was killed or lost its machine
_ALL_TRIALS = {f.name for f in fields(GridConfig)} | {"seeds", "seed", "savedir"}  # each trial has its own, or none


@dataclass(frozen=True)
class Trial:
    """One run of a grid.

    Attributes:
        index: Its number, as `--trial` takes it.
        config: Its settings, with which it continues itself.
        label: What a person reads of it.
        path: Its run directory.
    """

    index: int
    config: TrainConfig
    label: str
    path: Path

    @property
    def finished(self) -> bool:
        """Whether it has left a result since it was last started."""
        result, started = self.path / "result.json", self.path / "config.json"
        return result.exists() and started.exists() and result.stat().st_mtime_ns >= started.stat().st_mtime_ns


def trials_of(config: TrainConfig) -> list[Trial]:
    """All trials: tasks x settings x seeds. Raises `UserError` if one of them could not be."""
    if config.grid.asha and not config.eval_every:
        what = "--asha compares trials by what --eval-every finds on held-out levels."
        raise UserError(what, f"--eval-every {max(1, config.steps // 9)}")
    cells = settings_of(config.grid.set_grid)
    said = {name: value for name, value in config.grid.said.items() if name not in _ALL_TRIALS}
    found: list[Trial] = []
    for task, values in product(tasks_of(config.grid.tasks) or [config.task], product(*cells.values())):
        cell = dict(zip(cells, values, strict=True))
        words = "-".join([config.savedir, *(re.sub(r"[^\w.=+-]", "_", f"{k}={v}") for k, v in cell.items())])
        shared = configure({**said, **cell, "task": task, "savedir": words, "resume": True, "quiet": True})
        check_train(replace(shared, seeds=config.seeds))
        name = task_of(shared.task, shared.logdir, shared.teacher_flaw).name
        for one in by_seed(replace(shared, seeds=config.seeds, seed=config.seed)):
            label = " ".join([name, *(f"{k}={v}" for k, v in cell.items()), f"seed {one.seed}"])
            trial = Trial(len(found), one, label, Run.place(one.logdir, one.method, name, one.savedir))
            with contextlib.suppress(CheckpointError):  # one that is damaged fails by itself
                continued(one, trial.path)
            found.append(trial)
    return found


def train_grid(config: TrainConfig) -> dict[str, Any]:
    """Train the trials that are not finished, or the one that is named, or print the script that would.

    Returns:
        As `report` has it, with `trials`, their number, `failed`, a row for each that did not come to its end, and
        `grid`, the folder of the table; of one trial, its result line; of the script, its text.

    Raises:
        UserError: A trial cannot be as it is said, or none came to its end.
    """
    trials, number = trials_of(config), config.grid.trial
    if config.grid.slurm:
        return {"summary": _script(config, len(trials)), "table": []}
    if number is not None:
        if number >= len(trials):
            raise UserError(f"There is no trial {number}: there are {len(trials)}.", f"--trial {len(trials) - 1}")
        return play(config, trials[number])
    folder = _folder(config)
    with alone(folder):
        failed = _train(config, trials, folder)
    done = [trial for trial in trials if trial.index not in failed]
    if not done:
        first = trials[0]
        raise UserError(f"No trial came to its end. {first.label}: {failed[0]}", again(config, 0))
    paths = tuple(str(trial.path) for trial in done)
    found = report(ReportConfig(paths, logdir=config.logdir, plot=str(folder / "curves.png")))
    missing = [{"trial": trials[i].label, "why": why, "next": again(config, i)} for i, why in failed.items()]
    found |= {"trials": len(trials), "failed": missing, "grid": str(folder)}
    write_file(folder / "table.txt", (render("train", found) + "\n").encode())
    return found


def _train(config: TrainConfig, trials: Sequence[Trial], folder: Path) -> dict[int, str]:
    """Train the trials that are not finished; why some did not come to their end, by their number."""
    screen = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    waiting = [trial for trial in trials if not trial.finished]
    screen.print(f"{len(trials)} trials, {len(trials) - len(waiting)} of them finished before")
    running, failed = 0, dict[int, str]()
    with contextlib.closing(_executor(config, len(waiting))) as executor:
        while waiting or running:
            while waiting and running < executor.most:
                trial = waiting.pop(0)
                executor.start(trial, partial(play_aside, config, trial, folder / f"{trial.index}.log"))
                running += 1
            for trial, why in executor.ended():
                running -= 1
                failed |= {trial.index: why} if why else {}
                screen.print(f"{trial.label}: {why or _outcome(trial)}")
    return dict(sorted(failed.items()))


def _executor(config: TrainConfig, trials: int) -> Executor:
    """Where so many trials are trained."""
    if config.grid.ray is None or not trials:
        return Processes(config.grid.jobs or 1)
    from preceptor.agent.ray_tasks import RayTasks

    return RayTasks(next(iter(config.grid.ray), None), config.grid.jobs or trials)


def _outcome(trial: Trial) -> str:
    result = Run.open(trial.path).results()
    scores = result.get("student", {}).get("sampled", {})
    return ", ".join(
        [
            *(f"{k} {scores[k]:.3f}" for k in ("success", "return") if k in scores),
            f"{result['steps']:,} steps in {result['seconds']:.0f} s",
        ]
    )


def play(config: TrainConfig, trial: Trial) -> dict[str, Any]:
    """Train one trial from where it stands, in this process; its result line. Raises `UserError` as `train` does."""
    halving = None
    if config.grid.asha:
        rungs = _folder(config) / "rungs" / trial.path.parents[1].name
        halving = Halving(rungs, str(trial.index), trial.config.total, config.grid.asha)
    return train_one(trial.config, halving, wait=_LEFT_BY_KILLED)


def play_aside(config: TrainConfig, trial: Trial, log: Path) -> str:
    """The same, in a process that prints to a file; why it did not come to its end, or nothing."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            play(config, trial)
        except UserError as error:
            print(error)  # noqa: T201
            return error.what
        except KeyboardInterrupt:
            return "interrupted"
        except Exception as error:
            traceback.print_exc()
            return f"{type(error).__name__}: {error} ({log})"
    return ""


def _folder(config: TrainConfig) -> Path:
    """Where the table, the logs, and what trials know of each other are."""
    return Run.place(config.logdir, "grids", "", config.savedir)


def again(config: TrainConfig, trial: int) -> str:
    """The command that trains one trial alone."""
    return shlex.join(["python", "main.py", *_words(config), "--trial", str(trial)])


def _words(config: TrainConfig) -> list[str]:
    """The words of the command, without where its trials are trained."""
    said, grid = config.grid.said, config.grid
    own = {"tasks", "jobs", "ray", "slurm", "trial", "resume", "quiet", "json", "debug", *settings_of(grid.set_grid)}
    own |= {"task"} if grid.tasks else set()
    words = ["train", "--tasks", ",".join(tasks_of(grid.tasks))] if grid.tasks else ["train"]
    for name, value in said.items():
        if name in own:
            continue
        flag = f"--{name.replace('_', '-')}"
        text = list(map(str, value)) if isinstance(value, list | tuple) else [str(value)]
        shown_as_flag = name in _ALL_TRIALS or name in TrainConfig.__dataclass_fields__
        words += [flag, *text] if shown_as_flag else ["--set", f"{name}={','.join(text)}"]
    return words


def _script(config: TrainConfig, trials: int) -> str:
    """An array for sbatch; its tasks may be requeued, since each continues its run."""
    most = f"%{config.grid.jobs}" if config.grid.jobs else ""
    name = re.sub(r"[^a-zA-Z0-9_.-]", "_", config.savedir)
    command = shlex.join([*INVOCATION, *_words(config)])
    return "\n".join(
        [
            "#!/bin/bash",
            f"#SBATCH --job-name=preceptor-{name}",
            f"#SBATCH --array=0-{trials - 1}{most}",
            f"#SBATCH --cpus-per-task={config.threads}",
            "#SBATCH --requeue",
            f"#SBATCH --output=preceptor-{name}-%a.log",
            f"cd {shlex.quote(os.getcwd())} || exit 1",
            f'exec {command} --trial "$SLURM_ARRAY_TASK_ID"',
        ]
    )
