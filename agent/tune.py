"""The `tune` verb: Optuna searches settings of a method, on training seeds and levels that no other verb judges by."""

import logging
import math
import multiprocessing
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from annotated_types import Interval

from preceptor.ground.atomic import alone
from preceptor.ground.errors import UserError
from preceptor.ground.ranges import Count

if TYPE_CHECKING:
    import optuna

FIRST_SEED = 1_000  # training seeds of trials; tables use small ones
FIRST_LEVEL = 1_500_000  # levels that trials are judged on; `train` and `eval` begin at 1,000,000
_EXAMPLE = "--search lr=1e-4:1e-2:log --search hidden=64,64|128,128"


@dataclass(frozen=True)
class TuneConfig:
    """Search settings of a method: each trial trains with some and is judged on levels kept for tuning."""

    search: tuple[str, ...]
    """NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A|B|C, of any setting that --set knows; may be said several times."""
    method: str = "ihac"
    """As in train."""
    task: str = "SimpleDoorKey"
    """As in train."""
    savedir: str = "tune"
    """Name of the search; one that was interrupted, or wants more trials, continues."""
    logdir: str = "log"
    """Where runs live; those of trials are in LOGDIR/METHOD/TASK/SAVEDIR/runs."""
    set: tuple[str, ...] = ()
    """NAME=VALUE of settings, flags of train included, that all trials share; may be said several times."""
    trials: Count = 20
    """Trials in all."""
    seeds: Count = 1
    """Training seeds per trial, from 1000 on."""
    episodes: Annotated[int, Interval(ge=1, le=500_000)] = 50
    """Levels per seed, from 1,500,000 on."""
    measure: Literal["success", "return"] = "success"
    """What is to be large, as the mean of sampled and greedy play."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """How trials are chosen: by a model of those before (tree-structured Parzen estimators), at random, or all
    combinations of A|B|C."""
    jobs: Count = 1
    """Processes side by side."""
    json: bool = False
    """Print one line of JSON on stdout and everything else on stderr."""
    debug: bool = False
    """Show tracebacks."""


class Range(NamedTuple):
    """A setting that is searched: two bounds, or choices."""

    name: str
    bounds: tuple[float, float] | None
    choices: tuple[str, ...]
    log: bool
    whole: bool

    @property
    def first(self) -> Any:
        """One of the values."""
        return self.choices[0] if self.bounds is None else int(self.bounds[0]) if self.whole else self.bounds[0]

    def suggest(self, trial: "optuna.Trial") -> Any:
        """A value for a trial."""
        if self.bounds is None:
            return trial.suggest_categorical(self.name, self.choices)
        low, high = self.bounds
        if self.whole:
            return trial.suggest_int(self.name, int(low), int(high), log=self.log)
        return trial.suggest_float(self.name, low, high, log=self.log)


def parse_range(text: str) -> Range:
    """A `--search`. Raises `UserError` if it is none."""
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise UserError(f"--search {text} is not of the form NAME=VALUES.", _EXAMPLE)
    name = name.strip().replace("-", "_")
    if ":" not in values:
        return Range(name, None, tuple(values.split("|")), False, False)
    low, high, *scale = values.split(":")
    try:
        bounds = float(low), float(high)
        if not all(map(math.isfinite, bounds)):
            raise ValueError("not finite")
    except ValueError as error:
        raise UserError(f"--search {text}: bounds must be finite numbers.", _EXAMPLE) from error
    if not bounds[0] < bounds[1] or scale not in ([], ["log"]) or (scale and bounds[0] <= 0):
        raise UserError(f"--search {text}: LOW must be below HIGH, and above 0 for a logarithmic scale.", _EXAMPLE)
    whole = all(bound.lstrip("-").isdigit() for bound in (low, high))
    return Range(name, bounds, (), bool(scale), whole)


def tune(config: TuneConfig) -> dict[str, Any]:
    """Train the trials that are missing; the table of all, the best first, and the command that trains with it.

    Raises:
        UserError: A setting is unknown, a search of that name is of other settings, or Optuna is not installed.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise UserError("Optuna is not installed.", "pip install optuna") from error
    ranges = [parse_range(text) for text in config.search]
    if config.sampler == "grid" and any(r.bounds for r in ranges):
        raise UserError("--sampler grid needs choices, not bounds.", "--search NAME=A|B|C")
    place = _checked(config, ranges)
    with alone(place):
        return _search(config, ranges, place)


