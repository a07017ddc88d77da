"""Scripted players of the mazes: the waypoint of the expert's option, and a PD low level for the point.

`waypoint` needs nothing but an observation, so it serves ants as well as points where the block is observed. It stands
for what a distilled controller does as a high level, and proves that the tasks can be solved.
"""

import numpy as np
from numpy.typing import NDArray

from envs.mujoco.mazes import MazeSpec
from envs.mujoco.regions import regions


def waypoint(spec: MazeSpec, obs: NDArray[np.floating]) -> NDArray[np.float64]:
    """Where to go next, (x, y) [N, 2], from observations [N, D]. Raises `UserError` if the maze's block is unseen."""
    places = regions(spec)
    return places.ground(obs, places.expert[places.codes(obs)])


def seek(spec: MazeSpec, obs: NDArray[np.floating], target: NDArray[np.floating]) -> NDArray[np.float32]:
    """Actions [N, 2] that bring a point to targets (x, y) [N, 2]: proportional to what is missing, with damping."""
    x, y, vx, vy = (spec.observation_names.index(name) for name in ("x", "y", "vx", "vy"))
    missing = np.asarray(target, dtype=np.float64) - obs[:, [x, y]]
    return np.clip(missing - 0.5 * obs[:, [vx, vy]], -1.0, 1.0).astype(np.float32)
