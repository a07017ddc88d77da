"""The mazes of HIRO (Nachum et al., 2018) as data: maps, robots, goals, horizons, what is observed.

A map is a tuple of rows; row r, column c is the cell whose centre is `cell * (c, r)` relative to the robot's own, so x
is the column and y the row. Where the paper and the original TensorFlow code differ, the code is followed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from preceptor.envs.task import GoalSpace

WALL, FREE, START, CHASM, SLIDING, FALLING = "#.R~BF"  # a sliding block moves in x and y, a falling one in y and z
SOLID_GROUND: Final = WALL + FREE + START + SLIDING + FALLING

MAZE: Final = ("#####", "#R..#", "###.#", "#...#", "#####")
PUSH: Final = ("#####", "#.R##", "#.B.#", "##.##", "#####")
FALL: Final = ("####", "#R.#", "#.F#", "#~~#", "#..#", "####")
ROOM: Final = ("#####", "#...#", "#.R.#", "#...#", "#####")

TIMESTEP: Final = 0.02  # seconds
RESET_NOISE: Final = 0.1  # positions U(-0.1, 0.1), velocities 0.1 N(0, 1)
TIME_SCALE: Final = 0.001  # of the step count, where it is observed


class Robot(NamedTuple):
    """A body that moves through mazes.

    Attributes:
        name: `ant` or `point`.
        positions, velocities: Names of its generalised positions and velocities, in the simulator's order.
        num_actions: Number of motors.
        action_limit: What an action of 1 sets a motor to; actions lie in [-1, 1].
        frame_skip: Simulator steps of `TIMESTEP` per action.
        height: Centre of the body above what it stands on, in metres.
        noisy: How many positions and velocities reset noise applies to, from the first.
        goal_spaces: By name, the spaces in which a subgoal may be given; the first is the default. `scale` is the half
            range of a subgoal relative to the robot.
        action_groups: By name, the motors of each limb; none of a point.
    """

    name: str
    positions: tuple[str, ...]
    velocities: tuple[str, ...]
    num_actions: int
    action_limit: float
    frame_skip: int
    height: float
    noisy: tuple[int, int]
    goal_spaces: dict[str, GoalSpace]
    action_groups: Mapping[str, tuple[int, ...]] = MappingProxyType({})


_ROOT, _SPIN = ("x", "y", "z", "qw", "qx", "qy", "qz"), ("vx", "vy", "vz", "wx", "wy", "wz")
_JOINTS = tuple(f"{joint}_{leg}" for leg in (1, 2, 3, 4) for joint in ("hip", "ankle"))
_ORIGINAL_BOX = (10.0, 10.0, 0.5, 1.0, 1.0, 1.0, 1.0, *(0.5, 0.3) * 4)
_ANT_GOALS = {"hiro_orig": GoalSpace(_ROOT + _JOINTS, _ORIGINAL_BOX, tuple(range(15)))}
_ANT_GOALS |= {"hiro_xy": GoalSpace(("x", "y"), (10.0, 10.0), (0, 1))}
_POINT_GOALS = {"xy": GoalSpace(("x", "y"), (5.0, 5.0), (0, 1))}  # 1.25 cells
_FALLING_GOALS = _POINT_GOALS | {"xyz": GoalSpace(("x", "y", "z"), (5.0, 5.0, 2.0), (0, 1, 2))}

_SPEEDS = _SPIN + tuple(f"v{joint}" for joint in _JOINTS)
# The order of Gymnasium's model, hip and ankle: its motors begin with the fourth leg, its joints with the first.
ANT_LEGS: Final = MappingProxyType({"leg_1": (2, 3), "leg_2": (4, 5), "leg_3": (6, 7), "leg_4": (0, 1)})
ANT: Final = Robot("ant", _ROOT + _JOINTS, _SPEEDS, 8, 30.0, 5, 0.75, (15, 14), _ANT_GOALS, ANT_LEGS)
_POINT: Final = Robot("point", ("x", "y"), ("vx", "vy"), 2, 1.0, 10, 0.4, (2, 2), _POINT_GOALS)
_FALLING_POINT: Final = _POINT._replace(
    positions=("x", "y", "z"), velocities=("vx", "vy", "vz"), goal_spaces=_FALLING_GOALS
)


class Block(NamedTuple):
    """How the movable block of a maze is made.

    Attributes:
        shrink: Factor on its horizontal size.
        mass: In kilograms.
        damping: Of its joints, in newtons per metre per second.
        frictionless: Whether all its contacts are without friction.
    """

    shrink: float
    mass: float
    damping: float = 0.0
    frictionless: bool = False


_SLIDING_BLOCK = Block(shrink=1.0, mass=0.0002)
_FALLING_BLOCK = Block(shrink=0.99, mass=0.001)
# MuJoCo's contacts are as stiff as the lighter body is heavy: a point sinks a quarter of a metre into a block of 0.2
# grams that a wall holds. This one is hard, damping stops it, and being smaller it does not jam between walls.
_ROBUST_SLIDING_BLOCK = Block(shrink=0.99, mass=0.5, damping=2.0, frictionless=True)
# The original falls only if it stops within 0.5% of a cell of the gap's middle, and friction may hold it even there
# (at the point's size it always does); this one falls whenever it is pushed there.
_ROBUST_FALLING_BLOCK = Block(shrink=0.95, mass=0.001, frictionless=True)

Corners = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class MazeSpec:
    """One task. Ants observe the step count, too.

    Attributes:
        name: Catalogue name.
        layout: The map, rows in the direction of y.
        robot: What moves.
        cell: Side of a cell in metres; walls are half as high.
        horizon: Steps until truncation; nothing terminates.
        radius: Success is a last step nearer to the goal than this.
        train_goals: Lowest and highest goal while training, uniform between; 2-D, or 3-D where one can fall.
        eval_goals: Likewise for evaluation.
        block: The movable block, if the map has one.
        observe_block: Whether the block's position is observed.
    """

    name: str
    layout: tuple[str, ...]
    robot: Robot
    cell: float
    horizon: int
    radius: float
    train_goals: Corners
    eval_goals: Corners
    block: Block | None = None
    observe_block: bool = False

    @property
    def height(self) -> float:
        """Height of walls, blocks and platforms in metres."""
        return 0.5 * self.cell

    @property
    def elevated(self) -> bool:
        """Whether the robot starts on a platform, from which it can fall."""
        return bool(self.cells(CHASM))

    @property
    def start_height(self) -> float:
        """Initial z of the robot's centre."""
        return self.robot.height + self.height * self.elevated

    def cells(self, codes: str) -> list[tuple[int, int]]:
        """(row, column) of each cell whose code is one of `codes`, row by row."""
        return [(r, c) for r, row in enumerate(self.layout) for c, code in enumerate(row) if code in codes]

    def centre(self, row: int, column: int) -> tuple[float, float]:
        """(x, y) of a cell's centre."""
        ((home_row, home_column),) = self.cells(START)
        return self.cell * (column - home_column), self.cell * (row - home_row)

    @property
    def block_axes(self) -> str:
        """The axes along which the block slides, in the simulator's order: `xy`, `yz`, or none."""
        return "xy" if self.cells(SLIDING) else "yz" if self.cells(FALLING) else ""

    @property
    def block_home(self) -> dict[str, float]:
        """x, y and z of the movable block's centre at the start, in metres; empty without a block."""
        if not self.block_axes:
            return {}
        x, y = self.centre(*self.cells(SLIDING + FALLING)[0])
        return {"x": x, "y": y, "z": self.height * (self.elevated + 0.5)}

    @cached_property
    def observation_names(self) -> tuple[str, ...]:
        """What each number of an observation is: robot, time, block, goal."""
        time = ("time",) if self.robot.name == "ant" else ()
        block = tuple(f"block_{axis}" for axis in self.block_axes) if self.observe_block else ()
        goal = tuple(f"goal_{axis}" for axis in "xyz"[: len(self.eval_goals[0])])
        return self.robot.positions + self.robot.velocities + time + block + goal

    @property
    def observation_scale(self) -> tuple[float, ...]:
        """Natural size of each number of an observation: cells for places, one for everything else."""
        names = [name.removeprefix("block_").removeprefix("goal_") for name in self.observation_names]
        return tuple(self.cell if name in "xyz" else 1.0 for name in names)

    @property
    def hidden_from_low_level(self) -> tuple[int, ...]:
        """Indices of what the low level sees as zero: the goal and places in the frame of the maze, but height."""
        places = {"x", "y", "block_x", "block_y", "goal_x", "goal_y", "goal_z"}
        return tuple(i for i, name in enumerate(self.observation_names) if name in places)

    @property
    def hidden_from_high_level(self) -> tuple[int, ...]:
        """Indices of what changes with every step: joints, speeds, and the step count."""
        fast = {*self.robot.positions, *self.robot.velocities, "time"} - {*_ROOT}
        return tuple(i for i, name in enumerate(self.observation_names) if name in fast)


