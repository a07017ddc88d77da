"""How one grid cell is stored: a `uint16` that holds MiniGrid's object, its colour, its state and its contents.

    bits 0-3   kind: MiniGrid's object index, except that a door has one kind per state
    bits 4-6   colour: MiniGrid's colour index
    bit  7     the object is the one that the mission names
    bits 8-15  the same byte for what a box contains, zero if nothing

So a box that is carried away takes its contents along, and telling the mission's object from a twin needs no identity.
"""

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

UNSEEN: Final = 0
EMPTY: Final = 1
WALL_KIND: Final = 2
FLOOR: Final = 3
DOOR_OPEN: Final = 4
KEY: Final = 5
BALL: Final = 6
BOX: Final = 7
GOAL_KIND: Final = 8
LAVA: Final = 9
DOOR_CLOSED: Final = 11
DOOR_LOCKED: Final = 12

KIND_MASK: Final = 15
COLOR_SHIFT: Final = 4
TARGET: Final = 128
CONTENTS_SHIFT: Final = 8
NUM_COLORS: Final = 6

WALL: Final = WALL_KIND | 5 << COLOR_SHIFT  # MiniGrid's walls are grey
GOAL: Final = GOAL_KIND | 1 << COLOR_SHIFT  # and its goals green

DOOR_KINDS: Final = (DOOR_OPEN, DOOR_CLOSED, DOOR_LOCKED)  # indexed by MiniGrid's door state

# MiniGrid's DIR_TO_VEC: east, south, west, north.
STEP_X: Final = (1, 0, -1, 0)
STEP_Y: Final = (0, 1, 0, -1)


def encode_cell(kind: int, color: int, state: int, contents: int = 0, target: bool = False) -> int:
    """The stored cell of MiniGrid's (object, colour, state) triple; `contents` is the stored cell inside a box."""
    stored_kind = DOOR_KINDS[state] if kind == DOOR_OPEN else kind
    return stored_kind | color << COLOR_SHIFT | (TARGET if target else 0) | contents << CONTENTS_SHIFT


def _triples() -> NDArray[np.uint8]:
    """MiniGrid's (object, colour, state) of every low byte, shape [256, 3]; unused codes stay zero."""
    table = np.zeros((256, 3), dtype=np.uint8)
    for byte in range(256):
        kind, color = byte & KIND_MASK, byte >> COLOR_SHIFT & 7
        if kind in DOOR_KINDS:
            table[byte] = DOOR_OPEN, color, DOOR_KINDS.index(kind)
        elif EMPTY <= kind <= LAVA:
            table[byte] = kind, color, 0
    return table


def _flags(kinds: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which low bytes are of one of the kinds, shape [256]."""
    return np.array([byte & KIND_MASK in kinds for byte in range(256)])


TRIPLES: Final = _triples()
CAN_ENTER: Final = _flags((EMPTY, FLOOR, DOOR_OPEN, GOAL_KIND, LAVA))
CAN_PICK_UP: Final = _flags((KEY, BALL, BOX))
SEE_THROUGH: Final = ~_flags((WALL_KIND, DOOR_CLOSED, DOOR_LOCKED))


@njit(cache=True)
def kind_of(cell: int) -> np.int64:
    """Kind of a stored cell."""
    return np.int64(cell) & KIND_MASK


@njit(cache=True)
def color_of(cell: int) -> np.int64:
    """MiniGrid's colour index of a stored cell."""
    return np.int64(cell) >> COLOR_SHIFT & 7
