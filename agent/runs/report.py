"""The `report` verb: what runs came to, a row for each, and their learning curves in a PNG."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.flags import ReportConfig
from preceptor.agent.runs.carried import task_of
from preceptor.agent.runs.metrics import FILE as METRICS
from preceptor.agent.runs.metrics import read_metrics
from preceptor.agent.runs.run import Run
from preceptor.agent.runs.statistics import mean_interval
from preceptor.agent.runs.text import MODES
from preceptor.ground.atomic import write_file
from preceptor.ground.errors import UserError

CURVE = "rollout/success"  # the student's own, never that of episodes in which the teacher had a hand


def report(config: ReportConfig) -> dict[str, Any]:
    """The `report` verb: `{"runs": [row, ...], "plot": path or None}`, seeds of one run as one row.

    Raises:
        UserError: No such run, or no run at all.
    """
    groups: dict[Path, list[Run]] = {}
    for run in _chosen(config):
        groups.setdefault(run.group, []).append(run)
    rows = [_row(runs) for runs in groups.values()]
    plot = Path(config.plot or Path(config.logdir) / "report.png")
    try:
        drawn = draw_curves(list(groups.values()), plot)
    except UserError as error:
        if config.plot:
            raise
        return {"runs": rows, "plot": None, "not_saved": error.what}
    return {"runs": rows, "plot": str(plot) if drawn else None}


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
    first, results = runs[0], [run.results() for run in runs]
    found = [_so_far(run) | result for run, result in zip(runs, results, strict=True)]
    row: dict[str, Any] = {key: first.config.get(key) for key in ("task", "method")}
    row |= {"teacher": _teacher(first, found[0]), "run": first.group.name, "seeds": len(runs)}
    row |= _means(found, ("steps", "queries", "calls"))
    asking = [seed["asking"] for seed in found]
    row["asking"] = _means(asking, dict.fromkeys(chain(*asking)))
    together = first.group / "eval.json"  # `eval` judges all seeds of a run at once
    if len(runs) > 1 and together.exists():
        results = [json.loads(together.read_text())]
    for mode in MODES:
        scores = [result["student"][mode] for result in results if mode in result.get("student", {})]
        row[mode] = _over_seeds(scores) if scores else None
    return row


def _teacher(run: Run, found: Mapping[str, Any]) -> str:
    """Who taught a run, or the controller that it was given; or why its settings cannot be read."""
    taught = run.config.get("damaged") or found.get("teacher")
    if isinstance(taught, str):  # not the scores of the teacher, if `eval` has judged it
        return taught
    return run.teacher if found["asking"] else "none"


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
    """One seed keeps its Wilson interval; several get the bootstrap interval of their mean."""
    if len(scores) == 1:
        return {key: scores[0][key] for key in ("success", "low", "high", "length") if key in scores[0]}
    success, low, high = mean_interval([score["success"] for score in scores])
    length = float(np.mean([score["length"] for score in scores]))
    return {"success": success, "low": low, "high": high, "length": length}


def draw_curves(groups: Sequence[Sequence[Run]], path: Path) -> bool:
    """Draw one panel per task and one line per run, with a 95% bootstrap band over seeds; False if nothing is there."""
    curves: dict[str, list[tuple[str, list[NDArray[np.float64]]]]] = {}
    for runs in groups:
        seeds = [curve for run in runs if (curve := _curve(run)).size]
        if seeds:
            first = runs[0].config
            label = f"{first.get('method')}/{runs[0].group.name}" + (f" ({len(seeds)} seeds)" if len(seeds) > 1 else "")
            curves.setdefault(str(first.get("task")), []).append((label, seeds))
    if not curves:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = (6.5 * len(curves), 3.6)
    figure, axes = pyplot.subplots(1, len(curves), figsize=size, squeeze=False, layout="constrained")
    for axis, (task, lines) in zip(axes[0], curves.items(), strict=True):
        for label, seeds in lines:
            steps, mean, low, high = _band(seeds)
            axis.plot(steps, mean, label=label)
            axis.fill_between(steps, low, high, alpha=0.2, linewidth=0)
        axis.set(title=task, xlabel="environment steps", ylabel="success while learning", ylim=(-0.02, 1.02))
        axis.set_xlim(left=0)
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small", ncols=1 + len(lines) // 20)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format="png")
    pyplot.close(figure)
    write_file(path, picture.getvalue())
    return True


def _curve(run: Run) -> NDArray[np.float64]:
    """Steps and the student's success while it learns, [2, T]; T is 0 if the run recorded none."""
    points = [(row["step"], row[CURVE]) for row in read_metrics(run.path / METRICS) if CURVE in row]
    return np.array(points, dtype=float).reshape(-1, 2).T


def _band(seeds: Sequence[NDArray[np.float64]], points: int = 100) -> Sequence[NDArray[np.float64]]:
    """Steps, mean and interval, [points] each, over the steps that all seeds have in common; one seed as it is."""
    if len(seeds) == 1:
        steps, values = seeds[0]
        return steps, values, values, values
    steps = np.linspace(max(steps[0] for steps, _ in seeds), min(steps[-1] for steps, _ in seeds), points)
    values = np.stack([np.interp(steps, *seed) for seed in seeds])  # [seeds, points]
    draws = np.random.default_rng(0).integers(len(seeds), size=(1000, len(seeds)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975], axis=0)
    return steps, values.mean(axis=0), low, high
