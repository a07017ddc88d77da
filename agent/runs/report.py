"""What runs came to, as tables for a terminal and as learning curves in a PNG."""

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from agent.flags import ReportConfig
from agent.runs.metrics import FILE as METRICS
from agent.runs.metrics import read_metrics
from agent.runs.run import Run
from agent.runs.statistics import mean_interval
from envs.catalog import get_task
from ground.atomic import write_file
from ground.errors import UserError

MODES = ("sampled", "greedy")
CURVE = "rollout/success"  # the student's own, never that of worlds in which the teacher had a hand


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
    task = get_task(config.task).name if config.task else None
    every = Run.all(config.logdir, task=task)
    if not config.runs:
        if not every:
            of_task = f" of {task}" if task else ""
            raise UserError(
                f"There are no runs{of_task} under {config.logdir}.",
                f"python main.py train --task {task or 'KeyInBox'}",
            )
        return every
    chosen: dict[Path, Run] = {}
    for name in config.runs:
        same = [run for run in every if name in (run.name, run.group.name)]
        for run in same or Run.find_all(config.logdir, None, task, name):
            chosen[run.path] = run
    return list(chosen.values())


def _row(runs: Sequence[Run]) -> dict[str, Any]:
    """One line of the table: settings of the first seed, results averaged over the seeds."""
    first, results = runs[0], [_result(run) for run in runs]
    row: dict[str, Any] = {key: first.config.get(key) for key in ("task", "method")} | {"teacher": first.teacher}
    if row["method"] in ("ppo", "sac", "td3"):
        row["teacher"] = "none"
    elif row["method"] == "hiro":  # whoever taught the controller that it was given
        row["teacher"] = results[0].get("teacher", row["teacher"])
    row |= {"run": first.group.name, "seeds": len(runs)}
    for key in ("steps", "queries", "calls"):
        values = [result[key] for result in results if result.get(key) is not None]
        row[key] = float(np.mean(values)) if values else None
    row["asking"] = _mean_asking([result["asking"] for result in results if result.get("asking")])
    together = first.group / "eval.json"  # `eval` judges all seeds of a run at once
    if len(runs) > 1 and together.exists():
        results = [json.loads(together.read_text())]
    for mode in MODES:
        scores = [result["student"][mode] for result in results if mode in result.get("student", {})]
        row[mode] = _over_seeds(scores) if scores else None
    return row


