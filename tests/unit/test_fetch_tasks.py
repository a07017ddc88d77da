"""Pick and place as a task: what an observation says, the tables of scenes and options, the hands, the script."""

import numpy as np
import pytest

from preceptor.envs.catalog import get_task
from preceptor.envs.fetch.simulator import BLOCK, FINGERS, GOAL, GRIPPER, OBSERVATION_NAMES, OFFSET
from tests.scripted import scripted

TASK = get_task("FetchPickAndPlace")
APPROACH, GRASP, TRANSPORT, HOLD = range(4)
OPEN, CLOSED, SHUT = 0.10, 0.048, 0.0  # metres between the fingers: free, upon the block, upon each other


def seen(offset: tuple[float, float, float], apart: float, to_goal: float = 0.2) -> np.ndarray:
    """The observation [1, 28] of a block that is so far from the gripper, and whose goal is so far above it."""
    obs = np.zeros((1, 28), np.float32)
    obs[:, BLOCK] = (1.3, 0.7, 0.42)
    obs[:, OFFSET], obs[:, GRIPPER] = offset, obs[:, BLOCK] - np.array(offset)
    obs[:, FINGERS], obs[:, GOAL] = apart / 2, obs[:, BLOCK] + np.array([0, 0, to_goal])
    return obs


AWAY, ABOVE = seen((0.1, 0.0, -0.1), OPEN), seen((0.01, 0.0, -0.06), OPEN)
AROUND, HOLDING = seen((0.0, 0.0, -0.005), OPEN), seen((0.0, 0.0, -0.005), CLOSED)
THERE, LAID_DOWN = seen((0.0, 0.0, -0.005), CLOSED, to_goal=0.03), seen((0.1, 0.0, -0.1), OPEN, to_goal=0.0)


def ids(mask: np.ndarray) -> str:
    return " ".join(TASK.options.ids[k] for k in np.flatnonzero(mask))


def test_observations_say_what_their_names_say() -> None:
    env = TASK.make_vec(2, seed=1)
    obs, _ = env.reset()
    for _ in range(20):
        obs, *_ = env.step(TASK.skill(obs, scripted(TASK, obs)))
    np.testing.assert_allclose(obs[:, OFFSET], obs[:, BLOCK] - obs[:, GRIPPER], atol=1e-6)
    model = env.simulator.envs[0].unwrapped
    sites = [model.data.site(name).xpos for name in ("robot0:grip", "object0")]
    np.testing.assert_allclose(obs[0, [*range(6), *range(25, 28)]], np.concatenate([*sites, model.goal]), atol=1e-6)
    assert len(OBSERVATION_NAMES) == len(TASK.observation_scale) == obs.shape[1]
    assert [OBSERVATION_NAMES[i] for i in TASK.goal_space.indices] == list(TASK.goal_space.names)
    assert [OBSERVATION_NAMES[i] for i in TASK.hidden_from_low_level] == ["goal x", "goal y", "goal z"]


@pytest.mark.parametrize(
    ("obs", "facts", "over", "choice"),
    [
        (AWAY, ("away", "elsewhere"), "grasp transport", APPROACH),
        (seen((0.01, 0.0, -0.06), SHUT), ("away", "elsewhere"), "grasp transport", APPROACH),
        (seen((0.0, 0.0, 0.06), OPEN), ("away", "elsewhere"), "grasp transport", APPROACH),
        (seen((0.0, 0.0, -0.15), OPEN), ("away", "elsewhere"), "grasp transport", APPROACH),
        (ABOVE, ("above", "elsewhere"), "approach transport", GRASP),
        (AROUND, ("around", "elsewhere"), "transport", GRASP),
        (HOLDING, ("holding", "elsewhere"), "grasp", TRANSPORT),
        (THERE, ("holding", "goal"), "grasp transport", HOLD),
        (LAID_DOWN, ("away", "goal"), "grasp transport", HOLD),
    ],
)
def test_scenes_of_hand_made_observations(obs: np.ndarray, facts: tuple[str, str], over: str, choice: int) -> None:
    """An option is legal where it is not over: reached, or impossible."""
    (scene,) = TASK.describe(obs)
    assert scene.facts == (f"gripper={facts[0]}", f"block={facts[1]}")
    assert ids(TASK.option_done(obs.repeat(4, axis=0), np.arange(4))) == ids(~TASK.legal(obs)[0]) == over
    assert TASK.script(scene) == scripted(TASK, obs)[0] == choice


