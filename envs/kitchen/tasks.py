"""The kinematic kitchen as teachers, controllers and hierarchies see it, with an expert."""

from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from preceptor.envs.kitchen.kinematic import KitchenSimulator, ShownSimulator
from preceptor.envs.kitchen.layout import (
    ATTACHED,
    CENTRE,
    CLOSED,
    DIRECTIONS,
    DONE,
    GRASP,
    GRIP,
    HANDLES,
    LINES,
    OBSERVATION_SIZE,
    PLACE,
    SEEN_PLACE,
    SHARES,
    SITES,
    STEP,
    places,
)
from preceptor.envs.kitchen.orders import demonstrable, words_of
from preceptor.envs.kitchen.subtasks import PLAIN, KitchenTask, Obs
from preceptor.envs.task import GoalSpace
from preceptor.envs.vector import Simulator

# Of the expert: where it comes from, seen from a handle; how near it comes before it goes to the handle, before it
# closes, and while it closes; and how near to a handle it opens in retreat.
_FRONT: Final = np.array([0.0, -0.08, 0.03])
_BEFORE, _AT, _CLOSING, _CLEAR = 0.10, 0.03, 0.05, 0.12
_PACE = 0.65  # of the fastest that a gripper flies, so that noise finds room on both sides
_AJAR = 0.1  # grip up to which a gripper is as good as open


class KitchenKinematic(KitchenTask):
    """The kinematic kitchen; see `preceptor.envs.task.Task` for the methods. What is its own:

    Observations are float32 [N, 33] (`layout.observation`), actions float32 [N, 4]: shares of what a gripper flies in a
    step along x, y and z, and the sign of what closes it. An episode is rewarded with 1 for each subtask in its turn.
    No observation tells the order.

    Args:
        order: The subtasks as they are due, joined by hyphens, or the number of an order.
        max_steps: T, after which an episode is truncated.
        length: Subtasks of a demonstration.
        held_out: As many subtasks of the order come as in it in no demonstration.
        shown_steps: Steps after which a demonstration is truncated.
    """

    plain_name = "KitchenKinematic"
    goal_space = GoalSpace(("x", "y", "z"), (0.5, 0.5, 0.5), (0, 1, 2))
    observation_shape = (OBSERVATION_SIZE,)
    num_actions = len(STEP)
    expert_noise = 0.2

    def __init__(
        self, order: str = PLAIN, max_steps: int = 280, length: int = 6, held_out: int = 3, shown_steps: int = 400
    ) -> None:
        super().__init__(order, max_steps)
        self.length, self.held_out, self.shown_steps = length, held_out, shown_steps
        *first, last = (HANDLES[handle].words for handle in self.order)
        self.goal = f"In this order: {', '.join(first)}, and {last}."
        self.rules = (
            "You are a gripper in a kitchen. A subtask moves one thing by its handle: the gripper goes there, closes, "
            f"moves the handle along and lets go. {self.goal} Only the subtask whose turn it is counts, "
            "and one that was done before its turn never will."
        )

    def simulator(self, num_envs: int, render_mode: str | None = None) -> Simulator:
        """The rules of N environments."""
        return KitchenSimulator(num_envs, self.order, self.max_steps)

    @cached_property
    def demonstrated(self) -> "KitchenKinematic":
        """The same kitchen in which each level has an order of its own, unlike that of the task."""
        return _Shown(words_of(self.order), self.max_steps, self.length, self.held_out, self.shown_steps)

    def done(self, obs: Obs) -> NDArray[np.bool_]:
        """Which subtasks are done [N, 7]."""
        return obs[:, SHARES] > DONE

    def in_place(self, obs: Obs) -> NDArray[np.int64]:
        """The subtask [N] whose handle the gripper is at; -1 where none is near."""
        ways = self._ways(obs)
        far = np.linalg.norm(ways, axis=2)
        return np.where(far.min(1) < _CLEAR, far.argmin(1), -1)

    def ground(self, obs: Obs, option: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Where the gripper has to go for each option [N]: to the handle, and with it to the end of its line."""
        option = np.asarray(option)
        way, holds, _ = self._stage(obs, option)
        end = (SITES + LINES)[option] - CENTRE
        mean = np.where(holds[:, None], SEEN_PLACE * end, obs[:, PLACE] + SEEN_PLACE * way)
        return mean.astype(np.float32), np.full(mean.shape, SEEN_PLACE * GRASP, np.float32)

    def skill(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.float32]:
        """Actions [N, 4] of the scripted executor of each subtask, in six phases.

        It comes to a place before the handle with an open gripper, goes to the handle, closes, and pulls along. What
        it holds after that it releases, and retreats from it while it opens.
        """
        option = np.asarray(option)
        way, holds, clear = self._stage(obs, option)
        grip, far = obs[:, GRIP], np.linalg.norm(way, axis=1)
        closes = (grip < CLOSED) & (far < np.where(grip > _AJAR, _CLOSING, _AT))
        retreats = (grip > _AJAR) & ~clear
        pull = DIRECTIONS[option] / np.abs(DIRECTIONS[option]).max(1, keepdims=True)
        go = np.where((far < _BEFORE)[:, None], way, way + _FRONT) / STEP[:3]
        back = np.broadcast_to(_FRONT / np.abs(_FRONT).max(), go.shape)
        phases = [holds[:, None], closes[:, None], retreats[:, None]]
        move = np.clip(np.select(phases, [pull, way / STEP[:3], back], go), -_PACE, _PACE)
        return np.column_stack([move, np.where(holds | closes, 1.0, -1.0)]).astype(np.float32)

    def _ways(self, obs: Obs) -> NDArray[np.float64]:
        """From the gripper to each handle [N, 7, 3]."""
        seen = np.asarray(obs, np.float64)
        return places(seen[:, SHARES]) - (seen[:, PLACE] / SEEN_PLACE + CENTRE)[:, None]

    def _stage(
        self, obs: Obs, option: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        """The way [N, 3] to the handle of each option [N], whether the gripper holds it and it is not done, and whether
        no handle is near."""
        rows, ways = np.arange(len(obs)), self._ways(obs)
        far = np.linalg.norm(ways, axis=2)
        own = far[rows, option]
        # What is attached is not told. It is what was nearest, and so, but for what passes by, is nearest.
        near = (own < GRASP) & ((own <= far.min(1)) | (own < _CLOSING))
        holds = (obs[:, ATTACHED] > 0) & near & ~self.option_done(obs, option)
        return ways[rows, option], holds, far.min(1) > _CLEAR


class _Shown(KitchenKinematic):
    """What demonstrations of a kitchen task show; its environments tell which subtask is due."""

    def simulator(self, num_envs: int, render_mode: str | None = None) -> Simulator:
        """The rules of N environments, whose levels have orders."""
        orders = demonstrable(self.order, self.length, self.held_out)
        return ShownSimulator(num_envs, self.order, self.shown_steps, orders)


def full_name(name: str) -> str:
    """The name of a task with its order spelt out. Raises `UserError` if there is no such order."""
    return make_task(name).name


def make_task(name: str) -> Any:
    """The task of a name, with an order behind a colon or without."""
    return KitchenKinematic(name.partition(":")[2] or PLAIN)
