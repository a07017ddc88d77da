"""A question about a step of a demonstration, and what somebody said to it."""

from dataclasses import asdict, dataclass
from typing import Any

PERSON = "person"  # the annotator whose answers have names beside them


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
        """As it is written; nobody's name is left out."""
        return {key: value for key, value in asdict(self).items() if key != "who" or value}

    @staticmethod
    def read(line: dict[str, Any]) -> "Answer":
        """From what `line` gave. Raises `TypeError` if it is something else."""
        return Answer(**{**line, "report": tuple(line["report"])})
