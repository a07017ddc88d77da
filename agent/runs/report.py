"""The `report` verb: what runs came to, a row for each, with their learning curves and performance profiles in PNGs."""

import contextlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.flags import ReportConfig
from preceptor.agent.runs.aggregate import interquartile_mean, performance_profile
from preceptor.agent.runs.carried import task_of
from preceptor.agent.runs.metrics import FILE as METRICS
from preceptor.agent.runs.metrics import read_metrics
from preceptor.agent.runs.results import read_result
from preceptor.agent.runs.run import Run
from preceptor.agent.runs.statistics import RESAMPLES, bootstrap, mean_interval, widened
from preceptor.agent.runs.text import MODES
from preceptor.envs.catalog import GYM_TASKS, listing
from preceptor.ground.atomic import CheckpointError, DamagedError, write_file
from preceptor.ground.errors import UserError

# The student's own, never those of episodes in which the teacher had a hand.
CURVES = {"rollout/success": "success while learning", "rollout/return": "return while learning"}
Scores = list[list[dict[str, float]]]  # of the seeds of each task
_MEASURES = {"success": ("low", "high"), "return": ("return_low", "return_high")}  # and the ends of their intervals


def report(config: ReportConfig) -> dict[str, Any]:
    """The `report` verb: `{"runs": [row, ...], "together": [row, ...], "plot": path or None, "profiles": likewise}`,
    seeds of one run as one row, and runs of one name on several tasks or of several seeds together.

    With `--faults`, see `preceptor.agent.runs.blame`; with `--skills`, `preceptor.agent.runs.skills_report`. Success is
    None on tasks that know of none: those of Gymnasium on which no run ever succeeded.

    Raises:
        UserError: No such run, or no run at all.
    """
    if config.faults:
        from preceptor.agent.runs.blame import report_faults

        return report_faults(config)
    if config.skills:
        from preceptor.agent.runs.skills_report import report_skills

        return report_skills(config)
    found: dict[Path, list[Run]] = {}
    for run in _chosen(config):
        found.setdefault(run.group, []).append(run)
    groups = list(found.values())
    rows = [_row(runs) for runs in groups]
    succeed = {name for _, name, _ in listing()} - {*GYM_TASKS}
    succeed |= {str(row["task"]) for row in rows if any((row[mode] or {}).get("success") for mode in MODES)}
    succeed |= {str(r.config.get("task")) for runs in groups for r in runs if _curve(r, "rollout/success")[1].any()}
    for score in (row[mode] for row in rows if row["task"] not in succeed for mode in MODES if row[mode]):
        score |= dict.fromkeys(("success", "low", "high"))
    together = _together(groups, succeed)
    result: dict[str, Any] = {"runs": rows, "together": [_interquartile(*named) for named in together.items()]}
    plot = Path(config.plot or Path(config.logdir) / "report.png")
    profiles = plot.with_stem(f"{plot.stem}-profiles")
    try:
        drawn = {"plot": draw_curves(groups, plot, succeed), "profiles": draw_profiles(together, profiles)}
    except UserError as error:
        if config.plot:
            raise
        return result | {"plot": None, "profiles": None, "not_saved": error.what}
    paths = {"plot": str(plot), "profiles": str(profiles)}
    return result | {name: paths[name] if done else None for name, done in drawn.items()}


def _chosen(config: ReportConfig) -> list[Run]:
    task = task_of(config.task, config.logdir).name if config.task else None
    every = Run.all(config.logdir, task=task)
    if not config.runs and not every:
        what = f"There are no runs{f' of {task}' if task else ''} under {config.logdir}."
        raise UserError(what, f"python main.py train --task {config.task or 'KeyInBox'}")
    chosen: dict[Path, Run] = {} if config.runs else {run.path: run for run in every}
    for name in config.runs:
        same = [run for run in every if name in (run.name, run.group.name)]
        chosen |= {run.path: run for run in same or Run.find_all(config.logdir, None, task, name)}
    return list(chosen.values())


