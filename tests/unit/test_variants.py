"""Variants of the grid tasks: their names, their levels, and maps that are stretched."""

from collections.abc import Callable

import numpy as np
import pytest

from preceptor.controller.encoders import encoder_of
from preceptor.controller.stretching import stretched
from preceptor.envs.catalog import get_task
from preceptor.envs.gridworld.levels import SPECS
from preceptor.envs.gridworld.single import GridTaskEnv
from preceptor.envs.gridworld.tasks import GridTask
from preceptor.envs.gridworld.variants import spec_of
from preceptor.ground.errors import UserError
from tests.scripted import scripted

COUNT = 200
NAMES = {
    "simpledoorkey:ROOMS=12-14": "SimpleDoorKey:rooms=12-14",
    "KeyInBox:rooms=7": "KeyInBox:rooms=7-7",
    "SimpleDoorKey:rooms=5-10": "SimpleDoorKey",
    "TwoDoor:colours=grey-red": "TwoDoor:colours=red-grey",
    "ColoredDoorKey:apart=grey-red+green-blue, rooms=12-14": "ColoredDoorKey:rooms=12-14,apart=red-grey+green-blue",
    "ColoredDoorKey:pairs=blue-red+red-blue": "ColoredDoorKey:pairs=red-blue",
}


@pytest.mark.parametrize("said", NAMES)
def test_a_variant_has_one_name_which_is_accepted_and_the_rest_of_its_task(said: str) -> None:
    task, plain = get_task(said), get_task(NAMES[said].partition(":")[0])
    assert (task.name, task.source, task.base_name) == (NAMES[said], NAMES[said], plain.name)
    assert get_task(task.name) is task
    assert (task.options.ids, task.goal, task.rules) == (plain.options.ids, plain.goal, plain.rules)
    ours, theirs = encoder_of(task), encoder_of(plain)
    assert ours.identity == theirs.identity
    obs = task.make_vec(8).reset()[0]
    assert [part.shape[1:] for part in ours(obs).parts] == [
        part.shape[1:] for part in theirs(plain.make_vec(8).reset()[0]).parts
    ]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("ColoredDoorKey:rooms=3-7", "5 to 25 cells"),
        ("ColoredDoorKey:rooms=9-7", "not '9-7'"),
        ("ColoredDoorKey:rooms=12-140", "5 to 25 cells"),
        ("ColoredDoorKey:rooms=\u0661\u0662", "5 to 25 cells"),
        ("ColoredDoorKey:rooms=", "5 to 25 cells"),
        ("TwoDoor:rooms=12-14", "one size of room, 20 by 20"),
        ("ColoredDoorKey:colors=red-blue", "Did you mean 'colours'"),
        ("ColoredDoorKey:colours=red-bleu", "Did you mean 'blue'"),
        ("ColoredDoorKey:colours=red", "leaves no colours"),
        ("ColoredDoorKey:pairs=red-green,apart=green-red", "leaves no colours"),
        ("ColoredDoorKey:pairs=red-red", "two colours each"),
        ("ColoredDoorKey:apart=red-green-blue", "two colours each"),
        ("SimpleDoorKey:pairs=red-green", "no two colours that could meet"),
        ("SimpleDoorKey:rooms=7,rooms=8", "given twice"),
        ("SimpleDoorKey:rooms=7,", "Unknown parameter"),
        ("PointReach:rooms=7", "takes no parameters"),
        ("DoorKey-5x5:rooms=7", "takes no parameters"),
    ],
)
def test_a_bad_value_is_named_with_a_name_that_works(said: str, why: str) -> None:
    with pytest.raises(UserError, match=why) as raised:
        get_task(said)
    assert get_task(raised.value.next_step.split()[1])


