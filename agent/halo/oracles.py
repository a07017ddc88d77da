"""Who answers questions about demonstrations, behind one protocol: `ask(questions) -> answers`.

Oracles see what the agent saw, never which option was due. Truth knows it from the recording; a controller is the
checkpoint of `train --method dagger` on the task; a teacher is a language model or a script; a cascade asks the one of
several who tells most for his price.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.data.recording import Recording
from agent.halo.acquisition import information_per_cost
from agent.halo.em import honest_but_fallible
from agent.halo.questions import PERSON, Answer, Question
from agent.teaching import Annotator
from controller.roles import Controller
from ground.errors import UserError

# Of one question. A controller answers for nothing once it is distilled, but a cascade needs something to divide by.
PRICES = {"controller": 0.01, "teacher": 1.0, "truth": 10.0, "person": 10.0}
AUDIT = 0.1  # share of a cascade's questions that go to its dearest member, so that no cheap one judges itself


class Belief(NamedTuple):
    """What learning believes when it asks.

    Attributes:
        options: Posterior at each step that is asked about, [M, K].
        confusion: P(annotator w says y | option j), [W, K, K], rows in the order of the oracle's `annotators`.
    """

    options: NDArray[np.float64]
    confusion: NDArray[np.float64]


class Oracle(Protocol):
    """Whoever answers.

    Attributes:
        annotators: Who speaks through it, W names; one, but for a cascade.
        fallible: Whether an answer may be wrong.
        forgetful: Whether asking again about the same step may bring another answer.
        paid: What it had cost before the first question, in calls of a teacher.
    """

    annotators: tuple[str, ...]
    fallible: bool
    forgetful: bool
    paid: float

    def ask(self, questions: Sequence[Question], belief: Belief) -> list[Answer]:
        """Answers in the order of the questions; fewer where whoever answers has stopped."""
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

    def __init__(self, recording: Recording, options: int, noise: float, seed: int) -> None:
        if (recording.option[recording.acted] < 0).any():
            raise UserError(
                "Nobody knows the true options of these demonstrations.", "--oracle controller, teacher or person"
            )
        self.fallible = self.forgetful = noise > 0
        self.paid = 0.0
        self._option, self._count, self._noise, self._seed = recording.option, options, noise, seed

    def ask(self, questions: Sequence[Question], belief: Belief) -> list[Answer]:
        """One option each, with certainty."""
        answers = []
        for question in questions:
            option = int(self._option[question.trajectory, question.step])
            rng = _drawing(self._seed, question)
            if rng.random() < self._noise:
                option = (option + int(rng.integers(1, self._count))) % self._count
            answers.append(Answer.to(question, "truth", _certain(option, self._count)))
        return answers


class ControllerOracle:
    """A distilled controller: its calibrated distribution among the legal options."""

    annotators: tuple[str, ...] = ("controller",)
    fallible, forgetful = True, False

    def __init__(self, controller: Controller, recording: Recording) -> None:
        self._controller, self._recording = controller, recording
        self.paid = float(controller.facts.get("teacher", {}).get("calls", 0))

    def ask(self, questions: Sequence[Question], belief: Belief) -> list[Answer]:
        """Its distribution, for nothing: what it cost is what distilling it did (`paid`)."""
        start = time.perf_counter()
        obs = _observations(self._recording, questions)
        probs = self._controller.probs(obs, legal=self._controller.task.legal(obs))
        seconds = (time.perf_counter() - start) / max(len(questions), 1)
        return [
            Answer.to(question, "controller", _normalised(row), 0.0, seconds)
            for question, row in zip(questions, probs, strict=True)
        ]

    def everywhere(self) -> NDArray[np.int64]:
        """Its most probable option at every step, [N, T]; padding is option 0."""
        inside = self._recording.inside
        obs = self._recording.obs[inside]
        option = np.zeros(inside.shape, np.int64)
        option[inside], _ = self._controller.label(obs, self._controller.task.legal(obs))
        return option


class TeacherOracle:
    """A language model, or any other teacher that labels scenes; equal scenes are asked once, and cost once."""

    annotators: tuple[str, ...] = ("teacher",)
    fallible, forgetful = True, False

    def __init__(self, annotator: Annotator, recording: Recording) -> None:
        self._annotator, self._recording = annotator, recording
        self.paid = 0.0

    def ask(self, questions: Sequence[Question], belief: Belief) -> list[Answer]:
        """Its distribution, or nothing where it abstained; it costs the calls that were made.

        Raises:
            TeacherError: The model cannot be reached, or the budget of calls is spent.
        """
        start, before = time.perf_counter(), self._annotator.stats.calls
        obs = _observations(self._recording, questions)
        probs, _ = self._annotator.label(obs, np.zeros(len(questions), np.int64))
        cost = (self._annotator.stats.calls - before) / max(len(questions), 1)
        seconds = (time.perf_counter() - start) / max(len(questions), 1)
        return [
            Answer.to(question, "teacher", _normalised(row) if row.any() else (), cost, seconds)
            for question, row in zip(questions, probs, strict=True)
        ]


class Cascade:
    """Several oracles: each question goes to whoever tells most for his price, and some to the dearest as an audit.

    That is the largest I(z; y_w) / price_w (shared/reference/halo.md, section 6.3), with confusion matrices as they
    have been learnt so far. Without the audit a cheap oracle would have nobody to contradict it.

    Args:
        oracles: Of one annotator each, in the order of their prices.
        seed: Draws the audit.
    """

    fallible, forgetful = True, False

    def __init__(self, oracles: Sequence[Oracle], seed: int) -> None:
        self.annotators = tuple(name for oracle in oracles for name in oracle.annotators)
        self.paid = sum(oracle.paid for oracle in oracles)
        self._oracles, self._seed = oracles, seed
        self._prices = np.array([PRICES[name] for name in self.annotators])

    def ask(self, questions: Sequence[Question], belief: Belief) -> list[Answer]:
        """Each question to one of them."""
        worth = information_per_cost(belief.options, belief.confusion, self._prices)  # [W, M]
        chosen = worth.argmax(0)
        audited = [_drawing(self._seed, question).random() < AUDIT for question in questions]
        chosen[audited] = self._prices.argmax()
        answered: dict[int, Answer] = {}
        for w, oracle in enumerate(self._oracles):
            mine = np.flatnonzero(chosen == w)
            if len(mine):
                part = Belief(belief.options[mine], belief.confusion[w : w + 1])
                answered |= dict(zip(mine, oracle.ask([questions[i] for i in mine], part), strict=False))
        return [answered[i] for i in sorted(answered)]


class Person:
    """Somebody who answers when there is time: the questions wait in the run's ledger for `main.py label`."""

    annotators: tuple[str, ...] = (PERSON,)
    fallible, forgetful = False, True
    paid = 0.0

    def ask(self, questions: Sequence[Question], belief: Belief) -> list[Answer]:
        """Nothing yet."""
        return []


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
        UserError: Somebody who is named is not there.
    """
    oracles: list[Oracle] = []
    for name in sorted(names, key=lambda name: PRICES[name]):
        match name:
            case "truth":
                oracles.append(Truth(recording, options, noise, seed))
            case "controller" if controller is not None:
                oracles.append(ControllerOracle(controller, recording))
            case "teacher" if annotator is not None:
                oracles.append(TeacherOracle(annotator, recording))
            case "person":
                oracles.append(Person())
            case _:
                raise UserError(f"There is no {name} to ask.", "--oracle truth")
    return oracles[0] if len(oracles) == 1 else Cascade(oracles, seed)


def at_first(oracle: Oracle, options: int) -> NDArray[np.float64]:
    """What is believed of annotators before they answer, [W, K, K]: they err now and then; truth, never."""
    confusion = honest_but_fallible(len(oracle.annotators), options)
    for w, name in enumerate(oracle.annotators):
        if name == "truth" and len(oracle.annotators) > 1:
            confusion[w] = np.eye(options)
    return confusion


def _drawing(seed: int, question: Question) -> np.random.Generator:
    return np.random.default_rng([seed, question.trajectory, question.step, question.before])


def _observations(recording: Recording, questions: Sequence[Question]) -> NDArray:
    return recording.obs[[q.trajectory for q in questions], [q.step for q in questions]]


def _certain(option: int, options: int) -> tuple[float, ...]:
    return tuple(float(k == option) for k in range(options))


def _normalised(probs: NDArray) -> tuple[float, ...]:
    return tuple((probs / probs.sum(dtype=np.float64)).tolist())
