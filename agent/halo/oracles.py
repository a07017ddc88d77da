"""Who answers questions about demonstrations, behind one protocol: `ask(questions) -> answers`.

Oracles see what the agent saw, never which option was due; `Truth` alone knows it, from the recording. A cascade asks
the one of several that tells most for its price.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.data.recording import Recording
from agent.halo.acquisition import information
from agent.halo.config import PRICES
from agent.halo.em import honest_but_fallible
from agent.halo.ledger import PERSON, Answer, Question
from agent.halo.posterior import Floats, Ints
from agent.teaching import Annotator, ControllerLabels, Labeller
from controller.roles import Controller
from ground.errors import UserError

AUDIT = 0.1  # share of a cascade's questions that go to its most expensive member: no cheap one judges itself


class Belief(NamedTuple):
    """What learning believes when it asks.

    Attributes:
        options: Posterior at each step that is asked about, [M, K].
        confusion: P(annotator w says y | option j), [W, K, K], rows in the order of the oracle's `annotators`.
    """

    options: Floats
    confusion: Floats


class Oracle(Protocol):
    """Answers questions.

    Attributes:
        annotators: Who speaks through it, W names; one, but for a cascade.
        fallible: Whether an answer may be wrong.
        varies: Whether asking again about the same step may bring another answer.
        cost_before: What it had cost before the first question, in calls of a teacher.
    """

    annotators: tuple[str, ...]
    fallible: bool
    varies: bool
    cost_before: float

    def ask(self, questions: Sequence[Question], belief: Belief) -> list[Answer]:
        """Answers in the order of the questions; fewer where the annotator has stopped."""
        ...


class Truth:
    """The option that drove the step, as the recording has it; wrong now and then on request.

    Args:
        recording: Demonstrations with true options.
        options: K.
        noise: Probability of another option than the true one, drawn uniformly.
        seed: Draws it, for each question by itself, so that an interrupted run hears what another hears.

    Raises:
        UserError: The recording does not know the options.
    """

    annotators: tuple[str, ...] = ("truth",)
    cost_before = 0.0

    def __init__(self, recording: Recording, options: int, noise: float, seed: int) -> None:
        if (recording.option[recording.acted] < 0).any():
            raise UserError(
                "These demonstrations do not tell their true options.", "--oracle controller, teacher or person"
            )
        self.fallible = self.varies = noise > 0
        self._option, self._count, self._noise, self._seed = recording.option, options, noise, seed

    def ask(self, questions: Sequence[Question], belief: Belief) -> list[Answer]:
        """One option each, with certainty."""
        return [Answer.to(question, "truth", self._report(question)) for question in questions]

    def _report(self, question: Question) -> tuple[float, ...]:
        option = int(self._option[question.trajectory, question.step])
        rng = _drawing(self._seed, question)
        if rng.random() < self._noise:
            option = (option + int(rng.integers(1, self._count))) % self._count
        return tuple(float(k == option) for k in range(self._count))


class LabellerOracle:
    """A distilled controller, a language model or a script that labels what was seen.

    Args:
        name: Of the annotator, one of `PRICES`.
        labeller: Labels observations; it asks its teacher once about equal scenes, and counts the calls.
        recording: The demonstrations.
        cost_before: See `Oracle`.
    """

    fallible, varies = True, False

    def __init__(self, name: str, labeller: Labeller, recording: Recording, cost_before: float = 0.0) -> None:
        self.annotators: tuple[str, ...] = (name,)
        self.cost_before = cost_before
        self._labeller, self._recording = labeller, recording

    def ask(self, questions: Sequence[Question], belief: Belief) -> list[Answer]:
        """Its distribution, or nothing where it abstained; it costs the calls that were made.

        Raises:
            TeacherError: The model cannot be reached, or the budget of calls is spent.
        """
        start, before = time.perf_counter(), self._labeller.stats.calls
        probs = self._label([q.trajectory for q in questions], [q.step for q in questions])
        count = len(questions)
        cost, seconds = (self._labeller.stats.calls - before) / count, (time.perf_counter() - start) / count
        reports = [tuple((row / row.sum(dtype=np.float64)).tolist()) if row.any() else () for row in probs]
        return [
            Answer.to(question, self.annotators[0], report, cost, seconds)
            for question, report in zip(questions, reports, strict=True)
        ]

    def everywhere(self) -> Ints:
        """Its most probable option at every step, [N, T]; padding is option 0."""
        inside = self._recording.inside
        option = np.zeros(inside.shape, np.int64)
        option[inside] = self._label(*np.nonzero(inside)).argmax(1)
        return option

    def _label(self, trajectory: list[int] | Ints, step: list[int] | Ints) -> NDArray[np.float32]:
        return self._labeller.label(self._recording.obs[trajectory, step], self._recording.level_seed[trajectory])[0]


def controller_oracle(controller: Controller, recording: Recording) -> LabellerOracle:
    """A controller as oracle: each answer is free, and what distilling it has cost stands before them."""
    labels = ControllerLabels(controller)
    return LabellerOracle("controller", labels, recording, float(labels.stats.calls))


class Person:
    """A person, who answers when there is time: the questions wait in the run's ledger for `main.py label`."""

    annotators: tuple[str, ...] = (PERSON,)
    fallible, varies = False, True
    cost_before = 0.0

    def ask(self, questions: Sequence[Question], belief: Belief) -> list[Answer]:
        """Nothing yet."""
        return []


