"""The figures by which a teacher is judged, from what was seen of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.runs.statistics import wilson
from teacher.calibration import expected_calibration_error


@dataclass(frozen=True)
class Shown:
    """One menu order of a scene, and the probability at each of its places (the mean over samples)."""

    scene: int
    menu: tuple[int, ...]
    mass: tuple[float, ...]

    @property
    def choice(self) -> int:
        """The option with the most probability; of equal ones the first of the task, wherever it stands."""
        return min(zip(self.menu, self.mass, strict=True), key=lambda pair: (-pair[1], pair[0]))[0]


@dataclass
class Evidence:
    """What was seen of a teacher.

    Attributes:
        probs: Its label of each scene over the task's options; empty where it abstained.
        truth: The right option of each scene.
        shown: Its answers to single menu orders.
        calls: Calls, of which `valid` gave an answer.
        tokens: Tokens of all calls.
        seconds: How long each answer took.
    """

    probs: list[tuple[float, ...]] = field(default_factory=list)
    truth: list[int] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    calls: int = 0
    valid: int = 0
    tokens: int = 0
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def joined(cls, parts: Sequence["Evidence"]) -> "Evidence":
        """The evidence of several tasks as that of one."""
        whole = cls()
        for part in parts:
            before = len(whole.truth)
            whole.shown += [replace(shown, scene=shown.scene + before) for shown in part.shown]
            for name in ("probs", "truth", "calls", "valid", "tokens", "seconds"):
                setattr(whole, name, getattr(whole, name) + getattr(part, name))
        return whole


def measure(evidence: Evidence) -> dict[str, Any]:
    """The figures by name; None where there is nothing to measure (calls of a teacher that makes none)."""
    n = len(evidence.truth)
    right = sum(_is_right(probs, truth) for probs, truth in zip(evidence.probs, evidence.truth, strict=True))
    low, high = wilson(right, n)
    figures: dict[str, Any] = {"scenes": n, "accuracy": right / n if n else None, "low": low, "high": high}
    answered = [(probs, truth) for probs, truth in zip(evidence.probs, evidence.truth, strict=True) if probs]
    figures |= {"abstained": 1 - len(answered) / n if n else None, **_calibration(answered)}
    figures |= {"position_bias": _position_bias(evidence.shown), "order_changes": _order_changes(evidence.shown)}
    calls, tokens = evidence.calls, evidence.tokens
    figures |= {"calls": calls, "tokens": tokens, "valid": evidence.valid / calls if calls else None}
    figures["tokens_per_scene"] = tokens / n if n and calls else None
    p50, p95 = np.percentile(evidence.seconds, (50, 95)).tolist() if evidence.seconds else (None, None)
    return figures | {"seconds_p50": p50, "seconds_p95": p95}


def _is_right(probs: Sequence[float], truth: int) -> bool:
    """Whether the right option has more probability than any other; a tie is no choice."""
    return bool(probs) and all(p < probs[truth] for option, p in enumerate(probs) if option != truth)


def _calibration(answered: Sequence[tuple[Sequence[float], int]]) -> dict[str, float | None]:
    """ECE (Naeini et al., 2015) and the Brier score summed over options (Brier, 1950), abstentions left out."""
    if not answered:
        return {"ece": None, "brier": None}
    probs: NDArray[np.float32] = np.zeros((len(answered), max(len(row) for row, _ in answered)), np.float32)
    truth = np.array([right for _, right in answered], np.int64)
    for filled, (row, _) in zip(probs, answered, strict=True):
        filled[: len(row)] = row
    wanted = np.eye(probs.shape[1])[truth]
    brier = float(((probs - wanted) ** 2).sum(axis=1).mean())
    return {"ece": float(expected_calibration_error(probs, truth)), "brier": brier}


def _position_bias(shown: Sequence[Shown]) -> float | None:
    """Total variation between where the probability went on the menus and the uniform distribution over places.

    Menus of different lengths are compared each with their own uniform distribution and weighted by their number.
    """
    by_length: dict[int, list[tuple[float, ...]]] = {}
    for order in shown:
        by_length.setdefault(len(order.menu), []).append(order.mass)
    distances = {
        length: 0.5 * float(np.abs(np.mean(masses, axis=0) - 1 / length).sum()) for length, masses in by_length.items()
    }
    weighted = sum(distances[length] * len(masses) for length, masses in by_length.items())
    return weighted / len(shown) if shown else None


def _order_changes(shown: Sequence[Shown]) -> float | None:
    """Share of the scenes shown in several orders whose best option is not the same in all of them."""
    choices: dict[int, list[int]] = {}
    for order in shown:
        choices.setdefault(order.scene, []).append(order.choice)
    several = [made for made in choices.values() if len(made) > 1]
    return sum(len(set(made)) > 1 for made in several) / len(several) if several else None
