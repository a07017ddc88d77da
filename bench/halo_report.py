"""What `bench.halo` measured, as Markdown tables and a plot."""

import io
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.runs.statistics import bootstrap, mean_interval, paired_difference
from preceptor.ground.atomic import write_file

TARGET = 0.05  # wrong share that rules are compared at
BUDGETS = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)  # shares of the steps that are asked about
GRID = np.geomspace(0.0007, BUDGETS[-1], 100)  # shares of the steps at which curves of several seeds are averaged
# Okabe and Ito's colours, which the colour-blind tell apart, and a dash for each that may lie on another.
_STYLES = {
    "auto": ("#000000", "-", "o"),
    "random": ("#D55E00", "-", "s"),
    "stratified": ("#E69F00", "--", "^"),
    "entropy": ("#0072B2", "-", "v"),
    "margin": ("#56B4E9", "--", "v"),
    "qbc": ("#009E73", "-", "D"),
    "bald": ("#009E73", ":", "P"),
    "ehr": ("#CC79A7", "-", "X"),
    "bisection": ("#888888", ":", "*"),
    "timeline": ("#888888", "-", "|"),
}

Rows = list[dict[str, Any]]
Floats = NDArray[np.float64]


def by_group(rows: Rows, *names: str) -> dict[tuple[Any, ...], dict[int, dict[str, Any]]]:
    """Rows by what they have in common, then by seed."""
    groups: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        groups[tuple(row[name] for name in names)][row["seed"]] = row
    return groups


def errors(row: dict[str, Any], shares: Floats) -> Floats:
    """Wrong shares of a pass at shares of its steps, [S]: straight lines between its rounds."""
    asked, wrong = np.array(row["curve"]).T
    return np.interp(shares * row["steps"], asked, wrong)


def error_at(row: dict[str, Any], budget: float) -> float:
    """The wrong share of a pass at a budget that it met: a share of its steps, rounded down."""
    return float(errors(row, np.floor(np.array([budget]) * row["steps"]) / row["steps"])[0])


def labels_needed(mean: Floats) -> Floats:
    """Share of steps from which on mean curves [.., G] stay at `TARGET` or below; the last of `GRID` if none does."""
    above = mean > TARGET
    last = mean.shape[-1] - 1 - above[..., ::-1].argmax(-1)  # the last point above
    a, b = np.minimum(last, len(GRID) - 2), np.minimum(last + 1, len(GRID) - 1)
    high = np.take_along_axis(mean, a[..., None], -1)[..., 0]
    low = np.take_along_axis(mean, b[..., None], -1)[..., 0]
    part = np.clip((high - TARGET) / np.maximum(high - low, 1e-12), 0, 1)
    return np.where(above.any(-1), GRID[a] + part * (GRID[b] - GRID[a]), GRID[0])


def relative(curves: Sequence[tuple[Floats, Floats]]) -> tuple[float, float, float]:
    """Labels needed by a rule over those by another, averaged over tasks, with a paired bootstrap interval.

    Args:
        curves: Per task, errors [seeds, G] of the rule and of the other at the same seeds.
    """

    def ratio(seeds: Sequence[Floats]) -> Floats:
        ratios = []
        for (mine, other), drawn in zip(curves, seeds, strict=True):
            rows = drawn.astype(int)
            ratios.append(labels_needed(mine[rows].mean(1)) / labels_needed(other[rows].mean(1)))
        return np.mean(ratios, 0)

    value, low, high = bootstrap([np.arange(len(mine)) for mine, _ in curves], ratio).tolist()
    return value, low, high


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> None:
    """Print Markdown."""
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for line in body:
        print("| " + " | ".join(line) + " |")
    print()


