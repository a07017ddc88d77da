"""What blocks do: bridge a gap, stay where they are, and where the robust ones differ from the original ones."""

import mujoco
import numpy as np
import pytest

from envs.mujoco.mazes import SPECS, MazeSpec
from envs.mujoco.model import make_model


def settle(spec: MazeSpec, block: tuple[float, float], steps: int = 300) -> np.ndarray:
    """The block's joints after it was put somewhere and left alone; the robot stands still."""
    model = make_model(spec)
    data = mujoco.MjData(model)
    data.qpos[-2:] = block
    mujoco.mj_step(model, data, steps)
    return data.qpos[-2:].copy()


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
    spec = SPECS[name]
    y, z = settle(spec, ((1 - short) * spec.cell, 0.0))
    assert z == pytest.approx(depth, abs=0.03)
    assert depth == 0 or y == pytest.approx(spec.cell, abs=0.15)


@pytest.mark.parametrize("name", ["AntPush", "PointPush", "PointPushOriginal"])
def test_a_sliding_block_that_is_not_pushed_stays(name: str) -> None:
    assert np.abs(settle(SPECS[name], (0.0, 0.0), steps=500)).max() < 0.03


def push(spec: MazeSpec, steps: int) -> np.ndarray:
    """Observations of a point that is driven upwards at full power from below the block."""
    model = make_model(spec)
    data = mujoco.MjData(model)
    data.qpos[0] = spec.cell  # the block's column
    data.ctrl[1] = 1.0
    track = []
    for _ in range(steps):
        mujoco.mj_step(model, data, spec.robot.frame_skip)
        track.append(data.qpos.copy())
    return np.array(track)


def test_a_hard_push_fills_the_gap_only_with_the_robust_block() -> None:
    robust, original = (push(SPECS[name], 100) for name in ("PointFall", "PointFallOriginal"))
    assert robust[-1, -1] == pytest.approx(-2.0, abs=0.05)
    assert robust[-1, 1] > 11, "the robot has crossed on the block"
    assert robust[:, 2].min() > 2.3, "and did not fall"
    assert original[-1, -1] > -0.5, "the original is pinned or bounces"


def test_blocks_do_not_pass_walls_nor_the_robot_a_wall() -> None:
    model = make_model(SPECS["PointPush"])
    data = mujoco.MjData(model)
    data.ctrl[:] = (0.0, 1.0)  # up against the block, which is stopped by the wall behind the next cell
    mujoco.mj_step(model, data, 1500)
    assert data.qpos[3] == pytest.approx(4.0, abs=0.05), "one cell up"
    assert data.qpos[1] == pytest.approx(8.0 - 2.0 - 0.4, abs=0.05)


@pytest.mark.parametrize("direction", [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1)])
def test_the_point_stays_out_of_walls(direction: tuple[int, int]) -> None:
    model = make_model(SPECS["PointUMaze"])
    data = mujoco.MjData(model)
    data.ctrl[:] = direction
    for _ in range(600):
        mujoco.mj_step(model, data)
        x, y = data.qpos
        assert x > -1.62
        assert x < 9.62
        assert y > -1.62
        assert y < 1.62 or x > 6.35, "the wall between the arms of the U ends at x = 6"
