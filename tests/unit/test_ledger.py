"""The ledger: what was asked, answered and taken back, line by line, whatever happens to the process or the disk."""

import errno
import json
import os
from unittest.mock import Mock

import pytest

from preceptor.agent.demonstrating import record
from preceptor.agent.halo.ledger import Answer, Ledger, Question
from preceptor.envs.catalog import get_task
from preceptor.ground.atomic import CheckpointError
from preceptor.ground.errors import UserError
from preceptor.ground.sealed import unsealed

TASK = get_task("RescueWorld-n3")
RED, GREEN = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)


@pytest.fixture(scope="module")
def recording():
    return record(TASK, 6, 0)


@pytest.fixture
def ledger(tmp_path, recording):
    """Two rounds; at the end of a test, what the file holds must be what stands."""
    made = Ledger(tmp_path / "ledger.jsonl", TASK, recording)
    made.ask([Question(0, 3), Question(1, 5)])
    made.ask([Question(2, 1), Question(3, 4)])
    yield made
    back = Ledger(made.path, TASK, recording)
    for name in ("rounds", "answers", "readings", "open", "due", "asked", "complete_rounds"):
        assert getattr(back, name) == getattr(made, name), name
    assert back.cost() == made.cost()


def said(n, t, who="ann", report=RED):
    return Answer(n, t, "person", report, t, t + 1, 1.0, 0.5, who)


def test_what_was_asked_and_answered_is_counted(ledger):
    ledger.answer(Answer.to(Question(0, 3), "truth", RED, 1.0, 0.1))
    assert (ledger.asked, ledger.asked_in(1), ledger.asked_in(), ledger.complete_rounds) == (1, 2, 4, 0)
    assert ledger.due == [Question(1, 5)]
    ledger.answer(Answer(1, 5, "person", (0.0, 0.5, 0.5), 4, 8, 2.0, 3.0))
    ledger.ask([Question(4, 2, 1)])
    assert (ledger.complete_rounds, ledger.cost(), ledger.cost(0), ledger.cost(1)) == (1, 3.0, 0, 3.0)
    assert ledger.due == [Question(2, 1), Question(3, 4)]
    assert ledger.open == [*ledger.due, Question(4, 2, 1)]
    still = ledger.as_it_stands()
    ledger.answer(said(2, 1))
    ledger.read_again(said(0, 3))
    ledger.ask([Question(5, 0)])
    assert (still.asked, len(still.rounds), still.due) == (2, 3, [Question(2, 1), Question(3, 4)])
    assert not still.readings


def test_a_line_cut_short_by_a_kill_never_counted(ledger, recording):
    whole = ledger.path.read_bytes()
    ledger.answer(said(0, 3))
    with_answer = ledger.path.read_bytes()
    for kept in range(len(whole) + 1, len(with_answer), 7):
        ledger.path.write_bytes(with_answer[:kept])
        back = Ledger(ledger.path, TASK, recording)
        assert back.due == [Question(0, 3), Question(1, 5)]
        assert ledger.path.read_bytes() == whole
        back.answer(said(0, 3))
        assert ledger.path.read_bytes() == with_answer


def test_a_full_disk_takes_nothing_away(ledger, monkeypatch):
    before = ledger.path.read_bytes()

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
        with pytest.raises(UserError, match="df -h"):
            ledger.answer(said(0, 3))
    assert ledger.path.read_bytes() == before
    assert ledger.asked == 0
    ledger.answer(said(0, 3))


def test_intervals_count_for_all_their_steps_and_abstentions_for_none(ledger):
    """In the order of the questions, whatever the order of the answers."""
    ledger.answer(Answer(1, 5, "person", RED, 4, 8, 1.0, 0.0))
    ledger.answer(said(0, 3, report=()))
    known = ledger.times_asked(1)
    ledger.answer(Answer(3, 4, "truth", GREEN, 3, 5, 1.0, 0.0))
    ledger.answer(Answer.to(Question(2, 1), "truth", (0.0, 0.0, 1.0)))
    times, labels = ledger.times_asked(), ledger.labels()
    assert times[1, 4:8].tolist() == [1] * 4
    assert (times.sum(), known.sum()) == (8, 7)
    assert (ledger.times_asked(1) == known).all(), "the choice of the next round must not depend on who is quick"
    assert ledger.labels(1)[2, 1] == -1
    assert labels[1, 4:8].tolist() == [0] * 4
    assert (labels[0, 3], labels[2, 1]) == (-1, 2)
    evidence = ledger.evidence(("truth", "person"), 2)
    columns = (evidence.trajectory.tolist(), evidence.step.tolist(), evidence.annotator.tolist())
    assert list(zip(*columns, strict=True)) == [*((1, t, 1) for t in range(4, 8)), (2, 1, 0), (3, 3, 0), (3, 4, 0)]
    assert evidence.report.tolist() == [[*RED]] * 4 + [[0.0, 0.0, 1.0], [*GREEN], [*GREEN]]
    assert len(ledger.evidence(("truth", "person"), 0).step) == 0


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        *[(said(0, 3, report=wrong), "no distribution over the 3 options") for wrong in
          ((1.0, 0.0), (0.7, 0.7, 0.0), (float("nan"), 0.5, 0.5))],
        (Answer(0, 3, "person", RED, 4, 6, 1.0, 0.0), "labelled steps 4 to 6"),
        (Answer(0, 3, "person", RED, 0, 10_000, 1.0, 0.0), "labelled steps 0 to 10000"),
        *[(said(n, t), f"No question about step {t} of demonstration {n}") for n, t in ((0, 4), (1, 5))],
    ],
)  # fmt: skip
def test_answers_that_make_no_sense_are_refused(ledger, answer, complaint):
    ledger.answer(said(1, 5))
    before = ledger.path.read_bytes()
    with pytest.raises(UserError, match=complaint):
        ledger.answer(answer)
    assert ledger.path.read_bytes() == before
    assert ledger.asked == 1


