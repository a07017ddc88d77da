"""HALO as a stranger types it: who answers, what it comes to, what goes wrong, and who goes on from there."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

import main as cli
from agent.config import CHOICES
from agent.halo.acquisition import RULES
from agent.halo.ledger import FILE

TASK = ["--task", "RescueWorld-n3"]
FEW = [*TASK, "--quiet", "--preset", "tiny", "--eval-episodes", "10"]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log directory with a controller, and a run whose questions it answered."""
    root = tmp_path_factory.mktemp("log")
    words = ["--logdir", str(root), *FEW]
    assert cli.main(["train", "--method", "dagger", "--teacher", "scripted", "--savedir", "c", *words]) == 0
    assert cli.main(["train", "--method", "halo", "--oracle", "controller", "--savedir", "h", *words]) == 0
    return root


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, result line and what was said."""
    capsys.readouterr()
    code = cli.main([*words, "--json"])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, json.loads(out) if out else {}, err


def halo(capsys: pytest.CaptureFixture[str], logs: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    return run(capsys, "train", "--method", "halo", "--logdir", str(logs), *FEW, *words)


def test_eval_tells_what_the_issue_asks_for(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeds = ["--seeds", "1000000:1000010"]
    code, line, _ = run(capsys, "eval", "--method", "halo", *TASK, "--loaddir", "h", "--logdir", str(logs), *seeds)
    assert code == 0
    assert {"option_error", "option_error_heldout", "queries", "cost", "expert_return"} <= line.keys()
    assert line["option_error"] < 0.05
    assert line["student"]["sampled"]["return"] > 0.95 * line["expert_return"]
    code, line, _ = run(capsys, "report", "--logdir", str(logs))
    assert code == 0
    assert {row["method"] for row in line["runs"]} == {"dagger", "halo"}


def test_the_ledger_holds_the_budget_to_the_question(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for rule, budget in (("random", "50"), ("bisection", "1.5%")):
        code, line, _ = halo(capsys, logs, "--rule", rule, "--budget", budget, "--savedir", rule)
        assert code == 0
        lines = [json.loads(row) for row in (Path(line["run"]) / FILE).read_text().splitlines()]
        asked = [tuple(q) for row in lines if row.get("kind") == "questions" for q in row["questions"]]
        assert len(asked) == len(set(asked)) == line["queries"] == sum(row.get("kind") == "answer" for row in lines)
        assert line["queries"] == (50 if budget == "50" else int(0.015 * 4033))
        assert line["cost"] == line["queries"]


def test_a_larger_budget_goes_on(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, first, _ = halo(capsys, logs, "--budget", "20", "--savedir", "grows")
    before = (Path(first["run"]) / FILE).read_bytes()
    code, second, _ = halo(capsys, logs, "--budget", "40", "--savedir", "grows", "--resume")
    assert (code, second["queries"]) == (0, 40)
    assert (Path(first["run"]) / FILE).read_bytes().startswith(before)
    code, third, _ = halo(capsys, logs, "--budget", "40", "--savedir", "grows", "--resume")
    assert (code, third["queries"]) == (0, 40)


def test_whoever_errs_is_found_out(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, line, _ = halo(capsys, logs, "--label-noise", "0.2", "--trust", "learnt", "--savedir", "noisy", "--budget", "8%")
    assert line["annotators"]["truth"] == pytest.approx(0.8, abs=0.1)
    _, line, _ = halo(capsys, logs, "--oracle", "controller,truth", "--savedir", "cascade")
    assert set(line["annotators"]) == {"controller", "truth"}
    assert line["option_error"] < 0.05


def test_few_expected_errors_stop_the_asking(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, line, _ = halo(capsys, logs, "--stop-error", "0.2", "--savedir", "stops")
    assert 0 < line["queries"] < 161


@pytest.mark.parametrize("task", ["SimpleDoorKey", "PointPush", "FetchPickAndPlace"])
def test_every_kind_of_task_has_demonstrations(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Maps, a maze, an arm: recorded, asked about, learnt from, judged, and filmed with their options."""
    few = ["--task", task, "--logdir", str(tmp_path)]
    train = ["--demos", "8", "--budget", "5%", "--eval-episodes", "2", "--preset", "tiny", "--quiet"]
    code, line, _ = run(capsys, "train", "--method", "halo", *few, *train)
    assert code == 0
    assert line["demonstrations"] == 8
    said = [json.loads(row) for row in (Path(line["run"]) / FILE).read_text().splitlines()]
    answers = [(row["trajectory"], row["step"]) for row in said if row.get("kind") == "answer"]
    assert len(set(answers)) == line["queries"] > 0
    assert max(n for n, _ in answers) < 8, "held-out demonstrations are not asked about"
    assert line["option_error"] < 0.75, "chance is above that"
    code, line, _ = run(capsys, "eval", "--method", "halo", *few, "--seeds", "1000000:1000002", "--video", "1")
    assert code == 0
    assert Path(line["video"]).stat().st_size > 1000


