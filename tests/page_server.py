"""`main.py label` as a process that tests start, kill and start again."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]
_SECONDS = 240.0  # on a busy machine that compiles for the first time


class PageServer:
    """A labelling page over runs in a directory of its own.

    Args:
        logs: Its log directory.
        words: More flags.
        port: 0 for any free one; a page that comes back needs the same.

    Attributes:
        address: With the token and a slash behind it.
    """

    def __init__(self, logs: Path, *words: str, port: int = 0) -> None:
        self.logs = logs
        self._said = logs / "said.txt"
        command = [sys.executable, "main.py", "label", "--logdir", str(logs), "--no-browser", "--port", str(port)]
        with self._said.open("w") as said:
            self.process = subprocess.Popen([*command, *words], cwd=ROOT, stdout=said, stderr=said)
        self.address = self._wait()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(httpx.URL(self.address).port or 0)

    def said(self) -> str:
        """What it printed."""
        return self._said.read_text()

    def kill(self) -> None:
        """kill -9."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> int:
        """Ctrl-C; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def _wait(self) -> str:
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            found = re.search(r"label at (\S+)", self.said())
            if found:
                return found.group(1)
            assert self.process.poll() is None, self.said()
            time.sleep(0.05)
        self.process.kill()
        raise AssertionError(f"no page after {_SECONDS} seconds: {self.said()}")
