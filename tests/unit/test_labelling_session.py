"""A person as the oracle, without a browser: whatever they do, and however fast, what stands decides what is learnt."""

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.config import configure
from agent.data.recording import Recording
from agent.demonstrating import record
from agent.halo.ledger import FILE, Ledger, Question
from agent.labelling import frames
from agent.labelling.agreement import kappa
from agent.labelling.config import LabelConfig
from agent.labelling.opening import open_session
from agent.labelling.session import Session
from agent.runs.run import Run
from agent.train import train
from envs.catalog import get_task
from ground.errors import UserError
from teacher.config import TeacherConfig
from teacher.labels import LabelStore

CONFIG = LabelConfig(savedir="x", demos="24", budget="40", eval_episodes=0, annotator="ann")
TASK = get_task("RescueWorld-n3")
Truth = Callable[[dict[str, Any]], int]


@contextmanager
def session(tmp_path: Path, **changes: Any) -> Iterator[tuple[Session, Truth]]:
    """A session, and who knows the right answer to a question."""
    with open_session(replace(CONFIG, logdir=str(tmp_path), **changes)) as (opened, _):
        option = opened._ask.training.option
        yield opened, lambda question: int(option[question["trajectory"], question["step"]])


def wait(opened: Session, *phases: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while (state := opened.state())["phase"] not in phases:
        assert state["trouble"] is None, state["trouble"]
        assert time.monotonic() < deadline, state["phase"]
        time.sleep(0.01)
    return state


def key(question: dict[str, Any]) -> tuple[int, int, int]:
    return question["trajectory"], question["step"], question["before"]


def folder(logs: Path, name: str = "x") -> Path:
    return logs / "halo" / "RescueWorld-n3" / name


def what_was_learnt(run: Path, recording: Recording) -> tuple[Any, ...]:
    """Questions and answers that stand, and the controller's weights; and tables."""
    opened = Run.open(run)
    ledger = Ledger(run / FILE, TASK, recording)
    answers = [(a.trajectory, a.step, a.report, a.start, a.stop, a.cost) for a in ledger.answers]
    tables = {name: table.tolist() for name, table in opened.load()[1]["method"]["policies"].items()}
    return ledger.rounds, answers, tables, (run / "controller" / "controller.safetensors").read_bytes()


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of an oracle that tells the truth, asked ahead as a person is."""
    logs = tmp_path_factory.mktemp("direct")
    small: dict[str, Any] = {"demos": "24", "budget": "40", "eval_episodes": 0, "quiet": True}
    train(configure(method="halo", task="RescueWorld-n3", savedir="x", logdir=str(logs), ahead=1, **small))
    return folder(logs)


@pytest.mark.parametrize("pace", [0.0, 0.05])
def test_the_same_answers_lead_to_the_same_end_however_fast(pace: float, tmp_path: Path, direct: Path) -> None:
    with session(tmp_path) as (opened, truth):
        while (state := wait(opened, "asking", "finishing", "finished"))["phase"] == "asking":
            assert opened.answer(None, key(state["question"]), truth(state["question"]))
            time.sleep(pace)
        result = wait(opened, "finished")["result"]
    training = opened._ask.training
    assert what_was_learnt(folder(tmp_path), training) == what_was_learnt(direct, training)
    assert result["option_error"] == Run.open(direct).results()["option_error"]


def test_mistakes_that_are_taken_back_leave_no_trace_in_what_is_learnt(tmp_path: Path, direct: Path) -> None:
    rng, answered = np.random.default_rng(0), 0
    with session(tmp_path) as (opened, truth):
        while (state := wait(opened, "asking", "finishing", "finished"))["phase"] == "asking":
            question = state["question"]
            if rng.random() < 0.15 and answered:
                back = int(rng.integers(1, 4))
                answered -= sum(opened.undo() for _ in range(back))
                continue
            opened.answer(None, key(question), truth(question))
            answered += 1
            if rng.random() < 0.3:  # a slip of the finger
                time.sleep(rng.random() * 0.3)
                assert opened.undo()
                wrong = [k for k, legal in enumerate(question["legal"]) if legal and k != truth(question)]
                opened.answer(None, key(question), wrong[0] if wrong else None)
                time.sleep(rng.random() * 0.3)
                assert opened.undo()
                opened.answer(None, key(question), truth(question))
        wait(opened, "finished")
    training = opened._ask.training
    assert what_was_learnt(folder(tmp_path), training) == what_was_learnt(direct, training)


def test_a_finished_run_can_be_taken_back_and_finished_again(tmp_path: Path) -> None:
    with session(tmp_path, budget="3") as (opened, truth):
        for _ in range(3):
            question = wait(opened, "asking")["question"]
            opened.answer(None, key(question), truth(question))
        wait(opened, "finished")
        assert opened.undo()
        assert not (folder(tmp_path) / "result.json").exists()
        assert wait(opened, "asking")["progress"]["answered"] == 2
        opened.answer(None, key(question), None)
        assert wait(opened, "finished")["result"]["abstained"] == 1
        assert opened.outcome()["answered"] == 3


def test_it_is_taken_up_where_it_was_left_with_its_own_settings(tmp_path: Path) -> None:
    with session(tmp_path, seed=3, rule="random") as (opened, truth):
        question = wait(opened, "asking")["question"]
        assert opened.answer(None, key(question), truth(question), (0, question["step"] + 1), 2.0)
        following = opened.state()["question"]
    with session(tmp_path, demos=None, budget=None) as (opened, _):
        state = wait(opened, "asking")
        assert key(state["question"]) == key(following)
        assert state["progress"]["answered"] == 1
        assert state["progress"]["per_minute"] == 30.0
        assert not opened.answer(None, key(question), truth(question)), "it is answered"
    with pytest.raises(UserError, match="seed was 3"), session(tmp_path, seed=4):
        pass


def test_two_pages_on_one_run_are_refused(tmp_path: Path) -> None:
    with session(tmp_path), pytest.raises(UserError, match="is in use: another"), session(tmp_path):
        pass


def test_a_full_disk_is_told_and_nothing_advances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with session(tmp_path) as (opened, truth):
        question = wait(opened, "asking")["question"]
        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", full)
            with pytest.raises(UserError, match="df -h"):
                opened.answer(None, key(question), truth(question))
        assert key(opened.state()["question"]) == key(question)
        assert opened.answer(None, key(question), truth(question))


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with session(tmp_path) as (opened, truth):
        question = wait(opened, "asking")["question"]
        step = question["step"]
        for option, interval in ((7, None), (-1, None), (0, (step + 1, step + 2)), (0, (-1, step + 1)), (0, (0, 999))):
            with pytest.raises(ValueError, match=r"legal|interval"):
                opened.answer(None, key(question), option, interval)
        illegal = None
        while illegal is None:
            question = wait(opened, "asking")["question"]
            illegal = next((k for k, legal in enumerate(question["legal"]) if not legal), None)
            if illegal is None:
                opened.answer(None, key(question), truth(question))
        with pytest.raises(ValueError, match="not legal"):
            opened.answer(None, key(question), illegal)
        assert opened.frame(10_000, 0) is None
        assert opened.frame(0, 10_000) is None


def test_second_readings_measure_how_far_people_agree(tmp_path: Path) -> None:
    with session(tmp_path) as (opened, truth):
        for _ in range(10):
            question = wait(opened, "asking")["question"]
            opened.answer(None, key(question), truth(question))
        assert opened.agreement() == []
    with session(tmp_path, again=True, annotator="bob") as (opened, truth):
        state, slipped = opened.state(), False
        for _ in range(10):
            assert state["phase"] == "asking"
            question = state["question"]
            right = truth(question)
            other = [k for k, legal in enumerate(question["legal"]) if legal and k != right]
            opened.answer(None, key(question), right if slipped or not other else other[0])
            slipped = slipped or bool(other)
            state = opened.state()
        assert state["phase"] == "finished"
        (pair,) = opened.agreement()
        assert pair["pair"] == ["ann", "bob"]
        assert (pair["steps"], pair["agree"]) == (10, 0.9)
        assert np.sum(pair["confusion"]) == 10
        assert opened.undo()
        assert opened.state()["phase"] == "asking"
        assert opened._ledger.asked == 10


def test_two_laws_about_one_step_are_refused_before_they_are_kept(tmp_path: Path) -> None:
    with session(tmp_path) as (opened, _):
        wait(opened, "asking")
        with opened._lock:  # all of them chosen before anybody knew of the interval
            taken = {question.trajectory for question in opened._ledger.open}
            choices = {
                n: np.flatnonzero(TASK.legal(opened._ask.training.obs[n, :4]).all(0)) for n in set(range(24)) - taken
            }
            n, (one, other, *_) = next((n, legal.tolist()) for n, legal in choices.items() if len(legal) > 1)
            opened._ledger.ask([Question(n, t) for t in range(4)])
        assert opened.answer(None, (n, 0, 0), one, (0, 3))
        with pytest.raises(ValueError, match="answered otherwise"):
            opened.answer(None, (n, 1, 0), other)
        with pytest.raises(ValueError, match="answered otherwise"):
            opened.answer(None, (n, 3, 0), other, (2, 4))
        assert opened.answer(None, (n, 3, 0), other)
        assert opened.answer(None, (n, 1, 0), one)
        assert opened.answer(None, (n, 2, 0), None), "a skip is always possible"


def test_answers_are_taken_along_to_another_run(tmp_path: Path) -> None:
    with session(tmp_path, budget="20") as (opened, truth):
        for _ in range(20):
            question = wait(opened, "asking")["question"]
            opened.answer(None, key(question), truth(question), seconds=3.0)
        wait(opened, "finished")
    carried = tmp_path / "carried.jsonl"
    carried.write_bytes((folder(tmp_path) / FILE).read_bytes())
    with session(tmp_path / "other", budget="24", annotator="bob", answers=str(carried)) as (opened, truth):
        while wait(opened, "asking")["progress"]["answered"] < 20:
            time.sleep(0.01)
        assert opened.undo("ann"), "the names came along, too"
        assert wait(opened, "asking")["progress"]["answered"] == 19, "and what is taken back stays open"
    with pytest.raises(UserError, match="no ledger"), session(tmp_path / "third", answers="nowhere.jsonl"):
        pass
    with pytest.raises(UserError, match="other demonstrations"), session(tmp_path / "4", seed=9, answers=str(carried)):
        pass


def test_a_teachers_opinion_stands_beside_the_question(tmp_path: Path) -> None:
    def heard(opened: Session) -> list[float]:
        while (said := wait(opened, "asking")["question"]["said"])["teacher"] is None:
            time.sleep(0.01)
        return said["teacher"]

    with session(tmp_path, teacher=TeacherConfig("scripted")) as (opened, truth):
        for _ in range(3):
            opinion, question = heard(opened), wait(opened, "asking")["question"]
            assert np.argmax(opinion) == truth(question)
            opened.answer(None, key(question), truth(question))
        (pair,) = opened.agreement()
        assert (pair["pair"], pair["steps"], pair["agree"]) == (["ann", "teacher"], 3, 1.0)
        assert opened._ask.config.teacher.teacher == "local", "whose opinion is shown is no setting of the run"
    with LabelStore(folder(tmp_path) / "labels.sqlite") as store:
        assert len(store) > 0, "what it said is kept"
    with pytest.raises(UserError, match="oracl"), session(tmp_path, teacher=TeacherConfig("oracl")):
        pass


def test_what_is_being_learnt_is_given_up_when_the_page_is_closed(tmp_path: Path) -> None:
    with session(tmp_path, policies="neural", demos="100", budget="4%") as (opened, _):
        learning = opened._ask.run.path / "checkpoints"
    assert not list(learning.glob("*")), "a fit takes seconds; nobody waited for it"


def test_kappa_is_cohens() -> None:
    assert kappa(np.array([[20, 5], [10, 15]])) == pytest.approx(0.4)  # Cohen's measure of 50 proposals, textbook
    assert kappa(np.array([[5, 0], [0, 5]])) == 1.0
    assert kappa(np.array([[5, 0], [0, 0]])) is None
    assert kappa(np.zeros((2, 2), int)) is None


def test_a_task_that_cannot_be_drawn_is_labelled_by_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from envs.rescue.simulator import RescueSimulator

    def blind(self: RescueSimulator) -> None:
        raise RuntimeError("no device")

    monkeypatch.setattr(RescueSimulator, "render", blind)
    with session(tmp_path) as (opened, truth):
        question = wait(opened, "asking")["question"]
        assert opened.frame(question["trajectory"], question["step"]) is None
        state = opened.state()
        assert "no device" in state["pictures"]
        assert "next:" in state["pictures"]
        assert "target" in state["question"]["words"][0]
        assert opened.answer(None, key(question), truth(question))


def test_pictures_are_those_of_the_recorded_steps(tmp_path: Path) -> None:
    import io

    from PIL import Image

    from envs.rescue.rendering import draw
    from envs.rescue.tasks import RescueTask

    task = get_task("RescueWorld-n3")
    assert isinstance(task, RescueTask)
    with session(tmp_path) as (opened, _):
        recording = opened._ask.training
        for n, t in ((0, 0), (3, 7), (3, 9), (3, 2), (5, int(recording.lengths[5]) - 1)):
            picture = None
            while picture is None:
                picture = opened.frame(n, t)
            obs = recording.obs[n, t : t + 1]
            drawn = draw(task.spec, int(task.cells(obs)[0]), task.left(obs)[0])
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture))), drawn)


def test_old_pictures_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_KEPT", 6)
    drawing = frames.Frames(TASK, record(TASK, 2, 0))
    for step in (3, 9):
        assert drawing.get(1, step, patience=60.0)
    assert list(drawing._drawn) == [(1, step) for step in range(8, 14)]
    drawing.close()
