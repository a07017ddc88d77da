"""What a person reads of the results of `train`, `eval`, `report` and `doctor`: tables, and facts a line each."""

import io
import math
from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

_PATHS = ("strips", "film", "picture", "not_drawn")  # of pictures
MODES = ("sampled", "greedy")  # how a player is judged
# What is counted of teachers (agent/runs/accounting.py): always shown, shown where there was any, and measured.
_COUNTED = ("queries", "calls", "hits")
_IF_ANY = ("abstained", "tokens", "requests", "retries", "failures", "fallbacks", "breaker_opened")
_MEASURED = {  # title: name, format, factor
    "calls/1k steps": ("calls_per_1k_steps", ",.2f", 1),
    "invalid": ("invalid_rate", ".1%", 1),
    "p50 ms": ("latency_p50", ",.1f", 1000),
    "p95 ms": ("latency_p95", ",.1f", 1000),
    "seconds": ("seconds", ",.2f", 1),
}


def render(verb: str, result: Mapping[str, Any]) -> str:
    """The text of a verb's result."""
    if "table" in result:
        paths = [f"{name.replace('_', ' ')}: {result[name]}" for name in _PATHS if name in result]
        return "\n".join(filter(None, (result.get("summary"), table(result["table"]), *paths, result.get("next"))))
    if verb == "doctor":
        titles = {"": "status", "check": "name", "found": "found", "next": "next"}
        return table({title: check[key] for title, key in titles.items()} for check in result["checks"])
    if "together" not in result:
        return "\n\n".join(_result(line) for line in result.get("runs", [result]))
    runs = result["runs"]
    asked = [_names(run) | _asking(run["asking"]) for run in runs if run["asking"].get("queries")]
    together = [_interquartile(row) for row in result.get("together", ())]
    tables = [table(rows, 240) for rows in ([_run(run) for run in runs], asked, together) if rows]
    pictures = f"\ncurves: {result['plot'] or result.get('not_saved') or 'none yet'}"
    profiles = f"\nperformance profiles: {result['profiles']}" if result.get("profiles") else ""
    failed = [f"\n\nfailed: {row['trial']}: {row['why']}\n  next: {row['next']}" for row in result.get("failed", ())]
    return "\n\n".join(tables) + pictures + profiles + "".join(failed)


def table(rows: Iterable[Mapping[str, str]], width: int = 160) -> str:
    """Aligned text; each row is its cells by the title of their column. A column without any text is left out."""
    rows = list(rows)
    titles = list(dict.fromkeys(title for row in rows for title in row if any(other.get(title) for other in rows)))
    grid = Table(*titles, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for row in rows:
        grid.add_row(*(row.get(title, "") for title in titles))
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(grid)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines() if line.strip())


def _names(run: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(run[key] or "") for key in ("task", "method", "run", "teacher")}


def _run(run: Mapping[str, Any]) -> dict[str, str]:
    """A row of `report`."""
    seeds = f" ({run['seeds']} seeds)" if run["seeds"] > 1 else ""
    counts = {key: _number(run[key], ",.0f") for key in ("steps", "queries", "calls")}
    length = _number((run["sampled"] or {}).get("length"))
    returns = {f"return, {mode}": _return(run[mode]) for mode in MODES}
    rates = {mode: _rate(run[mode]) for mode in MODES}
    return _names(run) | {"run": run["run"] + seeds} | counts | rates | returns | {"length": length}


def _interquartile(row: Mapping[str, Any]) -> dict[str, str]:
    """A row of `report` on runs of one name together."""
    said = {key: str(row[key]) for key in ("method", "run", "tasks", "runs")}
    return said | {f"{mode}, interquartile mean": _rate(row.get(mode)) for mode in MODES}


def _asking(asking: Mapping[str, float]) -> dict[str, str]:
    """What a teacher has cost, by title; empty where it was not counted, or where there was none of the trouble."""
    counts = {name: _number(asking.get(name), ",.0f") for name in _COUNTED}
    counts |= {name.replace("_", " "): _number(asking.get(name) or None, ",.0f") for name in _IF_ANY}
    measured = _MEASURED.items()
    return counts | {
        title: format(factor * asking[name], form) if name in asking else "" for title, (name, form, factor) in measured
    }


def _result(result: Mapping[str, Any]) -> str:
    """The teacher-versus-student table of `eval`, and of the evaluation at the end of `train`, with all other facts."""
    rows = []
    for player, scores in result.items():
        if not isinstance(scores, dict):
            continue
        modes = {mode: scores[mode] for mode in MODES if mode in scores}
        for mode, score in (modes or ({"": scores} if "success" in scores else {})).items():
            row = {"player": player, "": mode, "success [95%]": _rate(score)}
            row |= {"return [95%]": _return(score), "length": _number(score.get("length"))}
            row |= {"ms/step": _number(score.get("ms_per_step"), ".3f")}
            row |= {"s asking": _number(score.get("seconds"))}
            counts = ("episodes", "cut", "decisions", "calls", "tokens_in", "tokens_out", "unreadable")
            rows.append(row | {name.replace("_", " "): _number(score.get(name), ",.0f") for name in counts})
    lines = [table(rows, 200)] if rows else []
    lines += [_difference(row) for row in result.get("differences", ())]
    facts = {name: fact for name, fact in result.items() if isinstance(fact, str | int | float) and fact != ""}
    for name, fact in facts.items():
        form = "" if isinstance(fact, str) else "," if isinstance(fact, int) else _digits(abs(fact))
        lines.append(f"{name.replace('_', ' ')}: {fact:{form}}")
    if result.get("asking", {}).get("queries"):
        costs = [f"{title} {cost}" for title, cost in _asking(result["asking"]).items() if cost]
        lines.append(f"asking: {', '.join(costs)}")
    return "\n".join(lines)


def _difference(row: Mapping[str, Any]) -> str:
    """A paired comparison in words."""
    figures = ["{} {:+.3f} [{:+.3f}, {:+.3f}]".format(measure, *row[measure]) for measure in ("success", "length")]
    against = f"student minus {row['student minus']}, same levels"
    return f"{against}: {', '.join(figures)}, McNemar p = {row['mcnemar_p']:.3g}"


def _rate(score: Mapping[str, float | None] | None) -> str:
    if not score or score["success"] is None:
        return ""
    interval = f" [{score['low']:.3f}, {score['high']:.3f}]" if "low" in score else ""
    return f"{score['success']:.3f}{interval}"


def _return(score: Mapping[str, float] | None) -> str:
    if not score or "return" not in score:
        return ""
    figures = [score[name] for name in ("return", "return_low", "return_high") if name in score]
    first, *ends = (format(figure, _digits(max(map(abs, figures)))) for figure in figures)
    return f"{first} [{', '.join(ends)}]" if ends else first


def _digits(value: float) -> str:
    """The format that shows three digits of a positive number, and a decimal place in any case."""
    return f",.{max(1, 2 - math.floor(math.log10(value))) if value > 0 else 1}f"


def _number(value: float | None, form: str = ".1f") -> str:
    return "" if value is None else format(value, form)
