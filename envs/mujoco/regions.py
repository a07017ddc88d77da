"""Mazes as named places: where the robot is, what the block is doing, which options there are, what the expert chooses.

Everything that depends on (state of the block, place of the robot, place of the goal) alone is a table, worked out once
for a map; an observation is reduced to one integer, the row of these tables.
"""

from collections import deque
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from envs.mujoco.mazes import FALL, MAZE, PUSH, ROOM, MazeSpec
from envs.task import Option, OptionSpace
from ground.errors import UserError

Place = tuple[int, int]  # (x, y) in cells from the robot's own
Floats = NDArray[np.float64]
Index = TypeVar("Index", int, NDArray[np.int64])
CHASM = "chasm"
_IN_LINE = 0.25  # of a cell, how far beside the block's middle one may push


@dataclass(frozen=True)
class BlockState:
    """What the block is doing.

    Attributes:
        name: As in facts.
        words: For a language model.
        closed: Places where one cannot be meanwhile.
        axis: The block is in this state once it has moved along this axis,
        moved: by more than this many cells; negative for down. The last state that holds counts.
    """

    name: str
    words: str
    closed: frozenset[Place] = frozenset()
    axis: str = ""
    moved: float = 0.0


@dataclass(frozen=True)
class Push:
    """An option that moves the block.

    Attributes:
        direction: As in the option's id.
        words: For a language model.
        stands: By state of the block, the place behind it.
        target: Where the robot heads for, in cells.
    """

    direction: str
    words: str
    stands: dict[str, Place]
    target: tuple[float, float]

    @property
    def across(self) -> str:
        """The axis along which the block does not move."""
        return "y" if self.direction in ("east", "west") else "x"


@dataclass(frozen=True)
class Chart:
    """A map in words.

    Attributes:
        places: Where one can be.
        goal: The task in a sentence, which no other map shares: with a scene it is all that a short prompt shows.
        rules: The map, for a language model.
        states: Of the block; the first holds at the start. One without words if there is no block.
        pushes: The useful one first.
    """

    places: dict[Place, str]
    goal: str
    rules: str
    states: tuple[BlockState, ...] = (BlockState("", ""),)
    pushes: tuple[Push, ...] = ()


_U = {
    (0, 0): "south-west corner",
    (1, 0): "south side",
    (2, 0): "south-east corner",
    (2, 1): "east side",
    (2, 2): "north-east corner",
    (1, 2): "north side",
    (0, 2): "north-west corner",
}
_SQUARE = {(x - 1, y - 1): name for (x, y), name in (_U | {(0, 1): "west side", (1, 1): "middle"}).items()}
_CROSS = {
    (-1, 0): "south-west corner",
    (0, 0): "south side",
    (-1, 1): "west side",
    (0, 1): "middle",
    (1, 1): "east side",
    (0, 2): "north side",
}
_LEDGES = {
    (0, 0): "south-west corner",
    (1, 0): "south-east corner",
    (0, 1): "west ledge",
    (1, 1): "east ledge",
    (1, 2): "bridge",
    (1, 3): "north-east corner",
    (0, 3): "north-west corner",
}
_STEP = "You go from one place to the next one beside it."

CHARTS: dict[tuple[str, ...], Chart] = {
    ROOM: Chart(_SQUARE, "Reach the goal in the open room.", f"The room is open, and there is no wall in it. {_STEP}"),
    MAZE: Chart(
        _U,
        "Reach the goal in the winding corridor.",
        "The maze is one corridor with walls on both sides. It runs from the south-west corner along the south side to "
        "the south-east corner, along the east side to the north-east corner, and along the north side to the "
        f"north-west corner. There is no other way. {_STEP}",
    ),
    PUSH: Chart(
        _CROSS,
        "Reach the goal, which a block in the middle keeps you from.",
        "The south side leads to the south-west corner, and that to the west side. A block stands in the middle, "
        "between the south side, the west side, the east side and the north side, and you can push it away from you. "
        "The east side has room for the block. Pushed to the north it jams and shuts the goal in for good. "
        f"Once the middle is free, it leads to the north side. {_STEP}",
        (
            BlockState("middle", "The block stands in the middle.", frozenset({(0, 1)})),
            # Pushed to the north by a hundredth of a cell, it no longer fits between the walls of the east side.
            BlockState("north", "The block is jammed on its way to the north.", frozenset({(0, 2)}), "y", 0.01),
            BlockState("moving", "The block is on its way to the east.", frozenset({(1, 1), (0, 2)}), "x", 0.15),
            BlockState("east", "The block is on the east side, and the middle is free.", frozenset({(1, 1)}), "x", 0.5),
        ),
        (
            Push("east", "push the block to the east", {"middle": (-1, 1), "moving": (0, 1)}, (0.6, 1.0)),
            Push("north", "push the block to the north", {"middle": (0, 0)}, (0.0, 1.6)),
        ),
    ),
    FALL: Chart(
        _LEDGES,
        "Reach the goal beyond the chasm, which a block can bridge.",
        "A chasm lies between the ledges in the south and the corners in the north, and who falls into it stays there. "
        "A block stands on the east ledge. From the south-east corner you can push it to the north into the chasm, "
        "where it becomes a bridge from the east ledge to the north-east corner. "
        f"The south-west corner is beside the south-east corner and the west ledge. {_STEP}",
        (
            BlockState("ledge", "The block stands on the east ledge.", frozenset({(1, 1), (1, 2)})),
            BlockState("edge", "The block is on its way to the chasm.", frozenset({(1, 2)}), "y", 0.15),
            BlockState("chasm", "The block lies in the chasm and makes a bridge.", frozenset(), "z", -0.25),
        ),
        (Push("north", "push the block to the north", {"ledge": (1, 0), "edge": (1, 1)}, (1.0, 2.0)),),
    ),
}


