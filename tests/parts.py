"""Methods without a run: what one is made of, from its settings alone."""

import numpy as np

from preceptor.agent.config import TrainConfig
from preceptor.agent.methods.protocol import Parts


def parts(task, settings, num_envs, steps, controller=None):
    """Parts of a method on a task, with its own settings."""
    config = TrainConfig(task=task.name, steps=steps, num_envs=num_envs, settings=settings)
    return Parts(task, config, np.random.SeedSequence(0), controller=controller)
