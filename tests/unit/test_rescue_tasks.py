"""Rescue Worlds as tasks: what is shown and what is not, scenes, options, the script, pictures."""

import numpy as np
import pytest

from preceptor.envs.catalog import RESCUE_TASKS, get_task
from preceptor.envs.rescue.rendering import draw
from preceptor.envs.rescue.tasks import RescueTask
from tests.scripted import scripted


def seen(task: RescueTask, cell: int, left: str) -> np.ndarray:
    """The observation [1, O] of an agent in a cell with targets left, by their colours."""
    simulator = task.simulator(1)
    simulator.cell[0], simulator.left[0] = cell, [colour in left.split() for colour in task.spec.colours]
    return simulator.observe()


@pytest.mark.parametrize("name", RESCUE_TASKS)
def test_the_script_tells_the_true_option_in_fixed_order_alone(name: str) -> None:
    """As the demonstrating expert plays; the true option is told beside the observation, never in it."""
    task, rng, told = get_task(name), np.random.default_rng(0), []
    env = task.make_vec(32, seed=0)
    obs, info = env.reset()
    for _ in range(120):
        assert obs.dtype == np.float32
        assert set(np.unique(obs)) == {0.0, 1.0}
        np.testing.assert_array_equal(task.cells(obs), env.simulator.cell)
        np.testing.assert_array_equal(task.left(obs), env.simulator.left)
        assert task.left(obs)[np.arange(32), info["option"]].all(), "aligned with the observation"
        told += [(scripted(task, obs) == info["option"]).all()]
        obs, _, _, _, info = env.step(task.expert_actions(obs, info["option"], rng, epsilon=0.1))
    assert all(told) == (not task.spec.random_order)


def test_observations_do_not_tell_which_target_is_due() -> None:
    task = get_task("RescueWorld-n3-random")
    obs, info = task.make_vec(600, seed=0).reset()
    same_cell = np.flatnonzero(task.cells(obs) == task.cells(obs)[0])
    assert set(info["option"][same_cell]) == {0, 1, 2}
    assert (obs[same_cell] == obs[0]).all()
    envs = [task.make_single(seed).unwrapped for seed in range(12)]
    for env in envs:
        env.simulator.cell[0] = 55
    assert len({env.simulator.due[0] for env in envs}) == 3
    assert all((env.render() == envs[0].render()).all() for env in envs), "pictures neither"


@pytest.mark.parametrize("name", RESCUE_TASKS)
def test_halo_sees_the_cell_and_nothing_else(name: str) -> None:
    task = get_task(name)
    view = list(task.halo_view)
    some, none = seen(task, 34, "red"), seen(task, 34, "")
    assert (some != none).any()
    np.testing.assert_array_equal(some[:, view], none[:, view])
    everywhere = np.concatenate([seen(task, cell, "") for cell in range(100)])
    assert len(np.unique(everywhere[:, view], axis=0)) == 100
    assert sorted([*view, *task.hidden_from_low_level]) == list(range(task.observation_shape[0]))


@pytest.mark.parametrize(
    ("cell", "left", "over", "legal"),
    [
        (55, "red green blue", [], [0, 1, 2]),
        (45, "red green blue", [2], [0, 1, 2]),  # stands on it
        (55, "red green", [2], [0, 1]),  # found
        (55, "", [0, 1, 2], [0]),  # something has to be legal
    ],
)
def test_options_end_when_their_target_is_reached(cell: int, left: str, over: list[int], legal: list[int]) -> None:
    task = get_task("RescueWorld-n3")
    obs = np.repeat(seen(task, cell, left), 3, axis=0)
    assert np.flatnonzero(task.option_done(obs, np.arange(3))).tolist() == over
    assert np.flatnonzero(task.legal(obs)[0]).tolist() == legal
    mean, scale = task.ground(obs, np.arange(3))
    assert mean.tolist() == [[0, 0], [9, 9], [4, 5]]
    assert scale.tolist() == [[1, 1]] * 3


@pytest.mark.parametrize(
    ("cell", "left", "facts", "text"),
    [
        (0, "green blue", ("south-west", "green,blue"), "You are in the south-west."),
        (33, "red green blue purple yellow", ("middle", "red,green,blue,purple,yellow"), "You are in the middle."),
        (69, "green", ("north", "green"), "Still to find: the green target in the south-east."),
        (76, "yellow", ("east", "yellow"), "Still to find: the yellow target in the east."),
        (68, "grey yellow", ("grey", "yellow,grey"), "You are at the grey target."),
        (29, "", ("north-west", "nothing"), "You are in the north-west. All targets are found."),
        (73, "red blue", ("yellow", "red,blue"), "the red target in the south-west and the blue target in the middle."),
    ],
)
def test_facts_and_text_of_hand_made_observations(cell: int, left: str, facts: tuple[str, str], text: str) -> None:
    task = get_task("RescueWorld-n6")
    (scene,) = task.describe(seen(task, cell, left))
    assert scene.facts == (f"agent={facts[0]}", f"left={facts[1]}")
    assert text in scene.text


def test_rules_say_what_there_is_and_who_knows_the_order() -> None:
    plain, hard = get_task("RescueWorld-n3"), get_task("RescueWorld-n6-random")
    assert "in this order: red, green, blue." in plain.rules
    assert not any(word in plain.rules for word in ("danger", "bstacle"))
    assert all(word in hard.rules for word in ("danger", "bstacle", "nobody tells you"))
    assert "red, green" not in hard.rules
    assert "the red target in the south-west, the green target in the north-east and the blue" in plain.rules


@pytest.mark.parametrize(
    ("cell", "left", "colour"),
    [
        (12, "red green blue", "red"),
        (88, "red green blue", "green"),
        (85, "red green", "green"),
        (0, "red green blue", "green"),  # red was not due
        (99, "red green blue", "blue"),
        (99, "red green", "red"),
        (99, "red blue", "blue"),  # green is found: the nearest one from there
    ],
)
def test_the_script_of_random_order_goes_to_the_nearest_and_then_takes_turns(cell: int, left: str, colour: str) -> None:
    task = get_task("RescueWorld-n3-random")
    assert task.options.ids[scripted(task, seen(task, cell, left))[0]] == f"goto:{colour}"


def test_a_picture_shows_what_an_annotator_may_see() -> None:
    left = np.array([True, False, True, True, True, True])
    picture = draw(get_task("RescueWorld-n6").spec, 90, left).astype(int)
    assert picture.shape == (400, 400, 3)

    def pixel(cell: int, beside: int = 0) -> np.ndarray:
        """The middle of a cell, or that many pixels to its right; north is at the top."""
        return picture[380 - 40 * (cell % 10), 40 * (cell // 10) + 20 + beside]

    assert pixel(90).sum() < 120, "the agent"
    assert pixel(4).sum() < 300, "an obstacle"
    assert pixel(0).sum() > 730, "floor"
    red, green, blue = pixel(46)
    assert blue > max(red, green) + 60, "a target that is left"
    assert pixel(71).sum() > 730, "a target that is found is empty"
    red, green, blue = pixel(71, beside=13)
    assert green > max(red, blue) + 60, "but for its frame"
    assert all(pixel(cell)[0] > pixel(cell)[2] + 30 for cell in (20, 82, 74)), "danger"
