"""Runs one command, and takes it along when whoever started it dies, by whatever death: `keeper.py SECONDS COMMAND...`.

The starter holds the other end of standard input and never writes to it, so that its end of file means that the starter
is gone, even by kill -9. The command leads a process group of its own, which ends as a whole: what it started goes with
it. The command's process id is the first line on standard output. Linux alone; the standard library alone, since one of
these runs beside every process of a server.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def keep(grace: float, command: list[str]) -> int:
    """Run the command to its end, or to that of standard input; its exit code, 128 + n if signal n ended it.

    Args:
        grace: Seconds between asking it to end and killing it.
        command: Program and arguments.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans of the command come here, and are buried here

    def die_with_the_keeper() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit())
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        process_group=0,
        preexec_fn=die_with_the_keeper,
    )
    ended = os.pidfd_open(child.pid)
    try:
        os.write(sys.stdout.fileno(), f"{child.pid}\n".encode())
        os.close(sys.stdout.fileno())
        select.select([sys.stdin, ended], [], [])
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        select.select([ended], [], [], grace)
        # Not waited for yet, so the number is still the command's own and nobody else's group is hit.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        code = child.wait()
        _end_orphans()
    return 128 - code if code < 0 else code


def _end_orphans() -> None:
    """End what the command started in other groups, generation by generation: each orphan comes here."""
    while orphans := [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _parent(pid) == os.getpid()]:
        for pid in orphans:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _parent(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return int(stat.read().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


if __name__ == "__main__":
    sys.exit(keep(float(sys.argv[1]), sys.argv[2:]))
