"""Pick and place from the command line: teach, judge, film."""

import json
from pathlib import Path
from typing import Any

import pytest

import main as cli


def result(capsys: pytest.CaptureFixture[str], words: list[str]) -> dict[str, Any]:
    """The result line of a command that succeeds; nothing else is on stdout."""
    capsys.readouterr()
    assert cli.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_controller_is_distilled_judged_and_filmed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--method", "dagger", "--task", "FetchPickAndPlace", "--logdir", str(tmp_path)]
    few = ["--preset", "tiny", "--quiet", "--steps", "800", "--num-envs", "8", "--eval-episodes", "0"]
    trained = result(capsys, ["train", *where, "--teacher", "scripted", "--savedir", "x", *few])
    assert 4 <= trained["queries"] <= 8, "distinct scenes, not steps"
    players = ["--compare", "student,scripted,random", "--seeds", "1000000:1000003", "--video", "1"]
    judged = result(capsys, ["eval", *where, "--loaddir", "x", *players])
    assert Path(judged["video"]).stat().st_size > 1000
    assert judged["scripted"]["sampled"]["success"] == 1.0
    assert judged["student"]["greedy"]["return"] > judged["random"]["greedy"]["return"]
