"""What is in the kitchen, where its handles are and how they move, and what an observation says. Metres.

Places are those of FrankaKitchen-v1 (gymnasium-robotics 1.4): `site_xpos` of microhandle, kettle, light, slide,
hinge_site2, knob2 and knob4 with all joints at 0, and of end_effector after a reset. x is to the right, y away from the
robot, z up. Lines lead to where the same sites are at `OBS_ELEMENT_GOALS`, no shorter than .16 and no longer than
.39. Knobs turn about their own sites; their lines are what a finger on top of them does.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Handle(NamedTuple):
    """One of the seven things.

    Attributes:
        name: In the names of tasks and options.
        words: What to do with it, as an order.
        thing: What a scene calls it.
        site: Where its handle is at first.
        direction: In which it moves, of any length.
        length: Of its line.
    """

    name: str
    words: str
    thing: str
    site: tuple[float, float, float]
    direction: tuple[float, float, float]
    length: float


HANDLES: Final = (
    Handle("microwave", "open the microwave", "microwave", (-0.642, 0.492, 1.792), (-0.105, -0.341, 0.0), 0.36),
    Handle("kettle", "push the kettle to the back", "kettle", (-0.273, 0.348, 1.878), (0.039, 0.400, 0.001), 0.39),
    Handle("light", "turn on the light", "light switch", (-0.369, 0.616, 2.280), (-0.055, -0.003, 0.0), 0.16),
    Handle("slide", "slide the cabinet door open", "sliding cabinet", (-0.108, 0.607, 2.600), (0.370, 0.0, 0.0), 0.37),
    Handle(
        "hinge", "swing the cabinet door open", "hinged cabinet", (-0.526, 0.582, 2.600), (0.393, -0.187, 0.0), 0.39
    ),
    Handle("bottom", "turn on the bottom burner", "bottom burner", (-0.256, 0.640, 2.226), (1.0, 0.0, 0.0), 0.16),
    Handle("top", "turn on the top burner", "top burner", (-0.256, 0.640, 2.340), (1.0, 0.0, 0.0), 0.16),
)
NAMES: Final = tuple(handle.name for handle in HANDLES)
SITES: Final = np.array([handle.site for handle in HANDLES])  # [7, 3]
LENGTHS: Final = np.array([handle.length for handle in HANDLES])  # [7]
_WAYS: Final = np.array([handle.direction for handle in HANDLES])
DIRECTIONS: Final = _WAYS / np.linalg.norm(_WAYS, axis=1, keepdims=True)  # [7, 3], of length 1
LINES: Final = DIRECTIONS * LENGTHS[:, None]  # [7, 3], from where a handle is at first to its end

HOME: Final = np.array([-0.432, 0.119, 2.025])  # where the gripper is at first
LOWEST, HIGHEST = np.array([-1.0, -0.2, 1.5]), np.array([0.6, 0.9, 2.9])  # where it can go
CENTRE: Final = np.array([-0.25, 0.40, 2.20])  # from which it is seen

STEP: Final = np.array([0.03, 0.03, 0.03, 0.34])  # what an action of 1 does in a step; the last is of the grip
GRASP = 0.06  # distance to a handle within which a gripper that closes takes it
CLOSED = 0.5  # grip from which on the gripper is closed
DONE = 0.9  # share of its line behind which a handle is done

PLACE, GRIP, ATTACHED, SHARES, AWAY = slice(0, 3), 3, 4, slice(5, 12), slice(12, 33)  # of an observation
OBSERVATION_SIZE: Final = AWAY.stop
SEEN_PLACE, SEEN_AWAY = 3.0, 8.0  # by which lengths are multiplied in observations

Numbers = NDArray[np.floating]


def places(shares: Numbers) -> NDArray[np.float64]:
    """Where the handles are [N, 7, 3] that have moved along shares [N, 7] of their lines."""
    return SITES + shares[:, :, None] * LINES


def observation(place: Numbers, grip: Numbers, attached: NDArray[np.bool_], shares: Numbers) -> NDArray[np.float32]:
    """Observations float32 [N, 33]: the gripper's place [N, 3], its grip [N], whether a handle is attached [N], how far
    each handle is along its line [N, 7], and the way to each, whose tanh tells small ways best."""
    away = np.tanh(SEEN_AWAY * (places(shares) - place[:, None])).reshape(len(place), -1)
    columns = SEEN_PLACE * (place - CENTRE), grip[:, None], attached[:, None], shares, away
    return np.concatenate(columns, 1, dtype=np.float32)
