"""Pictures without a display: which library draws them.

MuJoCo picks its OpenGL library when it is imported, by `MUJOCO_GL`, and without it takes one that needs a display. So
the choice is made here, before the package's other modules import it.
"""

import ctypes
import ctypes.util
import importlib
import os
import sys
from functools import cache
from typing import NamedTuple

from preceptor.ground.errors import UserError

_INSTALL = "sudo apt-get install libegl1 libgl1-mesa-dri  # or libosmesa6"
_ASKED = "MUJOCO_GL says so"
_EGL_DEVICE, _MOST_DEVICES = 0x313F, 16


class Backend(NamedTuple):
    """What draws: `egl`, `osmesa`, `off` or what the user set `MUJOCO_GL` to; and in a sentence why."""

    name: str
    why: str


@cache
def choose_backend() -> Backend:
    """Decide what draws, and tell MuJoCo by `MUJOCO_GL`: the user's choice, else EGL, OSMesa, or nothing."""
    if chosen := os.environ.get("MUJOCO_GL"):
        return Backend(chosen.lower(), _ASKED)
    if not sys.platform.startswith("linux"):
        return Backend("native", "this is not Linux")
    found = "egl" if _egl_works() else "osmesa" if _osmesa_is_there() else None
    os.environ["MUJOCO_GL"] = found or "off"
    if "mujoco" in sys.modules:  # imported before, it has chosen for itself
        from mujoco.rendering.classic import gl_context

        importlib.reload(gl_context)
    if found:
        return Backend(found, "it works without a display")
    return Backend("off", "neither EGL with a device nor OSMesa is here")


def _egl_works() -> bool:
    """Whether some EGL device can be initialised, which is what MuJoCo does when it is imported."""
    name = ctypes.util.find_library("EGL")
    if name is None or os.environ.get("PYOPENGL_PLATFORM", "egl").lower() != "egl":
        return False
    try:
        egl = ctypes.CDLL(name)
    except OSError:
        return False
    pointer, egl.eglGetProcAddress.restype = ctypes.c_void_p, ctypes.c_void_p
    query, display_of = (egl.eglGetProcAddress(f) for f in (b"eglQueryDevicesEXT", b"eglGetPlatformDisplayEXT"))
    if not query or not display_of:
        return False
    devices, count = (pointer * _MOST_DEVICES)(), ctypes.c_int()
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
    name, why = choose_backend()
    how = f"{name} was chosen because {why}, and then: {str(error).rstrip('.')}"
    next_step = "unset MUJOCO_GL  # then what is here is chosen" if why == _ASKED else _INSTALL
    return UserError(f"{what} cannot be drawn here: {how}.", next_step)
