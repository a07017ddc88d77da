"""MiniGrid's objects to stored cells and back."""

import numpy as np
from minigrid.core.grid import Grid
from minigrid.core.world_object import Box, WorldObj
from numpy.typing import NDArray

from envs.gridworld.cells import CONTENTS_SHIFT, EMPTY, TRIPLES, encode_cell
from ground.errors import UserError


def to_object(cell: int) -> WorldObj | None:
    """A new MiniGrid object for a stored cell, contents included; None for an empty cell."""
    made = WorldObj.decode(*(int(part) for part in TRIPLES[cell & 255]))
    if isinstance(made, Box) and cell >> CONTENTS_SHIFT:
        made.contains = to_object(cell >> CONTENTS_SHIFT)  # type: ignore[assignment]  # which starts as None
    return made


def to_cell(found: WorldObj | None, target: WorldObj | None = None) -> int:
    """The stored cell of a MiniGrid object; `target` is the object that the mission names, compared by identity.

    Raises:
        UserError: An object that the engine does not know, for example one of a user's own class.
    """
    if found is None:
        return EMPTY
    if type(found).__module__ != WorldObj.__module__:
        raise UserError(f"The engine does not know the object {type(found).__name__!r}.", "use the single environment")
    contents = 0
    if found.contains is not None:
        if isinstance(found.contains, Box):
            raise UserError("The engine does not know boxes within boxes.", "use the single environment")
        contents = to_cell(found.contains, target)
    return encode_cell(*found.encode(), contents, target is found)


def to_cells(grid: Grid, target: WorldObj | None = None) -> NDArray[np.uint16]:
    """Stored cells of a MiniGrid grid, uint16 [W, H]. Raises `UserError` as `to_cell` does."""
    rows = [[to_cell(grid.get(x, y), target) for y in range(grid.height)] for x in range(grid.width)]
    return np.array(rows, dtype=np.uint16)
