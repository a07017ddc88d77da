"""N Rescue Worlds as a `gymnasium.vector.VectorEnv`."""

from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.batches import LevelStream, require_fit
from envs.rescue.specs import NUM_ACTIONS, RescueSpec
from envs.rescue.worlds import Worlds


def rescue_spaces(spec: RescueSpec) -> tuple[gym.Space[NDArray[np.float32]], gym.Space[np.int64]]:
    """Observation and action space of one world."""
    observation = gym.spaces.Box(0.0, 1.0, (2 * spec.size + len(spec.targets),), np.float32)
    return cast(gym.Space[NDArray[np.float32]], observation), gym.spaces.Discrete(NUM_ACTIONS)


class RescueVectorEnv(gym.vector.VectorEnv[NDArray[np.float32], NDArray[np.int64], NDArray[Any]]):
    """N Rescue Worlds of one map, stepped together; autoreset in the same step.

    Observations are float32 [N, 2 * size + n] (see `RescueTask`), actions integers [N] (`specs.MOVES`); rewards, and
    what an episode is, are those of `Worlds`. Finding all targets terminates an episode, the horizon truncates it.

    Infos of `reset` and `step`:
        level_seed: int64 [N], of the episode that is now running.
        option: int64 [N], the target that is due in the state that the observations [N] show: what the next action is
            for, if it is an expert's. The truth about demonstrations, and nothing for students or annotators.
        success: bool [N], whether this step ended an episode with all targets found (`step` only).
        final_obs, _final_obs: when some world finished, the last observations, same shape as observations, and bool
            [N], the rows that are valid.
        final_info, _final_info: likewise `{"level_seed": int64 [N]}` of the episodes that finished.

    Args:
        spec: The map.
        num_envs: N.
        split: `train` (level seeds below 1,000,000) or `eval` (the million from there on).
        seed: Key of the stream that draws level seeds; episode e of world n depends on (seed, n, e) alone.
    """

    def __init__(self, spec: RescueSpec, num_envs: int, split: str = "train", seed: int = 0) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}
        self.map, self.num_envs, self.split = spec, num_envs, split
        self._levels = LevelStream(num_envs, split, seed)
        self.worlds = Worlds(spec, num_envs)
        self.single_observation_space, self.single_action_space = rescue_spaces(spec)
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
        self.worlds.begin(np.arange(self.num_envs), self._levels.begin(seed, options))
        return self.worlds.observe(), self._info()

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Step every world; see the class for the infos. Raises `ValueError` for an action that does not exist."""
        reward, terminated, truncated = self.worlds.step(actions)
        obs, ended = self.worlds.observe(), terminated | truncated
        infos: dict[str, Any] = {"success": terminated.copy()}
        over = np.flatnonzero(ended)
        if over.size:
            infos |= {"final_obs": obs, "_final_obs": ended}
            infos |= {"final_info": {"level_seed": self.worlds.level_seed.copy()}, "_final_info": ended.copy()}
            self.worlds.begin(over, self._levels.next(over))
            obs = self.worlds.observe()
        return obs, reward, terminated, truncated, infos | self._info()

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Everything that the future depends on, as plain arrays; `set_state` continues to the bit."""
        return {name: array.copy() for name, array in self.worlds.arrays().items()} | self._levels.get_state()

    def set_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Restore what `get_state` returned. Raises `UserError` if it is of other worlds."""
        require_fit(state, self.get_state(), f"{self.num_envs} worlds of {self.map.name}")
        for name, array in self.worlds.arrays().items():
            array[...] = state[name]
        self._levels.set_state(state)

    def _info(self) -> dict[str, Any]:
        return {"level_seed": self.worlds.level_seed.copy(), "option": self.worlds.due}
