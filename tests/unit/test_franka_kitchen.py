"""FrankaKitchen as a task: the original's rules in lock step, states, what is rewarded, the expert, demonstrations."""

from itertools import permutations

import gymnasium as gym
import mujoco
import numpy as np
import pytest

from preceptor.envs.catalog import get_task
from preceptor.envs.kitchen.franka import OBJECTS, ORIGINAL, ROBOT, FrankaSimulator, original
from preceptor.envs.kitchen.franka_expert import Loops
from preceptor.envs.kitchen.franka_tasks import Kitchen

FOUR = (0, 1, 2, 3)


def test_it_is_the_original_in_lock_step() -> None:
    """Random play, then the expert's, with an end in success: observations, rewards and ends are equal to the bit."""
    task = Kitchen("light-slide", robot_noise=0.0, object_noise=0.0)
    ours = task.simulator(1)
    due = [ORIGINAL[k] for k in task.order]
    theirs = gym.make(
        "FrankaKitchen-v1", tasks_to_complete=due, robot_noise_ratio=0.0, object_noise_ratio=0.0
    ).unwrapped
    rng, rewards = np.random.default_rng(0), []
    for steps in (10, 200):
        ours.begin(np.zeros(1, np.int64), np.array([5]))
        seen, _ = theirs.reset(seed=5)
        for _ in range(steps):
            np.testing.assert_array_equal(ours._observed()[0], seen["observation"])
            obs = ours.observe()
            np.testing.assert_array_equal(obs[0], seen["observation"].astype(np.float32))
            random = rng.uniform(-1.5, 1.5, (1, 9))
            action = random if steps == 10 else task.skill(obs, np.array([task.script(task.describe(obs)[0])]))
            seen, reward, terminated, _, info = theirs.step(action[0].astype(np.float64))
            outcome = ours.step(action)
            assert (outcome.reward[0], outcome.terminated[0]) == (reward, terminated)
            assert {due[k] for k in np.flatnonzero(ours.done[0, list(task.order)])} == set(
                info["episode_task_completions"]
            )
            rewards.append(reward)
            if terminated:
                break
    assert outcome.success[0]
    assert sum(rewards) == 2
    theirs.close()


def test_noise_is_of_the_sizes_that_the_original_has() -> None:
    """A control sends joints on from where they were *seen*, and noise differs by level and step alone."""
    quiet, noisy = FrankaSimulator(1, FOUR, 280, 0.0, 0.0), FrankaSimulator(2, FOUR, 280)
    theirs = gym.make("FrankaKitchen-v1").unwrapped
    quiet.begin(np.arange(1), np.array([3]))
    noisy.begin(np.arange(2), np.array([3, 4]))
    drawn = np.abs([theirs.reset(seed=i)[0]["observation"] - quiet._observed()[0] for i in range(300)]).max(0)
    np.testing.assert_allclose(noisy._noise, drawn, rtol=0.1)
    assert (np.abs(noisy._observed() - quiet._observed()) <= noisy._noise).all()
    assert (noisy._observed()[0] != noisy._observed()[1]).all()
    np.testing.assert_array_equal(noisy.seen, noisy._observed()[:, ROBOT])
    theirs.close()


def test_a_state_continues_to_the_bit() -> None:
    task = get_task("Kitchen")
    one, other = task.simulator(2), task.simulator(2)
    actions = np.random.default_rng(1).uniform(-1, 1, (8, 2, 9))
    one.begin(np.arange(2), np.array([7, 8]))
    for action in actions[:4]:
        one.step(action)
    other.begin(np.arange(2), np.array([1, 2]))
    other.set_state(one.get_state())
    for action in actions[4:]:
        one.step(action), other.step(action)
        np.testing.assert_array_equal(one.observe(), other.observe())
    np.testing.assert_array_equal(one.get_state()["physics"], other.get_state()["physics"])


