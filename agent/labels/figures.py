"""The figures by which a teacher is judged, from what was seen of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.runs.statistics import wilson
from teacher.calibration import expected_calibration_error


class MenuOrder(NamedTuple):
    """An order in which a scene's options stood on the menu, and the probability at each place (mean over samples)."""

    menu: tuple[int, ...]
    mass: tuple[float, ...]

    @property
    def choice(self) -> int:
        """The option with the most probability; of equal ones the first of the task, wherever it stands."""
        return min(zip(self.menu, self.mass, strict=True), key=lambda pair: (-pair[1], pair[0]))[0]


@dataclass(frozen=True)
class Evidence:
    """What was seen of a teacher in one scene.

    Attributes:
        probs: Its label, over the task's options; empty where it abstained.
        truth: The right option.
        orders: Its answers to single menu orders.
        calls: Calls to the model.
        tokens: Tokens of all calls.
        seconds: How long each call with a valid answer took.
    """

    probs: tuple[float, ...] = ()
    truth: int = 0
    orders: Sequence[MenuOrder] = ()
    calls: int = 0
    tokens: int = 0
    seconds: Sequence[float] = ()

    @property
    def right(self) -> bool:
        """Whether the right option has more probability than any other; a tie is no choice."""
        rest = self.probs[: self.truth] + self.probs[self.truth + 1 :]
        return bool(self.probs) and all(p < self.probs[self.truth] for p in rest)


def measure(scenes: Sequence[Evidence]) -> dict[str, Any]:
    """The figures by name; None where there is nothing to measure (calls of a teacher that makes none)."""
    n, answered = len(scenes), [scene for scene in scenes if scene.probs]
    calls, tokens = sum(scene.calls for scene in scenes), sum(scene.tokens for scene in scenes)
    seconds = [one for scene in scenes for one in scene.seconds]
    orders = [order for scene in scenes for order in scene.orders]
    several = [{order.choice for order in scene.orders} for scene in scenes if len(scene.orders) > 1]
    right = sum(scene.right for scene in scenes)
    low, high = wilson(right, n)
    p50, p95 = np.percentile(seconds, (50, 95)).tolist() if seconds else (None, None)
    return {
        "scenes": n,
        "accuracy": _share(right, n),
        "low": low,
        "high": high,
        "abstained": _share(n - len(answered), n),
        **_calibration(answered),
        "position_bias": _position_bias(orders),
        "order_changes": _share(sum(len(choices) > 1 for choices in several), len(several)),
        "calls": calls,
        "tokens": tokens,
        "valid": _share(len(seconds), calls),
        "tokens_per_scene": tokens / n if n and calls else None,
        "seconds_p50": p50,
        "seconds_p95": p95,
    }


def _share(count: int, of: int) -> float | None:
    return count / of if of else None


def _calibration(answered: Sequence[Evidence]) -> dict[str, float | None]:
    """ECE (Naeini et al., 2015) and the Brier score summed over options (Brier, 1950), abstentions left out."""
    if not answered:
        return {"ece": None, "brier": None}
    width = max(len(scene.probs) for scene in answered)
    probs: NDArray[np.float32] = np.zeros((len(answered), width), np.float32)
    for row, scene in zip(probs, answered, strict=True):
        row[: len(scene.probs)] = scene.probs
    truth = np.array([scene.truth for scene in answered], np.int64)
    brier = float(((probs - np.eye(width)[truth]) ** 2).sum(axis=1).mean())
    return {"ece": expected_calibration_error(probs, truth), "brier": brier}


def _position_bias(orders: Sequence[MenuOrder]) -> float | None:
    """Total variation between where the probability went on the menus and the uniform distribution over places.

    Menus of different lengths are compared each with their own uniform distribution and weighted by their number.
    """
    total = 0.0
    for length in {len(order.menu) for order in orders}:
        masses = [order.mass for order in orders if len(order.menu) == length]
        total += len(masses) * 0.5 * float(np.abs(np.mean(masses, axis=0) - 1 / length).sum())
    return total / len(orders) if orders else None
