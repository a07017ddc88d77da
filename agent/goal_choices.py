"""Where a high level's goals are drawn from: a policy, a planner, or anywhere."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.continuous import UniformBox
from agent.core import Distribution
from agent.goals import GoalFrame
from controller.roles import Controller


class PlannedGoals:
    """The controller's goals: its most probable option, grounded, as a target relative to where the agent is.

    Args:
        controller: The planner.
        frame: The dimensions of goals.
        reversed: Give the opposite goals, as a control.
    """

    def __init__(self, controller: Controller, frame: GoalFrame, reversed: bool = False) -> None:
        self.controller, self.frame = controller, frame
        self._reach = np.array(frame.reach, np.float32) * (-1 if reversed else 1)

    def __call__(self, obs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Goals [N, D] in [-1, 1] for observations [N, O]."""
        option, _ = self.controller.label(obs, self.controller.task.legal(obs))
        target, _ = self.controller.goal(obs, option)
        return np.clip((target - self.frame.of(obs)) / self._reach, -1.0, 1.0)


@dataclass(frozen=True)
class ExploringGoals:
    """N goals, drawn from the policy, from the planner, or uniformly (`agent.core.Distribution`).

    Attributes:
        policy: Where the policy's goals are drawn from.
        uniform: float [N], probability of a uniform goal.
        planned: float32 [N, D], the planner's goals, or None.
        share: float [N], probability of the planner's goal, where it is not a uniform one.
    """

    policy: Distribution
    uniform: NDArray[np.floating]
    planned: NDArray[np.float32] | None = None
    share: NDArray[np.floating] | None = None

    def sample(self, rng: np.random.Generator | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Goals [N, D] in [-1, 1]; log-probabilities of the mixture are of no use, and given as 0."""
        goal, _ = self.policy.sample(rng)
        if rng is not None:
            if self.planned is not None and self.share is not None:
                goal = np.where((rng.random(len(goal)) < self.share)[:, None], self.planned, goal)
            anywhere, _ = UniformBox(goal.shape).sample(rng)
            goal = np.where(rng.random(len(goal))[:, None] < self.uniform[:, None], anywhere, goal)
        return goal, np.zeros(len(goal), np.float32)

    def replaced(self, rows: NDArray[np.bool_], other: Distribution) -> Distribution:
        """Nobody guides HIRO."""
        raise NotImplementedError