def report(path: Path, plot: Path | None) -> None:
    """Print everything that a file tells; draw the curves where `plot` says."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    plain = [row for row in rows if row["answers"] == "truth"]
    for policies in ("tabular", "neural"):
        some = by_group([row for row in plain if row["policies"] == policies], "task", "rule")
        tasks = sorted({task for task, _ in some})
        for task in tasks:
            _curves(task, policies, {rule: seeds for (where, rule), seeds in some.items() if where == task})
        if policies == "tabular" and len(tasks) > 1:
            _needed(tasks, some)
        if policies == "tabular" and tasks and plot is not None:
            draw(tasks, some, plot)
    _noise([row for row in rows if row["answers"] in ("noisy", "exact")])
    _controllers(rows)


def _curves(task: str, policies: str, rules: dict[str, dict[int, dict[str, Any]]]) -> None:
    """Errors by rule and budget."""
    first = next(iter(next(iter(rules.values())).values()))
    steps, marks = first["steps"], first["marks"]
    print(
        f"**{task}**, {policies} policies, 100 demonstrations with about {steps:,} steps. A person with a timeline "
        f"labels all of them with {marks} interactions, {100 * marks / steps:.1f}% of a question per step.\n"
    )
    shares = BUDGETS if policies == "tabular" else (0.01, 0.04, 0.08)
    body = []
    for rule, seeds in rules.items():
        cells = [mean_interval([error_at(row, share) for row in seeds.values()]) for share in shares]
        body.append([rule, str(len(seeds)), *(f"{mean:.3f} [{low:.3f}, {high:.3f}]" for mean, low, high in cells)])
    table(["rule", "seeds", *(f"{100 * share:g}%" for share in shares)], body)


def _needed(tasks: Sequence[str], some: dict[tuple[Any, ...], dict[int, dict[str, Any]]]) -> None:
    """How many labels each rule needs, beside random."""
    body = []
    for rule in dict.fromkeys(rule for _, rule in some):
        cells, curves = [], []
        for task in tasks:
            mine, other = some.get((task, rule), {}), some.get((task, "random"), {})
            shared = sorted(mine.keys() & other.keys())
            if not shared:
                continue
            mean = [np.array([errors(side[seed], GRID) for seed in shared]) for side in (mine, other)]
            needed, steps = labels_needed(mean[0].mean(0)), np.mean([mine[seed]["steps"] for seed in shared])
            failed = "> " if mean[0].mean(0)[-1] > TARGET else ""
            cells.append(f"{failed}{100 * needed:.2f}% ({needed * steps:.0f})")
            curves.append((mean[0], mean[1]))
        if len(cells) == len(tasks):
            value, low, high = relative(curves)
            body.append([rule, *cells, f"{value:.2f} [{low:.2f}, {high:.2f}]"])
    print(
        f"Share of the steps (and number) asked until the mean error stays at {TARGET} or below; `timeline` counts "
        "interactions, of which one labels a whole stretch:\n"
    )
    table(["rule", *tasks, "over random's, mean of tasks"], body)


def _noise(rows: Rows) -> None:
    """A learned confusion matrix beside labels that count as exact."""
    groups = by_group(rows, "task", "rule", "answers")
    body = []
    for task, rule in dict.fromkeys((task, rule) for task, rule, _ in groups):
        noisy, exact = (groups.get((task, rule, answers), {}) for answers in ("noisy", "exact"))
        shared = sorted(noisy.keys() & exact.keys())
        if not shared:
            continue
        learned, clamped = ([error_at(side[seed], 0.04) for seed in shared] for side in (noisy, exact))
        value, low, high = paired_difference(learned, clamped)
        cells = [f"{np.mean(learned):.4f}", f"{np.mean(clamped):.4f}", f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"]
        lower = 1 - np.mean(learned) / max(float(np.mean(clamped)), 1e-12)
        body.append([task, rule, str(len(shared)), *cells, f"{100 * lower:.0f}%"])
    if body:
        print("20% of the labels are wrong, 4% labels: error with a learned confusion matrix, and with exact labels:\n")
        table(["task", "rule", "seeds", "learned", "exact", "difference", "lower by"], body)


def _controllers(rows: Rows) -> None:
    """Controllers that answer beside the truth."""
    groups = by_group([row for row in rows if row["policies"] == "tabular"], "task", "rule", "answers")
    body = []
    for (task, rule, answers), seeds in groups.items():
        truth = groups.get((task, rule, "truth"), {})
        shared = sorted(seeds.keys() & truth.keys())
        if answers in ("truth", "noisy", "exact") or not shared:
            continue
        mine, true = ([error_at(side[seed], 0.04) for seed in shared] for side in (seeds, truth))
        value, low, high = paired_difference(mine, true)
        everywhere = np.mean([seeds[seed]["everywhere"] for seed in shared])
        calls = seeds[shared[0]]["calls"]
        cells = [f"{np.mean(mine):.4f}", f"{np.mean(true):.4f}", f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"]
        body.append([task, answers, str(len(shared)), f"{calls:.0f}", *cells, f"{everywhere:.4f}"])
    if body:
        print("A controller answers, at 4% labels; `everywhere`: the error of labelling every step with it:\n")
        table(["task", "its teacher", "seeds", "calls", "error", "truth's", "difference", "everywhere"], body)


def draw(tasks: Sequence[str], some: dict[tuple[Any, ...], dict[int, dict[str, Any]]], path: Path) -> None:
    """A panel per task, a line per rule, and the interval of the default and of random."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from PIL import Image

    figure, axes = pyplot.subplots(1, len(tasks), figsize=(11, 3.9), squeeze=False, sharey=True, layout="constrained")
    for axis, task in zip(axes[0], tasks, strict=True):
        for rule, (colour, dash, marker) in _STYLES.items():
            seeds = some.get((task, rule), {})
            if not seeds:
                continue
            curves = np.array([errors(row, GRID) for row in seeds.values()])
            mean, width = curves.mean(0), 2.2 if rule in ("auto", "random") else 1.2
            axis.plot(
                100 * GRID, mean, dash, color=colour, marker=marker, markevery=12, markersize=4, lw=width, label=rule
            )
            if rule in ("auto", "random"):
                low, high = np.array([mean_interval(column)[1:] for column in curves.T]).T
                axis.fill_between(100 * GRID, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.axhline(TARGET, color="#888888", lw=0.8, ls="--")
        axis.set(title=task, xlabel="labels, % of the steps", xscale="log", ylim=(-0.02, 1.0))
        axis.set_xticks([0.1, 0.25, 0.5, 1, 2, 4, 8], ["0.1", ".25", ".5", "1", "2", "4", "8"])
        axis.minorticks_off()
    axes[0, 0].set_ylabel("share of wrong options")
    axes[0, -1].legend(fontsize="small", ncols=2)
    drawn, picture = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=90, format="png")
    pyplot.close(figure)
    Image.open(drawn).convert("RGB").quantize(64).save(picture, "png", optimize=True)
    write_file(path, picture.getvalue())
