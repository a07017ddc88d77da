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
from preceptor.agent.runs.results import read_result
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


Said = Callable[..., Any]


@pytest.fixture
def said(logs: Path, capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs a command on those runs: exit code, stdout and stderr; with `--json`, the result of one that succeeds."""

    def run(*words: str) -> Any:
        capsys.readouterr()
        code = cli.main([*words, *([] if "--logdir" in words else ["--logdir", str(logs)])])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        if "--json" not in words:
            return code, out, err
        assert (code, out.count("\n")) == (0, 1)
        return json.loads(out)

    return run


def test_the_table_has_a_line_of_json_with_every_player(logs: Path, said: Said) -> None:
    players = "teacher,student,controller,scripted,random"
    table = said("eval", "--json", "--loaddir", "two", "--compare", players, *LEVELS)
    assert {"task", "method", *players.split(",")} <= table.keys()
    for player in players.split(","):
        for style in ("sampled", "greedy"):
            row = table[player][style]
            assert {"success", "low", "high", "return", "length"} <= row.keys()
            assert row["episodes"] == (12 if player in ("student", "controller") else 6)
    assert read_result(logs / "ihac" / "SimpleDoorKey" / "two" / "eval.json") == table
    judged = said("eval", "--json", "--loaddir", "replayed", "--eval_teacher", *LEVELS)
    assert judged["teacher"]["sampled"]["success"] == 1, "with its own teacher"


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


def test_the_report_has_a_row_per_run_and_draws_and_doctor_examines_one(
    logs: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {row["run"]: row for row in said("report", "--json", "--task", "simpledoorkey")["runs"]}
    assert rows.keys() == {"ihac", "dagger", "ppo", "two", "replayed"}
    assert (rows["two"]["seeds"], rows["ppo"]["teacher"]) == (2, "none")
    assert (logs / "report.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr("preceptor.agent.runs.doctor.CHECKS", {})  # the rest is slow
    found = {check["name"]: check for check in said("doctor", "--json", "--run", "dagger")["checks"]}
    assert {check["status"] for check in found.values()} == {"ok"}
    assert found["run: controller"]["found"] == "loads for its task"


def test_what_cannot_be_written_does_not_cost_the_table(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = said("eval", "--loaddir", "ihac", "--savedir", "/proc/nowhere", "--video", "1", *LEVELS)
    assert (code, "not drawn: Could not write /proc/nowhere" in out, "greedy" in out) == (0, True, True)

    def refuse(*_: object) -> None:
        raise UserError("Could not save it: Read-only file system.")

    monkeypatch.setattr("preceptor.agent.evaluate.write_result", refuse)
    monkeypatch.setattr("preceptor.agent.runs.report.write_file", refuse)
    for words in (["eval", "--loaddir", "ppo", *LEVELS], ["report", "ppo"]):
        code, out, _ = said(*words)
        assert (code, "Read-only file system" in out, "sampled" in out) == (0, True, True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_is_named_wherever_it_shows(number: int, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(number, "no room", "cache.nbi")

    monkeypatch.setattr("preceptor.agent.runs.report.draw_curves", full)
    code, _, err = said("report", "ihac")
    assert (code, "cache.nbi" in err, "df -h" in err) == (2, True, True)


def test_one_seed_is_judged_in_its_own_folder_and_the_newest_run_with_all(logs: Path, said: Said) -> None:
    group = logs / "ihac" / "SimpleDoorKey" / "two"
    (group / "eval.json").write_text("{}")
    judged = said("eval", "--json", "--loaddir", "two/seed-1", *LEVELS)
    assert judged["run"] == str(group / "seed-1")
    assert read_result(group / "seed-1" / "eval.json") == judged
    assert (group / "eval.json").read_text() == "{}"
    for seed in ("seed-0", "seed-1"):
        (group / seed / "last").touch()
    assert said("eval", "--json", *LEVELS)["seeds"] == 2


def test_a_damaged_run_does_not_hide_the_others(logs: Path, tmp_path: Path, said: Said) -> None:
    shutil.copytree(logs / "ihac", tmp_path / "ihac")
    (tmp_path / "ihac" / "SimpleDoorKey" / "replayed" / "config.json").write_text("{")
    code, out, _ = said("report", "--logdir", str(tmp_path))
    assert (code, "(settings damaged)" in out, "two (2 seeds)" in out) == (0, True, True)


def test_a_variant_is_named_everywhere_and_played_by_agents_of_its_task(logs: Path, said: Said) -> None:
    name, words = "ColoredDoorKey:rooms=5-6,apart=red-green", SMALL[1:]
    where = logs / "ihac" / name / "variant"
    assert said("train", "--task", "coloreddoorkey:apart=green-red,rooms=5-6", "--savedir", "variant", *words)[0] == 0
    plain, big = "ColoredDoorKey", "ColoredDoorKey:rooms=12-14"
    for task in (name, plain, big):
        judged = said(
            "eval", "--json", "--task", task, "--loaddir", str(where), "--compare=student,controller", *LEVELS
        )
        assert judged["task"] == task
        assert read_result(where / ("eval.json" if task == name else f"eval-{task}.json")) == judged
    judged = said("eval", "--json", "--task", "SimpleDoorKey:rooms=12", "--loaddir", "ihac", *LEVELS)
    assert judged["run"] == str(logs / "ihac" / "SimpleDoorKey" / "ihac"), "by name, too"
    for task in ("SimpleDoorKey", "SimpleDoorKey:rooms=12"):
        damaged = logs / "ihac" / task / "damaged" / "config.json"
        damaged.parent.mkdir(parents=True)
        damaged.write_text("{")
        code, _, err = said("eval", "--task", "SimpleDoorKey:rooms=12", "--loaddir", "damaged", *LEVELS)
        assert (code, f"{damaged} is truncated or damaged" in err) == (2, True), err
        shutil.rmtree(logs / "ihac" / task / "damaged")
    for verb, shown in ((["report"], "variant"), (["labels", "show"], "The door is")):
        code, out, _ = said(*verb, "--task", name)
        assert (code, shown in out) == (0, True), out
    code, _, err = said("train", "--task", f"{plain}:rooms=99", "--savedir", "never")
    assert (code, "5 to 25 cells" in err) == (2, True)
