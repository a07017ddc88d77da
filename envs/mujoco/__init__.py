"""MuJoCo mazes: maps, models, batched and single environments, scripted planners."""

from preceptor.envs.mujoco.rendering import choose_backend

choose_backend()  # before anything here imports mujoco
