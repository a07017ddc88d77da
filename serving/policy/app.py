"""The policy server with FastAPI: the same operations over HTTP, in JSON, and over a WebSocket, in msgpack."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from fastapi import APIRouter, Body, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from preceptor.agent.remote.wire import packed, unpacked
from preceptor.serving.keys import refusal
from preceptor.serving.page import PageFiles
from preceptor.serving.policy.measured import Measured
from preceptor.serving.policy.protocol import (
    Act,
    Acted,
    Array,
    Done,
    Exported,
    Failure,
    Label,
    Labelled,
    Open,
    Refused,
    Served,
    Session,
    Shown,
    Watched,
    misread,
)
from preceptor.serving.request_limits import RequestLimits

MOST_BYTES = 4 * 2**20  # of a request
MOST_SOCKETS = 1024
PAGE = Path(__file__).parent / "page"
_log = logging.getLogger("preceptor.policy")
_WORDS = """Sessions of play with trained agents. The same requests go over a WebSocket at /v1/ws, as msgpack maps with
`op` (open, act, label, reset, export, close) and the fields described here, one reply to each, in their order; a reply
with `error` is a refusal. Arrays are maps {dtype, shape, data} there, and nested lists here."""


class Answers(Protocol):
    """What an application asks: a `Service`, or what stands before several (`on_ray`)."""

    measured: Measured

    @property
    def alive(self) -> bool:
        """Whether it answers."""

    async def answer(self, op: Any, fields: dict[str, Any]) -> bytes:
        """The reply to a request, as a message of the wire. Raises `Refused`."""

    async def served(self) -> list[dict[str, Any]]:
        """What is served, as the protocol's `Served` tells of it."""

    async def reload(self, name: str) -> dict[str, Any]:
        """Load an agent again; what is then served. Raises `Refused`."""

    async def watched(self) -> list[dict[str, Any]]:
        """Sessions that play, as the protocol's `Watched` tells of them."""

    async def show(self, name: str, environment: int, after: int) -> dict[str, Any] | None:
        """What an environment of a session does, as the protocol's `Shown` tells of it. Raises `Refused`."""


