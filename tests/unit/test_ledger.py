"""The ledger: what was asked and answered, line by line, whatever happens to the process or the disk."""

import errno
import json
import os
from pathlib import Path

import pytest

from agent.data.recording import Recording
from agent.demonstrating import record
from agent.halo.ledger import Answer, Ledger, Question
from envs.catalog import get_task
from ground.atomic import CheckpointError
from ground.errors import UserError

TASK = get_task("RescueWorld-n3")
RED = (1.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def recording() -> Recording:
    return record(TASK, 4, 0)


@pytest.fixture
def ledger(tmp_path: Path, recording: Recording) -> Ledger:
    return Ledger(tmp_path / "ledger.jsonl", TASK, recording)


def again(ledger: Ledger, recording: Recording) -> Ledger:
    return Ledger(ledger.path, TASK, recording)


def test_what_was_written_is_read_back(ledger: Ledger, recording: Recording) -> None:
    ledger.ask([Question(0, 3), Question(1, 5)])
    ledger.answer(Answer.to(Question(0, 3), "truth", RED, 1.0, 0.1))
    back = again(ledger, recording)
    assert back.open == [Question(1, 5)]
    assert (back.complete_rounds, back.asked, back.cost) == (0, 1, 1.0)
    back.answer(Answer(1, 5, "person", (0.0, 0.5, 0.5), 4, 8, 2.0, 3.0))
    back.ask([Question(2, 2, 1)])
    third = again(ledger, recording)
    assert third.complete_rounds == 1
    assert third.open == [Question(2, 2, 1)]
    assert third.answers == [*ledger.answers, *back.answers[1:]]


def test_a_line_cut_short_by_a_kill_never_counted(ledger: Ledger, recording: Recording) -> None:
    ledger.ask([Question(0, 3)])
    whole = ledger.path.read_bytes()
    ledger.answer(Answer.to(Question(0, 3), "truth", RED))
    for kept in range(len(whole) + 1, len(ledger.path.read_bytes()), 7):
        ledger.path.write_bytes(ledger.path.read_bytes()[:kept])
        back = again(ledger, recording)
        assert back.open == [Question(0, 3)]
        assert ledger.path.read_bytes() == whole
        back.answer(Answer.to(Question(0, 3), "truth", RED))
        assert again(ledger, recording).asked == 1


def test_a_full_disk_takes_nothing_away(ledger: Ledger, recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.ask([Question(0, 3)])
    before = ledger.path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="df -h"):
            ledger.answer(Answer.to(Question(0, 3), "truth", RED))
    assert ledger.path.read_bytes() == before
    assert ledger.asked == 0
    ledger.answer(Answer.to(Question(0, 3), "truth", RED))
    assert again(ledger, recording).asked == 1


def test_intervals_count_for_all_their_steps_and_abstentions_for_none(ledger: Ledger) -> None:
    ledger.ask([Question(0, 3), Question(1, 5), Question(1, 6)])
    ledger.answer(Answer(0, 3, "person", RED, 2, 6, 1.0, 0.0))
    ledger.answer(Answer.to(Question(1, 5), "person", ()))
    ledger.answer(Answer.to(Question(1, 6), "truth", (0.0, 0.0, 1.0)))
    times, labels, costs = ledger.times_asked(), ledger.labels(), ledger.costs()
    assert times[0, 2:6].tolist() == [1] * 4
    assert times.sum() == 6
    assert labels[0, 2:6].tolist() == [0] * 4
    assert (labels[1, 5], labels[1, 6]) == (-1, 2)
    assert costs.sum() == pytest.approx(3.0)
    evidence = ledger.evidence(("truth", "person"), 1)
    assert list(
        zip(evidence.trajectory.tolist(), evidence.step.tolist(), evidence.annotator.tolist(), strict=True)
    ) == [
        *((0, t, 1) for t in range(2, 6)),
        (1, 6, 0),
    ]
    assert len(ledger.evidence(("truth", "person"), 0)) == 0, "a round counts once it is complete"


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (Answer.to(Question(0, 3), "truth", (1.0, 0.0)), "speaks of 2 options"),
        (Answer.to(Question(0, 3), "truth", (0.7, 0.7, 0.0)), "no distribution"),
        (Answer.to(Question(0, 3), "truth", (float("nan"), 0.5, 0.5)), "no distribution"),
        (Answer(0, 3, "person", RED, 4, 6, 1.0, 0.0), "labelled steps 4 to 6"),
        (Answer(0, 3, "person", RED, 0, 10_000, 1.0, 0.0), "labelled steps 0 to 10000"),
    ],
)
def test_answers_that_make_no_sense_are_refused(ledger: Ledger, answer: Answer, complaint: str) -> None:
    ledger.ask([Question(0, 3)])
    with pytest.raises(UserError, match=complaint):
        ledger.answer(answer)
    assert ledger.asked == 0


def test_another_run_s_ledger_is_refused(ledger: Ledger, recording: Recording) -> None:
    with pytest.raises(CheckpointError, match="other demonstrations"):
        Ledger(ledger.path, TASK, record(TASK, 4, 1))
    with pytest.raises(CheckpointError, match="other task"):
        Ledger(ledger.path, get_task("RescueWorld-n3-random"), recording)
    lines = ledger.path.read_text().splitlines()
    ledger.path.write_text("\n".join([*lines, json.dumps({"kind": "nonsense"}), ""]))
    with pytest.raises(CheckpointError, match="damaged"):
        again(ledger, recording)
