"""Pictures of mazes: which library draws them, what they show, and the plan with the ways that were taken."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from preceptor.envs.mujoco import rendering
from preceptor.envs.mujoco.mazes import SPECS
from preceptor.envs.mujoco.plot import Way, draw_map, save_map
from preceptor.envs.mujoco.rendering import Backend, choose_backend, undrawable
from preceptor.envs.mujoco.tasks import make_single_env
from preceptor.ground.errors import UserError

matplotlib.use("agg")


@pytest.mark.parametrize(
    ("platform", "asked", "egl", "osmesa", "chosen", "told"),
    [
        ("linux", "", True, True, "egl", "egl"),
        ("linux", "", False, True, "osmesa", "osmesa"),
        ("linux", "", False, False, "off", "off"),
        ("linux", "OSMesa", True, False, "osmesa", "OSMesa"),  # the user's choice stands
        ("darwin", "", True, True, "native", ""),
    ],
)
def test_the_users_choice_then_egl_then_osmesa_then_nothing(
    monkeypatch: pytest.MonkeyPatch, platform: str, asked: str, egl: bool, osmesa: bool, chosen: str, told: str
) -> None:
    monkeypatch.setenv("MUJOCO_GL", asked)
    monkeypatch.delitem(sys.modules, "mujoco", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(rendering, "_egl_works", lambda: egl)
    monkeypatch.setattr(rendering, "_osmesa_is_there", lambda: osmesa)
    assert choose_backend.__wrapped__().name == chosen
    assert os.environ["MUJOCO_GL"] == told


DRAW = """import mujoco
from preceptor.envs.mujoco.tasks import make_single_env
env = make_single_env('PointUMaze', render_mode='rgb_array')
env.reset(seed=0)
print(env.render().shape)
"""


@pytest.mark.draws
def test_a_process_that_imported_mujoco_before_draws() -> None:
    """In a process of its own, since the choice is made once in each; one that may not draw, test_pictures.py has."""
    told = {"cwd": Path(__file__).parents[2], "env": {**os.environ, "MUJOCO_GL": ""}}
    done = subprocess.run([sys.executable, "-c", DRAW], **told, capture_output=True, text=True, check=True)
    assert done.stdout == "(480, 480, 3)\n"


def test_without_any_library_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "choose_backend", lambda: Backend("off", "neither EGL nor OSMesa is here"))
    error = undrawable("Mazes", RuntimeError("no context."))
    assert "off was chosen because neither EGL nor OSMesa is here, and then: no context." in error.what
    assert error.next_step == "sudo apt-get install libegl1 libgl1-mesa-dri  # or libosmesa6"


@pytest.mark.draws
def test_a_picture_shows_robot_block_goal_and_subgoal_and_changes_nothing() -> None:
    env, other = make_single_env("PointPush", render_mode="rgb_array"), make_single_env("PointPush")
    for each in (env, other):
        each.reset(options={"level_seed": 3})
    plain = env.render().astype(int)
    red, green, blue = np.moveaxis(plain, 2, 0)

    def pixel(x: float, y: float) -> tuple[int, int]:
        """Row and column of a place; the middle of the picture is the middle of the map, 5 cells wide."""
        return round(240 - (y - 4) * 24), round(240 + x * 24)

    assert (red - green)[pixel(0, 4)] > 50, "the block"
    assert (green - red)[pixel(0, 9.5)] > 50, "the goal"
    assert (blue - red)[pixel(0, 0)] > 50, "the robot"
    env.simulator.subgoal = np.array([-4.0, 4.0])
    changed = np.argwhere(np.abs(env.render().astype(int) - plain).sum(axis=2) > 60)
    assert np.abs(changed.mean(axis=0) - pixel(-4, 4)).max() < 15
    for _ in range(5):
        np.testing.assert_array_equal(env.step(np.ones(2))[0], other.step(np.ones(2))[0])
        env.render()
    assert other.render() is None
    env.close()


@pytest.mark.parametrize("name", ["AntMaze", "AntFall", "PointPush", "PointReach"])
def test_the_plan_shows_every_cell_that_is_not_free(name: str) -> None:
    spec, axes = SPECS[name], Figure().subplots()
    draw_map(axes, spec, [])
    squares = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    drawn = {tuple(np.add(square.get_xy(), spec.cell / 2)) for square in squares}
    assert drawn == {spec.centre(*cell) for cell in spec.cells("#~BF")}
    circles = [patch for patch in axes.patches if isinstance(patch, Circle)]
    assert [circle.radius for circle in circles] == [spec.radius] * (name != "PointReach"), "goals that stay"
    assert np.ptp(axes.get_xlim()) == spec.cell * len(spec.layout[0])
    draw_map(axes, spec, [Way(np.zeros((2, len(spec.observation_names))), np.zeros(0, np.int64), np.zeros((0, 2)))])
    assert {"start", "goal"} <= set(axes.get_legend_handles_labels()[1]), "even of ways without subgoals"


def test_ways_and_subgoals_are_drawn_in_metres_and_coloured_by_time() -> None:
    spec, axes = SPECS["PointPush"], Figure().subplots()
    obs = np.zeros((3, len(spec.observation_names)), np.float32)
    for name, values in {"x": [0, 4, 4], "y": [0, 0.5, 1], "block_x": [0, 1, 2], "block_y": [4, 4, 4]}.items():
        obs[:, spec.observation_names.index(name)] = values
    way = Way(obs, np.array([2]), np.array([[4.0, 3.0]]))
    draw_map(axes, spec, [way])
    (line,) = (each for each in axes.collections if isinstance(each, LineCollection))
    np.testing.assert_array_equal(np.concatenate(line.get_segments())[[0, 1, 3]], [[0, 0], [4, 0.5], [4, 1]])
    np.testing.assert_array_equal(line.get_array(), [0, 1])
    start, subgoals = (each for each in axes.collections if isinstance(each, PathCollection))
    np.testing.assert_array_equal([*start.get_offsets(), *subgoals.get_offsets()], [[0, 0], [4, 3]])
    np.testing.assert_array_equal(subgoals.get_array(), [2])
    assert axes.patches[-1].get_xy() == (0.0, 2.0), "the block at the end"
    with pytest.raises(UserError, match="Could not write /proc/nowhere"):
        save_map(Path("/proc/nowhere/map.png"), spec, [way], "title")
