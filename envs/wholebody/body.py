"""The body of both robots: what is observed of it, where its hand is, and what an episode is rewarded for.

A base that drives and turns, a torso that is lifted and pitched, an arm of two links in the vertical plane of the
heading, and a gripper. Metres and radians; x is forward, y left, z up, seen from the base.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating]

ACTION_NAMES: Final = ("forward", "left", "turn", "lift", "pitch", "shoulder", "elbow", "grip")
STEP: Final = np.array([0.06, 0.06, 0.15, 0.05, 0.10, 0.18, 0.18, 0.34])  # what an action of 1 does in a step
BASE, POSTURE = slice(0, 3), slice(3, 8)  # of an action; posture is lift, pitch, shoulder, elbow, grip
# Of the posture: 0 is down, upright, forward, straight, open.
LOW: Final = np.array([0.0, 0.0, -1.2, -2.4, 0.0])
HIGH: Final = np.array([0.9, 0.8, 2.4, 0.0, 1.0])

TORSO, UPPER, FORE = 0.40, 0.35, 0.30  # lengths of the links
CLEARANCE = 0.40  # the base comes no closer to the object: a table is in the way

OBSERVATION_NAMES: Final = (
    *("object x", "object y", "object z", "distance", "bearing"),
    *("lift", "pitch", "shoulder", "elbow", "grip"),
    *("object from hand x", "object from hand y", "object from hand z"),
    *("stood", "postured", "reached", "time"),
)
OBJECT, DISTANCE, BEARING, BODY, OFFSET, FLAGS = slice(0, 3), 3, 4, slice(5, 10), slice(10, 13), slice(13, 16)
GRIP = 9
SEEN_OFFSET = 2.0  # by which the way from hand to object is multiplied in observations

STAND, POSTURED, REACH, GRASP = range(4)  # the stages, and the options that end them
STANDOFF, AWAY, ASIDE = 0.58, 0.12, 0.2  # of standing well: distance, its tolerance, and that of the bearing
CROOKED = 0.1  # tolerance of lift and pitch
NEAR, LOST, OPEN = 0.06, 0.09, 0.6  # the hand is there; it is so no more; a gripper that is less closed is open
_BONUS = 0.25  # for standing and for the posture, once each


def hand_of(posture: Numbers) -> tuple[Numbers, Numbers]:
    """x and z [N] of the hand for postures [N, 5]."""
    lift, pitch, shoulder, elbow = posture[:, :4].T
    upper, fore = shoulder - pitch, shoulder - pitch + elbow
    x = TORSO * np.sin(pitch) + UPPER * np.cos(upper) + FORE * np.cos(fore)
    z = lift + TORSO * np.cos(pitch) + UPPER * np.sin(upper) + FORE * np.sin(fore)
    return x, z


def joints_for(x: Numbers, z: Numbers, posture: Numbers) -> tuple[Numbers, Numbers]:
    """Shoulder and elbow [N] that bring the hand to x and z [N], or as near as the arm is long."""
    lift, pitch = posture[:, 0], posture[:, 1]
    ahead, above = x - TORSO * np.sin(pitch), z - lift - TORSO * np.cos(pitch)
    reach = np.clip(np.hypot(ahead, above), 1e-6, UPPER + FORE)
    bend = np.arccos(np.clip((UPPER**2 + FORE**2 - reach**2) / (2 * UPPER * FORE), -1, 1))
    inner = np.arccos(np.clip((UPPER**2 + reach**2 - FORE**2) / (2 * UPPER * reach), -1, 1))
    return np.arctan2(above, ahead) + inner + pitch, bend - np.pi


def driven(heading: Numbers, actions: Numbers) -> Numbers:
    """How far actions [N, 8] move a base of some heading [N] in the world: x, y and the turn [N, 3]."""
    forward, left, turn = (np.clip(actions, -1, 1) * STEP)[:, BASE].T
    cos, sin = np.cos(heading), np.sin(heading)
    return np.stack([cos * forward - sin * left, sin * forward + cos * left, turn], 1)


def seen_from(pose: Numbers, place: Numbers) -> Numbers:
    """Places [N, 3] in the world as seen from bases of poses x, y and heading [N, 3]."""
    (x, y), (cos, sin) = (place - pose)[:, :2].T, (np.cos(pose[:, 2]), np.sin(pose[:, 2]))
    return np.stack([cos * x + sin * y, cos * y - sin * x, place[:, 2]], 1)


def wanted_torso(height: Numbers) -> tuple[Numbers, Numbers]:
    """Lift and pitch [N] for an object at a height [N]."""
    return np.clip(height - 0.45, 0.0, 0.8), np.clip(0.9 - (height - 0.35), 0.0, 0.7)


def observation(place: Numbers, posture: Numbers, flags: NDArray[np.bool_], time: Numbers) -> NDArray[np.float32]:
    """Observations float32 [N, 17]: object seen from the base [N, 3], posture [N, 5], flags [N, 3], time t / T [N]."""
    x, z = hand_of(posture)
    distance, bearing = np.hypot(place[:, 0], place[:, 1]), np.arctan2(place[:, 1], place[:, 0])
    offset = place - np.stack([x, np.zeros_like(x), z], 1)
    columns = place, distance, bearing, posture, SEEN_OFFSET * offset, flags, time
    return np.concatenate([np.reshape(column, (len(place), -1)) for column in columns], 1).astype(np.float32)


def progress(obs: Numbers, flags: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Move the flags [N, 3] on, in place, after observations [N, 17]; the reward [N] for it, without that of success.

    To stand well and to have the posture count once, one after the other. The hand is there once it came near with an
    open gripper, until it drifts away.
    """
    before = flags[:, :2].copy()
    off = np.linalg.norm(obs[:, OFFSET], axis=1) / SEEN_OFFSET
    stands = (np.abs(obs[:, DISTANCE] - STANDOFF) < AWAY) & (np.abs(obs[:, BEARING]) < ASIDE)
    flags[:, 0] |= stands
    torso = np.stack(wanted_torso(obs[:, 2]), 1)
    flags[:, 1] |= flags[:, 0] & (np.abs(obs[:, BODY][:, :2] - torso) < CROOKED).all(1)
    comes = flags[:, 1] & (off < NEAR) & (obs[:, GRIP] < OPEN)
    flags[:, 2] = comes | (flags[:, 2] & (off < LOST))
    return _BONUS * (flags[:, :2] & ~before).sum(1)
