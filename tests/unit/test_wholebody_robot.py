"""The robot in MuJoCo: its expert, what each group of actions is for, and that only contact moves the object."""

import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray

from preceptor.envs.wholebody.body import BEARING, BODY, CLEARANCE, DISTANCE, GRASP, OBJECT, OFFSET, SEEN_OFFSET
from preceptor.envs.wholebody.model import BALL
from preceptor.envs.wholebody.robot import WholeBody
from preceptor.envs.wholebody.simulator import LIFTED, WholeBodySimulator
from tests.scripted import scripted

TASK = WholeBody()


def begun(count: int, first: int = 0) -> WholeBodySimulator:
    simulator = TASK.simulator(count)
    simulator.begin(np.arange(count), np.arange(first, first + count))
    return simulator


def planned(simulator: WholeBodySimulator) -> NDArray:
    obs = simulator.observe()
    return TASK.skill(obs, scripted(TASK, obs))


def play(simulator: WholeBodySimulator, noise: float = 0.0, without: tuple[int, ...] = ()) -> NDArray[np.bool_]:
    """Which episodes [N] the expert ends in success, with noise on its actions and some of them zero."""
    rng, count = np.random.default_rng(0), simulator.num_envs
    over, won = np.zeros((2, count), np.bool_)
    while not over.all():
        actions = planned(simulator) + noise * rng.standard_normal((count, 8))
        actions[:, list(without)] = 0
        outcome = simulator.step(actions)
        won |= outcome.success & ~over
        over |= outcome.terminated | outcome.truncated
    return won


def holding(simulator: WholeBodySimulator) -> None:
    """Play the expert until it has lifted the object of the first environment a little."""
    while simulator.observe()[0, OBJECT][2] < simulator.place[0, 2] + 0.01:
        simulator.step(planned(simulator))


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_expert_grasps_and_lifts(noise: float) -> None:
    assert play(begun(150), noise).mean() >= 0.97


@pytest.mark.parametrize("group", TASK.action_groups)
def test_each_group_of_actions_is_needed(group: str) -> None:
    assert play(begun(40), without=TASK.action_groups[group]).mean() < 0.3


def test_only_contact_moves_the_object() -> None:
    simulator = begun(20)
    model = simulator.model
    assert model.neq == 0
    assert {model.joint(int(actuated)).name for actuated in model.actuator_trnid[:, 0]} == {
        *("x", "y", "yaw", "lift", "pitch", "shoulder", "elbow", "left", "right")
    }
    for _ in range(20):
        simulator.step(np.zeros((20, 8)))
    np.testing.assert_allclose([data.body("object").xpos for data in simulator.data], simulator.place, atol=2e-3)
    slippery = begun(20)
    slippery.model.geom_friction[:] = 1e-5
    assert play(begun(20)).all()
    assert not play(slippery).any()


def test_observations_say_what_mujoco_says() -> None:
    simulator = begun(3)
    for _ in range(12):
        simulator.step(planned(simulator))
    obs = simulator.observe()
    for data, row in zip(simulator.data, obs, strict=True):
        mujoco.mj_kinematics(simulator.model, data)
        turned = data.body("base").xmat.reshape(3, 3).T
        fingers = (data.body("left").xpos + data.body("right").xpos) / 2
        ball = data.body("object").xpos
        np.testing.assert_allclose(row[OFFSET] / SEEN_OFFSET, turned @ (ball - fingers), atol=3e-3)
        np.testing.assert_allclose(row[OBJECT], turned @ (ball - data.body("base").xpos), atol=1e-6)
        np.testing.assert_allclose(row[BODY][:4], data.qpos[3:7], atol=1e-6)


def test_a_state_resumes_to_the_bit_with_the_object_in_the_hand() -> None:
    simulator, other = begun(3), begun(3, first=50)
    holding(simulator)
    assert simulator.flags[0].all()
    other.set_state(simulator.get_state())
    for _ in range(3):
        actions = planned(simulator)
        np.testing.assert_array_equal(simulator.observe(), other.observe())
        for one, two in zip(simulator.step(actions), other.step(actions), strict=True):
            np.testing.assert_array_equal(one, two)
    assert (simulator.held == other.held).all()
    assert simulator.held[0] > 0


def test_stages_are_rewarded_once_and_holding_the_object_up_is_success() -> None:
    simulator, rewards = begun(1), []
    for _ in range(TASK.max_steps):
        outcome = simulator.step(planned(simulator))
        rewards.append(float(outcome.reward[0]))
        if outcome.terminated[0]:
            break
    assert outcome.success[0]
    assert sum(rewards) == 1.5
    assert rewards[-1] == 1.0
    obs = simulator.observe()
    assert obs[0, OBJECT][2] > simulator.place[0, 2] + LIFTED
    assert obs[0, BODY][4] == pytest.approx(TASK.grip_of_object, abs=0.1)


def test_grasping_is_achieved_by_moving_the_object_up() -> None:
    simulator = begun(1)
    achieved: list[bool] = []
    while not simulator.held.any():
        before = simulator.observe()
        simulator.step(planned(simulator))
        after = simulator.observe()
        achieved.append(bool(TASK.option_achieved(before, after, np.array([GRASP]))[0]))
        assert not achieved[-1] or after[0, OBJECT][2] > before[0, OBJECT][2]
    assert achieved[-1]
    assert sum(achieved) <= 3


def test_an_object_that_falls_down_ends_the_episode_without_success() -> None:
    simulator = begun(2)
    simulator.data[1].qpos[9] += 0.3  # beside the tray
    for _ in range(10):
        outcome = simulator.step(np.zeros((2, 8)))
        if outcome.terminated.any():
            break
    assert outcome.terminated.tolist() == [False, True]
    assert not outcome.success.any()


def test_the_post_keeps_the_base_away() -> None:
    simulator = begun(4)
    for _ in range(60):
        actions = planned(simulator)
        actions[:, 0] = simulator.observe()[:, DISTANCE] > 0  # ahead, always
        actions[:, 3:] = 0
        simulator.step(actions)
    obs = simulator.observe()
    assert (np.abs(obs[:, BEARING]) < 0.5).all()
    base = np.array([data.qpos[:2] for data in simulator.data])
    assert (np.linalg.norm(base - simulator.place[:, :2], axis=1) > CLEARANCE - 0.02).all()


@pytest.mark.parametrize("actions", [np.zeros((2, 7)), np.full((2, 8), np.nan)])
def test_actions_that_do_not_exist_are_refused(actions: NDArray) -> None:
    with pytest.raises(ValueError, match="2 x 8 finite"):
        begun(2).step(actions)


@pytest.mark.draws
def test_pictures_show_robot_and_object_and_change_nothing() -> None:
    simulator = begun(2)
    holding(simulator)
    state = simulator.get_state()
    first, second = simulator.render(0), simulator.render(1)
    assert first.shape == second.shape == (360, 480, 3)
    red, green, blue = np.moveaxis(first.astype(int), -1, 0)
    assert ((red > 120) & (green < 90) & (blue < 90)).sum() > 5, "the ball is red"
    assert (first != second).any()
    for name, array in simulator.get_state().items():
        np.testing.assert_array_equal(array, state[name])
    simulator.close()


def test_the_object_lies_on_the_tray() -> None:
    simulator = begun(5)
    tops = np.array([data.mocap_pos[1, 2] for data in simulator.data])
    np.testing.assert_allclose(simulator.place[:, 2] - tops, BALL)
