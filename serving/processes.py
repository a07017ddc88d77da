"""Processes of a server, each under a watchdog that ends it with all it started; and the ends of their logs."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from preceptor.serving import watchdog

GRACE_SECONDS = 10.0  # between asking a process to end and killing it
END_SECONDS = 2 * GRACE_SECONDS
PAUSE_SECONDS = 0.2
_READ_BYTES, _SHOWN_LINES = 16_384, 15  # of a log


class Command(NamedTuple):
    """A process that a server consists of; its log is NAME.log."""

    name: str
    words: tuple[str, ...]  # program and arguments
    port: int  # where it listens once it is up
    needs: int | None = None  # port of another command, which has to listen before


class Running:
    """A command that was started under a watchdog, with its log in a folder; `pid` leads its process group.

    The lock, a descriptor, is held until all that it started has ended, whatever becomes of the launcher.
    """

    def __init__(self, command: Command, folder: Path, env: dict[str, str], lock: int) -> None:
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
                env=env,
                pass_fds=[lock],
                start_new_session=True,  # Ctrl-C on the terminal is for the launcher, which ends things in order
            )
        assert self._watchdog.stdout
        with self._watchdog.stdout as output:
            self.pid = int(output.readline() or 0)

    def code(self) -> int | None:
        """Exit code, 128 + n if signal n ended it; None while it runs."""
        code = self._watchdog.poll()
        if code is None or code >= 0:
            return code
        if self.pid:  # the watchdog itself was killed, so its work is done here
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        return 128 - code

    def release(self) -> None:
        """Let its watchdog end it; returns at once."""
        assert self._watchdog.stdin
        with contextlib.suppress(BrokenPipeError):
            self._watchdog.stdin.close()

    def end(self) -> None:
        """Wait until it has ended, with all that it started; END_SECONDS at most, then by force."""
        self.release()
        try:
            self._watchdog.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._watchdog.kill()
            self._watchdog.wait()
        self.code()

    def said(self) -> str:
        """The end of what it wrote, which does not begin before it was started."""
        return tail(self.log, self._before)


def tail(log: Path, start: int = 0) -> str:
    """The end of a file, not before its byte `start`; empty if there is no file."""
    return log.read_bytes()[start:][-_READ_BYTES:].decode(errors="replace") if log.exists() else ""


def with_log(what: str, log: Path) -> str:
    """A message, and the end of a log below it."""
    return "\n".join([what, *(f"  | {line[:200]}" for line in tail(log).splitlines()[-_SHOWN_LINES:])])


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition came true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE_SECONDS / 2)
    return True
