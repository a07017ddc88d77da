"""Runs one command, and ends it when its starter dies, even by kill -9: `watchdog.py SECONDS COMMAND...`.

The starter holds the other end of standard input and never writes to it, so that its end of file means that the starter
is gone. The command leads a process group of its own, which ends as a whole, with all that it started. The command's
process id is the first line on standard output. Linux alone; the standard library alone, since one of these runs beside
every process of a server.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def watch(grace: float, command: list[str]) -> int:
    """Run the command to its end, or to that of standard input; its exit code, 128 + n if signal n ended it.

    Args:
        grace: Seconds between asking it to end and killing it.
        command: Program and arguments.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans of the command become children of this process
    for number in _SIGNALS:
        signal.signal(number, lambda *_: sys.exit())
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        process_group=0,
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
    )
    ended = os.pidfd_open(child.pid)
    try:
        os.write(sys.stdout.fileno(), f"{child.pid}\n".encode())
        os.close(sys.stdout.fileno())
        select.select([sys.stdin, ended], [], [])
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        _signal_group(child.pid, signal.SIGTERM)
        select.select([ended], [], [], grace)
        _signal_group(child.pid, signal.SIGKILL)  # not waited for yet, so the number is still the command's own
        code = child.wait()
        _end_orphans()
    return 128 - code if code < 0 else code


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _end_orphans() -> None:
    """End what the command started in other groups, generation by generation."""
    while orphans := [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _parent(pid) == os.getpid()]:
        for pid in orphans:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _parent(pid: int) -> int | None:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])
    return None


if __name__ == "__main__":
    sys.exit(watch(float(sys.argv[1]), sys.argv[2:]))
