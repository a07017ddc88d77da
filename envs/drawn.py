"""Environments in which nothing moves: each step shows another state at random, for controllers to be distilled on."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.envs.vector import Outcome, Simulator, State

Draw = Callable[[np.random.Generator], NDArray[Any]]


class Drawn(Simulator):
    """N environments of a task, whose episodes of one step show an observation each; actions do nothing.

    Args:
        rules: The task's own, of any number of environments, which say how observations and actions look.
        num_envs: N.
        draw: An observation at random.
    """

    max_steps = 1

    def __init__(self, rules: Simulator, num_envs: int, draw: Draw) -> None:
        self.name, self.num_envs, self._draw = rules.name, num_envs, draw
        self.observation_space, self.action_space = rules.observation_space, rules.action_space
        shape = self.observation_space.shape or ()
        self._obs = np.zeros((self.num_envs, *shape), self.observation_space.dtype)
        self.level_seed = np.full(self.num_envs, -1, np.int64)

    def begin(self, rows: NDArray[np.int64], level_seeds: NDArray[np.int64]) -> None:
        """Show other observations, which the level seeds draw."""
        self.level_seed[rows] = level_seeds
        self._obs[rows] = [self._draw(np.random.default_rng(seed)) for seed in level_seeds.tolist()]

    def step(self, actions: NDArray[Any]) -> Outcome:
        """Every episode is cut."""
        none = np.zeros(self.num_envs, np.bool_)
        return Outcome(np.zeros(self.num_envs), none, ~none, none)

    def observe(self) -> NDArray[Any]:
        """Observations [N, ...]."""
        return self._obs.copy()

    def arrays(self) -> State:
        """What is shown, and of which levels."""
        return {"level_seed": self.level_seed, "obs": self._obs}
