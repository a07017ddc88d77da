"""The whole chain in seconds: labels are distilled, the student plays alone, and wrong labels show."""

import pytest

from preceptor.agent.config import configure
from preceptor.agent.train import train

BASE = {"preset": "tiny", "quiet": True, "eval_episodes": 100}


@pytest.mark.parametrize(("teacher", "student"), [("local", "hierarchical"), ("scripted", "flat")])
def test_the_student_solves_held_out_levels_alone(teacher, student, tmp_path):
    result = train(configure(BASE, teacher=teacher, student=student, logdir=str(tmp_path)))
    assert result["steps"] <= 8_000
    assert 0 < result["queries"] <= 100
    assert result["student"]["sampled"]["success"] >= 0.85


def test_wrong_labels_make_a_worse_student(tmp_path):
    good, bad = (
        train(
            configure(
                BASE,
                method="dagger",
                task="KeyInBox",
                teacher=teacher,
                doubt=False,
                savedir=teacher,
                logdir=str(tmp_path),
            )
        )
        for teacher in ("scripted", "uniform-legal")
    )
    assert good["student"]["sampled"]["success"] > bad["student"]["sampled"]["success"]
    assert good["student"]["sampled"]["length"] < bad["student"]["sampled"]["length"]
