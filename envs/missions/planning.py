"""What each option does next on a map: a compiled kernel over N maps."""

import numpy as np
from numba import njit

from preceptor.envs.gridworld.cells import STEP_X, STEP_Y
from preceptor.envs.gridworld.planning import (
    ANYWHERE,
    BALL,
    BOX,
    CAREFUL,
    DROP,
    EXPLORE,
    GOTO,
    KEY,
    PICKUP,
    PUT,
    THING,
    TOGGLE,
    WAIT,
    mark,
    read_map,
    search,
)
from preceptor.envs.missions.reading import (
    CARRY_ASIDE,
    CLEAR,
    FIRST_TARGET,
    PICK_UP,
    PUT_DOWN,
    TARGETS,
    USE,
    aside,
    can_lie,
    fits,
    keep_beside,
    kind_at,
    mark_target,
)

_NUM_TARGETS = len(TARGETS)


@njit(cache=True)
def plan(images, frame, option, cleared, sight, out):  # type: ignore[no-untyped-def]
    """What each option [N] does next on each map, and where that leads.

    Args:
        images, frame, sight: As in `read`.
        option: int64 [N].
        cleared: int64 [N], the cells that `read` says are to be turned to; of those that clear the way.
        out: Out, int64 [N, 4], as `gridworld.planning.plan` has it.
    """
    count, width, height, _ = images.shape
    cells, marked = np.zeros((width, height), np.int8), np.zeros((width, height), np.bool_)
    scratch = np.zeros((3, width * height * 4), np.int32)
    size, room = sight
    targets = _NUM_TARGETS
    for n in range(count):
        image, chosen = images[n], option[n]
        ax, ay, ad = read_map(image, False, cells)
        end = (ax * height + ay) * 4 + ad
        move, left = WAIT, -1
        ahead = kind_at(image, ax + STEP_X[ad], ay + STEP_Y[ad])
        held = image[ax, ay, 0] in (KEY, BALL, BOX)
        if chosen == 0:
            if mark(image, cells, EXPLORE, 0, 0, 0, marked):
                move, left, end = search(cells, marked, EXPLORE, end, size, scratch)
        elif chosen == PICK_UP:
            move, left = (PICKUP, 0) if 0 < ahead < 4 and not held else (move, left)
        elif chosen == PUT_DOWN:
            move, left = (DROP, 0) if held and can_lie(image, cells, ax + STEP_X[ad], ay + STEP_Y[ad]) else (move, left)
        elif chosen == USE:
            move, left = (TOGGLE, 0) if ahead == 1 or ahead >= 4 else (move, left)
        elif chosen == CARRY_ASIDE:
            if held:
                move, left = aside(image, cells, end, size, marked, scratch)
        elif chosen == CLEAR:
            if cleared[n] >= 0:
                marked[:, :] = False
                marked[cleared[n] // height, cleared[n] % height] = True
                move, left, end = search(cells, marked, GOTO, end, size, scratch)
        elif chosen < FIRST_TARGET + targets:
            mark_target(image, chosen - FIRST_TARGET, frame[n], room, marked)
            move, left, end = search(cells, marked, GOTO, end, size, scratch)
        elif held:
            target = chosen - FIRST_TARGET - targets
            move, left, end = _beside(image, cells, target, end, frame[n], sight, marked, scratch)
        out[n, 0], out[n, 1] = move if move >= 0 else WAIT, left
        out[n, 2], out[n, 3] = end // 4 // height, end // 4 % height


@njit(cache=True)
def _beside(image, cells, target, pose, frame, sight, marked, scratch):  # type: ignore[no-untyped-def]
    """First action, cost and end of the way to where what is held can be put down beside a target; cost -1 if none.

    If possible not from the doorway that is the target: who stands there does not see it.
    """
    size, room = sight
    for through in (False, True):
        read_map(image, False, cells)
        for x in range(0 if through else cells.shape[0]):
            for y in range(cells.shape[1]):
                if fits(image, x, y, target, frame, room):
                    cells[x, y] = THING
        for care in range(CAREFUL, ANYWHERE - 1, -1):
            mark(image, cells, PUT, 0, 0, care, marked)
            keep_beside(image, target, frame, room, marked)
            move, left, end = search(cells, marked, PUT, pose, size, scratch)
            if left >= 0:
                return move, left, end
    return WAIT, -1, pose