def _at(*goal: float) -> dict[str, Corners]:
    """One goal for training and evaluation."""
    return {"train_goals": (goal, goal), "eval_goals": (goal, goal)}


# What the tasks of the paper share; and the same maps at half the size for a point mass.
_ANTS: dict[str, Any] = {"robot": ANT, "cell": 8.0, "horizon": 500, "radius": 5.0}
_POINTS: dict[str, Any] = {"robot": _POINT, "cell": 4.0, "horizon": 100, "radius": 2.5, "observe_block": True}
_DROPS: dict[str, Any] = _POINTS | {"robot": _FALLING_POINT} | _at(0.0, 13.5, 2.25)
_ROOM_GOALS = ((-5.0, -5.0), (5.0, 5.0))
_SPECS = (
    MazeSpec("AntMaze", MAZE, **_ANTS | _at(0.0, 16.0) | {"train_goals": ((-4.0, -4.0), (20.0, 20.0))}),
    MazeSpec("AntPush", PUSH, block=_SLIDING_BLOCK, **_ANTS | _at(0.0, 19.0)),
    MazeSpec("AntFall", FALL, block=_FALLING_BLOCK, **_ANTS | _at(0.0, 27.0, 4.5)),
    MazeSpec("AntPushRobust", PUSH, block=_ROBUST_SLIDING_BLOCK, observe_block=True, **_ANTS | _at(0.0, 19.0)),
    MazeSpec("AntFallRobust", FALL, block=_ROBUST_FALLING_BLOCK, observe_block=True, **_ANTS | _at(0.0, 27.0, 4.5)),
    MazeSpec("PointReach", ROOM, **_POINTS | {"radius": 1.0, "train_goals": _ROOM_GOALS, "eval_goals": _ROOM_GOALS}),
    MazeSpec("PointUMaze", MAZE, **_POINTS | _at(0.0, 8.0) | {"train_goals": ((-2.0, -2.0), (10.0, 10.0))}),
    MazeSpec("PointPush", PUSH, block=_ROBUST_SLIDING_BLOCK, **_POINTS | _at(0.0, 9.5)),
    MazeSpec("PointPushOriginal", PUSH, block=_SLIDING_BLOCK, **_POINTS | _at(0.0, 9.5)),
    MazeSpec("PointFall", FALL, block=_ROBUST_FALLING_BLOCK, **_DROPS),
    MazeSpec("PointFallOriginal", FALL, block=_FALLING_BLOCK, **_DROPS),
)
SPECS: Final = {spec.name: spec for spec in _SPECS}
