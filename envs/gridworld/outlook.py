"""What has been seen of a grid in English, from where the agent stands, to choose primitive actions by."""

import numpy as np
from numpy.typing import NDArray

from preceptor.envs.gridworld.cells import BALL, BOX, DOOR_OPEN, EMPTY, FLOOR, GOAL_KIND, KEY, LAVA, STEP_X, STEP_Y
from preceptor.envs.gridworld.scenes import COLOURS
from preceptor.envs.gridworld.sight import NO_AGENT

ACTION_WORDS = (
    "turn left",
    "turn right",
    "go forward",
    "pick up what is in front",
    "put down what you hold",
    "open what is in front",
    "wait",
)
_NAMES = {DOOR_OPEN: "door", KEY: "key", BALL: "ball", BOX: "box"}
_PLAIN = {GOAL_KIND: "goal", LAVA: "lava"}  # which have one colour each
_DOORS = ("open", "closed", "locked")
_FREE = (EMPTY, FLOOR)
_SIDES = ("In front of you", "To your right", "Behind you", "To your left")


def outlook(seen: NDArray[np.uint8]) -> str:
    """A map of what has been seen [W, H, 4] in words: how far it is free on each side, each thing with the steps to it,
    and what is held."""
    here = np.argwhere(seen[..., 3] != NO_AGENT)[0]
    facing = int(seen[tuple(here)][3])
    axes = np.array([(STEP_X[turn % 4], STEP_Y[turn % 4]) for turn in range(facing, facing + 4)])  # as `_SIDES`
    sides = [f"{side}: {_ray(seen, here, axis)}." for side, axis in zip(_SIDES, axes, strict=True)]
    cells = [cell for cell in np.argwhere(np.isin(seen[..., 0], [*_NAMES, *_PLAIN])) if (cell != here).any()]
    offsets = sorted((int(np.abs(cell - here).sum()), *(axes[:2] @ (cell - here)).tolist(), *cell) for cell in cells)
    things = [f"{_name(seen[x, y])} {_steps(ahead, right)}" for _, ahead, right, x, y in offsets]
    held = _name(seen[tuple(here)]) if seen[tuple(here)][0] in _NAMES else "nothing"
    return " ".join([*sides, f"You know of: {'; '.join(things) or 'nothing'}.", f"You hold {held}."])


def _ray(seen: NDArray[np.uint8], here: NDArray[np.int64], step: NDArray[np.int64]) -> str:
    """What comes in a straight line, and after how many free cells."""
    cell, free = here + step, 0
    inside = seen.shape[:2]
    while (known := bool(((cell >= 0) & (cell < inside)).all())) and seen[tuple(cell)][0] in _FREE:
        cell, free = cell + step, free + 1
    what = _name(seen[tuple(cell)]) if known else "what you cannot see"
    return f"{free} free cell{'s' * (free > 1)}, then {what}" if free else what


def _steps(ahead: int, right: int) -> str:
    """How to get somewhere, in steps."""
    ways = (ahead, "ahead", "back"), (right, "to the right", "to the left")
    return " and ".join(f"{abs(n)} {there if n > 0 else other}" for n, there, other in ways if n)


def _name(cell: NDArray[np.uint8]) -> str:
    """A cell's (object, colour, state) in words."""
    kind, colour, state = (int(part) for part in cell[:3])
    if kind not in _NAMES:
        return _PLAIN.get(kind, "a wall" if kind else "what you have not seen")
    return f"the {f'{_DOORS[state]} ' if kind == DOOR_OPEN else ''}{COLOURS[colour]} {_NAMES[kind]}"
