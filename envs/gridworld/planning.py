"""What one fogged map allows: compiled kernels for visibility, shortest paths, skills and facts, looped over N maps.

Every function here reads the observation alone (`uint8 [W, H, 4]`, see `GridSimulator`). Poses are (x, y, direction)
with unit costs for turning and stepping; breadth-first search is then uniform-cost search.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from preceptor.envs.gridworld.cells import STEP_X, STEP_Y
from preceptor.envs.gridworld.sight import fill_runs

UNSEEN, EMPTY, WALL, FLOOR_TILE, DOOR, KEY, BALL, BOX, GOAL, LAVA = range(10)  # MiniGrid's object indices
LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE, WAIT = range(7)  # MiniGrid's actions; `done` does nothing, so it waits
CLOSED_DOOR, LOCKED_DOOR = 14, 15  # a thing may also be a door in one state: 13 + MiniGrid's door state
EXPLORE, GOTO, PICK, PUT, USE = range(5)  # kinds of option

# What a cell means to a planner. From `DEADLY` on it lets light pass, from `THING` on it holds a thing to pick up or
# can be walked on, and that from `PASSABLE` on.
UNKNOWN, OPAQUE, DEADLY, THING, PASSABLE, FREE = range(6)
_MEANING = np.array(  # of MiniGrid's objects; a door is open here
    [UNKNOWN, FREE, OPAQUE, PASSABLE, PASSABLE, THING, THING, THING, PASSABLE, DEADLY, THING], np.int8
)
_RING_X = np.array([-1, 0, 1, 1, 1, 0, -1, -1])  # the eight neighbours in order round the centre
_RING_Y = np.array([-1, -1, -1, 0, 1, 1, 1, 0])
ANY = -1  # stands for every colour
ANYWHERE, OFF_DOORS, CAREFUL, PASSING, TIDY = range(5)  # how choosy to be about where things are put


@njit(cache=True)
def read_map(image, lava_is_floor, cells):  # type: ignore[no-untyped-def]
    """Fill `cells` [W, H] with planner meanings; returns the agent's (x, y, direction)."""
    ax, ay, ad = 0, 0, 0
    for x in range(image.shape[0]):
        for y in range(image.shape[1]):
            kind = image[x, y, 0]
            cells[x, y] = _MEANING[kind]
            if kind == DOOR and image[x, y, 2] != 0:
                cells[x, y] = OPAQUE
            elif kind == LAVA and lava_is_floor:
                cells[x, y] = PASSABLE
            if image[x, y, 3] < 4:
                ax, ay, ad = x, y, int(image[x, y, 3])
                cells[x, y] = FREE  # the object shown here is the one in the agent's hands
    return ax, ay, ad


@njit(cache=True)
def inside(cells, x, y):  # type: ignore[no-untyped-def]
    """Whether a cell is on the grid."""
    return 0 <= x < cells.shape[0] and 0 <= y < cells.shape[1]


@njit(cache=True)
def means(cells, x, y, least):  # type: ignore[no-untyped-def]
    """Whether a cell is on the grid and its value is at least `least`."""
    return inside(cells, x, y) and cells[x, y] >= least


@njit(cache=True)
def beside(cells, x, y, least):  # type: ignore[no-untyped-def]
    """Whether one of the four neighbours of a cell `means` that."""
    found = False
    for d in range(4):
        found |= means(cells, x + STEP_X[d], y + STEP_Y[d], least)
    return found


