"""The label store: cache and trace of all calls in one SQLite file.

One row is one `Call`. Rows with status `ok` are answers and are found again by their key; every other row (an error, a
reply off the menu, a fallback) is kept as a trace and is never an answer. Rows are committed as they arrive, in
write-ahead mode, so that two processes may write at once and a kill -9 loses at most what was in flight. The store
holds clean labels: noise is applied after it.
"""

import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tenacity import retry, retry_if_exception_message, stop_after_delay, wait_random

from preceptor.ground.errors import UserError
from preceptor.ground.sealed import digest_of
from preceptor.teacher.call import ERROR, FALLBACK, FIELDS, OK, Call

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
    probs TEXT NOT NULL, reply TEXT NOT NULL, tokens INTEGER NOT NULL, seconds REAL NOT NULL,
    seal TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX IF NOT EXISTS answers ON calls (key) WHERE status = 'ok';
CREATE INDEX IF NOT EXISTS queries ON calls (query);
CREATE TABLE IF NOT EXISTS streams (name TEXT PRIMARY KEY, scenes INTEGER NOT NULL, state BLOB NOT NULL, seal TEXT);
CREATE TABLE IF NOT EXISTS met (
    stream TEXT, scenes INTEGER, hashes BLOB NOT NULL, seal TEXT, PRIMARY KEY (stream, scenes)
);
"""
_COLUMNS = ("key", "query", *FIELDS)
_INSERT = f"INSERT OR IGNORE INTO calls ({','.join(_COLUMNS)},seal) VALUES ({'?,' * len(_COLUMNS)}?)"
_REACH = """
INSERT INTO streams VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE
SET scenes = excluded.scenes, state = excluded.state, seal = excluded.seal WHERE excluded.scenes > scenes"""
_HAS_SEALS = "SELECT count(*) FROM pragma_table_info('calls') WHERE name = 'seal'"
_SEAL = "ALTER TABLE calls ADD COLUMN seal TEXT NOT NULL DEFAULT ''"  # a digest of the row; rows of 0.2 have none
_SAME = f"SELECT 1 FROM calls WHERE {' AND '.join(f'{column} = ?' for column in _COLUMNS)}"
_JSON = {"facts", "menu", "legal", "probs"}

# What the rows of a store are to those who look for a kind of them.
KINDS = {
    "answers": f"status = '{OK}'",
    "fallback": f"status = '{FALLBACK}'",
    "rejected": f"status NOT IN ('{OK}', '{FALLBACK}')",
}
_REPLIED = f"status NOT IN ('{ERROR}', '{FALLBACK}')"


class Merged(NamedTuple):
    """What a merge came to: rows added, rows that were there already, answers kept although others were brought."""

    added: int
    known: int
    kept: int


class Reached(NamedTuple):
    """Up to where all scenes of a stream have had their replies.

    Attributes:
        stream: Its name.
        scenes: How many that are.
        hashes: uint64 of the scenes, those since the place before when it is written, all of them when it is read.
        state: What the stream needs to go on.
    """

    stream: str
    scenes: int
    hashes: bytes
    state: bytes


class LabelStore(contextlib.AbstractContextManager["LabelStore"]):
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
            self._open()

    @contextlib.contextmanager
    def _explained(self, next_step: str) -> Iterator[None]:
        """Turn SQLite's refusals, and what no row holds, into `UserError`."""
        try:
            yield
        except (sqlite3.Error, TypeError, ValueError) as error:
            raise UserError(f"{self.path} cannot be used as a label store: {error}.", next_step) from error

    # SQLite does not wait by itself where two processes switch the mode of the journal at once.
    @retry(
        retry=retry_if_exception_message(match=".*(locked|busy)"),
        wait=wait_random(0.01, 0.1),
        stop=stop_after_delay(_BUSY_SECONDS),
        reraise=True,
    )
    def _open(self) -> None:
        with self._db:  # one snapshot: another process may be creating the tables right now
            self._db.execute("BEGIN")
            application, version = self._number("PRAGMA application_id"), self._number("PRAGMA user_version")
            tables = self._number("SELECT count(*) FROM sqlite_master")
        if self._read_only and not tables:
            raise UserError(f"{self.path} is empty, and no label store.", "give another file")
        if tables and application != _APPLICATION_ID:
            raise UserError(f"{self.path} is a database, but not a label store.", "give another file")
        if version > SCHEMA_VERSION:
            reads = f"this version reads up to {SCHEMA_VERSION}"
            raise UserError(f"{self.path} has label schema {version}; {reads}.", "update preceptor")
        self._sealed = bool(self._number(_HAS_SEALS))
        if self._read_only:
            return
        self._db.execute("PRAGMA journal_mode = WAL")
        # In write-ahead mode a commit survives the death of the process without an fsync of its own.
        self._db.execute("PRAGMA synchronous = NORMAL")
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.strip().split(";\n"):
                self._db.execute(statement)
            if not self._number(_HAS_SEALS):
                self._db.execute(_SEAL)
            self._sealed = True
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

    def put_many(self, calls: Iterable[Call], reached: Reached | None = None) -> None:
        """Append calls, all or none. A second answer under the same key is ignored: the first one stands.

        Args:
            calls: What came back.
            reached: The place in a stream that these calls have led to, written with them or not at all.

        Raises:
            UserError: The disk is full, or the file is not writable any more.
        """
        rows = [_to_row(call) for call in calls]
        with self._writing():
            self._db.executemany(_INSERT, rows)
            if reached is not None:
                met = (*reached[:3], _seal_of(reached.hashes))
                self._db.execute("INSERT OR IGNORE INTO met VALUES (?, ?, ?, ?)", met)
                self._db.execute(_REACH, (reached.stream, reached.scenes, reached.state, _seal_of(reached.state)))

    def reached(self, stream: str) -> Reached | None:
        """The furthest place in a stream; None if there is none, or it is damaged: the stream can begin again."""
        found = self._db.execute("SELECT scenes, state, seal FROM streams WHERE name = ?", (stream,)).fetchone()
        scenes, *state = found or (0,)
        met = self._db.execute("SELECT hashes, seal FROM met WHERE stream = ? AND scenes <= ?", (stream, scenes))
        parts = [*met, state]
        if not found or any(seal != _seal_of(data) for data, seal in parts):
            return None
        return Reached(stream, scenes, b"".join(hashes for hashes, _ in parts[:-1]), state[0])

    def merge(self, calls: Iterable[Call]) -> Merged:
        """Add the calls that are not there yet, all or none. An answer that is there stands, whatever is brought."""
        added = known = kept = 0
        with self._writing():
            for call in calls:
                row = _to_row(call)
                traced = call.status != OK and self._db.execute(_SAME, row[:-1]).fetchone()
                if not traced and self._db.execute(_INSERT, row).rowcount:
                    added += 1
                elif call.status != OK or self.get_many([call.key])[call.key].probs == call.probs:
                    known += 1
                else:
                    kept += 1
        return Merged(added, known, kept)

    def get_many(self, keys: Sequence[str]) -> dict[str, Call]:
        """The answers among these keys. Errors and replies off the menu are never among them."""
        wanted = "key IN (SELECT value FROM json_each(?))"
        return {call.key: call for _, call in self._rows(f"status = '{OK}' AND {wanted}", json.dumps(keys))}

    def replied(self, queries: Sequence[str]) -> set[str]:
        """The keys of those calls of these queries that have had a reply, an answer or not."""
        wanted = f"SELECT key FROM calls WHERE {_REPLIED} AND query IN (SELECT value FROM json_each(?))"
        return {key for (key,) in self._db.execute(wanted, (json.dumps(queries),))}

    def set_aside(self, tries: int, most: int, **columns: str) -> list[Call]:
        """One call of each of `most` keys that have no answer and so many replies, with these values in columns."""
        where, *values = _which(None, **columns)
        keys = f"SELECT max(id) FROM calls WHERE {_REPLIED} AND {where} GROUP BY key HAVING count(*) = ?"
        wanted = f"id IN ({keys} AND max(status = '{OK}') = 0 ORDER BY key LIMIT ?)"
        return [call for _, call in self._rows(wanted, *values, tries, most)]

    def labelled(self, **columns: str) -> tuple[int, int]:
        """Queries with these values in columns: those that have an answer, and those that have none but replies."""
        where, *values = _which(None, **columns)
        queries = f"SELECT max(status = '{OK}') AS answered FROM calls WHERE {_REPLIED} AND {where} GROUP BY query"
        answered, count = self._db.execute(
            f"SELECT coalesce(sum(answered), 0), count(*) FROM ({queries})", values
        ).fetchone()
        return answered, count - answered

    def last_row(self) -> int:
        """Number of the row written last, 0 before the first."""
        return self._number("SELECT coalesce(max(id), 0) FROM calls")

    def calls(self, task: str | None = None, options: str | None = None, *, answers_only: bool = True) -> list[Call]:
        """Calls in the order of writing, of one task and option digest if they are given."""
        kind = "answers" if answers_only else None
        return [call for _, call in self._rows(*_which(kind, task=task, options=options))]

    def calls_after(self, row: int) -> list[Call]:
        """What was written after that row."""
        return [call for _, call in self._rows("id > ?", row)]

    def last_calls(self, count: int, task: str | None = None, kind: str | None = None) -> list[tuple[int, Call]]:
        """The last calls with their row numbers, oldest first, of one task and one of `KINDS` if they are given."""
        where, *values = _which(kind, task=task)
        last = f"id IN (SELECT id FROM calls WHERE {where} ORDER BY id DESC LIMIT ?)"
        return list(self._rows(last, *values, count))

    def latencies(self, after: int = 0) -> list[float]:
        """Seconds that each reply took, shortest first, of the rows after that one; errors and fallbacks left out."""
        where = f"id > ? AND seconds > 0 AND {_REPLIED}"
        found = self._db.execute(f"SELECT seconds FROM calls WHERE {where} ORDER BY 1", (after,))
        return [seconds for (seconds,) in found]

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

    def _rows(self, where: str, *values: Any) -> Iterator[tuple[int, Call]]:
        """Numbers and calls of rows, in the order of writing."""
        seal = "seal" if self._sealed else "''"
        select = f"SELECT id,{seal},{','.join(_COLUMNS)} FROM calls WHERE {where} ORDER BY id"
        with self._explained(f"mv {self.path} {self.path}.damaged  # then repeat the command, which asks anew"):
            for row, found, *columns in self._db.execute(select, values):
                if found not in ("", digest_of(columns)):
                    raise ValueError(f"row {row} is damaged")
                named: dict[str, Any] = dict(zip(FIELDS, columns[-len(FIELDS) :], strict=True))
                yield row, Call(**named | {name: tuple(json.loads(named[name])) for name in _JSON})

    def _number(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])

    def __len__(self) -> int:
        return self._number("SELECT count(*) FROM calls")

    def __exit__(self, *raised: object) -> None:
        self.close()


def _which(kind: str | None, **columns: str | None) -> tuple[str, ...]:
    """A condition on rows, and its values: of a kind, and with these values where they are not None."""
    given = {column: value for column, value in columns.items() if value is not None}
    return " AND ".join([KINDS[kind] if kind else "1", *(f"{column} = ?" for column in given)]), *given.values()


def _to_row(call: Call) -> tuple[Any, ...]:
    values = {name: getattr(call, name) for name in _COLUMNS} | {"created": call.created or time.time()}
    row = [json.dumps(value) if name in _JSON else _storable(value) for name, value in values.items()]
    return (*row, digest_of(row))


def _seal_of(state: bytes) -> str:
    return hashlib.sha256(state).hexdigest()[:16]


def _storable(value: Any) -> Any:
    """Text without the lone surrogates that a server's JSON may hold, and that no file can."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
