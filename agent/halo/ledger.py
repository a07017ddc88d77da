"""The ledger of questions and answers: lines of JSON that are only ever appended, each on the disk before it counts.

A killed run reads it back and goes on where it was: learning depends on the seed and on what was asked and answered,
alone. The first line names the task and the demonstrations; every line holds a digest of itself. An answer that is
taken back stays in the file, with a line behind it that says so; what *stands* is what was not taken back.
"""

import codecs
import copy
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from preceptor.agent.data.recording import Recording
from preceptor.agent.halo.posterior import Answers, Ints
from preceptor.envs.task import Task
from preceptor.ground.atomic import CheckpointError, append_line
from preceptor.ground.errors import UserError
from preceptor.ground.sealed import parsed, sealed, unsealed

FORMAT, SCHEMA, UNSEALED = "preceptor-ledger", 2, 1  # and the schema whose lines have no digests
FILE = "ledger.jsonl"
PERSON = "person"  # the annotator whose answers have names beside them

_Place = tuple[int, int]  # a round, and a question's number in it


class Question(NamedTuple):
    """Which option drove a step of a demonstration? `before`: how often this was asked before."""

    trajectory: int
    step: int
    before: int = 0


@dataclass(frozen=True)
class Answer:
    """What an annotator said to a question about a step of a trajectory.

    Attributes:
        report: Distribution over options, K numbers; empty for an abstention.
        start: First step that it speaks of: the question's own, or the start of an interval around it.
        stop: The step behind the last.
        cost: What it cost, in questions to an annotator of price 1.
        seconds: How long it took.
        who: The name of the person, where the annotator is one; empty otherwise.
    """

    trajectory: int
    step: int
    annotator: str
    report: tuple[float, ...]
    start: int
    stop: int
    cost: float
    seconds: float
    who: str = ""

    @staticmethod
    def to(
        question: Question, annotator: str, report: tuple[float, ...], cost: float = 1.0, seconds: float = 0.0
    ) -> "Answer":
        """An answer about the step of the question alone."""
        step = question.step
        return Answer(question.trajectory, step, annotator, report, step, step + 1, cost, seconds)

    def line(self) -> dict[str, Any]:
        """As it is written: without a name where the annotator has none."""
        return {key: value for key, value in asdict(self).items() if key != "who" or value}


