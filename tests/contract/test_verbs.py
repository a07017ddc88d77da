"""`eval`, `report` and `doctor` over one small run, as a stranger types them."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import main as cli
from preceptor.envs.catalog import get_task
from preceptor.ground.errors import UserError
from preceptor.teacher.controls import ScriptedTeacher
from preceptor.teacher.labels import LabelStore

LEVELS = ["--seeds", "1000000:1000006"]
SMALL = ["--preset=tiny", "--teacher=scripted", "--quiet", "--eval-episodes=4", "--steps=640", "--num-envs=4"]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log directory, with a space in its path, that holds a run of each method and one of two seeds."""
    root = tmp_path_factory.mktemp("my logs")
    where = ["--logdir", str(root), "--task", "SimpleDoorKey"]
    for method in ("ihac", "dagger", "ppo"):
        assert cli.main(["train", *where, *SMALL, "--method", method, "--savedir", method]) == 0
    assert cli.main(["train", *where, *SMALL, "--savedir", "two", "--seeds", "0", "1"]) == 0
    task, store = get_task("SimpleDoorKey"), root / "every scene.sqlite"
    with LabelStore(store) as labels:
        ScriptedTeacher(task, labels).label(task.sample_scenes(np.random.default_rng(0), 3000))
    words = ["--savedir", "replayed", "--teacher", "replay", "--labels", str(store)]
    assert cli.main(["train", *where, *SMALL, *words]) == 0
    return root


Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def said(logs: Path, capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs a command on those runs: exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main([*words, *([] if "--logdir" in words else ["--logdir", str(logs)])])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def result(said: Said, *words: str) -> dict[str, Any]:
    """The line of JSON of a command that succeeds."""
    code, out, _ = said(*words, "--json")
    assert (code, out.count("\n")) == (0, 1)
    return dict(json.loads(out))


def test_the_table_has_a_line_of_json_by_the_schema(logs: Path, said: Said) -> None:
    players = "teacher,student,controller,scripted,random"
    table = result(said, "eval", "--loaddir", "two", "--compare", players, *LEVELS)
    assert {"task", "method", *players.split(",")} <= table.keys()
    for player in players.split(","):
        for style in ("sampled", "greedy"):
            row = table[player][style]
            assert {"success", "low", "high", "episodes", "return", "length"} <= row.keys()
            assert row["episodes"] == (12 if player in ("student", "controller") else 6)
    assert json.loads((logs / "ihac" / "SimpleDoorKey" / "two" / "eval.json").read_text()) == table


def test_a_replayed_run_is_judged_with_its_own_teacher(said: Said) -> None:
    assert (
        result(said, "eval", "--loaddir", "replayed", "--eval_teacher", *LEVELS)["teacher"]["sampled"]["success"] == 1
    )


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["eval", "--loaddir", "ppo", "--compare", "student,controller"], "no controller"),
        (["eval", "--loaddir", "dager"], "Did you mean 'dagger'"),
        (["eval", "--loaddir", "ihac", "--method", "ppo"], "Known: ppo."),
        (["eval", "--task", "KeyInBox"], "no run of KeyInBox"),
        (["eval", "--compare", ","], "names no player"),
        (["eval", "--teacher-flaw", "lava"], "has no flaw"),
        (["report", "--task", "SimpelDoorKey"], "Did you mean 'SimpleDoorKey'"),
        (["report", "--task", "KeyInBox"], "no runs of KeyInBox"),
        (["report", "nowhere"], "Unknown run 'nowhere'"),
        (["report", "ppo", "--plot", "/proc/nowhere/x.png"], "Could not save"),
        (["doctor", "--run", "nowhere"], "Unknown run 'nowhere'"),
    ],
)
def test_a_mistake_names_the_next_command(words: list[str], why: str, said: Said) -> None:
    code, out, err = said(*words)
    assert (code, out) == (2, "")
    assert why in err
    assert "next: " in err
    assert "*" not in err


