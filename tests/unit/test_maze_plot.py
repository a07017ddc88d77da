"""The plan of a maze has its cells where the simulator has them."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from envs.mujoco.mazes import SPECS, MazeSpec
from envs.mujoco.plot import Way, draw_plan, draw_ways, save_map
from ground.errors import UserError

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
    draw_ways(axes, spec, [Way(np.zeros((2, len(spec.observation_names))), np.zeros(0, np.int64), np.zeros((0, 2)))])
    assert {"start", "goal"} <= set(axes.get_legend_handles_labels()[1]), "even of ways without subgoals"


def test_ways_and_subgoals_are_drawn_in_metres_and_coloured_by_time(tmp_path: Path) -> None:
    spec = SPECS["PointPush"]
    axes = Figure().subplots()
    obs = np.zeros((3, len(spec.observation_names)), np.float32)
    for name, values in {"x": [0, 4, 4], "y": [0, 0.5, 1], "block_x": [0, 1, 2], "block_y": [4, 4, 4]}.items():
        obs[:, spec.observation_names.index(name)] = values
    way = Way(obs, np.array([2]), np.array([[4.0, 3.0]]))
    before = len(axes.patches)
    draw_ways(axes, spec, [way])
    (line,) = (each for each in axes.collections if isinstance(each, LineCollection))
    np.testing.assert_array_equal(np.concatenate(line.get_segments())[[0, 1, 3]], [[0, 0], [4, 0.5], [4, 1]])
    np.testing.assert_array_equal(line.get_array(), [0, 1])
    start, subgoals = (each for each in axes.collections if isinstance(each, PathCollection))
    np.testing.assert_array_equal(start.get_offsets(), [[0, 0]])
    np.testing.assert_array_equal(subgoals.get_offsets(), [[4, 3]])
    np.testing.assert_array_equal(subgoals.get_array(), [2])
    (block,) = axes.patches[before:]
    assert isinstance(block, Rectangle)
    assert block.get_xy() == (0.0, 2.0)
    save_map(tmp_path / "new" / "map.png", spec, [way], "title")
    assert (tmp_path / "new" / "map.png").read_bytes().startswith(b"\x89PNG")


def test_a_map_that_cannot_be_written_is_a_named_error() -> None:
    with pytest.raises(UserError, match="Could not write /proc/nowhere"):
        save_map(Path("/proc/nowhere/map.png"), SPECS["PointReach"], [], "title")
