"""Answers that are taken back: the file only grows, and what stands is what would stand without the mistake."""

import json
from pathlib import Path

import pytest

from agent.data.recording import Recording
from agent.demonstrating import record
from agent.halo.ledger import Answer, Ledger, Question
from envs.catalog import get_task
from ground.errors import UserError

TASK = get_task("RescueWorld-n3")
RED, GREEN = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)


@pytest.fixture(scope="module")
def recording() -> Recording:
    return record(TASK, 6, 0)


@pytest.fixture
def ledger(tmp_path: Path, recording: Recording) -> Ledger:
    made = Ledger(tmp_path / "ledger.jsonl", TASK, recording)
    made.ask([Question(0, 3), Question(1, 5)])
    made.ask([Question(2, 1), Question(3, 4)])
    return made


def said(n: int, t: int, who: str = "ann", report: tuple[float, ...] = RED) -> Answer:
    return Answer(n, t, "person", report, t, t + 1, 1.0, 0.5, who)


def read(ledger: Ledger, recording: Recording) -> Ledger:
    """The same from the disk, which must be the same."""
    back = Ledger(ledger.path, TASK, recording)
    assert (back.rounds, back.answers, back.readings, back.open) == (
        ledger.rounds,
        ledger.answers,
        ledger.readings,
        ledger.open,
    )
    return back


def test_an_answer_that_is_taken_back_opens_its_question_again(ledger: Ledger, recording: Recording) -> None:
    ledger.answer(said(0, 3))
    ledger.answer(said(1, 5))
    size = ledger.path.stat().st_size
    assert ledger.take_back("ann", ahead=1) == said(1, 5)
    assert ledger.path.stat().st_size > size, "nothing is ever erased"
    assert ledger.open == [Question(1, 5), Question(2, 1), Question(3, 4)]
    assert (ledger.asked, ledger.complete_rounds) == (1, 0)
    assert ledger.times_asked().sum() == 1
    back = read(ledger, recording)
    back.answer(said(1, 5, report=GREEN))
    assert back.complete_rounds == 1
    assert back.labels()[1, 5] == 1
    assert read(back, recording).evidence(("person",), 1).report.tolist() == [list(RED), list(GREEN)]


def test_evidence_does_not_depend_on_the_order_of_the_answers(ledger: Ledger, recording: Recording) -> None:
    ledger.answer(said(1, 5))
    ledger.answer(said(0, 3, report=GREEN))
    assert ledger.evidence(("person",), 1).trajectory.tolist() == [0, 1]
    assert read(ledger, recording).evidence(("person",), 1).trajectory.tolist() == [0, 1]


def test_rounds_that_rested_on_the_answer_are_taken_back_with_it(ledger: Ledger, recording: Recording) -> None:
    ledger.answer(said(0, 3))
    ledger.answer(said(1, 5))
    ledger.ask([Question(4, 1)])  # chosen in the light of the first round
    ledger.take_back("ann", ahead=1)
    assert len(ledger.rounds) == 2
    read(ledger, recording).answer(said(1, 5, report=GREEN))


def test_a_round_that_somebody_has_begun_stays(ledger: Ledger, recording: Recording) -> None:
    ledger.answer(said(0, 3))
    ledger.answer(said(1, 5))
    ledger.ask([Question(4, 1)])
    ledger.answer(said(4, 1, who="bob"))
    ledger.take_back("ann", ahead=1)
    assert len(ledger.rounds) == 3
    assert ledger.complete_rounds == 0
    assert read(ledger, recording).open == [Question(1, 5), Question(2, 1), Question(3, 4)]


def test_everybody_takes_back_their_own_and_no_more(ledger: Ledger, recording: Recording) -> None:
    ledger.answer(said(0, 3))
    ledger.answer(said(1, 5, who="bob"))
    assert ledger.take_back("ann") == said(0, 3)
    assert ledger.take_back("ann") is None
    assert ledger.take_back("cecil") is None
    assert [answer.who for answer in read(ledger, recording).answers] == ["bob"]


def test_undo_goes_back_to_the_beginning(ledger: Ledger, recording: Recording) -> None:
    for n, t in ((0, 3), (1, 5), (2, 1), (3, 4)):
        ledger.answer(said(n, t))
    ledger.ask([Question(4, 1)])
    for left in (3, 2, 1, 0):
        ledger.take_back("ann", ahead=1)
        assert read(ledger, recording).asked == left
    assert ledger.open == [Question(0, 3), Question(1, 5), Question(2, 1), Question(3, 4)]


def test_second_readings_count_for_nothing(ledger: Ledger, recording: Recording) -> None:
    ledger.answer(said(0, 3))
    ledger.read_again(said(0, 3, who="bob", report=GREEN))
    assert (ledger.asked, ledger.cost, ledger.labels()[0, 3]) == (1, 1.0, 0)
    assert read(ledger, recording).readings == [said(0, 3, who="bob", report=GREEN)]
    assert ledger.take_back_reading("bob") == said(0, 3, who="bob", report=GREEN)
    assert ledger.take_back_reading("bob") is None
    assert read(ledger, recording).readings == []


def test_what_nobody_asked_is_no_answer(ledger: Ledger) -> None:
    ledger.answer(said(0, 3))
    for answer in (said(0, 3), said(0, 4)):
        with pytest.raises(UserError, match="Nobody asks"):
            ledger.answer(answer)
    kinds = [json.loads(line)["kind"] for line in ledger.path.read_text().splitlines()[1:]]
    assert kinds == ["questions", "questions", "answer"]


def test_what_was_asked_ahead_counts_as_asked_and_its_answers_do_not_yet(ledger: Ledger) -> None:
    ledger.answer(said(0, 3))
    ledger.answer(said(1, 5))
    known = ledger.times_asked(1)
    assert known.sum() == 4
    ledger.answer(Answer(2, 1, "person", RED, 0, 4, 1.0, 0.5, "ann"))
    assert (ledger.times_asked(1) == known).all(), "the choice of the next round must not depend on who is quick"
    assert ledger.labels(1)[2, 1] == -1
    assert ledger.times_asked().sum() == 6
