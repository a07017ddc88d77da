"""The mazes as Gymnasium environments, one world each: for Gymnasium users, and to draw pictures."""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.mujoco.mazes import SPECS, MazeSpec, maze_spec
from envs.mujoco.rendering import Marker, Painter
from envs.mujoco.vector import maze_spaces
from envs.mujoco.worlds import Worlds
from ground.level_seeds import next_level

_GREEN, _ORANGE, _BLACK = (0.1, 0.7, 0.2, 0.45), (1.0, 0.6, 0.0, 1.0), (0.0, 0.0, 0.0, 1.0)


class MazeEnv(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """One world of a maze, in lock step with a row of `MazeVectorEnv`.

    Infos hold `level_seed`, and of a step also `success`.

    Attributes:
        subgoal: None, or (x, y, ...) in the world's frame, which `render` marks beside the area of success.

    Args:
        maze: The task, or its name.
        split: `train` or `eval`, the range of the level seeds that `reset` draws.
        render_mode: None or `rgb_array`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  # Gymnasium's own way

    def __init__(self, maze: MazeSpec | str, split: str = "train", render_mode: str | None = None) -> None:
        self.maze = maze_spec(maze) if isinstance(maze, str) else maze
        self.split, self.render_mode = split, render_mode
        self.worlds = Worlds(self.maze, 1)
        self.observation_space, self.action_space = maze_spaces(self.maze)
        self.subgoal: NDArray[np.floating] | None = None
        self._painter: Painter | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode, of level `options["level_seed"]` or one that `np_random` draws in the split.

        Raises:
            UserError: The level seed is not of this environment's split.
        """
        super().reset(seed=seed)
        level_seed = next_level(self.np_random, options, self.split)
        self.worlds.begin(0, level_seed)
        return self.worlds.observe()[0], {"level_seed": level_seed}

    def step(self, action: NDArray[np.floating]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Act [A] in [-1, 1]; see `Worlds.step` for errors."""
        reward, truncated, success = self.worlds.step(np.asarray(action)[None])
        info = {"level_seed": int(self.worlds.level_seed[0]), "success": bool(success[0])}
        return self.worlds.observe()[0], float(reward[0]), False, bool(truncated[0]), info

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """The maze from above, uint8 [H, W, 3], or None without a render mode; `UserError` if nothing can draw."""
        if self.render_mode is None:
            return None
        if self._painter is None:
            self._painter = Painter(self.worlds.model)
        markers = [Marker(self.worlds.goal[0], self.maze.radius, _GREEN)]
        if self.subgoal is not None:
            rims = ((0.12, _BLACK), (0.1, _ORANGE))  # seen on any ground
            markers += [Marker(self.subgoal, size * self.maze.cell, colour) for size, colour in rims]
        return self._painter.draw(self.worlds.data[0], markers)

    def close(self) -> None:
        """Free the renderer."""
        if self._painter:
            self._painter.close()
            self._painter = None


def register() -> None:
    """Register `Preceptor/<Task>-v0` with Gymnasium; harmless if done before."""
    for name in SPECS:
        env_id = f"Preceptor/{name}-v0"
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=f"{__name__}:MazeEnv", kwargs={"maze": name})
