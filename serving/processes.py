"""Processes of a server: started, told apart from later ones with the same number, and ended with all they started."""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from serving import keeper

PROC = Path("/proc")
LISTENING = "0A"  # as /proc/net/tcp writes it
GRACE_SECONDS = 10.0  # between asking a process to end and killing it
END_SECONDS = 2 * GRACE_SECONDS


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
    """A command that was started beside its keeper, its output going to a log file.

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
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", keeper.__file__, str(GRACE_SECONDS), *command.words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env={**env, **command.env},
                start_new_session=True,  # Ctrl-C on the terminal is for the launcher, who ends things in order
            )
        self.pid = int(_pipe(self._keeper.stdout).readline() or 0)
        _pipe(self._keeper.stdout).close()

    @property
    def code(self) -> int | None:
        """Exit code, 128 + n if signal n ended it; None while it runs."""
        code = self._keeper.poll()
        if code is None:
            return None
        if code < 0 and self.pid:  # the keeper itself was killed, so its work is done here
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        return 128 - code if code < 0 else code

    def release(self) -> None:
        """Let its keeper end it: TERM, and KILL after a while. Returns at once."""
        with contextlib.suppress(BrokenPipeError):
            _pipe(self._keeper.stdin).close()

    def said(self, lines: int) -> str:
        """The end of what it wrote, which does not begin before it was started."""
        return tail(self.log, lines, self._before)

    def end(self) -> None:
        """Wait until it has ended, with all that it started; END_SECONDS at most, then by force."""
        self.release()
        try:
            self._keeper.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
        _ = self.code


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def tail(log: Path, lines: int, start: int = 0, most_bytes: int = 32_768) -> str:
    """The last lines of a file after its byte `start`, as far as they lie in its last bytes; empty if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - most_bytes))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def birth(pid: int) -> str | None:
    """When a process was started, which no later process with its number shares; None if it is gone or a zombie."""
    try:
        state, *rest = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else f"{_boot()}/{rest[18]}"


def is_of(group: int, born: str | None) -> bool:
    """Whether a process group with that number is still the one whose leader was born then, and may have ended."""
    return born is not None and born.startswith(_boot()) and birth(group) in (born, None)


def _boot() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def group_members(group: int) -> list[int]:
    """Processes of a process group, zombies left out."""
    members = []
    for entry in PROC.iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                state, _, number, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(number) == group and state not in "ZX":
                    members.append(int(entry.name))
    return members


def wait_until(condition: Callable[[], bool], seconds: float, pause: float = 0.1) -> bool:
    """Whether a condition came true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def free_ports(number: int) -> list[int]:
    """So many different ports of the loopback address on which nobody listens, chosen by the kernel."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def port_is_free(host: str, port: int) -> bool:
    """Whether one could listen there now. Raises `OSError` if the address is not this machine's."""
    with socket.socket(_family(host)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do, past connections that linger
        try:
            probe.bind((host, port))
            probe.listen()
        except PermissionError:
            raise
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
    return True


def listens(host: str, port: int) -> bool:
    """Whether somebody accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2.0):
        return True
    return False


def holder(port: int) -> str:
    """Who listens on a port, as far as the kernel tells: `process 123 (python -m http.server)`, else empty."""
    sockets = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{fields[9]}]")
    for entry in PROC.iterdir():
        with contextlib.suppress(OSError):  # another user's process, or one that has just ended
            if entry.name.isdigit() and any(os.readlink(fd) in sockets for fd in (entry / "fd").iterdir()):
                said = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f"process {entry.name} ({said[:120]})"
    return ""


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
