"""A teacher in the loop: whom sessions ask, that want it, where the controller is not sure which option to choose.

A teacher belongs to an agent and has a thread of its own, in which it is made and asked, with what several sessions ask
at once taken together. A session waits for it a bounded time; the worker and all other sessions go on. Its answers
go into a label store beside the agent's run, from which they are had again, and which counts for the budget.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.envs.task import Scene, Task
from preceptor.ground.errors import UserError
from preceptor.serving.config import FallbackConfig
from preceptor.serving.policy.agents import Agents, Playing
from preceptor.serving.policy.learning import Learning
from preceptor.serving.policy.measured import Measured
from preceptor.teacher.base import UNAVAILABLE, BudgetExhausted, Label, Teacher
from preceptor.teacher.config import TeacherConfig
from preceptor.teacher.labels import LabelStore
from preceptor.teacher.make import asking_of, make_teacher

TAKEN = "teacher"  # what the answer says where its choice was taken
ASKED = "asked.sqlite"  # the label store in the folder of the run, or of the export
_AGAIN_SECONDS = 10.0  # after which a teacher that could not be had is tried again
_log = logging.getLogger("preceptor.policy")


@dataclass(frozen=True)
class Doubt:
    """A step that was not taken, since the controller is not sure.

    Attributes:
        playing: Whose step.
        rows: bool [N], the environments in doubt.
        scenes: What is there, of each of them.
        obs: Likewise, as it was observed.
        previous: Likewise, the option that ran before, -1 for none.
    """

    playing: Playing
    rows: NDArray[np.bool_]
    scenes: list[Scene]
    obs: NDArray[Any]
    previous: NDArray[np.int64]


@dataclass(frozen=True)
class Advice:
    """What came of a doubt.

    Attributes:
        probs: [N, K] from which options are to be chosen; zeros where the controller acts.
        said: Of each environment, what the answer says of it.
    """

    probs: NDArray[np.float32]
    said: list[str]


class Fallback:
    """The teachers of a server's agents.

    Args:
        config: Who is asked, how long is waited, and whether agents learn from the answers.
        measured: What is counted.
        agents: What is served.
        played: The versions of agents that sessions play.
    """

    def __init__(
        self, config: FallbackConfig, measured: Measured, agents: Agents, played: Callable[[], set[str]]
    ) -> None:
        self.offered = config.teacher != "none"
        self._config, self._measured, self._desks = config, measured, dict[Path, _Desk]()
        self._learning = Learning(agents, measured, config, played) if config.learn else None

    async def advise(self, doubt: Doubt) -> Advice:
        """Ask the teacher, and wait a bounded time; in the event loop. Never fails: the controller can act."""
        name, count = doubt.playing.name, len(doubt.scenes)
        answers: list[Label | str] = ["this server has no teacher"] * count
        if self.offered:
            desk = self._desk(doubt.playing)
            answers = ["the teacher is late"] * count
            if not desk.late:  # else each step would wait in vain
                asked = desk.ask(doubt)
                with contextlib.suppress(TimeoutError):
                    answers = await asyncio.wait_for(asyncio.wrap_future(asked), self._config.teacher_seconds)
        probs, said = np.zeros((len(doubt.rows), len(doubt.playing.task.options)), np.float32), [""] * len(doubt.rows)
        for row, answer in zip(np.flatnonzero(doubt.rows).tolist(), answers, strict=True):
            if isinstance(answer, Label) and not answer.abstained:
                probs[row], said[row] = answer.probs, TAKEN
            else:
                said[row] = "the teacher abstains" if isinstance(answer, Label) else answer
            self._measured.advice.labels(name, said[row].partition(":")[0]).inc()
        for of, value in (self.spent(doubt.playing) or {}).items():
            self._measured.teacher.labels(name, of).set(value)
        return Advice(probs, said)

    def spent(self, playing: Playing) -> dict[str, float] | None:
        """What an agent's teacher has cost; None if it was not asked.

        Calls and tokens are those of the budget, probes and earlier servers included; the rest is of this server.
        """
        desk = self._desks.get(playing.run)
        return None if desk is None or desk.teacher is None else _cost(desk.teacher, self._config)

    def end(self) -> None:
        """Ask nothing more."""
        for desk in self._desks.values():
            desk.end()
        if self._learning is not None:
            self._learning.end()

    def _desk(self, playing: Playing) -> "_Desk":
        if playing.run not in self._desks:
            self._desks[playing.run] = _Desk(self._config, playing.task, playing.run / ASKED, self._learning)
        return self._desks[playing.run]


def _cost(teacher: Teacher, config: FallbackConfig) -> dict[str, float]:
    stats = teacher.stats
    sent, tokens = stats.extra.get("calls_sent", stats.calls), stats.extra.get("tokens_spent", stats.tokens)
    told: dict[str, float] = {"queries": stats.queries, "calls": sent, "tokens": tokens}  # as the budget counts them
    prices = {"tokens_in": config.usd_per_million_in, "tokens_out": config.usd_per_million_out}
    if any(price is not None for price in prices.values()):
        told["usd"] = sum(stats.extra.get(of, 0.0) * (price or 0.0) for of, price in prices.items()) / 1e6
    return told


class _Desk:
    """One agent's teacher, in a thread.

    Attributes:
        teacher: None before it could be had.
        store: Where its answers are kept.
    """

    def __init__(self, config: FallbackConfig, task: Task, store: Path, learning: Learning | None) -> None:
        self.teacher: Teacher | None = None
        self._learning = learning
        self._task, self.store, self._down, self._seconds = task, store, ("", 0.0), config.teacher_seconds
        self._since: float | None = None  # when it began what it works on
        self._config = TeacherConfig(
            config.teacher,
            base_url=config.base_url,
            model=config.teacher_model,
            max_llm_calls=config.max_llm_calls,
            max_llm_tokens=config.max_llm_tokens,
            on_teacher_failure="controller",
        )
        self._queue: SimpleQueue[tuple[Doubt, Future[list[Label | str]]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="teacher", daemon=True)
        self._thread.start()

    @property
    def late(self) -> bool:
        """Whether it works on something for longer than anybody waits."""
        return (since := self._since) is not None and monotonic() > since + self._seconds

    def ask(self, doubt: Doubt) -> "Future[list[Label | str]]":
        """A label of each scene, or why there is none; to be cancelled by who does not wait any more."""
        future: Future[list[Label | str]] = Future()
        self._queue.put((doubt, future))
        return future

    def end(self) -> None:
        """Ask nothing more; what is on its way is not waited for."""
        self._queue.put(None)
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            asks = [first]
            with contextlib.suppress(Empty):
                while (more := self._queue.get_nowait()) is not None:
                    asks.append(more)
                self._queue.put(None)
            self._since = monotonic()
            asks = [(doubt, future) for doubt, future in asks if future.set_running_or_notify_cancel()]
            answers = iter(self._answers([scene for doubt, _ in asks for scene in doubt.scenes]))
            for doubt, future in asks:
                labels = [next(answers) for _ in doubt.scenes]
                future.set_result(labels)
                if self._learning is not None:
                    self._learning.keep(doubt.playing, doubt.obs, doubt.previous, labels)
            self._since = None

    def _answers(self, scenes: list[Scene]) -> "list[Label | str]":
        why, until = self._down
        if scenes and monotonic() >= until:
            try:
                self.teacher = self.teacher or self._made()
                labels = self.teacher.label(scenes)
                if asking := asking_of(self.teacher):
                    asking.forget(scenes)
                down = "the teacher is down: its server does not answer"
                return [down if label.method == UNAVAILABLE else label for label in labels]
            except BudgetExhausted as error:
                why = f"the budget is spent: {error.what}"
            except Exception as error:  # whatever it is, controllers act, and it is tried again
                why = f"the teacher is down: {error.what if isinstance(error, UserError) else error!r}"
                _log.warning("the teacher is down", extra={"why": str(error)})
                self._down = why, monotonic() + _AGAIN_SECONDS
        return [why] * len(scenes)

    def _made(self) -> Teacher:
        made = make_teacher(self._config, self._task, LabelStore(self.store, own=True))
        assert made is not None, "only where one is offered"
        return made
