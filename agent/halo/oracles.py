"""Who answers questions about demonstrations: annotators, and the oracle that asks the right one of them.

An annotator has a `name`, says of itself whether an answer may be wrong (`fallible`), whether asking again about a step
may bring another (`varies`) and what it had cost before the first question, in calls of a teacher (`cost_before`); and
it answers, `ask(questions) -> answers`, in their order, and fewer where it has stopped. It sees what the agent saw,
never which option was due; `Truth` alone knows that, from the recording.
"""

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.data.recording import Recording
from preceptor.agent.halo.config import PRICES
from preceptor.agent.halo.em import honest_but_fallible
from preceptor.agent.halo.ledger import PERSON, Answer, Question
from preceptor.agent.halo.posterior import Floats, Ints
from preceptor.agent.teaching import Annotator, ControllerLabels, Labeller
from preceptor.controller.roles import Controller
from preceptor.ground.errors import UserError

AUDIT = 0.1  # share of a cascade's questions that go to its most expensive member: no cheap one judges itself


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

    name, cost_before = "truth", 0.0

    def __init__(self, recording: Recording, options: int, noise: float, seed: int) -> None:
        if (recording.option[recording.acted] < 0).any():
            raise UserError(
                "These demonstrations do not tell their true options.", "--oracle controller, teacher or person"
            )
        self.fallible = self.varies = noise > 0
        self._option, self._count, self._noise, self._seed = recording.option, options, noise, seed

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
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

    Each answer of a controller is free; what distilling it has cost stands before them.

    Args:
        name: Of the annotator, one of `PRICES`.
        labeller: Labels observations; it asks its teacher once about equal scenes, and counts the calls.
        recording: The demonstrations.
    """

    fallible, varies = True, False

    def __init__(self, name: str, labeller: Labeller, recording: Recording) -> None:
        self.name = name
        self.cost_before = float(labeller.stats.calls) if isinstance(labeller, ControllerLabels) else 0.0
        self._labeller, self._recording = labeller, recording

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
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
            Answer.to(question, self.name, report, cost, seconds)
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


class Person:
    """A person, who answers when there is time: the questions wait in the run's ledger for `main.py label`."""

    name, fallible, varies, cost_before = PERSON, False, True, 0.0

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Nothing yet."""
        return []


Member = Truth | LabellerOracle | Person


class Oracle:
    """One annotator, or a cascade of several, in the order of their prices.

    Args:
        members: Of different names.
        seed: Draws the audit.

    Attributes:
        annotators: Their names, [W].
        fallible: Whether an answer may be wrong.
        varies: Whether asking again about the same step may bring another answer.
        cost_before: What they had cost before the first question, in calls of a teacher.
    """

    def __init__(self, members: Sequence[Member], seed: int = 0) -> None:
        self.members, self._seed = members, seed
        self.annotators = tuple(member.name for member in members)
        self.fallible = len(members) > 1 or members[0].fallible
        self.varies = len(members) == 1 and members[0].varies
        self.cost_before = sum(member.cost_before for member in members)

    def ask(self, questions: Sequence[Question], information: Floats) -> list[Answer]:
        """Answers in the order of the questions, each of the annotator that tells most for its price.

        Some questions go to the most expensive one as an audit: otherwise no answer would contradict a cheap one.

        Args:
            questions: M of them.
            information: I(z; y_w) in nats of each annotator's answer to each question, as is believed now, [W, M].
        """
        prices = np.array([PRICES[name] for name in self.annotators])
        chosen = (information / prices[:, None]).argmax(0)
        audited = [_drawing(self._seed, question).random() < AUDIT for question in questions]
        chosen[audited] = prices.argmax()
        answered: dict[int, Answer] = {}
        for w, member in enumerate(self.members):
            mine = np.flatnonzero(chosen == w)
            if len(mine):
                answered |= dict(zip(mine, member.ask([questions[i] for i in mine]), strict=False))
        return [answered[i] for i in sorted(answered)]

    def at_first(self, options: int) -> Floats:
        """Confusion matrices [W, K, K] before any answer: all err now and then, but a cascade's truth, unless noisy."""
        confusion = honest_but_fallible(len(self.members), options)
        if len(self.members) > 1:
            confusion[[isinstance(member, Truth) and not member.fallible for member in self.members]] = np.eye(options)
        return confusion


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
    """The oracle of annotators by name, of `PRICES`; the controller or the annotator, who is the teacher, as given.

    `noise` is that of the truth; the seed draws it, and a cascade's audit.

    Raises:
        UserError: An oracle that is named is not given, or the truth is not known.
    """
    members: list[Member] = []
    for name in sorted(names, key=lambda name: PRICES[name]):
        match name:
            case "truth":
                members.append(Truth(recording, options, noise, seed))
            case "controller" if controller is not None:
                members.append(LabellerOracle(name, ControllerLabels(controller), recording))
            case "teacher" if annotator is not None:
                members.append(LabellerOracle(name, annotator, recording))
            case "person":
                members.append(Person())
            case _:
                raise UserError(f"There is no {name} to ask.", "--oracle truth")
    return Oracle(members, seed)


def _drawing(seed: int, question: Question) -> np.random.Generator:
    return np.random.default_rng([seed, *question])
