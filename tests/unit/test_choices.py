"""What the expert chooses where the facts are such, and that it recovers wherever play has been led."""

import numpy as np
import pytest

from preceptor.envs.catalog import STOCK_TASKS, TASKS, get_task
from preceptor.envs.gridworld.scenes import COLOURS, STATUSES, Facts
from preceptor.envs.gridworld.tasks import GridTask
from tests.scripted import scripted


def facts(
    task: GridTask, held: str = "", front: str = "", door_colour: str = "", frontier: bool = True, **known: str
) -> Facts:
    """Facts by names: `red_key="blocked"`; what is in front is reachable."""
    things = task.schema.things
    known = {name.replace("_", " "): status for name, status in known.items()} | {front: "reachable"}
    return Facts(
        status=tuple(STATUSES.index(known.get(thing, "unknown")) for thing in things),
        door_colour=COLOURS.index(door_colour) + 1 if door_colour else 0,
        held=things.index(held) + 1 if held else 0,
        front=things.index(front) + 1 if front else 0,
        frontier=frontier,
    )


R, B, DONE = "reachable", "blocked", {"frontier": False}
CHOICES = [
    ("SimpleDoorKey", {}, "explore"),
    ("SimpleDoorKey", {"key": R}, "goto:key"),
    ("SimpleDoorKey", {"key": R, "door": R}, "goto:key"),
    ("SimpleDoorKey", {"front": "key", "door": R}, "pickup"),
    ("SimpleDoorKey", {"held": "key", "door": R}, "goto:door"),
    ("SimpleDoorKey", {"held": "key", "door": B}, "explore"),
    ("SimpleDoorKey", {"key": R, "door": B}, "goto:key"),
    ("KeyInBox", {"box": R, "door": R}, "goto:box"),
    ("KeyInBox", {"front": "box"}, "toggle"),
    ("KeyInBox", {"held": "box"}, "drop"),
    ("RandomBoxKey", {"key": R, "front": "box"}, "goto:key"),
    ("RandomBoxKey", {"key": B, "box": R}, "goto:box"),
    ("RandomBoxKey", {"held": "key", "door": B, "box": R, **DONE}, "goto:box"),
    ("ColoredDoorKey", {"red_key": R, "blue_key": R}, "explore"),
    ("ColoredDoorKey", {"red_key": R, "blue_key": R, "door": R, "door_colour": "blue"}, "goto:blue key"),
    ("ColoredDoorKey", {"front": "red key", "door": R, "door_colour": "blue"}, "explore"),
    ("ColoredDoorKey", {"held": "red key", "blue_key": R, "door": R, "door_colour": "blue"}, "drop"),
    ("ColoredDoorKey", {"held": "red key", "front": "door", "door_colour": "blue"}, "explore"),
    ("ColoredDoorKey", {"held": "blue key", "front": "door", "door_colour": "blue"}, "toggle"),
    ("ColoredDoorKey", {"front": "blue key", "red_key": R, **DONE}, "pickup"),
    ("ColoredDoorKey", {"front": "red key", "blue_key": B, "door": R, "door_colour": "blue", **DONE}, "pickup"),
    ("DoorKey-8x8", {"key": R, "goal": R}, "goto:goal"),
    ("DoorKey-8x8", {"held": "key", "front": "goal"}, "goto:goal"),
    ("DoorKey-8x8", {"held": "key", "goal": B, "door": R}, "goto:door"),
    ("DoorKey-8x8", {"door": R, **DONE}, "goto:door"),  # shut again, but not locked: the key is left behind
    ("UnlockPickup", {"held": "key", "front": "box"}, "drop"),
    ("UnlockPickup", {"key": R, "front": "box"}, "pickup"),
    ("BlockedUnlockPickup", {"held": "key", "door": B, "ball": R}, "explore"),
    ("BlockedUnlockPickup", {"held": "key", "door": B, "ball": R, **DONE}, "drop"),
    ("BlockedUnlockPickup", {"front": "key", "door": B, "ball": R, **DONE}, "goto:ball"),
    ("BlockedUnlockPickup", {"key": R, "door": B, "front": "ball", **DONE}, "pickup"),
    ("BlockedUnlockPickup", {"held": "ball", "key": R, "door": R}, "drop"),
    ("KeyCorridorS4R3", {"front": "closed door", "locked_door": R}, "toggle"),
    ("KeyCorridorS4R3", {"closed_door": R, "locked_door": R, **DONE}, "goto:closed door"),
    ("KeyCorridorS4R3", {"closed_door": R, "locked_door": R, "key": R}, "goto:key"),
    ("KeyCorridorS4R3", {"held": "key", "closed_door": R, "locked_door": R}, "goto:locked door"),
    ("KeyCorridorS4R3", {"held": "key", "closed_door": R, **DONE}, "goto:closed door"),
]


@pytest.mark.parametrize(("name", "known", "choice"), CHOICES)
def test_the_expert_chooses(name: str, known: dict, choice: str) -> None:
    task = get_task(name)
    assert task.options.ids[task.script(task.scene(facts(task, **known)))] == choice


@pytest.mark.parametrize(
    ("known", "over", "achieved"),
    [
        ({}, "goto:key goto:door goto:box drop toggle", "drop"),
        ({"box": R}, "explore goto:key goto:door drop toggle", "drop"),
        ({"door": R, "front": "box", "held": "key"}, "explore goto:key goto:box pickup", "goto:box pickup"),
    ],
)
def test_options_are_over_when_reached_or_impossible(known: dict, over: str, achieved: str) -> None:
    task = get_task("KeyInBox")
    judged = task._choices.judge(np.array([facts(task, **known).fields]))[1:, 0]
    assert [" ".join(np.array(task.options.ids)[row]) for row in judged] == [over, achieved]


@pytest.mark.parametrize("name", [*TASKS, *STOCK_TASKS])
def test_the_expert_recovers_from_random_options(name: str) -> None:
    """Things carried off and put down anywhere, boxes too: labels on what a student visits must still lead home."""
    task, rng, count = get_task(name), np.random.default_rng(0), 60
    env = task.make_vec(count, split="train", seed=5)
    obs, _ = env.reset()
    option, age = np.zeros((2, count), np.int64)
    won, fresh, alive = (np.full(count, start) for start in (False, True, True))
    for t in range(task.level_spec.max_steps):
        legal = task.legal(obs)
        wish = scripted(task, obs) if t >= 40 else np.argmax(legal * rng.random(legal.shape), axis=1)
        option, age = np.where(fresh, wish, option), np.where(fresh, 0, age) + 1
        obs, _, terminated, truncated, info = env.step(task.skill(obs, option))
        won |= alive & info["success"]
        alive &= ~(terminated | truncated)
        fresh = task.option_done(obs, option) | (age >= task.options.timeouts[option])
    assert won.mean() >= 0.98
