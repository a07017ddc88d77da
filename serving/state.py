"""What is known of servers on the disk: LOGDIR/serving/BACKEND-PORT/server.json, which its launcher writes."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from ground.atomic import write_json
from ground.errors import UserError
from serving.processes import END_SECONDS, birth, group_members, is_of, kill, wait_until

FILE = "server.json"
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
        since: When it was started, ISO 8601.
        folder: Where its file and its logs are.
        parts: Its processes.
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
    folder: str
    parts: tuple[Part, ...] = ()
    what: str = ""
    next_step: str = ""

    @property
    def port(self) -> str:
        """Where it listens."""
        return self.url.rpartition(":")[2]

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
        write_json(Path(self.folder) / FILE, asdict(self))

    def forget(self) -> None:
        """Remove its file; the logs stay."""
        (Path(self.folder) / FILE).unlink(missing_ok=True)

    def stop(self) -> None:
        """End it with all that belongs to it, and forget it: ask the launcher, then kill it."""
        if self.alive:
            kill(self.pid, signal.SIGTERM)
            if not wait_until(lambda: not self.alive, 2 * END_SECONDS):
                kill(self.pid)
        self.clear()

    def clear(self) -> None:
        """End what a launcher that is gone left behind, and forget it. Raises `UserError` if something does not end."""
        if not wait_until(lambda: not self.left, END_SECONDS):  # its watchdogs end what it started
            for pid in self.left:
                kill(pid)
            if not wait_until(lambda: not self.left, END_SECONDS):
                raise UserError(f"Processes of {self.name} do not end: {self.left}.", f"ps -fp {self.left[0]}")
        self.forget()


def read(folder: Path) -> State | None:
    """The server of a folder, `stale` if its launcher is gone; None if there is none, or it cannot be read."""
    try:
        state = replace(TypeAdapter(State).validate_json((folder / FILE).read_bytes()), folder=str(folder))
    except (OSError, ValueError):
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
