"""The page over a session, with FastAPI. The first part of every path is the token; without it nothing is told.

The session is handed over by `main.py`. Everything is relative to `/TOKEN/`:

    GET  .                 the page, and page.css, page.js
    GET  about             the task and its options
    GET  state             the question, what is next, how far the work is; `?who=NAME` for another person
    POST answers           an answer; 409 if the question is answered already, 400 if the option is not legal there
    POST undo              take back one's last answer; 409 if none stands
    GET  frames/N/T.png    a picture; 204 while it is being drawn
    GET  agreement         how far those who answered agree
    GET  ledger.jsonl      everything that was asked and said

What is posted is answered with the new state, so that one round trip takes the page to the next question.
"""

import hmac
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ground.errors import UserError

PAGE = Path(__file__).parent / "page"
_GUARDS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_Name = Annotated[str, Field(min_length=1, max_length=60)]


class Session(Protocol):
    """What the page needs; `who` is a person, or None for the one who started the page."""

    def about(self) -> dict[str, Any]:
        """The task and its options."""

    def state(self, who: str | None = None) -> dict[str, Any]:
        """What is shown."""

    def answer(
        self,
        who: str | None,
        question: tuple[int, int, int],
        option: int | None,
        start: int | None = None,
        stop: int | None = None,
        seconds: float = 0.0,
    ) -> bool:
        """Keep an answer; false if the question is answered. Raises `ValueError` and `UserError`."""

    def undo(self, who: str | None = None) -> bool:
        """Take back the last answer; false if none stands. Raises `UserError`."""

    def frame(self, trajectory: int, step: int) -> bytes | None:
        """A picture as PNG, or None while there is none."""

    def agreement(self) -> list[dict[str, Any]]:
        """How far those who answered agree."""

    def lines(self) -> bytes:
        """The ledger."""


class Undo(BaseModel):
    """Who takes an answer back."""

    who: _Name | None = None


class PostedAnswer(Undo):
    """An answer as the page sends it; without an option it is an abstention."""

    question: tuple[int, int, int]
    option: int | None = None
    start: int | None = None
    stop: int | None = None
    seconds: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)


class _TokenCheck:
    """Takes the token off the path, or answers 403; guards every reply by headers."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_GUARDS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        app = self._app
        if scope["type"] == "http":
            given, slash, rest = scope["path"].removeprefix("/").partition("/")
            scope = {**scope, "path": f"/{rest}", "raw_path": None}
            if not hmac.compare_digest(given.encode(), self._token.encode()):
                app = _failure("This page needs the address that `main.py label` printed, with the token in it.", 403)
            elif not slash:  # relative addresses would leave the token out
                app = Response(status_code=307, headers={"Location": f"/{self._token}/"})
        await app(scope, receive, guarded)


def create_app(session: Session, token: str) -> FastAPI:
    """The application. Its functions run in threads, so that none waits for another's disk."""
    app = FastAPI(title="Preceptor's labelling page", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_TokenCheck, token=token)
    app.get("/about")(session.about)

    @app.get("/state")
    def state(who: str | None = None) -> dict[str, Any]:
        return session.state(who)

    @app.post("/answers")
    def answer(posted: PostedAnswer, reply: Response) -> dict[str, Any]:
        given = posted.question, posted.option, posted.start, posted.stop, posted.seconds
        reply.status_code = 200 if session.answer(posted.who, *given) else 409
        return session.state(posted.who)

    @app.post("/undo")
    def undo(posted: Undo, reply: Response) -> dict[str, Any]:
        reply.status_code = 200 if session.undo(posted.who) else 409
        return session.state(posted.who)

    @app.get("/frames/{trajectory}/{step}.png")
    def frame(trajectory: int, step: int) -> Response:
        picture = session.frame(trajectory, step)
        if picture is None:
            return Response(status_code=204)
        return Response(picture, media_type="image/png", headers={"Cache-Control": "private, max-age=86400"})

    @app.get("/agreement")
    def agreement() -> dict[str, Any]:
        return {"pairs": session.agreement()}

    @app.get("/ledger.jsonl")
    def ledger() -> Response:
        attached = {"Content-Disposition": 'attachment; filename="ledger.jsonl"'}
        return Response(session.lines(), media_type="application/jsonl", headers=attached)

    app.mount("/", StaticFiles(directory=PAGE, html=True))

    @app.exception_handler(RequestValidationError)
    def not_understood(request: object, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return _failure(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", 400)

    app.add_exception_handler(ValueError, lambda request, error: _failure(str(error), 400))
    app.add_exception_handler(UserError, lambda request, error: _failure(str(error), 507))
    return app


def _failure(why: str, status: int) -> JSONResponse:
    return JSONResponse({"error": why}, status)
