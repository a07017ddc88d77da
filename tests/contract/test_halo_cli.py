"""HALO as a stranger types it: who answers, what it comes to, what goes wrong, and which methods go on from there."""

import json
from pathlib import Path
from typing import Any

import pytest

import main as cli
from preceptor.agent.halo.ledger import FILE

TASK = ["--task", "RescueWorld-n3"]
FEW = [*TASK, "--quiet", "--preset", "tiny", "--eval-episodes", "10"]
EXACT, LEARNED = ["--annotator-model", "exact"], ["--annotator-model", "learned"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log directory with a controller, and a run whose questions it answered."""
    root = tmp_path_factory.mktemp("log")
    words = ["--logdir", str(root), *FEW]
    assert cli.main(["train", "--method", "dagger", "--teacher", "scripted", "--savedir", "c", *words]) == 0
    assert cli.main(["train", "--method", "halo", "--oracle", "controller", "--savedir", "h", *words]) == 0
    return root


def run(capsys: Capture, *words: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, result line and what was said."""
    capsys.readouterr()
    try:
        code = cli.main([*words, "--json"])
    except SystemExit as refused:  # what a flag's type does not allow
        code = int(refused.code or 0)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, json.loads(out) if out else {}, err


def halo(capsys: Capture, logs: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    return run(capsys, "train", "--method", "halo", "--logdir", str(logs), *FEW, *words)


def asked_and_answered(run: str) -> tuple[list[tuple[int, ...]], list[dict[str, Any]]]:
    """Questions and answers of a run's ledger."""
    lines = [json.loads(row) for row in (Path(run) / FILE).read_text().splitlines()]
    asked = [tuple(question) for row in lines if row.get("kind") == "questions" for question in row["questions"]]
    return asked, [row for row in lines if row.get("kind") == "answer"]


def test_eval_tells_what_was_asked_and_what_it_came_to(logs: Path, capsys: Capture) -> None:
    seeds = ["--seeds", "1000000:1000010"]
    code, line, _ = run(capsys, "eval", "--method", "halo", *TASK, "--loaddir", "h", "--logdir", str(logs), *seeds)
    assert code == 0
    assert {"option_error", "option_error_heldout", "queries", "cost", "expert_return"} <= line.keys()
    assert line["option_error"] < 0.05
    assert line["student"]["sampled"]["return"] > 0.95 * line["expert_return"]
    code, line, _ = run(capsys, "report", "--logdir", str(logs))
    assert code == 0
    assert {row["method"] for row in line["runs"]} == {"dagger", "halo"}


def test_the_ledger_holds_the_budget_to_the_question(logs: Path, capsys: Capture) -> None:
    before = b""
    for budget, count in (("0.5%", int(0.005 * 4033)), ("40", 40), ("40", 40)):
        # A larger budget goes on, and a complete run is not repeated.
        code, line, _ = halo(capsys, logs, "--rule", "random", "--savedir", "r", "--budget", budget, "--resume")
        asked, answers = asked_and_answered(line["run"])
        assert code == 0
        assert len(set(asked)) == len(asked) == len(answers) == line["queries"] == line["cost"] == count
        ledger = (Path(line["run"]) / FILE).read_bytes()
        assert ledger.startswith(before)
        before = ledger


def test_annotators_that_err_are_found_out_and_few_expected_errors_stop_the_asking(logs: Path, capsys: Capture) -> None:
    _, line, _ = halo(capsys, logs, "--label-noise", "0.2", *LEARNED, "--savedir", "noisy", "--budget", "8%")
    assert line["annotators"]["truth"] == pytest.approx(0.8, abs=0.1)
    _, line, _ = halo(capsys, logs, "--oracle", "controller,truth", "--savedir", "cascade")
    assert set(line["annotators"]) == {"controller", "truth"}
    assert line["option_error"] < 0.05
    _, line, _ = halo(capsys, logs, "--stop-error", "0.2", "--savedir", "stops")
    assert 0 < line["queries"] < 161


@pytest.mark.parametrize("task", ["SimpleDoorKey", "PointPush", "FetchPickAndPlace"])
def test_every_kind_of_task_has_demonstrations(task: str, tmp_path: Path, capsys: Capture) -> None:
    """Maps, a maze, an arm: recorded, asked about, learned from, judged, and filmed with their options."""
    few = ["--task", task, "--logdir", str(tmp_path)]
    train = ["--demos", "8", "--budget", "5%", "--eval-episodes", "2", "--preset", "tiny", "--quiet"]
    code, line, _ = run(capsys, "train", "--method", "halo", *few, *train)
    assert code == 0
    assert line["demonstrations"] == 8
    answers = {(row["trajectory"], row["step"]) for row in asked_and_answered(line["run"])[1]}
    assert len(answers) == line["queries"] > 0
    assert max(n for n, _ in answers) < 8, "held-out demonstrations are not asked about"
    assert line["option_error"] < 0.75, "chance is above that"
    code, line, _ = run(capsys, "eval", "--method", "halo", *few, "--seeds", "1000000:1000002", "--video", "1")
    assert code == 0
    assert Path(line["video"]).stat().st_size > 1000


MISTAKES = {
    "no budget": (["--budget", "0"], "0 questions", "--budget 4%"),
    "above all steps": (["--budget", "5000"], "5000 questions", "--budget 4%"),
    "not a number": (["--budget", "lots"], "not a budget", "--budget 4%"),
    "a rule that is gone": (["--rule", "bald"], "bald", "bisection"),
    "no such oracle": (["--oracle", "thruth"], "Unknown oracle", "truth"),
    "no oracle": (["--oracle", ""], "Unknown oracle", "truth"),
    "no demonstrations": (["--demos", "0"], "no demonstrations", "--demos 100"),
    "no such dataset": (["--demos", "no/such-v0"], "no Minari dataset", "main.py demos"),
    "no such policies": (["--policies", "tables"], "tables", "tabular"),
    "a share of everything": (["--stop-error", "2"], "2", "--stop-error"),
    "uncounted states": (["--task", "PointPush", "--policies", "tabular"], "cannot be counted", "--policies neural"),
    "no expert": (["--task", "HalfCheetah-v5"], "has one option", "--method ppo"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_with_what_to_do_and_leave_no_run(
    mistake: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    words, complaint, remedy = MISTAKES[mistake]
    code, _, err = halo(capsys, tmp_path, *words)
    assert code == 2
    assert complaint in err
    assert remedy in err
    assert not list(tmp_path.glob("halo/*/run"))


def test_a_person_s_questions_wait_in_the_ledger(tmp_path: Path, capsys: Capture) -> None:
    ledger = tmp_path / "halo" / "RescueWorld-n3" / "run" / FILE
    before = None
    for resume in ([], ["--resume"]):
        code, _, err = halo(capsys, tmp_path, "--oracle", "person", "--budget", "30", *resume)
        assert code == 2
        assert "questions wait" in err
        assert "--resume" in err
        assert before in (None, ledger.read_text()), "nothing is asked twice"
        before = ledger.read_text()


def test_labels_that_contradict_each_other_are_named(tmp_path: Path, capsys: Capture) -> None:
    words = ["--label-noise", "0.5", "--rule", "entropy", *EXACT]
    code, line, _ = halo(capsys, tmp_path, *words, "--budget", "60")
    assert code == 0, "exact labels may be wrong; only two about one step contradict each other"
    assert "annotators" not in line
    said = asked_and_answered(line["run"])[1][0]
    other = {**said, "report": [*said["report"][1:], said["report"][0]]}
    again = {"kind": "questions", "questions": [[said["trajectory"], said["step"], 1]]}
    with (Path(line["run"]) / FILE).open("a") as file:
        file.write(f"{json.dumps(again)}\n{json.dumps(other)}\n")
    code, _, err = halo(capsys, tmp_path, *words, "--resume", "--budget", "90")
    assert code == 2
    assert "contradict" in err
    assert str(said["trajectory"]) in err


def test_what_halo_learned_is_handed_on(logs: Path, capsys: Capture) -> None:
    """Its run holds a controller, from which IHAC starts without a teacher."""
    given = ["--controller", str(logs / "halo" / "RescueWorld-n3" / "h" / "controller"), "--savedir", "after"]
    code, line, _ = run(capsys, "train", "--method", "ihac", "--logdir", str(logs), *FEW, *given)
    assert code == 0
    assert line["teacher"] == "controller"
    assert line["distilled"]["sampled"]["success"] == 1.0
    assert line["student"]["sampled"]["success"] == 1.0