def test_another_run_s_ledger_is_refused(tmp_path, recording):
    path = Ledger(tmp_path / "ledger.jsonl", TASK, recording).path
    with pytest.raises(CheckpointError, match="other demonstrations"):
        Ledger(path, TASK, record(TASK, 4, 1))
    with pytest.raises(CheckpointError, match="other task"):
        Ledger(path, get_task("RescueWorld-n3-random"), recording)
    head = path.read_text()
    undo = {"kind": "undo", "trajectory": 0, "step": 0, "who": "ann", "rounds": 0}
    for line in ({"kind": "nonsense"}, {"kind": "answer"}, {}, undo, {"kind": "undo reading", "who": "ann"}):
        path.write_text(head + json.dumps(line) + "\n")
        with pytest.raises(CheckpointError, match="damaged"):
            Ledger(path, TASK, recording)


@pytest.mark.parametrize("sealed", [False, True])
def test_what_two_processes_wrote_at_once_counts_once(ledger, recording, sealed):
    """As before ledgers were locked: each wrote its own questions and answers, seconds and all."""
    for n, t in ((0, 3), (1, 5), (2, 1)):
        ledger.answer(said(n, t))
    head, *lines = ledger.path.read_text().splitlines(keepends=True)
    if not sealed:
        head, *lines = (json.dumps(unsealed(json.loads(line), required=True)) + "\n" for line in (head, *lines))
        head = head.replace('"schema": 2', '"schema": 1')
    twice = ledger.path.with_name("twice.jsonl")
    for order in ([line for line in lines for _ in range(2)], lines + lines):
        twice.write_text(head + "".join(order))
        back = Ledger(twice, TASK, recording)
        assert (back.rounds, back.answers, back.open) == (ledger.rounds, ledger.answers, ledger.open)
        assert back.repeated == len(lines)


@pytest.mark.parametrize("begun", [False, True])
def test_an_answer_that_is_taken_back_opens_its_question_again(begun, ledger):
    """Rounds that rested on it go with it, unless they are begun."""
    ledger.answer(said(0, 3))
    ledger.answer(said(1, 5))
    ledger.ask([Question(4, 1)])  # chosen in the light of the first round
    if begun:
        ledger.answer(said(4, 1, who="bob"))
    before = ledger.path.read_bytes()
    assert ledger.take_back("ann", ahead=1) == said(1, 5)
    assert ledger.path.read_bytes().startswith(before), "nothing is ever erased"
    assert len(ledger.rounds) == (3 if begun else 2)
    assert ledger.open == [Question(1, 5), Question(2, 1), Question(3, 4)]
    assert (ledger.asked, ledger.complete_rounds) == (2 if begun else 1, 0)
    ledger.answer(said(1, 5, report=GREEN))
    assert ledger.complete_rounds == 1
    assert ledger.evidence(("person",), 1).report.tolist() == [list(RED), list(GREEN)]


def test_people_take_back_their_own_answers_and_no_more(ledger):
    ledger.ask([Question(0, 3, 1)])
    ledger.answer(said(3, 4, who="bob"))
    mine = [said(0, 3), said(1, 5), said(2, 1), said(0, 3, report=GREEN)]
    for answer in mine:
        ledger.answer(answer)
    for left in (4, 3, 2, 1):
        assert ledger.take_back("ann", ahead=1) == mine.pop(), "of two about one step the last"
        assert ledger.asked == left
    assert ledger.take_back("ann") is None
    assert ledger.take_back("cecil") is None
    assert [answer.who for answer in ledger.answers] == ["bob"]
    assert ledger.open == [Question(0, 3), Question(1, 5), Question(2, 1)]


def test_second_readings_count_for_nothing(ledger):
    reading = said(0, 3, who="bob", report=GREEN)
    ledger.answer(said(0, 3))
    ledger.read_again(said(1, 5, who="bob"))
    ledger.read_again(reading)
    ledger.read_again(said(0, 3, who="cecil"))
    assert (ledger.asked, ledger.cost(), ledger.labels()[0, 3]) == (1, 1.0, 0)
    assert ledger.take_back_reading("bob") == reading
    assert ledger.take_back_reading("dora") is None
    assert ledger.readings == [said(1, 5, who="bob"), said(0, 3, who="cecil")]
