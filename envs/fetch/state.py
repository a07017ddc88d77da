"""What an observation says: positions, whether the gripper holds the block, whether the block is at its goal."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Obs = NDArray[np.floating]

_AXES: Final = ("x", "y", "z")


def _along(thing: str) -> tuple[str, ...]:
    return tuple(f"{thing} {axis}" for axis in _AXES)


# As Gymnasium-Robotics has them, and the goal behind. Metres and radians; velocities are per step of 0.04 s.
OBSERVATION_NAMES: Final = (
    *_along("gripper"),
    *_along("block"),
    *_along("block from gripper"),
    *("right finger", "left finger"),
    *_along("block turned about"),
    *_along("block velocity from gripper"),
    *_along("block spin"),
    *_along("gripper velocity"),
    *("right finger velocity", "left finger velocity"),
    *_along("goal"),
)
GRIPPER, BLOCK, OFFSET, FINGERS, GOAL = slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 11), slice(25, 28)
_SIZES: Final = ((OFFSET, 0.05), (FINGERS, 0.05), (slice(11, 14), 1.0), (slice(14, 25), 0.02))
REACH: Final = 0.15  # metres: half the side of the square in which the original puts blocks and goals

# Stages of a grasp, from the gripper's point of view.
STAGES: Final = ("away", "above", "around", "holding")
AWAY, ABOVE, AROUND, HOLDING = range(len(STAGES))

# All in metres. The block is a cube of 5 cm; the fingers are 10 cm apart when open, and 4.8 cm when they hold it.
NEAR: Final = 0.02  # between the middle of the gripper and that of the block
OPEN: Final = 0.07
_FIRM: Final = 0.055
_CEILING: Final = 0.09
_AT_GOAL: Final = 0.04  # the original's threshold is 5 cm: a centimetre is left for what still moves


def observation_scale() -> tuple[float, ...]:
    """Natural size of each of the 28 dimensions."""
    scale = np.full(len(OBSERVATION_NAMES), REACH)
    for where, size in _SIZES:
        scale[where] = size
    return tuple(scale.tolist())


def stages(obs: Obs) -> NDArray[np.int64]:
    """Stage of the grasp [N] in observations [N, 28].

    `holding`: the fingers are closed upon the block; `around`: the block is between them; `above`: they are open, and
    over it, so that the gripper can go straight down; `away`: none of these.
    """
    offset, apart = obs[:, OFFSET], opening(obs)
    around = np.linalg.norm(offset, axis=1) < NEAR
    over = (np.linalg.norm(offset[:, :2], axis=1) < NEAR) & (offset[:, 2] < 0) & (offset[:, 2] > -_CEILING)
    return np.select([around & (apart < _FIRM), around, over & (apart > OPEN)], [HOLDING, AROUND, ABOVE], AWAY)


def opening(obs: Obs) -> NDArray[np.floating]:
    """How far the fingers are apart [N], in metres."""
    return obs[:, FINGERS].sum(axis=1)


def at_goal(obs: Obs) -> NDArray[np.bool_]:
    """Whether the block is within 4 cm of its goal [N]."""
    return np.linalg.norm(obs[:, GOAL] - obs[:, BLOCK], axis=1) < _AT_GOAL
