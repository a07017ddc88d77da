"""Scenes about which a teacher was asked at play, as they were observed, in a file of SQLite beside an agent's run.

A label store knows scenes by their facts, which no observation can be made of again; to learn from an answer, a
controller needs what was observed. Rows are committed as they come, so that a kill at any moment loses what was in
flight at most.
"""

import contextlib
import json
import sqlite3
import threading
import time
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.data.store import columns
from preceptor.envs.task import Task
from preceptor.ground.errors import UserError

MOST_SCENES = 50_000  # the oldest are forgotten beyond
_HOLD_OUT = 4  # one scene in so many is never learned from
_SALT = b"held out"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS scenes (
    id INTEGER PRIMARY KEY AUTOINCREMENT, options TEXT, digest BLOB, obs BLOB, previous INTEGER, probs BLOB,
    held INTEGER, UNIQUE (options, digest)
);
CREATE INDEX IF NOT EXISTS counted ON scenes (options, held, id);
CREATE TABLE IF NOT EXISTS attempts (id INTEGER PRIMARY KEY, at REAL, upto INTEGER, outcome TEXT, told TEXT);
"""
_INSERT = """
INSERT INTO scenes (options, digest, obs, previous, probs, held) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET previous = excluded.previous, probs = excluded.probs
"""


class Asked(NamedTuple):
    """Scenes that a teacher has labelled: observations [M, ...], the option before each [M], labels [M, K], which of
    them are held out [M], and the number of the last one."""

    obs: NDArray[Any]
    previous: NDArray[np.int64]
    probs: NDArray[np.float32]
    held: NDArray[np.bool_]
    last: int


class AskedScenes(contextlib.AbstractContextManager["AskedScenes"]):
    """The scenes of one task, each observation once; and what was made of them. For any thread.

    Args:
        path: The file; created if need be.
        task: Its observations and options.

    Raises:
        UserError: It cannot be used.
    """

    def __init__(self, path: Path, task: Task) -> None:
        self._path, self._lock = path, threading.Lock()
        (self._shape, self._dtype), self._options = columns(task)["obs"], task.options
        with self._explained():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30.0)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(_SCHEMA)

    @contextlib.contextmanager
    def _explained(self) -> Any:
        try:
            with self._lock:
                yield
        except (sqlite3.Error, ValueError) as error:
            what = f"{self._path} cannot be used for scenes that were asked about: {error}."
            raise UserError(what, f"mv {self._path} {self._path}.damaged  # and start again without it") from error

    def add(self, obs: NDArray[Any], previous: NDArray[np.int64], probs: NDArray[np.float32]) -> None:
        """Keep observations [M, ...] with the options before [M] and labels [M, K]. Of one twice the last label counts.

        Raises:
            UserError: The disk is full, or the like.
        """
        given = [np.ascontiguousarray(each, self._dtype).tobytes() for each in obs]
        probs = np.ascontiguousarray(probs, np.float32)
        rows = [
            (self._options.digest, _digest(each), each, int(before), label.tobytes(), is_held_out(each))
            for each, before, label in zip(given, previous, probs, strict=True)
        ]
        with self._explained(), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(_INSERT, rows)
            self._db.execute("DELETE FROM scenes WHERE id <= (SELECT max(id) FROM scenes) - ?", (MOST_SCENES,))

    def read(self) -> Asked:
        """All of them. Raises `UserError` if one is damaged."""
        select = "SELECT id, obs, previous, probs, held FROM scenes WHERE options = ? ORDER BY id"
        with self._explained():
            rows = self._db.execute(select, (self._options.digest,)).fetchall()
            ids, obs, previous, probs, held = zip(*rows, strict=True) if rows else ((),) * 5
            return Asked(
                np.frombuffer(b"".join(obs), self._dtype).reshape(len(rows), *self._shape).copy(),
                np.array(previous, np.int64),
                np.frombuffer(b"".join(probs), np.float32).reshape(len(rows), len(self._options)).copy(),
                np.array(held, np.bool_),
                max(ids, default=0),
            )

    def counted(self) -> tuple[int, int, int]:
        """Scenes that have come since the last attempt, all that can be learned from, and those that are held out."""
        counts = "coalesce(sum(id > ?), 0), coalesce(sum(1 - held), 0), coalesce(sum(held), 0)"
        last = self.last()
        with self._explained():
            found = self._db.execute(
                f"SELECT {counts} FROM scenes WHERE options = ?", (last["upto"] if last else 0, self._options.digest)
            )
            new, learned, held = found.fetchone()
            return new, learned, held

    def note(self, outcome: str, told: dict[str, Any], upto: int | None = None) -> None:
        """An attempt to learn from the scenes up to a number, or from all, has come to this."""
        newest = "coalesce(?, (SELECT max(id) FROM scenes), 0)"
        with self._explained():
            self._db.execute(
                f"INSERT INTO attempts (at, upto, outcome, told) VALUES (?, {newest}, ?, ?)",
                (time.time(), upto, outcome, json.dumps(told)),
            )

    def last(self) -> dict[str, Any] | None:
        """The last attempt: `id`, `upto`, `outcome`, and what was told of it; None before the first."""
        with self._explained():
            found = self._db.execute("SELECT id, upto, outcome, told FROM attempts ORDER BY id DESC LIMIT 1").fetchone()
            return {**json.loads(found[3]), "id": found[0], "upto": found[1], "outcome": found[2]} if found else None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def __exit__(self, *raised: object) -> None:
        self.close()


def is_held_out(obs: bytes) -> bool:
    """Whether an observation is never learned from: the same ones whenever, and in whatever order, they come."""
    return _digest(obs)[0] % _HOLD_OUT == 0


def _digest(obs: bytes) -> bytes:
    return blake2b(obs, digest_size=16, salt=_SALT).digest()
