"""What is known of servers on the disk: LOGDIR/serving/BACKEND-PORT/, which the launcher of each writes.

Two locks there tell what runs, whatever killed it: the launcher holds both, and each watchdog the second, which is free
again when nothing of the server is left. Process ids are for people, and for signals to a launcher that holds its lock.
"""

import contextlib
import fcntl
import os
import shlex
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from preceptor.ground.atomic import write_json
from preceptor.ground.errors import UserError
from preceptor.serving.config import KEY_VARIABLE, ServeConfig
from preceptor.serving.processes import END_SECONDS, wait_until
from preceptor.teacher.card import card_of

_FILE, _LAUNCHER, _WHOLE = "server.json", "launcher.lock", "whole.lock"
Status = Literal["starting", "ready", "restarting", "failed", "stale"]  # stale is never written: the launcher is gone


@dataclass
class ServerState:
    """A server, as its launcher last wrote it down, and as `serve --json` tells of it."""

    server: str  # BACKEND-PORT
    status: Status
    base_url: str
    model: str  # the name by which clients ask for it
    path: str  # its folder or id
    logs: str  # folder
    use: str  # command to be taught by it, or to play its agents
    stop: str  # command
    pid: int  # of the launcher
    since: str
    processes: dict[str, int] = field(default_factory=dict)  # ids by name
    restarts: dict[str, int] = field(default_factory=dict)
    what: str = ""  # if it failed, what happened
    next: str = ""  # and what to do

    @property
    def alive(self) -> bool:
        """Whether its launcher runs."""
        return _is_held(Path(self.logs) / _LAUNCHER)

    def write(self) -> None:
        """Replace its file in one step."""
        write_json(Path(self.logs) / _FILE, asdict(self))

    def forget(self) -> None:
        """Remove its file; the logs stay."""
        (Path(self.logs) / _FILE).unlink(missing_ok=True)

    def end(self) -> None:
        """End its launcher with all that belongs to it, wait for what one that is gone left behind, and forget it.

        Raises:
            UserError: Something does not end.
        """
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                if self.alive:
                    os.kill(self.pid, number)
            if wait_until(lambda: not _is_held(Path(self.logs) / _WHOLE), 2 * END_SECONDS):
                self.forget()
                return
        raise UserError(f"Processes of {self.server} do not end.", f"fuser -v {self.logs}/{_WHOLE}")


def new_state(config: ServeConfig) -> ServerState:
    """The server that this process is about to launch, from a resolved config."""
    return ServerState(
        server=config.name,
        status="starting",
        base_url=config.base_url,
        model=str(config.served_model_name),
        path=str(config.model),
        logs=str(config.folder),
        use=_use(config),
        stop=f"python main.py serve --stop --port {config.port}",
        pid=os.getpid(),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _use(config: ServeConfig) -> str:
    """A command that uses the server of a resolved config."""
    keyed, name = bool(os.environ.get(KEY_VARIABLE)), str(config.served_model_name)
    if config.backend == "agents":
        words = ["--compare", "served", "--server", config.base_url.removesuffix("/v1"), "--agent", name.split(",")[0]]
        return shlex.join(["python", "main.py", "eval", *words])
    train = ["python", "main.py", "train", "--teacher", "llm", "--base-url", config.base_url, "--model", name]
    card = card_of(str(config.model))
    for flag in ("prompt", "teacher_by", "task"):
        if flag in card:
            train += [f"--{flag.replace('_', '-')}", str(card[flag])]
    return (f"OPENAI_API_KEY=${KEY_VARIABLE} " if keyed else "") + shlex.join(train)


@contextlib.contextmanager
def launching(folder: Path) -> Iterator[int]:
    """Hold the locks of a server; the descriptor is of the lock that its watchdogs inherit. Raises `UserError`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LAUNCHER).open("w") as launcher, (folder / _WHOLE).open("w") as whole:
        for lock in (launcher, whole):
            if not wait_until(partial(_lock, lock.fileno(), fcntl.LOCK_EX), 1.0):  # --status holds it a moment
                raise UserError(f"Another command starts {folder.name}.", "python main.py serve --status")
        yield whole.fileno()


def known(logdir: str, *, backend: str | None = None, port: int | None = None) -> list[ServerState]:
    """Every server that was started with this LOGDIR and not stopped."""
    folders = sorted((Path(logdir).resolve() / "serving").glob(f"{backend or '*'}-{port or '*'}"))
    return [state for folder in folders if (state := read(folder)) is not None]


def read(folder: Path) -> ServerState | None:
    """The server of a folder, `stale` if its launcher is gone; None if there is none, or it cannot be read."""
    try:
        state = TypeAdapter(ServerState).validate_json((folder / _FILE).read_bytes())
    except (OSError, ValueError):
        return None
    state.logs = str(folder)
    if state.status != "failed" and not state.alive:
        state.status = "stale"
    return state


def _is_held(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        return not _lock(file.fileno(), fcntl.LOCK_SH)
    return False


def _lock(descriptor: int, kind: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        return True
    return False
