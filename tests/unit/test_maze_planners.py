"""The mazes can be solved: by the scripted options, by waypoints that are held as HIRO holds them, by dragged ants."""

import numpy as np
import pytest

from envs.catalog import get_task
from envs.mujoco.simulator import MazeSimulator
from envs.mujoco.tasks import MazeTask
from tests.scripted import scripted


def waypoint(task: MazeTask, obs: np.ndarray) -> np.ndarray:
    """Where the expert's options head for, (x, y) [N, 2]."""
    return task.ground(obs, scripted(task, obs))[0]


@pytest.mark.parametrize("name", ["PointUMaze", "PointPush", "PointFall"])
def test_waypoints_that_are_held_for_ten_steps_do_as_well(name: str) -> None:
    """As HIRO holds them: chosen every c = 10 steps, within the goal box around the robot."""
    task = get_task(name)
    box = np.array(task.goal_space.scale)
    speeds = [task.spec.observation_names.index(speed) for speed in ("vx", "vy")]
    env = task.make_vec(50, split="eval")
    obs, _ = env.reset()
    for t in range(task.spec.horizon):
        if t % 10 == 0:
            target = obs[:, :2] + np.clip(waypoint(task, obs) - obs[:, :2], -box, box)
        obs, _, _, _, info = env.step(np.clip(target - obs[:, :2] - 0.5 * obs[:, speeds], -1, 1))
    assert info["success"].sum() >= 49


@pytest.mark.parametrize(
    ("name", "nearest", "farthest"), [("PointUMaze", 6.37, 6.43), ("PointPush", 3.87, 3.93), ("PointFall", 4, 100)]
)
def test_straight_for_the_goal_ends_at_the_wall_or_in_the_chasm(name: str, nearest: float, farthest: float) -> None:
    task = get_task(name)
    env = task.make_vec(20, split="eval", seed=3)
    obs, _ = env.reset()
    for _ in range(task.spec.horizon):
        obs, reward, _, _, info = env.step(task.skill(obs, np.full(20, task.options.ids.index("goto:goal"))))
    assert not info["success"].any()
    assert nearest < -reward.max()
    assert -reward.min() < farthest


@pytest.mark.parametrize("name", ["AntMaze", "AntPushRobust", "AntFallRobust"])
def test_an_ant_that_is_dragged_from_waypoint_to_waypoint_arrives(name: str) -> None:
    """So the mazes of the paper can be solved by an ant that walks: blocks give way, gaps are filled, bridges hold."""
    task = get_task(name)
    ants = MazeSimulator(task.spec, 2)
    torso = ants.model.body("torso").id
    ants.begin(np.arange(2), 1_000_000 + np.arange(2))
    for _ in range(task.spec.horizon):
        targets = waypoint(task, ants.observe()).astype(float)
        for data, target in zip(ants.data, targets, strict=True):
            missing = target - data.qpos[:2]
            missing /= max(1.0, float(np.linalg.norm(missing)))
            data.xfrc_applied[torso, :2] = 20 * (missing - 0.5 * data.qvel[:2])
        outcome = ants.step(np.zeros((2, 8)))
    assert outcome.success.all()


@pytest.mark.parametrize(("north", "solved"), [(0.0, True), (0.02, True), (0.06, False), (1.0, False)])
def test_a_block_pushed_north_jams(north: float, solved: bool) -> None:
    """It fits the east side to within its two centimetres of play, so `charts.py` calls it lost from four on."""
    task = get_task("PointPush")
    env = task.make_vec(1, split="eval")
    obs, _ = env.reset()
    env.simulator.data[0].qpos[-1] = north
    for _ in range(task.spec.horizon):
        obs, _, _, _, info = env.step(task.skill(obs, scripted(task, obs)))
    assert info["success"][0] == solved