def test_scenes_tell_what_is_done_and_each_due_subtask_pays_once() -> None:
    """An object is put where its goal is, and away from it again."""
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import OBS_ELEMENT_GOALS, OBS_ELEMENT_INDICES

    task = get_task("Kitchen:microwave-hinge")
    simulator = task.simulator(1)
    for k, name in enumerate(ORIGINAL):
        simulator.begin(np.arange(1), np.array([0]))
        qpos, paid = simulator._qpos_of[0], []
        for there in (True, False, True):
            qpos[OBS_ELEMENT_INDICES[name]] = (OBS_ELEMENT_GOALS if there else _start())[name]
            mujoco.mj_forward(simulator.model, simulator.data[0])
            paid.append(simulator.step(np.zeros((1, 9))).reward[0])
            assert (task.done(simulator.observe())[0] == (np.arange(7) == k) * there).all(), name
            assert task.describe(simulator.observe())[0].facts[k].endswith("done" if there else "left")
        assert paid == [k in task.order, 0, 0]


def _start() -> dict[str, np.ndarray]:
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import OBS_ELEMENT_INDICES

    return {name: original().qpos[at] for name, at in OBS_ELEMENT_INDICES.items()}


def test_the_expert_moves_on_along_the_nearest_loop() -> None:
    """In two dimensions of the eight: a triangle to the right, and one up, whose last sides lead home."""
    home, right, up = np.zeros(8), np.eye(8)[0], np.eye(8)[1]
    loops = Loops([np.array([right, right + up / 2]), np.array([up, up - right / 2])], [1, 1], home, ahead=0.2)

    def led(at: np.ndarray, option: int) -> np.ndarray:
        return loops.target(np.array([[*at, at[-1]]]), np.array([option]))[0]

    np.testing.assert_allclose(led(home, 0), 0.2 * right, atol=0.03)
    np.testing.assert_allclose(led(home, 1), 0.2 * up, atol=0.03)
    np.testing.assert_allclose(led(right, 0), right + 0.2 * up, atol=0.03)  # at the object: its way home
    np.testing.assert_allclose(led(right, 1), right + 0.2 * up, atol=0.03)  # even where another one is due
    away = led(0.05 * (right + up / 2), 1)  # nearly home, and beyond it
    assert away[1] > 0.1
    assert abs(away[0]) < 0.05
    assert led(0.05 * (right + up / 2), 0)[0] > 0.1  # not done: once more


@pytest.mark.parametrize(
    "order", ["kettle-slide-microwave-light", "light-microwave-slide-kettle", "hinge-slide-bottom-top"]
)
def test_the_expert_does_what_is_due_in_any_order(order: str) -> None:
    task = get_task(f"Kitchen:{order}")
    env = task.make_vec(2, seed=3)
    obs, _ = env.reset()
    total, ended = np.zeros(2), np.zeros(2, np.bool_)
    for _ in range(280):
        obs, reward, terminated, _, _ = env.step(
            task.skill(obs, np.array([task.script(s) for s in task.describe(obs)]))
        )
        total += reward * ~ended
        ended |= terminated
        if ended.all():
            break
    assert total.tolist() == [len(task.order)] * 2
    assert ended.all()


def test_demonstrations_show_random_orders_of_five() -> None:
    task = Kitchen()
    shown = task.demonstrated.simulator(40)
    shown.begin(np.arange(40), np.arange(40))
    assert {tuple(row) for row in shown.shown.tolist()} <= set(permutations(range(7), task.length))
    assert len({tuple(row) for row in shown.shown.tolist()}) > 12
    np.testing.assert_array_equal(shown.info()["option"], shown.shown[:, 0])
    shown.done[0, shown.shown[0, :2]] = True
    assert shown.info()["option"][0] == shown.shown[0, 2]
    shown.done[0, shown.shown[0]] = True
    assert shown.info()["option"][0] == -1
    assert shown.over().tolist() == [True] + [False] * 39
    assert len(task.observation_scale) == shown.observation_space.shape[0]
    assert OBJECTS.stop - OBJECTS.start == 21
