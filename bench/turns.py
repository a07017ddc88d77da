"""Sides that do the same work, by CPU time: they take turns and each is credited with its fastest."""

import time
from collections.abc import Callable, Mapping
from typing import Any


def compared(
    what: str, sides: Mapping[str, tuple[Callable[[], object], int]], turns: int, goal: float
) -> dict[str, Any]:
    """Measure and print all sides; `ratio` is the time of the last, the peer of the goal, over that of the first, ours.

    Args:
        what: The work, for the head of the table.
        sides: By name, what does the work, and how often it does it in a turn.
        turns: How many each side has.
        goal: The ratio that is aimed at.
    """
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, (work, repeats) in sides.items():
            started = time.process_time()
            for _ in range(repeats):
                work()
            taken[name].append((time.process_time() - started) / repeats)
    fastest = {name: min(times) for name, times in taken.items()}
    ours, *_, peer = fastest.values()
    print(f"{what}, one core")
    for name, seconds in fastest.items():
        print(f"  {name:<32} {1000 * seconds:8.2f} ms   {seconds / ours:6.1f} x")
    print(f"  ratio: {peer / ours:.1f}   (goal {goal:g})")
    return {"milliseconds": {name: 1000 * seconds for name, seconds in fastest.items()}, "ratio": peer / ours}
