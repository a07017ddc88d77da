"""Ports: held before anything slow happens, served on, found free, and asked whether something listens."""

import contextlib
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import tyro

from preceptor.ground.errors import UserError


def bound(host: str, port: int) -> socket.socket:
    """A socket that holds a port and does not listen yet, so that connections are refused.

    Raises:
        UserError: The port is taken, or the address is not this machine's.
    """
    # asyncio sets TCP_NODELAY on sockets that say they are TCP; without it a reply waits 40 ms for an acknowledgement.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    held = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past connections that linger
    try:
        held.bind((host, port))
    except OSError as error:
        held.close()
        what = f"Port {port} of {host} cannot be had: {error.strerror or error}."
        raise UserError(
            what, f"ss -ltnp sport = :{port}  # what has it; then end that, or give another --port"
        ) from error
    return held


def free_ports(number: int) -> list[int]:
    """So many different ports of the loopback address on which nothing listens, chosen by the kernel."""
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(bound("127.0.0.1", 0)).getsockname()[1] for _ in range(number)]


def listens(port: int) -> bool:
    """Whether connections to the loopback address are accepted there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2.0):
        return True
    return False


def server(app: Any, grace_seconds: int, **more: Any) -> Any:
    """The `uvicorn.Server` of an application; replies under way have so many seconds left when it ends.

    Without `more` settings of uvicorn, there are no WebSockets.
    """
    import uvicorn

    from preceptor.serving.request_limits import Punctual

    settings: dict[str, Any] = {"log_level": "warning", "access_log": False, "lifespan": "off"}
    settings |= {"timeout_graceful_shutdown": grace_seconds, "http": Punctual, "ws": "none"}
    return uvicorn.Server(uvicorn.Config(app, **settings | more))


def serve_app(app: Any, held: socket.socket, grace_seconds: int, **more: Any) -> None:
    """Serve on a socket that holds its port, until SIGINT or SIGTERM; `more` is as for `server`."""
    server(app, grace_seconds, **more).run(sockets=[held])


def run_program(serve: Callable[..., None]) -> None:
    """A server as a program: its flags are the arguments of a function, which serves until SIGINT or SIGTERM."""
    # uvicorn stops at these, and then raises them again for the handlers that it found.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        tyro.cli(serve)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
