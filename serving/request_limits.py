"""What a server of ours lets in: requests to its own names, of a bounded size, that arrive in time."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import h11
from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

ARRIVE_SECONDS = 30.0  # for a request with its body
_LATE = b"The request did not arrive in time."
_LATE_REPLY = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(_LATE), _LATE)


class RequestLimits:
    """Middleware that refuses what is too large, announced or not, and what is asked of another name.

    A web page can let its own name point at this machine, and its script then reads what is answered (DNS rebinding).
    So the host that is asked for must be an address, this machine's name, or the one that the server was started with.

    Args:
        app: What is behind it. It reads no more than `most_bytes` of a body; then reading raises `HTTPException` 413.
        host: The host that the server was started with.
        most_bytes: Bytes that a body may have.
        refuse: A refusal in the shape of this application, from a status and words.
    """

    def __init__(self, app: ASGIApp, *, host: str, most_bytes: int, refuse: Callable[[int, str], Response]) -> None:
        self._app, self._most_bytes, self._refuse = app, most_bytes, refuse
        self._names = {"localhost", socket.gethostname().lower(), host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse at once, or hand on."""
        if scope["type"] == "websocket":
            return await (self._app if self._is_no_page(scope) else _denied)(scope, receive, send)
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        asked, length = Request(scope).headers, 0
        announced = asked.get("content-length", "")
        if not self._is_own(asked.get("host", "")):
            what = (
                "This server does not answer to the name in the request's Host: ask for its address, or for localhost."
            )
            return await self._refuse(421, what)(scope, receive, send)
        if announced.isdecimal() and int(announced) > self._most_bytes:
            return await self._refuse(413, self._too_large())(scope, receive, send)

        async def counted() -> Message:
            nonlocal length
            message = await receive()
            length += len(message.get("body", b""))
            if length > self._most_bytes:
                raise HTTPException(413, self._too_large())
            return message

        return await self._app(scope, counted, send)

    def _is_own(self, given: str) -> bool:
        try:
            name = (urlsplit(f"//{given}").hostname or "").removesuffix(".")
        except ValueError:
            return False
        with contextlib.suppress(ValueError):
            return bool(ip_address(name))
        return name in self._names

    def _is_no_page(self, scope: Scope) -> bool:
        """Whether a WebSocket is opened by a program: browsers let any web page open one, and say whose page it is."""
        asked = Headers(scope=scope)
        return self._is_own(asked.get("host", "")) and "origin" not in asked

    def _too_large(self) -> str:
        return f"The body has more than the {self._most_bytes} bytes that are allowed"


async def _denied(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a WebSocket; the server answers with HTTP's 403."""
    await receive()
    await send({"type": "websocket.close", "code": 1008})


class Punctual(H11Protocol):
    """uvicorn's HTTP/1.1, in which a request that does not arrive in `ARRIVE_SECONDS` is given up: uvicorn waits on."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:  # noqa: D102
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:  # noqa: D102
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        super().connection_lost(exc)
        self._stop()

    def _watch(self) -> None:
        """Let the time run while a request is arriving."""
        upgraded = self.transport.get_protocol() is not self  # a WebSocket has the connection now
        if upgraded or self.transport.is_closing() or self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(ARRIVE_SECONDS, self._give_up)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def _give_up(self) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # nothing was answered yet
            self.transport.write(_LATE_REPLY)
        self.transport.close()
