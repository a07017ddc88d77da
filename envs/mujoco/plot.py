"""A maze as a plan, and the ways that were taken through it, for matplotlib."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from envs.mujoco.mazes import CHASM, FALLING, SLIDING, WALL, MazeSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {WALL: "0.45", CHASM: "0.15", SLIDING: "#e08080", FALLING: "#e08080"}


def draw_plan(axes: "Axes", spec: MazeSpec) -> None:
    """Draw walls, chasm, the block where it starts, and the area of success around the evaluation goal."""
    from matplotlib.patches import Circle, Rectangle

    half = spec.cell / 2
    for row, column in spec.cells("".join(_COLOURS)):
        x, y = spec.centre(row, column)
        colour = _COLOURS[spec.layout[row][column]]
        axes.add_patch(Rectangle((x - half, y - half), spec.cell, spec.cell, facecolor=colour, edgecolor="none"))
    low, high = spec.eval_goals
    if low == high:
        axes.add_patch(Circle((low[0], low[1]), spec.radius, facecolor="none", edgecolor="green", linestyle="--"))
    (left, bottom), (right, top) = spec.centre(0, 0), spec.centre(len(spec.layout) - 1, len(spec.layout[0]) - 1)
    axes.set(xlim=(left - half, right + half), ylim=(bottom - half, top + half), aspect="equal")
    axes.set(xlabel="x [m]", ylabel="y [m]", title=spec.name)


def draw_ways(
    axes: "Axes", ways: Iterable[NDArray[np.floating]], subgoals: Iterable[NDArray[np.floating]] = ()
) -> None:
    """Draw ways (x, y, ...) [T, 2 or more] from a dot at their start, and their subgoals [G, 2 or more] as crosses."""
    for way in ways:
        (line,) = axes.plot(way[:, 0], way[:, 1], linewidth=1, alpha=0.8)
        axes.plot(way[0, 0], way[0, 1], marker="o", markersize=3, color=line.get_color())
    for places in subgoals:
        axes.plot(places[:, 0], places[:, 1], linestyle="none", marker="x", markersize=5, color="tab:orange")
