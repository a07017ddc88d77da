"""Pictures of Rescue World from above, north at the top; they show what an annotator may see."""

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from envs.rescue.specs import RescueSpec

SIDE: Final = 400  # pixels

_INK = {
    "red": (214, 48, 49),
    "green": (39, 160, 80),
    "blue": (41, 110, 210),
    "purple": (142, 84, 190),
    "yellow": (240, 196, 25),
    "grey": (135, 140, 150),
}
_FLOOR, _LINE, _OBSTACLE = (250, 250, 248), (224, 226, 230), (68, 74, 84)
_DANGER, _STRIPE = (255, 226, 196), (244, 164, 96)
_AGENT, _RIM = (24, 26, 32), (255, 255, 255)
_SQUARE, _FRAME, _DISC, _HALO = 0.36, 0.07, 0.24, 0.29  # half a target, its frame once found, agent, its rim; in cells


def draw(spec: RescueSpec, cell: int, left: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A state as a picture, uint8 [400, 400, 3].

    Args:
        spec: The map.
        cell: Where the agent is: a dark disc.
        left: Which targets are left [n]: they are filled, and the others frames.
    """
    picture = _map(spec, tuple(left.tolist())).copy()
    per_cell = SIDE / spec.size
    agent_x, agent_y = divmod(cell, spec.size)
    columns = slice(int(agent_x * per_cell), int(np.ceil((agent_x + 1) * per_cell)))
    rows = slice(SIDE - int(np.ceil((agent_y + 1) * per_cell)), SIDE - int(agent_y * per_cell))
    across = (np.arange(SIDE) + 0.5) / per_cell
    away = np.hypot(across[None, columns] - agent_x - 0.5, across[::-1, None][rows] - agent_y - 0.5)
    _paint(picture[rows, columns], _HALO - away, _RIM, per_cell)
    _paint(picture[rows, columns], _DISC - away, _AGENT, per_cell)
    return np.rint(picture).astype(np.uint8)


@lru_cache(maxsize=64)  # of a map there are as many as sets of targets; drawing one takes some hundredths of a second
def _map(spec: RescueSpec, left: tuple[bool, ...]) -> NDArray[np.float64]:
    """All but the agent, [400, 400, 3]; not to be changed."""
    per_cell = SIDE / spec.size
    across = (np.arange(SIDE) + 0.5) / per_cell
    x, y = across[None, :], across[::-1, None]  # the place of each pixel, in cells
    number = np.floor(x).astype(int) * spec.size + np.floor(y).astype(int)  # [SIDE, SIDE]
    picture = np.empty((SIDE, SIDE, 3))
    picture[:] = _FLOOR
    danger = spec.is_danger[number]
    picture[danger] = _DANGER
    picture[danger & ((x + y) % 0.5 < 0.18)] = _STRIPE
    to_line = np.maximum(np.abs(x % 1 - 0.5), np.abs(y % 1 - 0.5))
    picture[to_line > 0.5 - 1 / per_cell] = _LINE
    picture[spec.is_obstacle[number]] = _OBSTACLE
    for (target_x, target_y), colour, waits in zip(spec.targets, spec.colours, left, strict=True):
        away = np.maximum(np.abs(x - target_x - 0.5), np.abs(y - target_y - 0.5))
        within = _SQUARE - away
        shape = within if waits else np.minimum(within, _FRAME - within)
        _paint(picture, shape, _INK[colour], per_cell)
    return picture


def _paint(
    picture: NDArray[np.float64], inside: NDArray[np.float64], colour: tuple[int, int, int], per_cell: float
) -> None:
    """Lay a shape over the picture; `inside` is how far each pixel is inside of it, in cells. Its edge is smooth."""
    share = np.clip(inside * per_cell + 0.5, 0.0, 1.0)[..., None]
    picture += share * (np.array(colour) - picture)
