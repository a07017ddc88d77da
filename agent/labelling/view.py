"""What the page shows of a run: a question with all that is known about it, and how far the work is."""

from collections.abc import Sequence
from functools import lru_cache
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.halo.acquisition import expected_error
from agent.halo.ask import Ask
from agent.halo.em import Fit
from agent.halo.ledger import Answer, Ledger, Question, told
from agent.halo.posterior import Floats, infer
from agent.labelling.opinions import Opinions
from envs.task import Task

KEYS = "1234567890bcdefghijklmnopqrtvwxyz"  # of options, in their order; a, s and u mean something else
LONGEST = 600.0  # seconds that one answer may count for: beyond, the person was away
_RECENT = 20  # answers that tell how fast a person is


def about(task: Task, title: str) -> dict[str, Any]:
    """The task and its options, which never change."""
    options = [{"id": o.id, "words": o.words, "key": k} for o, k in zip(task.options, KEYS, strict=False)]
    return {"task": title, "goal": task.goal, "options": options}


def pace(seconds: Sequence[float], left: int) -> dict[str, float | None]:
    """How fast a person answers, who took so many seconds for each answer, and how long what is left will take."""
    counted = [spent for spent in seconds[-_RECENT:] if spent > 0]
    each = median(counted) if counted else None
    return {"per_minute": round(60 / each, 1) if each else None, "seconds_left": round(left * each) if each else None}


class View:
    """Reads, and changes nothing.

    Args:
        ask: The run.
        opinions: What others say.
    """

    def __init__(self, ask: Ask, opinions: Opinions) -> None:
        self._task, self._recording = ask.task, ask.training
        self._halo, self._budget = ask.halo, ask.budget
        self._annotators = ask.oracle.annotators
        self._opinions = opinions
        self._found: Fit | None = None
        self._expected: float | None = None
        self.legal = lru_cache(maxsize=256)(self._legal)
        self._words = lru_cache(maxsize=256)(self._scene_words)

    def show(self, found: Fit) -> None:
        """What was learnt last."""
        self._found, self._expected = found, expected_error(found.posterior.gamma, self._recording.acted)

    def question(self, asked: Question, ledger: Ledger) -> dict[str, Any]:
        """A question with the posterior over its demonstration, the suggestion, and what others say."""
        n, t = asked.trajectory, asked.step
        about = [answer for answer in ledger.answers if answer.trajectory == n]
        timeline, legal = self._timeline(n, about), self.legal(n)[t]
        shown: dict[str, Any] = {
            "trajectory": n,
            "step": t,
            "before": asked.before,
            "length": int(self._recording.lengths[n]),
            "ask": f"Which option drove step {t}?",
            "legal": legal.tolist(),
            "words": self._words(n),
            "timeline": None if timeline is None else timeline.round(3).tolist(),
            "suggestion": None,
            "said": self._opinions.of((n, t)),
            "answers": [[a.start, a.stop, int(np.argmax(a.report)) if a.report else -1] for a in about],
        }
        if timeline is not None:
            option = int(np.where(legal, timeline[t], -1.0).argmax())
            shown["suggestion"] = {"option": option, "probability": round(float(timeline[t, option]), 3)}
        return shown

    def progress(self, ledger: Ledger, who: str, left: int, again: bool) -> dict[str, Any]:
        """How far the work is, how fast it goes, and what is expected to be wrong still."""
        mine = [answer for answer in (ledger.readings if again else ledger.answers) if answer.who == who]
        done = len(mine) if again else ledger.asked
        budget = done + left if again else self._budget
        return {
            "answered": done,
            "budget": budget,
            "mine": len(mine),
            "skipped": sum(not answer.report for answer in mine),
            "cost": round(ledger.cost(), 2),
            "seconds": round(sum(answer.seconds for answer in ledger.answers), 1),
            **pace([answer.seconds for answer in mine], budget - done),
            "expected_error": None if self._expected is None else round(self._expected, 4),
            "steps": int(self._recording.acted.sum()),
        }

    def _timeline(self, n: int, about: list[Answer]) -> Floats | None:
        """The posterior over the options of a demonstration [L, K], with what was said of it since; None before any.

        The policies are those that were learnt last: new answers reach them with the next round.
        """
        found, length = self._found, int(self._recording.lengths[n])
        if found is None:
            return None
        alone = self._halo.demos[n : n + 1]
        answers = told(about, self._annotators, len(self._task.options))
        answers = answers._replace(trajectory=np.zeros_like(answers.trajectory))
        evidence = answers.evidence(alone.acted.shape, found.confusion)
        posterior = infer(found.policies.chain(alone).given(evidence))
        if np.isneginf(posterior.log_z).any():  # some restart holds what was said for impossible; the next fit will not
            return found.posterior.gamma[:, n, :length].mean(0)
        return posterior.gamma[:, 0, :length].mean(0)

    def _legal(self, n: int) -> NDArray[np.bool_]:
        return self._task.legal(self._observations(n))

    def _scene_words(self, n: int) -> list[str]:
        return [scene.text for scene in self._task.describe(self._observations(n))]

    def _observations(self, n: int) -> NDArray:
        return self._recording.obs[n, : self._recording.lengths[n]]
