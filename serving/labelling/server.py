"""Serves the page on this machine alone, until the person ends it."""

import contextlib
import socket
import webbrowser
from collections.abc import Callable

from serving.labelling.app import Session, create_app
from serving.ports import serve_app

HOST = "127.0.0.1"
_GRACE_SECONDS = 1


def serve_page(door: socket.socket, session: Session, token: str, tell: Callable[[str], None], browser: bool) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        door: The socket that holds the port, on `HOST`.
        session: What is asked.
        token: What the address must hold.
        tell: Says where the page is.
        browser: Open it there.
    """
    address = f"http://{HOST}:{door.getsockname()[1]}/{token}/"
    door.listen()  # so that a browser that follows the address at once is answered
    tell(f"label at {address}  (Ctrl-C ends it; everything said is kept)")
    if browser:
        with contextlib.suppress(webbrowser.Error):
            webbrowser.open(address)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn stops at it, and then raises it again
        serve_app(create_app(session, token), door, _GRACE_SECONDS)