def _row(runs: Sequence[Run]) -> dict[str, Any]:
    """One line of the table: settings of the first seed, results averaged over the seeds."""
    first, results = runs[0], [_results(run) for run in runs]
    found = [_so_far(run) | result for run, result in zip(runs, results, strict=True)]
    row: dict[str, Any] = {key: first.config.get(key) for key in ("task", "method")}
    row |= {"teacher": _teacher(runs, found), "run": first.group.name, "seeds": len(runs)}
    row |= _means(found, ("steps", "queries", "calls"))
    asking = [seed["asking"] for seed in found]
    row["asking"] = _means(asking, dict.fromkeys(chain(*asking)))
    together = first.group / "eval.json"  # `eval` judges all seeds of a run at once
    if len(runs) > 1 and together.exists():
        with contextlib.suppress(DamagedError):  # the seeds' own results are there still
            results = [read_result(together)]
    for mode in MODES:
        scores = [result["student"][mode] for result in results if mode in result.get("student", {})]
        row[mode] = _over_seeds(scores) if scores else None
    return row


def _results(run: Run) -> dict[str, Any]:
    """The result lines of a run; `damaged` says so where they cannot be read."""
    try:
        return run.results()
    except CheckpointError:
        return {"damaged": "(results damaged)"}


def _teacher(runs: Sequence[Run], found: Sequence[Mapping[str, Any]]) -> str:
    """Who taught a run, or the controller that it was given; or why the files of one of its seeds cannot be read."""
    for facts in (*(run.config for run in runs), *found):
        if "damaged" in facts:
            return str(facts["damaged"])
    taught = found[0].get("teacher")
    if isinstance(taught, str):  # not the scores of the teacher, if `eval` has judged it
        return taught
    return runs[0].teacher if found[0]["asking"] else "none"


def _so_far(run: Run) -> dict[str, Any]:
    """What the metrics of a run say of its result, which a run that goes on does not have yet."""
    last = {tag: value for row in read_metrics(run.path / METRICS) for tag, value in row.items()}
    asking = {tag.removeprefix("teacher/"): last[tag] for tag in last if tag.startswith("teacher/")}
    return {"steps": last.get("step"), "queries": asking.get("queries"), "calls": asking.get("calls"), "asking": asking}


def _means(seeds: Sequence[Mapping[str, float | None]], names: Iterable[str]) -> dict[str, float | None]:
    """Mean of each figure over the seeds that have it."""
    said = {name: [value for seed in seeds if (value := seed.get(name)) is not None] for name in names}
    return {name: float(np.mean(values)) if values else None for name, values in said.items()}


