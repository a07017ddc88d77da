"""Level seeds: which level an episode is played on. Those of training and of evaluation never meet.

They are drawn by splitmix64 (Steele, Lea & Flood, 2014), random numbers as a function of a counter, in compiled code:
neither NumPy's streams nor the order of environments can change which levels an environment is given.
"""

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from preceptor.ground.errors import UserError, unknown_name

SEEDS_PER_SPLIT: Final = 1_000_000
SPLITS: Final = {"train": 0, "eval": SEEDS_PER_SPLIT}  # first level seed of each

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # what the counter grows by
_MIX_A, _MIX_B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S11, _S27, _S30, _S31, _S32 = np.uint64(11), np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)


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
        raise UserError(f"Level seed {bad[0]} is not of the {split} split.", f"use level seeds {low} to {high - 1}")


def next_level(
    rng: np.random.Generator, options: dict[str, Any] | None, split: str, bounds: tuple[int, int] | None = None
) -> int:
    """Level seed of a single environment's next episode: `options["level_seed"]`, or one that is drawn.

    Raises:
        UserError: It is not of the split, or not of the part of it within the bounds [low, high).
    """
    wanted = (options or {}).get("level_seed")
    level_seed = int(rng.integers(*bounds or split_range(split)) if wanted is None else wanted)
    check_level_seeds(np.array([level_seed]), split, bounds)
    return level_seed


@njit(cache=True)
def mix(z: np.uint64) -> np.uint64:
    """The output function of splitmix64."""
    z = (z ^ (z >> _S30)) * _MIX_A
    z = (z ^ (z >> _S27)) * _MIX_B
    return z ^ (z >> _S31)


@njit(cache=True)
def combine(first: int, second: int) -> np.uint64:
    """One 64-bit key of two integers."""
    return mix(mix(np.uint64(first) + GOLDEN) ^ np.uint64(second))


@njit(cache=True)
def scale(bits: np.uint64, n: int) -> np.int64:
    """An integer in [0, n) from 64 random bits; the bias, n / 2**32, is below 0.03% for all our n."""
    return np.int64(((bits >> _S32) * np.uint64(n)) >> _S32)


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


@njit(cache=True)
def drawn_number(seed: int, count: int, row: int) -> np.int64:
    """An integer in [0, 2**53): what a row of numbers holds when its seed fills it for the given time."""
    return np.int64(mix(combine(combine(seed, count), row)) >> _S11)


@njit(cache=True)
def random_bits(level_seeds: NDArray[np.int64], count: int) -> NDArray[np.uint64]:
    """Random 64-bit integers [M, count], `count` from each of the level seeds [M]."""
    bits = np.empty((len(level_seeds), count), np.uint64)
    for i in range(len(level_seeds)):
        for j in range(count):
            bits[i, j] = mix(combine(level_seeds[i], j))
    return bits
