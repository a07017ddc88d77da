"""Methods without a run: what one is made of, from its settings alone."""

from typing import Any

import numpy as np

from preceptor.agent.config import TrainConfig
from preceptor.agent.methods.protocol import Parts
from preceptor.envs.task import Task


def parts(task: Task, settings: Any, num_envs: int, steps: int, controller: Any = None) -> Parts:
    """Parts of a method on a task, with its own settings."""
    config = TrainConfig(task=task.name, steps=steps, num_envs=num_envs, settings=settings)
    return Parts(task, config, np.random.SeedSequence(0), controller=controller)