class Ledger:
    """Questions and answers of one run.

    Args:
        path: The file; read if it exists.
        task: Whose options are spoken of.
        recording: The demonstrations that are asked about.

    Attributes:
        rounds: The questions of each round, in the order in which they were chosen.
        readings: Answers of other people to questions that are answered: they tell how far people agree, and nothing is
            learned from them.
        repeated: Lines that say again what stands, as two processes wrote that had one ledger before it was locked;
            they count once.

    Raises:
        CheckpointError: The file is of another task, other options or other demonstrations, or damaged.
    """

    def __init__(self, path: Path, task: Task, recording: Recording) -> None:
        self.path, self._task, self._recording = path, task, recording
        self.rounds: list[list[Question]] = []
        self.readings: list[Answer] = []
        self.repeated = 0
        self._answers: dict[_Place, Answer] = {}  # those that stand, in the order in which they came
        head = {"format": FORMAT, "schema": SCHEMA, "task": task.name, "options": task.options.digest}
        self._read(head | {"demonstrations": digest(recording)})

    # --- what stands; of the first rounds alone where their number is given ---------------------------------------

    @property
    def answers(self) -> list[Answer]:
        """The answers that stand, in the order in which they came."""
        return list(self._answers.values())

    @property
    def asked(self) -> int:
        """How many questions were answered, abstentions included."""
        return len(self._answers)

    def asked_in(self, rounds: int | None = None) -> int:
        """How many questions there are, open ones included."""
        return sum(map(len, self.rounds[:rounds]))

    def cost(self, rounds: int | None = None) -> float:
        """What the answers have cost."""
        return sum(answer.cost for answer in self._of(rounds))

    @property
    def complete_rounds(self) -> int:
        """How many rounds have all their answers, and so have the rounds before them."""
        return next((round_ for round_, _ in self._open()), len(self.rounds))

    @property
    def open(self) -> list[Question]:
        """Questions without an answer yet, in the order in which they were asked."""
        return [self.rounds[round_][number] for round_, number in self._open()]

    @property
    def due(self) -> list[Question]:
        """The open questions of the first round that has some."""
        first = self.complete_rounds
        return [self.rounds[round_][number] for round_, number in self._open() if round_ == first]

    def as_it_stands(self) -> "Ledger":
        """A copy that later questions and answers do not reach; to be read."""
        still = copy.copy(self)
        still.rounds, still.readings, still._answers = list(self.rounds), list(self.readings), dict(self._answers)
        return still

    def times_asked(self, rounds: int | None = None) -> Ints:
        """How often each step was asked about, int [N, T]; an interval counts for every step of it.

        Given a number of rounds, what was answered later is unknown: later questions count for their own steps.
        """
        times = np.zeros(self._recording.option.shape, np.int64)
        for answer in self._of(rounds):
            times[answer.trajectory, answer.start : answer.stop] += 1
        for questions in self.rounds[rounds:] if rounds is not None else []:
            for question in questions:
                times[question.trajectory, question.step] += 1
        return times

    def labels(self, rounds: int | None = None) -> Ints:
        """The likeliest option of the last answer about each step, int [N, T]; -1 without one."""
        labels = np.full(self._recording.option.shape, -1)
        for answer in self._of(rounds):
            if answer.report:
                labels[answer.trajectory, answer.start : answer.stop] = int(np.argmax(answer.report))
        return labels

    def evidence(self, annotators: tuple[str, ...], rounds: int) -> Answers:
        """The answers as inference reads them, by `told`."""
        return told(self._of(rounds), annotators, len(self._task.options))

    def _of(self, rounds: int | None) -> list[Answer]:
        """Answers in the order of their questions, whatever the order they came in."""
        return [self._answers[at] for at in sorted(self._answers) if rounds is None or at[0] < rounds]

    def _open(self) -> Iterator[_Place]:
        every = ((i, j) for i, questions in enumerate(self.rounds) for j in range(len(questions)))
        return (place for place in every if place not in self._answers)

    # --- what is added --------------------------------------------------------------------------------------------

    def ask(self, questions: list[Question]) -> None:
        """Begin a round."""
        self._add({"kind": "questions", "questions": questions})

    def answer(self, answer: Answer) -> None:
        """Keep an answer to an open question.

        Raises:
            UserError: It is no distribution over the task's options, speaks of steps that do not exist, or answers what
                is not open.
        """
        self._add({"kind": "answer", **answer.line()})

    def read_again(self, answer: Answer) -> None:
        """Keep what another person says to a question that is answered. Raises `UserError` as `answer` does."""
        self._add({"kind": "reading", **answer.line()})

    def take_back(self, who: str, ahead: int = 0) -> Answer | None:
        """Open the question again that a person answered last; None if no answer of theirs stands.

        Rounds that were chosen in the light of that answer are taken back with it, unless an answer to them stands: so
        that what stands in the end is what would stand had the mistake never been made.

        `ahead` rounds are chosen before the answers of those before them are in.
        """
        mine = [at for at, answer in self._answers.items() if answer.who == who and answer.annotator == PERSON]
        if not mine:
            return None
        last, answer = mine[-1], self._answers[mine[-1]]
        begun = max((round_ for round_, number in self._answers if (round_, number) != last), default=-1)
        rounds = min(len(self.rounds), max(last[0] + ahead, begun) + 1)
        about = {"trajectory": answer.trajectory, "step": answer.step, "who": who}
        self._add({"kind": "undo", **about, "rounds": rounds})
        return answer

    def take_back_reading(self, who: str) -> Answer | None:
        """Strike out what a person said last to a question that was answered; None if there is nothing of theirs."""
        mine = [answer for answer in self.readings if answer.who == who]
        if mine:
            self._add({"kind": "undo reading", "who": who})
        return mine[-1] if mine else None

    # --- the file -------------------------------------------------------------------------------------------------

    def _add(self, line: dict[str, Any]) -> None:
        change = self._change(**line)
        self._write(line)
        change()

    def _write(self, line: dict[str, Any]) -> None:
        append_line(self.path, json.dumps(sealed(line)).encode())

    def _change(self, kind: str, **line: Any) -> Callable[[], None]:
        """What a line of the file does to what stands; made before the line is written, called once it is."""
        if kind == "questions":
            return partial(self.rounds.append, [Question(*asked) for asked in line["questions"]])
        if kind in ("answer", "reading"):
            answer = Answer(**line | {"report": tuple(line["report"])})
            self._check(answer)
            if kind == "reading":
                return partial(self.readings.append, answer)
            return partial(self._answers.__setitem__, self._place(answer), answer)
        if kind == "undo":
            about = (line["trajectory"], line["step"], line["who"])
            said = [at for at, answer in self._answers.items() if (answer.trajectory, answer.step, answer.who) == about]
            return partial(self._strike, said[-1], line["rounds"])
        if kind == "undo reading":
            mine = [i for i, answer in enumerate(self.readings) if answer.who == line["who"]]
            return partial(self.readings.__delitem__, mine[-1])
        raise ValueError(f"a line of kind {kind!r}")

    def _strike(self, place: _Place, rounds: int) -> None:
        del self._answers[place], self.rounds[rounds:]

    def _place(self, answer: Answer) -> _Place:
        """Where the first open question is that an answer is to."""
        for i, j in self._open():
            if self.rounds[i][j][:2] == (answer.trajectory, answer.step):
                return i, j
        what = f"No question about step {answer.step} of demonstration {answer.trajectory} is open."
        raise UserError(what, "answer the questions that are open")

    def _check(self, answer: Answer) -> None:
        report, options = np.array(answer.report, np.float64), len(self._task.options)
        if len(report) and not (len(report) == options and (report >= 0).all() and abs(report.sum() - 1) < 1e-3):
            what = f"{answer.report}, which is no distribution over the {options} options of {self._task.name}"
            raise UserError(f"{answer.annotator} answered with {what}.", "ask another oracle: --oracle truth")
        steps = self._recording.lengths[answer.trajectory]
        if not 0 <= answer.start <= answer.step < answer.stop <= steps:
            what = f"steps {answer.start} to {answer.stop} of demonstration {answer.trajectory}, which has {steps}"
            raise UserError(
                f"{answer.annotator} labelled {what}, when asked about step {answer.step}.",
                "answer with an interval around the step that is asked about",
            )

    def _read(self, head: dict[str, Any]) -> None:
        """Take in what the file holds. A last line that a kill cut short never counted, and is cut off."""
        data = self.path.read_bytes() if self.path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        if not whole:
            self._write(head)
            return
        try:
            found, *lines = ledger_lines(whole)
            for key, value in head.items():
                if found.get(key) != value and (key, found.get(key)) != ("schema", UNSEALED):
                    raise CheckpointError(
                        f"{self.path} is about other {key} ({found.get(key)!r}) than this run ({value!r}).",
                        "use it with the task and demonstrations that it was begun with, or start another --savedir",
                    )
            for line in lines:
                if self._repeats(**line):
                    self.repeated += 1
                else:
                    self._change(**line)()
        except CheckpointError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, UserError) as error:
            what = f"{self.path} is damaged: {getattr(error, 'what', str(error)).rstrip('.')}."
            raise CheckpointError(what, "restore it, or start a new run under another --savedir") from error

    def _repeats(self, kind: str, **line: Any) -> bool:
        """Whether a line asks what was asked, or answers what is answered: a question that is asked anew says so."""
        if kind == "questions":
            standing = {question for questions in self.rounds for question in questions}
            return bool(standing & {Question(*asked) for asked in line["questions"]})
        about = line.get("trajectory"), line.get("step")
        return (
            kind == "answer"
            and about not in {question[:2] for question in self.open}
            and about in {(answer.trajectory, answer.step) for answer in self.answers}
        )


