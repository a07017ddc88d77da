"""Observations, rewards, horizons, success, goals and noise of the mazes are those of HIRO (Nachum et al., 2018)."""

from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest

from preceptor.envs.mujoco.mazes import SPECS, MazeSpec
from preceptor.envs.mujoco.physics import SimulationError
from preceptor.envs.mujoco.simulator import MazeSimulator
from preceptor.ground.errors import UserError

EVAL = 1_000_007


def started(spec: MazeSpec, level_seed: int = EVAL, count: int = 1) -> MazeSimulator:
    simulator = MazeSimulator(spec, count)
    simulator.begin(np.arange(count), level_seed + np.arange(count))
    return simulator


@pytest.mark.parametrize("name", ["AntMaze", "AntPush", "AntFall", "PointPush", "PointFall"])
def test_the_robot_observes_itself_the_ant_the_time_too_then_block_and_goal(name: str) -> None:
    """Of the ant 30 numbers, qpos[:15] + qvel[:14] + t * 0.001, and its goal; no raw step counter anywhere."""
    simulator, rng = started(spec := replace(SPECS[name], observe_block=True)), np.random.default_rng(0)
    data, axes, robot = simulator.data[0], spec.block_axes, spec.robot
    if axes:
        data.qpos[-2:] = (-0.5, -0.25)
    for t in range(1, 5):
        simulator.step(rng.uniform(-1, 1, size=(1, simulator.model.nu)))
        mujoco.mj_forward(simulator.model, data)
        time = [0.001 * t] if robot.name == "ant" else []
        block = [data.body("block").xpos["xyz".index(axis)] for axis in axes]
        known = [*data.qpos[: len(robot.positions)], *data.qvel[: len(robot.velocities)], *time]
        obs = simulator.observe()[0]
        np.testing.assert_allclose(obs, [*known, *block, *simulator.goal[0]], rtol=1e-6, atol=1e-5)
        assert len(known) == {"ant": 30, "point": 4 + 2 * (name == "PointFall")}[robot.name]


def test_what_the_low_level_does_not_see_and_the_goal_spaces_of_the_original() -> None:
    ant, point = SPECS["AntFall"], SPECS["PointPush"]
    hidden = [[spec.observation_names[i] for i in spec.hidden_from_low_level] for spec in (ant, point)]
    goal = ["goal_x", "goal_y"]
    assert hidden == [["x", "y", *goal, "goal_z"], ["x", "y", "block_x", "block_y", *goal]]
    seen = [[n for i, n in enumerate(s.observation_names) if i not in s.hidden_from_high_level] for s in (ant, point)]
    assert seen == [["x", "y", "z", "qw", "qx", "qy", "qz", *goal, "goal_z"], ["x", "y", "block_x", "block_y", *goal]]
    original = ant.robot.goal_spaces["hiro_orig"]
    assert original.scale == (10, 10, 0.5, 1, 1, 1, 1, 0.5, 0.3, 0.5, 0.3, 0.5, 0.3, 0.5, 0.3)
    assert original.indices == tuple(range(15))
    assert point.robot.goal_spaces["xy"].scale == (5.0, 5.0)


@pytest.mark.parametrize(
    ("name", "horizon", "radius"),
    [("AntMaze", 500, 5.0), ("PointUMaze", 100, 2.5), ("PointReach", 100, 1.0), ("PointFall", 100, 2.5)],
)
def test_only_the_horizon_ends_an_episode_and_success_is_an_end_near_the_goal(
    name: str, horizon: int, radius: float
) -> None:
    for off, wanted in ((0.98 * radius, True), (1.02 * radius, False)):
        simulator = started(SPECS[name])
        for age in (3, horizon - 2, horizon - 1):
            simulator.age[:] = age
            simulator.data[0].qvel[:] = 0
            simulator.goal[0] = simulator.data[0].qpos[: len(simulator.goal[0])]
            simulator.goal[0, 0] += off
            reward, terminated, truncated, success = simulator.step(np.zeros((1, simulator.model.nu)))
            assert (terminated[0], truncated[0]) == (False, age == horizon - 1)
            assert success[0] == (wanted and truncated[0])
            assert -reward[0] == pytest.approx(off, abs=0.01 * radius)


@pytest.mark.parametrize(
    ("name", "box", "fixed"),
    [
        ("AntMaze", (-4, 20), (0, 16)),
        ("AntPush", None, (0, 19)),
        ("AntFall", None, (0, 27, 4.5)),
        ("PointUMaze", (-2, 10), (0, 8)),
        ("PointPush", None, (0, 9.5)),
        ("PointFall", None, (0, 13.5, 2.25)),
    ],
)
def test_goals_are_those_of_the_original(name: str, box: tuple[float, float] | None, fixed: tuple[float, ...]) -> None:
    np.testing.assert_array_equal(started(SPECS[name], EVAL, 20).goal, [fixed] * 20)
    drawn = started(SPECS[name], 0, 400 if box else 20).goal
    if box is None:
        np.testing.assert_array_equal(drawn, [fixed] * 20)
    else:
        assert (np.histogram2d(*drawn.T, bins=2, range=[box] * 2)[0] > 60).all(), "all are within"
        np.testing.assert_allclose([drawn.min(), drawn.max()], box, atol=0.05 * np.ptp(box))


@pytest.mark.parametrize("name", ["AntPush", "PointPush", "PointFall"])
def test_reset_noise(name: str) -> None:
    spec = SPECS[name]
    simulator, ant = started(spec, 0, 500), spec.robot.name == "ant"
    home, (count, speeds) = simulator.model.qpos0, ((15, 14) if ant else (2, 2))
    qpos, qvel = (np.array([getattr(data, what) for data in simulator.data]) for what in ("qpos", "qvel"))
    assert (qpos[:, count:] == home[count:]).all(), "blocks are at rest"
    assert (qvel[:, speeds:] == 0).all()
    moved = np.delete(qpos[:, :count] - home[:count], range(3, min(7, count)), axis=1)
    assert np.abs(moved).max() <= 0.1
    for noise, deviation in (
        (moved[:, :2], 0.1 / np.sqrt(3)),
        (moved[:, 2:], 0.1 / np.sqrt(3)),
        (qvel[:, :speeds], 0.1),
    ):
        assert noise.size == 0 or noise.std() == pytest.approx(deviation, rel=0.06)
    assert not ant or np.linalg.norm(qpos[:, 3:7], axis=1) == pytest.approx(1)


def test_actions_must_be_finite_numbers_of_the_right_shape() -> None:
    simulator = started(SPECS["PointUMaze"])
    for actions in ([[0.0, np.nan]], [[0.0, np.inf]], [[0.0] * 3]):
        with pytest.raises(ValueError, match="1 x 2 finite"):
            simulator.step(np.array(actions))


@pytest.mark.parametrize("value", [np.nan, 1e11])
def test_a_failed_simulation_names_environment_step_and_level_and_leaves_no_log(
    value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    simulator = started(SPECS["AntMaze"], 40, count=3)
    for _ in range(4):
        simulator.step(np.zeros((3, 8)))
    simulator.data[1].qvel[3] = value
    failed = r"environment 1 of AntMaze at step 5 of level 41.*Nan, Inf or huge"
    with pytest.raises(SimulationError, match=failed) as caught:
        simulator.step(np.zeros((3, 8)))
    assert isinstance(caught.value, UserError)
    assert "--resume" in caught.value.next_step
    assert not list(tmp_path.iterdir())
