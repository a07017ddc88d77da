"""The label store: cache, trace, cost ledger and review queue in one SQLite file.

One row is one *call*: a prompt scored once, or sampled once. Calls that belong to the same scene, model and prompt
share a `query`. Rows with status `ok` are answers and are found again by their key; every other row (an error, a reply
off the menu) is kept as a trace and is never an answer. Rows are committed as they arrive, in write-ahead mode, so that
two processes may write at once and a kill -9 loses at most what was in flight. The store holds clean labels: noise is
applied after it.
"""

import contextlib
import hashlib
import json
import math
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from tenacity import Retrying, retry_if_exception_message, stop_after_delay, wait_random

from envs.errors import UserError

OK = "ok"
SCHEMA_VERSION = 1
# "PRCP" as SQLite's application id: a database of somebody else's is refused before anything is written into it.
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
class Identity:
    """What a call was about; its hash is the key of the row.

    Attributes:
        model: Identifier of the model, with the hash of its weights where they are known.
        prompt: Hash of the prompt template and the task's words in it, empty for teachers that read no prompt.
        task: Task name.
        options: Digest of the option space.
        facts: Facts of the scene.
        menu: Option indices in the order in which they were shown.
        sample: 0 for a scored choice; the number of the sample otherwise.
    """

    model: str
    prompt: str
    task: str
    options: str
    facts: tuple[str, ...]
    menu: tuple[int, ...]
    sample: int = 0

    # Computed once: with a small model in this process, hashing would be a large part of the time of a label.
    @cached_property
    def key(self) -> str:
        """Key of the call."""
        return _sha({name: getattr(self, name) for name in _IDENTITY})

    @cached_property
    def query(self) -> str:
        """Key of everything but the menu and the sample: the calls that are averaged into one label share it."""
        return _sha({name: getattr(self, name) for name in _IDENTITY if name not in ("menu", "sample")})


@dataclass(frozen=True)
class Call:
    """One row.

    Attributes:
        identity: What was asked of whom.
        scene: Text of the scene.
        legal: Option indices that were legal in the scene.
        source: Who answered, as in `Label.source`.
        method: How, as in `Label.method`.
        status: `ok`, a `ParseFailure`, or `error`.
        probs: Probability of each option of the task (length K), empty unless `ok`.
        reply: The text that came back, or the error.
        tokens: Prompt and completion tokens.
        seconds: Wall time of the call (a share of the batch where calls are batched).
        created: Unix time in seconds.
    """

    identity: Identity
    scene: str
    legal: tuple[int, ...]
    source: str
    method: str
    status: str
    probs: tuple[float, ...] = ()
    reply: str = ""
    tokens: int = 0
    seconds: float = 0.0
    created: float = 0.0


@dataclass(frozen=True)
class Ledger:
    """What one model cost: a line of the cost ledger."""

    model: str
    queries: int
    calls: int
    answers: int
    tokens: int
    seconds: float


