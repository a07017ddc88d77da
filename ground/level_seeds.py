"""Level seeds: which level an episode is played on. Those of training and of evaluation never meet."""

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ground.errors import UserError, unknown_name
from ground.splitmix import GOLDEN, combine, mix, scale

SEEDS_PER_SPLIT: Final = 1_000_000
SPLITS: Final = {"train": 0, "eval": SEEDS_PER_SPLIT}  # first level seed of each


def split_range(split: str) -> tuple[int, int]:
    """First level seed of a split and the one after its last. Raises `UserError` for an unknown split."""
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    return SPLITS[split], SPLITS[split] + SEEDS_PER_SPLIT


def split_of(level_seed: int) -> str:
    """The split that a level seed belongs to."""
    return "train" if level_seed < SEEDS_PER_SPLIT else "eval"


def check_level_seeds(seeds: NDArray[np.int64], split: str, bounds: tuple[int, int] | None = None) -> None:
    """Raise `UserError` unless every level seed is of the split, or of the part of it within the bounds [low, high)."""
    low, high = bounds or split_range(split)
    bad = seeds[(seeds < low) | (seeds >= high)]
    if bad.size:
        raise UserError(
            f"Level seed {int(bad[0])} is not of the {split} split, whose seeds are {low} to {high - 1}.",
            "use seeds below 1,000,000 for training and from 1,000,000 on for evaluation",
        )


def next_level(rng: np.random.Generator, options: dict[str, Any] | None, split: str) -> int:
    """Level seed of a single environment's next episode: `options["level_seed"]`, or one that is drawn in the split.

    Raises:
        UserError: It is not of the split.
    """
    wanted = (options or {}).get("level_seed")
    level_seed = int(rng.integers(*split_range(split)) if wanted is None else wanted)
    check_level_seeds(np.array([level_seed]), split)
    return level_seed


@njit(cache=True)
def drawn_seed(seed: int, env: int, episode: int, low: int, high: int) -> int:
    """Level seed in [low, high) of the given episode of the given environment."""
    return low + scale(mix(combine(seed, env) + np.uint64(episode + 1) * GOLDEN), high - low)


@njit(cache=True)
def drawn_seeds(
    seed: int, envs: NDArray[np.int64], episodes: NDArray[np.int64], low: int, high: int
) -> NDArray[np.int64]:
    """`drawn_seed` [M] of several environments [M] and the episode [M] of each."""
    drawn = np.empty(len(envs), np.int64)
    for i in range(len(envs)):
        drawn[i] = drawn_seed(seed, envs[i], episodes[i], low, high)
    return drawn
