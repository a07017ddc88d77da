"""A player that reads MiniGrid's full state, so that lock-step tests reach ends of episodes that chance does not."""

from collections import deque
from collections.abc import Callable

import numpy as np
from minigrid.core.world_object import Box, Door, Key, WorldObj
from minigrid.minigrid_env import MiniGridEnv

LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE = range(6)
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def way_to(env: MiniGridEnv, wanted: Callable[[WorldObj], bool]) -> list[int] | None:
    """Actions until the agent faces the nearest wanted object, opening closed doors on the way; None if barred."""
    start = (*(int(i) for i in env.agent_pos), int(env.agent_dir))
    frontier, seen = deque([(start, [])]), {start}
    while frontier:
        (x, y, d), path = frontier.popleft()
        ahead = (x + STEPS[d][0], y + STEPS[d][1])
        front = env.grid.get(*ahead)
        if front is not None and wanted(front):
            return path
        moves = [((x, y, (d + 3) % 4), [LEFT]), ((x, y, (d + 1) % 4), [RIGHT])]
        closed = isinstance(front, Door) and not front.is_open
        if (
            front is None
            or (closed and not front.is_locked)
            or (not closed and front.can_overlap() and front.type != "lava")
        ):
            moves.append(((*ahead, d), [TOGGLE, FORWARD] if closed else [FORWARD]))
        for pose, actions in moves:
            if pose not in seen:
                seen.add(pose)
                frontier.append((pose, path + actions))
    return None


def next_action(env: MiniGridEnv, rng: np.random.Generator) -> int:
    """The next of a crude plan: the mission's object or the goal, else the door of the key in hand, keys, boxes."""
    held, target = env.carrying, getattr(env, "obj", None)

    def opens(thing: WorldObj) -> bool:
        return isinstance(thing, Door) and thing.is_locked and isinstance(held, Key) and held.color == thing.color

    plan: list[tuple[Callable[[WorldObj], bool], int]] = [
        (lambda thing: thing is target and target is not None, PICKUP),
        (lambda thing: thing.type == "goal", FORWARD),
        (opens, TOGGLE),
        (lambda thing: isinstance(thing, Key), PICKUP),
        (lambda thing: isinstance(thing, Box), TOGGLE),
    ]
    for wanted, action in plan:
        path = way_to(env, wanted)
        if path is not None and action == PICKUP and held is not None:
            return DROP if env.grid.get(*env.front_pos) is None else LEFT
        if path is not None:
            return path[0] if path else action
    return int(rng.integers(6))
