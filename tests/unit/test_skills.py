"""Executors on maps drawn by hand."""

import numpy as np
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


def act(task_name: str, option: str, obs: NDArray[np.uint8], flaw: str | None = None) -> tuple[int, int]:
    """Next action, and turns and steps to go."""
    task = get_task(task_name, flaw)
    action, left, *_ = task.plan(obs, np.array([task.options.ids.index(option)]))[0]
    return int(action), int(left)


def test_lava_is_walked_round_unless_the_teacher_has_that_flaw() -> None:
    obs = draw("######", "#>l.k#", "#....#", "######")
    assert act("LavaDoorKey", "goto:key", obs) == (RIGHT, 7)
    assert act("LavaDoorKey", "goto:key", obs, flaw="lava") == (FORWARD, 2)
    walled = draw("######", "#>l.k#", "######", "######")
    assert act("LavaDoorKey", "goto:key", walled) == (WAIT, -1)
    assert act("LavaDoorKey", "goto:key", walled, flaw="lava") == (FORWARD, 2)


def test_pickup_and_toggle_act_only_on_what_is_in_front() -> None:
    key, door, box = ("####", "#>k#", "####"), ("####", "#.>D", "####"), ("####", "#>b#", "####")
    for rows, held, pickup, toggle in [
        (key, ".", PICKUP, WAIT),
        (key, "r", WAIT, WAIT),
        (box, ".", PICKUP, TOGGLE),
        (box, "k", WAIT, TOGGLE),
        (door, "k", WAIT, TOGGLE),
        (("####", "#.>O", "####"), ".", WAIT, WAIT),
    ]:
        obs = draw(*rows, held=held)
        assert act("KeyInBox", "pickup", obs)[0] == pickup
        assert act("KeyInBox", "toggle", obs)[0] == toggle


def test_drop_keeps_away_from_doors_and_from_what_is_unseen() -> None:
    room = ("#####", "#...#", "#...#", "#.>.D", "#...#", "#####")
    assert act("SimpleDoorKey", "drop", draw(*room, held="k"))[1] > 0, "the cell in front is beside the door"
    assert act("SimpleDoorKey", "drop", draw(*room, held=".")) == (WAIT, -1), "nothing to put down"
    assert act("SimpleDoorKey", "drop", draw("#####", "#...#", "#.>.#", "#...#", "#####", held="k")) == (DROP, 0)
    foggy = draw("#####", "#... ", "#.>. ", "#... ", "#####", held="k")
    assert act("SimpleDoorKey", "drop", foggy)[0] != DROP, "a door may be behind the fog"


def test_drop_leaves_passages_open_if_it_can() -> None:
    passage = ("########", "#..#...#", "#.>....#", "#..#...#", "########")
    action, left = act("SimpleDoorKey", "drop", draw(*passage, held="k"))
    assert (action, left > 0) == (LEFT, True) or (action, left > 0) == (RIGHT, True)
    corridor = ("######", "#>...#", "######", "######")
    assert act("SimpleDoorKey", "drop", draw(*corridor, held="k"))[1] == 2, "the dead end cuts nothing off"
    stuck = ("####", "#>.#", "####")
    assert act("SimpleDoorKey", "drop", draw(*stuck, held="k")) == (DROP, 0)


def test_explore_goes_where_something_must_come_into_view() -> None:
    assert act("SimpleDoorKey", "explore", draw("#####", "#>..#", "#...#", "#####")) == (WAIT, -1)
    assert act("SimpleDoorKey", "explore", draw("######", "#>.. #", "#... #", "######")) == (FORWARD, 1)
    corners = draw(" ### ", "#>..#", "#...#", " ### ")
    assert act("SimpleDoorKey", "explore", corners) == (WAIT, -1), "room corners cannot matter"
    behind_key = draw("######", "#>.k #", "######", "      ")
    assert act("SimpleDoorKey", "explore", behind_key) == (FORWARD, 1), "light passes a key"
    behind_door = draw("######", "#>.D #", "######", "      ")
    assert act("SimpleDoorKey", "explore", behind_door) == (WAIT, -1)
