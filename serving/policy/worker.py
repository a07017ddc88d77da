"""The thread in which agents play: it takes what has come in meanwhile, and plays together what can be.

While it plays, the event loop goes on reading, so that under load batches fill by themselves; for those that are about
to come, of as many as came last, it waits a bounded time. What a session does never depends on who is in the batch.
"""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from preceptor.agent.acting import Ahead, Decision
from preceptor.agent.remote.wire import packed
from preceptor.serving.policy.agents import Agents
from preceptor.serving.policy.fallback import Advice, Doubt
from preceptor.serving.policy.measured import Measured
from preceptor.serving.policy.protocol import Act, Refused
from preceptor.serving.policy.sessions import Session, SessionStore, session_of

_MOST_ROWS = 4096  # of a batch
_TIDY_SECONDS = 60.0
_log = logging.getLogger("preceptor.policy")


@dataclass(eq=False)
class Job:
    """Something to be done in the worker's thread, and who waits for it.

    Attributes:
        work: The step that is asked for, or what is to be called.
        done: Whose result is set: the reply, as bytes, or what the call gives.
        advice: Of a teacher, or why there is none; None where nobody was asked.
        result: Filled in when it is done: that, or the error; None before.
    """

    work: Act | Callable[[], Any]
    done: "asyncio.Future[Any]"
    result: Any = None
    batch: Any = None
    begun: Any = None
    session: Session | None = None
    advice: Advice | None = None


