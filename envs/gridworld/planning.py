"""What one fogged map allows: compiled kernels for visibility, shortest paths, skills and facts, looped over N maps.

Every function here reads the observation alone (`uint8 [W, H, 4]`, see `envs.gridworld.vector`). All kernels live in
this one file on purpose: numba's on-disk cache notices a changed file, but not a changed callee in another one.

Poses are (x, y, direction) with unit costs for turning and stepping; breadth-first search is then uniform-cost search.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

UNSEEN, EMPTY, WALL, FLOOR_TILE, DOOR, KEY, BALL, BOX, GOAL, LAVA = range(10)  # MiniGrid's object indices
LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE, WAIT = range(7)  # MiniGrid's actions; `done` does nothing, so it waits
CLOSED_DOOR, LOCKED_DOOR = 14, 15  # a thing may also be a door in one state: 13 + MiniGrid's door state
EXPLORE, GOTO, PICK, PUT, USE = range(5)  # kinds of option

_UNKNOWN, _FREE, _PASSABLE, _OPAQUE, _DEADLY, _THING = range(6)  # what a cell means to a planner
_DX = np.array([1, 0, -1, 0])  # directions 0..3 = east, south, west, north; y grows southwards
_DY = np.array([0, 1, 0, -1])
_RING_X = np.array([-1, 0, 1, 1, 1, 0, -1, -1])  # the eight neighbours in order round the centre
_RING_Y = np.array([-1, -1, -1, 0, 1, 1, 1, 0])
_ANY = -1  # stands for every colour
_ANYWHERE, _OFF_DOORS, _CAREFUL = range(3)  # how choosy to be about where things are put


@njit(cache=True)
def _read_map(image, lava_is_floor, cells):  # type: ignore[no-untyped-def]
    """Fill `cells` [W, H] with planner meanings; returns the agent's (x, y, direction)."""
    ax, ay, ad = 0, 0, 0
    for x in range(image.shape[0]):
        for y in range(image.shape[1]):
            kind = image[x, y, 0]
            if image[x, y, 3] < 4:
                ax, ay, ad = x, y, int(image[x, y, 3])
                cells[x, y] = _FREE  # the object shown here is the one in the agent's hands
            elif kind == UNSEEN:
                cells[x, y] = _UNKNOWN
            elif kind == EMPTY:
                cells[x, y] = _FREE
            elif kind in (FLOOR_TILE, GOAL) or (kind == DOOR and image[x, y, 2] == 0):
                cells[x, y] = _PASSABLE
            elif kind == LAVA:
                cells[x, y] = _PASSABLE if lava_is_floor else _DEADLY
            elif kind in (WALL, DOOR):
                cells[x, y] = _OPAQUE
            else:
                cells[x, y] = _THING
    return ax, ay, ad


@njit(cache=True)
def _inside(cells, x, y):  # type: ignore[no-untyped-def]
    return 0 <= x < cells.shape[0] and 0 <= y < cells.shape[1]


@njit(cache=True)
def _is_seen_through(meaning):  # type: ignore[no-untyped-def]
    return meaning != _UNKNOWN and meaning != _OPAQUE


@njit(cache=True)
def _mark_wanted(cells, wanted):  # type: ignore[no-untyped-def]
    """Mark unseen cells beside a seen cell that light passes; returns how many.

    Room corners and everything behind a wall are beside opaque cells only, so they are never wanted.
    """
    count = 0
    for x in range(cells.shape[0]):
        for y in range(cells.shape[1]):
            wanted[x, y] = False
            if cells[x, y] != _UNKNOWN:
                continue
            for d in range(4):
                i, j = x + _DX[d], y + _DY[d]
                if _inside(cells, i, j) and _is_seen_through(cells[i, j]):
                    wanted[x, y] = True
                    count += 1
                    break
    return count


@njit(cache=True)
def _lets_through(cells, x, y, d, side, row, size):  # type: ignore[no-untyped-def]
    """Whether the cell at view coordinates (side, row) is known to let light pass."""
    ahead, right = size - 1 - row, side - size // 2
    i = x + ahead * _DX[d] - right * _DY[d]
    j = y + ahead * _DY[d] + right * _DX[d]
    return _inside(cells, i, j) and _is_seen_through(cells[i, j])


