"""Rescue World as data: where targets, danger and obstacles are, in which order targets are due, cheapest ways to them.

The maps are those of HALO (Orlov Savko & Unhelkar; liubaoryol/halo, configs/env/rescue_world_n*.yaml).
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

SIZE: Final = 10  # cells per side
CELLS: Final = np.arange(SIZE**2)
COLUMN, ROW = np.divmod(CELLS, SIZE)
COLOURS: Final = ("red", "green", "blue", "purple", "yellow", "grey")
MOVES: Final = ((1, 0), (0, 1), (-1, 0), (0, -1))  # what the actions 0 to 3 add to (x, y)
NUM_ACTIONS: Final = len(MOVES)
# Where each action aims at from each cell [C, 4], the cell itself at the edge; obstacles are not looked at.
AIMED: Final = np.clip(np.stack([COLUMN, ROW], 1)[:, None] + np.array(MOVES), 0, SIZE - 1) @ [SIZE, 1]
_DANGER_COST = 100.0  # of entering danger, against 1 elsewhere, as in the reward


@dataclass(frozen=True)
class RescueSpec:
    """A Rescue World. A cell is a number of two digits, x to the east and y to the north; there are C of them.

    Attributes:
        name: Catalogue name.
        targets: The n targets; the i-th is called `COLOURS[i]`.
        danger: Cells that cost much to enter, except as the target that is due.
        obstacles: Cells that cannot be entered.
        random_order: Targets are due in an order that the level decides, all orders alike; else from first to last.
    """

    name: str
    targets: tuple[int, ...]
    danger: tuple[int, ...] = ()
    obstacles: tuple[int, ...] = ()
    random_order: bool = False

    @property
    def horizon(self) -> int:
        """Steps after which an episode is truncated."""
        return len(CELLS) * len(self.targets)

    @property
    def colours(self) -> tuple[str, ...]:
        """Names of the targets."""
        return COLOURS[: len(self.targets)]

    @cached_property
    def is_danger(self) -> Mask:
        """Which cells are dangerous [C]."""
        return np.isin(CELLS, self.danger)

    @cached_property
    def is_obstacle(self) -> Mask:
        """Which cells cannot be entered [C]."""
        return np.isin(CELLS, self.obstacles)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The cells where an episode may begin: neither target nor obstacle."""
        return np.setdiff1d(CELLS, self.targets + self.obstacles)

    @cached_property
    def reached(self) -> NDArray[np.int64]:
        """Where each action leads from each cell [C, 4]; an agent that runs into an obstacle stays."""
        return np.where(self.is_obstacle[AIMED], CELLS[:, None], AIMED)


def cheapest_ways(spec: RescueSpec) -> tuple[NDArray[np.float64], Mask]:
    """Cost of the cheapest way to each target from each cell [n, C], infinite where there is none; and how it begins.

    The latter is bool [n, C, 4], the actions that begin a cheapest way. At the target itself, and where there is no
    way, no action is better than another, and all are marked.
    """
    rows, targets = np.arange(len(spec.targets)), np.array(spec.targets)
    entering = np.where(spec.is_danger, _DANGER_COST, np.ones((len(rows), 1)))
    entering[rows, targets] = 1.0
    cost = np.full(entering.shape, np.inf)
    cost[rows, targets] = 0.0
    while True:  # sweeps over all cells until nothing falls any more
        ahead = np.where(spec.reached == CELLS[:, None], np.inf, (entering + cost)[:, spec.reached])  # [n, C, 4]
        better = np.where(spec.is_obstacle, np.inf, np.minimum(cost, ahead.min(axis=2)))
        if (better == cost).all():
            return cost, ((ahead == ahead.min(axis=2, keepdims=True)) | ~((cost > 0) & (cost < np.inf))[..., None])
        cost = better


_CORNERS = (0, 99)
_RUBBLE = (4, 5, 12, 15, 18, 23, 28, 31, 35, 36, 41, 42, 45, 48, 55, 58, 61, 62, 63, 70, 72, 76, 78, 88, 94, 95)
_FIXED = (
    RescueSpec("RescueWorld-n2", _CORNERS),
    RescueSpec("RescueWorld-n3", (*_CORNERS, 45)),
    RescueSpec("RescueWorld-n6", (11, 71, 46, 50, 73, 68), (20, 11, 82, 74, 37, 47, 67), _RUBBLE),
)
_RANDOM = tuple(replace(spec, name=f"{spec.name}-random", random_order=True) for spec in _FIXED)

SPECS: Final = {spec.name: spec for spec in (*_FIXED, *_RANDOM)}
