"""Rescue Worlds as tasks: what is shown and what is not, scenes, options, the script, pictures."""

from collections.abc import Iterator

import numpy as np
import pytest

from envs.catalog import RESCUE_TASKS, get_task
from envs.rescue.rendering import draw
from envs.rescue.tasks import RescueTask
from envs.task import Scene
from tests.scripted import scripted


@pytest.fixture(params=RESCUE_TASKS)
def task(request: pytest.FixtureRequest) -> RescueTask:
    return get_task(request.param)


def seen(task: RescueTask, at: tuple[int, int], left: str) -> np.ndarray:
    """The observation [1, O] of an agent in a cell with targets left, by their colours."""
    env = task.make_single(0).unwrapped
    env.simulator.cell[0] = at[0] * 10 + at[1]
    env.simulator.left[0] = [colour in left.split() for colour in task.spec.colours]
    return env.simulator.observe()


def played(task: RescueTask, steps: int = 120, num_envs: int = 32) -> Iterator[tuple[np.ndarray, dict]]:
    """What the demonstrating expert leads through: observations and infos."""
    rng = np.random.default_rng(0)
    env = task.make_vec(num_envs, seed=0)
    obs, info = env.reset()
    for _ in range(steps):
        yield obs, info
        obs, _, _, _, info = env.step(task.expert_actions(obs, info["option"], rng, epsilon=0.1))


def test_observations_are_zeros_and_ones_that_say_where_and_what_is_left(task: RescueTask) -> None:
    env = task.make_vec(8, seed=2)
    obs, _ = env.reset()
    for _ in range(40):
        assert obs.dtype == np.float32
        assert set(np.unique(obs)) == {0.0, 1.0}
        np.testing.assert_array_equal(task.cells(obs), env.simulator.cell)
        np.testing.assert_array_equal(task.left(obs), env.simulator.left)
        obs, *_ = env.step(task.skill(obs, scripted(task, obs)))


def test_the_true_option_is_told_beside_the_observation_and_never_in_it() -> None:
    task = get_task("RescueWorld-n3-random")
    env = task.make_vec(600, seed=0)
    obs, info = env.reset()
    same_cell = np.flatnonzero(task.cells(obs) == task.cells(obs)[0])
    assert set(info["option"][same_cell]) == {0, 1, 2}
    assert (obs[same_cell] == obs[0]).all()
    for obs, info in played(task):
        assert task.left(obs)[np.arange(len(obs)), info["option"]].all(), "aligned with the observation"


def test_in_fixed_order_the_script_tells_the_true_option() -> None:
    for name in ("RescueWorld-n2", "RescueWorld-n3", "RescueWorld-n6"):
        task = get_task(name)
        for obs, info in played(task):
            np.testing.assert_array_equal(scripted(task, obs), info["option"])


def test_halo_sees_the_cell_and_nothing_else(task: RescueTask) -> None:
    view = list(task.halo_view)
    some, none = seen(task, (3, 4), "red"), seen(task, (3, 4), "")
    assert (some != none).any()
    np.testing.assert_array_equal(some[:, view], none[:, view])
    everywhere = np.concatenate([seen(task, (x, y), "") for x in range(10) for y in range(10)])
    assert len(np.unique(everywhere[:, view], axis=0)) == 100
    assert sorted([*view, *task.hidden_from_low_level]) == list(range(task.observation_shape[0]))


def test_options_are_named_after_targets_and_end_when_they_are_reached() -> None:
    task = get_task("RescueWorld-n3")
    assert task.options.ids == ("goto:red", "goto:green", "goto:blue")
    far, at_blue, found = (
        seen(task, (5, 5), "red green blue"),
        seen(task, (4, 5), "red green blue"),
        seen(task, (5, 5), "red green"),
    )
    done = {"far": far, "standing on it": at_blue, "found": found}
    ended = {how: task.option_done(np.repeat(obs, 3, axis=0), np.arange(3)).tolist() for how, obs in done.items()}
    assert ended == {
        "far": [False, False, False],
        "standing on it": [False, False, True],
        "found": [False, False, True],
    }
    assert task.legal(found).tolist() == [[True, True, False]]
    assert task.legal(seen(task, (5, 5), "")).tolist() == [[True, False, False]], "something has to be legal"


