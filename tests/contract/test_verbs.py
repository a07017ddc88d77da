"""`eval`, `report` and `doctor` over one small run, as a stranger types them."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import main as cli
from envs.catalog import get_task
from ground.errors import UserError
from teacher.controls import ScriptedTeacher
from teacher.labels import LabelStore

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


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command."""
    capsys.readouterr()
    code = cli.main(list(words))
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_the_table_has_a_line_of_json_by_the_schema(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    players = "teacher,student,controller,scripted,random"
    words = ["eval", "--logdir", str(logs), "--loaddir", "two", "--compare", players, *LEVELS, "--json"]
    code, out, _ = lines(capsys, *words)
    assert code == 0
    assert out.count("\n") == 1
    result = json.loads(out)
    assert {"task", "method", *players.split(",")} <= result.keys()
    for player in players.split(","):
        for style in ("sampled", "greedy"):
            row = result[player][style]
            assert {"success", "low", "high", "episodes", "return", "length"} <= row.keys()
            assert row["episodes"] == (12 if player in ("student", "controller") else 6)
    assert json.loads((logs / "ihac" / "SimpleDoorKey" / "two" / "eval.json").read_text()) == result


def test_a_replayed_run_is_judged_with_its_own_teacher(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = lines(
        capsys, "eval", "--logdir", str(logs), "--loaddir", "replayed", "--eval_teacher", *LEVELS, "--json"
    )
    assert code == 0
    assert json.loads(out)["teacher"]["sampled"]["success"] == 1.0


@pytest.mark.parametrize(
    ("words", "said"),
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
def test_a_mistake_names_the_next_command(
    logs: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = lines(capsys, *words, "--logdir", str(logs))
    assert (code, out) == (2, "")
    assert said in err
    assert "next: " in err
    assert "*" not in err


def test_results_go_into_the_run_and_the_student_is_filmed(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--loaddir", "dagger", "--savedir", "again", "--compare", "random,student", "--video", "1"]
    code, _, _ = lines(capsys, "eval", "--logdir", str(logs), *words, "--seeds", "1000003")
    folder = logs / "dagger" / "SimpleDoorKey" / "dagger" / "again"
    assert code == 0
    assert (folder / "eval.json").exists()
    assert [path.name for path in folder.rglob("*.mp4")] == ["student-levels-1000003-1000003.mp4"]


def test_players_that_need_no_run_leave_a_result_where_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "--task", "KeyInBox", "--compare", "scripted", "--logdir", str(tmp_path), "--savedir", "x"]
    assert lines(capsys, *words, *LEVELS)[0] == 0
    assert json.loads((tmp_path / "x" / "eval.json").read_text())["scripted"]["sampled"]["success"] == 1.0


def test_the_report_has_a_row_per_run_and_draws(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = lines(capsys, "report", "--logdir", str(logs), "--task", "simpledoorkey", "--json")
    rows = {row["run"]: row for row in json.loads(out)["runs"]}
    assert code == 0
    assert rows.keys() == {"ihac", "dagger", "ppo", "two", "replayed"}
    assert rows["two"]["seeds"] == 2
    assert rows["ppo"]["teacher"] == "none"
    assert (logs / "report.png").read_bytes().startswith(b"\x89PNG")


def test_doctor_examines_a_run_by_name(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.runs.doctor.CHECKS", {})  # the rest is slow
    code, out, _ = lines(capsys, "doctor", "--run", "dagger", "--logdir", str(logs), "--json")
    found = {check["name"]: check for check in json.loads(out)["checks"]}
    assert code == 0
    assert {check["status"] for check in found.values()} == {"ok"}
    assert found["run: controller"]["found"] == "loads for its task"


def test_a_folder_that_cannot_be_written_does_not_cost_the_table(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UserError("Could not save it: Read-only file system.")

    monkeypatch.setattr("agent.evaluate.write_json", refuse)
    monkeypatch.setattr("agent.runs.report.write_file", refuse)
    for words in (["eval", "--loaddir", "ppo", *LEVELS], ["report", "ppo"]):
        code, out, _ = lines(capsys, *words, "--logdir", str(logs))
        assert code == 0
        assert "Read-only file system" in out
        assert "sampled" in out


def test_a_video_that_cannot_be_written_does_not_cost_the_table(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", "--loaddir", "ihac", "--savedir", "/proc/nowhere", "--video", "1", *LEVELS]
    code, out, _ = lines(capsys, *words, "--logdir", str(logs))
    assert code == 0
    assert "not drawn: Could not write /proc/nowhere" in out
    assert "greedy" in out


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_is_named_wherever_it_shows(
    number: int, logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(number, "no room", "cache.nbi")

    monkeypatch.setattr("agent.runs.report.draw_curves", full)
    code, _, err = lines(capsys, "report", "ihac", "--logdir", str(logs))
    assert code == 2
    assert "cache.nbi" in err
    assert "df -h" in err


def test_one_seed_is_judged_in_its_own_folder_and_the_newest_run_with_all(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    group = logs / "ihac" / "SimpleDoorKey" / "two"
    (group / "eval.json").write_text("{}")
    code, out, _ = lines(capsys, "eval", "--logdir", str(logs), "--loaddir", "two/seed-1", *LEVELS, "--json")
    assert code == 0
    assert json.loads(out)["run"] == str(group / "seed-1")
    assert json.loads((group / "seed-1" / "eval.json").read_text()) == json.loads(out)
    assert (group / "eval.json").read_text() == "{}"
    for seed in ("seed-0", "seed-1"):
        (group / seed / "last").touch()
    code, out, _ = lines(capsys, "eval", "--logdir", str(logs), *LEVELS, "--json")
    assert code == 0
    assert json.loads(out)["seeds"] == 2


def test_a_damaged_run_does_not_hide_the_others(logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(logs / "ihac", tmp_path / "ihac")
    (tmp_path / "ihac" / "SimpleDoorKey" / "replayed" / "config.json").write_text("{")
    code, out, _ = lines(capsys, "report", "--logdir", str(tmp_path))
    assert code == 0
    assert "(settings damaged)" in out
    assert "two (2 seeds)" in out
