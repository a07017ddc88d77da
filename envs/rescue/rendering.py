"""Pictures of Rescue World from above, north at the top; they show what an annotator may see."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from preceptor.envs.rescue.specs import CELLS, SIZE, RescueSpec

_SIDE: Final = 400  # pixels

_INK = {
    "red": (214, 48, 49),
    "green": (39, 160, 80),
    "blue": (41, 110, 210),
    "purple": (142, 84, 190),
    "yellow": (240, 196, 25),
    "grey": (135, 140, 150),
}
_FLOOR, _LINE, _OBSTACLE, _DANGER = (250, 250, 248), (224, 226, 230), (68, 74, 84), (249, 195, 146)
_AGENT, _RIM = (24, 26, 32), (255, 255, 255)


def draw(spec: RescueSpec, cell: int, left: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A state as a picture, uint8 [400, 400, 3].

    Args:
        spec: The map.
        cell: Where the agent is: a dark disc.
        left: Which targets are left [n]: they are filled, and the others frames.
    """
    picture = Image.new("RGB", (_SIDE, _SIDE))
    pen, side = ImageDraw.Draw(picture), _SIDE / SIZE

    def box(number: int, inset: float = 0.0) -> tuple[float, float, float, float]:
        """The square of a cell, in pixels, so many cells within its edges."""
        x, y = divmod(number, SIZE)
        above = SIZE - 1 - y
        return (x + inset) * side, (above + inset) * side, (x + 1 - inset) * side - 1, (above + 1 - inset) * side - 1

    for number in CELLS.tolist():
        ground = _OBSTACLE if spec.is_obstacle[number] else _DANGER if spec.is_danger[number] else _FLOOR
        pen.rectangle(box(number), ground, _LINE)
    for number, colour, waits in zip(spec.targets, spec.colours, left, strict=True):
        pen.rectangle(box(number, 0.14), _INK[colour] if waits else None, _INK[colour], 3)
    pen.ellipse(box(cell, 0.21), _AGENT, _RIM, 2)
    return np.array(picture)
