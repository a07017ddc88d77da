"""A person as HALO's oracle: what the page shows, and what becomes of what is typed there.

Learning and asking go on in a thread beside the person, who need not wait: a round of questions is chosen while the one
before it is being answered, by the rounds before that (`ahead` is 1). So what is asked depends on the seed and on the
answers that stand, never on how long they took, and `train --ahead 1` with an oracle that gives them learns the same.
"""

import threading
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from typing import Any, Literal

from preceptor.agent.halo.acquisition import expected_error
from preceptor.agent.halo.ask import Ask
from preceptor.agent.halo.em import Fit
from preceptor.agent.halo.ledger import PERSON, Answer, Question
from preceptor.agent.labelling.agreement import agreement
from preceptor.agent.labelling.background import Background
from preceptor.agent.labelling.config import LabelConfig
from preceptor.agent.labelling.frames import Frames
from preceptor.agent.labelling.opinions import Opinions
from preceptor.agent.labelling.view import LONGEST, Asked, Interval, about, progress, shown
from preceptor.agent.methods.protocol import Parts
from preceptor.agent.phases import Advance
from preceptor.agent.runs.blame import Weighed
from preceptor.agent.teaching import Labeller
from preceptor.agent.train import Runner
from preceptor.ground.errors import UserError

_AHEAD = 6  # questions that the page knows of before they are asked, for pictures and others' opinions


