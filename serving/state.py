"""What is known of servers on the disk: LOGDIR/serving/BACKEND-PORT/server.json, which its launcher writes."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Literal

from ground.errors import UserError
from serving.processes import END_SECONDS, birth, group_members, is_of, wait_until

FILE, SCHEMA = "server.json", 1
Status = Literal["starting", "ready", "restarting", "failed", "stale"]


@dataclass(frozen=True)
class Part:
    """One process of a server: its id, its birth, its log, and how often it was started again."""

    name: str
    pid: int
    born: str | None
    log: str
    restarts: int = 0


@dataclass(frozen=True)
class State:
    """A server, as its launcher last wrote it down.

    Attributes:
        name: BACKEND-PORT.
        status: `stale` is never written: its launcher is gone.
        url: Where it is, without /v1.
        model: Folder or id.
        served: Name by which clients ask for it.
        pid: The launcher.
        born: The launcher's birth; with the pid it names one process for ever.
        parts: Its processes.
        since: When it was started, ISO 8601.
        what: If it failed, what happened.
        next_step: And what to do.
    """

    name: str
    status: Status
    url: str
    model: str
    served: str
    pid: int
    born: str | None
    since: str
    parts: tuple[Part, ...] = ()
    what: str = ""
    next_step: str = ""
    folder: str = field(default="", compare=False)

    @property
    def alive(self) -> bool:
        """Whether its launcher runs: the process with that number, and not a later one."""
        return self.born is not None and birth(self.pid) == self.born

    @property
    def left(self) -> list[int]:
        """Processes of it that still run, whatever became of its launcher."""
        return [pid for part in self.parts if is_of(part.pid, part.born) for pid in group_members(part.pid)]

    def write(self) -> None:
        """Replace its file in one step."""
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".{FILE}.{os.getpid()}"
        draft.write_text(json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n")
        draft.replace(folder / FILE)

    def forget(self) -> None:
        """Remove its file; the logs stay."""
        (Path(self.folder) / FILE).unlink(missing_ok=True)

    def stop(self) -> None:
        """End it with all that belongs to it, and forget it.

        The launcher is asked, then killed; its keepers then end what it started, and what is left is killed too.
        """
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
            if not wait_until(lambda: not self.alive, 2 * END_SECONDS):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
        self.bury()

    def bury(self) -> None:
        """End what a launcher that is gone left behind, and forget it. Raises `UserError` if something does not end."""
        if not wait_until(lambda: not self.left, END_SECONDS):
            for pid in self.left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not wait_until(lambda: not self.left, END_SECONDS):
                raise UserError(f"Processes of {self.name} do not end: {self.left}.", f"ps -fp {self.left[0]}")
        self.forget()


def read(folder: Path) -> State | None:
    """The server of a folder, `stale` if its launcher is gone; None if there is none, or it cannot be read."""
    try:
        stored = json.loads((folder / FILE).read_text())
        if stored.pop("schema") != SCHEMA:
            return None
        parts = tuple(Part(**part) for part in stored.pop("parts"))
        state = State(**{**stored, "parts": parts, "folder": str(folder)})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return state if state.status == "failed" or state.alive else replace(state, status="stale")


def known(logdir: str, *, backend: str | None = None, port: int | None = None) -> list[State]:
    """Every server that was started with this LOGDIR and not stopped."""
    folders = sorted((Path(logdir).resolve() / "serving").glob(f"{backend or '*'}-{port or '*'}"))
    return [state for folder in folders if (state := read(folder)) is not None]


@contextlib.contextmanager
def one_at_a_time(logdir: str) -> Iterator[None]:
    """Let one launcher at a time look whether a port is free and take it."""
    place = Path(logdir).resolve() / "serving"
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("w") as lock:
        flock(lock, LOCK_EX)
        yield
