"""The mazes as tasks: facts, menus, the expert, what options lead to and when they end."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from envs.catalog import get_task
from envs.mujoco.mazes import SPECS
from envs.mujoco.tasks import MazeTask
from envs.task import Scene
from ground.errors import UserError
from tests.scripted import scripted

NAMES = ("PointReach", "PointUMaze", "PointPush", "PointFall", "AntMaze")


@pytest.fixture(params=NAMES)
def task(request: pytest.FixtureRequest) -> MazeTask:
    return get_task(request.param)


def test_any_numbers_are_some_scene(task: MazeTask) -> None:
    """Robots and blocks get anywhere."""
    obs = np.random.default_rng(0).normal(scale=15, size=(500, *task.observation_shape)).astype(np.float32)
    assert task.legal(obs).any(axis=1).all()
    assert np.take_along_axis(task.legal(obs), scripted(task, obs)[:, None], axis=1).all()


def scene_of(task: MazeTask, **facts: str) -> Scene:
    return scenes_by_facts(task)[tuple(f"{name}={value}" for name, value in facts.items())]


@cache
def scenes_by_facts(task: MazeTask) -> dict[tuple[str, ...], Scene]:
    return {scene.facts: scene for scene in task.sample_scenes(np.random.default_rng(1), 3000)}


def expert(task: MazeTask, **facts: str) -> str:
    return task.options.ids[task.script(scene_of(task, **facts))]


def test_the_expert_of_the_maze_goes_along_the_corridor() -> None:
    task = get_task("PointUMaze")
    corridor = [name.removeprefix("goto:") for name in task.options.ids[:7]]
    for i, here in enumerate(corridor):
        for j, goal in enumerate(corridor):
            towards = "goal" if i == j else corridor[i + int(np.sign(j - i))]
            assert expert(task, robot=here, goal=goal) == f"goto:{towards}"
            legal = {task.options.ids[k] for k in scene_of(task, robot=here, goal=goal).legal}
            beside = {f"goto:{corridor[k]}" for k in (i - 1, i + 1) if 0 <= k < 7}
            assert legal == beside | {"goto:goal"}


def test_the_expert_pushes_the_block_east_and_never_north() -> None:
    task = get_task("PointPush")
    for robot, choice in (
        ("south side", "goto:south-west corner"),
        ("south-west corner", "goto:west side"),
        ("west side", "push:east"),
    ):
        assert expert(task, robot=robot, goal="north side", block="middle") == choice
    for robot, choice in (("west side", "goto:middle"), ("middle", "push:east"), ("south side", "goto:middle")):
        assert expert(task, robot=robot, goal="north side", block="moving") == choice
    for robot, choice in (("west side", "goto:middle"), ("middle", "goto:north side"), ("north side", "goto:goal")):
        assert expert(task, robot=robot, goal="north side", block="east") == choice
    assert expert(task, robot="middle", goal="north side", block="north") == "goto:goal", "nothing helps any more"
    south = scene_of(task, robot="south side", goal="north side", block="middle")
    assert "push:north" in {task.options.ids[k] for k in south.legal}
    assert "The block stands in the middle." in south.text


def test_the_expert_bridges_the_chasm() -> None:
    task = get_task("PointFall")
    steps = {
        ("south-west corner", "ledge"): "goto:south-east corner",
        ("west ledge", "ledge"): "goto:south-west corner",
        ("south-east corner", "ledge"): "push:north",
        ("east ledge", "edge"): "push:north",
        ("south-east corner", "edge"): "goto:east ledge",
        ("east ledge", "chasm"): "goto:bridge",
        ("bridge", "chasm"): "goto:north-east corner",
        ("north-east corner", "chasm"): "goto:north-west corner",
        ("north-west corner", "chasm"): "goto:goal",
        ("chasm", "ledge"): "goto:goal",
    }
    for (robot, block), choice in steps.items():
        assert expert(task, robot=robot, goal="north-west corner", block=block) == choice


def placed(task: MazeTask, **numbers: float) -> np.ndarray:
    """The first observation of an evaluation level with some of its numbers replaced."""
    obs, _ = task.make_vec(1, split="eval").reset()
    for name, value in numbers.items():
        obs[0, task.spec.observation_names.index(name)] = value
    return obs


def test_facts_of_hand_made_observations() -> None:
    push, fall = get_task("PointPush"), get_task("PointFall")
    for task, numbers, facts in (
        (push, {"x": -0.5, "y": 0.5}, ("south side", "middle")),
        (push, {"x": -4.0, "y": 4.0}, ("west side", "middle")),
        (push, {"x": -2.1, "y": 4.0, "block_x": 0.3}, ("west side", "middle")),
        (push, {"x": -1.0, "y": 4.6, "block_x": 1.4}, ("middle", "moving")),
        (push, {"x": -0.3, "y": 4.0, "block_x": 2.1}, ("middle", "east")),
        (push, {"x": 0.0, "y": 5.6, "block_y": 8.0}, ("middle", "north")),
        (push, {"x": -4.0, "y": 4.0, "block_y": 4.02}, ("west side", "middle")),
        (push, {"x": -4.0, "y": 4.0, "block_y": 4.06}, ("west side", "north")),
        (fall, {"x": 4.0, "y": 1.0}, ("south-east corner", "ledge")),
        (fall, {"x": 4.0, "y": 4.0, "block_y": 6.4}, ("east ledge", "edge")),
        (fall, {"x": 4.0, "y": 7.0, "block_y": 8.0, "block_z": 1.0}, ("bridge", "chasm")),
        (fall, {"x": 0.0, "y": 7.0, "z": 0.4}, ("chasm", "ledge")),
    ):
        robot, block = facts
        said = task.describe(placed(task, **numbers))[0].facts
        assert said[0] == f"robot={robot}", numbers
        assert said[2] == f"block={block}", numbers


def done(task: MazeTask, option: str, **numbers: float) -> bool:
    return bool(task.option_done(placed(task, **numbers), np.array([task.options.ids.index(option)]))[0])


def test_options_end_when_achieved_or_impossible() -> None:
    push = get_task("PointPush")
    assert not done(push, "goto:west side", x=-4.0, y=0.0)
    assert done(push, "goto:west side", x=-4.0, y=2.5)
    assert done(push, "goto:middle", x=-4.0, y=4.0), "shut by the block"
    assert not done(push, "goto:middle", x=-4.0, y=4.0, block_x=4.0)
    assert not done(push, "push:east", x=-1.0, y=4.0, block_x=1.4)
    assert done(push, "push:east", x=0.0, y=4.0, block_x=2.4)
    assert done(push, "push:north", x=0.0, y=4.0, block_x=2.4)
    assert not done(push, "goto:goal", x=0.0, y=9.5), "the goal is to be held"
    assert done(get_task("PointFall"), "goto:bridge", x=4.0, y=8.0, z=0.4), "nothing can be reached from below"


def test_options_are_grounded_in_metres() -> None:
    for task, cell in ((get_task("PointPush"), 4.0), (get_task("AntPushRobust"), 8.0)):
        obs = placed(task, x=-cell, y=cell)
        for option, place in (("goto:west side", (-1, 1)), ("push:east", (0.6, 1)), ("goto:goal", (0, 2.375))):
            mean, scale = task.ground(obs, np.array([task.options.ids.index(option)]))
            np.testing.assert_allclose(mean, cell * np.array([place]))
            np.testing.assert_array_equal(scale, [[cell / 4] * 2])


def test_a_push_lines_up_first() -> None:
    """Else it would run into the block's corner from the place before."""
    push, fall = get_task("PointPush"), get_task("PointFall")
    for task, option, numbers, place in (
        (push, "push:east", {"x": -4.0, "y": 2.5}, (-4, 4)),
        (push, "push:east", {"x": -3.0, "y": 3.5}, (2.4, 4)),
        (push, "push:east", {"x": -1.0, "y": 5.5, "block_x": 1.4}, (0, 4)),
        (push, "push:north", {"x": -1.2, "y": 0.0}, (0, 0)),
        (fall, "push:north", {"x": 2.2, "y": 0.0}, (4, 0)),
        (fall, "push:north", {"x": 3.5, "y": 0.0}, (4, 8)),
    ):
        mean, _ = task.ground(placed(task, **numbers), np.array([task.options.ids.index(option)]))
        np.testing.assert_allclose(mean, [place], rtol=1e-6)


