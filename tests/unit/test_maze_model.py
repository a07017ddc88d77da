"""Maps, robots and blocks against the constants of HIRO (Nachum et al., 2018) and its code; and what blocks do."""

import itertools
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest

from preceptor.envs.mujoco.mazes import SPECS
from preceptor.envs.mujoco.model import make_model, make_plan
from preceptor.envs.mujoco.simulator import MazeSimulator
from preceptor.envs.vector import BatchedEnv

# In cells, as (x, y): what is no wall, block and chasm included; and how many walls there are around it.
MAPS = {
    "Maze": ({(0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (1, 2), (0, 2)}, 18),
    "Push": ({(-1, 0), (0, 0), (-1, 1), (0, 1), (1, 1), (0, 2)}, 19),
    "Fall": ({(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3)}, 16),
}
CHASM = {(0, 2), (1, 2)}


def boxes(model: mujoco.MjModel, kind: str) -> np.ndarray:
    """Centres and half sizes [boxes, 2, 3] of the geoms whose names start so."""
    geoms = [model.geom(i) for i in range(model.ngeom)]
    return np.array([(geom.pos, geom.size) for geom in geoms if geom.name.startswith(kind)])


def solid(found: np.ndarray, *at: float) -> bool:
    return bool((np.abs(np.array(at) - found[:, 0]) < found[:, 1]).all(axis=1).any())


@pytest.mark.parametrize("name", ["AntMaze", "AntPush", "AntFall", "PointUMaze", "PointPush", "PointFall"])
def test_every_place_is_wall_chasm_or_free_as_the_original_has_it(name: str) -> None:
    """By brute force over a fine grid of points."""
    spec = SPECS[name]
    inside, count = MAPS[name.removeprefix("Ant").removeprefix("Point").removeprefix("U")]
    model, fall = make_model(spec), "Fall" in name
    walls, platforms, high = boxes(model, "wall"), boxes(model, "platform"), (4.0 if "Ant" in name else 2.0)
    assert len(walls) == count
    assert (walls[:, 0, 2] == high * (0.5 + fall)).all()
    assert (walls[:, 1] == (high, high, high / 2)).all()
    assert model.body("torso").pos[2] == spec.robot.height + high * fall
    low, top = np.min(list(inside), axis=0) - 1, np.max(list(inside), axis=0) + 2
    steps = np.arange(-0.45, 0.5, 0.225)
    for x, y, dx, dy in itertools.product(range(low[0], top[0]), range(low[1], top[1]), steps, steps):
        at = 2 * high * (x + dx), 2 * high * (y + dy)
        assert solid(walls, *at, high * (0.5 + fall)) == ((x, y) not in inside), at
        assert not fall or solid(platforms, *at, high / 2) == ((x, y) not in CHASM), at


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
            assert (joint.type, joint.limited) == (mujoco.mjtJoint.mjJNT_SLIDE, limit is not None)
            np.testing.assert_array_equal(joint.axis, np.array(list("xyz")) == axis)
            np.testing.assert_array_equal(joint.range, limit or (0, 0))
            assert (joint.damping, joint.armature, joint.margin) == (0, 0, 0.01)
    robust = make_model(SPECS["PointFall"]).geom("block")
    assert (*robust.size, robust.condim, robust.priority) == pytest.approx((1.9, 1.9, 1, 1, 1))


def test_far_from_walls_the_ant_moves_as_that_of_the_paper_to_the_bit() -> None:
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
    models = make_model(SPECS["AntMaze"]), mujoco.MjModel.from_xml_string(text)
    both, rng = [mujoco.MjData(model) for model in models], np.random.default_rng(0)
    for _ in range(300):
        action = rng.uniform(-35, 35, size=8)
        for model, data in zip(models, both, strict=True):
            data.ctrl[:] = action
            mujoco.mj_step(model, data, SPECS["AntMaze"].robot.frame_skip)
        np.testing.assert_array_equal(both[0].qpos, both[1].qpos)
    assert both[0].time == pytest.approx(300 * 0.1)
    assert np.abs(both[0].qpos[:2]).max() > 0.3


def test_the_point_is_as_measured() -> None:
    model = make_model(SPECS["PointUMaze"])
    assert (model.nq, model.nv, model.nu) == (2, 2, 2)
    assert (model.body("torso").mass, model.geom("torso").size[0]) == (1, 0.4)
    assert (*model.dof_damping, *model.actuator_gear[:, 0]) == (2, 2, 6, 6)
    np.testing.assert_array_equal(model.actuator_ctrlrange, [[-1, 1]] * 2)
    assert model.opt.timestep * SPECS["PointUMaze"].robot.frame_skip == pytest.approx(0.2)


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
    """Last positions [nq] of a robot that is driven so from a start by joint."""
    model = make_model(SPECS[name])
    data = mujoco.MjData(model)
    for joint, value in start.items():
        data.joint(joint).qpos[:] = value
    data.ctrl[: len(control)] = control
    mujoco.mj_step(model, data, steps)
    return data.qpos


@pytest.mark.parametrize(
    ("name", "short", "depth"),
    [
        *(("AntFall", 0.0, -3.98), ("PointFall", 0.0, -1.98)),  # over the gap it falls, and bridges it
        *((name, 1.0, 0.0) for name in ("AntFall", "PointFall", "PointFallOriginal")),
        *(("AntFall", 0.0025, -3.98), ("AntFall", 0.01, 0.0)),  # the original gap forgives four centimetres,
        *(("AntFallRobust", 0.0125, -3.98), ("AntFallRobust", 0.05, 0.0)),  # the robust one twenty
    ],
)
def test_a_block_falls_into_the_gap_and_stays_up_elsewhere(name: str, short: float, depth: float) -> None:
    """Put down so many cells short of the gap's middle."""
    cell = SPECS[name].cell
    y, z = driven(name, (), 300, block_y=(1 - short) * cell)[-2:]
    assert z == pytest.approx(depth, abs=0.03)
    assert depth == 0 or y == pytest.approx(cell, abs=0.15)


def test_a_block_stays_until_it_is_pushed_and_passes_no_wall() -> None:
    for name in ("AntPush", "PointPush", "PointPushOriginal"):
        assert np.abs(driven(name, (), 500)[-2:]).max() < 0.03
    end = driven("PointPush", (0.0, 1.0), 1500)  # up against the block, which the wall behind the next cell stops
    assert end[[3, 1]] == pytest.approx([4.0, 8.0 - 2.0 - 0.4], abs=0.05), "one cell up, and the robot behind it"
    assert driven("PointFallOriginal", (0.0, 1.0), 1000, x=4.0)[-1] > -0.5, "pinned or bounces: only slow pushes work"
