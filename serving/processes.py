"""Processes of a server: started, told apart from later ones with the same number, and ended with all they started."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serving import watchdog

PROC = Path("/proc")
GRACE_SECONDS = 10.0  # between asking a process to end and killing it
END_SECONDS = 2 * GRACE_SECONDS
_READ_BYTES, _SHOWN_LINES = 32_768, 15  # of a log


@dataclass(frozen=True)
class Command:
    """A process that a server consists of.

    Attributes:
        name: What it is called, in messages and as its log's name.
        words: Program and arguments.
        port: Where it listens once it is up.
        needs: Port of another command, which has to listen before this one is started.
        env: What it finds in its environment on top of the launcher's own.
    """

    name: str
    words: tuple[str, ...]
    port: int
    needs: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)


class Running:
    """A command that was started under a watchdog, its output going to a log file.

    Attributes:
        command: What was started.
        log: File with all it wrote.
        pid: Process id of the command itself, which leads its process group.
    """

    def __init__(self, command: Command, folder: Path, env: Mapping[str, str]) -> None:
        self.command = command
        self.log = folder / f"{command.name}.log"
        with self.log.open("ab") as log:
            self._before = log.tell()
            self._watchdog = subprocess.Popen(
                [sys.executable, "-I", "-S", watchdog.__file__, str(GRACE_SECONDS), *command.words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env={**env, **command.env},
                start_new_session=True,  # Ctrl-C on the terminal is for the launcher, which ends things in order
            )
        assert self._watchdog.stdout
        with self._watchdog.stdout as output:
            self.pid = int(output.readline() or 0)

    @property
    def code(self) -> int | None:
        """Exit code, 128 + n if signal n ended it; None while it runs."""
        code = self._watchdog.poll()
        if code is not None and code < 0 and self.pid:  # the watchdog itself was killed, so its work is done here
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        return 128 - code if code is not None and code < 0 else code

    def release(self) -> None:
        """Let its watchdog end it: TERM, and KILL after a while. Returns at once."""
        assert self._watchdog.stdin
        with contextlib.suppress(BrokenPipeError):
            self._watchdog.stdin.close()

    def said(self, lines: int) -> str:
        """The end of what it wrote, which does not begin before it was started."""
        return tail(self.log, lines, self._before)

    def end(self) -> None:
        """Wait until it has ended, with all that it started; END_SECONDS at most, then by force."""
        self.release()
        try:
            self._watchdog.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._watchdog.kill()
            self._watchdog.wait()
        _ = self.code


def tail(log: Path, lines: int, start: int = 0) -> str:
    """The last lines of a file after its byte `start`, as far as they lie in its last bytes; empty if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - _READ_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def with_log(what: str, log: Path) -> str:
    """A message, and the end of a log below it."""
    return "\n".join([what, *(f"  | {line[:200]}" for line in tail(log, _SHOWN_LINES).splitlines())])


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def birth(pid: int) -> str | None:
    """When a process was started, which no later process with its number shares; None if it is gone or a zombie."""
    stat = _stat(pid)
    return f"{_boot()}/{stat[19]}" if stat and stat[0] not in "ZX" else None


def is_of(group: int, born: str | None) -> bool:
    """Whether a process group with that number is still the one whose leader was born then, and may have ended."""
    return born is not None and born.startswith(_boot()) and birth(group) in (born, None)


def group_members(group: int) -> list[int]:
    """Processes of a process group, zombies left out."""
    stats = {int(entry.name): _stat(entry.name) for entry in PROC.glob("[0-9]*")}
    return [pid for pid, stat in stats.items() if stat and stat[2] == str(group) and stat[0] not in "ZX"]


def _stat(pid: int | str) -> list[str]:
    """What the kernel says of a process after its name: state, parent, group, ...; empty if it is gone."""
    with contextlib.suppress(OSError):
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return []


def _boot() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition came true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
