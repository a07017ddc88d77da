"""The ledger of questions and answers: lines of JSON that are only ever added to, each on the disk before it counts.

A killed run reads it back and goes on where it was: what was asked and answered is all that HALO's learning depends on
besides its seed. The first line says of which task and demonstrations the rest speaks. An answer that is taken back
stays in the file, with a line behind it that says so; what *stands* is what was not taken back.
"""

import contextlib
import copy
import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from agent.data.recording import Recording
from agent.halo.chain import Answers, Ints
from agent.halo.questions import PERSON, Answer, Question
from envs.task import Task
from ground.atomic import CheckpointError
from ground.errors import UserError

FORMAT, SCHEMA = "preceptor-ledger", 1
FILE = "ledger.jsonl"


class Ledger:
    """Questions and answers of one run.

    Args:
        path: The file; read if it exists.
        task: Whose options are spoken of.
        recording: The demonstrations that are asked about.

    Attributes:
        rounds: The questions of each round, in the order in which they were chosen.
        answers: Those that stand, in the order in which they came.
        readings: Answers of other people to questions that somebody has answered: they tell how far people agree, and
            nothing is learnt from them.

    Raises:
        CheckpointError: The file is of another task, other options or other demonstrations, or damaged.
    """

    def __init__(self, path: Path, task: Task, recording: Recording) -> None:
        self.path, self._task, self._recording = path, task, recording
        self.rounds: list[list[Question]] = []
        self.answers: list[Answer] = []
        self.readings: list[Answer] = []
        self._places: list[tuple[int, int]] = []  # of each answer: its round, and its question's number there
        self._head = {
            "format": FORMAT,
            "schema": SCHEMA,
            "task": task.name,
            "options": task.options.digest,
            "demonstrations": digest(recording),
        }
        if path.exists():
            self._read()
        else:
            self._write(self._head)

    @property
    def asked(self) -> int:
        """How many questions were answered, abstentions included."""
        return len(self.answers)

    @property
    def cost(self) -> float:
        """What the answers have cost."""
        return self.cost_of(len(self.rounds))

    def cost_of(self, rounds: int) -> float:
        """What the answers of the first rounds have cost."""
        return sum(answer.cost for answer in self._answers(rounds))

    @property
    def asked_in_all(self) -> int:
        """How many questions there are, open ones included."""
        return self.asked_in(len(self.rounds))

    def asked_in(self, rounds: int) -> int:
        """How many questions the first rounds have."""
        return sum(len(questions) for questions in self.rounds[:rounds])

    @property
    def complete_rounds(self) -> int:
        """How many rounds have all their answers, and so have the rounds before them."""
        places = self._open()
        return places[0][0] if places else len(self.rounds)

    @property
    def open(self) -> list[Question]:
        """Questions that nobody has answered yet, in the order in which they were asked."""
        return [self.rounds[round_][number] for round_, number in self._open()]

    @property
    def due(self) -> list[Question]:
        """The open questions of the first round that has some."""
        places = self._open()
        return [self.rounds[round_][number] for round_, number in places if round_ == places[0][0]]

    def as_it_stands(self) -> "Ledger":
        """A copy that later questions and answers do not reach; to be read."""
        still = copy.copy(self)
        still.rounds, still.answers, still._places = list(self.rounds), list(self.answers), list(self._places)
        return still

    def ask(self, questions: list[Question]) -> None:
        """Begin a round."""
        self._write({"kind": "questions", "questions": [[q.trajectory, q.step, q.before] for q in questions]})
        self.rounds.append(questions)

    def answer(self, answer: Answer) -> None:
        """Keep an answer to an open question.

        Raises:
            UserError: It is no distribution over the task's options, speaks of steps that do not exist, or answers what
                is not open.
        """
        self._check(answer)
        place = self._place(answer)
        self._write({"kind": "answer", **answer.line()})
        self._keep(answer, place)

    def read_again(self, answer: Answer) -> None:
        """Keep what another person says to a question that is answered. Raises `UserError` as `answer` does."""
        self._check(answer)
        self._write({"kind": "reading", **answer.line()})
        self.readings.append(answer)

    def take_back(self, who: str, ahead: int = 0) -> Answer | None:
        """Open the question again that a person answered last; None if no answer of theirs stands.

        Rounds that were chosen in the light of that answer are taken back with it, unless somebody has begun to answer
        them: so that what stands in the end is what would stand had the mistake never been made.

        Args:
            who: The person.
            ahead: How many rounds are chosen before the answers of those before them are in.
        """
        mine = [i for i, answer in enumerate(self.answers) if answer.who == who and answer.annotator == PERSON]
        if not mine:
            return None
        round_, _ = self._places[mine[-1]]
        begun = max((place[0] for i, place in enumerate(self._places) if i != mine[-1]), default=-1)
        rounds = min(len(self.rounds), max(round_ + ahead, begun) + 1)
        answer = self.answers[mine[-1]]
        line = {"trajectory": answer.trajectory, "step": answer.step, "who": who, "rounds": rounds}
        self._write({"kind": "undo", **line})
        self._forget(mine[-1], rounds)
        return answer

    def take_back_reading(self, who: str) -> Answer | None:
        """Strike out what a person said last to a question that was answered; None if there is nothing of theirs."""
        mine = [i for i, answer in enumerate(self.readings) if answer.who == who]
        if not mine:
            return None
        self._write({"kind": "undo reading", "who": who})
        return self.readings.pop(mine[-1])

    def times_asked(self, rounds: int | None = None) -> Ints:
        """How often each step was asked about, int [N, T]; an interval counts for every step of it.

        Given a number of rounds, what was answered later is unknown: later questions count for their own steps.
        """
        times = np.zeros(self._recording.option.shape, np.int64)
        for answer in self._answers(rounds):
            times[answer.trajectory, answer.start : answer.stop] += 1
        for questions in self.rounds[rounds:] if rounds is not None else []:
            for question in questions:
                times[question.trajectory, question.step] += 1
        return times

    def labels(self, rounds: int | None = None) -> Ints:
        """The likeliest option of the last answer about each step, of some rounds or all, int [N, T]; or -1."""
        labels = np.full(self._recording.option.shape, -1)
        for answer in self._answers(rounds):
            if answer.report:
                labels[answer.trajectory, answer.start : answer.stop] = int(np.argmax(answer.report))
        return labels

    def costs(self) -> np.ndarray:
        """What the labels of each step have cost, float32 [N, T]; an interval's is spread over its steps."""
        costs = np.zeros(self._recording.option.shape, np.float32)
        for answer in self.answers:
            span = slice(answer.start, answer.stop)
            costs[answer.trajectory, span] += answer.cost / (answer.stop - answer.start)
        return costs

    def evidence(self, annotators: tuple[str, ...], rounds: int) -> Answers:
        """The answers of the first rounds as inference reads them, annotators by index; abstentions left out."""
        rows = [
            (answer.trajectory, step, answer.report, annotators.index(answer.annotator))
            for answer in self._answers(rounds)
            if answer.report
            for step in range(answer.start, answer.stop)
        ]
        options = len(self._task.options)
        where = np.array([row[:2] for row in rows], np.int64).reshape(-1, 2)
        reports = np.array([row[2] for row in rows], np.float64).reshape(-1, options)
        return Answers(where[:, 0], where[:, 1], reports, np.array([row[3] for row in rows], np.int64))

    def answer_to(self, question: Question) -> Answer | None:
        """The answer to a question that stands; None while it is open."""
        place = self._find(question)
        return next((a for a, at in zip(self.answers, self._places, strict=True) if at == place), None)

    def _answers(self, rounds: int | None) -> list[Answer]:
        """Those of the first rounds, or all, in the order of their questions: whatever the order they came in."""
        placed = sorted(zip(self._places, range(len(self.answers)), strict=True))
        return [self.answers[i] for (round_, _), i in placed if rounds is None or round_ < rounds]

    def _open(self) -> list[tuple[int, int]]:
        done = set(self._places)
        every = ((i, j) for i, questions in enumerate(self.rounds) for j in range(len(questions)))
        return [place for place in every if place not in done]

    def _find(self, question: Question) -> tuple[int, int] | None:
        every = ((i, j) for i, questions in enumerate(self.rounds) for j in range(len(questions)))
        return next((place for place in every if self.rounds[place[0]][place[1]] == question), None)

    def _place(self, answer: Answer) -> tuple[int, int]:
        """Where the first open question is that an answer is to."""
        for i, j in self._open():
            question = self.rounds[i][j]
            if (question.trajectory, question.step) == (answer.trajectory, answer.step):
                return i, j
        raise UserError(
            f"Nobody asks about step {answer.step} of demonstration {answer.trajectory}, or it is answered.",
            "answer the questions that are open",
        )

    def _keep(self, answer: Answer, place: tuple[int, int]) -> None:
        self.answers.append(answer)
        self._places.append(place)

    def _forget(self, i: int, rounds: int) -> None:
        del self.answers[i], self._places[i]
        del self.rounds[rounds:]

    def _check(self, answer: Answer) -> None:
        report = np.array(answer.report, np.float64)
        if len(report) not in (0, len(self._task.options)):
            raise UserError(
                f"{answer.annotator} speaks of {len(report)} options, and {self._task.name} has "
                f"{len(self._task.options)}: {', '.join(self._task.options.ids)}.",
                "ask an oracle that was made for this task: --oracle truth",
            )
        if len(report) and not (np.isfinite(report).all() and (report >= 0).all() and abs(report.sum() - 1) < 1e-3):
            raise UserError(
                f"{answer.annotator} answered with numbers that are no distribution: {answer.report}.",
                "ask another oracle: --oracle truth",
            )
        steps = self._recording.lengths[answer.trajectory]
        if not 0 <= answer.start <= answer.step < answer.stop <= steps:
            raise UserError(
                f"{answer.annotator} labelled steps {answer.start} to {answer.stop} of demonstration "
                f"{answer.trajectory}, which has {steps}, when asked about step {answer.step}.",
                "answer with an interval around the step that is asked about",
            )

    def _write(self, line: dict[str, Any]) -> None:
        """Add a line and flush it to the disk; a line that does not fit is taken back."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("ab") as file:
                file.write((json.dumps(line) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self.path, size)
            again = "repeat the command with --resume"
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            raise UserError(
                f"Could not write {self.path}: {error.strerror or error}. What was answered before is kept.",
                f"df -h {self.path.parent}  # make room, then {again}" if full else f"make it writable, then {again}",
            ) from error

    def _read(self) -> None:
        """Take in what the file holds. A last line that a kill cut short never counted, and is cut off."""
        data = self.path.read_bytes()
        whole = data.rpartition(b"\n")[0] + b"\n" if b"\n" in data else b""
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        if not whole.strip():
            self._write(self._head)
            return
        try:
            head, *lines = [json.loads(line) for line in whole.splitlines()]
            self._check_head(head)
            for line in lines:
                self._take(line)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{self.path} is damaged: {error}.", "restore it, or start a new run under another --savedir"
            ) from error

    def _check_head(self, head: dict[str, Any]) -> None:
        for key, value in self._head.items():
            if head.get(key) != value:
                raise CheckpointError(
                    f"{self.path} is about other {key} ({head.get(key)!r}) than this run ({value!r}).",
                    "use it with the task and demonstrations that it was begun with, or start another --savedir",
                )

    def _take(self, line: dict[str, Any]) -> None:
        kind = line.pop("kind")
        if kind == "questions":
            self.rounds.append([Question(*pair) for pair in line["questions"]])
        elif kind in ("answer", "reading"):
            answer = Answer.read(line)
            self._check(answer)
            if kind == "answer":
                self._keep(answer, self._place(answer))
            else:
                self.readings.append(answer)
        elif kind == "undo":
            said = [(a.trajectory, a.step, a.who) for a in self.answers]
            last = len(said) - 1 - said[::-1].index((line["trajectory"], line["step"], line["who"]))
            self._forget(last, line["rounds"])
        elif kind == "undo reading":
            del self.readings[max(i for i, answer in enumerate(self.readings) if answer.who == line["who"])]
        else:
            raise ValueError(f"a line of kind {kind!r}")


def digest(recording: Recording) -> str:
    """Hash of what was seen and done in demonstrations."""
    inside, acted = recording.inside, recording.acted
    parts = (recording.lengths, recording.obs[inside], recording.action[acted])
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(np.ascontiguousarray(part).tobytes())
    return hashed.hexdigest()[:16]
