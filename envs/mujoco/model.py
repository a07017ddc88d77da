"""From a maze's map to a MuJoCo model: the robot, walls, platforms, the movable block; and pictures of it from above.

The ant is Gymnasium's own `ant.xml`, edited here; with these edits its physics equals that of HIRO's ant to the bit.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from preceptor.envs.mujoco.mazes import SOLID_GROUND, TIMESTEP, WALL, Block, MazeSpec
from preceptor.envs.mujoco.rendering import undrawable

CAMERA = "above"
_ANT = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "ant.xml"
_SOLID = {"type": mujoco.mjtGeom.mjGEOM_BOX, "contype": 1, "conaffinity": 1}
_DARK, _GREY, _PALE, _RED = (0.15, 0.15, 0.2, 1), (0.4, 0.4, 0.4, 1), (0.9, 0.9, 0.9, 1), (0.9, 0.1, 0.1, 1)
_SIDE = 480  # pixels of a picture


def make_model(spec: MazeSpec) -> mujoco.MjModel:
    """The compiled model of a maze, whose simulator never resets itself when it fails."""
    model = make_plan(spec).compile()
    flags = mujoco.mjtDisableBit
    # Bounding volumes within a body only cost time where its geoms are a few boxes; the contacts are the same.
    model.opt.disableflags |= flags.mjDSBL_AUTORESET | flags.mjDSBL_MIDPHASE
    return model


def make_plan(spec: MazeSpec) -> mujoco.MjSpec:
    """The model before it is compiled."""
    plan = _ant() if spec.robot.name == "ant" else _point(spec)
    world, half, height = plan.worldbody, spec.cell / 2, spec.height
    plan.body("torso").pos = (0, 0, spec.start_height)
    if spec.elevated:
        plan.geom("floor").rgba = _DARK
    kinds = [("platform", SOLID_GROUND, 0.0, _PALE)] if spec.elevated else []
    for kind, codes, base, colour in (*kinds, ("wall", WALL, height * spec.elevated, _GREY)):
        for row, column in spec.cells(codes):
            box = {"pos": (*spec.centre(row, column), base + height / 2), "size": (half, half, height / 2)}
            world.add_geom(name=f"{kind}_{row}_{column}", rgba=colour, **box, **_SOLID)
    if spec.block:
        _add_block(spec, spec.block, world.add_body(name="block", pos=list(spec.block_home.values())))
    for geom in plan.geoms:
        geom.solimp[:3] = (0.995, 0.995, 0.01) if spec.block else (0.8, 0.8, 0.01)
    rows, columns = len(spec.layout), len(spec.layout[0])
    middle = np.mean([spec.centre(0, 0), spec.centre(rows - 1, columns - 1)], axis=0)
    above = world.add_camera(name=CAMERA, pos=(*middle, 10 * height), fovy=spec.cell * max(rows, columns))
    above.proj = mujoco.mjtProjection.mjPROJ_ORTHOGRAPHIC
    return plan


def _ant() -> mujoco.MjSpec:
    """Gymnasium's ant with HIRO's time step and motors, on a floor without a pattern."""
    plan = mujoco.MjSpec.from_file(str(_ANT))
    plan.geom("floor").material = ""
    plan.option.timestep = TIMESTEP
    for motor in plan.actuators:
        motor.gear[0], motor.ctrlrange = 1, (-30, 30)
    return plan


def _point(spec: MazeSpec) -> mujoco.MjSpec:
    """A ball of 1 kg that slides without friction, and falls only where there is a chasm."""
    # On level ground nothing moves up or down, so the floor matters only by its friction with a block.
    matters = int(spec.elevated or (spec.block is not None and not spec.block.frictionless))
    plan = mujoco.MjSpec.from_string(f"""<mujoco model="point">
        <option timestep="{TIMESTEP}"/>
        <default><geom condim="1" conaffinity="0" margin="0.01" density="5" friction="1 .5 .5"/></default>
        <worldbody>
            <light directional="true" dir="-.2 .3 -1" pos="0 0 30" diffuse=".7 .7 .7"/>
            <geom name="floor" type="plane" size="40 40 40" rgba="0.8 0.9 0.8 1"
                contype="{matters}" conaffinity="{matters}"/>
            <body name="torso">
                <geom name="torso" size="{spec.robot.height}" mass="1" rgba="0.2 0.4 0.8 1"/>
            </body>
        </worldbody>
        <actuator>
            <motor joint="x" gear="6" ctrllimited="true" ctrlrange="-1 1"/>
            <motor joint="y" gear="6" ctrllimited="true" ctrlrange="-1 1"/>
        </actuator>
    </mujoco>""")
    for axis in spec.robot.positions:
        joint = _add_slide(plan.body("torso"), axis, axis, damping=0 if axis == "z" else 2)
        joint.ref = spec.start_height if axis == "z" else 0
    return plan


def _add_block(spec: MazeSpec, block: Block, body: Any) -> None:
    half, height = spec.cell / 2 * block.shrink, spec.height
    geom = body.add_geom(name="block", size=(half, half, height / 2), mass=block.mass, rgba=_RED, **_SOLID)
    geom.condim = 1 if block.frictionless else 3
    geom.priority = int(block.frictionless)  # else the other geom of a contact brings friction back
    limits = {"x": None, "y": None} if spec.block_axes == "xy" else {"y": (-spec.cell, spec.cell), "z": (-height, 0.0)}
    for axis, limit in limits.items():
        joint = _add_slide(body, f"block_{axis}", axis, block.damping)
        joint.armature, joint.margin = 0, 0.01
        joint.limited, joint.range = limit is not None, limit or (0, 0)


def _add_slide(body: Any, name: str, axis: str, damping: float) -> Any:
    direction = np.array(list("xyz")) == axis
    return body.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=direction, damping=(damping, 0, 0))


class Disc(NamedTuple):
    """A mark over the picture: `at` (x, y, ...) in metres, its radius, its colour as red, green, blue, opacity."""

    at: NDArray[np.floating]
    radius: float
    colour: tuple[int, int, int, int]


class Painter:
    """Draws states of one model from the camera above it. Raises `UserError` if nothing here can draw."""

    def __init__(self, model: mujoco.MjModel) -> None:
        try:
            self._renderer = mujoco.Renderer(model, _SIDE, _SIDE)
        except (AttributeError, ImportError, RuntimeError, mujoco.FatalError) as error:
            raise undrawable("Mazes", error) from error
        light = model.vis.headlight
        light.ambient[:], light.diffuse[:], light.specular[:] = 0.6, 0.4, 0.0
        self._model = model
        camera = model.camera(CAMERA)
        self._middle, self._scale = camera.pos[:2], _SIDE / float(camera.fovy[0])  # pixels per metre

    def draw(self, data: mujoco.MjData, discs: Sequence[Disc]) -> NDArray[np.uint8]:
        """The state from above with discs on it, uint8 [480, 480, 3]; the state's numbers stay what they are."""
        shown = mujoco.MjData(self._model)  # forward kinematics on the state itself would move its warm start
        shown.qpos[:] = data.qpos
        mujoco.mj_kinematics(self._model, shown)
        mujoco.mj_camlight(self._model, shown)
        self._renderer.update_scene(shown, camera=CAMERA)
        self._renderer.scene.nlight = 1  # the camera's own: a plan needs no shadows
        picture = Image.fromarray(self._renderer.render()).convert("RGBA")
        for at, size, colour in discs:  # the camera looks straight down, and without perspective
            x, y = (np.asarray(at[:2]) - self._middle) * self._scale
            column, row, radius = _SIDE / 2 + x, _SIDE / 2 - y, size * self._scale
            layer = Image.new("RGBA", picture.size)
            ImageDraw.Draw(layer).ellipse(
                (column - radius, row - radius, column + radius - 1, row + radius - 1), colour
            )
            picture.alpha_composite(layer)
        return np.array(picture.convert("RGB"))

    def close(self) -> None:
        """Free the drawing context."""
        self._renderer.close()