def test_the_command_line_names_the_rules_that_there_are() -> None:
    assert CHOICES["rule"] == tuple(RULES)


MISTAKES = {
    "no budget": (["--budget", "0"], "0 questions", "--budget 4%"),
    "above all steps": (["--budget", "5000"], "5000 questions", "--budget 4%"),
    "not a number": (["--budget", "lots"], "not a budget", "--budget 4%"),
    "no such rule": (["--rule", "entrpy"], "Unknown rule", "entropy"),
    "no such oracle": (["--oracle", "thruth"], "Unknown oracle", "truth"),
    "no oracle": (["--oracle", ""], "Unknown oracle", "truth"),
    "no demonstrations": (["--demos", "0"], "no demonstrations", "--demos 100"),
    "no such dataset": (["--demos", "nobody/has-v0"], "no Minari dataset", "main.py demos"),
    "no such policies": (["--policies", "tables"], "Unknown policies", "tabular"),
    "a share of everything": (["--stop-error", "2"], "between 0 and 1", "--stop-error 0.02"),
    "uncounted states": (["--task", "PointPush", "--policies", "tabular"], "cannot be counted", "--policies neural"),
    "nobody's hands": (["--task", "HalfCheetah-v5"], "no scripted", "--method"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_with_what_to_do_and_leave_no_run(
    mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    words, complaint, remedy = MISTAKES[mistake]
    code, _, err = halo(capsys, tmp_path, *words)
    assert code == 2
    assert complaint in err
    assert remedy in err
    assert not list(tmp_path.glob("halo/*/run"))


def test_a_person_s_questions_wait_in_the_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--oracle", "person", "--budget", "30"]
    code, _, err = halo(capsys, tmp_path, *words)
    assert code == 2
    assert "questions wait" in err
    assert "--resume" in err
    ledger = tmp_path / "halo" / "RescueWorld-n3" / "run" / FILE
    before = ledger.read_text()
    code, _, err = halo(capsys, tmp_path, *words, "--resume")
    assert code == 2
    assert ledger.read_text() == before, "nothing is asked twice"


def test_labels_that_contradict_each_other_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--label-noise", "0.5", "--rule", "entropy", "--budget", "60"]
    code, line, _ = halo(capsys, tmp_path, *words, "--trust", "law")
    assert code == 0, "law may be wrong; only two laws about one step contradict each other"
    assert "annotators" not in line
    ledger = Path(line["run"]) / FILE
    rows = [json.loads(row) for row in ledger.read_text().splitlines()]
    n, t = next((row["trajectory"], row["step"]) for row in rows if row.get("kind") == "answer")
    said = next(row["report"] for row in rows if row.get("kind") == "answer")
    other = [*said[1:], said[0]]
    answer = {"annotator": "truth", "start": t, "stop": t + 1, "cost": 1.0, "seconds": 0.0}
    with ledger.open("a") as file:
        file.write(json.dumps({"kind": "questions", "questions": [[n, t, 1]]}) + "\n")
        file.write(json.dumps({"kind": "answer", "trajectory": n, "step": t, "report": other, **answer}) + "\n")
    code, _, err = halo(capsys, tmp_path, *words, "--trust", "law", "--resume", "--budget", "90")
    assert code == 2
    assert "contradict" in err
    assert str(n) in err


def test_one_controller_is_oracle_planner_and_prior(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hinge: one checkpoint, three roles, nothing between them, and nobody to call."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a controller needs no network")

    monkeypatch.setattr(socket, "socket", refuse)
    few = ["--logdir", str(logs), *TASK, "--quiet", "--eval-episodes", "4", "--controller", "dagger/RescueWorld-n3/c"]
    few[-1] = str(logs / "dagger" / "RescueWorld-n3" / "c" / "controller")
    _, oracle, _ = run(capsys, "train", "--method", "halo", "--oracle", "controller", "--savedir", "o", *few)
    assert oracle["option_error"] < 0.05
    hiro = ["train", "--method", "hiro", *few, "--steps", "3000"]
    for name, words in (("p", ["--high-level", "controller"]), ("q", ["--prior", "controller"])):
        code, line, _ = run(capsys, *hiro, *words, "--savedir", name)
        assert code == 0
        assert line["controller_steps"] > 0


def test_what_halo_learnt_is_handed_on(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its run holds a controller, from which IHAC starts without asking anybody."""
    given = ["--controller", str(logs / "halo" / "RescueWorld-n3" / "h" / "controller"), "--savedir", "after"]
    code, line, _ = run(capsys, "train", "--method", "ihac", "--logdir", str(logs), *FEW, *given)
    assert code == 0
    assert line["teacher"] == "controller"
    assert line["distilled"]["sampled"]["success"] == 1.0
    assert line["student"]["sampled"]["success"] == 1.0