class Session:
    """One run and the people who answer its questions. Methods may be called from any thread.

    Args:
        config: Who answers where a request gives no name, and whether they read what others have answered again.
        ask: The phase that asks.
        parts: What the runner needs, which keeps and judges what was learnt.
        labellers: Whose opinions are shown.
        elsewhere: Answers that are taken over from another run, each the first time that the same is asked here.
        weights: What a run of hvd found about the demonstrations, or None.
    """

    def __init__(
        self,
        config: LabelConfig,
        ask: Ask,
        parts: Parts,
        labellers: Mapping[str, Labeller],
        elsewhere: list[Answer],
        weights: Weighed | None = None,
    ) -> None:
        self._annotator, self._again = config.annotator, config.again
        self._ask, self._ledger, self._parts = ask, ask.ledger, parts
        self._frames, self._opinions = Frames(ask.task, ask.training), Opinions(ask.training, labellers)
        self.frame = self._frames.get
        self._elsewhere = {(answer.trajectory, answer.step): answer for answer in elsewhere}
        self._weights = weights
        self._lock = threading.RLock()
        self._trouble: str | None = None
        self._found: Fit | None = None  # what was learnt last
        self._looked = -1  # from so many rounds
        self._exhausted = False  # nothing is left to ask
        self._undone = 0  # answers that were taken back: what is being learnt may rest on one
        self._result: dict[str, Any] | None = None
        self._take_over(self._ledger.open)
        self._thread = Background("learning")
        self._thread.submit(self._learn)

    def state(self, who: str | None = None) -> dict[str, Any]:
        """Everything that the page shows, as JSON takes it."""
        who = who or self._annotator
        with self._lock:
            queue, ledger, found = self._queue(who), self._ledger.as_it_stands(), self._found
            at_rest = "finished" if self._again or self._result else "finishing" if self._exhausted else "thinking"
        coming, answers = [(question.trajectory, question.step) for question in queue[:_AHEAD]], ledger.answers
        self._opinions.want(coming)
        mine = [answer for answer in (ledger.readings if self._again else answers) if answer.who == who]
        done = len(mine) if self._again else ledger.asked
        question = shown(self._ask, queue[0], answers, found, self._weights) if queue else None
        return {
            "about": about(self._ask.task),
            "who": who,
            "again": self._again,
            "phase": "asking" if queue else at_rest,
            "trouble": self._trouble or self._opinions.trouble,
            "pictures": self._frames.trouble,
            "question": question and question | {"said": self._opinions.of(coming[0])},
            "next": coming[1:],
            "progress": progress(
                done,
                done + len(queue) if self._again else self._ask.budget,
                [answer.seconds for answer in mine],
                skipped=sum(not answer.report for answer in mine),
                cost=round(ledger.cost(), 2),
                seconds=round(sum(answer.seconds for answer in answers), 1),
                expected_error=found and round(expected_error(found.posterior.gamma, self._ask.training.acted), 4),
            ),
            "result": self._result,
        }

    def answer(
        self, who: str | None, question: Asked, option: int | None, interval: Interval = None, seconds: float = 0.0
    ) -> bool:
        """Keep an answer on the disk; false if this question is answered already.

        It is of the person who started the page if no name is given, an abstention without an option, and speaks of
        the step that was asked about without an interval.

        Raises:
            ValueError: The option is not legal there, the interval lies outside, or a step was answered otherwise.
            UserError: The disk refuses; nothing was kept.
        """
        who, asked = who or self._annotator, Question(*question)
        n, t, _ = asked
        start, stop = interval or (t, t + 1)
        with self._lock:
            if asked not in self._queue(who):
                return False
            legal = self._ask.task.legal(self._ask.training.obs[n, t : t + 1])[0]
            if option is not None and not (option in range(len(legal)) and legal[option]):
                raise ValueError(f"option {option} is not legal at step {t}")
            if not 0 <= start <= t < stop <= self._ask.training.lengths[n]:
                raise ValueError(f"steps {start} to {stop - 1} are not an interval around step {t}")
            report = () if option is None else tuple(float(k == option) for k in range(len(legal)))
            spent = round(min(max(seconds, 0.0), LONGEST), 2)
            answer = Answer(n, t, PERSON, report, start, stop, 1.0, spent, who)
            if self._again:
                self._ledger.read_again(answer)
            else:
                self._refuse_contradiction(answer)
                self._ledger.answer(answer)
        self._thread.submit(self._learn)
        return True

    def undo(self, who: str | None = None) -> bool:
        """Take back a person's last answer; false if none stands. Raises `UserError` if the disk refuses."""
        who = who or self._annotator
        with self._lock:
            if self._again:
                return self._ledger.take_back_reading(who) is not None
            if self._ledger.take_back(who, self._ask.settings.ahead) is None:
                return False
            self._undone += 1
            self._looked = min(self._looked, self._ledger.complete_rounds)
            self._exhausted, self._result = False, None
            (self._ask.run.path / "result.json").unlink(missing_ok=True)  # it rested on that answer
        self._thread.submit(self._learn)
        return True

    def agreement(self) -> list[dict[str, Any]]:
        """How far those who spoke agree: see `preceptor.agent.labelling.agreement`."""
        with self._lock:
            ledger = self._ledger.as_it_stands()
        return agreement(ledger, len(self._ask.task.options), self._opinions)

    def lines(self) -> bytes:
        """The ledger, lines of JSON, as it is on the disk."""
        with self._lock:
            return self._ledger.path.read_bytes()

    def outcome(self) -> dict[str, Any]:
        """What the work came to when the page is closed: the result line of a run whose questions are all answered."""
        head = {"task": self._ask.task.name, "method": "halo", **(self._result or {}), "run": str(self._ask.run.path)}
        return head | {"answered": self._ledger.asked, "budget": self._ask.budget, "open": len(self._ledger.open)}

    def close(self) -> None:
        """End the threads at once; what is being learnt is thrown away, and learnt again next time."""
        self._thread.close()
        self._frames.close()
        self._opinions.close()

    def _queue(self, who: str) -> list[Question]:
        """The questions for a person, the next one first."""
        ledger, waiting = self._ledger, self._ledger.open
        if not self._again:
            return waiting
        said = {(one.trajectory, one.step) for one in (*ledger.readings, *ledger.answers) if one.who == who}
        every = (question for questions in ledger.rounds for question in questions)
        return [question for question in every if question not in waiting and question[:2] not in said]

    def _refuse_contradiction(self, answer: Answer) -> None:
        """Where answers are law, two about one step that differ leave nothing to learn: an interval said too much."""
        for other in self._ledger.answers if self._ask.halo.confusion is None and answer.report else ():
            shared = range(max(answer.start, other.start), min(answer.stop, other.stop))
            if other.trajectory == answer.trajectory and shared and other.report not in ((), answer.report):
                both = f"steps {shared[0]} to {shared[-1]}"
                raise ValueError(f"{both} were answered otherwise: mark less, skip, or take that back")

    def _learn(self) -> None:
        """Learn and ask until nothing is due; what fails is tried again after the next answer, which may mend it."""
        self._trouble = None
        try:
            while self._advance():
                pass
        except CancelledError:  # `undo` has called for more
            pass
        except UserError as error:
            self._trouble = str(error)
        except Exception as error:  # the person goes on answering, and reads what happened
            traceback.print_exc()
            self._trouble = str(UserError(f"Learning failed: {error!r}.", "go on; answers are kept"))

    def _advance(self) -> bool:
        """Do what is due, on the ledger as it is now; false if nothing is."""
        with self._lock:
            (due, rounds), still, undone = self._due(), self._ask.as_it_stands(), self._undone

        def require() -> None:
            if self._thread.closing or undone != self._undone:  # an answer was taken back on which this rests
                raise CancelledError

        if due is None:
            return False
        still.on_step = require
        found = still.learn(rounds)
        with self._lock:
            require()
            self._found, self._looked = found, rounds
        if due == "look":
            return True
        runner, news = Runner(self._parts, still), still.news(found, rounds)
        runner.facts["seconds"] = still.seconds
        if due == "choose":
            if news is not None:
                runner.keep(news)
            chosen = still.choose(found)
            with self._lock:
                require()
                if chosen:
                    self._ledger.ask(chosen)
                    self._take_over(chosen)
                self._exhausted = not chosen
            return True
        runner.keep(news or Advance(still.ledger.asked, {}))  # without news, too: an answer may have been replaced
        still.end()
        result = runner.finish()
        with self._lock:
            require()
            self._result = result
        return True

    def _due(self) -> tuple[Literal["choose", "finish", "look"] | None, int]:
        """What is to be done next, and from how many rounds; to look is to learn only for what the page shows."""
        rounds, complete, basis = len(self._ledger.rounds), self._ledger.complete_rounds, self._ask.basis
        if not self._again and not self._exhausted and complete >= basis:
            return "choose", basis
        if self._exhausted and complete == rounds and self._result is None:
            return "finish", rounds
        return ("look" if self._looked < complete else None), complete

    def _take_over(self, questions: Sequence[Question]) -> None:
        """Answer what was answered elsewhere, once: a question that is opened again is the person's."""
        for question in questions:
            if (answer := self._elsewhere.pop(question[:2], None)) is not None:
                self._ledger.answer(answer)