class Regions:
    """The places of one maze as tables.

    Attributes:
        chart: The map in words.
        options: `goto:PLACE` for each place, `goto:goal`, and `push:DIRECTION` where there is a block.
        places: Names of places, the chasm last where there is one.
        legal: bool [codes, K].
        goal_places: Indices of the places where the task's goal can be.
        expert: int64 [codes], the option that leads to the goal on a shortest way; `goto:goal` if nothing does.

    Args:
        spec: The maze; its block must be observed.

    Raises:
        UserError: The block is not observed, or nobody has put the map into words.
    """

    def __init__(self, spec: MazeSpec) -> None:
        if spec.block_axes and not spec.observe_block:
            raise UserError(
                f"{spec.name} does not show its block, so nobody can plan there.",
                f"--task {spec.name}Robust",
            )
        if spec.layout not in CHARTS:
            raise UserError(f"The map of {spec.name} has no words.", "add it to CHARTS in envs/mujoco/regions.py")
        self.spec, self.chart = spec, CHARTS[spec.layout]
        self._cells = list(self.chart.places)
        self._centres = np.array(self._cells, dtype=np.float64)  # in cells
        self.places = (*self.chart.places.values(), *((CHASM,) if spec.elevated else ()))
        self.options = _options(spec, self.chart)
        self._at = {name: i for i, name in enumerate(spec.observation_names)}
        states = self.chart.states
        self._open = np.array([[cell not in state.closed for cell in self._cells] for state in states])
        pushable = [[state.name in push.stands for state in states] for push in self.chart.pushes]
        self._pushable = np.array(pushable, dtype=np.bool_).reshape(-1, len(states))
        self.goal_places = self._goal_places()
        self.size = len(states) * len(self.places) ** 2
        self.legal = np.zeros((self.size, len(self.options)), dtype=np.bool_)
        self.expert = np.zeros(self.size, dtype=np.int64)
        for code in range(self.size):
            self.legal[code], self.expert[code] = self._judge(*self.decode(code))

    def codes(self, obs: NDArray[np.floating]) -> NDArray[np.int64]:
        """One integer per observation [N]: state of the block, place of the robot, place of the goal."""
        state, here = self._state(obs), self._read(obs, "x", "y")
        place = self._nearest(here, self._open[state])
        if self.spec.elevated:
            fallen = self._read(obs, "z")[:, 0] * self.spec.cell < self.spec.height
            place = np.where(fallen, len(self._cells), place)
        return self.encode(state, place, self._nearest(self._read(obs, "goal_x", "goal_y")))

    def decode(self, code: int) -> tuple[int, int, int]:
        """Indices of the block's state, the robot's place and the goal's place."""
        rest, goal = divmod(code, len(self.places))
        return (*divmod(rest, len(self.places)), goal)

    def encode(self, state: Index, place: Index, goal: Index) -> Index:
        """The reverse of `decode`, for one code or arrays of them."""
        return (state * len(self.places) + place) * len(self.places) + goal

    def open_places(self, state: int) -> NDArray[np.int64]:
        """Indices of the places where one can be in a state of the block."""
        return np.flatnonzero(self._open[state])

    def ground(self, obs: NDArray[np.floating], option: NDArray[np.int64]) -> Floats:
        """Where each option [N] heads for, (x, y) [N, 2] in metres; who pushes lines up with the block first."""
        places, here = len(self._cells), self._read(obs, "x", "y")
        targets = [*self._cells, (np.nan, np.nan), *(push.target for push in self.chart.pushes)]
        mean = np.array(targets, dtype=np.float64)[option]
        to_goal = option == places
        mean[to_goal] = self._read(obs, "goal_x", "goal_y")[to_goal]
        for i, push in enumerate(self.chart.pushes):
            across = "xy".index(push.across)
            off = np.abs(here[:, across] - push.target[across]) > _IN_LINE
            for state, stand in push.stands.items():
                at = [known.name for known in self.chart.states].index(state)
                mean[(option == places + 1 + i) & off & (self._state(obs) == at)] = stand
        return self.spec.cell * mean

    def done(self, obs: NDArray[np.floating], option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each option [N] is over: achieved, or no longer possible. Going for the goal ends by its time-out."""
        rest = self.codes(obs) // len(self.places)
        state, place = rest // len(self.places), rest % len(self.places)
        over, places = np.zeros(len(obs), dtype=np.bool_), len(self._cells)
        going, pushing = option < places, option > places
        chosen = option[going]
        over[going] = (place[going] == chosen) | ~self._open[state[going], chosen] | (place[going] == places)
        over[pushing] = ~self._pushable[option[pushing] - places - 1, state[pushing]]
        return over

    def achieved(
        self, before: NDArray[np.floating], after: NDArray[np.floating], option: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Whether the step between two observations did what each option [N] is for: see `envs.task.Task`."""
        place, places = self.codes(after) // len(self.places) % len(self.places), len(self._cells)
        goal = [name for name in self.spec.observation_names if name.startswith("goal_")]
        left = self._read(after, *(name.removeprefix("goal_") for name in goal)) - self._read(after, *goal)
        at_goal = np.linalg.norm(left, axis=1) < self.spec.radius / self.spec.cell
        pushed = (self._state(before) != self._state(after)) & self.done(after, option)
        return np.select([option < places, option == places], [place == option, at_goal], pushed)

    def _goal_places(self) -> NDArray[np.int64]:
        """Indices of the places where the task's goal can be."""
        corners = np.unique([*self.spec.train_goals, *self.spec.eval_goals], axis=0)[:, :2] / self.spec.cell
        low, high = corners.min(axis=0), corners.max(axis=0)
        if (low == high).all():
            return self._nearest(low[None])
        return np.flatnonzero(((self._centres + 0.5 > low) & (self._centres - 0.5 < high)).all(axis=1))

    def _judge(self, state: int, place: int, goal: int) -> tuple[NDArray[np.bool_], int]:
        """Legality of each option, and the expert's choice."""
        legal, places = np.zeros(len(self.options), dtype=np.bool_), len(self._cells)
        legal[places] = True  # going straight for the goal is always possible, and often wrong
        if max(place, goal) >= places or not self._open[state, place]:
            return legal, places
        beside = self._beside(state)
        legal[:places] = beside[place]
        name, pushes = self.chart.states[state].name, self.chart.pushes
        stands = [self._cells.index(push.stands[name]) if name in push.stands else -1 for push in pushes]
        legal[places + 1 :] = [stand == place for stand in stands]
        if place == goal:
            return legal, places
        way = _next_on_the_way(beside, place, goal)
        if way is None and stands and stands[0] >= 0:
            way = places + 1 if stands[0] == place else _next_on_the_way(beside, place, stands[0])
        return legal, places if way is None else way

    def _beside(self, state: int) -> NDArray[np.bool_]:
        """[places, places]: whether one can go from a place to another."""
        gap = np.abs(self._centres[:, None] - self._centres[None]).sum(axis=2)
        return (gap == 1) & self._open[state][:, None] & self._open[state][None]

    def _state(self, obs: NDArray[np.floating]) -> NDArray[np.int64]:
        found = np.zeros(len(obs), dtype=np.int64)
        for i, state in enumerate(self.chart.states):
            if state.axis:
                moved = self._read(obs, f"block_{state.axis}")[:, 0] - self._home(state.axis)
                found[moved * np.sign(state.moved) > abs(state.moved)] = i
        return found

    def _home(self, axis: str) -> float:
        """Where the block starts along an axis, in cells."""
        assert self.spec.block_cell is not None
        x, y = self.spec.centre(*self.spec.block_cell)
        ground = self.spec.height * self.spec.elevated
        return {"x": x, "y": y, "z": ground + self.spec.height / 2}[axis] / self.spec.cell

    def _nearest(self, points: Floats, allowed: NDArray[np.bool_] | bool = True) -> NDArray[np.int64]:
        """Index of the allowed [N, places] place whose square is nearest to each point [N, 2]."""
        outside = np.maximum(np.abs(points[:, None] - self._centres) - 0.5, 0.0)  # [N, places, 2]
        return np.where(allowed, np.square(outside).sum(axis=2), np.inf).argmin(axis=1)

    def _read(self, obs: NDArray[np.floating], *names: str) -> Floats:
        """Named numbers [N, names] of observations, in cells."""
        return np.asarray(obs, dtype=np.float64)[:, [self._at[name] for name in names]] / self.spec.cell


@cache
def regions(spec: MazeSpec) -> Regions:
    """The tables of a maze, worked out once."""
    return Regions(spec)


def _options(spec: MazeSpec, chart: Chart) -> OptionSpace:
    far = 15 if spec.robot.name == "point" else 60  # steps from a place to the next one, with room to spare
    goto = [Option(f"goto:{place}", f"go to the {place}", far) for place in chart.places.values()]
    pushes = [Option(f"push:{push.direction}", push.words, 2 * far) for push in chart.pushes]
    return OptionSpace([*goto, Option("goto:goal", "go straight to the goal", 2 * far), *pushes])


def _next_on_the_way(beside: NDArray[np.bool_], start: int, end: int) -> int | None:
    """The first step of a shortest way, or None if there is no way."""
    following, queue = {end: end}, deque([end])
    while queue:
        place = queue.popleft()
        for other in np.flatnonzero(beside[place]).tolist():
            if other not in following:
                following[other] = place
                queue.append(other)
    return following.get(start)
