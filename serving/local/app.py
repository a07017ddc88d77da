"""The OpenAI protocol over an engine, with FastAPI. Errors have OpenAI's shape, whoever finds them."""

import asyncio
import contextlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.local.engine import Engine, EngineStopped, Job
from serving.local.protocol import ChatRequest, CompletionRequest, Refused, validation_message
from serving.local.replies import Envelope, Stream, chat_choices, completion_choices, usage

T = TypeVar("T")

MOST_BYTES = 64 * 2**20
_CLOSED = 499  # nginx's status for a client that did not wait; nobody reads it


@dataclass(frozen=True)
class Served:
    """What the server says of its model.

    Attributes:
        name: The model id.
        root: Where it came from.
        prompt: The prompt template that it was trained on; empty if its folder names none.
        key: The key that requests must carry; empty for none.
    """

    name: str
    root: str
    prompt: str = ""
    key: str = ""


class _Gate:
    """Turns away requests without the key, and bodies beyond all measure, before they are read."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (_refused(refusal) if refusal is not None else self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Refused | None:
        headers = dict(scope["headers"])
        given = headers.get(b"authorization", b"").decode("latin-1")
        if self._key and scope["path"].startswith("/v1"):
            wanted = f"Bearer {self._key}"
            if not hmac.compare_digest(given.encode(), wanted.encode()):
                return Refused(401, "Incorrect API key provided.", code="invalid_api_key")
        length = headers.get(b"content-length", b"0").decode("latin-1")
        if length.isdecimal() and int(length) > MOST_BYTES:
            return Refused(413, f"The body has {length} bytes, and {MOST_BYTES} are allowed.")
        return None


def _refused(refusal: Refused) -> JSONResponse:
    return JSONResponse(refusal.body(), refusal.status)


def create_app(engine: Engine, served: Served) -> FastAPI:
    """The application. Whoever made the engine closes it."""
    app = FastAPI(title="Preceptor's local model", docs_url=None, redoc_url=None)
    app.add_middleware(_Gate, key=served.key)
    desk = _Desk(engine, served)
    card = {
        "id": served.name,
        "object": "model",
        "created": Envelope(chat=False, model=served.name).created,
        "owned_by": "preceptor",
        "root": served.root,
        "parent": None,
        "max_model_len": engine.max_model_len,
        "prompt": served.prompt,
    }

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({}, 503 if engine.stopped else 200)

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [card]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        desk.check_model(name)
        return JSONResponse(card)

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        return await desk.chat(body, request)

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await desk.completions(body, request)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return _refused(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        message, where = validation_message(list(error.errors()))
        return _refused(Refused(400, message, where))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        return _refused(Refused(error.status_code, f"{error.detail}: {request.method} {request.url.path}"))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return _refused(Refused(500, f"The server failed: {type(error).__name__}."))

    return app


class _Desk:
    """Takes requests to the engine and its work back to who asked."""

    def __init__(self, engine: Engine, served: Served) -> None:
        self._engine = engine
        self._served = served
        # Tokenizers are not made for two threads, and a megabyte would block the event loop for a second.
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="encoder")

    def check_model(self, name: str) -> None:
        """Raise `Refused` for another model than the one here."""
        if name != self._served.name:
            raise Refused(
                404, f"The model {name!r} is not {self._served.name!r}, which is here.", "model", "model_not_found"
            )

    async def chat(self, body: ChatRequest, request: Request) -> Response:
        self.check_model(body.model)
        body.check()
        blamed = "chat_template_kwargs" if body.chat_template_kwargs else "messages"
        job = await self._encode(lambda: self._chat_job(body), blamed)
        return await self._answer([job], body, Envelope(True, body.model), request)

    async def completions(self, body: CompletionRequest, request: Request) -> Response:
        self.check_model(body.model)
        body.check()
        jobs = await self._encode(lambda: self._completion_jobs(body), "prompt")
        return await self._answer(jobs, body, Envelope(False, body.model), request)

    def _chat_job(self, body: ChatRequest) -> Job:
        codec = self._engine.codec
        ids = codec.render([message.plain for message in body.messages], body.chat_template_kwargs or {})
        length = body.length(len(ids), self._engine.max_model_len)
        self._check_length(len(ids), length, "messages")
        return Job(ids, "", body.settings(length, codec), n=body.n or 1, stream=bool(body.stream))

    def _completion_jobs(self, body: CompletionRequest) -> list[Job]:
        prompts = [self._prompt(prompt, body.add_special_tokens) for prompt in body.prompts]
        for ids, _ in prompts:
            self._check_length(len(ids), body.length(), "prompt")
        settings = body.settings(body.length(), self._engine.codec)
        return [
            Job(ids, text, settings, n=body.n or 1, echo=bool(body.echo), stream=bool(body.stream))
            for ids, text in prompts
        ]

    def _prompt(self, prompt: str | list[int], special: bool) -> tuple[list[int], str]:
        """Token ids and words of a prompt."""
        codec = self._engine.codec
        if isinstance(prompt, str):
            return codec.encode(prompt, special=special), prompt
        if not all(0 <= token < self._engine.vocabulary for token in prompt):
            raise Refused(400, f"Token ids must be from 0 to {self._engine.vocabulary - 1}.", "prompt")
        return prompt, codec.whole(prompt)

    async def _encode(self, encode: Callable[[], T], param: str) -> T:
        """What is made in the tokenizer's thread. Raises `Refused` for the field that it fails at."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._encoder, encode)
        except Refused:
            raise
        except Exception as error:  # chat templates raise what they like
            raise Refused(400, f"No tokens can be made of {param}: {error}", param) from error

    def _check_length(self, prompt: int, length: int, param: str) -> None:
        longest = self._engine.max_model_len
        if prompt == 0:
            raise Refused(400, "The prompt has no tokens.", param)
        if prompt + length > longest:
            raise Refused(
                400,
                f"This model's maximum context length is {longest} tokens. However, you requested {prompt + length} "
                f"tokens ({prompt} in the prompt, {length} in the completion). Please reduce the length of either.",
                param,
                "context_length_exceeded",
            )

    async def _answer(
        self, jobs: list[Job], body: ChatRequest | CompletionRequest, envelope: Envelope, request: Request
    ) -> Response:
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def notify() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(changed.set)

        for job in jobs:
            job.notify = notify
        try:
            for job in jobs:
                self._engine.submit(job)
        except EngineStopped as error:
            raise Refused(503, str(error)) from error
        if body.stream:
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            events = self._events(jobs, envelope, changed, with_usage)
            return StreamingResponse(events, media_type="text/event-stream")
        if not await _finished(jobs, changed, _gone(request)):
            return Response(status_code=_CLOSED)
        _raise_failure(jobs)
        make = chat_choices if envelope.chat else completion_choices
        return JSONResponse(envelope.body(make(jobs, self._engine.codec)) | {"usage": usage(jobs)})

    async def _events(
        self, jobs: list[Job], envelope: Envelope, changed: asyncio.Event, with_usage: bool
    ) -> AsyncIterator[str]:
        """Server-sent events of a stream; abandoned, it cancels its jobs."""
        streams = [Stream(job, i * job.n, envelope.chat, self._engine.codec) for i, job in enumerate(jobs)]
        try:
            if envelope.chat:
                for i in range(jobs[0].n):
                    opening = {"index": i, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
                    yield _event(envelope.body([opening], chunk=True))
            over = False
            while not over:
                changed.clear()
                over = all(job.done for job in jobs)
                for choice in (choice for stream in streams for choice in stream.news()):
                    yield _event(envelope.body([choice], chunk=True))
                if not over:
                    await changed.wait()
            _raise_failure(jobs)
            if with_usage:
                yield _event(envelope.body([], chunk=True) | {"usage": usage(jobs)})
        except Refused as error:
            yield _event(error.body())
        finally:
            for job in jobs:
                job.cancelled = True
        yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _raise_failure(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if isinstance(job.error, EngineStopped):
            raise Refused(503, str(job.error))
        if job.error is not None:
            raise Refused(500, f"The model failed: {type(job.error).__name__}: {job.error}")


async def _gone(request: Request) -> None:
    """Return when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _finished(jobs: Sequence[Job], changed: asyncio.Event, gone: Awaitable[None]) -> bool:
    """Wait until all jobs are done; false, and they are cancelled, if the client is gone before."""
    leaving = asyncio.ensure_future(gone)
    try:
        while True:
            changed.clear()
            if all(job.done for job in jobs):
                return True
            change = asyncio.ensure_future(changed.wait())
            await asyncio.wait({change, leaving}, return_when=asyncio.FIRST_COMPLETED)
            change.cancel()
            if leaving.done():
                return False
    finally:
        leaving.cancel()
        for job in jobs:
            job.cancelled = True
