"""A person as the oracle, without a browser: whatever they do, and however fast, what stands decides what is learnt."""

import errno
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import main as cli
from preceptor.agent.config import configure
from preceptor.agent.data.recording import Recording
from preceptor.agent.demonstrating import record
from preceptor.agent.halo.ask import Ask
from preceptor.agent.halo.em import Fit
from preceptor.agent.halo.ledger import FILE, Ledger, Question
from preceptor.agent.labelling import frames
from preceptor.agent.labelling.agreement import kappa
from preceptor.agent.labelling.config import LabelConfig
from preceptor.agent.labelling.opening import open_session
from preceptor.agent.labelling.opinions import Opinions
from preceptor.agent.labelling.session import Session
from preceptor.agent.runs.run import Run
from preceptor.agent.teaching import ControllerLabels
from preceptor.agent.train import train
from preceptor.envs.catalog import get_task
from preceptor.envs.rescue.rendering import draw
from preceptor.envs.rescue.simulator import RescueSimulator
from preceptor.envs.rescue.tasks import RescueTask
from preceptor.ground.errors import UserError
from preceptor.teacher.config import TeacherConfig
from preceptor.teacher.labels import LabelStore

CONFIG = LabelConfig(savedir="x", demos="24", budget="40", eval_episodes=0, annotator="ann")
TASK = get_task("RescueWorld-n3")
Shown = dict[str, Any]  # as the page shows it
Truth = Callable[[Shown], int]


@contextmanager
def session(tmp_path: Path, **changes: Any) -> Iterator[tuple[Session, Truth]]:
    """A session, and what knows the right answer to a question."""
    with open_session(replace(CONFIG, logdir=str(tmp_path), **changes)) as (opened, _):
        option = opened._ask.training.option
        yield opened, lambda question: int(option[question["trajectory"], question["step"]])


