"""A maze is stepped as plain MuJoCo steps it, and a picture shows it."""

import mujoco
import numpy as np
import pytest

from envs.mujoco.mazes import SPECS
from envs.mujoco.model import model_xml
from envs.mujoco.simulator import MazeSimulator
from envs.mujoco.tasks import make_single_env
from envs.vector import BatchedEnv


@pytest.mark.parametrize("name", ["AntMaze", "AntPush", "AntFall", "PointPush", "PointFall"])
def test_a_loop_over_mujoco_gives_the_same_numbers(name: str) -> None:
    """On a model without our switches, by one thread: the reference of what an action is."""
    spec = SPECS[name]
    simulator = MazeSimulator(spec, 2)
    env, rng = BatchedEnv(simulator, seed=1), np.random.default_rng(0)
    obs, _ = env.reset()
    plain = mujoco.MjModel.from_xml_string(model_xml(spec))
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
    env.close()
    assert spec.robot.name == "ant" or np.abs(mine[0].qpos[count:] - plain.qpos0[count:]).max() > 0.5


@pytest.mark.draws
def test_a_picture_shows_robot_block_goal_and_subgoal_and_changes_nothing() -> None:
    env = make_single_env("PointPush", render_mode="rgb_array")
    env.reset(options={"level_seed": 3})
    other = make_single_env("PointPush")
    other.reset(options={"level_seed": 3})
    plain = env.render()
    assert plain is not None
    assert plain.dtype == np.uint8
    side = len(plain)
    red, green, blue = (plain[..., i].astype(int) for i in range(3))

    def pixel(x: float, y: float) -> tuple[int, int]:
        """Row and column of a place; the middle of the picture is the middle of the map, 5 cells wide."""
        return round(side / 2 - (y - 4) * side / 20), round(side / 2 + x * side / 20)

    assert (red - green)[pixel(0, 4)] > 50, "the block"
    assert (green - red)[pixel(0, 9.5)] > 50, "the goal"
    assert (blue - red)[pixel(0, 0)] > 50, "the robot"
    env.simulator.subgoal = np.array([-4.0, 4.0])
    marked = env.render()
    assert marked is not None
    changed = np.argwhere(np.abs(marked.astype(int) - plain).sum(axis=2) > 60)
    assert np.abs(changed.mean(axis=0) - pixel(-4, 4)).max() < 0.03 * side
    for _ in range(5):
        np.testing.assert_array_equal(env.step(np.ones(2))[0], other.step(np.ones(2))[0])
        env.render()
    assert other.render() is None
    env.close()
