"""Orders of subtasks: the one that a task pays for, and those that its demonstrations may show."""

from functools import cache
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray

from preceptor.envs.kitchen.layout import NAMES
from preceptor.ground.errors import UserError, unknown_name

Order = tuple[int, ...]  # handles by number, as they are due

PAID = 4  # subtasks of an order that is drawn
_DRAWN_BY = 17  # the seed of the orders that have a number


@cache
def numbered() -> tuple[Order, ...]:
    """All orders of four subtasks, shuffled once: a number stands for one of them."""
    every = list(permutations(range(len(NAMES)), PAID))
    return tuple(every[i] for i in np.random.default_rng(_DRAWN_BY).permutation(len(every)))


def order_of(words: str, task: str) -> Order:
    """The order of `kettle-light-slide-microwave`, or of a number, `17` or `#17`.

    Raises:
        UserError: A subtask that does not exist, or twice, fewer than two, or a number that is none of an order.
    """
    example = f"--task {task}:kettle-light-slide-microwave"
    number = words.strip().removeprefix("#")
    if number.isdecimal():
        if int(number) >= len(numbered()):
            what = f"{task}: orders have the numbers 0 to {len(numbered()) - 1}, and {number} was given."
            raise UserError(what, f"--task {task}:17")
        return numbered()[int(number)]
    names = words.strip().lower().split("-")
    for name in names:
        if name not in NAMES:
            raise unknown_name(f"subtask of {task}", name, NAMES, example)
    if len(set(names)) != len(names) or len(names) < 2:
        raise UserError(f"{task}: an order is of two or more different subtasks, not {words!r}.", example)
    return tuple(map(NAMES.index, names))


def words_of(order: Order) -> str:
    """The subtasks of an order, joined by hyphens."""
    return "-".join(NAMES[handle] for handle in order)


@cache
def demonstrable(order: Order, length: int, held_out: int) -> NDArray[np.int64]:
    """All orders [M, length] in which no `held_out` subtasks of an order come as they come in it.

    Raises:
        UserError: There are none.
    """
    every = np.array(list(permutations(range(len(NAMES)), length)), np.int64)
    when = np.full((len(every), len(NAMES)), length)  # the place of each subtask; of one that is left out, the end
    np.put_along_axis(when, every, np.arange(length)[None], 1)
    shown = np.zeros(len(every), np.bool_)
    for some in combinations(order, held_out):
        times = when[:, list(some)]
        shown |= (np.diff(times, axis=1) > 0).all(1) & (times[:, -1] < length)
    if shown.all():
        what = f"There is no order of {length} subtasks in which no {held_out} come as in {words_of(order)}."
        raise UserError(what, f"demonstrate fewer, or hold out more: held_out={held_out + 1}")
    return every[~shown]
