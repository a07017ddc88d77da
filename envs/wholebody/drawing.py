"""Pictures of the twin: from the side on the left, from above on the right."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from preceptor.envs.wholebody.body import CLEARANCE, TORSO, UPPER, hand_of

_SIDE, _SCALE = 320, 120.0  # pixels, and pixels per metre
_PAPER, _FLOOR, _TABLE, _OBJECT = (250, 250, 248), (200, 204, 210), (226, 214, 196), (214, 48, 49)
_BASE, _TORSO, _ARM = (68, 74, 84), (41, 110, 210), (39, 160, 80)  # the colours of the groups
_HALF, _WHEELS = 0.2, 0.08  # of the base: half its width, and its height


def draw(pose: NDArray[np.floating], posture: NDArray[np.floating], target: NDArray[np.floating]) -> NDArray[np.uint8]:
    """A state as a picture, uint8 [320, 640, 3].

    Args:
        pose: x, y and heading of the base.
        posture: Lift, pitch, shoulder, elbow and grip.
        target: Where the object is [3].
    """
    picture = Image.new("RGB", (2 * _SIDE, _SIDE), _PAPER)
    pen = ImageDraw.Draw(picture)
    _from_the_side(pen, posture, float(np.hypot(*(target[:2] - pose[:2]))), float(target[2]))
    _from_above(pen, pose, float(hand_of(posture[None])[0][0]), target)
    return np.array(picture)


def _from_the_side(pen: ImageDraw.ImageDraw, posture: NDArray[np.floating], distance: float, height: float) -> None:
    def at(x: float, z: float) -> tuple[float, float]:
        return 60 + _SCALE * x, _SIDE - 30 - _SCALE * z

    lift, pitch, shoulder, _, grip = posture.tolist()
    joint = TORSO * np.sin(pitch), lift + TORSO * np.cos(pitch)
    elbow = joint[0] + UPPER * np.cos(shoulder - pitch), joint[1] + UPPER * np.sin(shoulder - pitch)
    hand = tuple(float(part[0]) for part in hand_of(posture[None]))
    pen.line([at(-1, -_WHEELS), at(3, -_WHEELS)], _FLOOR, 3)
    pen.rectangle([at(distance - 0.06, height - 0.03), at(distance + 0.06, -_WHEELS)], _TABLE)
    pen.rectangle([at(-_HALF, 0), at(_HALF, -_WHEELS)], _BASE)
    pen.line([at(0, 0), at(0, lift), at(*joint)], _TORSO, 10)
    pen.line([at(*joint), at(*elbow), at(*hand)], _ARM, 7)
    _disc(pen, at(distance, height), 5, _OBJECT)
    _disc(pen, at(*hand), 9 - 5 * grip, None, _ARM)


def _from_above(
    pen: ImageDraw.ImageDraw, pose: NDArray[np.floating], hand: float, target: NDArray[np.floating]
) -> None:
    def at(x: float, y: float) -> tuple[float, float]:
        return _SIDE + 40 + 100 * x, _SIDE / 2 - 75 * y

    x, y, heading = pose.tolist()
    _disc(pen, at(*target[:2]), 75 * CLEARANCE, _TABLE)
    _disc(pen, at(x, y), 75 * _HALF, _BASE)
    pen.line([at(x, y), at(x + hand * np.cos(heading), y + hand * np.sin(heading))], _ARM, 5)
    _disc(pen, at(*target[:2]), 5, _OBJECT)


def _disc(
    pen: ImageDraw.ImageDraw,
    middle: tuple[float, float],
    radius: float,
    fill: tuple[int, int, int] | None,
    rim: tuple[int, int, int] | None = None,
) -> None:
    x, y = middle
    pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill, rim, 2)