@njit(cache=True)
def _sees_marked(cells, marked, x, y, d, size):  # type: ignore[no-untyped-def]
    """Whether a marked unseen cell is certain to be seen from a pose; `size` is the width of the view.

    MiniGrid's visibility, as in `sight.py`, with unseen cells taken as opaque. Its result only grows as cells let more
    light pass, so what it promises is seen. Hence no such cell is ever promised to the pose that the agent already
    looks from.
    """
    full, light = (1 << size) - 1, 1 << (size // 2)
    for ahead in range(size):
        clear, hoped = 0, 0
        for side in range(size):
            right = side - size // 2
            i, j = x + ahead * STEP_X[d] - right * STEP_Y[d], y + ahead * STEP_Y[d] + right * STEP_X[d]
            if inside(cells, i, j):
                clear |= int(cells[i, j] >= DEADLY) << side
                hoped |= int(marked[i, j]) << side
        spread = fill_runs(light, clear)
        spread |= (spread << 1 | spread >> 1) & full
        if (light | spread) & hoped:
            return True
        light = spread
        if light == 0:
            break
    return False


@njit(cache=True)
def _is_target(image, x, y, kind, colour):  # type: ignore[no-untyped-def]
    """Whether a cell other than the agent's shows such a thing; doors count while they are shut."""
    door = kind == DOOR or kind >= CLOSED_DOOR
    if image[x, y, 0] != (DOOR if door else kind) or image[x, y, 3] < 4:
        return False
    if door and (image[x, y, 2] == 0 or (kind != DOOR and image[x, y, 2] != kind - 13)):
        return False
    return colour == ANY or image[x, y, 1] == colour


@njit(cache=True)
def can_put(image, cells, x, y, care):  # type: ignore[no-untyped-def]
    """Whether a thing may be put on a cell.

    Args:
        care: `ANYWHERE` asks for bare floor, `OFF_DOORS` for such that is not beside a door, `CAREFUL` also that no
            neighbour is unseen (it may be a door) and that whatever can be walked to or picked up around the cell stays
            connected round it, so that nothing is cut off. `PASSING` asks
            that of what can be walked on alone, and `TIDY` also that it is beside no other thing.
    """
    if image[x, y, 0] != EMPTY or image[x, y, 3] < 4:  # what lies under the agent is not on the map
        return False
    for d in range(4 if care > ANYWHERE else 0):
        i, j = x + STEP_X[d], y + STEP_Y[d]
        if inside(cells, i, j) and (image[i, j, 0] == DOOR or (care >= CAREFUL and cells[i, j] == UNKNOWN)):
            return False
        if care == TIDY and inside(cells, i, j) and cells[i, j] == THING:
            return False
    pieces, before, least = 0, True, PASSABLE if care >= PASSING else THING
    for k in range(9 if care >= CAREFUL else 0):  # once round and back to the start; a piece begins where an open
        is_open = means(cells, x + _RING_X[k % 8], y + _RING_Y[k % 8], least)  # cell follows a closed one
        pieces += is_open and not before
        before = is_open
    return pieces <= 1


@njit(cache=True)
def mark(image, cells, goal, kind, colour, care, marked):  # type: ignore[no-untyped-def]
    """Mark the cells that an option is for; whether there are any.

    EXPLORE is for unseen cells beside a seen cell that light passes. Room corners and everything behind a wall are
    beside opaque cells only, so they are never marked. GOTO is for a kind and colour of thing, and PUT for cells to put
    things on, as choosy as `care` says.
    """
    found = False
    for x in range(cells.shape[0]):
        for y in range(cells.shape[1]):
            if goal == EXPLORE:
                marked[x, y] = cells[x, y] == UNKNOWN and beside(cells, x, y, DEADLY)
            elif goal == GOTO:
                marked[x, y] = _is_target(image, x, y, kind, colour)
            else:
                marked[x, y] = can_put(image, cells, x, y, care)
            found |= marked[x, y]
    return found


@njit(cache=True)
def search(cells, marked, goal, pose, size, scratch):  # type: ignore[no-untyped-def]
    """First action, cost and end of a shortest path to the nearest pose that sees (EXPLORE) or faces a marked cell.

    They are (-1, -1, pose) if there is none. `size` is the width of the view; scratch is int32 [3, W * H * 4].
    """
    height = cells.shape[1]
    queue, cost, first = scratch[0], scratch[1], scratch[2]
    cost[:] = -1
    queue[0], cost[pose], first[pose] = pose, 0, -1
    head, tail = 0, 1
    while head < tail:
        here = queue[head]
        head += 1
        d, y, x = here % 4, (here // 4) % height, here // 4 // height
        i, j = x + STEP_X[d], y + STEP_Y[d]
        if _sees_marked(cells, marked, x, y, d, size) if goal == EXPLORE else means(marked, i, j, True):
            return first[here], cost[here], here
        for action in (FORWARD, LEFT, RIGHT):
            there = here - d + (d + (3 if action == LEFT else 1)) % 4
            if action == FORWARD:
                if not means(cells, i, j, PASSABLE):
                    continue
                there = (i * height + j) * 4 + d
            if cost[there] < 0:
                cost[there] = cost[here] + 1
                first[there] = action if first[here] < 0 else first[here]
                queue[tail] = there
                tail += 1
    return -1, -1, pose


@njit(cache=True)
def plan(obs, option, things, colours, sight, out):  # type: ignore[no-untyped-def]
    """What each option does next on each map, and where that leads.

    Args:
        obs: uint8 [N, W, H, 4].
        option: int64 [N]: 0 explores, 1 to T go to a thing, and the next three pick up, put down and use.
        things, colours: int64 [T], as in `read_facts`.
        sight: Width of the agent's view in cells; whether to plan as if lava were floor (a deliberately limited
            teacher); whether things may be put beside doors where there is no better place.
        out: Out, int64 [N, 4]: the next primitive action, WAIT where the option can do nothing or is there already;
            turns and steps still to go, -1 where there is no way; the cell (x, y) to act from, the agent's if no way.
    """
    (count, width, height, _), tracked = obs.shape, things.shape[0]
    view_size, lava_is_floor, cramped = sight
    cells, marked = np.zeros((width, height), np.int8), np.zeros((width, height), np.bool_)
    scratch = np.zeros((3, width * height * 4), np.int32)
    for n in range(count):
        image = obs[n]
        ax, ay, ad = read_map(image, lava_is_floor, cells)
        chosen = option[n]
        kind = EXPLORE if chosen == 0 else GOTO if chosen <= tracked else PICK + chosen - tracked - 1
        thing, colour = (things[chosen - 1], colours[chosen - 1]) if kind == GOTO else (0, 0)
        i, j = ax + STEP_X[ad], ay + STEP_Y[ad]
        front = int(image[i, j, 0]) if inside(cells, i, j) else WALL
        held = image[ax, ay, 0] in (KEY, BALL, BOX)
        move, left, end = WAIT, -1, (ax * height + ay) * 4 + ad
        if kind == PICK and not held and front in (KEY, BALL, BOX):
            move, left = PICKUP, 0
        elif kind == USE and (front == BOX or (front == DOOR and image[i, j, 2] != 0)):
            move, left = TOGGLE, 0
        elif kind in (EXPLORE, GOTO) or (kind == PUT and held):
            care, least = (CAREFUL, ANYWHERE if cramped else OFF_DOORS) if kind == PUT else (0, 0)
            while left < 0 and care >= least:
                if mark(image, cells, kind, thing, colour, care, marked):
                    move, left, end = search(cells, marked, kind, end, view_size, scratch)
                care -= 1
            if kind == GOTO and thing == GOAL and left >= 0:
                move, left = FORWARD if left == 0 else move, left + 1  # a goal is entered, all else is only faced
            elif left <= 0:
                move = DROP if kind == PUT and left == 0 else WAIT
        out[n, 0], out[n, 1] = move, left
        out[n, 2], out[n, 3] = end // 4 // height, end // 4 % height


@njit(cache=True)
def flood(cells, ax, ay, reach, queue):  # type: ignore[no-untyped-def]
    """Mark the cells that can be walked to; turning is free of obstacles, so cells stand for all their poses."""
    height = cells.shape[1]
    reach[:, :] = False
    reach[ax, ay], queue[0] = True, ax * height + ay
    head, tail = 0, 1
    while head < tail:
        x, y = queue[head] // height, queue[head] % height
        head += 1
        for d in range(4):
            i, j = x + STEP_X[d], y + STEP_Y[d]
            if means(cells, i, j, PASSABLE) and not reach[i, j]:
                reach[i, j], queue[tail] = True, i * height + j
                tail += 1


@njit(cache=True)
def _note_things(image, pose, reach, things, colours, row):  # type: ignore[no-untyped-def]
    """Write what is known of each thing, held and in front, and whether lava was seen, into `row` of `read_facts`."""
    ax, ay, ad = pose
    tracked = things.shape[0]
    for x in range(image.shape[0]):
        for y in range(image.shape[1]):
            kind = image[x, y, 0]
            if kind == LAVA:
                row[tracked + 5] = 1
            if kind < DOOR or kind > GOAL:
                continue
            for t in range(tracked):
                if x == ax and y == ay:
                    if kind == things[t] and (colours[t] == ANY or colours[t] == image[x, y, 1]):
                        row[tracked + 1] = t + 1
                elif _is_target(image, x, y, things[t], colours[t]):
                    status = 1 if beside(reach, x, y, True) else 2
                    if row[t] == 0 or status < row[t]:
                        row[t] = status
                        if kind == DOOR and things[t] != CLOSED_DOOR:
                            row[tracked] = image[x, y, 1] + 1
                    if x == ax + STEP_X[ad] and y == ay + STEP_Y[ad]:
                        row[tracked + 2] = t + 1


@njit(cache=True)
def read_facts(obs, things, colours, sight, fields):  # type: ignore[no-untyped-def]
    """The facts of each map as small integers, T things tracked.

    Args:
        obs: uint8 [N, W, H, 4].
        things, colours: int64 [T]: object index (or `CLOSED_DOOR`, `LOCKED_DOOR`) and colour of each tracked thing, -1
            for any colour.
        sight: As in `plan`.
        fields: Out, int64 [N, T + 6]: per thing 0 unknown, 1 reachable, 2 blocked; then colour of a shut door that may
            need a key + 1 (0 if none is known; the reachable one if several); thing held + 1; thing in front + 1;
            reachable frontier; somewhere to put what is held (1 with empty hands); lava seen.
    """
    (count, width, height, _), tracked = obs.shape, things.shape[0]
    view_size, lava_is_floor, cramped = sight
    cells = np.zeros((width, height), np.int8)
    marked, reach = np.zeros((width, height), np.bool_), np.zeros((width, height), np.bool_)
    scratch = np.zeros((3, width * height * 4), np.int32)
    care = ANYWHERE if cramped else OFF_DOORS
    for n in range(count):
        image, row = obs[n], fields[n]
        ax, ay, ad = read_map(image, lava_is_floor, cells)
        flood(cells, ax, ay, reach, scratch[0])
        row[:] = 0
        _note_things(image, (ax, ay, ad), reach, things, colours, row)
        pose = (ax * height + ay) * 4 + ad
        row[tracked + 4] = 1
        if mark(image, cells, EXPLORE, 0, 0, care, marked):
            row[tracked + 3] = search(cells, marked, EXPLORE, pose, view_size, scratch)[1] >= 0
        if row[tracked + 1] != 0:
            place = mark(image, cells, PUT, 0, 0, care, marked)
            row[tracked + 4] = place and search(cells, marked, PUT, pose, view_size, scratch)[1] >= 0


def for_kernels(obs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The observations as the one array type that the kernels are compiled for; copied if strided or read-only."""
    return np.require(obs, np.uint8, ["C", "W"])