def _search(config: TuneConfig, ranges: Sequence[Range], place: Path) -> dict[str, Any]:
    import optuna

    try:
        study = _study(config, ranges, place)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{place}/study.log is damaged: {error}.", "another --savedir") from error
    asked = {"search": list(config.search), "set": list(config.set), "seeds": config.seeds}
    asked |= {"episodes": config.episodes, "measure": config.measure}
    if (earlier := study.user_attrs.get("asked", asked)) != asked:
        raise UserError(f"{place} holds a search of other settings: {earlier}.", "another --savedir")
    study.set_user_attr("asked", asked)
    _queue(study, ranges if config.sampler == "grid" else ())
    if config.jobs == 1:
        _work(config)
    else:
        spawn = multiprocessing.get_context("spawn")
        refused: Any = spawn.SimpleQueue()
        workers = [spawn.Process(target=_work_aside, args=(config, worker, refused)) for worker in range(config.jobs)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if not refused.empty():
            raise UserError(*refused.get())
    finished = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    if not finished:
        raise UserError(f"No trial of {place} came to its end.", "other values of --search, under another --savedir")
    finished.sort(key=lambda trial: trial.value if trial.value is not None else 0.0, reverse=True)
    rows = [{"trial": str(t.number), config.measure: f"{t.value:.3f}", **_said(t.params)} for t in finished]
    best = finished[0]
    said = [word for text in (*config.set, *(f"{k}={v}" for k, v in best.params.items())) for word in ("--set", text)]
    again = ["python", "main.py", "train", "--method", config.method, "--task", config.task, *said]
    again += ["--savedir", f"{config.savedir}-best", "--seeds", "0", "1", "2"]
    found = {"best": best.params, config.measure: best.value, "trials": len(finished), "run": str(place)}
    return {**found, "table": rows, "next": shlex.join(again)}


def _queue(study: "optuna.Study", grid: Sequence[Range]) -> None:
    """Put trials that were interrupted before the others, then what is missing of a grid."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=[TrialState.RUNNING]):  # of a search that was killed
        study.tell(trial.number, state=TrialState.FAIL)
    kept = study.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED, TrialState.WAITING])
    known = [trial.system_attrs.get("fixed_params", trial.params) for trial in kept]
    wanted = [trial.params for trial in study.get_trials(states=[TrialState.FAIL])]
    wanted += [dict(zip((r.name for r in grid), cell, strict=True)) for cell in product(*(r.choices for r in grid))]
    for params in wanted:
        if params and params not in known:
            study.enqueue_trial(params)
            known.append(params)


def _said(params: dict[str, Any]) -> dict[str, str]:
    return {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in params.items()}


def _checked(config: TuneConfig, ranges: Sequence[Range]) -> Path:
    """The folder of the search, once the first values of all ranges have turned out to be settings."""
    from preceptor.agent.runs.carried import task_of
    from preceptor.agent.runs.run import Run

    _settings(config, {r.name: r.first for r in ranges})
    return Run.place(config.logdir, config.method, task_of(config.task, config.logdir).name, config.savedir)


def _settings(config: TuneConfig, values: dict[str, Any], **more: Any) -> Any:
    from preceptor.agent.config import assignment, configure

    fixed = dict(map(assignment, config.set))
    own = {"method": config.method, "task": config.task, "logdir": config.logdir, "eval_episodes": 0, "quiet": True}
    return configure({**fixed, **values, **own, **more})


def _study(config: TuneConfig, ranges: Sequence[Range], place: Path, worker: int = 0) -> "optuna.Study":
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(place / "study.log"))),
        study_name=config.savedir,
        direction="maximize",
        load_if_exists=True,
    )
    seed = 1_000 * worker + len(study.get_trials(deepcopy=False))  # a search that goes on draws something new
    if config.sampler == "tpe":
        study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=config.jobs > 1)
    else:  # of a grid every trial is queued
        study.sampler = optuna.samplers.RandomSampler(seed=seed)
    return study


def _work(config: TuneConfig, worker: int = 0) -> None:
    """Train and judge trials until there are enough."""
    import optuna
    from rich.console import Console

    from preceptor.agent.runs.metrics import DivergedError

    screen = Console(stderr=True, highlight=False, soft_wrap=True)
    ranges = [parse_range(text) for text in config.search]
    place = _checked(config, ranges)
    study = _study(config, ranges, place, worker)
    finished = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    cells = math.prod(len(r.choices) for r in ranges) if config.sampler == "grid" else config.trials

    def objective(trial: optuna.Trial) -> float:
        values = {r.name: r.suggest(trial) for r in ranges}
        try:
            score = _score(config, place, trial.number, values)
        except UserError as error:
            if not isinstance(error, DivergedError) and not study.get_trials(states=finished):
                raise  # a command that cannot work
            screen.print(f"trial {trial.number}: {error.what}  {_said(values)}")
            raise optuna.TrialPruned from None
        screen.print(f"trial {trial.number}: {config.measure} {score:.3f}  {_said(values)}")
        return score

    while len(study.get_trials(states=(*finished, optuna.trial.TrialState.RUNNING))) < min(cells, config.trials):
        study.optimize(objective, n_trials=1)


def _work_aside(config: TuneConfig, worker: int, refused: Any) -> None:
    """Work in a process of its own, and hand over the error that a user made."""
    try:
        _work(config, worker)
    except UserError as error:
        refused.put((error.what, error.next_step))
    except KeyboardInterrupt:  # which the whole search has got
        pass


def _score(config: TuneConfig, place: Path, trial: int, values: dict[str, Any]) -> float:
    """Train with some settings and judge the students: the mean over seeds, and over sampled and greedy play."""
    import numpy as np

    from preceptor.agent.evaluate import load_student
    from preceptor.agent.players import play
    from preceptor.agent.runs.carried import task_of
    from preceptor.agent.runs.run import Run
    from preceptor.agent.runs.text import MODES
    from preceptor.agent.train import train

    task, levels, scores = task_of(config.task, config.logdir), range(FIRST_LEVEL, FIRST_LEVEL + config.episodes), []
    seeds = tuple(range(FIRST_SEED, FIRST_SEED + config.seeds))
    own = {"task": task.source, "savedir": f"trial-{trial}", "logdir": str(place / "runs")}
    told = _settings(config, values, seeds=seeds, resume=True, **own)
    for seed, trained in zip(seeds, train(told)["runs"], strict=True):
        player = load_student(Run.open(Path(trained["run"])), task)
        for mode in MODES:
            episodes = play(task, player, levels, greedy=mode == "greedy", seed=seed)
            scores.append(float((episodes.success if config.measure == "success" else episodes.returns).mean()))
    return float(np.mean(scores))
