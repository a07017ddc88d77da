"""Rescue World as Gymnasium environments, one world each: for Gymnasium users, and to draw pictures."""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.rescue.rendering import draw
from envs.rescue.specs import SPECS, RescueSpec, rescue_spec
from envs.rescue.vector import rescue_spaces
from envs.rescue.worlds import Worlds
from ground.level_seeds import next_level

_THE_ONE = np.zeros(1, dtype=np.int64)


class RescueEnv(gym.Env[NDArray[np.float32], np.int64]):
    """One Rescue World, in lock step with a row of `RescueVectorEnv`.

    Infos hold `level_seed` and `option` (the target that is due, -1 once all are found), and of a step also `success`.

    Args:
        spec: The map, or its name.
        split: `train` or `eval`, the range of the level seeds that `reset` draws.
        render_mode: None or `rgb_array`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 6}  # noqa: RUF012  # Gymnasium's own way

    def __init__(self, spec: RescueSpec | str, split: str = "train", render_mode: str | None = None) -> None:
        self.map = rescue_spec(spec) if isinstance(spec, str) else spec
        self.split, self.render_mode = split, render_mode
        self.worlds = Worlds(self.map, 1)
        self.observation_space, self.action_space = rescue_spaces(self.map)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode, of level `options["level_seed"]` or one that `np_random` draws in the split.

        Raises:
            UserError: The level seed is not of this environment's split.
        """
        super().reset(seed=seed)
        self.worlds.begin(_THE_ONE, np.array([next_level(self.np_random, options, self.split)]))
        return self.worlds.observe()[0], self._info()

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Act. Raises `ValueError` for an action that does not exist."""
        reward, terminated, truncated = self.worlds.step(np.array([action]))
        info = self._info() | {"success": bool(terminated[0])}
        return self.worlds.observe()[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """The world from above, uint8 [400, 400, 3], without a hint which target is due; None without a render mode."""
        if self.render_mode is None:
            return None
        return draw(self.map, int(self.worlds.cell[0]), self.worlds.left[0])

    def _info(self) -> dict[str, Any]:
        return {"level_seed": int(self.worlds.level_seed[0]), "option": int(self.worlds.due[0])}


def register() -> None:
    """Register `Preceptor/<Task>-v0` with Gymnasium; harmless if done before."""
    for name in SPECS:
        env_id = f"Preceptor/{name}-v0"
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=f"{__name__}:RescueEnv", kwargs={"spec": name})