def test_results_go_into_the_run_and_the_student_is_filmed(logs: Path, said: Said) -> None:
    words = ["--loaddir", "dagger", "--savedir", "again", "--compare", "random,student", "--video", "1"]
    assert said("eval", *words, "--seeds", "1000003")[0] == 0
    folder = logs / "dagger" / "SimpleDoorKey" / "dagger" / "again"
    assert (folder / "eval.json").exists()
    assert [path.name for path in folder.rglob("*.mp4")] == ["student-levels-1000003-1000003.mp4"]


def test_players_that_need_no_run_leave_a_result_where_asked(tmp_path: Path, said: Said) -> None:
    words = ["--task", "KeyInBox", "--compare", "scripted", "--logdir", str(tmp_path), "--savedir", "x"]
    assert said("eval", *words, *LEVELS)[0] == 0
    assert json.loads((tmp_path / "x" / "eval.json").read_text())["scripted"]["sampled"]["success"] == 1.0


def test_the_report_has_a_row_per_run_and_draws(logs: Path, said: Said) -> None:
    rows = {row["run"]: row for row in result(said, "report", "--task", "simpledoorkey")["runs"]}
    assert rows.keys() == {"ihac", "dagger", "ppo", "two", "replayed"}
    assert (rows["two"]["seeds"], rows["ppo"]["teacher"]) == (2, "none")
    assert (logs / "report.png").read_bytes().startswith(b"\x89PNG")


def test_doctor_examines_a_run_by_name(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preceptor.agent.runs.doctor.CHECKS", {})  # the rest is slow
    found = {check["name"]: check for check in result(said, "doctor", "--run", "dagger")["checks"]}
    assert {check["status"] for check in found.values()} == {"ok"}
    assert found["run: controller"]["found"] == "loads for its task"


def test_what_cannot_be_written_does_not_cost_the_table(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = said("eval", "--loaddir", "ihac", "--savedir", "/proc/nowhere", "--video", "1", *LEVELS)
    assert code == 0
    assert "not drawn: Could not write /proc/nowhere" in out
    assert "greedy" in out

    def refuse(*_: object) -> None:
        raise UserError("Could not save it: Read-only file system.")

    monkeypatch.setattr("preceptor.agent.evaluate.write_json", refuse)
    monkeypatch.setattr("preceptor.agent.runs.report.write_file", refuse)
    for words in (["eval", "--loaddir", "ppo", *LEVELS], ["report", "ppo"]):
        code, out, _ = said(*words)
        assert code == 0
        assert "Read-only file system" in out
        assert "sampled" in out


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_is_named_wherever_it_shows(number: int, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(number, "no room", "cache.nbi")

    monkeypatch.setattr("preceptor.agent.runs.report.draw_curves", full)
    code, _, err = said("report", "ihac")
    assert code == 2
    assert "cache.nbi" in err
    assert "df -h" in err


def test_one_seed_is_judged_in_its_own_folder_and_the_newest_run_with_all(logs: Path, said: Said) -> None:
    group = logs / "ihac" / "SimpleDoorKey" / "two"
    (group / "eval.json").write_text("{}")
    judged = result(said, "eval", "--loaddir", "two/seed-1", *LEVELS)
    assert judged["run"] == str(group / "seed-1")
    assert json.loads((group / "seed-1" / "eval.json").read_text()) == judged
    assert (group / "eval.json").read_text() == "{}"
    for seed in ("seed-0", "seed-1"):
        (group / seed / "last").touch()
    assert result(said, "eval", *LEVELS)["seeds"] == 2


def test_a_damaged_run_does_not_hide_the_others(logs: Path, tmp_path: Path, said: Said) -> None:
    shutil.copytree(logs / "ihac", tmp_path / "ihac")
    (tmp_path / "ihac" / "SimpleDoorKey" / "replayed" / "config.json").write_text("{")
    code, out, _ = said("report", "--logdir", str(tmp_path))
    assert code == 0
    assert "(settings damaged)" in out
    assert "two (2 seeds)" in out
