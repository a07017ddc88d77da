"""Sessions: what each is made of, and their place on the disk, from which a server that was killed goes on.

A session is saved before its step is answered, all sessions of a batch in one transaction; that takes microseconds a
session, and leaves nothing to be replayed. What the client repeats, since it got no answer, is answered from what was
saved. SQLite's log survives the death of the process, and is not forced to the disk: if the machine itself dies, the
last steps may be lost, and the server says which number it expects.
"""

import contextlib
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.acting import Seat
from preceptor.agent.remote.wire import from_text, generator_of, generator_state, packed, unpacked
from preceptor.ground.errors import UserError
from preceptor.serving.policy.agents import Agents, Playing
from preceptor.serving.policy.protocol import MOST_ENVIRONMENTS, Refused

Units = Literal["environment", "task"]
_SCHEMA = 1
_SOME = "SELECT id, state FROM sessions WHERE id > ? ORDER BY id LIMIT 64"
_NAMED = 8  # characters of an id, of 22


@dataclass(eq=False)
class Session:
    """A session in memory; only the worker's thread changes it.

    Attributes:
        id: By which clients name it, a secret.
        playing: The version of the agent that plays it.
        seat: Its clock, generator and last observations.
        units: Whose numbers its actions are in.
        number: Of its last step.
        reply: To that step, as it was sent; none before the first.
        used: When, in seconds of `time.time`.
        fallback: Below which probability of the best option its teacher is asked; None for never.
        shown: The observations and the reply of one and the same step, for who watches; none before the first.
    """

    id: str
    playing: Playing
    seat: Seat
    units: Units
    number: int = 0
    reply: bytes = b""
    used: float = field(default_factory=time.time)
    fallback: float | None = None
    shown: tuple[NDArray[Any], bytes] | None = None

    @property
    def name(self) -> str:
        """By which people and the log call it; no client gets in with that."""
        return self.id[:_NAMED]

    def state(self) -> bytes:
        """All that is needed to go on."""
        clock = self.seat.clock
        return packed(
            {
                "schema": _SCHEMA,
                "agent": self.playing.name,
                "version": self.playing.version,
                "units": self.units,
                "fallback": self.fallback,
                "number": self.number,
                "reply": self.reply,
                "generator": None if self.seat.rng is None else generator_state(self.seat.rng),
                "obs": self.seat.obs,
                "environments": len(self.seat),
                **{name: getattr(clock, name).tobytes() for name in clock.saved},
            }
        )

    def described(self) -> dict[str, Any]:
        """The session as the protocol's `Session` tells of it."""
        return {
            "session": self.id,
            "agent": self.playing.name,
            "version": self.playing.version,
            "task": self.playing.task.name,
            "environments": len(self.seat),
            "greedy": self.seat.rng is None,
            "units": self.units,
            "fallback": self.fallback,
            "number": self.number,
            "options": self.playing.options,
        }


def session_of(id: str, state: bytes | str, agents: Agents, name: str | None = None) -> Session:
    """The session of a state that `state` gave; one from elsewhere may be anything.

    Args:
        id: Its id.
        state: Its state, or that as text.
        agents: One of which plays it.
        name: Under which name that is served here, if not under its own.

    Raises:
        Refused: It is no state, or the version of the agent that plays it is not here.
    """
    try:
        found = unpacked(from_text(state) if isinstance(state, str) else state)
        if found["schema"] > _SCHEMA:
            raise Refused(409, "The session was exported by a newer version of the server.", "open a new session")
        playing = agents.find(f"{name or found['agent']}@{found['version']}")
        if not 1 <= found["environments"] <= MOST_ENVIRONMENTS:
            raise ValueError(f"it has {found['environments']} environments")
        seat = playing.table.seat(int(found["environments"]), found["generator"] and generator_of(found["generator"]))
        for part in seat.clock.saved:
            own = getattr(seat.clock, part)
            setattr(seat.clock, part, np.frombuffer(bytearray(found[part]), own.dtype).reshape(own.shape))
        if ((seat.clock.option < -1) | (seat.clock.option >= len(playing.table.player.timeouts))).any():
            raise ValueError("an option runs that the agent has not")
        if found["obs"] is not None:
            seat.obs = playing.batch_of(found["obs"], len(seat))
        units: Units = "task" if found["units"] == "task" else "environment"
        reply = bytes(found["reply"])
        shown = (seat.obs, reply) if reply and seat.obs is not None else None
        more: dict[str, Any] = {"fallback": float(found.get("fallback") or 0.0) or None, "shown": shown}
        return Session(id, playing, seat, units, int(found["number"]), reply, **more)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise Refused(
            422, f"This is no exported session: {error}.", "export a session, and send what it gives"
        ) from error


def new_id() -> str:
    """A name that nobody guesses."""
    return secrets.token_urlsafe(16)


class SessionStore:
    """States of sessions in a file of SQLite.

    Args:
        path: The file.

    Raises:
        UserError: It cannot be opened, or another server has it.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
            self._file.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=OFF")
            columns = "id TEXT PRIMARY KEY, used REAL, state BLOB"
            self._file.execute(f"CREATE TABLE IF NOT EXISTS sessions ({columns}) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"Sessions cannot be kept in {path}: {error}.", f"another --port, or rm {path}*") from error

    def save(self, sessions: Iterable[Session]) -> None:
        """Keep what these sessions have come to, all or none."""
        rows = [(session.id, session.used, session.state()) for session in sessions]
        with self._transaction():
            self._file.executemany("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?)", rows)

    def load(self, id: str) -> tuple[float, bytes] | None:
        """When a session was last used, and its state; None if there is none."""
        with self._lock:
            found = self._file.execute("SELECT used, state FROM sessions WHERE id = ?", (id,)).fetchone()
        return (float(found[0]), bytes(found[1])) if found else None

    def versions(self) -> set[str]:
        """Of the agents that the sessions play; for any thread, and read bit by bit so that no step waits for it."""
        found, last = set[str](), ""
        while True:
            with self._lock:
                rows = self._file.execute(_SOME, (last,)).fetchall()
            if not rows:
                return found
            found.update(unpacked(state)["version"] for _, state in rows)
            last = rows[-1][0]

    def drop(self, id: str) -> bool:
        """Forget a session; whether there was one."""
        with self._lock:
            return self._file.execute("DELETE FROM sessions WHERE id = ?", (id,)).rowcount > 0

    def drop_unused(self, since: float) -> int:
        """Forget sessions that were not used since then; how many."""
        with self._lock:
            return self._file.execute("DELETE FROM sessions WHERE used < ?", (since,)).rowcount

    def __len__(self) -> int:
        with self._lock:
            return int(self._file.execute("SELECT count(*) FROM sessions").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    @contextlib.contextmanager
    def _transaction(self) -> Any:
        with self._lock:
            self._file.execute("BEGIN")
            try:
                yield
            except BaseException:
                self._file.execute("ROLLBACK")
                raise
            self._file.execute("COMMIT")
