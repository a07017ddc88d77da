"""What one observation says of every description: a compiled kernel over N maps.

Options speak of `TARGETS`: colour x kind x place, numbered so that one pass over a map reads the status of all of them.
"""

import numpy as np
from numba import njit

from preceptor.envs.gridworld.cells import STEP_X, STEP_Y
from preceptor.envs.gridworld.planning import (
    ANYWHERE,
    DOOR,
    EMPTY,
    EXPLORE,
    PASSABLE,
    PUT,
    THING,
    TIDY,
    UNKNOWN,
    WAIT,
    flood,
    inside,
    mark,
    means,
    read_map,
    search,
)
from preceptor.envs.gridworld.scenes import COLOURS
from preceptor.envs.missions.mission import PLACES, Description

OBJECT, SHUT, LOCKED = 0, 5, 6  # of `KINDS_OF`
KINDS_OF = ("", "box", "ball", "key", "door", "closed door", "locked door")
PLACES_OF = ("", *PLACES)
TARGETS = tuple(
    Description(colour, kind, place) for colour in ("", *COLOURS) for kind in KINDS_OF for place in PLACES_OF
)
NAMES = tuple(" ".join(filter(None, (one.colour, one.kind or "object", one.place))) for one in TARGETS)
NUMBER = {target: number for number, target in enumerate(TARGETS)}
_KINDS, _PLACES, _KEY = len(KINDS_OF), len(PLACES_OF), KINDS_OF.index("key")
_KIND_OF = np.array([0, 0, 0, 0, 4, 3, 2, 1, 0, 0, 0])  # MiniGrid's object index -> `KINDS_OF`

# Bits of a status: one that fits can be reached; was seen, but not so; is in front; is held; what is held can be put
# down beside one; and can be at once; one that can be reached is locked. Controllers are also told whether something
# is to be dealt with first (for a shut door it can be itself), and can be; whether that is in front; whether it waits
# for a key that was not found; and whether what comes first is a door, so that hands need not be free. Where a
# description is of nothing that can be had, and nothing can be explored, that is what leads to the unexplored.
BITS = 11
REACHED, BLOCKED, FRONT, HELD, BESIDE, HERE, LOCK, FIRST, FACED, WAITS, OPENS = (1 << bit for bit in range(BITS))
SAID = FIRST - 1  # what scenes say of a status
# Columns of `read`'s facts that no description has.
FRONTIER, AHEAD, IN_HAND, ASIDE, BARE, NEXT, ONWARD, AT, CLEARED = range(9)
FACTS, COLUMNS = 9, 11  # the last two are `AT` and `CLEARED` where nothing is wanted
REACH, OPEN, PLACE = range(3)  # what a wanted target is wanted for
NOWHERE, SOMEWHERE, JUST_HERE = range(3)  # where what is held can be put aside
# Options; 0 explores, then all `goto`, all `beside`
PICK_UP, PUT_DOWN, USE, CARRY_ASIDE, CLEAR, FIRST_TARGET = range(1, 7)


@njit(cache=True)
def number(colour: int, kind: int, place: int) -> int:
    """Number of a target; colour is MiniGrid's + 1 or 0."""
    return (colour * _KINDS + kind) * _PLACES + place


@njit(cache=True)
def kind_at(image, x, y):  # type: ignore[no-untyped-def]
    """The most special kind of what a cell shows, 0 for no thing and no door; open doors are of kind `door`."""
    kind = _KIND_OF[image[x, y, 0]]
    return kind + image[x, y, 2] if image[x, y, 0] == DOOR else kind


