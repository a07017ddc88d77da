"""Demonstrations as inference reads them: ragged, padded at the end, options unknown."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.halo.chain import Bools, Ints, inside
from ground.errors import UserError


@dataclass(frozen=True)
class Demonstrations:
    """N trajectories of up to T observations.

    Attributes:
        state: What was seen: ids int [N, T] for tabular policies, or features float [N, T, D] for neural ones.
        action: What was done there: int [N, T], or float [N, T, A] for continuous actions.
        acted: bool [N, T], whether anything was done; false at a terminal observation.
        lengths: Observations of each trajectory, int [N].

    Raises:
        UserError: If there is no demonstration, one has no action, or something in one is not a number.
    """

    state: NDArray[Any]
    action: NDArray[Any]
    acted: Bools
    lengths: Ints

    def __post_init__(self) -> None:
        real = self.inside
        if len(self.lengths) == 0:
            raise UserError("There are no demonstrations to learn from.", "record some: --demos 100")
        idle = np.flatnonzero(~(self.acted & real).any(1))
        if len(idle):
            raise UserError(
                f"{len(idle)} of {len(self.lengths)} demonstrations have no action, the first is number {idle[0]}.",
                "leave them out, or record them again: --demos 100",
            )
        for name, column, where in (("observation", self.state, real), ("action", self.action, real & self.acted)):
            bad = ~np.isfinite(column[where])
            if bad.any():
                raise UserError(
                    f"{int(bad.sum())} numbers of the demonstrations' {name}s are NaN or infinite.",
                    "record the demonstrations again: --demos 100",
                )

    @property
    def inside(self) -> Bools:
        """The steps [N, T] that are not padding."""
        return inside(self.lengths, self.acted.shape[1])