def test_text_is_in_words() -> None:
    assert TASK.describe(AWAY)[0].text == "The gripper is away from the block. The block is not at its goal."
    assert TASK.describe(THERE)[0].text == "The gripper holds the block. The block is at its goal."


@pytest.mark.parametrize(
    ("before", "after", "achieved"),
    [
        (AWAY, ABOVE, "approach"),
        (AROUND, HOLDING, "grasp"),
        (HOLDING, THERE, "transport"),
        (THERE, THERE, "hold"),
        (HOLDING, AROUND, ""),  # let go
        (AROUND, AWAY, ""),  # slipped: over, and for nothing
        (LAID_DOWN, LAID_DOWN, "hold"),
    ],
)
def test_only_the_step_that_gets_there_achieves_an_option(before: np.ndarray, after: np.ndarray, achieved: str) -> None:
    assert ids(TASK.option_achieved(before.repeat(4, axis=0), after.repeat(4, axis=0), np.arange(4))) == achieved


@pytest.mark.parametrize(
    ("obs", "option", "action"),
    [
        (AWAY, APPROACH, [1.0, 0.0, -0.4, 1.0]),
        (seen((0.1, 0.0, 0.0), OPEN), APPROACH, [0.0, 0.0, 0.6, 1.0]),  # beside it: up first
        (ABOVE, GRASP, [0.1, 0.0, -0.6, 1.0]),
        (seen((0.0, 0.0, -0.06), SHUT), GRASP, [0.0, 0.0, 0.0, 1.0]),  # not down upon it with closed fingers
        (AROUND, GRASP, [0.0, 0.0, -0.05, -1.0]),
        (HOLDING, TRANSPORT, [0.0, 0.0, 1.0, -1.0]),
        (THERE, HOLD, [0.0, 0.0, 0.0, -1.0]),
        (LAID_DOWN, HOLD, [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_hands_of_hand_made_observations(obs: np.ndarray, option: int, action: list[float]) -> None:
    np.testing.assert_allclose(TASK.skill(obs, np.array([option])), [action], atol=1e-5)


def test_options_are_grounded_in_where_gripper_and_block_will_be() -> None:
    mean, scale = TASK.ground(AWAY.repeat(4, axis=0), np.arange(4))
    gripper, block, goal = AWAY[0, GRIPPER], AWAY[0, BLOCK], AWAY[0, GOAL]
    places = [(block + np.array([0, 0, 0.06]), block), (block, block), (goal, goal), (gripper, block)]
    np.testing.assert_allclose(mean, np.reshape(places, (4, 6)), atol=1e-6)
    assert (scale == np.float32(0.02)).all()


@pytest.mark.draws
def test_a_picture_shows_the_goal_where_it_is_and_twice_the_same() -> None:
    env, unwatched = TASK.make_single(1_000_000), TASK.make_single(1_000_000)
    first = env.render()
    assert first.shape == (480, 480, 3)
    np.testing.assert_array_equal(env.render(), first)
    middle = np.argwhere(first.astype(int) @ np.array([1, -1, -1]) > 60).mean(axis=0)
    assert (np.abs(middle - [278, 268]) < 15).all(), "on the table, behind the block"  # looked at once
    for _ in range(20):
        action = TASK.skill(env.unwrapped.simulator.observe(), np.array([APPROACH]))[0]
        np.testing.assert_array_equal(env.step(action)[0], unwatched.step(action)[0])
        env.render()
    env.close()
