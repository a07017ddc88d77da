"""The label store: cache and trace of all calls in one SQLite file.

One row is one *call*: a prompt scored once, or sampled once. Calls that belong to the same scene, model and prompt
share a `query`. Rows with status `ok` are answers and are found again by their key; every other row (an error, a reply
off the menu, a fallback) is kept as a trace and is never an answer. Rows are committed as they arrive, in write-ahead
mode, so that two processes may write at once and a kill -9 loses at most what was in flight. The store holds clean
labels: noise is applied after it.
"""

import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tenacity import Retrying, retry_if_exception_message, stop_after_delay, wait_random

from ground.errors import UserError
from teacher.call import ERROR, FALLBACK, IDENTITY, OK, REST, Call, Identity, flat

SCHEMA_VERSION = 1
# "PRCP" as SQLite's application id: another program's database is refused before anything is written into it.
_APPLICATION_ID = 0x50524350
_BUSY_SECONDS = 30.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    id INTEGER PRIMARY KEY,
    created REAL NOT NULL,
    key TEXT NOT NULL, query TEXT NOT NULL,
    task TEXT NOT NULL, options TEXT NOT NULL, facts TEXT NOT NULL, scene TEXT NOT NULL, legal TEXT NOT NULL,
    model TEXT NOT NULL, prompt TEXT NOT NULL, menu TEXT NOT NULL, sample INTEGER NOT NULL,
    source TEXT NOT NULL, method TEXT NOT NULL, status TEXT NOT NULL,
    probs TEXT NOT NULL, reply TEXT NOT NULL, tokens INTEGER NOT NULL, seconds REAL NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS answers ON calls (key) WHERE status = 'ok';
