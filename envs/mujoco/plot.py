"""A maze as a plan, and the ways that were taken through it, coloured by time."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.mujoco.mazes import CHASM, FALLING, SLIDING, WALL, MazeSpec
from ground.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

_RED, _GREEN, _TIME = "#d9695f", "#2e9e4f", "viridis"
_COLOURS = {WALL: "0.45", CHASM: "0.15", SLIDING: _RED, FALLING: _RED}


class Way(NamedTuple):
    """An episode as the map shows it.

    Attributes:
        obs: Observations [T, O].
        chosen: int64 [G], the steps in which subgoals were chosen.
        subgoals: (x, y, ...) [G, 2 or more] in metres.
    """

    obs: NDArray[np.floating]
    chosen: NDArray[np.int64]
    subgoals: NDArray[np.floating]


def save_map(path: Path, spec: MazeSpec, ways: Sequence[Way], title: str) -> None:
    """Save the plan with ways and subgoals as a PNG. Raises `UserError` if it cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 5.0), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    draw_plan(axes, spec)
    time = draw_ways(axes, spec, ways)
    figure.colorbar(time, ax=axes, label="step", shrink=0.8)
    axes.set_title(title)
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    figure.legend(once.values(), once.keys(), loc="outside lower center", ncols=len(once), frameon=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png")
    except OSError as error:
        raise UserError(f"Could not write {path}: {error}.", "another --savedir") from error


def draw_plan(axes: "Axes", spec: MazeSpec) -> None:
    """Draw walls, chasm, the block where it starts, and the area of success around the evaluation goal."""
    from matplotlib.patches import Rectangle

    half = spec.cell / 2
    for row, column in spec.cells("".join(_COLOURS)):
        x, y = spec.centre(row, column)
        colour = _COLOURS[spec.layout[row][column]]
        axes.add_patch(Rectangle((x - half, y - half), spec.cell, spec.cell, facecolor=colour, edgecolor="none"))
    low, high = spec.eval_goals
    if low == high:
        _draw_goal(axes, spec, low)
    (left, bottom), (right, top) = spec.centre(0, 0), spec.centre(len(spec.layout) - 1, len(spec.layout[0]) - 1)
    axes.set(xlim=(left - half, right + half), ylim=(bottom - half, top + half), aspect="equal")
    axes.set(xlabel="x [m]", ylabel="y [m]")


def _draw_goal(axes: "Axes", spec: MazeSpec, goal: Sequence[float]) -> None:
    """The area of success."""
    from matplotlib.patches import Circle

    area = Circle((goal[0], goal[1]), spec.radius, facecolor=_GREEN, alpha=0.2, edgecolor="none", label="goal")
    axes.add_patch(area)


def draw_ways(axes: "Axes", spec: MazeSpec, ways: Sequence[Way]) -> "ScalarMappable":
    """Draw each way with its start, subgoals, goal where goals vary, and the block where it ends; the colours' scale.

    A subgoal has the colour of the way at the time when it was chosen.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    norm = Normalize(0, max((len(way.obs) for way in ways), default=1))
    for way in ways:
        x, y = (_column(spec, way.obs, axis) for axis in "xy")
        points = np.stack([x, y], 1)
        pieces = np.stack([points[:-1], points[1:]], 1)
        line = LineCollection(list(pieces), cmap=_TIME, norm=norm, linewidths=1.8)
        line.set_array(np.arange(len(pieces)))
        axes.add_collection(line)
        axes.scatter(x[:1], y[:1], s=60, marker="*", color="black", zorder=3, label="start")
        if len(way.subgoals):
            dots: dict[str, Any] = {"cmap": _TIME, "norm": norm, "edgecolors": "black", "linewidths": 0.6, "zorder": 4}
            axes.scatter(way.subgoals[:, 0], way.subgoals[:, 1], s=34, c=way.chosen, label="subgoal", **dots)
        if spec.eval_goals[0] != spec.eval_goals[1]:
            _draw_goal(axes, spec, [float(_column(spec, way.obs, f"goal_{axis}")[0]) for axis in "xy"])
        if spec.block_cell and spec.observe_block:
            home = dict(zip("xy", spec.centre(*spec.block_cell), strict=True))
            ends = {a: _column(spec, way.obs, f"block_{a}")[-1] if a in spec.block_axes else home[a] for a in "xy"}
            corner = (ends["x"] - spec.cell / 2, ends["y"] - spec.cell / 2)
            outline: dict[str, Any] = {"facecolor": "none", "edgecolor": _RED, "linestyle": "--", "linewidth": 1.2}
            axes.add_patch(Rectangle(corner, spec.cell, spec.cell, **outline, label="block at the end"))
    return ScalarMappable(norm, _TIME)


def _column(spec: MazeSpec, obs: NDArray[np.floating], name: str) -> NDArray[np.floating]:
    """What one name of an observation is, [T]."""
    return obs[:, spec.observation_names.index(name)]
