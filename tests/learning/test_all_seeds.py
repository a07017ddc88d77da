"""The claims of the README over all training seeds (`make learn`); runs that `python -m dev.tables` left are used."""

import numpy as np
import pytest

from dev.tables import CONTROL_TASKS, Row, baseline, episodes, results, rows_of, train_missing
from preceptor.agent.runs.statistics import paired_difference

pytestmark = [pytest.mark.learn, pytest.mark.timeout(4 * 3600)]


def trained(part: str) -> list[Row]:
    """The rows of a table, trained where they are not yet."""
    rows = rows_of(part)
    train_missing(rows, 0, 1)
    return rows


def success(row: Row, style: str) -> np.ndarray:
    """Final held-out success of each training seed."""
    return np.array([result["student"][style]["success"] for result in results(row)])


def test_simple_door_key_within_its_budget():
    ihac, _, ppo, _ = trained("simple")
    for result in results(ihac):
        assert result["steps"] <= 30_000
        assert result["queries"] <= 100
    assert success(ihac, "sampled").mean() >= 0.97
    assert success(ihac, "greedy").mean() >= 0.90
    assert success(ppo, "sampled").mean() < 0.5


def test_every_student_is_as_good_as_the_script():
    for row in trained("tasks"):
        script = baseline(row.config.task, "scripted")["success"]
        assert success(row, "sampled").mean() >= script - 0.03, row.name


def test_students_surpass_limited_teachers():
    for row in trained("limits"):
        teacher = baseline(row.config.task, "local", row.config.limit)["success"]
        assert teacher <= 0.75, f"{row.name}: the teacher is not limited"
        assert success(row, "sampled").mean() >= teacher + 0.20, row.name


@pytest.mark.parametrize("task", CONTROL_TASKS)
def test_true_labels_beat_uniform_ones_after_distillation(task):
    rows = {row.name: row for row in trained("controls")}
    true, control = rows[f"{task} / local"], rows[f"{task} / uniform-legal"]
    better_success = paired_difference(*(episodes(row, "distilled", "success") for row in (true, control)))[1] > 0
    shorter = paired_difference(*(episodes(row, "distilled", "length") for row in (true, control)))[2] < 0
    assert better_success or shorter
