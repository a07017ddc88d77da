"""The labelling page, with FastAPI, over a session that `main.py` hands over.

The first part of every path is the token; without it nothing is told. What is posted is answered with the new state, so
that one round trip takes the page to the next question: with status 409 if that question is answered already, or
nothing of one's own stands to be taken back.
"""

import contextlib
import hmac
import socket
import webbrowser
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import Body, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.exceptions import HTTPException

from preceptor.ground.errors import UserError
from preceptor.ground.ranges import PersonName
from preceptor.serving.page import GUARDS, PageFiles
from preceptor.serving.ports import serve_app
from preceptor.serving.request_limits import RequestLimits

HOST = "127.0.0.1"
MOST_BYTES = 2**16  # of an answer
PAGE = Path(__file__).parent / "page"
_Name = Annotated[PersonName | None, Body(embed=True)]


class PageSession(Protocol):
    """What the page needs: `preceptor.agent.labelling.session.Session` says what each method does."""

    state: Callable[..., dict[str, Any]]
    answer: Callable[..., bool]
    undo: Callable[[str | None], bool]
    frame: Callable[[int, int], bytes | None]
    agreement: Callable[[], list[dict[str, Any]]]
    lines: Callable[[], bytes]


def create_app(session: PageSession, token: str) -> FastAPI:
    """The application. Its functions run in threads, so that none waits for another's disk."""
    app = FastAPI(title="Preceptor's labelling page", docs_url=None, redoc_url=None, openapi_url=None)
    app.get("/state")(session.state)
    app.get("/agreement")(session.agreement)

    @app.post("/answers")
    def answer(
        reply: Response,
        question: Annotated[tuple[int, int, int], Body()],
        option: Annotated[int | None, Body()] = None,
        interval: Annotated[tuple[int, int] | None, Body()] = None,
        seconds: Annotated[float, Body(ge=0.0, allow_inf_nan=False)] = 0.0,
        who: _Name = None,
    ) -> dict[str, Any]:
        reply.status_code = 200 if session.answer(who, question, option, interval, seconds) else 409
        return session.state(who)

    @app.post("/undo")
    def undo(reply: Response, who: _Name = None) -> dict[str, Any]:
        reply.status_code = 200 if session.undo(who) else 409
        return session.state(who)

    @app.get("/frames/{trajectory}/{step}.png")
    def frame(trajectory: int, step: int) -> Response:
        picture = session.frame(trajectory, step)
        if picture is None:  # it is being drawn
            return Response(status_code=204)
        return Response(picture, media_type="image/png", headers={"Cache-Control": "private, max-age=86400"})

    @app.get("/ledger.jsonl")
    def ledger() -> Response:
        attached = {"Content-Disposition": 'attachment; filename="ledger.jsonl"'}
        return Response(session.lines(), media_type="application/jsonl", headers=attached)

    app.mount("/", PageFiles(PAGE))
    app.add_middleware(RequestLimits, host=HOST, most_bytes=MOST_BYTES, refuse=_failure)

    @app.middleware("http")
    async def guard(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        given, slash, rest = request.scope["path"].removeprefix("/").partition("/")
        request.scope.update(path=f"/{rest}", raw_path=None)
        if not hmac.compare_digest(given.encode(), token.encode()):
            reply = _failure(403, "This page needs the address that `main.py label` printed, with the token in it.")
        elif not slash:  # relative addresses would leave the token out
            reply = RedirectResponse(f"/{token}/")
        else:
            reply = await proceed(request)
        reply.headers.update(GUARDS)
        reply.headers.setdefault("Cache-Control", "no-store")
        return reply

    def not_understood(request: object, error: Any) -> Response:
        return _failure(400, "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()))

    app.add_exception_handler(HTTPException, lambda request, error: _failure(error.status_code, error.detail))
    app.add_exception_handler(RequestValidationError, not_understood)
    app.add_exception_handler(ValueError, lambda request, error: _failure(400, str(error)))
    app.add_exception_handler(UserError, lambda request, error: _failure(507, str(error)))
    return app


def _failure(status: int, why: str) -> Response:
    return JSONResponse({"error": why}, status)


def serve_page(
    port: socket.socket, session: PageSession, token: str, tell: Callable[[str], None], browser: bool
) -> None:
    """Serve on a socket that holds its port on `HOST`, until SIGINT or SIGTERM; `tell` says where the page is."""
    address = f"http://{HOST}:{port.getsockname()[1]}/{token}/"
    port.listen()  # so that a browser that follows the address at once is answered
    tell(f"label at {address}  (Ctrl-C ends it; everything said is kept)")
    if browser:
        webbrowser.open(address)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn stops at it, and then raises it again
        serve_app(create_app(session, token), port, grace_seconds=1)
