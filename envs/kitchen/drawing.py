"""Pictures of the kinematic kitchen: from the front on the left, from above on the right."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from preceptor.envs.kitchen.layout import DONE, GRASP, HANDLES, LINES, LOWEST, SITES

_SIDE, _SCALE = 320, 185.0  # pixels, and pixels per metre
_PAPER, _LINE, _TODO, _DONE, _HAND, _WORDS = "#fafaf8", "#c8ccd2", "#d63031", "#27a050", "#444a54", "#82868e"


def draw(place: NDArray[np.floating], grip: float, shares: NDArray[np.floating], held: int) -> NDArray[np.uint8]:
    """A state as a picture, uint8 [320, 640, 3].

    Args:
        place: Where the gripper is [3].
        grip: From 0, open, to 1.
        shares: How far each handle is along its line [7].
        held: The handle that is attached, -1 for none.
    """
    picture = Image.new("RGB", (2 * _SIDE, _SIDE), _PAPER)
    pen = ImageDraw.Draw(picture)
    for panel, axis in enumerate((2, 1)):  # what is up: z, or y
        corner = np.array([panel * _SIDE + 12.0, _SIDE - 20.0])

        def at(points: NDArray[np.floating], axis: int = axis, corner: NDArray[np.floating] = corner) -> NDArray:
            return corner + _SCALE * (points - LOWEST)[..., [0, axis]] * (1, -1)

        starts, ends, handles = at(SITES), at(SITES + LINES), at(SITES + shares[:, None] * LINES)
        for k, handle in enumerate(HANDLES):
            pen.line([*starts[k], *ends[k]], _LINE, 4)
            _disc(pen, handles[k], 7 if k == held else 5, _DONE if shares[k] > DONE else _TODO)
            if axis == 2:
                pen.text((ends[k][0] - 6, ends[k][1] + 5), handle.name, _WORDS)
        _disc(pen, at(place), _SCALE * GRASP * (1 - 0.6 * grip), None, _HAND)
    return np.array(picture)


def _disc(
    pen: ImageDraw.ImageDraw, middle: NDArray[np.floating], radius: float, fill: str | None, rim: str | None = None
) -> None:
    x, y = middle
    pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill, rim, 2)