class Worker:
    """Plays the sessions of a server.

    Args:
        agents: What is served.
        store: Where sessions are kept.
        measured: What is counted.
        tidy: Called every minute or so.
        most_waiting: Requests that may wait; more are refused.
        wait_seconds: How long a batch waits for those that took part in the last one.
        tells_observations: Whether steps are logged with their observations.
    """

    def __init__(
        self,
        agents: Agents,
        store: SessionStore,
        measured: Measured,
        tidy: Callable[[], None],
        *,
        most_waiting: int,
        wait_seconds: float,
        tells_observations: bool = False,
    ) -> None:
        self.agents, self.store, self.sessions = agents, store, dict[str, Session]()
        self._measured, self._tidy, self._most_waiting, self._wait = measured, tidy, most_waiting, wait_seconds
        self._tells_observations = tells_observations
        self._queue: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, list[Job]] | None] = queue.SimpleQueue()
        self._waiting, self._expected, self._busy, self._ends = list[Job](), 1, False, False
        self._timer: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it works."""
        return self._thread.is_alive() and not self._ends

    async def do(self, work: Act | Callable[[], Any], advice: Advice | None = None) -> Any:
        """The reply to a step, or a doubt, or the result of a call in the worker's thread. Raises `Refused`.

        In the event loop. A doubt is given where the session has a teacher to ask; the step is then sent again, with
        its advice.
        """
        if len(self._waiting) >= self._most_waiting:
            raise Refused(429, f"{len(self._waiting)} requests wait, and no more may.", "the same again", 1.0)
        if not self.alive:
            raise Refused(503, "The server is ending.", "the same again", 5.0)
        loop = asyncio.get_running_loop()
        job = Job(work, loop.create_future(), advice=advice)
        self._waiting.append(job)
        self._offer(loop)
        return await job.done

    def end(self) -> None:
        """Finish what waits, and stop."""
        self._ends = True
        self._queue.put(None)
        self._thread.join(timeout=30)
        self.store.close()

    def find(self, id: str) -> Session:
        """A session, from memory or from the disk. In the worker's thread. Raises `Refused`."""
        if (session := self.sessions.get(id)) is None:
            if (kept := self.store.load(id)) is None:
                raise Refused(404, "There is no such session: it was closed, or has expired.", "open a new session")
            session = self.sessions[id] = session_of(id, kept[1], self.agents)
        session.used = time.time()
        return session

    def _offer(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the event loop: hand over what waits, once all are there that are expected, or have been waited for."""
        if self._busy or not self._waiting:
            return
        if len(self._waiting) >= self._expected:
            self._hand_over(loop)
        elif self._timer is None:
            self._timer = loop.call_later(self._wait, self._hand_over, loop)

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        jobs, self._waiting, self._timer, self._busy = self._waiting, [], None, True
        self._expected = len(jobs)
        self._measured.waiting.set(len(jobs))
        self._queue.put((loop, jobs))  # all at once: each wakes a thread that takes turns with this one

    def _deliver(self, loop: asyncio.AbstractEventLoop, jobs: Sequence[Job]) -> None:
        """In the event loop: wake those who wait, and are still there."""
        for job in jobs:
            if job.done.done() or job.result is None:
                continue
            if isinstance(job.result, Exception):
                job.done.set_exception(job.result)
            else:
                job.done.set_result(job.result)
        self._waiting[:0] = [job for job in jobs if job.result is None]
        self._busy = False
        self._offer(loop)

    def _run(self) -> None:
        """The worker's thread."""
        tidied = time.monotonic()
        while True:
            with contextlib.suppress(queue.Empty):
                if (found := self._queue.get(timeout=_TIDY_SECONDS)) is None:
                    return
                loop, jobs = found
                try:
                    self._work(jobs)
                except Exception as error:  # whatever it is, those who wait are told, and the next are served
                    _log.exception("a batch failed")
                    for job in jobs:
                        job.result = Refused(500, f"The server failed: {type(error).__name__}: {error}")
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(self._deliver, loop, jobs)
            if time.monotonic() > tidied + _TIDY_SECONDS:
                tidied = time.monotonic()
                self._tidy()

    def _work(self, jobs: list[Job]) -> None:
        """Do all of it; each job has its result then, but for second steps of a session, which are done later."""
        playing: dict[str, Job] = {}
        for job in jobs:
            try:
                if not isinstance(job.work, Act):
                    job.result = job.work()
                elif job.work.session not in playing:
                    self._prepare(job, job.work)
                    if job.result is None:
                        playing[job.work.session] = job
            except Exception as error:
                job.result = _refusal(error)
        groups: dict[tuple[Any, ...], list[Job]] = {}
        for job in playing.values():
            session = _session(job)
            together = (session.playing, session.seat.rng is None, None if session.playing.batched else session.id)
            groups.setdefault(together, []).append(job)
        for group in groups.values():
            for batch in _batches(group):
                self._play(batch)
        played = [_session(job) for job in playing.values() if isinstance(job.result, bytes)]
        if played:
            self.store.save(played)  # before anyone is answered

    def _prepare(self, job: Job, ask: Act) -> None:
        """Check a step, and answer it at once if it was answered before. Raises `Refused`."""
        job.session = session = self.find(ask.session)
        job.batch, job.begun = session.playing.batch_of(ask.obs, len(session.seat)), _begun(ask, len(session.seat))
        if ask.number == session.number and session.number:
            if not session.reply or not np.array_equal(job.batch, np.asarray(session.seat.obs)):
                raise Refused(409, f"Step {ask.number} was taken with other observations.", "open a new session")
            job.result = session.reply
        elif ask.number not in (None, session.number + 1):
            what = f"The session has taken {session.number} steps, and this is said to be number {ask.number}."
            raise Refused(409, what, f"number {session.number + 1}")

    def _play(self, jobs: Sequence[Job]) -> None:
        """Play sessions of one agent together. If that fails, each by itself, so that one fails alone."""
        sessions = [_session(job) for job in jobs]
        table = sessions[0].playing.table
        try:
            seats = [session.seat for session in sessions]
            ahead = table.ahead(seats, [job.batch for job in jobs], [job.begun for job in jobs])
            doubts = {n: doubt for n, job in enumerate(jobs) if (doubt := _doubt(job, ahead, n)) is not None}
            advice = [None if job.advice is None else job.advice.probs for job in jobs]
            decisions = iter(table.go(ahead, advice, doubts))
            for n, (job, session) in enumerate(zip(jobs, sessions, strict=True)):
                if n in doubts:
                    job.result = doubts[n]
                    continue
                decision = next(decisions)
                session.number += 1
                job.result = session.reply = _reply(session, decision, job.advice)
                session.shown = job.batch, session.reply
                if self._tells_observations:
                    _log.info("step", extra={"session": session.name, "observations": job.batch.tolist()})
        except Exception as error:
            for job, session in zip(jobs, sessions, strict=True):
                self.sessions.pop(session.id, None)  # its generator has moved; the disk has it as it was
                if len(jobs) == 1:
                    _log.warning("a step failed", exc_info=error)
                    job.result = _refusal(error)
                else:
                    job.session = self.find(session.id)
                    self._play([job])
            return
        played = [len(session.seat) for n, session in enumerate(sessions) if n not in doubts]
        if played:
            self._measured.played(len(played), sum(played))


def _session(job: Job) -> Session:
    assert job.session is not None
    return job.session


def _doubt(job: Job, ahead: Ahead, number: int) -> Doubt | None:
    """What a session asks its teacher before it takes a step; None if it asks nothing."""
    session = _session(job)
    playing = session.playing
    if not session.fallback or job.advice is not None or not playing.chooses_options:
        return None
    rows, before = ahead.doubts(number, session.fallback)
    if not rows.any():
        return None
    obs = job.batch[rows]
    return Doubt(playing, rows, playing.task.describe(obs), obs, before[rows])


def _begun(ask: Act, environments: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The environments that have begun an episode, [N]. Raises `Refused`."""
    if ask.began is None:
        return np.zeros(environments, np.bool_)
    try:
        given = np.asarray(ask.began)
    except ValueError as error:
        raise Refused(422, f"began: {error}.") from error
    if given.dtype != np.bool_ or given.shape != (environments,):
        raise Refused(422, f"began: {environments} truth values are expected, not {given.dtype} {given.shape}.")
    return given


def _batches(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Jobs in batches of so many rows as are played at once."""
    batch, rows = list[Job](), 0
    for job in jobs:
        if batch and rows + len(job.batch) > _MOST_ROWS:
            yield batch
            batch, rows = [], 0
        batch.append(job)
        rows += len(job.batch)
    yield batch


def _reply(session: Session, decision: Decision, advice: Advice | None) -> bytes:
    """What a session's client is told, as the protocol's `Acted` has it."""
    seat, words = session.seat, session.playing.options
    task = session.playing.task
    said = {} if session.fallback is None else {"advice": advice.said if advice else [""] * len(seat)}
    return packed(
        said
        | {
            "number": session.number,
            "action": decision.action if session.units == "task" else task.to_gymnasium(decision.action),
            "option": [words[k] for k in seat.clock.option.tolist()] if words else None,
            "command": None if words else seat.clock.command,
            "probs": decision.probs,
            "ended": decision.ended,
        }
    )


def _refusal(error: Exception) -> Refused:
    if isinstance(error, Refused):
        return error
    return Refused(500, f"The agent failed: {type(error).__name__}: {error}")
