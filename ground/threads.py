"""The threads that a run may take (`--threads`): those of torch's operations, and of simulators side by side."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any

_allowed = 1


def use_threads(count: int) -> None:
    """Take so many from now on."""
    global _allowed
    import torch  # which simulators do without

    torch.set_num_threads(count)
    _allowed = count


def side_by_side(work: Callable[[Any], None], items: Sequence[Any], least: int) -> None:
    """Do work on all items, which lets go of Python's lock; on as many threads as have `least` items each."""
    threads = min(_allowed, len(items) // least)
    if threads <= 1:
        _all_of(items, work)
    else:
        shares = [_workers().submit(_all_of, items[first::threads], work) for first in range(threads)]
        try:
            for share in shares:
                share.result()
        finally:
            wait(shares)  # so that none goes on after an error or an interrupt


def _all_of(items: Sequence[Any], work: Callable[[Any], None]) -> None:
    for item in items:
        work(item)


@cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="simulator")
