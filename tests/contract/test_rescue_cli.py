"""Rescue Worlds from the command line: teach, judge, film, improve by reward, as with any task of named actions."""

import json
from pathlib import Path
from typing import Any

import pytest

import main as cli

TASK = "RescueWorld-n3"


def result(capsys: pytest.CaptureFixture[str], words: list[str]) -> dict[str, Any]:
    """The result line of a command that succeeds."""
    capsys.readouterr()
    assert cli.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_controller_is_distilled_judged_and_filmed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--method", "dagger", "--task", TASK, "--logdir", str(tmp_path)]
    few = ["--preset", "tiny", "--quiet", "--eval-episodes", "20"]
    trained = result(capsys, ["train", *where, "--teacher", "scripted", "--savedir", "x", *few])
    assert trained["student"]["greedy"]["success"] == 1.0
    assert 10 < trained["queries"] < 12 * 2**3, "distinct scenes, not steps"
    players = ["--compare", "teacher,student,random", "--seeds", "1000000:1000010", "--video", "1"]
    judged = result(capsys, ["eval", *where, "--loaddir", "x", *players])
    assert Path(judged["video"]).stat().st_size > 1000
    assert judged["student"]["sampled"]["return"] == judged["teacher"]["sampled"]["return"] > 2950
    assert judged["random"]["sampled"]["success"] < 0.5


def test_a_student_learns_hands_too_and_goes_on_by_reward(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--preset", "tiny", "--quiet", "--eval-episodes", "20", "--logdir", str(tmp_path)]
    trained = result(capsys, ["train", "--method", "ihac", "--task", TASK, "--teacher", "scripted", *few])
    assert trained["distilled"]["sampled"]["success"] == 1.0
    assert trained["student"]["sampled"]["success"] == 1.0
    assert trained["student"]["sampled"]["return"] > 2900
