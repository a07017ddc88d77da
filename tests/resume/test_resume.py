"""A run that was interrupted and resumed leaves, to the bit, what an uninterrupted one leaves."""

from pathlib import Path

import pytest

from agent.config import configure
from agent.runs.run import Run
from tests.interrupting import left_behind, train_until


def run_once(
    logdir: Path,
    method: str,
    name: str,
    *,
    stop_after: int | None = None,
    teacher: str = "scripted",
    task: str = "SimpleDoorKey",
) -> Run:
    """Train a little; `stop_after` interrupts at the first metrics after that step, between two checkpoints."""
    config = configure(
        method=method, task=task, teacher=teacher, preset="tiny", steps=2500, savedir=name, logdir=str(logdir),
        resume=True, quiet=True, eval_episodes=0, seed=3, label_noise=0.1,
    )  # fmt: skip
    return train_until(config, stop_after)


@pytest.mark.parametrize(
    ("method", "task"), [*((m, "SimpleDoorKey") for m in ("ihac", "ppo", "dagger")), ("ihac", "RescueWorld-n3-random")]
)
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path, method: str, task: str) -> None:
    whole = run_once(tmp_path, method, "whole", task=task)
    for stop in (300, 900, 2000):  # while demonstrating, while distilling, while PPO learns
        parts = run_once(tmp_path, method, "parts", stop_after=stop, task=task)
        assert (parts.last_step or 0) < 2500 - 32
    parts = run_once(tmp_path, method, "parts", task=task)
    assert len(parts.manifest()["starts"]) == 4
    assert left_behind(parts) == left_behind(whole)


def test_what_a_killed_run_has_asked_is_counted_once(tmp_path: Path) -> None:
    whole = run_once(tmp_path, "dagger", "whole", teacher="local")
    for stop in (0, 300, 1100):  # before the first checkpoint, and after it
        run_once(tmp_path, "dagger", "parts", stop_after=stop, teacher="local")
    parts = run_once(tmp_path, "dagger", "parts", teacher="local")
    assert left_behind(parts) == left_behind(whole)
    assert {name: parts.results()[name] for name in ("queries", "calls")} == {
        name: whole.results()[name] for name in ("queries", "calls")
    }
