"""Observations, rewards, horizons, success, goals and noise of the mazes are those of HIRO (Nachum et al., 2018)."""

from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest

from envs.mujoco.mazes import ANT, SPECS, MazeSpec
from envs.mujoco.simulator import MazeSimulator, SimulationError
from envs.vector import BatchedEnv, Outcome
from ground.errors import UserError

TRAIN, EVAL = 7, 1_000_007


def run(simulator: MazeSimulator, steps: int, seed: int = 0) -> Outcome:
    """The last of some random steps."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        outcome = simulator.step(rng.uniform(-1, 1, size=(len(simulator.data), simulator.model.nu)))
    return outcome


def begin(simulator: MazeSimulator, level_seed: int) -> None:
    simulator.begin(np.zeros(1, np.int64), np.array([level_seed]))


def started(spec: MazeSpec, level_seed: int = EVAL) -> MazeSimulator:
    simulator = MazeSimulator(spec, 1)
    begin(simulator, level_seed)
    return simulator


@pytest.mark.parametrize("name", ["AntMaze", "AntPush", "AntFall"])
def test_the_ant_observes_thirty_numbers_and_its_goal(name: str) -> None:
    """30 = qpos[:15] + qvel[:14] + t * 0.001, and no raw step counter anywhere."""
    simulator = started(SPECS[name])
    for t in range(4):
        obs, data = simulator.observe()[0], simulator.data[0]
        expected = np.concatenate([data.qpos[:15], data.qvel[:14], [0.001 * t], simulator.goal[0]])
        np.testing.assert_array_equal(obs, expected.astype(np.float32))
        assert len(obs) == 30 + len(simulator.goal[0])
        run(simulator, 1)
    assert simulator.observe().max() < 30


def test_names_are_in_the_simulators_order() -> None:
    model = MazeSimulator(SPECS["AntMaze"], 1).model
    joints = [model.joint(j) for j in range(model.njnt)]
    assert joints[0].type == mujoco.mjtJoint.mjJNT_FREE
    assert [joint.name for joint in joints[1:]] == list(ANT.positions[7:])
    assert [f"v{joint.name}" for joint in joints[1:]] == list(ANT.velocities[6:])
    point = MazeSimulator(SPECS["PointFall"], 1).model
    assert [point.joint(j).name for j in range(5)] == ["x", "y", "z", "block_y", "block_z"]


@pytest.mark.parametrize("name", ["AntPush", "AntFall", "PointPush", "PointFall"])
def test_blocks_are_observed_where_they_are(name: str) -> None:
    spec = replace(SPECS[name], observe_block=True)
    simulator = started(spec)
    data, axes = simulator.data[0], spec.block_axes
    data.qpos[-2:] = (-0.5, -0.25)
    run(simulator, 1)
    mujoco.mj_forward(simulator.model, data)
    seen = [simulator.observe()[0][spec.observation_names.index(f"block_{axis}")] for axis in axes]
    true = [data.body("block").xpos["xyz".index(axis)] for axis in axes]
    np.testing.assert_allclose(seen, true, atol=1e-5)


def test_the_low_level_does_not_see_where_it_is() -> None:
    ant, point = SPECS["AntFall"], SPECS["PointPush"]
    assert [ant.observation_names[i] for i in ant.hidden_from_low_level] == ["x", "y", "goal_x", "goal_y", "goal_z"]
    hidden = [point.observation_names[i] for i in point.hidden_from_low_level]
    assert hidden == ["x", "y", "block_x", "block_y", "goal_x", "goal_y"]


def test_goal_spaces_of_the_original() -> None:
    spaces = SPECS["AntMaze"].goal_spaces
    assert spaces["hiro_orig"].scale == (10, 10, 0.5, 1, 1, 1, 1, 0.5, 0.3, 0.5, 0.3, 0.5, 0.3, 0.5, 0.3)
    assert SPECS["AntMaze"].indices(spaces["hiro_orig"]) == tuple(range(15))
    assert SPECS["PointUMaze"].goal_spaces["xy"].scale == (5.0, 5.0)


@pytest.mark.parametrize(("name", "horizon"), [("AntMaze", 500), ("PointUMaze", 100), ("PointFall", 100)])
def test_an_episode_lasts_to_the_horizon_and_never_terminates(name: str, horizon: int) -> None:
    env = BatchedEnv(MazeSimulator(SPECS[name], 1))
    env.reset()
    for t in range(1, 2 * horizon + 1):
        _, _, terminated, truncated, _ = env.step(np.zeros((1, env.simulator.model.nu)))
        assert truncated[0] == (t % horizon == 0)
        assert not terminated[0]


@pytest.mark.parametrize(("name", "radius"), [("AntMaze", 5.0), ("PointUMaze", 2.5), ("PointReach", 1.0)])
def test_success_is_a_last_step_near_the_goal(name: str, radius: float) -> None:
    for off, wanted in ((0.98 * radius, True), (1.02 * radius, False)):
        simulator = started(SPECS[name], TRAIN)
        for age, last in ((3, False), (simulator.spec.horizon - 1, True)):
            simulator.age[:] = age
            simulator.data[0].qvel[:] = 0
            simulator.goal[0] = simulator.data[0].qpos[:2] + np.array([off, 0.0])
            reward, _, truncated, success = simulator.step(np.zeros((1, simulator.model.nu)))
            assert truncated[0] == last
            assert success[0] == (wanted and last)
            assert -reward[0] == pytest.approx(off, abs=0.01 * radius)


GOALS = {
    "AntMaze": ((-4, 20), (0, 16)),
    "AntPush": (None, (0, 19)),
    "AntFall": (None, (0, 27, 4.5)),
    "PointUMaze": ((-2, 10), (0, 8)),
    "PointPush": (None, (0, 9.5)),
    "PointFall": (None, (0, 13.5, 2.25)),
}


@pytest.mark.parametrize("name", GOALS)
def test_goals_are_those_of_the_original(name: str) -> None:
    box, fixed = GOALS[name]
    simulator, drawn = MazeSimulator(SPECS[name], 1), []
    for i in range(400):
        begin(simulator, 1_000_000 + i)
        np.testing.assert_array_equal(simulator.goal[0], fixed)
        begin(simulator, i)
        drawn.append(simulator.goal[0].copy())
    if box is None:
        np.testing.assert_array_equal(drawn, [fixed] * 400)
    else:
        low, high = box
        assert np.min(drawn) >= low
        assert np.max(drawn) <= high
        side = high - low
        assert (np.histogram2d(*np.transpose(drawn), bins=2, range=[[low, high]] * 2)[0] > 60).all()
        assert np.min(drawn) < low + 0.05 * side
        assert np.max(drawn) > high - 0.05 * side


@pytest.mark.parametrize("name", ["AntPush", "PointPush", "PointFall"])
def test_reset_noise(name: str) -> None:
    spec = SPECS[name]
    simulator, home = MazeSimulator(spec, 1), MazeSimulator(spec, 1).model.qpos0
    count, speeds = spec.robot.noisy
    positions, velocities = [], []
    for i in range(500):
        begin(simulator, i)
        data = simulator.data[0]
        np.testing.assert_array_equal(data.qpos[-2:], home[-2:], err_msg="blocks are at rest")
        np.testing.assert_array_equal(data.qvel[-2:], (0, 0))
        positions.append(data.qpos[:count] - home[:count])
        velocities.append(data.qvel[:speeds].copy())
    moved = np.array(positions)
    assert np.abs(moved[:, :2]).max() <= 0.1
    np.testing.assert_allclose(moved[:, :2].std(), 0.1 / np.sqrt(3), rtol=0.06)
    np.testing.assert_allclose(np.std(velocities), 0.1, rtol=0.06)
    if spec.robot is ANT:
        np.testing.assert_allclose(np.linalg.norm(moved[:, 3:7] + home[3:7], axis=1), 1)
        np.testing.assert_allclose(moved[:, 7:].std(), 0.1 / np.sqrt(3), rtol=0.06)


@pytest.mark.parametrize("action", [np.nan, np.inf])
def test_actions_must_be_numbers(action: float) -> None:
    simulator = started(SPECS["PointUMaze"])
    with pytest.raises(ValueError, match="finite"):
        simulator.step(np.array([[0.0, action]]))
    with pytest.raises(ValueError, match="1 x 2"):
        simulator.step(np.zeros((1, 3)))


@pytest.mark.parametrize("value", [np.nan, 1e11])
def test_a_failed_simulation_names_environment_step_and_level_and_leaves_no_log(
    value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    simulator = MazeSimulator(SPECS["AntMaze"], 3)
    simulator.begin(np.arange(3), 40 + np.arange(3))
    run(simulator, 4)
    simulator.data[1].qvel[3] = value
    with pytest.raises(
        SimulationError, match=r"environment 1 of AntMaze at step 5 of level 41.*Nan, Inf or huge"
    ) as caught:
        run(simulator, 1)
    simulator.close()
    assert isinstance(caught.value, UserError)
    assert "--resume" in caught.value.next_step
    assert not list(tmp_path.iterdir())
