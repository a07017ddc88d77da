"""FrankaKitchen as teachers, controllers and hierarchies see it: seven subtasks, some of which are due in any order."""

from functools import cached_property
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from preceptor.envs.kitchen.franka import (
    ACTIONS,
    OBJECTS,
    OBSERVATION_SIZE,
    ORIGINAL,
    ROBOT,
    FrankaSimulator,
    ShownFranka,
    subtasks_done,
)
from preceptor.envs.kitchen.franka_expert import expert_loops
from preceptor.envs.kitchen.layout import HANDLES
from preceptor.envs.kitchen.orders import demonstrable, words_of
from preceptor.envs.kitchen.subtasks import PLAIN, KitchenTask, Obs
from preceptor.envs.vector import Simulator

# Natural sizes of positions and of speeds: seven joints and two fingers, four knobs each with its burner, light switch
# and lamp, sliding door, two hinged doors, microwave, and the kettle's place and orientation (as a speed, in three).
_KNOB: Final = (0.5, 0.005)
_POSITIONS: Final = (*[0.5] * 7, 0.02, 0.02, *_KNOB * 4, 0.4, 0.03, 0.2, 0.8, 0.8, 0.4, *[0.4] * 3, *[0.5] * 4)
_SPEEDS: Final = (*[0.5] * 7, 0.05, 0.05, *_KNOB * 4, 0.4, 0.03, 0.2, 0.8, 0.8, 0.4, *[0.2] * 3, *[0.5] * 3)


class Kitchen(KitchenTask):
    """FrankaKitchen-v1; see `preceptor.envs.task.Task` for the methods. What is its own:

    Observations are float32 [N, 59]: positions [9] and speeds [9] of the robot, then positions [21] and speeds [20] of
    the objects. Actions float32 [N, 9] are shares of 2 rad/s of seven joints and of 2 m/s of two fingers. An episode is
    rewarded with 1 for each due subtask when it is first done, in any order; the expert keeps to the order given.

    Args:
        order: The subtasks that are due, joined by hyphens, or the number of an order.
        max_steps: T, after which an episode is truncated.
        length: Subtasks of a demonstration.
        shown_steps: Steps after which a demonstration is truncated.
        robot_noise, object_noise: Of observations, as the original has them.
    """

    plain_name = "Kitchen"
    observation_shape = (OBSERVATION_SIZE,)
    observation_scale = (*_POSITIONS[:ACTIONS], *_SPEEDS[:ACTIONS], *_POSITIONS[ACTIONS:], *_SPEEDS[ACTIONS:])
    num_actions = ACTIONS
    action_groups = MappingProxyType({"arm": tuple(range(7)), "gripper": (7, 8)})

    def __init__(
        self,
        order: str = PLAIN,
        max_steps: int = 280,
        length: int = 5,
        shown_steps: int = 350,
        robot_noise: float = 0.01,
        object_noise: float = 0.0005,
    ) -> None:
        super().__init__(order, max_steps)
        self.length, self.shown_steps = length, shown_steps
        self.robot_noise, self.object_noise = robot_noise, object_noise
        *first, last = (HANDLES[handle].words for handle in self.order)
        self.goal = f"In any order: {', '.join(first)}, and {last}."
        self.rules = (
            "You are a robot arm in a kitchen. A subtask moves one thing: the hand goes from where it is to the thing, "
            f"moves it, and leaves it. {self.goal} What was done once counts, and nothing else does."
        )

    def simulator(self, num_envs: int, render_mode: str | None = None) -> Simulator:
        """The rules of N environments."""
        return FrankaSimulator(num_envs, self.order, self.max_steps, self.robot_noise, self.object_noise)

    @cached_property
    def demonstrated(self) -> "Kitchen":
        """The same kitchen in which each level has an order of its own."""
        return _Shown(
            words_of(self.order), self.max_steps, self.length, self.shown_steps, self.robot_noise, self.object_noise
        )

    def done(self, obs: Obs) -> NDArray[np.bool_]:
        """Which subtasks are done [N, 7]."""
        return subtasks_done(obs[:, OBJECTS])

    def skill(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.float32]:
        """Actions [N, 9] of the scripted executor of each subtask."""
        return expert_loops(ORIGINAL).act(obs[:, ROBOT], np.asarray(option)).astype(np.float32)


class _Shown(Kitchen):
    """What demonstrations of a kitchen task show; its environments tell which subtask is due."""

    def simulator(self, num_envs: int, render_mode: str | None = None) -> Simulator:
        """The rules of N environments, whose levels have orders."""
        orders = demonstrable(self.order, self.length, len(self.order) + 1)  # none is held out: any order pays
        return ShownFranka(num_envs, self.order, self.shown_steps, orders, self.robot_noise, self.object_noise)


def full_name(name: str) -> str:
    """The name of a task with its order spelt out. Raises `UserError` if there is no such order."""
    return make_task(name).name


def make_task(name: str) -> Kitchen:
    """The task of a name, with an order behind a colon or without."""
    return Kitchen(name.partition(":")[2] or PLAIN)
