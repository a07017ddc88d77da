"""`main.py label` as a process that tests start, kill and start again."""

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
    """A labelling page over runs in a log directory of its own.

    Attributes:
        address: With the token and a slash behind it; a page that comes back needs the same `port`.
    """

    def __init__(self, logs: Path, *words: str, port: int = 0) -> None:
        self.logs, self._said = logs, logs / "said.txt"
        command = [sys.executable, "main.py", "label", "--logdir", str(logs), "--no-browser", "--port", str(port)]
        with self._said.open("w") as said:
            self.process = subprocess.Popen([*command, *words], cwd=ROOT, stdout=said, stderr=said)
        deadline = time.monotonic() + _SECONDS
        while not (found := re.search(r"label at (\S+)", self.said())):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"no page: {self.said()}")
            time.sleep(0.05)
        self.address = found.group(1)
        self.port = int(httpx.URL(self.address).port or 0)

    def said(self) -> str:
        """What it printed."""
        return self._said.read_text()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)
