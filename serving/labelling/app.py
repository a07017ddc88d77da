"""The page over a session, with FastAPI. The first part of every path is the token; without it nothing is told.

The session is whatever `main.py` hands over; this says what is asked of it. Everything is relative to `/TOKEN/`:

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
from typing import Any, Protocol

from fastapi import FastAPI, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.types import ASGIApp, Receive, Scope, Send

from ground.errors import UserError

PAGE = Path(__file__).parent / "page"
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_GUARDS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_NOTHING_YET = 204


class Session(Protocol):
    """What the page needs of whoever asks; `who` is a person, or None for the one who started the page."""

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


class Said(BaseModel):
    """An answer as it is posted."""

    question: tuple[int, int, int]
    option: int | None = None
    start: int | None = None
    stop: int | None = None
    seconds: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    who: str | None = Field(default=None, min_length=1, max_length=60)


class Whose(BaseModel):
    """Who takes something back."""

    who: str | None = Field(default=None, min_length=1, max_length=60)


class _Gate:
    """Lets in who knows the token, and takes it off the path; says nothing but 403 to everybody else."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given, slash, rest = scope["path"].removeprefix("/").partition("/")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            refusal = "This page needs the address that `main.py label` printed, with the token in it."
            await JSONResponse({"error": refusal}, 403, headers=_GUARDS)(scope, receive, send)
        elif not slash:  # relative addresses would leave the token out
            await Response(status_code=307, headers={"Location": f"/{self._token}/"})(scope, receive, send)
        else:
            await self._app({**scope, "path": f"/{rest}", "raw_path": None}, receive, send)


def create_app(session: Session, token: str) -> FastAPI:
    """The application. Its functions run in threads, so that none waits for another's disk."""
    app = FastAPI(title="Preceptor's labelling page", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_Gate, token=token)

    @app.get("/about")
    def about() -> Response:
        return _json(session.about())

    @app.get("/state")
    def state(who: str | None = None) -> Response:
        return _json(session.state(who))

    @app.post("/answers")
    def answer(said: Said) -> Response:
        kept = session.answer(said.who, said.question, said.option, said.start, said.stop, said.seconds)
        return _json(session.state(said.who), 200 if kept else 409)

    @app.post("/undo")
    def undo(whose: Whose) -> Response:
        taken = session.undo(whose.who)
        return _json(session.state(whose.who), 200 if taken else 409)

    @app.get("/frames/{trajectory}/{step}.png")
    def frame(trajectory: int, step: int) -> Response:
        picture = session.frame(trajectory, step)
        if picture is None:
            return Response(status_code=_NOTHING_YET, headers=_GUARDS)
        return Response(picture, media_type="image/png", headers=_GUARDS | {"Cache-Control": "private, max-age=86400"})

    @app.get("/agreement")
    def agreement() -> Response:
        return _json({"pairs": session.agreement()})

    @app.get("/ledger.jsonl")
    def ledger() -> Response:
        attached = {"Content-Disposition": 'attachment; filename="ledger.jsonl"'}
        return Response(session.lines(), media_type="application/jsonl", headers=_GUARDS | attached)

    @app.get("/")
    def page() -> Response:
        return _file("index.html")

    @app.get("/{name}")
    def asset(name: str) -> Response:
        return _file(name)

    @app.exception_handler(ValueError)
    def not_legal(request: object, error: Exception) -> Response:
        return _json({"error": str(error)}, 400)

    @app.exception_handler(RequestValidationError)
    def not_understood(request: object, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return _json({"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}, 400)

    @app.exception_handler(UserError)
    def refused(request: object, error: UserError) -> Response:
        return _json({"error": str(error)}, 507)

    return app


def _json(what: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse(what, status, headers=_GUARDS)


def _file(name: str) -> Response:
    path = PAGE / name
    if path.parent != PAGE or path.suffix not in _KINDS or not path.is_file():
        return _json({"error": f"There is no {name!r} here."}, 404)
    return Response(path.read_bytes(), media_type=_KINDS[path.suffix], headers=_GUARDS)
