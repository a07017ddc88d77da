"""What a task's script says of observations."""

import numpy as np
from numpy.typing import NDArray

from preceptor.envs.task import Task


def scripted(task: Task, obs: NDArray) -> NDArray[np.int64]:
    """The expert's option [N] for observations [N, ...]."""
    return np.array([task.script(scene) for scene in task.describe(obs)], np.int64)