def until(there: Callable[[], Any]) -> Any:
    """What is there in the end."""
    deadline = time.monotonic() + 120
    while not (found := there()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def wait(opened: Session, *phases: str) -> dict[str, Any]:
    def state() -> dict[str, Any] | None:
        state = opened.state()
        assert state["trouble"] is None, state["trouble"]
        return state if state["phase"] in phases else None

    return until(state)


def asked(opened: Session) -> Shown:
    return wait(opened, "asking")["question"]


def say(opened: Session, question: Shown, option: int | None, *rest: Any, **named: Any) -> bool:
    key = question["trajectory"], question["step"], question["before"]
    return opened.answer(None, key, option, *rest, **named)


def wrong(question: Shown, truth: Truth) -> int | None:
    """An option that is legal and not right, or a skip if there is none."""
    return next((k for k, legal in enumerate(question["legal"]) if legal and k != truth(question)), None)


def answer(opened: Session, truth: Truth, count: int, seconds: float = 0.0) -> None:
    """Answer so many questions rightly."""
    for _ in range(count):
        question = asked(opened)
        assert say(opened, question, truth(question), seconds=seconds)


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


@pytest.mark.parametrize("slips", [0.0, 0.3])
def test_the_same_answers_that_stand_lead_to_the_same_end_however_they_came(
    slips: float, tmp_path: Path, direct: Path
) -> None:
    rng, answered = np.random.default_rng(0), 0
    with session(tmp_path) as (opened, truth):
        while (state := wait(opened, "asking", "finishing", "finished"))["phase"] == "asking":
            question = state["question"]
            if rng.random() < slips / 2 and answered:
                answered -= sum(opened.undo() for _ in range(int(rng.integers(1, 4))))
                continue
            if rng.random() < slips:
                assert say(opened, question, wrong(question, truth))
                time.sleep(slips * rng.random())
                assert opened.undo()
                time.sleep(slips * rng.random())
            assert say(opened, question, truth(question))
            answered += 1
        result = wait(opened, "finished")["result"]
    training = opened._ask.training
    assert what_was_learnt(folder(tmp_path), training) == what_was_learnt(direct, training)
    assert result["option_error"] == Run.open(direct).results()["option_error"]


def test_no_question_rests_on_answers_that_were_taken_back_while_it_was_chosen(
    tmp_path: Path, direct: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, taken_back, choose = threading.Event(), threading.Event(), Ask.choose

    def slowly(self: Ask, found: Fit) -> list[Question]:
        questions = choose(self, found)
        if len(self.ledger.rounds) == 2:
            chosen.set()
            taken_back.wait(60)
        return questions

    monkeypatch.setattr(Ask, "choose", slowly)
    with session(tmp_path) as (opened, truth):
        asked(opened)
        first = len(opened._ledger.rounds[0])
        for _ in range(first):
            say(opened, question := asked(opened), wrong(question, truth))
        assert chosen.wait(60)
        assert all(opened.undo() for _ in range(first))
        taken_back.set()
        answer(opened, truth, first)
        rounds = until(lambda: opened._ledger.rounds[2:])
    assert rounds == Ledger(direct / FILE, TASK, opened._ask.training).rounds[2:3]


def test_a_finished_run_can_be_taken_back_and_finished_again(tmp_path: Path) -> None:
    with session(tmp_path, budget="3", demos="8") as (opened, truth):
        answer(opened, truth, 3)
        wait(opened, "finished")
        assert opened.undo()
        assert not (folder(tmp_path) / "result.json").exists()
        state = wait(opened, "asking")
        assert state["progress"]["answered"] == 2
        say(opened, state["question"], None)
        assert wait(opened, "finished")["result"]["abstained"] == 1
        assert opened.outcome()["answered"] == 3


def test_it_is_taken_up_where_it_was_left_with_its_own_settings(tmp_path: Path) -> None:
    with session(tmp_path, seed=3, rule="random") as (opened, truth):
        question = asked(opened)
        assert say(opened, question, truth(question), (0, question["step"] + 1), 2.0)
        following = opened.state()["question"]
        with pytest.raises(UserError, match="is in use: another"), session(tmp_path):
            pass
    with session(tmp_path, demos=None, budget=None) as (opened, _):
        state = wait(opened, "asking")
        assert [state["question"][k] for k in ("trajectory", "step")] == [following[k] for k in ("trajectory", "step")]
        assert (state["progress"]["answered"], state["progress"]["per_minute"]) == (1, 30.0)
        assert not say(opened, question, truth(question)), "it is answered"
    with pytest.raises(UserError, match="seed was 3"), session(tmp_path, seed=4):
        pass


def test_what_cannot_be_is_refused_and_nothing_advances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with session(tmp_path) as (opened, truth):
        while all((question := asked(opened))["legal"]):
            say(opened, question, truth(question))
        step, illegal, right = question["step"], question["legal"].index(False), truth(question)
        impossible: list[Any] = [(7, None), (-1, None), (illegal, None)]
        impossible += [(right, interval) for interval in ((step + 1, step + 2), (-1, step + 1), (0, 999))]
        for option, interval in impossible:
            with pytest.raises(ValueError, match=r"legal|interval"):
                say(opened, question, option, interval)
        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", full)
            with pytest.raises(UserError, match="df -h"):
                say(opened, question, right)
        assert opened.state()["question"]["step"] == step
        assert say(opened, question, right)
        assert opened.frame(10_000, 0) is None
        assert opened.frame(0, 10_000) is None


def test_second_readings_measure_how_far_people_agree(tmp_path: Path) -> None:
    with session(tmp_path) as (opened, truth):
        answer(opened, truth, 10)
        assert opened.agreement() == []
    with session(tmp_path, again=True, annotator="bob") as (opened, truth):
        slips = 0
        for _ in range(10):
            other = None if slips else wrong(question := asked(opened), truth)
            say(opened, question := asked(opened), truth(question) if other is None else other)
            slips += other is not None
        assert opened.state()["phase"] == "finished"
        (pair,) = opened.agreement()
        assert (pair["pair"], pair["steps"], pair["agree"]) == (("ann", "bob"), 10, 0.9)
        assert np.sum(pair["confusion"]) == 10
        assert opened.undo()
        assert (opened.state()["phase"], opened._ledger.asked) == ("asking", 10)


def test_two_laws_about_one_step_are_refused_before_they_are_kept(tmp_path: Path) -> None:
    with session(tmp_path) as (opened, _):
        wait(opened, "asking")
        with opened._lock:  # all of them chosen before anybody knew of the interval
            free = set(range(24)) - {question.trajectory for question in opened._ledger.open}
            choices = {n: np.flatnonzero(TASK.legal(opened._ask.training.obs[n, :4]).all(0)) for n in free}
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
        answer(opened, truth, 20, seconds=3.0)
        wait(opened, "finished")
    carried = str(folder(tmp_path) / FILE)
    with session(tmp_path / "other", budget="24", annotator="bob", answers=carried) as (opened, truth):
        until(lambda: wait(opened, "asking")["progress"]["answered"] == 20)
        assert opened.undo("ann"), "the names came along, too"
        assert wait(opened, "asking")["progress"]["answered"] == 19, "and what is taken back stays open"
    with pytest.raises(UserError, match="no ledger"), session(tmp_path / "third", answers="nowhere.jsonl"):
        pass
    assert not folder(tmp_path / "third").exists()
    with pytest.raises(UserError, match="other demonstrations"), session(tmp_path / "4", seed=9, answers=carried):
        pass


def test_a_teachers_opinion_stands_beside_the_question(tmp_path: Path) -> None:
    with session(tmp_path, teacher=TeacherConfig("scripted")) as (opened, truth):
        for _ in range(3):
            question = asked(opened)
            assert np.argmax(until(lambda: asked(opened)["said"]["teacher"])) == truth(question)
            say(opened, question, truth(question))
        (pair,) = opened.agreement()
        assert (pair["pair"], pair["steps"], pair["agree"]) == (("ann", "teacher"), 3, 1.0)
        assert opened._ask.config.teacher.teacher == "local", "whose opinion is shown is no setting of the run"
    with LabelStore(folder(tmp_path) / "labels.sqlite") as store:
        assert len(store) > 0, "what it said is kept"


def test_a_teacher_that_fails_says_nothing_more_and_stops_nobody() -> None:
    class Says(ControllerLabels):
        def __init__(self, trouble: UserError | None = None) -> None:
            self.trouble = trouble

        def label(self, obs: np.ndarray, level_seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            if self.trouble:
                raise self.trouble
            return np.tile(np.float32([0.2, 0.8, 0.0]), (len(obs), 1)), np.zeros(len(obs), np.int64)

    away = Says(UserError("The server is away.", "start it"))
    opinions = Opinions(record(TASK, 2, 0), {"controller": Says(), "teacher": away})
    opinions.want([(0, 3), (1, 2)])
    assert "teacher says nothing any more. The server is away." in until(lambda: opinions.trouble)
    opinions.want([(0, 5)])
    until(lambda: opinions.of((0, 5))["controller"])
    assert opinions.of((0, 5)) == {"controller": pytest.approx([0.2, 0.8, 0.0])}
    assert opinions.options("teacher", [(0, 3)]) == {}
    assert opinions.options("controller", [(0, 7), (1, 4)], patience=60.0) == {(0, 7): 1, (1, 4): 1}
    opinions.close()


def test_what_is_being_learnt_is_given_up_when_the_page_is_closed(tmp_path: Path) -> None:
    with session(tmp_path, policies="neural", demos="100", budget="4%") as (opened, _):
        learning = opened._ask.run.path / "checkpoints"
    assert not list(learning.glob("*")), "a fit takes seconds; nobody waited for it"


def test_kappa_is_cohens() -> None:
    tables: list[Any] = [[[20, 5], [10, 15]], [[5, 0], [0, 5]], [[5, 0], [0, 0]], np.zeros((2, 2), int)]
    # The first is Cohen's measure of 50 proposals, of textbooks.
    assert [kappa(np.array(table)) for table in tables] == [pytest.approx(0.4), 1.0, None, None]


def test_a_task_that_cannot_be_drawn_is_labelled_by_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(self: RescueSimulator) -> None:
        raise RuntimeError("no device")

    monkeypatch.setattr(RescueSimulator, "render", blind)
    with session(tmp_path) as (opened, truth):
        question = asked(opened)
        assert opened.frame(question["trajectory"], question["step"]) is None
        assert "no device" in (said := opened.state()["pictures"])
        assert "next:" in said
        assert "target" in question["words"][0]
        assert say(opened, question, truth(question))


def test_pictures_are_those_of_the_recorded_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(TASK, RescueTask)
    monkeypatch.setattr(frames, "_KEPT", 12)
    recording = record(TASK, 6, 0)
    drawing = frames.Frames(TASK, recording)
    for n, t in ((0, 0), (3, 7), (3, 9), (3, 2), (5, int(recording.lengths[5]) - 1)):
        picture, obs = drawing.get(n, t, patience=60.0), recording.obs[n, t : t + 1]
        expected = draw(TASK.spec, int(TASK.cells(obs)[0]), TASK.left(obs)[0])
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture or b""))), expected)
    assert len(drawing._drawn) == 12, "old ones are forgotten"
    other = frames.Frames(TASK, replace(recording, obs=recording.obs[::-1].copy()))
    assert other.get(0, 5, patience=60.0) is None
    assert "another course" in str(other.trouble)
    drawing.close()
    other.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--annotator", ""], "a name"), (["--annotator", " "], "a name"), (["--annotator", "a\nb"], "a name"),
        (["--port", "70000"], "65535"), (["--teacher", "oracl"], "oracl"), (["--threads", "0"], "--threads"),
        (["--teacher", "scripted", "--on-teacher-failure", "hold"], "Nothing stands in"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["label", "--no-browser", "--logdir", str(tmp_path), "--demos", "24", *words]) == 2
    assert said in capsys.readouterr().err.partition("next:")[0]