def test_options_are_grounded_in_their_targets_cells() -> None:
    task = get_task("RescueWorld-n3")
    mean, scale = task.ground(np.repeat(seen(task, (5, 5), "red green blue"), 3, axis=0), np.arange(3))
    assert task.goal_space.names == ("x", "y")
    assert mean.tolist() == [[0, 0], [9, 9], [4, 5]]
    assert scale.tolist() == [[1, 1]] * 3


def test_facts_and_text_of_hand_made_observations() -> None:
    task = get_task("RescueWorld-n6")
    for at, left, facts in (
        ((0, 0), "green blue", ("agent=south-west", "left=green,blue")),
        ((3, 3), "red green blue purple yellow", ("agent=middle", "left=red,green,blue,purple,yellow")),
        ((6, 9), "green", ("agent=north", "left=green")),
        ((7, 6), "yellow", ("agent=east", "left=yellow")),
        ((6, 8), "grey yellow", ("agent=grey", "left=yellow,grey")),
        ((2, 9), "", ("agent=north-west", "left=nothing")),
    ):
        assert task.describe(seen(task, at, left))[0].facts == facts
    (scene,) = task.describe(seen(task, (7, 3), "red blue"))
    still = "the red target in the south-west and the blue target in the middle"
    assert scene.text == f"You are at the yellow target. Still to find: {still}."
    assert task.describe(seen(task, (7, 4), ""))[0].text == "You are in the east. All targets are found."


def test_rules_say_what_there_is_and_who_knows_the_order() -> None:
    plain, hard = get_task("RescueWorld-n3"), get_task("RescueWorld-n6-random")
    assert "in this order: red, green, blue." in plain.rules
    assert not any(word in plain.rules for word in ("danger", "bstacle"))
    assert all(word in hard.rules for word in ("danger", "bstacle", "nobody tells you"))
    assert "red, green" not in hard.rules
    assert "the red target in the south-west, the green target in the north-east and the blue" in plain.rules


def choice(task: RescueTask, at: tuple[int, int], left: str) -> str:
    (scene,) = task.describe(seen(task, at, left))
    assert isinstance(scene, Scene)
    return task.options.ids[task.script(scene)].removeprefix("goto:")


def test_the_script_of_random_order_goes_to_the_nearest_and_then_takes_turns() -> None:
    task = get_task("RescueWorld-n3-random")
    for at, left, colour in (
        ((1, 2), "red green blue", "red"),
        ((1, 2), "green blue", "blue"),
        ((8, 8), "red green blue", "green"),
        ((8, 5), "red green", "green"),
        ((0, 0), "red green blue", "green"),  # red was not due
        ((9, 9), "red green blue", "blue"),
        ((4, 5), "red green blue", "red"),
        ((9, 9), "red green", "red"),
        ((9, 9), "red blue", "blue"),  # green is found: the nearest one from there
    ):
        assert choice(task, at, left) == colour, (at, left)
    assert choice(get_task("RescueWorld-n3"), (8, 8), "red green blue") == "red"


def test_a_picture_shows_what_an_annotator_may_see() -> None:
    task = get_task("RescueWorld-n6")
    left = np.array([True, False, True, True, True, True])
    picture = draw(task.spec, 9 * 10, left).astype(int)
    assert picture.shape == (400, 400, 3)

    def pixel(x: int, y: int, beside: int = 0) -> np.ndarray:
        """The middle of a cell, or that many pixels to its right; north is at the top."""
        return picture[400 - 40 * y - 20, 40 * x + 20 + beside]

    assert pixel(9, 0).sum() < 120, "the agent"
    assert pixel(0, 4).sum() < 300, "an obstacle"
    assert pixel(0, 0).sum() > 730, "floor"
    red, green, blue = pixel(4, 6)
    assert blue > max(red, green) + 60, "a target that is left"
    assert pixel(7, 1).sum() > 730, "a target that is found is empty"
    red, green, blue = pixel(7, 1, beside=13)
    assert green > max(red, blue) + 60, "but for its frame"
    assert all(pixel(x, y)[0] > pixel(x, y)[2] + 30 for x, y in ((2, 0), (8, 2), (7, 4))), "danger"


def test_a_picture_does_not_tell_which_target_is_due() -> None:
    task = get_task("RescueWorld-n3-random")
    envs = [task.make_single(seed).unwrapped for seed in range(12)]
    for env in envs:
        env.simulator.cell[0] = 55
    assert len({env.simulator.due[0] for env in envs}) == 3
    pictures = [env.render() for env in envs]
    assert all((picture == pictures[0]).all() for picture in pictures)