@njit(cache=True)
def _in_place(place, x, y, frame, room):  # type: ignore[no-untyped-def]
    """Whether a cell is in a place relative to the pose at the start: in its room, walls included, and on that side."""
    if place == 0:
        return True
    left, top = frame[0] // (room - 1) * (room - 1), frame[1] // (room - 1) * (room - 1)
    if not (left <= x < left + room and top <= y < top + room):
        return False
    ahead_x, ahead_y = STEP_X[frame[2]], STEP_Y[frame[2]]
    dx, dy = x - int(frame[0]), y - int(frame[1])
    ahead, right = dx * ahead_x + dy * ahead_y, dy * ahead_x - dx * ahead_y
    return (right < 0, right > 0, ahead > 0, ahead < 0)[place - 1]


@njit(cache=True)
def fits(image, x, y, target, frame, room):  # type: ignore[no-untyped-def]
    """Whether a cell shows what a target describes; the agent's is the door in which it stands."""
    kind, colour, shown = kind_at(image, x, y), target // (_KINDS * _PLACES), int(image[x, y, 1])
    wanted = target // _PLACES % _KINDS
    if image[x, y, 3] < 4:
        kind, shown = (4, int(frame[3]) - 1) if frame[3] else (0, 0)
    if kind == 0 or (colour > 0 and shown != colour - 1):
        return False
    same = kind == wanted or (wanted == 4 and kind > 4) or (wanted == OBJECT and kind < 4)
    return same and _in_place(target % _PLACES, x, y, frame, room)


@njit(cache=True)
def _note(status, flags, kind, colour, at, frame, room):  # type: ignore[no-untyped-def]
    """Add flags to the status of every target that fits a thing at a cell."""
    general = OBJECT if kind < 4 else 4
    for place in range(_PLACES):
        if _in_place(place, at[0], at[1], frame, room):
            for any_colour in (0, colour + 1):
                status[number(any_colour, kind, place)] |= flags
                status[number(any_colour, general, place)] |= flags


@njit(cache=True)
def can_lie(image, cells, x, y):  # type: ignore[no-untyped-def]
    """Whether a cell is bare floor, and not the agent's."""
    return inside(cells, x, y) and image[x, y, 0] == EMPTY and image[x, y, 3] >= 4


@njit(cache=True)
def _note_all(image, cells, pose, reach, frame, picked, room, status):  # type: ignore[no-untyped-def]
    """The status of every target."""
    ax, ay, ad = pose
    fx, fy = ax + STEP_X[ad], ay + STEP_Y[ad]
    for x in range(image.shape[0]):
        for y in range(image.shape[1]):
            kind, colour, here = kind_at(image, x, y), int(image[x, y, 1]), x == ax and y == ay
            if here and kind > 0:
                _note(status, HELD, kind, colour, (picked[0], picked[1]), frame, room)
            if here:
                kind, colour = (4, int(frame[3]) - 1) if frame[3] else (0, 0)
            if kind == 0:
                continue
            flags = FRONT if x == fx and y == fy else 0
            near = False
            for d in range(4):
                i, j = x + STEP_X[d], y + STEP_Y[d]
                near |= means(reach, i, j, True)
                if can_lie(image, cells, i, j) and reach[i, j]:
                    flags |= BESIDE
                if i == fx and j == fy and can_lie(image, cells, i, j):
                    flags |= HERE | BESIDE
            flags |= BLOCKED if not near else REACHED | LOCK if kind == LOCKED else REACHED
            _note(status, flags, kind, colour, (x, y), frame, room)


@njit(cache=True)
def _mark_unexplored(image, cells, worst, marked):  # type: ignore[no-untyped-def]
    """Mark what shows new cells: unseen cells beside seen ones, and doors up to a kind with nothing known behind."""
    mark(image, cells, EXPLORE, 0, 0, 0, marked)
    for x in range(image.shape[0]):
        for y in range(image.shape[1]):
            if SHUT <= kind_at(image, x, y) <= worst:
                for d in range(4):
                    i, j = x + STEP_X[d], y + STEP_Y[d]
                    marked[x, y] |= inside(cells, i, j) and cells[i, j] == UNKNOWN


