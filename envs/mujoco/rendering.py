"""Pictures without a display: which library draws them, and a camera above the maze.

MuJoCo picks its OpenGL library when it is imported, by `MUJOCO_GL`, and without it takes one that needs a display. So
the choice is made here, before the package's other modules import it.
"""

import ctypes
import ctypes.util
import importlib
import os
import sys
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ground.errors import UserError

if TYPE_CHECKING:
    import mujoco

_INSTALL = "sudo apt-get install libegl1 libgl1-mesa-dri  # or libosmesa6"
_ASKED = "MUJOCO_GL says so"
_EGL_DEVICE, _MOST_DEVICES = 0x313F, 16
_SIDE = 480  # pixels of a picture


@dataclass(frozen=True)
class Backend:
    """What draws.

    Attributes:
        name: `egl`, `osmesa`, `off`, or what the user set `MUJOCO_GL` to.
        why: How that came about, in a sentence.
    """

    name: str
    why: str


@cache
def choose_backend() -> Backend:
    """Decide what draws, and tell MuJoCo by `MUJOCO_GL`: the user's choice, else EGL, OSMesa, or nothing."""
    chosen = os.environ.get("MUJOCO_GL")
    if chosen:
        return Backend(chosen.lower(), _ASKED)
    if not sys.platform.startswith("linux"):
        return Backend("native", "this is not Linux")
    for name, look in (("egl", _egl_works), ("osmesa", _osmesa_is_there)):
        if look():
            return _settle(Backend(name, "it works without a display"))
    return _settle(Backend("off", "neither EGL with a device nor OSMesa is here"))


def _settle(backend: Backend) -> Backend:
    os.environ["MUJOCO_GL"] = backend.name
    if "mujoco" in sys.modules:  # someone imported it before, and it has chosen for itself
        from mujoco.rendering.classic import gl_context

        importlib.reload(gl_context)
    return backend


def _egl_works() -> bool:
    """Whether some EGL device can be initialised, which is what MuJoCo does when it is imported."""
    name = ctypes.util.find_library("EGL")
    if name is None or os.environ.get("PYOPENGL_PLATFORM", "egl").lower() != "egl":
        return False
    try:
        egl = ctypes.CDLL(name)
    except OSError:
        return False
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    query, display_of = (egl.eglGetProcAddress(f) for f in (b"eglQueryDevicesEXT", b"eglGetPlatformDisplayEXT"))
    if not query or not display_of:
        return False
    devices, count = (ctypes.c_void_p * _MOST_DEVICES)(), ctypes.c_int()
    pointer = ctypes.c_void_p
    ask = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, pointer, pointer)(query)
    if not ask(_MOST_DEVICES, ctypes.cast(devices, pointer), ctypes.cast(ctypes.byref(count), pointer)):
        return False
    show = ctypes.CFUNCTYPE(pointer, ctypes.c_uint, pointer, pointer)(display_of)
    egl.eglInitialize.argtypes = [pointer, pointer, pointer]
    displays = (show(_EGL_DEVICE, device, None) for device in devices[: count.value])
    return any(display and egl.eglInitialize(display, None, None) for display in displays)


def _osmesa_is_there() -> bool:
    return ctypes.util.find_library("OSMesa") is not None


def undrawable(what: str, error: Exception) -> UserError:
    """The error that says why something cannot be drawn here, and what to do."""
    backend = choose_backend()
    how = f"{backend.name} was chosen because {backend.why}, and then: {str(error).rstrip('.')}"
    next_step = "unset MUJOCO_GL  # then what is here is chosen" if backend.why == _ASKED else _INSTALL
    return UserError(f"{what} cannot be drawn here: {how}.", next_step)


@dataclass(frozen=True)
class Marker:
    """A disc over the picture: `at` (x, y, ...) in metres, its radius, its colour as red, green, blue, opacity."""

    at: NDArray[np.floating]
    radius: float
    colour: tuple[float, float, float, float]


class Painter:
    """Draws states of one model from the camera above it.

    Args:
        model: The model.

    Raises:
        UserError: Nothing here can draw.
    """

    def __init__(self, model: "mujoco.MjModel") -> None:
        import mujoco

        from envs.mujoco.model import CAMERA

        try:
            self._renderer = mujoco.Renderer(model, _SIDE, _SIDE)
        except (AttributeError, ImportError, RuntimeError, mujoco.FatalError) as error:
            raise undrawable("Mazes", error) from error
        light = model.vis.headlight
        light.ambient[:], light.diffuse[:], light.specular[:] = 0.6, 0.4, 0.0
        self._model = model
        camera = model.camera(CAMERA)
        self._middle, self._scale = camera.pos[:2], _SIDE / float(camera.fovy[0])  # pixels per metre

    def draw(self, data: "mujoco.MjData", markers: list[Marker]) -> NDArray[np.uint8]:
        """The state from above with markers on it, uint8 [480, 480, 3]; the state's numbers stay what they are."""
        import mujoco

        from envs.mujoco.model import CAMERA

        shown = mujoco.MjData(self._model)  # forward kinematics on the state itself would move its warm start
        shown.qpos[:] = data.qpos
        mujoco.mj_kinematics(self._model, shown)
        mujoco.mj_camlight(self._model, shown)
        self._renderer.update_scene(shown, camera=CAMERA)
        self._renderer.scene.nlight = 1  # the camera's own: a plan needs no shadows
        picture = Image.fromarray(self._renderer.render()).convert("RGBA")
        for marker in markers:  # as discs: the camera looks straight down, and without perspective
            x, y = (np.asarray(marker.at[:2]) - self._middle) * self._scale
            column, row, radius = picture.width / 2 + x, picture.height / 2 - y, marker.radius * self._scale
            disc = Image.new("RGBA", picture.size)
            fill = tuple(round(255 * share) for share in marker.colour)
            ImageDraw.Draw(disc).ellipse((column - radius, row - radius, column + radius - 1, row + radius - 1), fill)
            picture.alpha_composite(disc)
        return np.array(picture.convert("RGB"))

    def close(self) -> None:
        """Free the drawing context."""
        self._renderer.close()