def ledger_lines(data: bytes) -> list[dict[str, Any]]:
    """The lines of a ledger. Raises `ValueError` with the number of one that is damaged."""
    lines: list[dict[str, Any]] = []
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).splitlines(), 1):
        try:
            lines.append(unsealed(parsed(line), required=bool(lines) and lines[0].get("schema") == SCHEMA))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    return lines


def told(answers: Iterable[Answer], annotators: tuple[str, ...], options: int) -> Answers:
    """Answers as inference reads them, for each step that they speak of, annotators by index; abstentions left out."""
    steps = [(answer, step) for answer in answers if answer.report for step in range(answer.start, answer.stop)]
    return Answers(
        np.array([answer.trajectory for answer, _ in steps], np.int64),
        np.array([step for _, step in steps], np.int64),
        np.array([answer.report for answer, _ in steps], np.float64).reshape(-1, options),
        np.array([annotators.index(answer.annotator) for answer, _ in steps], np.int64),
    )


def digest(recording: Recording) -> str:
    """Hash of what was seen and done in demonstrations."""
    hashed = hashlib.sha256()
    for part in (recording.lengths, recording.obs[recording.inside], recording.action[recording.acted]):
        hashed.update(np.ascontiguousarray(part).tobytes())
    return hashed.hexdigest()[:16]