@njit(cache=True)
def _obstacle(image, cells, marked, at, scratch, itself):  # type: ignore[no-untyped-def]
    """The cell of the first thing or shut door on the way to the nearest marked cell with the fewest of these, or -1.

    Closed doors cost nothing, things and locked doors one each. With `itself` the marked cell counts as an obstacle,
    and shut doors always do.
    """
    height = cells.shape[1]
    queue, later, first = scratch[0], scratch[1], scratch[2]
    first[:] = -2  # not reached; -1 is reached with nothing in the way
    queue[0], first[at] = at, -1
    head, tail, waiting = 0, 1, 0
    while True:
        if head == tail:  # all that costs so much is done; what costs one more comes next
            if waiting == 0:
                return -1
            head, tail = 0, waiting
            queue[:waiting] = later[:waiting]
            waiting = 0
        here = queue[head]
        head += 1
        x, y = here // height, here % height
        for d in range(4):
            i, j = x + STEP_X[d], y + STEP_Y[d]
            if not inside(cells, i, j):
                continue
            there, kind = i * height + j, kind_at(image, i, j)
            met = kind > 4 or cells[i, j] == THING
            obstacle = there if met else -1
            if marked[i, j]:
                return first[here] if first[here] >= 0 or not (itself or kind >= SHUT) else there
            if first[there] != -2 or not (met or cells[i, j] >= PASSABLE):
                continue
            first[there] = first[here] if first[here] >= 0 else obstacle
            if met and kind != SHUT:
                later[waiting] = there
                waiting += 1
            else:
                queue[tail] = there
                tail += 1


@njit(cache=True)
def mark_target(image, target, frame, room, marked):  # type: ignore[no-untyped-def]
    """Mark the cells that show what a target describes."""
    for x in range(image.shape[0]):
        for y in range(image.shape[1]):
            marked[x, y] = fits(image, x, y, target, frame, room)


@njit(cache=True)
def _shown(image, cell):  # type: ignore[no-untyped-def]
    """What a cell x * H + y shows, as a target without a place; -1 for nothing."""
    x, y = cell // image.shape[1], cell % image.shape[1]
    kind = 0 if cell < 0 else kind_at(image, x, y)
    return number(int(image[x, y, 1]) + 1, kind, 0) if kind > 0 else -1


