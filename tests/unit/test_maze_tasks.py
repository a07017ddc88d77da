"""The mazes as tasks: facts, menus, the expert, what options lead to and when they end; and that they can be solved."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from preceptor.envs.catalog import get_task
from preceptor.envs.mujoco.mazes import SPECS
from preceptor.envs.mujoco.simulator import MazeSimulator
from preceptor.envs.mujoco.tasks import MazeTask
from preceptor.ground.errors import UserError
from tests.scripted import scripted

PUSH, FALL = "PointPush", "PointFall"


@pytest.mark.parametrize("name", ["PointReach", "PointUMaze", PUSH, FALL])
def test_any_numbers_are_some_scene(name: str) -> None:
    """Robots and blocks get anywhere."""
    task = get_task(name)
    obs = np.random.default_rng(0).normal(scale=15, size=(500, *task.observation_shape)).astype(np.float32)
    assert task.legal(obs).any(axis=1).all()
    assert np.take_along_axis(task.legal(obs), scripted(task, obs)[:, None], axis=1).all()


@cache
def judged(task: MazeTask) -> dict[tuple[str, ...], tuple[str, set[str], str]]:
    """By facts: the expert's option, the legal ones, and the text of a scene."""
    ids, scenes = task.options.ids, task.sample_scenes(np.random.default_rng(1), 3000)
    return {scene.facts: (ids[task.script(scene)], {ids[k] for k in scene.legal}, scene.text) for scene in scenes}


def test_the_expert_of_the_maze_goes_along_the_corridor() -> None:
    task = get_task("PointUMaze")
    corridor = [name.removeprefix("goto:") for name in task.options.ids[:7]]
    for i, here in enumerate(corridor):
        for j, goal in enumerate(corridor):
            towards = "goal" if i == j else corridor[i + int(np.sign(j - i))]
            choice, legal, _ = judged(task)[f"robot={here}", f"goal={goal}"]
            assert choice == f"goto:{towards}"
            assert legal == {"goto:goal"} | {f"goto:{corridor[k]}" for k in (i - 1, i + 1) if 0 <= k < 7}


@pytest.mark.parametrize(
    ("name", "goal", "robot", "block", "choice"),
    [
        (PUSH, "north side", "west side", "middle", "push:east"),
        (PUSH, "north side", "south side", "moving", "goto:middle"),
        (PUSH, "north side", "middle", "north", "goto:goal"),  # nothing helps any more
        (FALL, "north-west corner", "south-east corner", "edge", "goto:east ledge"),
        (FALL, "north-west corner", "east ledge", "chasm", "goto:bridge"),
        (FALL, "north-west corner", "chasm", "ledge", "goto:goal"),
    ],
)
def test_the_expert_pushes_the_block_out_of_the_way_or_into_the_chasm(
    name: str, goal: str, robot: str, block: str, choice: str
) -> None:
    """From here and there; that its choices lead to the goal, test_tasks.py shows in play."""
    assert judged(get_task(name))[f"robot={robot}", f"goal={goal}", f"block={block}"][0] == choice
    _, legal, text = judged(get_task(PUSH))["robot=south side", "goal=north side", "block=middle"]
    assert legal == {"goto:south-west corner", "goto:goal", "push:north"}, "behind the block"
    assert text == "You are on the south side. The goal is on the north side. The block stands in the middle."


def placed(name: str, **numbers: float) -> tuple[MazeTask, np.ndarray]:
    """A task, and the first observation of an evaluation level with some of its numbers replaced."""
    task = get_task(name)
    obs, _ = task.make_vec(1, split="eval").reset()
    for number, value in numbers.items():
        obs[0, task.spec.observation_names.index(number)] = value
    return task, obs


@pytest.mark.parametrize(
    ("name", "numbers", "facts"),
    [
        (PUSH, {"x": -2.1, "y": 4.0, "block_x": 0.3}, ("west side", "middle")),
        (PUSH, {"x": -1.0, "y": 4.6, "block_x": 1.4}, ("middle", "moving")),
        (PUSH, {"x": -0.3, "y": 4.0, "block_x": 2.1}, ("middle", "east")),
        (PUSH, {"x": -4.0, "y": 4.0, "block_y": 4.02}, ("west side", "middle")),
        (PUSH, {"x": -4.0, "y": 4.0, "block_y": 4.06}, ("west side", "north")),
        (FALL, {"x": 4.0, "y": 4.0, "block_y": 6.4}, ("east ledge", "edge")),
        (FALL, {"x": 4.0, "y": 7.0, "block_y": 8.0, "block_z": 1.0}, ("bridge", "chasm")),
        (FALL, {"x": 0.0, "y": 7.0, "z": 0.4}, ("chasm", "ledge")),
    ],
)
def test_facts_of_hand_made_observations(name: str, numbers: dict[str, float], facts: tuple[str, str]) -> None:
    task, obs = placed(name, **numbers)
    said = task.describe(obs)[0].facts
    assert (said[0], said[2]) == (f"robot={facts[0]}", f"block={facts[1]}")


HOME, WEST, PUSHED = {"x": 0.0, "y": 0.0}, {"x": -4.0, "y": 4.0}, {"x": 0.0, "y": 4.0, "block_x": 2.4}
JAMMED = HOME | {"block_y": 4.1}


