"""Pick and place with the Fetch arm: Gymnasium-Robotics' own environment, with its four subtasks as named options."""

from envs.mujoco.rendering import choose_backend

choose_backend()  # before anything here imports mujoco
