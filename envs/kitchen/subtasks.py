"""What kitchen tasks have in common: seven subtasks as options, scenes that say which are done, orders of some."""

from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from preceptor.envs.kitchen.layout import HANDLES, NAMES
from preceptor.envs.kitchen.orders import Order, order_of, words_of
from preceptor.envs.task import Option, OptionSpace, TableTask
from preceptor.envs.vector import Simulator, State
from preceptor.ground.level_seeds import random_bits

Obs = NDArray[np.floating]

PLAIN: Final = "microwave-kettle-light-slide"  # the order of the name without parameters, that of D4RL's kitchen
_DONE: Final = (np.arange(2 ** len(NAMES))[:, None] >> np.arange(len(NAMES)) & 1) > 0  # [codes, K]
_TIMEOUT = 80  # steps: about twice what the expert takes


def expert_order(order: Order) -> NDArray[np.int64]:
    """The subtask of each code [C] that the expert does: the first one of an order that is not done, then others."""
    ranks = np.array([*order, *(handle for handle in range(len(NAMES)) if handle not in order)])
    return ranks[(~_DONE[:, ranks]).argmax(1)]


class KitchenTask(TableTask):
    """A kitchen with seven subtasks, of which some are due. A scene says which are done; its code has a bit for each.

    Attributes:
        plain_name: The name without parameters.

    Args:
        order: The subtasks that are due, joined by hyphens, or the number of an order.
        max_steps: T, after which an episode is truncated.
    """

    plain_name: ClassVar[str]
    options = OptionSpace([Option(handle.name, handle.words, _TIMEOUT) for handle in HANDLES])
    continuous = True
    legal_of = ~_DONE | _DONE.all(1, keepdims=True)  # something has to be

    def __init__(self, order: str, max_steps: int) -> None:
        self.order, self.max_steps = order_of(order, self.plain_name), max_steps
        self.expert_of = expert_order(self.order)
        words = words_of(self.order)
        self.name = self.plain_name if words == PLAIN else f"{self.plain_name}:{words}"

    def done(self, obs: Obs) -> NDArray[np.bool_]:
        """Which subtasks are done [N, 7]."""
        raise NotImplementedError

    def fact_codes(self, obs: Obs) -> NDArray[np.int64]:
        """One integer per observation [N]; equal integers mean equal facts."""
        return self.done(obs) @ (1 << np.arange(len(NAMES)))

    def option_done(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the subtask of each option [N] is done."""
        return self.done(obs)[np.arange(len(obs)), option]

    def option_achieved(self, before: Obs, after: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the step between two observations did the subtask of each option [N]."""
        return self.option_done(after, option) & ~self.option_done(before, option)

    def words(self, code: int) -> tuple[tuple[str, ...], str]:
        """The facts of a code, and the English for them."""
        done, left = (", ".join(HANDLES[k].thing for k in np.flatnonzero(row)) for row in (_DONE[code], ~_DONE[code]))
        facts = tuple(
            f"{name}={'done' if is_done else 'left'}" for name, is_done in zip(NAMES, _DONE[code], strict=True)
        )
        return facts, f"Done: {done or 'nothing'}. Not done: {left or 'nothing'}."


class ShownOrders(Simulator):
    """A kitchen as demonstrations show it, before the simulator that has its rules: each level has an order of its own.

    Episodes end in success once that has been done. Infos hold `option`, int64 [N]: the subtask that is due in the
    order of the level, -1 where all are done.

    Attributes:
        orders: int64 [M, L], those of levels.
        shown: int64 [N, L], the order of each episode.
        done: bool [N, 7], the subtasks that are done, or were.
    """

    orders: NDArray[np.int64]
    shown: NDArray[np.int64]
    done: NDArray[np.bool_]

    def show(self, orders: NDArray[np.int64]) -> None:
        """Show these orders [M, L]."""
        self.orders, self.shown = orders, np.zeros((self.num_envs, orders.shape[1]), np.int64)

    def begin(self, rows: NDArray[np.int64], level_seeds: NDArray[np.int64]) -> None:
        """Start episodes as the task does, and draw their orders."""
        drawn = random_bits(level_seeds, _DRAWN)[:, -1]
        self.shown[rows] = self.orders[drawn % np.uint64(len(self.orders))]
        super().begin(rows, level_seeds)  # type: ignore[safe-super]  # that of the simulator behind this

    def arrays(self) -> State:
        """Everything that the future depends on."""
        return super().arrays() | {"shown": self.shown}  # type: ignore[safe-super]

    def info(self) -> dict[str, NDArray[np.int64]]:
        """See the class."""
        left = ~np.take_along_axis(self.done, self.shown, 1)
        due = self.shown[np.arange(self.num_envs), left.argmax(1)]
        return {"option": np.where(left.any(1), due, -1)}

    def over(self) -> NDArray[np.bool_]:
        """Where all that was to be shown has been done [N]."""
        return self.info()["option"] < 0


_DRAWN = 5  # random numbers of a level: the last one draws its order, the others where a gripper starts
