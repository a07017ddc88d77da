"""What the teacher has cost a run: the same figures in TensorBoard, in the result and in `report`."""

from typing import Any

import numpy as np

from preceptor.teacher.base import TeacherStats
from preceptor.teacher.labels import LabelStore

COUNTERS = ("queries", "calls", "hits", "abstained", "invalid", "tokens", "seconds")


class Accounting:
    """The counters of a teacher, and how long its replies took.

    Args:
        stats: The teacher's counters, which it goes on counting.
        store: Where its calls are kept. Latencies are those of the rows of this run: all rows of its own store, and of
            a store that it shares those that were written since it began or was resumed.
    """

    def __init__(self, stats: TeacherStats, store: LabelStore) -> None:
        self._stats, self._store = stats, store
        self._after = 0 if store.own else store.last_row()
        self._counted, self._latency = 0, dict[str, float]()

    def metrics(self, steps: int) -> dict[str, float]:
        """The figures after that many environment steps, as tags `teacher/...`; seconds are seconds."""
        return {f"teacher/{name}": figure for name, figure in self.figures(steps).items()}

    def figures(self, steps: int) -> dict[str, float]:
        """The figures by name; those without a meaning yet (the latency of no call) are left out."""
        stats = self._stats
        figures: dict[str, Any] = {name: getattr(stats, name) for name in COUNTERS} | stats.extra
        for name in ("queries", "calls"):
            figures[f"{name}_per_1k_steps"] = 1000 * figures[name] / steps if steps else 0.0
        if stats.calls:
            figures["invalid_rate"] = stats.invalid / stats.calls
        if stats.calls != self._counted:  # else the store has nothing new
            self._counted, seconds = stats.calls, self._store.latencies(self._after)
            if seconds:
                p50, p95 = np.percentile(seconds, (50, 95))
                self._latency = {"latency_p50": p50, "latency_p95": p95}
        return {name: float(figure) for name, figure in (figures | self._latency).items()}
