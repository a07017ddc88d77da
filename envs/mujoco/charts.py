"""The maps of the mazes in words: named places, what a block can be doing, and how it can be pushed."""

from typing import Final, NamedTuple

from preceptor.envs.mujoco.mazes import FALL, MAZE, PUSH, ROOM

Place = tuple[int, int]  # (x, y) in cells from the robot's own


class BlockState(NamedTuple):
    """What the block is doing: the last of a map's states that holds.

    Attributes:
        name, words: For facts, and for a language model.
        closed: Places where the robot cannot be meanwhile.
        axis, moved: It holds once the block has moved along the axis by more than so many cells; negative for down.
    """

    name: str = ""
    words: str = ""
    closed: frozenset[Place] = frozenset()
    axis: str = ""
    moved: float = 0.0


class Push(NamedTuple):
    """An option that moves the block.

    Attributes:
        direction, words: For the option's id, and for a language model.
        stands: By state of the block, the place behind it.
        target: Where the robot heads for, in cells.
        end: The state of the block that it is for.
    """

    direction: str
    words: str
    stands: dict[str, Place]
    target: tuple[float, float]
    end: str


class Chart(NamedTuple):
    """A map in words.

    Attributes:
        places: Where one can be.
        goal: The task in a sentence, which no other map shares: with a scene it is all that a short prompt shows.
        rules: The map, for a language model.
        states: Of the block; the first holds at the start. One without words if there is no block.
        pushes: The useful one first.
    """

    places: dict[Place, str]
    goal: str
    rules: str
    states: tuple[BlockState, ...] = (BlockState(),)
    pushes: tuple[Push, ...] = ()


_U = {
    (0, 0): "south-west corner",
    (1, 0): "south side",
    (2, 0): "south-east corner",
    (2, 1): "east side",
    (2, 2): "north-east corner",
    (1, 2): "north side",
    (0, 2): "north-west corner",
}
_SQUARE = {(x - 1, y - 1): name for (x, y), name in (_U | {(0, 1): "west side", (1, 1): "middle"}).items()}
_CROSS = {
    (-1, 0): "south-west corner",
    (0, 0): "south side",
    (-1, 1): "west side",
    (0, 1): "middle",
    (1, 1): "east side",
    (0, 2): "north side",
}
_LEDGES = {
    (0, 0): "south-west corner",
    (1, 0): "south-east corner",
    (0, 1): "west ledge",
    (1, 1): "east ledge",
    (1, 2): "bridge",
    (1, 3): "north-east corner",
    (0, 3): "north-west corner",
}
_STEP = "You go from one place to the next one beside it."

CHARTS: Final = {
    ROOM: Chart(_SQUARE, "Reach the goal in the open room.", f"The room is open, and there is no wall in it. {_STEP}"),
    MAZE: Chart(
        _U,
        "Reach the goal in the winding corridor.",
        "The maze is one corridor with walls on both sides. It runs from the south-west corner along the south side to "
        "the south-east corner, along the east side to the north-east corner, and along the north side to the "
        f"north-west corner. There is no other way. {_STEP}",
    ),
    PUSH: Chart(
        _CROSS,
        "Reach the goal, which a block in the middle keeps you from.",
        "The south side leads to the south-west corner, and that to the west side. A block stands in the middle, "
        "between the south side, the west side, the east side and the north side, and you can push it away from you. "
        "The east side has room for the block. Pushed to the north it jams and shuts the goal in for good. "
        f"Once the middle is free, it leads to the north side. {_STEP}",
        (
            BlockState("middle", "The block stands in the middle.", frozenset({(0, 1)})),
            # Pushed to the north by a hundredth of a cell, it no longer fits between the walls of the east side.
            BlockState("north", "The block is jammed on its way to the north.", frozenset({(0, 2)}), "y", 0.01),
            BlockState("moving", "The block is on its way to the east.", frozenset({(1, 1), (0, 2)}), "x", 0.15),
            BlockState("east", "The block is on the east side, and the middle is free.", frozenset({(1, 1)}), "x", 0.5),
        ),
        (
            Push("east", "push the block to the east", {"middle": (-1, 1), "moving": (0, 1)}, (0.6, 1.0), "east"),
            Push("north", "push the block to the north", {"middle": (0, 0)}, (0.0, 1.6), "north"),
        ),
    ),
    FALL: Chart(
        _LEDGES,
        "Reach the goal beyond the chasm, which a block can bridge.",
        "A chasm lies between the ledges in the south and the corners in the north, and who falls into it stays there. "
        "A block stands on the east ledge. From the south-east corner you can push it to the north into the chasm, "
        "where it becomes a bridge from the east ledge to the north-east corner. "
        f"The south-west corner is beside the south-east corner and the west ledge. {_STEP}",
        (
            BlockState("ledge", "The block stands on the east ledge.", frozenset({(1, 1), (1, 2)})),
            BlockState("edge", "The block is on its way to the chasm.", frozenset({(1, 2)}), "y", 0.15),
            BlockState("chasm", "The block lies in the chasm and makes a bridge.", frozenset(), "z", -0.25),
        ),
        (Push("north", "push the block to the north", {"ledge": (1, 0), "edge": (1, 1)}, (1.0, 2.0), "chasm"),),
    ),
}