CREATE INDEX IF NOT EXISTS queries ON calls (query);
"""


@dataclass(frozen=True)
class Merged:
    """What a merge came to: rows added, rows that were there already, answers kept although others were brought."""

    added: int
    known: int
    kept: int


# What the rows of a store are to those who look for a kind of them.
KINDS = {
    "answers": f"status = '{OK}'",
    "fallback": f"status = '{FALLBACK}'",
    "rejected": f"status NOT IN ('{OK}', '{FALLBACK}')",
}


class LabelStore:
    """Calls in a SQLite file, or in memory if `path` is None; for one thread at a time, which may be another one later.

    Args:
        path: The file; created if missing unless `read_only`.
        read_only: Open an existing store without the right to write, for replay and reports.
        own: It belongs to the run that opens it, whose cost includes what is in it already.

    Raises:
        UserError: The file is missing (read-only), is not a label store, or was written by a newer version.
    """

    def __init__(self, path: Path | str | None = None, *, read_only: bool = False, own: bool = False) -> None:
        self.path, self.own, self._read_only = Path(path) if path is not None else None, own, read_only
        if read_only and (self.path is None or not self.path.is_file()):
            raise UserError(f"There is no label store at {self.path}.", "label some scenes first, or give another file")
        mode = "ro" if read_only else "rwc"
        name = ":memory:" if self.path is None else f"{self.path.resolve().as_uri()}?mode={mode}"
        with self._explained("move the file away, or give another one with --labels"):
            self._db = sqlite3.connect(
                name, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            # SQLite does not wait by itself where two processes switch the mode of the journal at once.
            for attempt in Retrying(
                retry=retry_if_exception_message(match=".*(locked|busy)"),
                wait=wait_random(0.01, 0.1),
                stop=stop_after_delay(_BUSY_SECONDS),
                reraise=True,
            ):
                with attempt:
                    self._open(read_only)

    @contextlib.contextmanager
    def _explained(self, next_step: str) -> Iterator[None]:
        """Turn SQLite's refusals into `UserError`."""
        try:
            yield
        except sqlite3.Error as error:
            raise UserError(f"{self.path} cannot be used as a label store: {error}.", next_step) from error

    def _open(self, read_only: bool) -> None:
        with self._db:  # one snapshot: another process may be creating the tables right now
            self._db.execute("BEGIN")
            application, version, tables = (
                self._db.execute(query).fetchone()[0]
                for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
            )
        if tables and application != _APPLICATION_ID:
            raise UserError(f"{self.path} is a database, but not a label store.", "give another file")
        if version > SCHEMA_VERSION:
            raise UserError(
                f"{self.path} has label schema {version}; this version reads up to {SCHEMA_VERSION}.",
                "update preceptor",
            )
        if read_only:
            return
        self._db.execute("PRAGMA journal_mode = WAL")
        # In write-ahead mode a commit survives the death of the process without an fsync of its own.
        self._db.execute("PRAGMA synchronous = NORMAL")
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.strip().split(";\n"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction. Raises `UserError` if the disk is full, or the file is not writable any more."""
        folder = self.path.parent if self.path else "."
        room = f"df -h {folder}  # make room, then repeat the command, a training with --resume"
        with self._explained(room), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield

    def put_many(self, calls: Iterable[Call]) -> None:
        """Append calls, all or none. A second answer under the same key is ignored: the first one stands.

        Raises:
            UserError: The disk is full, or the file is not writable any more.
        """
        rows = [_to_row(call) for call in calls]
        with self._writing():
            self._db.executemany(_INSERT, rows)

    def merge(self, calls: Iterable[Call]) -> Merged:
        """Add the calls that are not there yet, all or none. An answer that is there stands, whatever is brought."""
        added = known = kept = 0
        same = f"SELECT 1 FROM calls WHERE {' AND '.join(f'{column} = ?' for column in _COLUMNS)}"
        with self._writing():
            for call in calls:
                row = _to_row(call)
                answer = self._db.execute("SELECT probs FROM calls WHERE key = ? AND status = ?", (row[0], OK))
                stored = answer.fetchone() if call.status == OK else self._db.execute(same, row).fetchone()
                if stored is None:
                    self._db.execute(_INSERT, row)
                    added += 1
                elif call.status == OK and stored[0] != row[_COLUMNS.index("probs")]:
                    kept += 1
                else:
                    known += 1
        return Merged(added, known, kept)

    def get_many(self, keys: Sequence[str]) -> dict[str, Call]:
        """The answers among these keys. Errors and replies off the menu are never among them."""
        found: dict[str, Call] = {}
        with self._db:
            self._db.execute("BEGIN")
            for start in range(0, len(keys), 500):
                part = keys[start : start + 500]
                where = f"status = '{OK}' AND key IN ({','.join('?' * len(part))})"
                found.update((call.identity.key, call) for call in self._select(where, part))
        return found

    def last_row(self) -> int:
        """Number of the row written last, 0 before the first."""
        return int(self._db.execute("SELECT coalesce(max(id), 0) FROM calls").fetchone()[0])

    def spent_after(self, row: int) -> tuple[int, int, float]:
        """Calls, tokens and seconds of what was asked after that row."""
        sums = "SELECT count(*), coalesce(sum(tokens), 0), coalesce(sum(seconds), 0)"
        calls, tokens, seconds = self._db.execute(f"{sums} FROM calls WHERE seconds > 0 AND id > ?", (row,)).fetchone()
        return calls, tokens, seconds

    def answers_after(self, row: int) -> set[str]:
        """Keys of the answers that were written after that row."""
        found = self._db.execute("SELECT key FROM calls WHERE status = ? AND id > ?", (OK, row))
        return {key for (key,) in found}

    def calls(self, task: str | None = None, options: str | None = None, *, answers_only: bool = True) -> list[Call]:
        """Calls in the order of writing, of one task and option digest if they are given."""
        where, values = ["1"], []
        for column, value in (("task", task), ("options", options), ("status", OK if answers_only else None)):
            if value is not None:
                where.append(f"{column} = ?")
                values.append(value)
        return list(self._select(" AND ".join(where), values))

    def last_calls(self, count: int, task: str | None = None, kind: str | None = None) -> list[tuple[int, Call]]:
        """The last calls with their row numbers, oldest first, of one task and one of `KINDS` if they are given."""
        where = f"{KINDS[kind] if kind else '1'} AND (task = ? OR ? IS NULL)"
        select = f"SELECT id,{','.join(_COLUMNS)} FROM calls WHERE {where} ORDER BY id DESC LIMIT ?"
        rows = self._db.execute(select, (task, task, count)).fetchall()
        return [(row[0], _from_row(row[1:])) for row in reversed(rows)]

    def latencies(self, after: int = 0) -> list[float]:
        """Seconds that each reply took, shortest first, of the rows after that one; errors and fallbacks left out."""
        where = f"id > ? AND seconds > 0 AND status NOT IN ('{ERROR}', '{FALLBACK}')"
        return [
            seconds for (seconds,) in self._db.execute(f"SELECT seconds FROM calls WHERE {where} ORDER BY 1", (after,))
        ]

    def _select(self, where: str, values: Sequence[Any]) -> Iterable[Call]:
        cursor = self._db.execute(f"SELECT {','.join(_COLUMNS)} FROM calls WHERE {where} ORDER BY id", values)
        return (_from_row(row) for row in cursor)

    def digest(self) -> str:
        """Hash of the answers, whatever the order in which they came and the time that they took."""
        rows = self._db.execute(f"SELECT key, probs FROM calls WHERE status = '{OK}' ORDER BY key")
        return hashlib.sha256("\n".join(f"{key} {probs}" for key, probs in rows).encode()).hexdigest()[:16]

    def close(self) -> None:
        """Close the file; the write-ahead log is merged into it."""
        with contextlib.suppress(sqlite3.Error):
            # Out of write-ahead mode, unless another process is in it: only then can a read-only folder be read.
            if not self._read_only:
                self._db.execute("PRAGMA busy_timeout = 0")
                self._db.execute("PRAGMA journal_mode = DELETE")
        self._db.close()

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM calls").fetchone()[0])

    def __enter__(self) -> "LabelStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_COLUMNS = ("key", "query", *IDENTITY, *REST)
_INSERT = f"INSERT OR IGNORE INTO calls ({','.join(_COLUMNS)}) VALUES ({','.join('?' * len(_COLUMNS))})"
_JSON = {"facts", "menu", "legal", "probs"}


def _to_row(call: Call) -> tuple[Any, ...]:
    values = flat(call) | {"query": call.identity.query, "created": call.created or time.time()}
    return tuple(json.dumps(values[name]) if name in _JSON else _storable(values[name]) for name in _COLUMNS)


def _storable(value: Any) -> Any:
    """Text without the lone surrogates that a server's JSON may hold, and that no file can."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _from_row(row: tuple[Any, ...]) -> Call:
    values: dict[str, Any] = {
        name: tuple(json.loads(value)) if name in _JSON else value for name, value in zip(_COLUMNS, row, strict=True)
    }
    return Call(identity=Identity(**{name: values[name] for name in IDENTITY}), **{name: values[name] for name in REST})
