"""HALO as a stranger types it: who answers, what it comes to, what goes wrong, and which methods go on from there."""

import json
from pathlib import Path

import pytest

import main as cli
from preceptor.agent.halo.ledger import FILE
from preceptor.ground.sealed import sealed

FEW = "--task RescueWorld-n3 --quiet --preset tiny --eval-episodes 10 "


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """A log directory with a controller, and a run whose questions it answered."""
    root = tmp_path_factory.mktemp("log")
    for words in ("dagger --teacher scripted --savedir c", "halo --oracle controller --savedir h"):
        assert cli.main(["train", "--logdir", str(root), "--method", *words.split(), *FEW.split()]) == 0
    return root


@pytest.fixture
def run(capsys):
    """Runs a command in a log directory: its result line, and what was said; with `code` the exit code."""

    def command(logs, words, code=0):
        capsys.readouterr()
        try:
            got = cli.main([*words.split(), "--json", "--logdir", str(logs)])
        except SystemExit as refused:  # what a flag's type does not allow
            got = refused.code
        out, err = capsys.readouterr()
        assert got == code, err
        assert "Traceback" not in err
        return json.loads(out) if out else {}, err

    return command


@pytest.fixture
def halo(run):
    return lambda logs, words, code=0: run(logs, f"train --method halo {FEW} {words}", code)


def asked_and_answered(run):
    """Questions and answers of a run's ledger."""
    lines = [json.loads(row) for row in (Path(run) / FILE).read_text().splitlines()]
    asked = [tuple(question) for row in lines if row.get("kind") == "questions" for question in row["questions"]]
    return asked, [row for row in lines if row.get("kind") == "answer"]


def test_eval_tells_what_was_asked_and_what_it_came_to(logs, run):
    line, _ = run(logs, "eval --method halo --task RescueWorld-n3 --loaddir h --seeds 1000000:1000010")
    assert {"option_error", "option_error_heldout", "queries", "cost", "expert_return"} <= line.keys()
    assert line["option_error"] < 0.05
    assert line["student"]["sampled"]["return"] > 0.95 * line["expert_return"]
    assert {row["method"] for row in run(logs, "report")[0]["runs"]} == {"dagger", "halo"}
    (board,) = Path(line["run"]).glob("events.*")
    assert all(word in board.read_bytes() for word in (b"_hparams_/session_start_info", b"result/option_error"))


def test_the_ledger_holds_the_budget_to_the_question(logs, halo):
    """A larger budget goes on, and a complete run is not repeated."""
    before = b""
    for budget, count in (("0.5%", int(0.005 * 4033)), ("40", 40), ("40", 40)):
        line, _ = halo(logs, f"--rule random --savedir r --budget {budget} --resume")
        asked, answers = asked_and_answered(line["run"])
        assert len(set(asked)) == len(asked) == len(answers) == line["queries"] == line["cost"] == count
        ledger = (Path(line["run"]) / FILE).read_bytes()
        assert ledger.startswith(before)
        before = ledger


def test_annotators_that_err_are_found_out_and_few_expected_errors_stop_the_asking(logs, halo):
    line, _ = halo(logs, "--label-noise 0.2 --annotator-model learned --savedir noisy --budget 8%")
    assert line["annotators"]["truth"] == pytest.approx(0.8, abs=0.1)
    line, _ = halo(logs, "--oracle controller,truth --savedir cascade --stop-error 0.2")
    assert set(line["annotators"]) == {"controller", "truth"}
    assert line["option_error"] < 0.05
    assert 0 < line["queries"] < 161


@pytest.mark.parametrize("task", ["SimpleDoorKey", "PointPush", "FetchPickAndPlace"])
def test_every_kind_of_task_has_demonstrations(task, tmp_path, run, halo):
    """Maps, a maze, an arm: recorded, asked about, learned from, judged, and filmed with their options."""
    line, _ = halo(tmp_path, f"--task {task} --demos 8 --budget 5% --eval-episodes 2")
    answers = {(row["trajectory"], row["step"]) for row in asked_and_answered(line["run"])[1]}
    assert line["demonstrations"] == 8
    assert len(answers) == line["queries"] > 0
    assert max(n for n, _ in answers) < 8, "held-out demonstrations are not asked about"
    assert line["option_error"] < 0.75, "chance is above that"
    line, _ = run(tmp_path, f"eval --method halo --task {task} --seeds 1000000:1000002 --video 1")
    assert Path(line["video"]).stat().st_size > 1000


MISTAKES = [
    ("--budget 0", "0 questions", "--budget 4%"),
    ("--budget 5000", "5000 questions", "--budget 4%"),
    ("--budget lots", "not a budget", "--budget 4%"),
    ("--rule bald", "bald", "bisection"),
    ("--oracle thruth", "Unknown oracle", "truth"),
    ("--oracle=", "Unknown oracle", "truth"),
    ("--demos 0", "no demonstrations", "--demos 100"),
    ("--demos no/such-v0", "no Minari dataset", "main.py demos"),
    ("--policies tables", "tables", "tabular"),
    ("--stop-error 2", "2", "--stop-error"),
    ("--task PointPush --policies tabular", "cannot be counted", "--policies neural"),
    ("--task HalfCheetah-v5", "has one option", "--method ppo"),
]


@pytest.mark.parametrize(("words", "complaint", "remedy"), MISTAKES)
def test_mistakes_end_with_what_to_do_and_leave_no_run(words, complaint, remedy, tmp_path, halo, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    _, err = halo(tmp_path, words, code=2)
    assert complaint in err
    assert remedy in err
    assert not list(tmp_path.glob("halo/*/run"))


def test_a_person_s_questions_wait_in_the_ledger(tmp_path, halo):
    ledgers = set()
    for resume in ("", "--resume"):
        _, err = halo(tmp_path, f"--oracle person --budget 30 {resume}", code=2)
        assert "questions wait" in err
        assert "--resume" in err
        ledgers.add((tmp_path / "halo" / "RescueWorld-n3" / "run" / FILE).read_text())
    assert len(ledgers) == 1, "nothing is asked twice"


def test_labels_that_contradict_each_other_are_named(tmp_path, halo):
    """Exact labels may be wrong; only two about one step contradict each other."""
    words = "--label-noise 0.5 --rule entropy --annotator-model exact --budget "
    line, _ = halo(tmp_path, words + "60")
    assert "annotators" not in line
    said = asked_and_answered(line["run"])[1][0]
    other = {**said, "report": [*said["report"][1:], said["report"][0]]}
    again = {"kind": "questions", "questions": [[said["trajectory"], said["step"], 1]]}
    with (Path(line["run"]) / FILE).open("a") as file:
        file.write(f"{json.dumps(sealed(again))}\n{json.dumps(sealed(other))}\n")
    _, err = halo(tmp_path, words + "90 --resume", code=2)
    assert "contradict" in err
    assert str(said["trajectory"]) in err


def test_what_halo_learned_is_handed_on(logs, run):
    """Its run holds a controller, from which IHAC starts without a teacher."""
    given = f"--controller {logs}/halo/RescueWorld-n3/h/controller --savedir after"
    line, _ = run(logs, f"train --method ihac {FEW} {given}")
    assert line["teacher"] == "controller"
    assert line["distilled"]["sampled"]["success"] == line["student"]["sampled"]["success"] == 1.0