@pytest.mark.parametrize(
    ("name", "option", "before", "after", "achieved"),
    [
        (PUSH, "goto:west side", HOME, WEST, True),
        (PUSH, "goto:middle", HOME, WEST, False),  # shut by the block, which ends the option
        (PUSH, "push:east", PUSHED | {"block_x": 1.9}, PUSHED, True),
        (PUSH, "push:east", PUSHED, PUSHED, False),  # it was there before
        (PUSH, "push:north", HOME, JAMMED, True),
        (PUSH, "goto:goal", HOME, {"x": 0.0, "y": 9.0}, True),
        (PUSH, "goto:goal", HOME, {"x": 0.0, "y": 6.0}, False),
        (FALL, "goto:bridge", {"x": 4.0, "y": 4.0}, {"x": 4.0, "y": 8.0, "z": 0.4}, False),  # fell beside it
    ],
)
def test_an_option_is_achieved_by_what_it_is_for(
    name: str, option: str, before: dict, after: dict, achieved: bool
) -> None:
    (task, start), (_, end) = placed(name, **before), placed(name, **after)
    assert task.option_achieved(start, end, np.array([task.options.ids.index(option)])) == [achieved]


@pytest.mark.parametrize(
    ("name", "option", "numbers", "over", "place"),
    [
        (PUSH, "goto:west side", {"x": -4.0, "y": 0.0}, False, (-4, 4)),
        (PUSH, "goto:west side", {"x": -4.0, "y": 2.5}, True, (-4, 4)),
        (PUSH, "goto:middle", WEST, True, (0, 4)),  # shut by the block
        (PUSH, "goto:middle", WEST | {"block_x": 4.0}, False, (0, 4)),
        (PUSH, "push:east", PUSHED, True, (2.4, 4)),
        (PUSH, "push:north", PUSHED, True, (0, 6.4)),
        (PUSH, "goto:goal", {"x": 0.0, "y": 9.5}, False, (0, 9.5)),  # the goal is to be held
        ("AntPushRobust", "push:east", {"x": -8.0, "y": 8.0}, False, (4.8, 8)),
        (FALL, "goto:bridge", {"x": 4.0, "y": 8.0, "z": 0.4}, True, (4, 8)),  # nothing can be reached from below
        (FALL, "goto:goal", {"x": 4.0, "y": 8.0, "z": 0.4}, False, (0, 13.5)),
        # A push lines up first, else it would run into the block's corner from the place before.
        (PUSH, "push:east", {"x": -4.0, "y": 2.5}, False, (-4, 4)),
        (PUSH, "push:east", {"x": -3.0, "y": 3.5}, False, (2.4, 4)),
        (PUSH, "push:east", {"x": -1.0, "y": 5.5, "block_x": 1.4}, False, (0, 4)),
        (FALL, "push:north", {"x": 2.2, "y": 0.0}, False, (4, 0)),
        (FALL, "push:north", {"x": 3.5, "y": 0.0}, False, (4, 8)),
    ],
)
def test_options_end_when_achieved_or_impossible_and_are_grounded_in_metres(
    name: str, option: str, numbers: dict, over: bool, place: tuple[float, float]
) -> None:
    task, obs = placed(name, **numbers)
    index = np.array([task.options.ids.index(option)])
    assert task.option_done(obs, index) == [over]
    mean, scale = task.ground(obs, index)
    np.testing.assert_allclose(mean, [place], rtol=1e-6)
    np.testing.assert_array_equal(scale, [[task.spec.cell / 4] * 2])


def test_a_maze_without_words_or_with_a_hidden_block_says_so() -> None:
    with pytest.raises(UserError, match="does not show its block"):
        get_task("AntPush")
    with pytest.raises(UserError, match="has no words"):
        MazeTask(replace(SPECS["PointUMaze"], layout=("###", "#R#", "###")))


@pytest.mark.parametrize("name", ["AntMaze", "AntPushRobust", "AntFallRobust"])
def test_an_ant_that_is_dragged_from_waypoint_to_waypoint_arrives(name: str) -> None:
    """So the mazes of the paper can be solved by an ant that walks: blocks give way, gaps are filled, bridges hold."""
    task = get_task(name)
    ants = MazeSimulator(task.spec, 2)
    torso = ants.model.body("torso").id
    ants.begin(np.arange(2), 1_000_000 + np.arange(2))
    for _ in range(task.spec.horizon):
        obs = ants.observe()
        for data, target in zip(ants.data, task.ground(obs, scripted(task, obs))[0].astype(float), strict=True):
            missing = target - data.qpos[:2]
            missing /= max(1.0, float(np.linalg.norm(missing)))
            data.xfrc_applied[torso, :2] = 20 * (missing - 0.5 * data.qvel[:2])
        outcome = ants.step(np.zeros((2, 8)))
    assert outcome.success.all()


@pytest.mark.parametrize(
    ("name", "option", "north", "distance"),
    [
        ("PointUMaze", "goto:goal", None, 6.4),  # straight for the goal, where a wall
        (PUSH, "goto:goal", None, 3.9),  # or the block is in the way
        (FALL, "goto:goal", None, 4.33),  # or the chasm
        (PUSH, None, 0.02, 0.0),  # it fits the east side to within its two centimetres of play,
        (PUSH, None, 0.06, 3.9),  # so `charts.py` calls it lost from four on
    ],
)
def test_how_near_the_goal_one_gets(name: str, option: str | None, north: float | None, distance: float) -> None:
    """With one option all the time, or as the expert chooses, of a block that was pushed so far north."""
    task = get_task(name)
    env = task.make_vec(5, split="eval", seed=3)
    obs, _ = env.reset()
    for data in env.simulator.data if north else ():
        data.qpos[-1] = north
    for _ in range(task.spec.horizon):
        wish = np.full(5, task.options.ids.index(option)) if option else scripted(task, obs)
        obs, reward, _, _, info = env.step(task.skill(obs, wish))
    assert -reward == pytest.approx(distance, abs=0.05)
    assert (info["success"] == (distance < task.spec.radius)).all()
