"""Scripted planners for the mazes: from the region that the robot is in to the next waypoint; and a PD low level.

`waypoint` needs nothing but an observation, so it serves ants as well as points where the block is observed. It stands
for what a distilled controller does as a high level, and proves that the tasks can be solved.
"""

from collections import deque
from functools import cache

import numpy as np
from numpy.typing import NDArray

from envs.errors import UserError
from envs.mujoco.mazes import FREE, START, MazeSpec

Points = NDArray[np.float64]
Cell = tuple[int, int]


def waypoint(spec: MazeSpec, obs: NDArray[np.floating]) -> Points:
    """Where to go next, (x, y) [N, 2], from observations [N, D]. Raises `UserError` if the maze's block is unseen."""
    if spec.block_axes and not spec.observe_block:
        raise UserError(f"The planner of {spec.name} needs to see the block.", "use its spec with observe_block=True")
    plan = {"": _by_cells, "xy": _past_the_sliding_block, "yz": _over_the_fallen_block}[spec.block_axes]
    return plan(spec, np.asarray(obs, dtype=np.float64))


def seek(obs: NDArray[np.floating], target: NDArray[np.floating], spec: MazeSpec) -> NDArray[np.float32]:
    """Actions [N, 2] that bring a point to targets (x, y) [N, 2]: proportional to what is missing, with damping."""
    here, speed = _read(spec, obs, "x", "y"), _read(spec, obs, "vx", "vy")
    return np.clip(target - here - 0.5 * speed, -1.0, 1.0).astype(np.float32)


def _by_cells(spec: MazeSpec, obs: Points) -> Points:
    """The centre of the next cell on a shortest way; in the last cell, the place there that is nearest to the goal."""
    target = _reachable(spec, _read(spec, obs, "goal_x", "goal_y"))
    here, there = spec.cell_at(_read(spec, obs, "x", "y")), spec.cell_at(target)
    following = _routes(spec)[here[:, 0], here[:, 1], there[:, 0], there[:, 1]]  # [N, 2] rows and columns
    centres = np.array(spec.centre(0, 0)) + spec.cell * following[:, ::-1]
    return np.where((following == here).all(axis=1, keepdims=True), target, centres)


def _reachable(spec: MazeSpec, goals: Points) -> Points:
    """The place [N, 2] in a free cell that is nearest to each goal; goals in training lie in walls too."""
    centres = np.array([spec.centre(*cell) for cell in spec.cells(FREE + START)])
    room = 0.5 * spec.cell - 0.5
    places = np.clip(goals[:, None], centres - room, centres + room)  # [N, cells, 2]
    nearest = np.square(places - goals[:, None]).sum(axis=2).argmin(axis=1)
    return places[np.arange(len(goals)), nearest]


def _past_the_sliding_block(spec: MazeSpec, obs: Points) -> Points:
    """Around the block by its left, push it to the right, then through where it was."""
    (x, y), (block_x,) = _in_cells(spec, obs, "x", "y"), _in_cells(spec, obs, "block_x")
    pushed = block_x > 0.75
    steps = [
        (pushed & (x > 0.15) & (y < 1.4), (0.0, 1.0)),  # away from the block before going up beside it
        (pushed, (0.0, 2.375)),
        (y > 0.6, (0.6, 1.0)),
        (x < -0.6, (-1.0, 1.0)),
        (x > -np.inf, (-1.0, 0.0)),
    ]
    return spec.cell * _first(steps)


def _over_the_fallen_block(spec: MazeSpec, obs: Points) -> Points:
    """Push the block into the chasm from below, cross on it, then to the goal."""
    (x, y), (block_z,) = _in_cells(spec, obs, "x", "y"), _in_cells(spec, obs, "block_z")
    fallen = block_z < 0.5  # half a wall above the floor, from one and a half before
    steps = [
        (y > 2.6, (0.0, 3.375)),
        (fallen & (x > 0.75), (1.0, 3.0)),
        (fallen, (1.0, 1.0)),
        (x > 0.75, (1.0, 2.0)),
        (x > -np.inf, (1.0, 0.0)),
    ]
    return spec.cell * _first(steps)


def _first(steps: list[tuple[NDArray[np.bool_], tuple[float, float]]]) -> Points:
    """The place [N, 2] of the first condition [N] that holds."""
    conditions = [condition[:, None] for condition, _ in steps]
    return np.select(conditions, [np.array(place)[None] for _, place in steps])


def _in_cells(spec: MazeSpec, obs: Points, *names: str) -> Points:
    """Named places in units of cells, one row each."""
    return _read(spec, obs, *names).T / spec.cell


def _read(spec: MazeSpec, obs: NDArray[np.floating], *names: str) -> Points:
    return np.asarray(obs, dtype=np.float64)[:, [spec.observation_names.index(name) for name in names]]


@cache
def _routes(spec: MazeSpec) -> NDArray[np.int64]:
    """[R, C, R, C, 2]: from a free cell to a free cell, the next cell."""
    rows, columns = len(spec.layout), len(spec.layout[0])
    routes = np.zeros((rows, columns, rows, columns, 2), dtype=np.int64)
    free = spec.cells(FREE + START)
    for goal in free:
        for cell, following in _towards(free, goal).items():
            routes[(*cell, *goal)] = following
    return routes


def _towards(free: list[Cell], goal: Cell) -> dict[Cell, Cell]:
    """The next cell on a shortest way to the goal, for each free cell that has one."""
    following, queue = {goal: goal}, deque([goal])
    while queue:
        row, column = queue.popleft()
        for cell in ((row, column + 1), (row, column - 1), (row + 1, column), (row - 1, column)):
            if cell in free and cell not in following:
                following[cell] = (row, column)
                queue.append(cell)
    return following
