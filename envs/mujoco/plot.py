"""A maze as a plan, and the ways that were taken through it, coloured by time."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from preceptor.envs.mujoco.mazes import CHASM, FALLING, SLIDING, WALL, MazeSpec
from preceptor.ground.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

_RED, _GREEN, _TIME = "#d9695f", "#2e9e4f", "viridis"
_COLOURS = {WALL: "0.45", CHASM: "0.15", SLIDING: _RED, FALLING: _RED}
_DOTS: dict[str, Any] = {"cmap": _TIME, "edgecolors": "black", "linewidths": 0.6, "zorder": 4, "label": "subgoal"}
_OUTLINE: dict[str, Any] = {"facecolor": "none", "edgecolor": _RED, "linestyle": "--", "linewidth": 1.2}


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
    figure.colorbar(draw_map(axes, spec, ways), ax=axes, label="step", shrink=0.8)
    axes.set_title(title)
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    figure.legend(once.values(), once.keys(), loc="outside lower center", ncols=len(once), frameon=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png")
    except OSError as error:
        raise UserError(f"Could not write {path}: {error}.", "another --savedir") from error


def draw_map(axes: "Axes", spec: MazeSpec, ways: Sequence[Way]) -> "ScalarMappable":
    """Draw walls, chasm, block, and the area of success; then each way. Gives the scale of the colours.

    A way has its start, its subgoals in the colour of the time when they were chosen, its own goal where goals vary,
    and the block where it ends.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize
    from matplotlib.patches import Circle, Rectangle

    cell, area = spec.cell, {"facecolor": _GREEN, "alpha": 0.2, "edgecolor": "none", "label": "goal"}

    def square(x: float, y: float, **look: Any) -> None:
        axes.add_patch(Rectangle((x - cell / 2, y - cell / 2), cell, cell, **look))

    for row, column in spec.cells("".join(_COLOURS)):
        square(*spec.centre(row, column), facecolor=_COLOURS[spec.layout[row][column]], edgecolor="none")
    (left, bottom), (right, top) = spec.centre(0, 0), spec.centre(len(spec.layout) - 1, len(spec.layout[0]) - 1)
    axes.set(xlim=(left - cell / 2, right + cell / 2), ylim=(bottom - cell / 2, top + cell / 2), aspect="equal")
    axes.set(xlabel="x [m]", ylabel="y [m]")
    one_goal = spec.eval_goals[0] == spec.eval_goals[1]
    if one_goal:
        axes.add_patch(Circle((spec.eval_goals[0][0], spec.eval_goals[0][1]), spec.radius, **area))
    norm = Normalize(0, max((len(way.obs) for way in ways), default=1))
    for way in ways:
        seen = dict(zip(spec.observation_names, way.obs.T, strict=True))
        points = np.stack([seen["x"], seen["y"]], 1)
        line = LineCollection(list(np.stack([points[:-1], points[1:]], 1)), cmap=_TIME, norm=norm, linewidths=1.8)
        line.set_array(np.arange(len(points) - 1))
        axes.add_collection(line)
        axes.scatter(points[:1, 0], points[:1, 1], s=60, marker="*", color="black", zorder=3, label="start")
        if len(way.subgoals):
            axes.scatter(way.subgoals[:, 0], way.subgoals[:, 1], s=34, c=way.chosen, norm=norm, **_DOTS)
        if not one_goal:
            axes.add_patch(Circle((float(seen["goal_x"][0]), float(seen["goal_y"][0])), spec.radius, **area))
        if spec.observe_block and spec.block:
            end = spec.block_home | {axis: seen[f"block_{axis}"][-1] for axis in spec.block_axes}
            square(end["x"], end["y"], label="block at the end", **_OUTLINE)
    return ScalarMappable(norm, _TIME)
