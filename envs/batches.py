"""What every batch of worlds has: a stream of level seeds, and a state that can be saved."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ground.errors import UserError
from ground.level_seeds import check_level_seeds, drawn_seeds, split_range


def wanted_levels(
    options: dict[str, Any] | None, num_envs: int, split: str, bounds: tuple[int, int] | None = None
) -> NDArray[np.int64] | None:
    """The level seeds [N] that `reset` of a batch was asked for in its options, None if in none.

    Raises:
        UserError: They are not one per world, or not of the split, or of the part of it within the bounds [low, high).
    """
    wanted = (options or {}).get("level_seeds")
    if wanted is None:
        return None
    seeds = np.ascontiguousarray(wanted, dtype=np.int64)
    if seeds.shape != (num_envs,):
        raise UserError(f"level_seeds must have shape ({num_envs},), one per world, not {seeds.shape}.")
    check_level_seeds(seeds, split, bounds)
    return seeds


class LevelStream:
    """Level seeds of the episodes of N worlds: those of episode e of world n depend on (seed, n, e) alone.

    Args:
        num_envs: N.
        split: `train` or `eval`.
        seed: Key of the stream.

    Attributes:
        episode: int64 [N], episodes begun whose level was drawn.
    """

    def __init__(self, num_envs: int, split: str, seed: int) -> None:
        self.split, self.seed = split, seed
        self.episode = np.zeros(num_envs, np.int64)

    def begin(self, seed: int | None, options: dict[str, Any] | None) -> NDArray[np.int64]:
        """What `reset` plays [N]: `options["level_seeds"]`, else the next ones; a seed restarts the stream under it.

        Raises:
            UserError: The wanted seeds are not one per world, or not of the split.
        """
        if seed is not None:
            self.seed, self.episode[:] = int(seed), 0
        wanted = wanted_levels(options, len(self.episode), self.split)
        return self.next(np.arange(len(self.episode))) if wanted is None else wanted

    def next(self, worlds: NDArray[np.int64]) -> NDArray[np.int64]:
        """Level seeds of the next episodes of some worlds, [M]."""
        drawn = drawn_seeds(self.seed, worlds, self.episode[worlds], *split_range(self.split))
        self.episode[worlds] += 1
        return drawn

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Where the stream is, as plain arrays."""
        return {"episode": self.episode.copy(), "seed": np.array(self.seed)}

    def set_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Go on from there."""
        self.episode[...] = state["episode"]
        self.seed = int(state["seed"])


def require_fit(state: dict[str, NDArray[Any]], own: dict[str, NDArray[Any]], worlds: str) -> None:
    """Raise `UserError` unless a saved state has the arrays of `own`, in the same shapes; `worlds` says of what."""
    for name, array in own.items():
        if name not in state or np.shape(state[name]) != array.shape:
            raise UserError(f"The saved state does not fit {worlds}: {name} differs.")
