"""Runs one command, and ends it when its starter dies, even by kill -9: `watchdog.py SECONDS COMMAND...`.

The starter holds the other end of standard input and never writes to it, so that its end of file means that the starter
is gone. The command leads a process group, which ends as a whole, with all that it started. Its process id is the first
line on standard output. Linux and the standard library alone, since one of these runs beside every process of a server.
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
    """Run a command to its end, or to that of standard input; its exit code, 128 + n if signal n ended it.

    Between asking it to end and killing it are `grace` seconds.
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
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
            select.select([ended], [], [], grace)
            os.killpg(child.pid, signal.SIGKILL)  # not waited for yet, so the number is still the command's own
        code = child.wait()
        while orphans := [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _is_child(pid)]:
            for pid in orphans:  # of other groups, generation by generation
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
    return 128 - code if code < 0 else code


def _is_child(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[1] == str(os.getpid())
    return False


if __name__ == "__main__":
    sys.exit(watch(float(sys.argv[1]), sys.argv[2:]))
