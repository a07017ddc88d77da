"""The plan of a maze has its cells where the simulator has them."""

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from envs.mujoco.mazes import SPECS, MazeSpec, maze_spec
from envs.mujoco.plot import draw_plan, draw_ways

matplotlib.use("agg")


@pytest.mark.parametrize("spec", SPECS.values(), ids=str)
def test_the_plan_shows_every_cell_that_is_not_free(spec: MazeSpec) -> None:
    axes = Figure().subplots()
    draw_plan(axes, spec)
    squares = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    drawn = {tuple(np.add(square.get_xy(), spec.cell / 2)) for square in squares}
    assert drawn == {spec.centre(*cell) for cell in spec.cells("#~BF")}
    red = [square for square in squares if to_rgb(square.get_facecolor())[0] > 0.8]
    assert len(red) == (spec.block is not None)
    circles = [patch for patch in axes.patches if isinstance(patch, Circle)]
    assert [circle.radius for circle in circles] == [spec.radius] * (spec.eval_goals[0] == spec.eval_goals[1])
    assert axes.get_xlim()[1] - axes.get_xlim()[0] == spec.cell * len(spec.layout[0])


def test_ways_and_subgoals_are_drawn_in_metres() -> None:
    axes = Figure().subplots()
    draw_plan(axes, maze_spec("PointUMaze"))
    way, subgoals = np.array([[0.0, 0.0, 9.0], [4.0, 0.5, 9.0]]), np.array([[4.0, 0.0]])
    draw_ways(axes, [way, way + 1], [subgoals])
    lines = [np.array(line.get_xydata()) for line in axes.lines]
    np.testing.assert_array_equal(lines[0], way[:, :2])
    np.testing.assert_array_equal(lines[1], [[0.0, 0.0]])
    np.testing.assert_array_equal(lines[-1], subgoals)
    assert len(lines) == 5
    axes.figure.savefig("/dev/null", format="png")