@njit(cache=True)
def _view_has_wanted(cells, wanted, x, y, d, lit):  # type: ignore[no-untyped-def]
    """Whether a wanted cell is certain to be seen from a pose.

    MiniGrid's `process_vis` with unseen cells taken as opaque. Its result only grows as cells let more light pass, so
    what it promises is seen. Hence no wanted cell is ever promised to the pose that the agent already looks from.

    Args:
        lit: Scratch, bool [size, size], the view; the agent looks up from the middle of the last row.
    """
    size = lit.shape[0]
    half = size // 2
    found = False
    for ahead in range(size):
        for right in range(-half, half + 1):
            i = x + ahead * _DX[d] - right * _DY[d]
            j = y + ahead * _DY[d] + right * _DX[d]
            if _inside(cells, i, j) and wanted[i, j]:
                found = True
    if not found:
        return False
    lit[:, :] = False
    lit[half, size - 1] = True
    for row in range(size - 1, -1, -1):
        for side in range(size - 1):
            if lit[side, row] and _lets_through(cells, x, y, d, side, row, size):
                lit[side + 1, row] = True
                if row > 0:
                    lit[side + 1, row - 1] = True
                    lit[side, row - 1] = True
        for side in range(size - 1, 0, -1):
            if lit[side, row] and _lets_through(cells, x, y, d, side, row, size):
                lit[side - 1, row] = True
                if row > 0:
                    lit[side - 1, row - 1] = True
                    lit[side, row - 1] = True
    for row in range(size):
        for side in range(size):
            if lit[side, row]:
                ahead, right = size - 1 - row, side - half
                i = x + ahead * _DX[d] - right * _DY[d]
                j = y + ahead * _DY[d] + right * _DX[d]
                if _inside(cells, i, j) and wanted[i, j]:
                    return True
    return False


@njit(cache=True)
def _is_target(image, x, y, kind, colour):  # type: ignore[no-untyped-def]
    """Whether a cell other than the agent's shows such a thing; doors count while they are shut."""
    door = kind == DOOR or kind >= CLOSED_DOOR
    if image[x, y, 0] != (DOOR if door else kind) or image[x, y, 3] < 4:
        return False
    if door and (image[x, y, 2] == 0 or (kind != DOOR and image[x, y, 2] != kind - 13)):
        return False
    return colour == _ANY or image[x, y, 1] == colour


@njit(cache=True)
def _can_put(image, cells, x, y, care):  # type: ignore[no-untyped-def]
    """Whether a thing may be put on a cell.

    Args:
        care: `_ANYWHERE` asks for bare floor, `_OFF_DOORS` for such that is not beside a door, `_CAREFUL` also that no
            neighbour is unseen (it may be a door) and that whatever can be walked to or picked up around the cell stays
            connected round it, so that nothing is cut off.
    """
    if image[x, y, 0] != EMPTY or image[x, y, 3] < 4:  # what lies under the agent is not on the map
        return False
    if care == _ANYWHERE:
        return True
    for d in range(4):
        i, j = x + _DX[d], y + _DY[d]
        if _inside(cells, i, j) and (image[i, j, 0] == DOOR or (care == _CAREFUL and cells[i, j] == _UNKNOWN)):
            return False
    if care == _OFF_DOORS:
        return True
    pieces, before = 0, False
    for k in range(9):  # once round and back to the start; a piece begins where an open cell follows a closed one
        i, j = x + _RING_X[k % 8], y + _RING_Y[k % 8]
        is_open = False
        if _inside(cells, i, j):
            is_open = cells[i, j] == _FREE or cells[i, j] == _PASSABLE or cells[i, j] == _THING
        if k > 0 and is_open and not before:
            pieces += 1
        before = is_open
    return pieces <= 1