def create_app(service: Answers, *, key: str = "", host: str = "127.0.0.1") -> FastAPI:
    """The application. It does not end the service.

    Args:
        service: What it does.
        key: The key that requests must carry; empty for none.
        host: Where it will listen.
    """

    def admit(given: str) -> None:
        """Raises `Refused`."""
        if why := refusal(key, given):
            raise Refused(
                401, why, "Authorization: Bearer KEY; who runs the server makes one: python main.py serve --key-days 30"
            )

    async def guard(request: Request) -> None:
        """Refuse who has no key."""
        admit(request.headers.get("authorization", ""))

    title = "Preceptor's policy server"
    app = FastAPI(title=title, description=_WORDS, docs_url=None, redoc_url=None, openapi_url=None)
    for raised in (Refused, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(raised, _refuse)
    app.add_middleware(Sockets, service=service, admit=admit)
    app.add_middleware(RequestLimits, host=host, most_bytes=MOST_BYTES, refuse=lambda *said: _error(Refused(*said)))
    app.include_router(_operations(service, guard))
    app.mount("/live", PageFiles(PAGE))  # without the key, which the page asks for and sends with what it asks

    @app.get("/health")
    async def health() -> Done:
        return Done()

    @app.get("/ready")
    async def ready() -> Done:
        if not service.alive:
            raise Refused(503, "The agents do not play any more.", retry_after=5.0)
        return Done()

    @app.get("/metrics", dependencies=[Depends(guard)])
    async def metrics() -> Response:
        return Response(service.measured.text(), media_type="text/plain; version=0.0.4")

    @app.get("/openapi.json", dependencies=[Depends(guard)])
    async def openapi() -> Response:
        return JSONResponse(app.openapi())

    return app


class Sockets:
    """Answers WebSockets, and hands all else on. FastAPI's way to them has so many layers that it doubles their work.

    A message is answered before the next one is read: who floods is slowed down by his own connection.
    """

    def __init__(self, app: ASGIApp, *, service: Answers, admit: Callable[[str], None]) -> None:
        self._app, self._service, self._admit, self._open = app, service, admit, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer until the client goes."""
        if scope["type"] != "websocket":
            return await self._app(scope, receive, send)
        key = Headers(scope=scope).get("authorization", "")
        try:
            if scope["path"] != "/v1/ws":
                raise Refused(404, f"There is no WebSocket at {scope['path']}.", "/v1/ws")
            self._admit(key)
            if self._open >= MOST_SOCKETS:
                raise Refused(429, f"{self._open} WebSockets are open.", "the same again", retry_after=5.0)
        except Refused as refused:
            return await WebSocket(scope, receive, send).send_denial_response(_error(refused))
        await receive()
        await send({"type": "websocket.accept"})
        self._count(1)
        try:
            while (message := await receive())["type"] != "websocket.disconnect":
                await send({"type": "websocket.send", "bytes": await self._reply(message.get("bytes"), key)})
        except OSError:  # the client has gone
            return None
        finally:
            self._count(-1)
        return None

    def _count(self, more: int) -> None:
        self._open += more
        self._service.measured.sockets.set(self._open)

    async def _reply(self, data: bytes | None, key: str) -> bytes:
        try:
            self._admit(key)  # it may have expired since
            ask = _message(data)
            return await self._service.answer(ask.pop("op", None), ask)
        except Refused as error:
            return packed({"error": error.body()})
        except Exception as error:
            _log.exception("a request failed")
            return packed({"error": Refused(500, f"The server failed: {type(error).__name__}: {error}").body()})


def _message(data: bytes | None) -> dict[str, Any]:
    """The map in a message. Raises `Refused`."""
    if data is None:
        raise Refused(422, "Messages are msgpack, in binary frames.")
    try:
        ask = unpacked(data)
    except ValueError as error:
        raise Refused(422, f"The message cannot be read: {error}.") from error
    if not isinstance(ask, dict) or not all(isinstance(name, str) for name in ask):
        raise Refused(422, "A message is a map with `op` and the fields of the request.")
    return ask


def _operations(service: Answers, guard: Any) -> APIRouter:
    """The operations over HTTP."""
    failures: Any = {status: {"model": Failure} for status in (401, 404, 409, 422, 429, 503)}
    api = APIRouter(prefix="/v1", dependencies=[Depends(guard), Depends(_is_json)], responses=failures)

    async def said(op: str, **fields: Any) -> Any:
        return unpacked(await service.answer(op, fields))

    @api.post("/sessions")
    async def open_session(ask: Open) -> Session:
        return Session(**await said("open", **ask.model_dump()))

    @api.post("/sessions/{session}/act")
    async def act(session: str, ask: Act) -> Acted:
        return Acted(**await said("act", **ask.model_dump() | {"session": session}))

    @api.post("/sessions/{session}/reset")
    async def reset(session: str) -> Done:
        return Done(**await said("reset", session=session))

    @api.get("/sessions/{session}/export")
    async def export(session: str) -> Exported:
        return Exported(**await said("export", session=session))

    @api.delete("/sessions/{session}")
    async def close(session: str) -> Done:
        return Done(**await said("close", session=session))

    @api.get("/agents")
    async def agents() -> list[Served]:
        return [Served(**each) for each in await service.served()]

    @api.post("/agents/{agent}/label")
    async def label(agent: str, obs: Array = Body(embed=True)) -> Labelled:  # noqa: B008
        return Labelled(**await said("label", **Label(agent=agent, obs=obs).model_dump()))

    @api.post("/agents/{agent}/reload")
    async def reload(agent: str) -> Served:
        return Served(**await service.reload(agent))

    @api.get("/live")
    async def live() -> list[Watched]:
        return [Watched(**each) for each in await service.watched()]

    @api.get("/live/{name}", responses={204: {"description": "No step was taken after that number."}})
    async def show(name: str, environment: int = 0, after: int = 0) -> Shown:
        found = await service.show(name, environment, after)
        return Shown(**found) if found else Response(status_code=204)  # type: ignore[return-value]

    return api


async def _is_json(request: Request) -> None:
    """Browsers let any web page send a body of another type here."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method == "POST" and kind != "application/json":
        raise Refused(415, "Requests are JSON, with the header content-type: application/json.")


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        error = Refused(error.status_code, f"{error.detail}: {request.method} {request.url.path}")
    elif isinstance(error, RequestValidationError):
        error = misread(error.errors())
    elif not isinstance(error, Refused):
        error = Refused(500, f"The server failed: {type(error).__name__}: {error}")
    return _error(error)


def _error(error: Refused) -> Response:
    headers = {} if error.retry_after is None else {"Retry-After": f"{error.retry_after:.0f}"}
    return JSONResponse({"error": error.body()}, error.status, headers)
