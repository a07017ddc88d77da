"""Serves the page on this machine alone, until the person ends it."""

import contextlib
import socket
import webbrowser
from collections.abc import Callable

import uvicorn

from envs.errors import UserError
from serving.labelling.app import Session, create_app

_HOST = "127.0.0.1"
_GRACE_SECONDS = 1


def bound(port: int) -> socket.socket:
    """The door, before anything slow happens. Raises `UserError` if the port is in use."""
    # asyncio sets TCP_NODELAY on sockets that say they are TCP; without it a reply waits 40 ms for an acknowledgement.
    door = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((_HOST, port))
    except OSError as error:
        door.close()
        raise UserError(f"Port {port} cannot be had: {error.strerror or error}.", "give another with --port") from error
    return door


def serve_page(door: socket.socket, session: Session, token: str, tell: Callable[[str], None], browser: bool) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        door: From `bound`.
        session: Who asks.
        token: What the address must hold.
        tell: Says where the page is.
        browser: Open it there.
    """
    address = f"http://{_HOST}:{door.getsockname()[1]}/{token}/"
    config = uvicorn.Config(
        create_app(session, token),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    door.listen()  # whoever follows the address at once finds somebody
    tell(f"label at {address}  (Ctrl-C ends it; everything said is kept)")
    if browser:
        with contextlib.suppress(webbrowser.Error):
            webbrowser.open(address)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn stops at it, and then raises it again
        uvicorn.Server(config).run(sockets=[door])
