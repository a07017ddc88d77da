"""Executors on maps drawn by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray

from preceptor.envs.catalog import get_task

CELLS = {
    " ": (0, 0, 0),
    ".": (1, 0, 0),
    "#": (2, 5, 0),
    "D": (4, 2, 2),  # a locked blue door
    "O": (4, 2, 0),
    "k": (5, 2, 0),
    "r": (5, 0, 0),
    "b": (7, 2, 0),
    "l": (9, 0, 0),
}
HEADINGS = ">v<^"
LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE, WAIT = range(7)


def draw(*rows: str, held: str = ".") -> NDArray[np.uint8]:
    """One observation [1, W, H, 4] from rows of characters; the agent is an arrow."""
    image = np.zeros((1, len(rows[0]), len(rows), 4), dtype=np.uint8)
    image[..., 3] = 4
    for y, row in enumerate(rows):
        for x, character in enumerate(row):
            if character in HEADINGS:
                image[0, x, y] = *CELLS[held], HEADINGS.index(character)
            else:
                image[0, x, y, :3] = CELLS[character]
    return image


BESIDE_THE_DOOR = ("#####", "#...#", "#...#", "#.>.D", "#...#", "#####")
PASSAGE = ("########", "#..#...#", "#.>....#", "#..#...#", "########")
BEYOND_LAVA, WALLED = ("######", "#>l.k#", "#....#", "######"), ("######", "#>l.k#", "######", "######")


@pytest.mark.parametrize(
    ("name", "option", "rows", "held", "actions", "left"),
    [
        ("LavaDoorKey", "goto:key", BEYOND_LAVA, ".", {RIGHT}, 7),
        ("LavaDoorKey/lava", "goto:key", BEYOND_LAVA, ".", {FORWARD}, 2),
        ("LavaDoorKey", "goto:key", WALLED, ".", {WAIT}, -1),
        ("LavaDoorKey/lava", "goto:key", WALLED, ".", {FORWARD}, 2),
        # The cell in front is beside a door, or may be: one is behind the fog, perhaps.
        ("SimpleDoorKey", "drop", BESIDE_THE_DOOR, "k", {LEFT, RIGHT, FORWARD}, None),
        ("SimpleDoorKey", "drop", ("#####", "#... ", "#.>. ", "#... ", "#####"), "k", {LEFT, RIGHT, FORWARD}, None),
        ("SimpleDoorKey", "drop", BESIDE_THE_DOOR, ".", {WAIT}, -1),  # nothing to put down
        ("SimpleDoorKey", "drop", ("#####", "#...#", "#.>.#", "#...#", "#####"), "k", {DROP}, 0),
        # A passage stays open if it can; a dead end cuts nothing off; and where there is no choice, there is none.
        ("SimpleDoorKey", "drop", PASSAGE, "k", {LEFT, RIGHT}, None),
        ("SimpleDoorKey", "drop", ("######", "#>...#", "######", "######"), "k", {FORWARD}, 2),
        ("SimpleDoorKey", "drop", ("####", "#>.#", "####"), "k", {DROP}, 0),
        ("SimpleDoorKey", "drop", ("####", "#>D#", "####"), "k", {WAIT}, -1),
        ("KeyInBox", "goto:box", ("####", "#>b#", "####"), "k", {WAIT}, 0),  # is there, and keeps what it holds
        # Exploring goes where something must come into view. Corners of rooms cannot matter, and light passes keys.
        ("SimpleDoorKey", "explore", ("#####", "#>..#", "#...#", "#####"), ".", {WAIT}, -1),
        ("SimpleDoorKey", "explore", ("######", "#>.. #", "#... #", "######"), ".", {FORWARD}, 1),
        ("SimpleDoorKey", "explore", (" ### ", "#>..#", "#...#", " ### "), ".", {WAIT}, -1),
        ("SimpleDoorKey", "explore", ("######", "#>.k #", "######", "      "), ".", {FORWARD}, 1),
        ("SimpleDoorKey", "explore", ("######", "#>.D #", "######", "      "), ".", {WAIT}, -1),
        ("KeyInBox", "pickup", ("####", "#>k#", "####"), ".", {PICKUP}, None),
        ("KeyInBox", "toggle", ("####", "#>k#", "####"), ".", {WAIT}, None),
        ("KeyInBox", "pickup", ("####", "#>k#", "####"), "r", {WAIT}, None),
        ("KeyInBox", "pickup", ("####", "#>b#", "####"), ".", {PICKUP}, None),
        ("KeyInBox", "toggle", ("####", "#>b#", "####"), "k", {TOGGLE}, None),
        ("KeyInBox", "pickup", ("####", "#.>D", "####"), ".", {WAIT}, None),
        ("KeyInBox", "toggle", ("####", "#.>D", "####"), "k", {TOGGLE}, None),
        ("KeyInBox", "toggle", ("####", "#.>O", "####"), ".", {WAIT}, None),
    ],
)
def test_the_next_action_and_how_much_is_left(
    name: str, option: str, rows: tuple[str, ...], held: str, actions: set[int], left: int | None
) -> None:
    """Turns and steps are left; of a task with a flaw of the teacher, its plan is meant."""
    task = get_task(*name.split("/"))
    action, to_go, *_ = task.plan(draw(*rows, held=held), np.array([task.options.ids.index(option)]))[0]
    assert action in actions
    assert left is None or to_go == left
