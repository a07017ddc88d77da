"""Ports: held before anything slow happens, served on, found free, and who listens on one."""

import contextlib
import errno
import os
import socket
from pathlib import Path
from typing import Any

from ground.errors import UserError

_LISTENING = "0A"  # as /proc/net/tcp writes it


def bound(host: str, port: int) -> socket.socket:
    """A socket that holds a port and does not listen yet, so that connections are refused.

    Raises:
        UserError: The port is taken, or the address is not this machine's.
    """
    try:
        return _bound(host, port)
    except OSError as error:
        raise UserError(f"Port {port} of {host} cannot be had: {error}.", "give another with --port") from error


def _bound(host: str, port: int) -> socket.socket:
    # asyncio sets TCP_NODELAY on sockets that say they are TCP; without it a reply waits 40 ms for an acknowledgement.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    held = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past connections that linger
    try:
        held.bind((host, port))
    except OSError:
        held.close()
        raise
    return held


def free_ports(number: int) -> list[int]:
    """So many different ports of the loopback address on which nothing listens, chosen by the kernel."""
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(_bound("127.0.0.1", 0)).getsockname()[1] for _ in range(number)]


def port_is_free(host: str, port: int) -> bool:
    """Whether one could listen there now. Raises `OSError` if the address is not this machine's."""
    try:
        with _bound(host, port) as probe:
            probe.listen()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


def serve_app(app: Any, door: socket.socket, grace_seconds: int) -> None:
    """Serve on a socket that holds its port, until SIGINT or SIGTERM; replies under way have so many seconds left."""
    import uvicorn

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=grace_seconds
    )
    uvicorn.Server(config).run(sockets=[door])


def listens(host: str, port: int) -> bool:
    """Whether connections are accepted there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2.0):
        return True
    return False


def holder(port: int) -> str:
    """What listens on a port, as far as the kernel tells: `process 123 (python -m http.server)`, else empty."""
    sockets = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # another user's process, or one that has just ended
            if any(os.readlink(fd) in sockets for fd in (process / "fd").iterdir()):
                said = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f"process {process.name} ({said[:120]})"
    return ""