def test_levels_are_drawn_from_what_is_asked_for_and_those_of_a_task_are_as_before() -> None:
    def levels(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        simulator = get_task(name).simulator(COUNT)
        simulator.begin(np.arange(COUNT), np.arange(COUNT))
        state = simulator.arrays()
        cells = state["cells"].reshape(COUNT, -1)
        colours = cells >> 4 & 7
        doors, keys = cells & 15 == 12, cells & 15 == 5
        door = np.where(doors, colours, 0).sum(1)
        others = np.where(keys & (colours != door[:, None]), 1 << colours, 0).sum(1)
        return np.stack([state["room_width"], state["room_height"]], 1), door, others

    sizes, door, other = levels("ColoredDoorKey:rooms=12-14,colours=red-blue-grey,apart=red-blue")
    assert (sizes.min(), sizes.max()) == (12, 14)
    assert {tuple(pair) for pair in np.stack([door, other], 1).tolist()} == {(0, 32), (5, 1), (2, 32), (5, 4)}
    assert set(levels("TwoDoor:colours=purple")[1]) == {6}  # two doors
    assert set(levels("SimpleDoorKey:colours=green-blue")[1]) == {1, 2}
    ours, theirs = levels("ColoredDoorKey"), levels("ColoredDoorKey:apart=red-green")
    drawn_anew = ((ours[1] == 0) & (ours[2] == 2)) | ((ours[1] == 1) & (ours[2] == 1))
    assert drawn_anew.any()
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one[~drawn_anew], other[~drawn_anew])
    assert spec_of("ColoredDoorKey") == SPECS["ColoredDoorKey"]
    limits = [spec_of(f"ColoredDoorKey:rooms={sides}").max_steps for sides in ("7", "12-14")]
    assert limits == [SPECS["ColoredDoorKey"].max_steps, 294], "larger rooms leave more time"


@pytest.mark.parametrize("name", ["ColoredDoorKey:rooms=12-14,apart=red-green", "DynamicDoorKey:rooms=13"])
def test_the_script_solves_variants_and_minigrid_plays_them_in_lock_step(name: str) -> None:
    task, count = get_task(name), 40
    env = task.make_vec(count, split="eval", seed=1)
    obs, info = env.reset()
    seed = int(info["level_seed"][0])
    single = GridTaskEnv(name, "eval")
    np.testing.assert_array_equal(single.reset(options={"level_seed": seed})[0]["image"], obs[0])
    alive, won = np.ones(count, np.bool_), np.zeros(count, np.bool_)
    while alive.any():
        actions = task.skill(obs, scripted(task, obs))
        obs, _, terminated, truncated, info = env.step(actions)
        if alive[0] and not (terminated | truncated)[0]:
            np.testing.assert_array_equal(single.step(int(actions[0]))[0]["image"], obs[0])
        won |= alive & info["success"]
        alive &= ~(terminated | truncated)
    assert won.mean() > 0.95


def play(task: GridTask, steps: int, look: Callable[[np.ndarray], None]) -> None:
    rng, env = np.random.default_rng(0), task.make_vec(64)
    obs = env.reset()[0]
    for _ in range(steps):
        look(obs)
        options = np.array([rng.choice(scene.legal) for scene in task.describe(obs)])
        obs = env.step(task.skill(obs, options))[0]


@pytest.mark.parametrize("name", ["ColoredDoorKey", "LavaDoorKey", "RandomBoxKey"])
def test_a_stretched_map_says_the_same_of_a_larger_room(name: str) -> None:
    task, most, larger = get_task(name), 5, []
    assert isinstance(task, GridTask)

    def look(obs: np.ndarray) -> None:
        keys = np.arange(len(larger), len(larger) + len(obs))
        wide = stretched(obs, most, keys)
        assert wide.shape == (64, 15, 15, 4)
        assert (task.fact_codes(wide) == task.fact_codes(obs)).mean() > 0.98
        np.testing.assert_array_equal(stretched(obs[9:], most, keys[9:]), wide[9:], "whatever else is in the batch")
        for kind in range(4, 10):
            assert ((wide[..., 0] == kind).sum((1, 2)) == (obs[..., 0] == kind).sum((1, 2))).all()
        assert ((wide[..., 3] != 4).sum((1, 2)) == 1).all()
        larger.extend(((wide[..., 0] != 0).sum((1, 2)) > (obs[..., 0] != 0).sum((1, 2))).tolist())
        flat = larger[-len(obs) :]
        np.testing.assert_array_equal(wide[~np.array(flat), :10, :10], obs[~np.array(flat)])

    play(task, 60, look)
    assert 0.25 < np.mean(larger) < 0.6