@njit(cache=True)
def _flags_of(image, cell, ahead, held):  # type: ignore[no-untyped-def]
    """What a status says of the obstacle in a cell; nothing of none, -1."""
    shown = _shown(image, cell)
    kind = shown // _PLACES % _KINDS
    if shown < 0:
        return 0
    if kind == LOCKED and held != number(shown // (_KINDS * _PLACES), _KEY, 0):
        return WAITS
    return FIRST | (FACED if cell == ahead else 0) | (OPENS if kind >= SHUT else 0)


@njit(cache=True)
def _key_first(image, cells, status, found, at, frame, room, marked, scratch):  # type: ignore[no-untyped-def]
    """The obstacle itself, a cell; but where it is a locked door its key, or what is in the way of that, and so on."""
    for _ in range(6):  # colours of locks
        door = _shown(image, found)
        if door < 0 or door // _PLACES % _KINDS != LOCKED:
            break
        key = number(door // (_KINDS * _PLACES), _KEY, 0)
        if status[key] & HELD or not status[key] & (REACHED | BLOCKED):
            break
        mark_target(image, key, frame, room, marked)
        behind = _obstacle(image, cells, marked, at, scratch, status[key] & REACHED)
        if behind < 0 or behind == found:
            break
        found = behind
    return found


@njit(cache=True)
def _note_ways(image, cells, status, at, ahead, frame, room, marked, scratch):  # type: ignore[no-untyped-def]
    """Add to the status of every target what has to be dealt with first to reach, or to open, one that fits.

    Of those that fit, such as can be reached count alone, doors that are not locked before others; else all, and
    one where something can be dealt with is enough.
    """
    height = cells.shape[1]
    marked[:, :] = False
    _obstacle(image, cells, marked, at, scratch, False)
    first, keys = scratch[2, : marked.size].copy(), np.full(marked.size, -1)  # of locked doors what their keys need
    held = _shown(image, at)
    for cell in range(marked.size):
        x, y, led = cell // height, cell % height, first[cell]
        kind, near = kind_at(image, x, y), led == cell
        if led < 0 or kind == 0 or (near and kind < SHUT):
            continue
        if kind_at(image, led // height, led % height) == LOCKED:
            if keys[led] < 0:
                keys[led] = _key_first(image, cells, status, led, at, frame, room, marked, scratch)
            led = keys[led]
        flags = _flags_of(image, led, ahead, held)
        for place in range(_PLACES):
            for colour in (0, int(image[x, y, 1]) + 1):
                own, general = number(colour, kind, place), number(colour, OBJECT if kind < 4 else 4, place)
                if not _in_place(place, x, y, frame, room):
                    continue
                if near or not status[own] & REACHED:
                    status[own] |= flags
                easier = kind == LOCKED and status[number(colour, SHUT, place)] & REACHED
                if not easier and (near or not status[general] & REACHED):
                    status[general] |= flags
    for target in range(len(status)):
        if status[target] & FIRST:
            status[target] &= ~WAITS


@njit(cache=True)
def _note_onward(image, status, onward, ahead, held, shown):  # type: ignore[no-untyped-def]
    """Add what leads to the unexplored to the status of every target that nothing known leads to.

    Where something can be explored that comes first, unless a closed door is in front and nothing waits for a key.
    """
    flags = _flags_of(image, onward, ahead, held)
    faced = onward == ahead and kind_at(image, onward // image.shape[1], onward % image.shape[1]) == SHUT
    for target in range(len(status) if flags & FIRST else 0):
        had = status[target] & (FIRST if status[target] & WAITS else FIRST | REACHED | HELD)
        if not had and (not shown or (faced and not status[target] & WAITS)):
            status[target] |= flags


@njit(cache=True)
def keep_beside(image, target, frame, room, marked):  # type: ignore[no-untyped-def]
    """Unmark the cells that are not beside what fits a target."""
    for x in range(marked.shape[0]):
        for y in range(marked.shape[1]):
            found = False
            for d in range(4 if marked[x, y] else 0):
                i, j = x + STEP_X[d], y + STEP_Y[d]
                found |= inside(marked, i, j) and fits(image, i, j, target, frame, room)
            marked[x, y] = found


@njit(cache=True)
def _next(image, cells, status, target, aim, at, frame, room, marked, scratch):  # type: ignore[no-untyped-def]
    """The cell with what has to be dealt with first, so that a target is within reach; -1 if none.

    Args:
        aim: `REACH`, `OPEN` (in the end that is the door itself, one that is not locked if possible) or `PLACE`: within
            reach is then not the target, but where something can be put down beside it.
    """
    place, colour = target % _PLACES, target // (_KINDS * _PLACES)
    near = status[target] & (BESIDE if aim == PLACE else REACHED) > 0
    if near and aim != OPEN:
        return -1
    if near:
        shut, locked = number(colour, SHUT, place), number(colour, LOCKED, place)
        target = shut if status[shut] & REACHED else locked if status[locked] & REACHED else target
    if aim == PLACE:
        mark(image, cells, PUT, 0, 0, ANYWHERE, marked)
        keep_beside(image, target, frame, room, marked)
    else:
        mark_target(image, target, frame, room, marked)
    found = _obstacle(image, cells, marked, at, scratch, near)
    return _key_first(image, cells, status, found, at, frame, room, marked, scratch)


@njit(cache=True)
def aside(image, cells, pose, size, marked, scratch):  # type: ignore[no-untyped-def]
    """First action and cost of the way to where a thing may be put, as harmless as there is; cost -1 if none."""
    care, move, left = TIDY, WAIT, -1
    while left < 0 and care >= ANYWHERE:
        if mark(image, cells, PUT, 0, 0, care, marked):
            move, left, _ = search(cells, marked, PUT, pose, size, scratch)
        care -= 1
    return move, left


@njit(cache=True)
def read(images, frame, picked, wanted, aims, sight, status, facts):  # type: ignore[no-untyped-def]
    """What N maps say.

    Args:
        images: uint8 [N, W, H, 4].
        frame, picked: As in `Parts`.
        wanted: int64 [N, M], the targets that the mission asks for next; -1 for none.
        aims: int64 [N, M], what for: `REACH`, `OPEN`, `PLACE`.
        sight: Width of the view, side of the rooms.
        status: Out, int16 [N, D], bits for each target.
        facts: Out, int64 [N, 11]: whether unseen cells can be explored; what is in front and what is held, as targets,
            -1 for nothing; where that can be put aside; whether the cell in front is bare; what is to be dealt with
            next to get at a wanted target, and to unexplored cells, -1 for nothing; whether the one to turn to is in
            front; its cell; and these two as they are for no mission.
    """
    count, width, height, _ = images.shape
    cells, reach = np.zeros((width, height), np.int8), np.zeros((width, height), np.bool_)
    marked, scratch = np.zeros((width, height), np.bool_), np.zeros((3, width * height * 4), np.int32)
    size, room = sight
    for n in range(count):
        image, row = images[n], facts[n]
        ax, ay, ad = read_map(image, False, cells)
        flood(cells, ax, ay, reach, scratch[0])
        status[n] = 0
        _note_all(image, cells, (ax, ay, ad), reach, frame[n], picked[n], room, status[n])
        at = ax * height + ay
        fx, fy = ax + STEP_X[ad], ay + STEP_Y[ad]
        front = fx * height + fy
        _note_ways(image, cells, status[n], at, front, frame[n], room, marked, scratch)
        row[:] = -1
        if kind_at(image, fx, fy) > 0:
            row[AHEAD] = number(int(image[fx, fy, 1]) + 1, kind_at(image, fx, fy), 0)
        row[ASIDE], row[BARE] = NOWHERE, can_lie(image, cells, fx, fy)
        if kind_at(image, ax, ay) > 0:
            row[IN_HAND] = number(int(image[ax, ay, 1]) + 1, kind_at(image, ax, ay), 0)
            left = aside(image, cells, at * 4 + ad, size, marked, scratch)[1]
            row[ASIDE] = NOWHERE if left < 0 else JUST_HERE if left == 0 else SOMEWHERE
        row[FRONTIER] = 0
        if mark(image, cells, EXPLORE, 0, 0, 0, marked):
            row[FRONTIER] = search(cells, marked, EXPLORE, at * 4 + ad, size, scratch)[1] >= 0
        onward = -1
        for worst in (SHUT, LOCKED):
            if onward < 0 or kind_at(image, onward // height, onward % height) == LOCKED:
                _mark_unexplored(image, cells, worst, marked)
                onward = _obstacle(image, cells, marked, at, scratch, False)
        onward = _key_first(image, cells, status[n], onward, at, frame[n], room, marked, scratch)
        row[ONWARD] = _shown(image, onward)
        _note_onward(image, status[n], onward, front, row[IN_HAND], row[FRONTIER])
        for m in range(wanted.shape[1]):
            target = wanted[n, m]
            seen = target >= 0 and status[n, target] & (REACHED | BLOCKED) and not status[n, target] & HELD
            if seen and row[CLEARED] < 0:
                what = target, aims[n, m], at, frame[n], room, marked, scratch
                row[CLEARED] = _next(image, cells, status[n], *what)
        row[NEXT] = _shown(image, row[CLEARED])
        if row[CLEARED] < 0 or (row[FRONTIER] == 0 and _flags_of(image, row[CLEARED], front, row[IN_HAND]) == WAITS):
            row[CLEARED] = onward
        row[AT] = row[CLEARED] == front
        row[FACTS], row[FACTS + 1] = onward == front, onward
