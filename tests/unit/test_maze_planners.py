"""The scripted planners solve what they should, and going straight for the goal does not."""

from dataclasses import replace

import numpy as np
import pytest

from envs.mujoco.mazes import MazeSpec, maze_spec
from envs.mujoco.planners import seek, waypoint
from envs.mujoco.vector import MazeVectorEnv
from envs.mujoco.worlds import Worlds
from ground.errors import UserError


def play(spec: MazeSpec, episodes: int, *, greedy: bool = False, split: str = "eval") -> tuple[int, np.ndarray]:
    """Successes, and final distances [N]."""
    env = MazeVectorEnv(spec, episodes, split=split, seed=3)
    obs, _ = env.reset()
    goal = [spec.observation_names.index(f"goal_{axis}") for axis in "xy"]
    for _ in range(spec.horizon):
        target = obs[:, goal] if greedy else waypoint(spec, obs)
        obs, reward, _, _, info = env.step(seek(spec, obs, target))
    return int(info["success"].sum()), -reward


@pytest.mark.parametrize("name", ["PointReach", "PointUMaze", "PointPush", "PointPushOriginal", "PointFall"])
def test_scripts_solve_the_point_mazes(name: str) -> None:
    assert play(maze_spec(name), 50)[0] >= 49


@pytest.mark.parametrize("name", ["PointUMaze", "PointPush", "PointFall"])
def test_waypoints_that_are_held_for_ten_steps_do_as_well(name: str) -> None:
    """As HIRO holds them: chosen every c = 10 steps, within the goal box around the robot."""
    spec = maze_spec(name)
    box = np.array(spec.goal_spaces["xy"].scale)
    env = MazeVectorEnv(spec, 50, split="eval")
    obs, _ = env.reset()
    for t in range(spec.horizon):
        if t % 10 == 0:
            target = obs[:, :2] + np.clip(waypoint(spec, obs) - obs[:, :2], -box, box)
        obs, _, _, _, info = env.step(seek(spec, obs, target))
    assert info["success"].sum() >= 49


def test_every_training_goal_of_the_maze_can_be_reached() -> None:
    """Those inside walls too: some free place is near enough."""
    assert play(maze_spec("PointUMaze"), 50, split="train")[0] >= 49


@pytest.mark.parametrize(("name", "distance"), [("PointUMaze", 6.40), ("PointPush", 3.90)])
def test_straight_for_the_goal_ends_at_the_wall(name: str, distance: float) -> None:
    successes, distances = play(maze_spec(name), 20, greedy=True)
    assert successes == 0
    np.testing.assert_allclose(distances, distance, atol=0.03)


def test_straight_for_the_goal_falls_into_the_chasm() -> None:
    successes, distances = play(maze_spec("PointFall"), 20, greedy=True)
    assert successes == 0
    assert distances.min() > 4


def test_ways_through_the_maze_go_along_its_cells() -> None:
    spec = maze_spec("PointUMaze")
    names = spec.observation_names
    obs = np.zeros((7, len(names)), dtype=np.float32)
    places = [(0, 0), (4, 0), (8, 0), (8, 4), (8, 8), (4, 8), (0.5, 8.5)]
    obs[:, :2] = places
    obs[:, [names.index("goal_x"), names.index("goal_y")]] = (0.0, 8.0)
    np.testing.assert_array_equal(waypoint(spec, obs), [*places[1:6], (0, 8), (0, 8)])


@pytest.mark.parametrize("name", ["AntMaze", "AntPushRobust", "AntFallRobust"])
def test_an_ant_that_is_dragged_from_waypoint_to_waypoint_arrives(name: str) -> None:
    """So the mazes of the paper can be solved, by who can walk: blocks give way, gaps are filled, bridges hold."""
    spec = maze_spec(name)
    worlds = Worlds(spec, 2)
    torso = worlds.model.body("torso").id
    for n in range(2):
        worlds.begin(n, 1_000_000 + n)
    for _ in range(spec.horizon):
        targets = waypoint(spec, worlds.observe())
        for data, target in zip(worlds.data, targets, strict=True):
            missing = target - data.qpos[:2]
            missing /= max(1.0, float(np.linalg.norm(missing)))
            data.xfrc_applied[torso, :2] = 20 * (missing - 0.5 * data.qvel[:2])
        _, _, success = worlds.step(np.zeros((2, 8)))
    assert success.all()


def test_the_planner_serves_ants_that_see_the_block() -> None:
    blind = maze_spec("AntPush")
    spec = replace(blind, observe_block=True)
    obs, _ = MazeVectorEnv(spec, 1).reset()
    np.testing.assert_array_equal(waypoint(spec, obs), [(-8, 0)])
    with pytest.raises(UserError, match="does not show its block"):
        waypoint(blind, obs)
