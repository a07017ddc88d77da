"""The scripted hands: proportional control of where the gripper moves, from the observation alone.

An action is three shares of 5 cm, by which the gripper is moved in a step, and what the fingers do: 1 opens them, -1
closes them.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from envs.fetch.state import BLOCK, GOAL, GRIPPER, HOLDING, OFFSET, OPEN, Obs, opening, stages

APPROACH, GRASP, TRANSPORT, HOLD = range(4)  # the options of `FetchTask`

_GAIN: Final = 10.0  # shares per metre: half of what is left, in a step
PREGRASP: Final = np.array([0.0, 0.0, 0.06])  # metres above the block
_CLEAR: Final = 0.05  # metres: height over the block at which open fingers pass over it
_CLOSE: Final = 0.015  # metres


def act(obs: Obs, option: NDArray[np.int64]) -> NDArray[np.float32]:
    """Actions [N, 4] that carry out options [N] in observations [N, 28]."""
    offset, is_open = obs[:, OFFSET], opening(obs) > OPEN
    near = np.linalg.norm(offset, axis=1) < _CLOSE
    choice = [option == APPROACH, option == GRASP, option == TRANSPORT, option == HOLD]

    up = offset + PREGRASP
    up[-offset[:, 2] < _CLEAR, :2] = 0.0  # straight up first, lest the fingers push the block away
    down = offset.copy()
    down[~is_open & ~near, 2] = 0.0  # closed fingers would land on the block
    move = np.select([c[:, None] for c in choice], [up, down, obs[:, GOAL] - obs[:, BLOCK], np.zeros_like(offset)])
    grip = np.where(stages(obs) == HOLDING, -1.0, 0.0)  # hold: what is held stays held
    fingers = np.select(choice, [1.0, np.where(near, -1.0, 1.0), -1.0, grip])
    return np.column_stack([np.clip(_GAIN * move, -1, 1), fingers]).astype(np.float32)


def destinations(obs: Obs, option: NDArray[np.int64]) -> NDArray[np.floating]:
    """Where options [N] lead, gripper and block [N, 6] in metres."""
    gripper, block, goal = obs[:, GRIPPER], obs[:, BLOCK], obs[:, GOAL]
    ways = [(block + PREGRASP, block), (block, block), (goal, goal), (gripper, block)]
    return np.select([(option == k)[:, None] for k in range(len(ways))], [np.concatenate(way, axis=1) for way in ways])
