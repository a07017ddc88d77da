"""The robot in MuJoCo: its model, and an object on a post that is as high as the level wants it.

Its joints are those of `body.py`, and z is zero at the axis about which a lowered torso pitches. The object is a free
ball in a tray. Nothing but contact moves it: there is no weld, and no other equality.
"""

from typing import Final

import mujoco

from preceptor.envs.wholebody.body import FORE, HIGH, LOW, TORSO, UPPER

TIMESTEP = 0.005  # seconds
SPREAD = 0.06  # from the middle of the open hand to each finger, metres
BALL = 0.03  # its radius
FLOOR = -0.2  # its height
_TRAY, _RIM = 0.12, 0.006  # half the side of the tray, and half the height of its rim

# What collides: the hand and the forearm with ball, post and floor; the ball with post and floor; the base with the
# foot of the post, so that it comes no closer than `body.CLEARANCE`.
_HAND, _BALL = 'contype="1" conaffinity="0"', 'contype="2" conaffinity="1"'
_STILL, _KERB = 'contype="0" conaffinity="3"', 'contype="0" conaffinity="2"'
_BASE, _FOOT = 'contype="4" conaffinity="0"', 'contype="0" conaffinity="4"'
_GREY, _DARK, _BLUE, _GREEN = ".30 .33 .37 1", ".16 .17 .20 1", ".16 .43 .82 1", ".18 .62 .35 1"
_ORANGE, _RED, _WOOD = ".95 .60 .15 1", ".84 .19 .19 1", ".76 .62 .45 1"
# Stiffness, in N/m or N m/rad, and the greatest force of each servo; all are critically damped.
_SERVOS: Final = {
    "x": (16000, 900),
    "y": (16000, 900),
    "yaw": (900, 200),
    "lift": (8000, 500),
    "pitch": (900, 200),
    "shoulder": (160, 60),
    "elbow": (40, 30),
    "left": (200, 20),
    "right": (200, 20),
}


def make_model() -> mujoco.MjModel:
    """The compiled model, whose simulator never resets itself when it fails."""
    model = mujoco.MjModel.from_xml_string(_xml())
    flags = mujoco.mjtDisableBit
    model.opt.disableflags |= flags.mjDSBL_AUTORESET | flags.mjDSBL_MIDPHASE
    return model


def _xml() -> str:
    return f"""<mujoco model="wholebody">
    <compiler angle="radian" autolimits="true"/>
    <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="10"/>
    <visual>
        <headlight ambient=".35 .35 .35" diffuse=".35 .35 .35" specular="0 0 0"/>
        <quality shadowsize="2048"/> <map znear=".02"/> <global offwidth="640" offheight="480"/>
    </visual>
    <statistic center=".6 0 .4" extent="2"/>
    <asset>
        <texture name="sky" type="skybox" builtin="gradient" rgb1=".93 .95 .98" rgb2=".70 .78 .88"
            width="64" height="256"/>
        <texture name="tiles" type="2d" builtin="checker" rgb1=".86 .87 .88" rgb2=".80 .81 .83" width="256"
            height="256"/>
        <material name="tiles" texture="tiles" texrepeat="1 1" texuniform="true"/>
    </asset>
    <default>
        <geom contype="0" conaffinity="0" condim="4" friction=".5 .02 .001" mass="0"/>
        <position dampratio="1"/>
    </default>
    <worldbody>
        <light pos="-.5 -2 6" dir=".2 .3 -1" cutoff="60" exponent="0" diffuse=".6 .6 .6" specular="0 0 0"/>
        <geom name="floor" type="plane" pos="0 0 {FLOOR}" size="40 40 .1" material="tiles" {_STILL}/>
        {_robot()}
        <body name="foot" mocap="true">
            <geom type="cylinder" pos="0 0 {FLOOR + 0.05}" size=".15 .05" rgba="{_WOOD}" {_FOOT}/>
        </body>
        <body name="post" mocap="true">{_post()}</body>
        <body name="object">
            <freejoint/>
            <geom name="object" size="{BALL}" mass=".1" condim="6" friction=".5 .02 .015" rgba="{_RED}" {_BALL}/>
        </body>
    </worldbody>
    <sensor>
        <contact name="left" geom1="left" geom2="object" data="found"/>
        <contact name="right" geom1="right" geom2="object" data="found"/>
    </sensor>
    <actuator>{_servos()}</actuator>
</mujoco>"""