def _over_seeds(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the seeds. One seed keeps the intervals of its episodes; those of several are bootstrapped, and no
    narrower than their episodes allow."""
    if len(scores) == 1:
        named = (name for measure, ends in _MEASURES.items() for name in (measure, *ends))
        return {key: scores[0][key] for key in (*named, "length") if key in scores[0]}
    means = {"length": float(np.mean([score["length"] for score in scores]))}
    for measure, ends in _MEASURES.items():
        seeds = [score for score in scores if measure in score]
        mean, low, high = mean_interval([score[measure] for score in seeds])
        if measure == "success":
            low, high = widened((mean, low, high), sum(score.get("episodes", 0) for score in seeds))
        elif all(ends[0] in score for score in seeds):  # runs of earlier versions have none
            below, above = (math.hypot(*(score[end] - score[measure] for score in seeds)) / len(seeds) for end in ends)
            low, high = min(low, mean - below), max(high, mean + above)
        means |= {measure: mean} | dict(zip(ends, (low, high), strict=True))
    return means


def _together(groups: Sequence[Sequence[Run]], succeed: set[str]) -> dict[tuple[str, str], dict[str, Scores]]:
    """By method and name of the run, and by sampled or greedy play, what its seeds came to on each task that knows of
    success; only names of which some task has several seeds."""
    found: dict[tuple[str, str], dict[str, Scores]] = {}
    for runs in groups:
        if runs[0].config.get("task") not in succeed:
            continue
        students = [_results(run).get("student", {}) for run in runs]
        for mode in MODES:
            if seeds := [student[mode] for student in students if mode in student]:
                named = (str(runs[0].config.get("method")), runs[0].group.name)
                found.setdefault(named, {}).setdefault(mode, []).append(seeds)
    return {named: modes for named, modes in found.items() if max(map(len, modes[next(iter(modes))])) > 1}


def _interquartile(named: tuple[str, str], modes: Mapping[str, Scores]) -> dict[str, Any]:
    """The row of a name: the interquartile mean of success over its runs on all tasks."""
    row: dict[str, Any] = {"method": named[0], "run": named[1]}
    for mode, tasks in modes.items():
        runs = sum(map(len, tasks))
        row |= {"tasks": len(tasks), "runs": runs}
        found = interquartile_mean([[seed["success"] for seed in seeds] for seeds in tasks])
        episodes = sum(seed.get("episodes", 0) for seeds in tasks for seed in seeds) * (runs - 2 * (runs // 4)) // runs
        row[mode] = dict(zip(("success", "low", "high"), (found[0], *widened(found, episodes)), strict=True))
    return row


def draw_curves(groups: Sequence[Sequence[Run]], path: Path, succeed: set[str]) -> bool:
    """Draw a column per task, success above and return below, and a line per run with a 95% bootstrap band over seeds;
    success only of the tasks that know of it. False if nothing is there."""
    panels: dict[str, dict[str, list[tuple[str, list[NDArray[np.float64]]]]]] = {}
    for runs in groups:
        first = runs[0].config
        task = str(first.get("task"))
        for tag in CURVES if task in succeed else ("rollout/return",):
            if seeds := [curve for run in runs if (curve := _curve(run, tag)).size]:
                several = f" ({len(seeds)} seeds)" if len(seeds) > 1 else ""
                line = f"{first.get('method')}/{runs[0].group.name}{several}", seeds
                panels.setdefault(task, {}).setdefault(tag, []).append(line)
    if not panels:
        return False
    figure, axes = _figure(len(CURVES), len(panels))
    for column, (task, drawn) in enumerate(panels.items()):
        for axis, (tag, name) in zip(axes[:, column], CURVES.items(), strict=True):
            if tag not in drawn:
                axis.set_visible(False)
                continue
            for label, seeds in drawn[tag]:
                _line(axis, *_band(seeds), label)
            axis.set(title=task, xlabel="environment steps", ylabel=name)
            axis.set_xlim(left=0)
            if tag == "rollout/success":
                axis.set_ylim(-0.02, 1.02)
            _legend(axis, len(drawn[tag]))
    return _write(figure, path)


def draw_profiles(together: Mapping[tuple[str, str], Mapping[str, Scores]], path: Path) -> bool:
    """Draw the share of runs above each success rate, a line per name with its 95% band; False if there is none."""
    if not together:
        return False
    thresholds = np.linspace(0, 1, 101)
    figure, axes = _figure(1, len(MODES))
    for axis, mode in zip(axes[0], MODES, strict=True):
        for (method, name), modes in together.items():
            if mode in modes:
                scores = [[seed["success"] for seed in seeds] for seeds in modes[mode]]
                runs = f" ({len(scores)} tasks, {sum(map(len, scores))} runs)"
                _line(axis, thresholds, *performance_profile(scores, thresholds), f"{method}/{name}{runs}")
        axis.set(title=mode, xlabel="success on held-out levels", ylabel="share of runs above", ylim=(-0.02, 1.02))
        _legend(axis, len(together))
    return _write(figure, path)


def _figure(rows: int, columns: int) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = (6.5 * columns, 3.6 * rows)
    return pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")


def _line(axis: Any, x: NDArray, mean: NDArray, low: NDArray, high: NDArray, label: str) -> None:
    axis.plot(x, mean, label=label)
    axis.fill_between(x, low, high, alpha=0.2, linewidth=0)


def _legend(axis: Any, lines: int) -> None:
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small", ncols=1 + lines // 20)


def _write(figure: Any, path: Path) -> bool:
    from matplotlib import pyplot

    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format="png")
    pyplot.close(figure)
    write_file(path, picture.getvalue())
    return True


def _curve(run: Run, tag: str) -> NDArray[np.float64]:
    """Steps and a figure of the student's while it learns, [2, T]; T is 0 if the run recorded none."""
    points = [(row["step"], row[tag]) for row in read_metrics(run.path / METRICS) if tag in row]
    return np.array(points, dtype=float).reshape(-1, 2).T


def _band(seeds: Sequence[NDArray[np.float64]], points: int = 100) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Steps, mean and interval, [points] each, over the steps that all seeds have in common; one seed as it is."""
    if len(seeds) == 1:
        steps, values = seeds[0]
        return steps, values, values, values
    steps = np.linspace(max(steps[0] for steps, _ in seeds), min(steps[-1] for steps, _ in seeds), points)
    values = np.stack([np.interp(steps, *seed) for seed in seeds])  # [seeds, points]
    mean, low, high = bootstrap([values], lambda strata: strata[0].mean(axis=1), RESAMPLES // 10)
    return steps, mean, low, high
