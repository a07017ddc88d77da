"""The OpenAI protocol over an engine, with FastAPI; every error has OpenAI's shape."""

import asyncio
import contextlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.local.engine import Engine, EngineStopped, Job
from serving.local.protocol import ChatRequest, CompletionRequest, Refused, invalid
from serving.local.replies import Stream, choices, usage

MOST_BYTES = 64 * 2**20
_CLOSED = 499  # nginx's status for a client that did not wait; nothing reads it


class _Gate:
    """Refuses requests without the key, and bodies that are far too large, before they are read."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            given, wanted = headers.get(b"authorization", ""), f"Bearer {self._key}"
            length = headers.get(b"content-length", "")
            guarded = self._key and scope["path"].startswith("/v1")
            if guarded and not hmac.compare_digest(given.encode(), wanted.encode()):
                app = _response(Refused(401, "Incorrect API key provided.", code="invalid_api_key"))
            elif length.isdecimal() and int(length) > MOST_BYTES:
                app = _response(Refused(413, f"The body has {length} bytes, and {MOST_BYTES} are allowed."))
        await app(scope, receive, send)


def create_app(engine: Engine, name: str, root: str, *, prompt: str = "", key: str = "") -> FastAPI:
    """The application. It does not close the engine.

    Args:
        engine: The model.
        name: The model's id.
        root: Where the model came from.
        prompt: The prompt template that the model was trained on; empty if its folder names none.
        key: The key that requests must carry; empty for none.
    """
    app = FastAPI(title="Preceptor's local model", docs_url=None, redoc_url=None)
    app.add_middleware(_Gate, key=key)
    for kind in (Refused, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, lambda request, error: _response(_refusal(error, request)))
    card = {
        "id": name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "preceptor",
        "root": root,
        "parent": None,
        "max_model_len": engine.max_model_len,
        "prompt": prompt,
    }
    # Tokenizers are not made for two threads, and a megabyte would block the event loop for a second.
    encoder = ThreadPoolExecutor(1, thread_name_prefix="encoder")

    async def answer(body: ChatRequest | CompletionRequest, request: Request) -> Response:
        if body.model != name:
            what = f"The model {body.model!r} is not {name!r}, which is here."
            raise Refused(404, what, "model", "model_not_found")
        try:
            jobs = await asyncio.get_running_loop().run_in_executor(encoder, lambda: list(body.jobs(engine)))
        except Refused:
            raise
        except Exception as error:  # chat templates raise what they like
            field = "prompt" if isinstance(body, CompletionRequest) else "messages or chat_template_kwargs"
            raise Refused(400, f"No tokens can be made of {field}: {error}", field) from error
        return await _respond(engine, jobs, body, request)

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({}, 503 if engine.stopped else 200)

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [card]})

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        return await answer(body, request)

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await answer(body, request)

    return app


def _refusal(error: BaseException, request: Request) -> Refused:
    match error:
        case Refused():
            return error
        case EngineStopped():
            return Refused(503, str(error))
        case RequestValidationError():
            return invalid(error.errors())
        case HTTPException():
            return Refused(error.status_code, f"{error.detail}: {request.method} {request.url.path}")
    return Refused(500, f"The server failed: {type(error).__name__}: {error}")


def _response(refusal: Refused) -> JSONResponse:
    return JSONResponse(refusal.body(), refusal.status)


async def _respond(
    engine: Engine, jobs: Sequence[Job], body: ChatRequest | CompletionRequest, request: Request
) -> Response:
    """Have the jobs done, and answer; a client that leaves cancels them."""
    chat = isinstance(body, ChatRequest)
    reply = {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
        "object": "chat.completion" if chat else "text_completion",
        "created": int(time.time()),
        "model": body.model,
    }
    changed = asyncio.Event()
    if body.stream:
        for job in jobs:
            job.on_token = partial(_notify, asyncio.get_running_loop(), changed)
    done: asyncio.Future[Any] = asyncio.gather(*(asyncio.wrap_future(job.done) for job in jobs))
    done.add_done_callback(lambda _: changed.set())
    leaving = asyncio.ensure_future(_gone(request)) if not body.stream else None
    try:
        for job in jobs:
            engine.submit(job)
        if leaving is None:
            events = _events(engine, jobs, done, changed, body, request, reply)
            return StreamingResponse(events, media_type="text/event-stream")
        await asyncio.wait({done, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            return Response(status_code=_CLOSED)
        await done
    except Exception as error:
        raise _refusal(error, request) from error
    finally:
        if leaving is not None:
            leaving.cancel()
            done.cancel()
    return JSONResponse({**reply, "choices": choices(jobs, engine.codec, chat=chat), "usage": usage(jobs)})


async def _events(
    engine: Engine,
    jobs: Sequence[Job],
    done: asyncio.Future[Any],
    changed: asyncio.Event,
    body: ChatRequest | CompletionRequest,
    request: Request,
    reply: dict[str, Any],
) -> AsyncIterator[str]:
    """Server-sent events of a stream; abandoned, it cancels its jobs."""
    chat = isinstance(body, ChatRequest)
    reply = {**reply, "object": "chat.completion.chunk" if chat else "text_completion"}
    streams = [Stream(job, engine.codec) for job in jobs]

    def chunk(index: int, finish: str, **shown: Any) -> str:
        choice = {"index": index, **shown, "finish_reason": finish or None, "logprobs": None}
        return _event({**reply, "choices": [choice]})

    try:
        for i in range(body.n if chat else 0):
            yield chunk(i, "", delta={"role": "assistant", "content": ""})
        over = False
        while not over:
            changed.clear()
            over = done.done()
            for first, stream in enumerate(streams):
                for i, text, finish in stream.news():
                    yield chunk(
                        first * body.n + i, finish, **({"delta": {"content": text}} if chat else {"text": text})
                    )
            if not over:
                await changed.wait()
        await done
        if body.stream_options and body.stream_options.include_usage:
            yield _event({**reply, "choices": [], "usage": usage(jobs)})
    except Exception as error:
        yield _event(_refusal(error, request).body())
    finally:
        done.cancel()
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _notify(loop: asyncio.AbstractEventLoop, changed: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has been closed
        loop.call_soon_threadsafe(changed.set)


async def _gone(request: Request) -> None:
    """Return when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
