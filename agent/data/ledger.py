"""The ledger of questions and answers: lines of JSON that are only ever added to, each on the disk before it counts.

A killed run reads it back and goes on where it was: what was asked and answered is all that HALO's learning depends on
besides its seed. The first line says of which task and demonstrations the rest speaks.
"""

import contextlib
import errno
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agent.data.recording import Recording
from agent.inference.chain import Answers, Ints
from controller.atomic import CheckpointError
from envs.errors import UserError
from envs.task import Task

FORMAT, SCHEMA = "preceptor-ledger", 1
FILE = "ledger.jsonl"


@dataclass(frozen=True)
class Question:
    """Which option drove a step?

    Attributes:
        trajectory: Which demonstration.
        step: Which step of it.
        before: How often this was asked before.
    """

    trajectory: int
    step: int
    before: int = 0


@dataclass(frozen=True)
class Answer:
    """What an annotator said to a question.

    Attributes:
        trajectory: Of the question.
        step: Of the question.
        annotator: Who.
        report: Distribution over options, K numbers; empty for an abstention.
        start: First step that it speaks of: the question's own, or the begin of an interval around it.
        stop: The step behind the last.
        cost: What it cost, in questions to an annotator of price 1.
        seconds: How long it took.
    """

    trajectory: int
    step: int
    annotator: str
    report: tuple[float, ...]
    start: int
    stop: int
    cost: float
    seconds: float

    @staticmethod
    def to(
        question: Question, annotator: str, report: tuple[float, ...], cost: float = 1.0, seconds: float = 0.0
    ) -> "Answer":
        """An answer about the step of the question alone."""
        step = question.step
        return Answer(question.trajectory, step, annotator, report, step, step + 1, cost, seconds)


class Ledger:
    """Questions and answers of one run.

    Args:
        path: The file; read if it exists.
        task: Whose options are spoken of.
        recording: The demonstrations that are asked about.

    Attributes:
        rounds: The questions of each round, in the order in which they were chosen.
        answers: In the order in which they came.

    Raises:
        CheckpointError: The file is of another task, other options or other demonstrations, or damaged.
    """

    def __init__(self, path: Path, task: Task, recording: Recording) -> None:
        self.path, self._task, self._recording = path, task, recording
        self.rounds: list[list[Question]] = []
        self.answers: list[Answer] = []
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
        return sum(answer.cost for answer in self.answers)

    @property
    def complete_rounds(self) -> int:
        """How many rounds have all their answers: all, or all but the last."""
        return len(self.rounds) - bool(self.open)

    @property
    def open(self) -> list[Question]:
        """Questions of the last round that nobody has answered yet."""
        if not self.rounds:
            return []
        done = {(answer.trajectory, answer.step) for answer in self.answers[self._answers_of(len(self.rounds) - 1) :]}
        return [question for question in self.rounds[-1] if (question.trajectory, question.step) not in done]

    def ask(self, questions: list[Question]) -> None:
        """Begin a round."""
        self._write({"kind": "questions", "questions": [[q.trajectory, q.step, q.before] for q in questions]})
        self.rounds.append(questions)

    def answer(self, answer: Answer) -> None:
        """Keep an answer to an open question.

        Raises:
            UserError: It is no distribution over the task's options, or speaks of steps that do not exist.
        """
        self._check(answer)
        self._write({"kind": "answer", **asdict(answer)})
        self.answers.append(answer)

    def times_asked(self) -> Ints:
        """How often each step was asked about, int [N, T]; an interval counts for every step of it."""
        times = np.zeros(self._recording.option.shape, np.int64)
        for answer in self.answers:
            times[answer.trajectory, answer.start : answer.stop] += 1
        return times

    def labels(self) -> Ints:
        """The likeliest option of the last answer about each step, int [N, T]; -1 without one."""
        labels = np.full(self._recording.option.shape, -1)
        for answer in self.answers:
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
            for answer in self.answers[: self._answers_of(rounds)]
            if answer.report
            for step in range(answer.start, answer.stop)
        ]
        options = len(self._task.options)
        where = np.array([row[:2] for row in rows], np.int64).reshape(-1, 2)
        reports = np.array([row[2] for row in rows], np.float64).reshape(-1, options)
        return Answers(where[:, 0], where[:, 1], reports, np.array([row[3] for row in rows], np.int64))

    def _answers_of(self, rounds: int) -> int:
        return sum(len(questions) for questions in self.rounds[:rounds])

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
        elif kind == "answer":
            answer = Answer(**{**line, "report": tuple(line["report"])})
            self._check(answer)
            self.answers.append(answer)
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