def test_a_maze_without_words_or_with_a_hidden_block_says_so() -> None:
    with pytest.raises(UserError, match="does not show its block"):
        get_task("AntPush")
    with pytest.raises(UserError, match="has no words"):
        MazeTask(replace(SPECS["PointUMaze"], layout=("###", "#R#", "###")))
    task = get_task("AntMaze")
    obs, _ = task.make_vec(1).reset()
    with pytest.raises(UserError, match="no scripted skills"):
        task.skill(obs, np.zeros(1, dtype=np.int64))


def achieved(task: MazeTask, option: str, before: dict[str, float], after: dict[str, float]) -> bool:
    index = np.array([task.options.ids.index(option)])
    return bool(task.option_achieved(placed(task, **before), placed(task, **after), index)[0])


def test_an_option_is_achieved_by_what_it_is_for_and_not_by_its_becoming_impossible() -> None:
    push, fall = get_task("PointPush"), get_task("PointFall")
    home, west = {"x": 0.0, "y": 0.0}, {"x": -4.0, "y": 4.0}
    assert achieved(push, "goto:west side", home, west)
    assert not achieved(push, "goto:south-west corner", home, west)
    assert not achieved(push, "goto:middle", home, west), "shut by the block, which ends the option"
    pushed = {"x": 0.0, "y": 4.0, "block_x": 2.4}
    assert achieved(push, "push:east", pushed | {"block_x": 1.9}, pushed)
    assert not achieved(push, "push:east", pushed, pushed), "it was there before"
    jammed = {"x": 0.0, "y": 0.0, "block_y": 4.1}
    assert achieved(push, "push:north", home, jammed)
    assert not achieved(push, "push:east", home, jammed), "which is no longer possible"
    assert not achieved(push, "push:north", pushed | {"block_x": 1.9}, pushed)
    assert achieved(push, "goto:goal", home, {"x": 0.0, "y": 9.0})
    assert not achieved(push, "goto:goal", home, {"x": 0.0, "y": 6.0})
    assert not achieved(fall, "goto:bridge", {"x": 4.0, "y": 4.0}, {"x": 4.0, "y": 8.0, "z": 0.4}), "fell beside it"
