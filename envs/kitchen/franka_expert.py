"""The scripted expert of FrankaKitchen: for each subtask a loop of the arm, from its home and back, in joint space.

The loops were searched for once (`dev/kitchen_waypoints.py`). The expert has no memory: it moves to a place a little
ahead of the nearest one on the loop of its option. A loop that did not move its object is so repeated by itself, and
after a loop that did the next one begins at home.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

WAYPOINTS: Final = Path(__file__).with_name("waypoints.json")
JOINTS, FINGERS = slice(0, 7), slice(7, 9)  # of a robot's positions, rad and m
FULL = 0.16  # by which an action of 1 asks a joint to move on in a step, rad; it gets .07 far
_SPACING = 0.04  # of a loop's places, rad
_OPEN = 5.0  # rad that a metre between the fingers counts for, where distances are measured


class Loops:
    """Loops of the arm, one for each of K subtasks, as places [P, 8]: seven joints and the opening of a finger.

    Args:
        ways: Of each subtask, its waypoints [W, 8] between home and home.
        acting: Of each, how many of them lead to the object and move it; the others lead away from it.
        home: Where each loop begins and ends [8].
        ahead: How far ahead of the arm its next place is, rad.
    """

    def __init__(
        self, ways: Sequence[NDArray[np.float64]], acting: Sequence[int], home: NDArray[np.float64], ahead: float = 0.2
    ) -> None:
        places, leaving = zip(*map(_sampled, ways, acting, [home] * len(ways)), strict=True)
        sizes = [len(part) for part in places]
        self.places, self._leaving = np.concatenate(places), np.concatenate(leaving)
        self._of = np.repeat(np.arange(len(ways)), sizes)
        self._first = np.cumsum([0, *sizes[:-1]])
        self._end = np.cumsum(sizes)
        self._ahead = round(ahead / _SPACING)

    def target(self, robot: NDArray[np.floating], option: NDArray[np.int64]) -> NDArray[np.float64]:
        """Where the arms with positions [N, 9] move next [N, 8], for the subtasks [N].

        An arm on the way from another subtask's object goes on to leave that before it turns to its own.
        """
        at = np.column_stack([robot[:, JOINTS], robot[:, FINGERS].mean(1)])
        offset = (self.places - at[:, None]) * ([1.0] * 7 + [_OPEN])  # [N, P, 8]
        elsewhere = (self._of != option[:, None]) & ~self._leaving
        place = (np.square(offset).sum(2) + np.where(elsewhere, np.inf, 0.0)).argmin(1) + self._ahead
        nearest = place - self._ahead
        beyond = place - self._end[self._of[nearest]]  # of the end of a loop, behind which the option's begins
        return self.places[np.where(beyond < 0, place, np.minimum(self._first[option] + beyond, self._end[option] - 1))]

    def act(self, robot: NDArray[np.floating], option: NDArray[np.int64]) -> NDArray[np.float64]:
        """Actions [N, 9] in [-1, 1] that move the arms there."""
        target = self.target(robot, option)
        wanted = np.column_stack([target, target[:, -1]])
        return np.clip((wanted - robot[:, : FINGERS.stop]) / FULL, -1, 1)


def _sampled(
    way: NDArray[np.float64], acting: int, home: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Places [P, 8] along a loop, and whether each is one of its way home [P]."""
    corners = np.concatenate([home[None], way, home[None]])
    rows, leaving = [], []
    for i, (a, b) in enumerate(pairwise(corners)):
        length = np.linalg.norm((b - a) * ([1.0] * 7 + [_OPEN]))
        count = max(1, round(float(length) / _SPACING))
        rows.append(a + (b - a) * np.arange(count)[:, None] / count)
        leaving += [i >= acting] * count
    return np.concatenate(rows), np.array(leaving)


def loops_of(stored: Mapping[str, Any], names: Sequence[str]) -> Loops:
    """The loops that `waypoints.json` stores; a subtask without one has the loop that stays at home."""
    home = np.array(stored["home"])
    ways = [stored["ways"].get(name, {"places": [stored["home"]], "acting": 1}) for name in names]
    return Loops([np.array(way["places"]) for way in ways], [way["acting"] for way in ways], home)


@cache
def expert_loops(names: tuple[str, ...]) -> Loops:
    """Those of the expert, for these subtasks as options."""
    return loops_of(json.loads(WAYPOINTS.read_text()), names)
