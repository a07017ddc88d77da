"""From a maze's map to a MuJoCo model: the robot, walls, platforms, the movable block, a camera above it all.

The ant is Gymnasium's own `ant.xml`, edited here; with these edits its physics equals that of HIRO's ant to the bit.
"""

import xml.etree.ElementTree as ET
from functools import cache
from pathlib import Path

import gymnasium
import mujoco

from envs.mujoco.mazes import SOLID_GROUND, TIMESTEP, WALL, Block, MazeSpec

CAMERA = "above"
_ANT = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "ant.xml"
_SOLIMP, _SOLIMP_WITH_BLOCKS = ".8 .8 .01", ".995 .995 .01"
_SOLID = {"type": "box", "contype": "1", "conaffinity": "1"}
_DARK, _GREY, _PALE, _RED = "0.15 0.15 0.2 1", "0.4 0.4 0.4 1", "0.9 0.9 0.9 1", "0.9 0.1 0.1 1"


def make_model(spec: MazeSpec) -> mujoco.MjModel:
    """The compiled model of a maze, whose simulator never resets itself when it fails."""
    model = mujoco.MjModel.from_xml_string(model_xml(spec))
    flags = mujoco.mjtDisableBit
    # Bounding volumes within a body only cost time where its geoms are a few boxes; the contacts are the same.
    model.opt.disableflags |= flags.mjDSBL_AUTORESET | flags.mjDSBL_MIDPHASE
    return model


@cache
def model_xml(spec: MazeSpec) -> str:
    """The maze in MuJoCo's own language."""
    root = _ant_tree() if spec.robot.name == "ant" else _point_tree(spec)
    geom = _find(root, "default/geom")
    geom.set("solimp", _SOLIMP_WITH_BLOCKS if spec.block else _SOLIMP)
    world = _find(root, "worldbody")
    _find(world, "body[@name='torso']").set("pos", _numbers(0, 0, spec.start_height))
    _build(spec, world)
    return ET.tostring(root, encoding="unicode")


def _ant_tree() -> ET.Element:
    """Gymnasium's ant with HIRO's time step and motors, on a floor without a pattern."""
    root = ET.parse(_ANT).getroot()
    _find(root, "worldbody/geom[@name='floor']").attrib.pop("material")
    _find(root, "option").set("timestep", str(TIMESTEP))
    for motor in root.iterfind("actuator/motor"):
        motor.set("gear", "1")
        motor.set("ctrlrange", "-30 30")
    return root


def _point_tree(spec: MazeSpec) -> ET.Element:
    """A ball of 1 kg that slides without friction, and falls only where there is a chasm."""
    # On level ground nothing moves up or down, so the floor matters only by its friction with a block.
    matters = int(spec.elevated or (spec.block is not None and not spec.block.frictionless))
    free = {"x": 'damping="2"', "y": 'damping="2"', "z": f'damping="0" ref="{spec.start_height}"'}
    joints = [f'<joint name="{a}" type="slide" axis="{_axis(a)}" {free[a]}/>' for a in spec.robot.positions]
    motors = [f'<motor joint="{axis}" gear="6" ctrllimited="true" ctrlrange="-1 1"/>' for axis in "xy"]
    return ET.fromstring(f"""<mujoco model="point">
        <option timestep="{TIMESTEP}"/>
        <default><geom condim="1" conaffinity="0" margin="0.01" density="5" friction="1 .5 .5"/></default>
        <worldbody>
            <light directional="true" dir="-.2 .3 -1" pos="0 0 30" diffuse=".7 .7 .7"/>
            <geom name="floor" type="plane" size="40 40 40" rgba="0.8 0.9 0.8 1"
                contype="{matters}" conaffinity="{matters}"/>
            <body name="torso">
                {"".join(joints)}<geom name="torso" size="{spec.robot.height}" mass="1" rgba="0.2 0.4 0.8 1"/>
            </body>
        </worldbody>
        <actuator>{"".join(motors)}</actuator>
    </mujoco>""")


def _build(spec: MazeSpec, world: ET.Element) -> None:
    """Add what the map says."""
    half, height = spec.cell / 2, spec.height
    ground = height if spec.elevated else 0.0
    size = _numbers(half, half, height / 2)
    if spec.elevated:
        _find(world, "geom[@name='floor']").set("rgba", _DARK)
    kinds = [("platform", SOLID_GROUND, 0.0, _PALE)] if spec.elevated else []
    for kind, codes, base, colour in (*kinds, ("wall", WALL, ground, _GREY)):
        for row, column in spec.cells(codes):
            pos = _numbers(*spec.centre(row, column), base + height / 2)
            ET.SubElement(world, "geom", _SOLID, name=f"{kind}_{row}_{column}", pos=pos, size=size, rgba=colour)
    if spec.block:
        _add_block(spec, spec.block, ET.SubElement(world, "body", name="block", pos=_numbers(*spec.block_home)))
    rows, columns = len(spec.layout), len(spec.layout[0])
    low, high = spec.centre(0, 0), spec.centre(rows - 1, columns - 1)
    middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    camera = {"projection": "orthographic", "fovy": str(spec.cell * max(rows, columns)), "xyaxes": "1 0 0 0 1 0"}
    ET.SubElement(world, "camera", camera, name=CAMERA, pos=_numbers(*middle, 10 * height))


def _add_block(spec: MazeSpec, block: Block, body: ET.Element) -> None:
    half, height = spec.cell / 2, spec.height
    size = _numbers(half * block.shrink, half * block.shrink, height / 2)
    geom = ET.SubElement(body, "geom", _SOLID, name="block", size=size, mass=str(block.mass), rgba=_RED)
    geom.set("condim", "1" if block.frictionless else "3")
    geom.set("priority", str(int(block.frictionless)))  # else the other geom of a contact brings friction back
    limits = {"x": None, "y": None} if spec.block_axes == "xy" else {"y": (-spec.cell, spec.cell), "z": (-height, 0.0)}
    for axis, limit in limits.items():
        joint = {"limited": "false"} if limit is None else {"limited": "true", "range": _numbers(*limit)}
        joint |= {"armature": "0", "damping": str(block.damping), "margin": "0.01"}
        ET.SubElement(body, "joint", joint, name=f"block_{axis}", type="slide", axis=_axis(axis))


def _axis(name: str) -> str:
    return " ".join(str(int(axis == name)) for axis in "xyz")


def _numbers(*values: float) -> str:
    return " ".join(f"{value:.9g}" for value in values)


def _find(root: ET.Element, path: str) -> ET.Element:
    found = root.find(path)
    if found is None:
        raise RuntimeError(f"Gymnasium's ant.xml has no {path}: gymnasium is not the pinned version")
    return found
