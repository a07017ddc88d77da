"""What the kernel knows of processes, for tests that kill them and count what is left."""

import contextlib
import os
import signal
from pathlib import Path


def stat(pid: int | str) -> list[str]:
    """State, parent, group, ... of a process; empty if it is gone or a zombie."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return words if words[0] not in "ZX" else []
    return []


def group_members(group: int) -> list[int]:
    stats = {int(entry.name): stat(entry.name) for entry in Path("/proc").glob("[0-9]*")}
    return [pid for pid, words in stats.items() if words and words[2] == str(group)]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