class Cascade:
    """Several oracles: each question goes to the one that tells most for its price, the largest I(z; y_w) / price_w.

    Confusion matrices are those that have been learned so far. Some questions go to the most expensive oracle as an
    audit: otherwise no answer would contradict a cheap one.

    Args:
        oracles: Of one annotator each, in the order of their prices.
        seed: Draws the audit.
    """

    fallible, varies = True, False

    def __init__(self, oracles: Sequence[Oracle], seed: int) -> None:
        self.annotators = tuple(name for oracle in oracles for name in oracle.annotators)
        self.cost_before = sum(oracle.cost_before for oracle in oracles)
        self.exact = np.array([isinstance(oracle, Truth) and not oracle.fallible for oracle in oracles])  # [W]
        self._oracles, self._seed = oracles, seed
        self._prices = np.array([PRICES[name] for name in self.annotators])

    def ask(self, questions: Sequence[Question], belief: Belief) -> list[Answer]:
        """Each question to one of them."""
        told = np.stack([information(belief.options, matrix) for matrix in belief.confusion])  # [W, M]
        chosen = (told / self._prices[:, None]).argmax(0)
        audited = [_drawing(self._seed, question).random() < AUDIT for question in questions]
        chosen[audited] = self._prices.argmax()
        answered: dict[int, Answer] = {}
        for w, oracle in enumerate(self._oracles):
            mine = np.flatnonzero(chosen == w)
            if len(mine):
                part = Belief(belief.options[mine], belief.confusion[w : w + 1])
                answered |= dict(zip(mine, oracle.ask([questions[i] for i in mine], part), strict=False))
        return [answered[i] for i in sorted(answered)]


def make_oracle(
    names: Sequence[str],
    recording: Recording,
    options: int,
    *,
    controller: Controller | None = None,
    annotator: Annotator | None = None,
    noise: float = 0.0,
    seed: int = 0,
) -> Oracle:
    """The oracle of that name, or the cascade of several.

    Args:
        names: Of `PRICES`.
        recording: The demonstrations that will be asked about.
        options: K.
        controller: Who answers as `controller`.
        annotator: Who answers as `teacher`.
        noise: Of the truth.
        seed: Draws that noise, and a cascade's audit.

    Raises:
        UserError: An oracle that is named is not given, or the truth is not known.
    """
    oracles: list[Oracle] = []
    for name in sorted(names, key=lambda name: PRICES[name]):
        match name:
            case "truth":
                oracles.append(Truth(recording, options, noise, seed))
            case "controller" if controller is not None:
                oracles.append(controller_oracle(controller, recording))
            case "teacher" if annotator is not None:
                oracles.append(LabellerOracle("teacher", annotator, recording))
            case "person":
                oracles.append(Person())
            case _:
                raise UserError(f"There is no {name} to ask.", "--oracle truth")
    return oracles[0] if len(oracles) == 1 else Cascade(oracles, seed)


def at_first(oracle: Oracle, options: int) -> Floats:
    """What is believed of annotators before they answer, [W, K, K]: they err now and then; a cascade's truth never
    does, unless it is noisy."""
    confusion = honest_but_fallible(len(oracle.annotators), options)
    if isinstance(oracle, Cascade):
        confusion[oracle.exact] = np.eye(options)
    return confusion


def _drawing(seed: int, question: Question) -> np.random.Generator:
    return np.random.default_rng([seed, *question])