class LabelStore:
    """Calls in a SQLite file, or in memory if `path` is None.

    Args:
        path: The file; created if missing unless `read_only`.
        read_only: Open an existing store without the right to write, for replay and reports.
        own: It belongs to the run that opens it, so that what is in it already was asked, and paid for, by that run.

    Raises:
        UserError: The file is missing (read-only), is not a label store, or was written by a newer version.
    """

    def __init__(self, path: Path | str | None = None, *, read_only: bool = False, own: bool = False) -> None:
        self.path, self.own, self._read_only = Path(path) if path is not None else None, own, read_only
        if read_only and (self.path is None or not self.path.is_file()):
            raise UserError(f"There is no label store at {self.path}.", "label some scenes first, or give another file")
        name = (
            ":memory:" if self.path is None else f"{self.path.resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}"
        )
        with self._explained("move the file away, or give another one with --labels"):
            self._db = sqlite3.connect(name, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
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

    def put_many(self, calls: Iterable[Call]) -> None:
        """Append calls in one transaction. A second answer under the same key is ignored: the first one stands.

        Raises:
            UserError: The disk is full, or the file is not writable any more.
        """
        rows = [_to_row(call) for call in calls]
        marks = ",".join("?" * len(_COLUMNS))
        room = f"df -h {self.path.parent if self.path else '.'}  # make room, then repeat the command with --resume"
        with self._explained(room), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(f"INSERT OR IGNORE INTO calls ({','.join(_COLUMNS)}) VALUES ({marks})", rows)

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

    def _select(self, where: str, values: Sequence[Any]) -> Iterable[Call]:
        cursor = self._db.execute(f"SELECT {','.join(_COLUMNS)} FROM calls WHERE {where} ORDER BY id", values)
        return (_from_row(row) for row in cursor)

    def digest(self) -> str:
        """Hash of the answers, whatever the order in which they came and the time that they took."""
        rows = self._db.execute(f"SELECT key, probs FROM calls WHERE status = '{OK}' ORDER BY key")
        return hashlib.sha256("\n".join(f"{key} {probs}" for key, probs in rows).encode()).hexdigest()[:16]

    def ledger(self) -> list[Ledger]:
        """Cost by model, dearest first."""
        rows = self._db.execute(
            "SELECT model, count(DISTINCT query), count(*), sum(status = ?), sum(tokens), sum(seconds)"
            " FROM calls GROUP BY model ORDER BY sum(tokens) DESC, model",
            (OK,),
        )
        return [Ledger(*row) for row in rows]

    def review(self, margin: float) -> list[Call]:
        """The review queue: the last call of each query without an answer, or with its best two options in `margin`."""
        queries: dict[str, list[Call]] = {}
        for call in self.calls(answers_only=False):
            queries.setdefault(call.identity.query, []).append(call)
        return [calls[-1] for calls in queries.values() if top_margin(mean_probs(calls)) < margin]

    def close(self) -> None:
        """Close the file; the write-ahead log is merged into it."""
        with contextlib.suppress(sqlite3.Error):
            # Out of write-ahead mode, if nobody else is in it: only then can a folder without write permission be read.
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


def mean_probs(calls: Sequence[Call]) -> tuple[float, ...]:
    """Mean of the answers among the calls of one query, empty if there is none."""
    answers = [call.probs for call in calls if call.status == OK]
    # Exact sums: answers come in any order, and a replay must give the same label to the digit.
    return tuple(math.fsum(column) / len(answers) for column in zip(*answers, strict=True))


def top_margin(probs: Sequence[float]) -> float:
    """Probability of the best option minus that of the second best; -1 for an empty sequence, which decides nothing."""
    best = sorted(probs, reverse=True)[:2]
    return best[0] - (best[1] if len(best) > 1 else 0.0) if best else -1.0


def _sha(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


_IDENTITY = tuple(f.name for f in fields(Identity))
_REST = tuple(f.name for f in fields(Call) if f.name != "identity")
_COLUMNS = ("key", "query", *_IDENTITY, *_REST)
_JSON = {"facts", "menu", "legal", "probs"}


def _to_row(call: Call) -> tuple[Any, ...]:
    values = {name: getattr(call.identity, name) for name in _IDENTITY} | {name: getattr(call, name) for name in _REST}
    values |= {"key": call.identity.key, "query": call.identity.query, "created": call.created or time.time()}
    return tuple(json.dumps(values[name]) if name in _JSON else values[name] for name in _COLUMNS)


def _from_row(row: tuple[Any, ...]) -> Call:
    values: dict[str, Any] = {
        name: tuple(json.loads(value)) if name in _JSON else value for name, value in zip(_COLUMNS, row, strict=True)
    }
    return Call(
        identity=Identity(**{name: values[name] for name in _IDENTITY}), **{name: values[name] for name in _REST}
    )
