"""What a teacher has cost: counters, rates, and latencies of this run's own calls."""

import pytest

from preceptor.agent.runs.accounting import Accounting
from preceptor.teacher.base import TeacherStats
from preceptor.teacher.labels import LabelStore
from tests.unit.test_labels import call


def test_counters_rates_and_latencies_under_stable_tags() -> None:
    store = LabelStore(own=True)
    counted = {"queries": 3, "calls": 4, "hits": 2, "abstained": 1, "invalid": 1, "tokens": 44, "seconds": 2.0}
    stats = TeacherStats(**counted, extra={"requests": 6})  # type: ignore[arg-type]
    accounting = Accounting(stats, store)
    uncalled = Accounting(TeacherStats(hits=5), store).figures(0)
    assert not {"latency_p50", "latency_p95", "invalid_rate"} & uncalled.keys()
    assert uncalled["calls_per_1k_steps"] == 0.0
    store.put_many([call(number, seconds=float(number)) for number in range(1, 5)])
    figures = {"requests": 6.0, "queries_per_1k_steps": 1.5, "calls_per_1k_steps": 2.0, "invalid_rate": 0.25}
    figures |= counted | {"latency_p50": 2.5, "latency_p95": pytest.approx(3.85)}
    assert accounting.metrics(2000) == {f"teacher/{name}": figure for name, figure in figures.items()}


def test_latencies_follow_the_calls_of_this_run() -> None:
    shared, own = LabelStore(), LabelStore(own=True)
    for store in (shared, own):
        store.put_many([call(0, seconds=100.0)])
    stats = TeacherStats()
    of_shared, of_own = Accounting(stats, shared), Accounting(stats, own)
    stats.calls = 1
    assert of_own.figures(1)["latency_p50"] == 100.0
    assert "latency_p50" not in of_shared.figures(1), "that call was another run's"
    for store in (shared, own):
        store.put_many([call(1, seconds=1.0)])
    stats.calls = 2
    assert of_shared.figures(1)["latency_p95"] == 1.0
    assert of_own.figures(1)["latency_p50"] == 50.5
