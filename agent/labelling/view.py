"""What the page shows: the options, a question with all that is known about it, and how far the work is."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from preceptor.agent.halo.ask import Ask
from preceptor.agent.halo.em import Fit
from preceptor.agent.halo.ledger import Answer, Question, told
from preceptor.agent.halo.posterior import Floats, infer
from preceptor.agent.runs.blame import Weighed
from preceptor.envs.task import Task

KEYS = "1234567890bcdefghijklmnopqrtvwxyz"  # of options, in their order; a, s and u mean something else
LONGEST = 600.0  # seconds that one answer may count for: beyond, the person was away
Asked = tuple[int, int, int]  # trajectory, step, and how often that was asked before
Interval = tuple[int, int] | None  # the first step that an answer speaks of, and the one behind the last
_RECENT = 20  # answers that tell how fast a person is


def about(task: Task, work: str = "") -> dict[str, Any]:
    """The task, what is done with it, and its options."""
    options = [{"id": o.id, "words": o.words, "key": k} for o, k in zip(task.options, KEYS, strict=False)]
    return {"task": task.name + work, "goal": task.goal, "options": options}


def progress(answered: int, budget: int, mine: Sequence[float], **more: Any) -> dict[str, Any]:
    """How far the work is, and how fast a person answers, who took so many seconds for each answer."""
    counted = [spent for spent in mine[-_RECENT:] if spent > 0]
    each = median(counted) if counted else None
    start = {"answered": answered, "budget": budget, "mine": len(mine), "per_minute": None, "seconds_left": None}
    pace = {"per_minute": round(60 / each, 1), "seconds_left": round((budget - answered) * each)} if each else {}
    return start | pace | more


def suggested(probs: Sequence[float] | Floats) -> dict[str, Any]:
    """The likeliest option of a distribution [K], and how likely it is."""
    best = int(np.argmax(probs))
    return {"option": best, "probability": round(float(probs[best]), 3)}


def shown(
    ask: Ask, asked: Question, answers: Sequence[Answer], found: Fit | None, weights: Weighed | None = None
) -> dict[str, Any]:
    """A question, its scenes in words, what was answered about its demonstration, what is believed of it (nothing
    before something was found), the suggestion, and where given the rank of each action group's weight at each step."""
    n, t = asked.trajectory, asked.step
    said = [answer for answer in answers if answer.trajectory == n]
    obs = ask.training.obs[n, : ask.training.lengths[n]]
    legal, timeline = ask.task.legal(obs[t : t + 1])[0], None if found is None else believed(ask, n, said, found)
    return {
        "trajectory": n,
        "step": t,
        "before": asked.before,
        "length": len(obs),
        "ask": f"Which option drove step {t}?",
        "legal": legal.tolist(),
        "words": [scene.text for scene in ask.task.describe(obs)],
        "timeline": None if timeline is None else timeline.round(3).tolist(),
        "suggestion": None if timeline is None else suggested(np.where(legal, timeline[t], -1.0)),
        "groups": []
        if weights is None
        else [[name, weights.rank[n, : len(obs) - 1, g].round(2).tolist()] for g, name in enumerate(weights.names)],
        "answers": [[a.start, a.stop, int(np.argmax(a.report)) if a.report else -1] for a in said],
    }


def believed(ask: Ask, n: int, said: Sequence[Answer], found: Fit) -> Floats:
    """The posterior over the options of a demonstration [L, K], given all that was said of it.

    The policies are those that were learnt last: new answers reach them with the next round.
    """
    alone, length = ask.halo.demos[n : n + 1], int(ask.training.lengths[n])
    answers = told(said, ask.oracle.annotators, len(ask.task.options))
    answers = answers._replace(trajectory=np.zeros_like(answers.trajectory))
    posterior = infer(found.policies.chain(alone).given(answers.evidence(alone.acted.shape, found.confusion)))
    if np.isneginf(posterior.log_z).any():  # some restart holds what was said for impossible; the next fit will not
        return found.posterior.gamma[:, n, :length].mean(0)
    return posterior.gamma[:, 0, :length].mean(0)
