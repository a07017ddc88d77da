"""N mazes as a `gymnasium.vector.VectorEnv`."""

from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.batches import LevelStream, require_fit
from envs.mujoco.mazes import MazeSpec
from envs.mujoco.worlds import UNSTABLE, Worlds

Space = gym.Space[NDArray[np.float32]]


def maze_spaces(spec: MazeSpec) -> tuple[Space, Space]:
    """Observation and action space of one world; observations are bounded by what the simulator takes for sound."""
    observation = gym.spaces.Box(-UNSTABLE, UNSTABLE, (len(spec.observation_names),), np.float32)
    action = gym.spaces.Box(-1.0, 1.0, (spec.robot.num_actions,), np.float32)
    return cast(Space, observation), cast(Space, action)


class MazeVectorEnv(gym.vector.VectorEnv[NDArray[np.float32], NDArray[np.float32], NDArray[Any]]):
    """N worlds of one maze, stepped together; autoreset in the same step.

    Observations are float32 [N, D], actions float32 [N, A] in [-1, 1]; the reward is minus the distance to the goal.
    Episodes are truncated at the horizon and never terminate.

    Infos of `reset` and `step`:
        level_seed: int64 [N], of the episode that is now running.
        success: bool [N], whether this step ended an episode near its goal (`step` only).
        final_obs, _final_obs: when some world finished, the last observations, same shape as observations, and bool
            [N], the rows that are valid.
        final_info, _final_info: likewise `{"level_seed": int64 [N]}` of the episodes that finished.

    Args:
        spec: The task.
        num_envs: N.
        split: `train` (level seeds below 1,000,000) or `eval` (the million from there on, with the evaluation goals).
        seed: Key of the stream that draws level seeds; episode e of world n depends on (seed, n, e) alone.
        threads: Threads that step the worlds; the numbers do not depend on it.
    """

    def __init__(self, spec: MazeSpec, num_envs: int, split: str = "train", seed: int = 0, threads: int = 1) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}
        self.maze, self.num_envs, self.split = spec, num_envs, split
        self._levels = LevelStream(num_envs, split, seed)
        self.worlds = Worlds(spec, num_envs, threads)
        self.single_observation_space, self.single_action_space = maze_spaces(spec)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode in every world.

        Args:
            seed: Restarts the stream of level seeds under this key; None continues it.
            options: `{"level_seeds": int64 [N]}` plays those levels first; what follows them is drawn.

        Raises:
            UserError: A level seed is not of this environment's split.
        """
        for n, level_seed in enumerate(self._levels.begin(seed, options)):
            self.worlds.begin(n, int(level_seed))
        return self.worlds.observe(), {"level_seed": self.worlds.level_seed.copy()}

    def step(
        self, actions: NDArray[np.floating]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Step every world; see the class for the infos, and `Worlds.step` for errors."""
        reward, truncated, success = self.worlds.step(actions)
        obs = self.worlds.observe()
        infos: dict[str, Any] = {"success": success}
        over = np.flatnonzero(truncated)
        if over.size:
            infos |= {"final_obs": obs, "_final_obs": truncated.copy()}
            infos |= {"final_info": {"level_seed": self.worlds.level_seed.copy()}, "_final_info": truncated.copy()}
            for n, level_seed in zip(over, self._levels.next(over), strict=True):
                self.worlds.begin(n, int(level_seed))
            obs = self.worlds.observe()
        infos["level_seed"] = self.worlds.level_seed.copy()
        return obs, reward, np.zeros(self.num_envs, dtype=np.bool_), truncated, infos

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Everything that the future depends on, as plain arrays; `set_state` continues to the bit."""
        return self.worlds.get_state() | self._levels.get_state()

    def set_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned. Raises `UserError` if it is of other worlds."""
        require_fit(state, self.get_state(), f"{self.num_envs} worlds of {self.maze.name}")
        self.worlds.set_state(state)
        self._levels.set_state(state)

    def close_extras(self, **kwargs: Any) -> None:
        """End the threads."""
        self.worlds.close()
