"""Maps, robots and blocks against the constants of HIRO (Nachum et al., 2018) and its code; and what blocks do."""

import itertools
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest

from preceptor.envs.mujoco.mazes import ANT, SPECS, MazeSpec
from preceptor.envs.mujoco.model import make_model, make_plan
from preceptor.envs.mujoco.simulator import MazeSimulator
from preceptor.envs.vector import BatchedEnv

# In cells, as (x, y): what is no wall, block and chasm included; and how many walls there are around it.
MAPS = {
    "Maze": ({(0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (1, 2), (0, 2)}, 18),
    "Push": ({(-1, 0), (0, 0), (-1, 1), (0, 1), (1, 1), (0, 2)}, 19),
    "Fall": ({(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3)}, 16),
}


def boxes(model: mujoco.MjModel, kind: str) -> np.ndarray:
    """Centres and half sizes [boxes, 2, 3] of the geoms whose names start so."""
    geoms = [model.geom(i) for i in range(model.ngeom)]
    return np.array([(geom.pos, geom.size) for geom in geoms if geom.name.startswith(kind)])


def solid(found: np.ndarray, *at: float) -> bool:
    return bool((np.abs(np.array(at) - found[:, 0]) < found[:, 1]).all(axis=1).any())


@pytest.mark.parametrize("name", ["AntMaze", "AntPush", "AntFall", "PointUMaze", "PointPush", "PointFall"])
def test_every_place_is_wall_or_free_as_the_original_has_it(name: str) -> None:
    """By brute force over a fine grid of points."""
    spec = SPECS[name]
    inside, count = MAPS[name.removeprefix("Ant").removeprefix("Point").removeprefix("U")]
    walls, ground = boxes(make_model(spec), "wall"), spec.height * ("Fall" in name)
    assert len(walls) == count
    low, high = np.min(list(inside), axis=0) - 1, np.max(list(inside), axis=0) + 2
    steps = np.arange(-0.45, 0.5, 0.225)
    for x, y, dx, dy in itertools.product(range(low[0], high[0]), range(low[1], high[1]), steps, steps):
        at = spec.cell * (x + dx), spec.cell * (y + dy), ground + 0.5 * spec.height
        assert solid(walls, *at) == ((x, y) not in inside), at


def test_sizes_of_the_paper() -> None:
    maze, fall = (make_model(SPECS[name]) for name in ("AntMaze", "AntFall"))
    for model, height in ((maze, 2), (fall, 6)):
        walls = boxes(model, "wall")
        assert (walls[:, 1] == (4, 4, 2)).all()
        assert (walls[:, 0, 2] == height).all()
    platforms = boxes(fall, "platform")
    assert len(platforms) == 22, "under everything but the chasm"
    assert (platforms[:, :, 2].sum(axis=1) == 4).all()
    assert not solid(platforms, 0, 16, 2)
    assert solid(platforms, 8, 8, 2)
    assert (fall.body("torso").pos[2], maze.body("torso").pos[2]) == (4.75, 0.75)


def test_blocks_of_the_paper_and_the_robust_one() -> None:
    for name, at, size, mass, limits in (
        ("AntPush", (0, 8, 2), (4, 4, 2), 0.0002, {"x": None, "y": None}),
        ("AntFall", (8, 8, 6), (3.96, 3.96, 2), 0.001, {"y": (-8, 8), "z": (-4, 0)}),
    ):
        model = make_model(SPECS[name])
        body, geom = model.body("block"), model.geom("block")
        np.testing.assert_allclose([*body.pos, *geom.size, *body.mass], [*at, *size, mass])
        assert (geom.condim, geom.friction[0], model.nq) == (3, 1, 17)
        np.testing.assert_allclose(model.geom_solimp[:, :3], [[0.995, 0.995, 0.01]] * model.ngeom)
        for axis, limit in limits.items():
            joint = model.joint(f"block_{axis}")
            assert joint.type == mujoco.mjtJoint.mjJNT_SLIDE
            np.testing.assert_array_equal(joint.axis, np.array(list("xyz")) == axis)
            assert joint.limited == (limit is not None)
            np.testing.assert_array_equal(joint.range, limit or (0, 0))
            assert (joint.damping, joint.armature, joint.margin) == (0, 0, 0.01)
    robust = make_model(SPECS["PointFall"]).geom("block")
    np.testing.assert_allclose(robust.size, (1.9, 1.9, 1))
    assert (robust.condim, robust.priority) == (1, 1)


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
    assert models[0].opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
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
    assert (model.body("torso").mass, model.geom("torso").size[0]) == (1, 0.4)
    np.testing.assert_array_equal(model.dof_damping, (2, 2))
    np.testing.assert_array_equal(model.actuator_gear[:, 0], (6, 6))
    np.testing.assert_array_equal(model.actuator_ctrlrange, [[-1, 1]] * 2)
    for name, seconds in (("PointUMaze", 0.2), ("AntMaze", 0.1)):
        assert make_model(SPECS[name]).opt.timestep * SPECS[name].robot.frame_skip == pytest.approx(seconds)


@pytest.mark.parametrize("spec", SPECS.values(), ids=str)
def test_specs_are_consistent(spec: MazeSpec) -> None:
    model, robot, block = make_model(spec), spec.robot, spec.block_axes
    assert (model.nq, model.nv) == (len(robot.positions) + len(block), len(robot.velocities) + len(block))
    assert model.nu == robot.num_actions
    joints = [model.joint(j).name for j in range(model.njnt)]
    named = [f"block_{axis}" for axis in block]
    if robot is ANT:
        assert joints[1:] == [*robot.positions[7:], *named]
        assert [f"v{name}" for name in joints[1:9]] == list(robot.velocities[6:])
    else:
        assert joints == [*robot.positions, *named]
    assert len(set(spec.observation_names)) == len(spec.observation_names)
    for space in robot.goal_spaces.values():
        assert [spec.observation_names[i] for i in space.indices] == list(space.names)
        assert len(space.scale) == len(space.names)
    assert model.qpos0[: len(robot.positions)][2:3].tolist() in ([], [spec.start_height])


@pytest.mark.parametrize("name", ["AntMaze", "AntPush", "AntFall", "PointPush", "PointFall"])
def test_a_loop_over_mujoco_gives_the_same_numbers(name: str) -> None:
    """On a model without our switches, by one thread: the reference of what an action is."""
    spec = SPECS[name]
    simulator = MazeSimulator(spec, 2)
    env, rng = BatchedEnv(simulator, seed=1), np.random.default_rng(0)
    obs, _ = env.reset()
    plain = make_plan(spec).compile()
    mine = [mujoco.MjData(plain) for _ in range(2)]
    for n, data in enumerate(mine):
        data.qpos[:], data.qvel[:] = simulator.data[n].qpos, simulator.data[n].qvel
    count, goal = len(spec.robot.positions), spec.eval_goals[0]
    for t in range(60):
        actions = rng.uniform(-1, 1, size=(2, simulator.model.nu)).astype(np.float32)
        if t < 40 and spec.robot.name == "point":
            actions[:] = (spec.block_axes == "yz" and t < 12, spec.block_axes == "xy" or t >= 12)  # into the block
        obs, reward, *_ = env.step(actions)
        for n, data in enumerate(mine):
            for _ in range(spec.robot.frame_skip):
                data.ctrl[:] = spec.robot.action_limit * actions[n].astype(np.float64)
                mujoco.mj_step(plain, data)
            np.testing.assert_array_equal(obs[n, :count], data.qpos[:count].astype(np.float32))
            aim = simulator.goal[n] if name == "AntMaze" else goal
            assert reward[n] == pytest.approx(-np.linalg.norm(data.qpos[: len(goal)] - aim), abs=1e-12)
    assert spec.robot.name == "ant" or np.abs(mine[0].qpos[count:] - plain.qpos0[count:]).max() > 0.5


def driven(name: str, control: tuple[float, ...], steps: int, **start: float) -> np.ndarray:
    """Positions [steps, nq] of a robot that is driven so from a start by joint."""
    model = make_model(SPECS[name])
    data, track = mujoco.MjData(model), []
    for joint, value in start.items():
        data.joint(joint).qpos[:] = value
    data.ctrl[: len(control)] = control
    for _ in range(steps):
        mujoco.mj_step(model, data)
        track.append(data.qpos.copy())
    return np.array(track)


@pytest.mark.parametrize(
    ("name", "short", "depth"),
    [
        *(("AntFall", 0.0, -3.98), ("PointFall", 0.0, -1.98)),  # over the gap it falls, and bridges it
        *((name, short, 0.0) for name in ("AntFall", "PointFall", "PointFallOriginal") for short in (0.1, 0.5, 1.0)),
        *(("AntFall", 0.0025, -3.98), ("AntFall", 0.01, 0.0)),  # the original gap forgives four centimetres,
        *(("AntFallRobust", 0.0125, -3.98), ("AntFallRobust", 0.05, 0.0)),  # the robust one twenty
    ],
)
def test_a_block_falls_into_the_gap_and_stays_up_elsewhere(name: str, short: float, depth: float) -> None:
    """Put down so many cells short of the gap's middle."""
    cell = SPECS[name].cell
    y, z = driven(name, (), 300, block_y=(1 - short) * cell)[-1, -2:]
    assert z == pytest.approx(depth, abs=0.03)
    assert depth == 0 or y == pytest.approx(cell, abs=0.15)


@pytest.mark.parametrize("name", ["AntPush", "PointPush", "PointPushOriginal"])
def test_a_sliding_block_that_is_not_pushed_stays(name: str) -> None:
    assert np.abs(driven(name, (), 500)[-1, -2:]).max() < 0.03


def test_a_hard_push_fills_the_gap_only_with_the_robust_block() -> None:
    robust, original = (driven(name, (0.0, 1.0), 1000, x=4.0) for name in ("PointFall", "PointFallOriginal"))
    assert robust[-1, -1] == pytest.approx(-2.0, abs=0.05)
    assert robust[-1, 1] > 11, "the robot has crossed on the block"
    assert robust[:, 2].min() > 2.3, "and did not fall"
    assert original[-1, -1] > -0.5, "the original is pinned or bounces"


def test_blocks_do_not_pass_walls_nor_the_robot_a_wall() -> None:
    end = driven("PointPush", (0.0, 1.0), 1500)[-1]  # up against the block, which the wall behind the next cell stops
    assert end[3] == pytest.approx(4.0, abs=0.05), "one cell up"
    assert end[1] == pytest.approx(8.0 - 2.0 - 0.4, abs=0.05)
