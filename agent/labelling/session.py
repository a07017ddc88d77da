"""A person as HALO's oracle: what the page shows, and what becomes of what is typed there.

Learning and asking go on in a thread beside the person. So that the person need not wait, a round of questions is
chosen while the one before it is being answered (`ahead` is 1): round r rests on the answers of the
rounds before r - 1. A person who is faster than learning sees that it thinks. So what is asked depends on the seed and
on the answers that stand, never on how long they took, and `train --ahead 1` with an oracle that gives the same answers
asks the same questions and learns the same.
"""

import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from agent.halo.ask import Ask
from agent.halo.ledger import PERSON, Answer, Question
from agent.labelling.agreement import agreement
from agent.labelling.background import Background
from agent.labelling.frames import Frames
from agent.labelling.opinions import Opinions
from agent.labelling.view import LONGEST, View, about
from agent.phases import Advance
from agent.train import Runner
from ground.errors import UserError

_AHEAD = 6  # questions whose pictures are drawn, and others' opinions fetched, before they are asked


class _OutdatedError(Exception):
    """What is being learnt rests on an answer that was taken back, or the page is being closed."""


class Session(Background[Callable[[], None]]):
    """One run and the people who answer its questions. Methods may be called from any thread.

    Args:
        ask: The phase that asks.
        runner: Keeps what a phase has learned, and judges it.
        frames: Pictures of its demonstrations.
        annotator: Who answers where a request gives no name.
        opinions: What others say, which is shown; the session closes it.
        again: Offer questions that others have answered instead of open ones.
        taken_along: Answers from elsewhere, each for the first time that the same is asked here.
    """

    def __init__(
        self,
        ask: Ask,
        runner: Callable[[Ask], Runner],
        frames: Frames,
        annotator: str,
        opinions: Opinions,
        again: bool = False,
        taken_along: Sequence[Answer] = (),
    ) -> None:
        self.annotator, self.again = annotator, again
        self._ask, self._runner, self._frames, self._opinions = ask, runner, frames, opinions
        self._ledger = ask.ledger
        self._view = View(ask, opinions)
        self._taken_along = {(answer.trajectory, answer.step): answer for answer in taken_along}
        self._undone = 0  # answers that were taken back: what is being learnt may rest on one
        self._exhausted: tuple[int, int] | None = None  # rounds and `_undone` when there was nothing left to ask
        self._looked = -1  # rounds that the view has learnt from
        self.result: dict[str, Any] | None = None
        super().__init__("learning")

    # --- what the page asks for ---------------------------------------------------------------------------------

    def state(self, who: str | None = None) -> dict[str, Any]:
        """Everything that the page shows, as JSON takes it."""
        who = who or self.annotator
        with self._change:
            queue, ledger = self._queue(who), self._ledger.as_it_stands()
            phase = self._phase(queue)
        coming = [(question.trajectory, question.step) for question in queue[:_AHEAD]]
        self._frames.want(coming)
        self._opinions.want(coming)
        return {
            "who": who,
            "again": self.again,
            "phase": phase,
            "trouble": self.trouble or self._opinions.trouble,
            "pictures": self._frames.trouble,
            "question": self._view.question(queue[0], ledger) if queue else None,
            "next": [[question.trajectory, question.step] for question in queue[1:_AHEAD]],
            "progress": self._view.progress(ledger, who, len(queue), self.again),
            "result": self.result,
        }

    def about(self) -> dict[str, Any]:
        """The task and its options, which never change."""
        return about(self._ask.task, self._ask.task.name)

    def frame(self, trajectory: int, step: int) -> bytes | None:
        """The picture of a step as PNG; None while it is being drawn, and if there is no such step."""
        return self._frames.get(trajectory, step)

    def agreement(self) -> list[dict[str, Any]]:
        """How far those who spoke agree: see `agent.labelling.agreement`."""
        with self._change:
            ledger = self._ledger.as_it_stands()
        return agreement(ledger, len(self._ask.task.options), self._opinions)

    def lines(self) -> bytes:
        """The ledger, lines of JSON, as it is on the disk."""
        with self._change:
            return self._ledger.path.read_bytes()

    def answer(
        self,
        who: str | None,
        question: tuple[int, int, int],
        option: int | None,
        start: int | None = None,
        stop: int | None = None,
        seconds: float = 0.0,
    ) -> bool:
        """Keep an answer on the disk; false if this question is answered already.

        Args:
            who: The person; `annotator` if None.
            question: Trajectory, step, and how often that was asked before.
            option: Index of the option; None for an abstention.
            start: First step that it speaks of; the question's own if None.
            stop: The step behind the last.
            seconds: How long the person took.

        Raises:
            ValueError: The option is not legal there, the interval lies outside, or a step was answered otherwise.
            UserError: The disk refuses; nothing was kept.
        """
        who, asked = who or self.annotator, Question(*question)
        with self._change:
            if asked not in self._queue(who):
                return False
            report = self._report(asked, option)
            start = asked.step if start is None else start
            stop = asked.step + 1 if stop is None else stop
            if not 0 <= start <= asked.step < stop <= self._ask.training.lengths[asked.trajectory]:
                raise ValueError(f"steps {start} to {stop - 1} are not an interval around step {asked.step}")
            self._refuse_contradiction(asked.trajectory, start, stop, report)
            spent = min(max(float(seconds), 0.0), LONGEST)
            answer = Answer(asked.trajectory, asked.step, PERSON, report, start, stop, 1.0, round(spent, 2), who)
            if self.again:
                self._ledger.read_again(answer)
            else:
                self._ledger.answer(answer)
            self._stir()
        return True

    def undo(self, who: str | None = None) -> bool:
        """Take back a person's last answer; false if none stands. Raises `UserError` if the disk refuses."""
        who = who or self.annotator
        with self._change:
            if self.again:
                return self._ledger.take_back_reading(who) is not None
            taken = self._ledger.take_back(who, self._ask.settings.ahead)
            if taken is not None:
                self._undone += 1
                self._looked = min(self._looked, self._ledger.complete_rounds)
                self.result = None
                (self._ask.run.path / "result.json").unlink(missing_ok=True)  # it rested on that answer
                self._stir()
            return taken is not None

    def outcome(self) -> dict[str, Any]:
        """What the work came to when the page is closed: the result line of a run whose questions are all answered."""
        with self._change:
            counted = {"answered": self._ledger.asked, "budget": self._ask.budget, "open": len(self._ledger.open)}
            head = {"task": self._ask.task.name, "method": "halo"}
            return head | (self.result or {}) | {"run": str(self._ask.run.path)} | counted

    def close(self, patience: float | None = None) -> None:
        """End the threads at once; what is being learnt is thrown away, and learnt again next time."""
        super().close(patience)
        self._frames.close()
        self._opinions.close()

    # --- what goes on beside ------------------------------------------------------------------------------------

    def _queue(self, who: str) -> list[Question]:
        """The questions for a person, the next one first."""
        if not self.again:
            return self._ledger.open
        ledger = self._ledger
        said = {(one.trajectory, one.step) for one in (*ledger.readings, *ledger.answers) if one.who == who}
        every, waiting = (question for questions in ledger.rounds for question in questions), set(ledger.open)
        return [question for question in every if question not in waiting and question[:2] not in said]

    def _report(self, asked: Question, option: int | None) -> tuple[float, ...]:
        if option is None:
            return ()
        options = len(self._ask.task.options)
        if option not in range(options) or not self._view.legal(asked.trajectory)[asked.step][option]:
            raise ValueError(f"option {option} is not legal at step {asked.step}")
        return tuple(float(k == option) for k in range(options))

    def _refuse_contradiction(self, trajectory: int, start: int, stop: int, report: tuple[float, ...]) -> None:
        """Where answers are law, two about one step that differ leave nothing to learn: an interval said too much."""
        if self.again or self._ask.halo.confusion is not None or not report:
            return
        for other in self._ledger.answers:
            shared = range(max(start, other.start), min(stop, other.stop))
            if other.trajectory == trajectory and shared and other.report and other.report != report:
                raise ValueError(
                    f"steps {shared[0]} to {shared[-1]} were answered otherwise: mark less, skip, or take that back"
                )

    def _phase(self, queue: list[Question]) -> str:
        """asking, thinking (about the next questions), finishing, or finished."""
        if queue:
            return "asking"
        if self.again or self.result is not None:
            return "finished"
        return "finishing" if self._exhausted == (len(self._ledger.rounds), self._undone) else "thinking"

    def _stir(self) -> None:
        """Something has changed: trouble may be over."""
        self.trouble = None
        self._change.notify_all()

    def _do(self, job: Callable[[], None]) -> None:
        try:
            job()
        except _OutdatedError:
            return
        except UserError:
            raise
        except Exception as error:  # the person goes on answering, and reads what happened
            traceback.print_exc(file=sys.stderr)
            raise UserError(f"Learning failed: {error!r}.", "go on; answers are kept") from error

    def _go_on(self, undone: int) -> None:
        """Whether what is being learnt is still wanted."""
        if self._closing or undone != self._undone:
            raise _OutdatedError

    def _take_over(self) -> None:
        """Answer what was answered elsewhere; a question that is opened again is the person's."""
        for question in self._ledger.open if self._taken_along else []:
            place = (question.trajectory, question.step)
            if place in self._taken_along:
                self._ledger.answer(self._taken_along[place])
                del self._taken_along[place]

    def _job(self) -> Callable[[], None] | None:
        """What is to be done next, if anything; it works on the ledger as it is now."""
        try:
            self._take_over()
        except UserError as error:
            self.trouble = str(error)
        job = None if self.trouble else self._due()
        if job is None:
            return None
        still, undone = self._ask.as_it_stands(), self._undone
        still.on_step = partial(self._go_on, undone)
        return partial(job, still, undone)

    def _due(self) -> Callable[[Ask, int], None] | None:
        rounds, complete = len(self._ledger.rounds), self._ledger.complete_rounds
        if not self.again:
            exhausted = self._exhausted == (rounds, self._undone)
            if not exhausted and complete >= self._ask.basis:
                return self._choose
            if exhausted and not self._ledger.open and self.result is None:
                return self._finish
        return self._look if self._looked < complete else None

    def _choose(self, still: Ask, undone: int) -> None:
        """Learn, and ask the next round; thrown away if an answer was taken back meanwhile."""
        found = still.learn(still.basis)
        with self._change:
            if undone != self._undone:
                return
            self._shown(found, still.basis)
        if (news := still.news(found, still.basis)) is not None:
            self._runner(still).keep(news)
        chosen = still.choose(found)
        with self._change:
            if undone != self._undone:
                return
            if chosen:
                self._ledger.ask(chosen)
            else:
                self._exhausted = (len(self._ledger.rounds), undone)

    def _look(self, still: Ask, undone: int) -> None:
        """Learn what the page shows, where no choice rests on it."""
        rounds = still.ledger.complete_rounds
        self._shown(still.learn(rounds), rounds)

    def _finish(self, still: Ask, undone: int) -> None:
        """Judge what was learnt from all answers."""
        rounds, runner = len(still.ledger.rounds), self._runner(still)
        found = still.learn(rounds)
        self._shown(found, rounds)
        runner.keep(still.news(found, rounds) or Advance(still.ledger.asked, {}))  # an answer may have been replaced
        still.end()
        result = runner.finish()
        with self._change:
            if undone == self._undone:
                self.result = result

    def _shown(self, found: Any, rounds: int) -> None:
        self._view.show(found)
        self._looked = rounds
