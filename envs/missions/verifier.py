"""BabyAI's verifier for N grids: after each step of the engine, what has become of their missions.

It follows objects by marks, one bit for each description of the mission. What BabyAI believes of their places is
refreshed when a drop is tried, and not before, so the place from which an object was taken still counts until then.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from preceptor.envs.gridworld.cells import BOX, DOOR_CLOSED, DOOR_LOCKED, DOOR_OPEN, STEP_X, STEP_Y, kind_of
from preceptor.envs.gridworld.engine import (
    DIED,
    DROP,
    GOES_ON,
    PICKUP,
    SUCCEEDED,
    TOGGLE,
    Cells,
    Ends,
    Grids,
)
from preceptor.envs.missions.levels import ORDER, Missions

GOTO, OPEN, PICK_UP, PUT_NEXT = range(4)  # indices in `VERBS`


class Progress(NamedTuple):
    """How far the missions of N grids have come.

    Attributes:
        marks: uint8 [N, W, H], of the objects on the grid.
        places: uint8 [N, W, H], where the verifier believes them to be.
        carried_marks: uint8 [N], of what is carried.
        picked: uint8 [N, 2], from which cell that was picked up; zeros if nothing is carried, or since the start.
        done: uint8 [N, 4], whether each clause is done; `ABSENT` for those that are not there.
        verified: bool [N, 4], whether each has been looked at; what was carried before that does not count.
    """

    marks: NDArray[np.uint8]
    places: NDArray[np.uint8]
    carried_marks: NDArray[np.uint8]
    picked: NDArray[np.uint8]
    done: NDArray[np.uint8]
    verified: NDArray[np.bool_]


@njit(cache=True)
def front(grids: Grids, cells: Cells, out: NDArray[np.int64]) -> None:
    """What each agent carries and what is in front of it, into `out` [N, 2], as stored cells."""
    for n in range(cells.shape[0]):
        grid = grids[n]
        out[n, 0] = grid.carried
        out[n, 1] = cells[n, grid.x + STEP_X[grid.direction], grid.y + STEP_Y[grid.direction]]


@njit(cache=True)
def _follow(progress: Progress, n: int, x: int, y: int, action: int, before: NDArray[np.int64], carried: int) -> None:
    """Carry the marks of an object along: picked up, put down, or a box that was destroyed. (x, y) is in front."""
    if action == PICKUP and before[0] == 0 and carried != 0:
        progress.carried_marks[n] = progress.marks[n, x, y]
        progress.marks[n, x, y] = 0
        progress.picked[n, 0], progress.picked[n, 1] = x, y
    elif action == DROP and before[0] != 0 and carried == 0:
        progress.marks[n, x, y] = progress.carried_marks[n]
        progress.carried_marks[n] = 0
        progress.picked[n] = 0
    elif action == TOGGLE and kind_of(before[1]) == BOX:
        progress.marks[n, x, y] = 0
    if action == DROP:
        progress.places[n] = progress.marks[n]


@njit(cache=True)
def _clause(
    missions: Missions,
    progress: Progress,
    at: tuple[int, int, int, int, int],
    action: int,
    held: tuple[int, int, int],
    ahead: int,
) -> int:
    """One clause: `SUCCEEDED`, `DIED` (it failed) or `GOES_ON`.

    Args:
        missions, progress: See there.
        at: Grid, level, clause, and the cell (x, y) in front.
        action: Of the step.
        held: What was carried before it, its marks, and what is carried now.
        ahead: What is in front now.
    """
    n, level, k, x, y = at
    before, marks_before, now = held
    verb, strict = missions.verbs[level, k], missions.strict[level] >> k & 1
    if not progress.verified[n, k]:
        before, marks_before, progress.verified[n, k] = 0, 0, True
    what, beside = np.uint8(1 << 2 * k), np.uint8(2 << 2 * k)
    if verb == GOTO:
        return SUCCEEDED if progress.places[n, x, y] & what else GOES_ON
    if verb == OPEN and action == TOGGLE:
        kind = kind_of(ahead)
        if kind == DOOR_OPEN and progress.marks[n, x, y] & what:
            return SUCCEEDED
        return DIED if strict and kind in (DOOR_OPEN, DOOR_CLOSED, DOOR_LOCKED) else GOES_ON
    if verb == PICK_UP and action == PICKUP and now != 0:
        if before == 0 and progress.carried_marks[n] & what:
            return SUCCEEDED
        return DIED if strict else GOES_ON
    if verb == PUT_NEXT:
        if strict and action == PICKUP and now != 0:
            return DIED
        if action == DROP and now == 0 and before != 0 and marks_before & what:
            for d in range(4):  # an object is never on the outer wall
                if progress.places[n, x + STEP_X[d], y + STEP_Y[d]] & beside:
                    return SUCCEEDED
    return GOES_ON


@njit(cache=True)
def _group(
    missions: Missions,
    progress: Progress,
    at: tuple[int, int, int, int, int],
    action: int,
    held: tuple[int, int, int],
    ahead: int,
) -> int:
    """The clauses from the one in `at` on that are done in any order. A clause that is not alone cannot fail."""
    n, level, start, x, y = at
    stop = missions.first[level] if start == 0 else 4
    while stop > start and missions.verbs[level, stop - 1] < 0:
        stop -= 1
    left, result = 0, GOES_ON
    for k in range(start, stop):
        if not progress.done[n, k]:
            result = _clause(missions, progress, (n, level, k, x, y), action, held, ahead)
            progress.done[n, k] = result == SUCCEEDED
            left += result != SUCCEEDED
    return SUCCEEDED if left == 0 else result if stop - start == 1 else GOES_ON


@njit(cache=True)
def verify(
    missions: Missions,
    first_seed: int,
    grids: Grids,
    cells: Cells,
    actions: NDArray[np.int64],
    before: NDArray[np.int64],
    progress: Progress,
    reward: NDArray[np.float64],
    ends: Ends,
) -> None:
    """What a step that the engine has made means for the missions.

    Args:
        missions: Of the levels from `first_seed` on.
        first_seed: Of the pool.
        grids, cells: The state after the step.
        actions: int64 [N].
        before: int64 [N, 2], what `front` said before the step.
        progress: Updated.
        reward, ends: Output, [N] and [3, N], as `engine.step` has them.
    """
    for n in range(cells.shape[0]):
        grid = grids[n]
        level = grid.level_seed - first_seed
        x, y = grid.x + STEP_X[grid.direction], grid.y + STEP_Y[grid.direction]
        held = before[n, 0], np.int64(progress.carried_marks[n]), grid.carried
        _follow(progress, n, x, y, actions[n], before[n], grid.carried)
        ahead, then = np.int64(cells[n, x, y]), missions.first[level]
        result = SUCCEEDED
        if not progress.done[n, :then].all():
            result = _group(missions, progress, (n, level, 0, x, y), actions[n], held, ahead)
        if then < 4 and missions.verbs[level, then] >= 0:
            if result == SUCCEEDED:
                result = _group(missions, progress, (n, level, then, x, y), actions[n], held, ahead)
            elif result == GOES_ON and missions.strict[level] & ORDER:
                early = _group(missions, progress, (n, level, then, x, y), actions[n], held, ahead)
                result = DIED if early == SUCCEEDED else GOES_ON
        limit = missions.limit[level]
        ends[0, n], ends[1, n], ends[2, n] = result != GOES_ON, grid.clock >= limit, result == SUCCEEDED
        reward[n] = 1 - 0.9 * (grid.clock / limit) if result == SUCCEEDED else 0.0
