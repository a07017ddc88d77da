"""What each request does, whatever brought it. Replies are messages of the wire, which HTTP turns into JSON."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from preceptor.agent.remote.wire import as_text, from_text, generator_of, packed
from preceptor.serving.config import FallbackConfig
from preceptor.serving.policy.agents import Agents, Playing
from preceptor.serving.policy.fallback import Doubt, Fallback
from preceptor.serving.policy.live import listed, shown
from preceptor.serving.policy.measured import Measured
from preceptor.serving.policy.protocol import OPERATIONS, Act, Done, Label, OfSession, Open, Refused, Served
from preceptor.serving.policy.sessions import Session, SessionStore, new_id, session_of
from preceptor.serving.policy.worker import Worker

_MOST_LISTED = 100  # sessions
_log = logging.getLogger("preceptor.policy")


class Service:
    """The operations of a policy server, by the names that requests over the WebSocket give in `op`.

    Args:
        agents: What is served.
        store: Where sessions are kept.
        most_sessions: Sessions that may be open; more are refused.
        keep_seconds: After which a session that is not used expires.
        fallback: The teacher that sessions may ask; none by default.
        worker: Settings of the worker.
    """

    def __init__(
        self,
        agents: Agents,
        store: SessionStore,
        *,
        most_sessions: int,
        keep_seconds: float,
        fallback: FallbackConfig | None = None,
        **worker: Any,
    ) -> None:
        self.agents, self.measured = agents, Measured()
        self._store, self._most_sessions, self._keep = store, most_sessions, keep_seconds
        self._drawing = asyncio.Lock()
        self._fallback = Fallback(fallback or FallbackConfig(), self.measured, agents, store.versions)
        self.worker = Worker(agents, store, self.measured, self._expire, **worker)
        self.operations: dict[str, tuple[type[Any], Callable[[Any], Awaitable[bytes]]]] = {
            "open": (Open, self.open),
            "act": (Act, self.act),
            "label": (Label, self.label),
            "reset": (OfSession, partial(self._with, self._reset)),
            "export": (OfSession, partial(self._with, self._export)),
            "close": (OfSession, partial(self._with, self._close)),
        }

    @property
    def alive(self) -> bool:
        """Whether it plays."""
        return self.worker.alive

    async def answer(self, op: Any, fields: Any) -> bytes:
        """The reply to a request. Raises `Refused`."""
        with self.measured.request(op):
            if str(op) not in OPERATIONS:
                raise Refused(422, f"op: there are {', '.join(OPERATIONS)}.")
            kind, operation = self.operations[str(op)]
            return await operation(kind.read(fields))

    async def open(self, ask: Open) -> bytes:
        """Begin to play, or go on from an exported session."""
        return bytes(await self.worker.do(partial(self._open, ask)))

    async def act(self, ask: Act) -> bytes:
        """Take a step; where the controller is in doubt, and the session wants it, as a teacher says."""
        found = await self.worker.do(ask)
        if isinstance(found, Doubt):  # the worker goes on meanwhile, and so do other sessions
            found = await self.worker.do(ask, await self._fallback.advise(found))
        return bytes(found)

    def end(self) -> None:
        """Finish what waits, and stop."""
        self.worker.end()
        self._fallback.end()

    async def label(self, ask: Label) -> bytes:
        """What the controller says."""
        return bytes(await self.worker.do(partial(self._label, ask)))

    async def reload(self, name: str) -> dict[str, Any]:
        """Load an agent again, beside what is played."""
        playing = await asyncio.to_thread(self.agents.reload, name)
        _log.info("loaded", extra={"agent": name, "version": playing.version})
        return self.told(playing, True)

    async def served(self) -> list[dict[str, Any]]:
        """Every version of each agent, as the protocol's `Served` tells of it."""
        return [self.told(*each) for each in self.agents.all()]

    def told(self, playing: Playing, newest: bool) -> dict[str, Any]:
        """An agent as the protocol's `Served` tells of it."""
        return Served(
            agent=playing.name,
            version=playing.version,
            task=playing.task.name,
            source=playing.task.source,
            method=playing.method,
            run=str(playing.run),
            observation_shape=list(playing.task.observation_shape),
            options=playing.options,
            labels=playing.controller is not None,
            batched=playing.batched,
            sessions=sum(session.playing is playing for session in list(self.worker.sessions.values())),
            newest=newest,
            learned=playing.learned,
        ).model_dump()

    async def watched(self) -> list[dict[str, Any]]:
        """Sessions that play, the one that was used last first."""
        now, playing = time.time(), sorted(self.worker.sessions.values(), key=lambda session: -session.used)
        return [listed(session, now) for session in playing[:_MOST_LISTED]]

    async def show(self, name: str, environment: int, after: int) -> dict[str, Any] | None:
        """What an environment of a session does, by the session's name; None if no step was taken after that number.

        The worker is not asked, so that nobody's step waits for who watches. Raises `Refused`.
        """
        found = next((each for each in list(self.worker.sessions.values()) if each.name == name), None)
        if found is None:
            raise Refused(404, f"No session {name} plays.", "GET /v1/live")
        if not 0 <= environment < len(found.seat):
            raise Refused(422, f"environment: it has {len(found.seat)}.", "environment=0")
        if found.shown is None or found.number <= after:
            return None
        async with self._drawing:  # one after another, however many watch
            told = await asyncio.to_thread(shown, found.playing, found.shown, environment)
        return told | {"teacher": self._fallback.spent(found.playing)}

    async def _with(self, operation: Callable[[Session], bytes], ask: OfSession) -> bytes:
        return bytes(await self.worker.do(lambda: operation(self.worker.find(ask.session))))

    # What follows runs in the worker's thread.

    def _open(self, ask: Open) -> bytes:
        if len(self._store) >= self._most_sessions:
            self._expire()
        if (count := len(self._store)) >= self._most_sessions:
            raise Refused(429, f"{count} sessions are open, and no more may.", "close one", retry_after=5.0)
        if ask.state is not None:
            session = session_of(new_id(), ask.state, self.agents, ask.agent)
            session.reply = b""  # what another server said, if it is one, is not repeated
        else:
            session = self._new(ask)
        self.worker.sessions[session.id] = session
        self._store.save([session])
        self.measured.sessions.set(count + 1)
        _log.info("opened", extra={"agent": session.playing.name, "environments": len(session.seat)})
        return packed(session.described())

    def _new(self, ask: Open) -> Session:
        playing = self.agents.find(ask.agent)
        if ask.fallback is not None and not self._fallback.offered:
            raise Refused(409, "fallback: this server has no teacher.", "serve --agent RUN --teacher llm")
        if ask.fallback is not None and not playing.chooses_options:
            raise Refused(409, f"fallback: {playing.name} chooses no options.", "open it without")
        try:
            if ask.greedy:
                rng = None
            elif ask.generator is not None:
                rng = generator_of(from_text(ask.generator))
            else:
                rng = np.random.default_rng(ask.seed)
        except ValueError as error:
            raise Refused(422, f"{'seed' if ask.generator is None else 'generator'}: {error}.") from error
        return Session(new_id(), playing, playing.table.seat(ask.environments, rng), ask.units, fallback=ask.fallback)

    def _reset(self, session: Session) -> bytes:
        session.seat.obs = None
        self._store.save([session])
        return packed(Done().model_dump())

    def _export(self, session: Session) -> bytes:
        return packed({"state": as_text(session.state())})

    def _close(self, session: Session) -> bytes:
        self.worker.sessions.pop(session.id, None)
        self._store.drop(session.id)
        self._tidy()
        return packed(Done().model_dump())

    def _label(self, ask: Label) -> bytes:
        playing = self.agents.find(ask.agent)
        if playing.controller is None:
            raise Refused(409, f"{playing.name} labels nothing: it has no controller.", "GET /v1/agents")
        obs = playing.batch_of(ask.obs)
        probs = playing.controller.probs(obs, legal=playing.task.legal(obs))
        index = probs.argmax(1)
        words = [playing.task.options[k].words for k in index.tolist()]
        return packed({"option": words, "index": index, "probs": probs})

    def _expire(self) -> None:
        """Forget sessions that were not used of late."""
        since = time.time() - self._keep
        for session in list(self.worker.sessions.values()):
            if session.used < since:
                del self.worker.sessions[session.id]
        if count := self._store.drop_unused(since):
            _log.info("expired", extra={"sessions": count})
        self._tidy()

    def _tidy(self) -> None:
        self.measured.sessions.set(len(self._store))
        self.agents.drop_unused({session.playing for session in self.worker.sessions.values()})


def store_in(folder: Path) -> SessionStore:
    """The sessions of a server whose files lie in a folder. Raises `UserError`."""
    return SessionStore(folder / "sessions.sqlite")
