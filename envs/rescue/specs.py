"""Rescue World as data: where targets, danger and obstacles are, and in which order the targets are due.

The maps are those of HALO (Orlov Savko & Unhelkar; liubaoryol/halo, configs/env/rescue_world_n*.yaml).
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

Cell = tuple[int, int]  # (x, y), x to the east and y to the north

COLOURS: Final = ("red", "green", "blue", "purple", "yellow", "grey")
MOVES: Final = ((1, 0), (0, 1), (-1, 0), (0, -1))  # what the actions 0 to 3 add to (x, y)
NUM_ACTIONS: Final = len(MOVES)


@dataclass(frozen=True)
class RescueSpec:
    """A Rescue World. Cells are numbered x * size + y.

    Attributes:
        name: Catalogue name.
        targets: Cells of the n targets; the i-th is called `COLOURS[i]`.
        danger: Cells that cost much to enter, except as the target that is due.
        obstacles: Cells that cannot be entered.
        random_order: Targets are due in an order that the level decides, all orders alike; else from first to last.
        size: Cells per side.
    """

    name: str
    targets: tuple[Cell, ...]
    danger: tuple[Cell, ...] = ()
    obstacles: tuple[Cell, ...] = ()
    random_order: bool = False
    size: int = 10

    @property
    def horizon(self) -> int:
        """Steps after which an episode is truncated."""
        return self.size**2 * len(self.targets)

    @property
    def colours(self) -> tuple[str, ...]:
        """Names of the targets."""
        return COLOURS[: len(self.targets)]

    @property
    def num_cells(self) -> int:
        """C, the number of cells."""
        return self.size**2

    @cached_property
    def target_cells(self) -> NDArray[np.int64]:
        """Numbers of the targets' cells [n]."""
        return self._numbers(self.targets)

    @cached_property
    def is_danger(self) -> NDArray[np.bool_]:
        """Which cells are dangerous [C]."""
        return np.isin(np.arange(self.num_cells), self._numbers(self.danger))

    @cached_property
    def is_obstacle(self) -> NDArray[np.bool_]:
        """Which cells cannot be entered [C]."""
        return np.isin(np.arange(self.num_cells), self._numbers(self.obstacles))

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Numbers of the cells where an episode may begin: neither target nor obstacle."""
        return np.setdiff1d(np.flatnonzero(~self.is_obstacle), self.target_cells)

    @cached_property
    def aimed(self) -> NDArray[np.int64]:
        """Where each action aims at from each cell [C, 4], the cell itself at the edge; obstacles are not looked at."""
        x, y = np.divmod(np.arange(self.num_cells), self.size)
        at = np.stack([x, y], axis=1)[:, None] + np.array(MOVES)  # [C, 4, 2]
        return np.clip(at, 0, self.size - 1) @ [self.size, 1]

    @cached_property
    def reached(self) -> NDArray[np.int64]:
        """Where each action leads from each cell [C, 4]; who runs into an obstacle stays."""
        stays = np.arange(self.num_cells)[:, None]
        return np.where(self.is_obstacle[self.aimed], stays, self.aimed)

    def _numbers(self, cells: tuple[Cell, ...]) -> NDArray[np.int64]:
        return np.array([x * self.size + y for x, y in cells], dtype=np.int64)


_CORNERS = ((0, 0), (9, 9))
_RUBBLE = tuple(
    (x, y)
    for x, column in {
        0: (4, 5),
        1: (2, 5, 8),
        2: (3, 8),
        3: (1, 5, 6),
        4: (1, 2, 5, 8),
        5: (5, 8),
        6: (1, 2, 3),
        7: (0, 2, 6, 8),
        8: (8,),
        9: (4, 5),
    }.items()
    for y in column
)
_FIXED = (
    RescueSpec("RescueWorld-n2", _CORNERS),
    RescueSpec("RescueWorld-n3", (*_CORNERS, (4, 5))),
    RescueSpec(
        "RescueWorld-n6",
        ((1, 1), (7, 1), (4, 6), (5, 0), (7, 3), (6, 8)),
        danger=((2, 0), (1, 1), (8, 2), (7, 4), (3, 7), (4, 7), (6, 7)),
        obstacles=_RUBBLE,
    ),
)
_RANDOM = tuple(replace(spec, name=f"{spec.name}-random", random_order=True) for spec in _FIXED)

SPECS: dict[str, RescueSpec] = {spec.name: spec for spec in (*_FIXED, *_RANDOM)}