def _mean_asking(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What the teacher has cost, averaged over the seeds that say so; empty for runs without a teacher."""
    names = dict.fromkeys(name for seed in figures for name in seed)
    return {name: float(np.mean([seed[name] for seed in figures if name in seed])) for name in names}


def _over_seeds(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """One seed keeps its Wilson interval; several get the bootstrap interval of their mean."""
    if len(scores) == 1:
        return {key: scores[0][key] for key in ("success", "low", "high", "length") if key in scores[0]}
    success, low, high = mean_interval([score["success"] for score in scores])
    length = float(np.mean([score["length"] for score in scores]))
    return {"success": success, "low": low, "high": high, "length": length}


def _result(run: Run) -> dict[str, Any]:
    """What is known of a run: its evaluation, and the last value of each counter among its metrics."""
    last: dict[str, float] = {}
    for row in read_metrics(run.path / METRICS) if (run.path / METRICS).exists() else []:
        last |= row
    counted = {
        key: last.get(tag)
        for key, tag in (("steps", "step"), ("queries", "teacher/queries"), ("calls", "teacher/calls"))
    }
    asking = {tag.removeprefix("teacher/"): value for tag, value in last.items() if tag.startswith("teacher/")}
    return {**counted, "asking": asking, **{key: value for key, value in run.results().items() if value is not None}}


def draw_curves(groups: Sequence[Sequence[Run]], path: Path) -> bool:
    """Draw one panel per task and one line per run, with a 95% bootstrap band over seeds; False if nothing is there."""
    curves: dict[str, list[tuple[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]]]] = {}
    for runs in groups:
        seeds = [curve for run in runs if (curve := _curve(run)) is not None]
        if seeds:
            first = runs[0].config
            label = f"{first.get('method')}/{runs[0].group.name}" + (f" ({len(seeds)} seeds)" if len(seeds) > 1 else "")
            curves.setdefault(str(first.get("task")), []).append((label, seeds))
    if not curves:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(curves), figsize=(6.5 * len(curves), 3.6), squeeze=False, layout="constrained"
    )
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


def _curve(run: Run) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Steps and values, [T] each, of the student's success while it learns, if the run recorded any."""
    rows = read_metrics(run.path / METRICS) if (run.path / METRICS).exists() else []
    points = [(row["step"], row[CURVE]) for row in rows if CURVE in row]
    if not points:
        return None
    steps, values = np.array(points, dtype=float).T
    return steps, values


def _band(
    seeds: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], points: int = 100
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Steps, mean and interval, [points] each, over the steps that all seeds have in common; one seed as it is."""
    if len(seeds) == 1:
        steps, values = seeds[0]
        return steps, values, values, values
    steps = np.linspace(max(steps[0] for steps, _ in seeds), min(steps[-1] for steps, _ in seeds), points)
    values = np.stack([np.interp(steps, *seed) for seed in seeds])  # [seeds, points]
    draws = np.random.default_rng(0).integers(len(seeds), size=(1000, len(seeds)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975], axis=0)
    return steps, values.mean(axis=0), low, high


def render(verb: str, result: Mapping[str, Any]) -> str:
    """What a person reads of a verb's result."""
    match verb:
        case "report":
            plot = f"\ncurves: {result['plot'] or result.get('not_saved') or 'none yet'}"
            return "\n\n".join(filter(None, (_runs_table(result["runs"]), _asking_table(result["runs"])))) + plot
        case "doctor":
            rows = [(check["status"], check["name"], check["found"], check["next"]) for check in result["checks"]]
            return table(("", "check", "found", "next"), rows)
        case _ if "runs" in result:
            return "\n\n".join(_players_table(run) for run in result["runs"])
        case _:
            return _players_table(result)


def _runs_table(rows: Iterable[Mapping[str, Any]]) -> str:
    head = ("task", "method", "run", "teacher", "steps", "queries", "calls", *MODES, "length")
    return table(
        head,
        [
            (
                *(str(row[key] or "") for key in ("task", "method")),
                row["run"] + (f" ({row['seeds']} seeds)" if row["seeds"] > 1 else ""),
                str(row["teacher"] or ""),
                *(_count(row[key]) for key in ("steps", "queries", "calls")),
                *(_rate(row[mode]) for mode in MODES),
                _number((row["sampled"] or {}).get("length")),
            )
            for row in rows
        ],
    )


def _asking_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """What the teachers have cost, a row per run that asked one; columns in which nothing stands are left out."""
    asked = [row for row in rows if row["asking"].get("queries")]
    columns = [(title, [cell(row["asking"]) for row in asked]) for title, cell in _ASKING]
    shown = [(title, cells) for title, cells in columns if any(cells)]
    names = [(*(str(row[key] or "") for key in ("task", "method", "run", "teacher")),) for row in asked]
    lines = [(*name, *(cells[i] for _, cells in shown)) for i, name in enumerate(names)]
    return table(("task", "method", "run", "teacher", *(title for title, _ in shown)), lines) if lines else ""


def _asking_line(asking: Mapping[str, float]) -> str:
    """The same of one run, in a line."""
    said = [f"{title} {cell(asking)}" for title, cell in _ASKING if cell(asking)]
    return f"asking: {', '.join(said)}" if asking.get("queries") else ""


def _asked(name: str, form: str = ",.0f", scale: int = 1) -> Callable[[Mapping[str, float]], str]:
    """A figure of the accounting, empty where it was not counted."""
    return lambda asking: format(scale * asking[name], form) if name in asking else ""


def _asked_if_any(name: str) -> Callable[[Mapping[str, float]], str]:
    """A counter of trouble, empty where there was none."""
    return lambda asking: f"{asking[name]:,.0f}" if asking.get(name) else ""


# What is counted of teachers (agent/runs/accounting.py), as it is shown.
_ASKING: tuple[tuple[str, Callable[[Mapping[str, float]], str]], ...] = (
    ("queries", _asked("queries")),
    ("calls", _asked("calls")),
    ("hits", _asked("hits")),
    ("calls/1k steps", _asked("calls_per_1k_steps", ",.2f")),
    ("invalid", _asked("invalid_rate", ".1%")),
    ("abstained", _asked_if_any("abstained")),
    ("p50 ms", _asked("latency_p50", ",.1f", 1000)),
    ("p95 ms", _asked("latency_p95", ",.1f", 1000)),
    ("tokens", _asked_if_any("tokens")),
    ("seconds", _asked("seconds", ",.2f")),
    ("requests", _asked_if_any("requests")),
    ("retries", _asked_if_any("retries")),
    ("failures", _asked_if_any("failures")),
    ("fallbacks", _asked_if_any("fallbacks")),
    ("breaker", _asked_if_any("breaker_opened")),
)


def _players_table(result: Mapping[str, Any]) -> str:
    """The teacher-versus-student table of `eval`, and of the evaluation at the end of `train`."""
    rows = []
    for player, scores in result.items():
        if not isinstance(scores, dict):
            continue
        modes = {mode: scores[mode] for mode in MODES if mode in scores} or (
            {"": scores} if "success" in scores else {}
        )
        for mode, score in modes.items():
            speed = score.get("ms_per_step", scores.get("ms_per_step"))
            figures = [_number(score.get(key), places) for key, places in (("return", 3), ("length", 1))]
            rows.append((player, mode, _rate(score), *figures, _number(speed, 3), _count(score.get("episodes"))))
    facts = [(key.replace("_", " "), value) for key, value in result.items() if isinstance(value, str | int | float)]
    lines = [f"{name}: {_said(value)}" for name, value in facts if value != ""]
    lines = [_difference(row) for row in result.get("differences", ())] + lines
    lines += list(filter(None, [_asking_line(result.get("asking", {}))]))
    if not rows:
        return "\n".join(lines)
    head = ("player", "", "success [95%]", "return", "length", "ms/step", "episodes")
    return table(head, rows) + "\n" + "\n".join(lines)


def _said(value: str | float) -> str:
    """A fact of a result line."""
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _difference(row: Mapping[str, Any]) -> str:
    """A paired comparison in words."""
    parts = [
        f"{measure} {row[measure][0]:+.3f} [{row[measure][1]:+.3f}, {row[measure][2]:+.3f}]"
        for measure in ("success", "length")
    ]
    return f"student minus {row['student minus']}, same levels: {', '.join(parts)}, McNemar p = {row['mcnemar_p']:.3g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned text; numbers are the caller's to format."""
    grid = Table(*head, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for row in rows:
        grid.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=160, highlight=False).print(grid)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines() if line.strip())


def _rate(score: Mapping[str, float] | None) -> str:
    if not score:
        return ""
    interval = f" [{score['low']:.3f}, {score['high']:.3f}]" if "low" in score else ""
    return f"{score['success']:.3f}{interval}"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _number(value: float | None, places: int = 1) -> str:
    return "" if value is None else f"{value:.{places}f}"
