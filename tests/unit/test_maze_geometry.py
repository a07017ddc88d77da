"""Maps, walls, platforms and blocks against the constants of HIRO (Nachum et al., 2018) and its code."""

import itertools
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest

from envs.mujoco.mazes import SPECS, MazeSpec
from envs.mujoco.model import make_model

# In cells, as (x, y): what is no wall, block and chasm included; and how many walls there are around it.
MAPS = {
    "Maze": ({(0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (1, 2), (0, 2)}, 18),
    "Push": ({(-1, 0), (0, 0), (-1, 1), (0, 1), (1, 1), (0, 2)}, 19),
    "Fall": ({(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3)}, 16),
}


def boxes(model: mujoco.MjModel, kind: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Centre and half sizes of the geoms whose names start so."""
    geoms = [model.geom(i) for i in range(model.ngeom)]
    return {geom.name: (geom.pos, geom.size) for geom in geoms if geom.name.startswith(kind)}


def solid(found: dict[str, tuple[np.ndarray, np.ndarray]], at: tuple[float, float, float]) -> bool:
    return any((np.abs(np.array(at) - centre) < half).all() for centre, half in found.values())


@pytest.mark.parametrize("name", ["AntMaze", "AntPush", "AntFall", "PointUMaze", "PointPush", "PointFall"])
def test_every_place_is_wall_or_free_as_the_original_has_it(name: str) -> None:
    """By brute force over a fine grid of points."""
    spec = SPECS[name]
    inside, count = MAPS[name.removeprefix("Ant").removeprefix("Point").removeprefix("U")]
    walls, ground = boxes(make_model(spec), "wall"), spec.height * ("Fall" in name)
    assert len(walls) == count
    columns, rows = ([cell[i] for cell in inside] for i in (0, 1))
    steps = np.arange(-0.9, 1.0, 0.45)
    for x, y in itertools.product(range(min(columns) - 1, max(columns) + 2), range(min(rows) - 1, max(rows) + 2)):
        for dx, dy in itertools.product(steps, steps):
            at = (spec.cell * (x + dx / 2), spec.cell * (y + dy / 2), ground + 0.5 * spec.height)
            assert solid(walls, at) == ((x, y) not in inside), at


def test_sizes_of_the_paper() -> None:
    maze, fall = (make_model(SPECS[name]) for name in ("AntMaze", "AntFall"))
    for model, height in ((maze, 2), (fall, 6)):
        for centre, half in boxes(model, "wall").values():
            np.testing.assert_array_equal(half, (4, 4, 2))
            assert centre[2] == height
    platforms = boxes(fall, "platform")
    assert len(platforms) == 22, "under everything but the chasm"
    for centre, half in platforms.values():
        assert centre[2] + half[2] == 4
    assert not solid(platforms, (0, 16, 2))
    assert solid(platforms, (8, 8, 2))
    assert fall.body("torso").pos[2] == 4.75
    assert maze.body("torso").pos[2] == 0.75


def test_blocks_of_the_paper() -> None:
    push, fall = (make_model(SPECS[name]) for name in ("AntPush", "AntFall"))
    for model, at, size, mass in ((push, (0, 8, 2), (4, 4, 2), 0.0002), (fall, (8, 8, 6), (3.96, 3.96, 2), 0.001)):
        np.testing.assert_allclose(model.body("block").pos, at)
        np.testing.assert_allclose(model.geom("block").size, size)
        np.testing.assert_allclose(model.body("block").mass, mass)
        assert model.geom("block").condim == 3
        assert model.geom("block").friction[0] == 1
        np.testing.assert_allclose(model.geom_solimp[:, :3], [[0.995, 0.995, 0.01]] * model.ngeom)
    for model, limits in ((push, {"x": None, "y": None}), (fall, {"y": (-8, 8), "z": (-4, 0)})):
        assert model.nq == 17
        for axis, limit in limits.items():
            joint = model.joint(f"block_{axis}")
            assert joint.type == mujoco.mjtJoint.mjJNT_SLIDE
            np.testing.assert_array_equal(joint.axis, np.array(list("xyz")) == axis)
            assert joint.limited == (limit is not None)
            if limit:
                np.testing.assert_array_equal(joint.range, limit)
            assert joint.damping == joint.armature == 0
            assert joint.margin == 0.01


def test_the_robust_block_is_smaller_and_slides() -> None:
    block = make_model(SPECS["PointFall"]).geom("block")
    np.testing.assert_allclose(block.size, (1.9, 1.9, 1))
    assert block.condim == 1
    assert block.priority == 1


def reference_ant() -> mujoco.MjModel:
    """HIRO's ant by textual replacement in Gymnasium's file, independent of the code under test."""
    text = (Path(gymnasium.__file__).parent / "envs/mujoco/assets/ant.xml").read_text()
    for old, new in (
        ('timestep="0.01"', 'timestep="0.02"'),
        ('gear="150"', 'gear="1"'),
        ('ctrlrange="-1.0 1.0"', 'ctrlrange="-30 30"'),
        ('margin="0.01" rgba', 'margin="0.01" solimp=".8 .8 .01" rgba'),
    ):
        assert old in text
        text = text.replace(old, new)
    return mujoco.MjModel.from_xml_string(text)


def test_far_from_walls_the_ant_moves_as_that_of_the_paper_to_the_bit() -> None:
    models = make_model(SPECS["AntMaze"]), reference_ant()
    assert models[0].opt.timestep == 0.02
    assert models[0].opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
    np.testing.assert_array_equal(models[0].actuator_gear[:, 0], np.ones(8))
    np.testing.assert_array_equal(models[0].actuator_ctrlrange, [[-30, 30]] * 8)
    both = [mujoco.MjData(model) for model in models]
    rng = np.random.default_rng(0)
    for _ in range(300):
        action = rng.uniform(-30, 30, size=8)
        for model, data in zip(models, both, strict=True):
            data.ctrl[:] = action
            mujoco.mj_step(model, data, 5)
        np.testing.assert_array_equal(both[0].qpos, both[1].qpos)
    assert np.abs(both[0].qpos[:2]).max() > 0.3


def test_the_point_is_as_measured() -> None:
    model = make_model(SPECS["PointUMaze"])
    assert (model.nq, model.nv, model.nu) == (2, 2, 2)
    assert model.body("torso").mass == 1
    np.testing.assert_array_equal(model.dof_damping, (2, 2))
    np.testing.assert_array_equal(model.actuator_gear[:, 0], (6, 6))
    np.testing.assert_array_equal(model.actuator_ctrlrange, [[-1, 1]] * 2)
    assert model.geom("torso").size[0] == 0.4
    assert model.opt.timestep * SPECS["PointUMaze"].robot.frame_skip == pytest.approx(0.2)
    assert model.opt.timestep * SPECS["AntMaze"].robot.frame_skip == pytest.approx(0.1)


@pytest.mark.parametrize("spec", SPECS.values(), ids=str)
def test_specs_are_consistent(spec: MazeSpec) -> None:
    model, block = make_model(spec), len(spec.block_axes)
    assert (model.nq, model.nv) == (len(spec.robot.positions) + block, len(spec.robot.velocities) + block)
    assert model.nu == spec.robot.num_actions
    assert len(set(spec.observation_names)) == len(spec.observation_names)
    for space in spec.goal_spaces.values():
        assert [spec.observation_names[i] for i in spec.indices(space)] == list(space.names)
        assert len(space.scale) == len(space.names)
    assert model.qpos0[: len(spec.robot.positions)][2:3].tolist() in ([], [spec.start_height])