def _robot() -> str:
    wheels = "".join(
        f'<geom type="cylinder" pos="{x} {y} {FLOOR + 0.05}" size=".05 .02" euler="1.5708 0 0" rgba="{_DARK}"/>'
        for x in (-0.14, 0.14)
        for y in (-0.17, 0.17)
    )
    return f"""<body name="base" gravcomp="1">
        <joint name="x" type="slide" axis="1 0 0"/> <joint name="y" type="slide" axis="0 1 0"/>
        <joint name="yaw" axis="0 0 1"/>
        <geom type="cylinder" pos="0 0 -.1" size=".25 .06" mass="20" rgba="{_GREY}" {_BASE}/> {wheels}
        <geom type="box" pos="-.16 0 .43" size=".025 .07 .5" rgba="{_DARK}"/>
        <body name="carriage" gravcomp="1">
            <joint name="lift" type="slide" axis="0 0 1" {_range(0)}/>
            <geom type="box" pos="-.08 0 0" size=".09 .05 .035" mass="4" rgba="{_BLUE}"/>
            <body name="torso" gravcomp="1">
                <joint name="pitch" axis="0 1 0" {_range(1)}/>
                <geom type="capsule" fromto="0 0 0 0 0 {TORSO}" size=".05" mass="5" rgba="{_BLUE}"/>
                <geom type="ellipsoid" pos="0 0 {TORSO + 0.11}" size=".055 .065 .055" rgba="{_GREY}"/>
                <geom size=".016" pos=".05 .028 {TORSO + 0.12}" rgba="1 1 1 1"/>
                <geom size=".016" pos=".05 -.028 {TORSO + 0.12}" rgba="1 1 1 1"/>
                <body name="upper" pos="0 0 {TORSO}" gravcomp="1">
                    <joint name="shoulder" axis="0 -1 0" {_range(2)}/>
                    <geom type="capsule" fromto="0 0 0 {UPPER} 0 0" size=".035" mass="1.5" rgba="{_GREEN}"/>
                    <body name="fore" pos="{UPPER} 0 0" gravcomp="1">
                        <joint name="elbow" axis="0 -1 0" {_range(3)}/>
                        <geom type="capsule" fromto="0 0 0 {FORE - 0.085} 0 0" size=".028" mass=".8" rgba="{_GREEN}"
                            {_HAND}/>
                        <geom type="box" pos="{FORE - 0.06} 0 0" size=".012 {SPREAD + 0.015} .022" mass=".2"
                            rgba="{_DARK}" {_HAND}/>
                        {_finger("left", 1)} {_finger("right", -1)}
                    </body>
                </body>
            </body>
        </body>
    </body>"""


def _finger(name: str, side: int) -> str:
    return f"""<body name="{name}" pos="{FORE} {side * (SPREAD + 0.006)} 0" gravcomp="1">
        <joint name="{name}" type="slide" axis="0 {-side} 0" range="0 {SPREAD}"/>
        <geom name="{name}" type="box" pos="-.015 0 0" size=".032 .006 .014" mass=".1" friction="1.5 .02 .001"
            rgba="{_ORANGE}" {_HAND}/>
    </body>"""


def _post() -> str:
    corners = [(_TRAY, _TRAY), (-_TRAY, _TRAY), (-_TRAY, -_TRAY), (_TRAY, -_TRAY)]
    rim = "".join(
        f'<geom type="capsule" fromto="{x} {y} {_RIM} {u} {v} {_RIM}" size="{_RIM}" rgba="{_WOOD}" {_KERB}/>'
        for (x, y), (u, v) in zip(corners, corners[1:] + corners[:1], strict=True)
    )
    return f"""{rim}<geom type="box" pos="0 0 -.01" size="{_TRAY} {_TRAY} .01" rgba="{_WOOD}" {_STILL}/>
        <geom type="capsule" fromto="0 0 -.02 0 0 -2" size=".02" rgba="{_WOOD}"/>"""


def _range(joint: int) -> str:
    return f'range="{LOW[joint]} {HIGH[joint]}"'


def _servos() -> str:
    return "".join(
        f'<position name="{name}" joint="{name}" kp="{stiff}" forcerange="{-force} {force}"/>'
        for name, (stiff, force) in _SERVOS.items()
    )
