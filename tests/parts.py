"""What a method is made of, for tests that make one without a run."""

from typing import Any

import numpy as np

from agent.config import TrainConfig
from agent.methods.protocol import Parts
from envs.task import Task


def parts(task: Task, settings: Any, steps: int, num_envs: int, seed: int = 0, controller: Any = None) -> Parts:
    """A method's parts, without a run, a log or a teacher."""
    config = TrainConfig(task=task.name, steps=steps, num_envs=num_envs, settings=settings)
    return Parts(task, config, np.random.SeedSequence(seed), controller=controller)