@njit(cache=True)
def _search(image, cells, wanted, pose, goal, kind, colour, care, lit, seen_at, stamp, queue, cost, first):  # type: ignore[no-untyped-def]
    """First action, cost and end of a shortest path to the nearest pose of a kind; (-1, -1, pose) if there is none.

    Args:
        goal: EXPLORE (sees a wanted cell), GOTO (faces the target) or PUT (faces a cell to put things on).
        kind, colour: The target of GOTO.
        care: How choosy PUT is.
        seen_at, stamp, queue, cost, first: Scratch of length W * H * 4; a pose is visited if `seen_at == stamp`.
    """
    height = cells.shape[1]
    queue[0] = pose
    seen_at[pose] = stamp
    cost[pose] = 0
    first[pose] = -1
    head, tail = 0, 1
    while head < tail:
        here = queue[head]
        head += 1
        d, y, x = here % 4, (here // 4) % height, here // 4 // height
        i, j = x + _DX[d], y + _DY[d]
        ahead_inside = _inside(cells, i, j)
        if goal == EXPLORE:
            found = _view_has_wanted(cells, wanted, x, y, d, lit)
        elif goal == GOTO:
            found = ahead_inside and _is_target(image, i, j, kind, colour)
        else:
            found = ahead_inside and _can_put(image, cells, i, j, care)
        if found:
            return first[here], cost[here], here
        for action in (FORWARD, LEFT, RIGHT):
            if action == FORWARD:
                if not ahead_inside or (cells[i, j] != _FREE and cells[i, j] != _PASSABLE):
                    continue
                there = (i * height + j) * 4 + d
            else:
                there = here - d + (d + (3 if action == LEFT else 1)) % 4
            if seen_at[there] != stamp:
                seen_at[there] = stamp
                cost[there] = cost[here] + 1
                first[there] = action if first[here] < 0 else first[here]
                queue[tail] = there
                tail += 1
    return -1, -1, pose


@njit(cache=True)
def plan(obs, option, kinds, things, colours, view_size, lava_is_floor, cramped, out):  # type: ignore[no-untyped-def]
    """What each option does next on each map, and where that leads.

    Args:
        obs: uint8 [N, W, H, 4].
        option: int64 [N], rows of the option tables below.
        kinds, things, colours: int64 [K]: EXPLORE.. USE; target object and colour of GOTO, -1 for any colour.
        view_size: Width of the agent's view in cells.
        lava_is_floor: Plan as if lava were floor (a deliberately limited teacher).
        cramped: Things may be put beside doors where there is no better place.
        out: Out, int64 [N, 4]: the next primitive action, WAIT where the option can do nothing or is there already;
            turns and steps still to go, -1 where there is no way; the cell (x, y) to act from, the agent's if no way.
    """
    count, width, height = obs.shape[0], obs.shape[1], obs.shape[2]
    cells = np.zeros((width, height), np.int8)
    wanted = np.zeros((width, height), np.bool_)
    lit = np.zeros((view_size, view_size), np.bool_)
    seen_at = np.full(width * height * 4, -1, np.int64)
    queue = np.empty(width * height * 4, np.int64)
    cost = np.empty(width * height * 4, np.int64)
    first = np.empty(width * height * 4, np.int64)
    for n in range(count):
        image = obs[n]
        ax, ay, ad = _read_map(image, lava_is_floor, cells)
        kind = kinds[option[n]]
        i, j = ax + _DX[ad], ay + _DY[ad]
        front = int(image[i, j, 0]) if _inside(cells, i, j) else WALL
        held = image[ax, ay, 0] in (KEY, BALL, BOX)
        pose = (ax * height + ay) * 4 + ad
        move, left, end = WAIT, -1, pose
        thing, colour = things[option[n]], colours[option[n]]
        if kind == PICK and not held and front in (KEY, BALL, BOX):
            move, left = PICKUP, 0
        elif kind == USE and (front == BOX or (front == DOOR and image[i, j, 2] != 0)):
            move, left = TOGGLE, 0
        elif kind == GOTO or (kind == PUT and held) or (kind == EXPLORE and _mark_wanted(cells, wanted) > 0):
            for care in range(_CAREFUL, (_ANYWHERE if cramped else _OFF_DOORS) - 1, -1):
                stamp = 3 * n + care
                move, left, end = _search(
                    image, cells, wanted, pose, kind, thing, colour, care, lit, seen_at, stamp, queue, cost, first
                )
                if kind != PUT or left >= 0:
                    break
            if kind == GOTO and thing == GOAL and left >= 0:
                move, left = FORWARD if left == 0 else move, left + 1  # a goal is entered, all else is only faced
            elif left <= 0:
                move = DROP if kind == PUT and left == 0 else WAIT
        out[n, 0], out[n, 1] = move, left
        out[n, 2], out[n, 3] = end // 4 // height, end // 4 % height


@njit(cache=True)
def _flood(cells, ax, ay, reach, queue):  # type: ignore[no-untyped-def]
    """Mark the cells that can be walked to; turning is free of obstacles, so cells stand for all their poses."""
    height = cells.shape[1]
    reach[:, :] = False
    reach[ax, ay] = True
    queue[0] = ax * height + ay
    head, tail = 0, 1
    while head < tail:
        x, y = queue[head] // height, queue[head] % height
        head += 1
        for d in range(4):
            i, j = x + _DX[d], y + _DY[d]
            if _inside(cells, i, j) and not reach[i, j] and (cells[i, j] == _FREE or cells[i, j] == _PASSABLE):
                reach[i, j] = True
                queue[tail] = i * height + j
                tail += 1


@njit(cache=True)
def _beside_reach(reach, x, y):  # type: ignore[no-untyped-def]
    for d in range(4):
        i, j = x + _DX[d], y + _DY[d]
        if _inside(reach, i, j) and reach[i, j]:
            return True
    return False


@njit(cache=True)
def _frontier_reachable(cells, wanted, reach, lit):  # type: ignore[no-untyped-def]
    """Whether a reachable pose is certain to see a wanted cell; facing one from beside it is the common case."""
    for x in range(cells.shape[0]):
        for y in range(cells.shape[1]):
            if wanted[x, y] and _beside_reach(reach, x, y):
                return True
    for x in range(cells.shape[0]):
        for y in range(cells.shape[1]):
            if reach[x, y]:
                for d in range(4):
                    if _view_has_wanted(cells, wanted, x, y, d, lit):
                        return True
    return False


@njit(cache=True)
def _put_reachable(image, cells, reach, care):  # type: ignore[no-untyped-def]
    for x in range(cells.shape[0]):
        for y in range(cells.shape[1]):
            if _beside_reach(reach, x, y) and _can_put(image, cells, x, y, care):
                return True
    return False


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
                    if kind == things[t] and (colours[t] == _ANY or colours[t] == image[x, y, 1]):
                        row[tracked + 1] = t + 1
                elif _is_target(image, x, y, things[t], colours[t]):
                    status = 1 if _beside_reach(reach, x, y) else 2
                    if row[t] == 0 or status < row[t]:
                        row[t] = status
                        if kind == DOOR and things[t] != CLOSED_DOOR:
                            row[tracked] = image[x, y, 1] + 1
                    if x == ax + _DX[ad] and y == ay + _DY[ad]:
                        row[tracked + 2] = t + 1


@njit(cache=True)
def read_facts(obs, things, colours, view_size, lava_is_floor, cramped, fields):  # type: ignore[no-untyped-def]
    """The facts of each map as small integers, T things tracked.

    Args:
        obs: uint8 [N, W, H, 4].
        things, colours: int64 [T]: object index (or `CLOSED_DOOR`, `LOCKED_DOOR`) and colour of each tracked thing, -1
            for any colour.
        view_size, lava_is_floor, cramped: As in `plan`.
        fields: Out, int64 [N, T + 6]: per thing 0 unknown, 1 reachable, 2 blocked; then colour of a shut door that may
            need a key + 1 (0 if none is known; the reachable one if several); thing held + 1; thing in front + 1;
            reachable frontier; somewhere to put what is held (1 with empty hands); lava seen.
    """
    count, width, height, tracked = obs.shape[0], obs.shape[1], obs.shape[2], things.shape[0]
    cells = np.zeros((width, height), np.int8)
    wanted = np.zeros((width, height), np.bool_)
    reach = np.zeros((width, height), np.bool_)
    lit = np.zeros((view_size, view_size), np.bool_)
    queue = np.empty(width * height, np.int64)
    care = _ANYWHERE if cramped else _OFF_DOORS
    for n in range(count):
        image, row = obs[n], fields[n]
        ax, ay, ad = _read_map(image, lava_is_floor, cells)
        _flood(cells, ax, ay, reach, queue)
        row[:] = 0
        _note_things(image, (ax, ay, ad), reach, things, colours, row)
        if _mark_wanted(cells, wanted) > 0 and _frontier_reachable(cells, wanted, reach, lit):
            row[tracked + 3] = 1
        if row[tracked + 1] == 0 or _put_reachable(image, cells, reach, care):
            row[tracked + 4] = 1


def facts_of(
    obs: NDArray[np.uint8],
    things: NDArray[np.int64],
    colours: NDArray[np.int64],
    view_size: int,
    lava_is_floor: bool,
    cramped: bool,
) -> NDArray[np.int64]:
    """`read_facts` of observations [N, W, H, 4] into a fresh array [N, T + 6]."""
    fields = np.empty((len(obs), len(things) + 6), np.int64)
    read_facts(for_kernels(obs), things, colours, view_size, lava_is_floor, cramped, fields)
    return fields


def for_kernels(obs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The observations as the one array type that the kernels are compiled for; copied if strided or read-only."""
    return np.require(obs, np.uint8, ["C", "W"])
