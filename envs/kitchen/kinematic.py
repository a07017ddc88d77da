"""The kinematic kitchen: a gripper and seven handles without dynamics, for N environments at once."""

from typing import Final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from preceptor.envs.kitchen.drawing import draw
from preceptor.envs.kitchen.layout import (
    CLOSED,
    DIRECTIONS,
    DONE,
    GRASP,
    HIGHEST,
    HOME,
    LENGTHS,
    LINES,
    LOWEST,
    NAMES,
    OBSERVATION_SIZE,
    STEP,
    observation,
    places,
)
from preceptor.envs.kitchen.orders import Order
from preceptor.envs.kitchen.subtasks import ShownOrders
from preceptor.envs.vector import Outcome, Simulator, State
from preceptor.ground.level_seeds import random_bits

_SPREAD: Final = np.array([0.05, 0.05, 0.05, 0.3])  # of places and of grips at the start of an episode


class KitchenSimulator(Simulator):
    """The rules: a gripper flies where actions take it, and moves the handle that it holds along the handle's line.

    A handle attaches when the gripper becomes closed within 6 cm of it, the nearest if there are several, and lets go
    when the gripper opens. While it is attached only motion along its line counts. It is done behind nine tenths of the
    line, and then does not go back. A handle that becomes done in its turn pays 1; one that became done before its turn
    never does, so nothing after it does either. The episode terminates in success once all have paid.

    Args:
        num_envs: N.
        order: The handles, by number, in their turns.
        max_steps: T, after which an episode is truncated.

    Attributes:
        place: float64 [N, 3], where the gripper is.
        grip: float64 [N], from 0, open, to 1.
        held: int64 [N], the handle that is attached, -1 for none.
        shares: float32 [N, 7], how far each handle is along its line.
        paid: int64 [N], handles that have paid.
        age: int64 [N], steps since each episode began.
    """

    name = "KitchenKinematic"
    max_steps: int
    state: tuple[str, ...] = ("level_seed", "place", "grip", "held", "shares", "paid", "age")
    forgiving = True

    def __init__(self, num_envs: int, order: Order, max_steps: int) -> None:
        self.num_envs, self.max_steps = num_envs, max_steps
        self.order = np.array([*order, -1])  # the last one is no handle
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (OBSERVATION_SIZE,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (len(STEP),), np.float32)
        self.level_seed, self.held = np.full((2, num_envs), -1, np.int64)
        self.paid, self.age = np.zeros((2, num_envs), np.int64)
        self.place, self.grip = np.zeros((num_envs, 3)), np.zeros(num_envs)
        self.shares = np.zeros((num_envs, len(NAMES)), np.float32)

    def begin(self, rows: NDArray[np.int64], level_seeds: NDArray[np.int64]) -> None:
        """Start episodes: the gripper about its home, as far open as the level has it."""
        self.level_seed[rows], self.held[rows] = level_seeds, -1
        self.shares[rows] = self.paid[rows] = self.age[rows] = 0
        drawn = random_bits(level_seeds, len(_SPREAD)) / 2.0**64 * _SPREAD
        self.place[rows], self.grip[rows] = HOME + 2 * drawn[:, :3] - _SPREAD[:3], drawn[:, 3]

    def step(self, actions: NDArray[np.floating]) -> Outcome:
        """Act [N, 4]. Raises `ValueError` for actions that are not finite numbers of that shape."""
        actions = np.clip(self.checked(actions), -1, 1)
        self._close(np.sign(actions[:, 3]) * STEP[3])
        done = self.done
        self._move(actions[:, :3] * STEP[:3])
        self.age += 1
        finished = (self.done & ~done)[np.arange(self.num_envs), self.held]  # no other one can be
        reward = finished & (self.held == self.order[self.paid])
        self.paid += reward
        over = self.over()
        return Outcome(reward.astype(np.float64), over, ~over & (self.age >= self.max_steps), over.copy())

    def _close(self, change: NDArray[np.float64]) -> None:
        """Close the gripper by some grip [N], or open it; handles attach or let go."""
        before, self.grip = self.grip >= CLOSED, np.clip(self.grip + change, 0.0, 1.0)
        closed = self.grip >= CLOSED
        self.held[~closed] = -1
        closing = np.flatnonzero(closed & ~before)
        away = np.linalg.norm(places(self.shares[closing]) - self.place[closing, None], axis=2)
        self.held[closing] = np.where(away.min(1) < GRASP, away.argmin(1), -1)

    def _move(self, way: NDArray[np.float64]) -> None:
        """Move the gripper by a way [N, 3], or along its handle's line."""
        rows = np.flatnonzero(self.held >= 0)
        handle = self.held[rows]
        before = self.shares[rows, handle]
        along = (way[rows] * DIRECTIONS[handle]).sum(1) / LENGTHS[handle]
        after = np.clip(before + along, np.where(before > DONE, before, 0), 1).astype(np.float32)
        self.shares[rows, handle] = after
        flown = np.clip(self.place + way, LOWEST, HIGHEST)
        flown[rows] = self.place[rows] + (after - before)[:, None] * LINES[handle]
        self.place = flown

    @property
    def done(self) -> NDArray[np.bool_]:
        """Which handles are done [N, 7]."""
        return self.shares > DONE

    def over(self) -> NDArray[np.bool_]:
        """Where all that there is to do has been done [N]."""
        return self.paid >= len(self.order) - 1

    def observe(self) -> NDArray[np.float32]:
        """Observations float32 [N, 33]."""
        return observation(self.place, self.grip, self.held >= 0, self.shares)

    def arrays(self) -> State:
        """Everything that the future depends on."""
        return {name: getattr(self, name) for name in self.state}

    def render(self, n: int = 0) -> NDArray[np.uint8]:
        """The kitchen from the front and from above, uint8 [H, W, 3]."""
        return draw(self.place[n], float(self.grip[n]), self.shares[n], int(self.held[n]))


class ShownSimulator(ShownOrders, KitchenSimulator):
    """What demonstrations show. Rewards are those of the task's order.

    Args:
        num_envs: N.
        order: The task's.
        max_steps: T, after which an episode is truncated.
        orders: int64 [M, L], those of levels.
    """

    def __init__(self, num_envs: int, order: Order, max_steps: int, orders: NDArray[np.int64]) -> None:
        super().__init__(num_envs, order, max_steps)
        self.show(orders)
