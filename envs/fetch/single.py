"""Pick and place as a Gymnasium environment of one world: for Gymnasium users, and to draw pictures."""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.fetch.scenes import NAME
from envs.fetch.world import make_world
from ground.level_seeds import next_level


class FetchEnv(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """One world, in lock step with a row of the batched environment. Rewards and ends are those of `FlatFetch`.

    Infos hold `level_seed`, and of a step also `success`: whether it ended an episode with the block at its goal.

    Args:
        split: `train` or `eval`, the range of the level seeds that `reset` draws.
        render_mode: None or `rgb_array`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012  # Gymnasium's own way

    def __init__(self, split: str = "train", render_mode: str | None = None) -> None:
        self.split, self.render_mode = split, render_mode
        self.world = make_world(split, render_mode)
        self.observation_space, self.action_space = self.world.observation_space, self.world.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode, of level `options["level_seed"]` or one that `np_random` draws in the split.

        Raises:
            UserError: The level seed is not of this environment's split.
        """
        super().reset(seed=seed)
        level_seed = next_level(self.np_random, options, self.split)
        obs, _ = self.world.reset(seed=level_seed)
        return obs, {"level_seed": level_seed}

    def step(self, action: NDArray[np.floating]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Act [4] in [-1, 1]."""
        obs, reward, terminated, truncated, _ = self.world.step(np.asarray(action, np.float32))
        success = (terminated or truncated) and self.world.success
        return obs, reward, terminated, truncated, {"level_seed": self.world.level_seed, "success": success}

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """The arm, uint8 [480, 480, 3], a red dot where the goal is; None without a render mode."""
        return None if self.render_mode is None else self.world.render()  # type: ignore[return-value]

    def close(self) -> None:
        """Free the renderer."""
        self.world.close()


def register() -> None:
    """Register `Preceptor/FetchPickAndPlace-v0` with Gymnasium; harmless if done before."""
    env_id = f"Preceptor/{NAME}-v0"
    if env_id not in gym.registry:
        gym.register(env_id, entry_point=f"{__name__}:FetchEnv")
