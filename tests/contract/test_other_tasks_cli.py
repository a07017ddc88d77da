"""Tasks beside the grids from the command line: teach, judge, film, improve by reward."""

import json
from pathlib import Path
from typing import Any

import pytest

import main as cli

Capsys = pytest.CaptureFixture[str]
TAUGHT = ["--preset", "tiny", "--quiet", "--teacher", "scripted", "--savedir", "x", "--eval-episodes", "20"]


def result(capsys: Capsys, words: list[str]) -> dict[str, Any]:
    """The result line of a command that succeeds; nothing else is on stdout."""
    capsys.readouterr()
    assert cli.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("task", "budget", "queries", "better"),
    [
        ("FetchPickAndPlace", ["--steps", "800", "--num-envs", "8"], (4, 8), 0.0),
        ("RescueWorld-n3", [], (11, 95), 2950.0),
    ],
)
def test_a_controller_is_distilled_judged_and_filmed(
    task: str, budget: list[str], queries: tuple[int, int], better: float, tmp_path: Path, capsys: Capsys
) -> None:
    where = ["--method", "dagger", "--task", task, "--logdir", str(tmp_path)]
    trained = result(capsys, ["train", *where, *TAUGHT, *budget])
    assert queries[0] <= trained["queries"] <= queries[1], "distinct scenes, not steps"
    players = ["--compare", "student,scripted,random", "--seeds", "1000000:1000003", "--video", "1"]
    judged = result(capsys, ["eval", *where, "--loaddir", "x", *players])
    assert Path(judged["video"]).stat().st_size > 1000
    assert judged["scripted"]["sampled"]["success"] == 1.0
    assert judged["student"]["greedy"]["return"] > judged["random"]["greedy"]["return"]
    if better:
        assert trained["student"]["greedy"]["success"] == 1.0
        assert judged["student"]["sampled"]["return"] == judged["scripted"]["sampled"]["return"] > better


def test_a_student_learns_hands_too_and_goes_on_by_reward(tmp_path: Path, capsys: Capsys) -> None:
    where = ["--method", "ihac", "--task", "RescueWorld-n3", "--logdir", str(tmp_path)]
    trained = result(capsys, ["train", *where, *TAUGHT])
    assert trained["distilled"]["sampled"]["success"] == trained["student"]["sampled"]["success"] == 1.0
    assert trained["student"]["sampled"]["return"] > 2900
