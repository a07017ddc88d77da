"""Pick and place with the Fetch arm: Gymnasium-Robotics' own environment, with its four subtasks as named options."""

import preceptor.envs.mujoco  # noqa: F401  # chooses what draws, before anything here imports mujoco
