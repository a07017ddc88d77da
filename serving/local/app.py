"""The OpenAI protocol over an engine, with FastAPI; every error has OpenAI's shape."""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from preceptor.serving.keys import refusal
from preceptor.serving.local.engine import Engine, Job
from preceptor.serving.local.protocol import ChatRequest, CompletionRequest, Refused
from preceptor.serving.local.replies import Stream, choices, usage
from preceptor.serving.request_limits import RequestLimits

MOST_BYTES = 4 * 2**20  # a context of 128,000 tokens, its characters escaped, is half of that
_CLOSED = 499  # nginx's status for a client that did not wait; nothing reads it
_LOOK_SECONDS = 0.5  # between looks whether the client of a request that waits is still there


def create_app(
    engine: Engine, name: str, root: str, *, prompt: str = "", key: str = "", host: str = "127.0.0.1"
) -> FastAPI:
    """The application. It does not close the engine.

    Args:
        engine: The model.
        name: The model's id.
        root: Where the model came from.
        prompt: The prompt template that the model was trained on; empty if its folder names none.
        key: The key that requests must carry; empty for none.
        host: Where it will listen.
    """
    card = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "preceptor", "root": root}
    card |= {"parent": None, "max_model_len": engine.max_model_len, "prompt": prompt}
    # Tokenizers are not made for two threads, and a megabyte would block the event loop for a second.
    encoder = ThreadPoolExecutor(1, thread_name_prefix="encoder")

    async def guard(request: Request) -> None:
        """Refuse who has no key."""
        if why := refusal(key, request.headers.get("authorization", "")):
            raise Refused(401, f"Incorrect API key provided. {why}", code="invalid_api_key")

    async def answer(kind: type[ChatRequest | CompletionRequest], request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # Browsers let any web page send any other type here.
            raise Refused(415, "Requests are JSON, with the header content-type: application/json.")
        ask = kind.read(await request.body())
        if ask.model != name:
            what = f"The model {ask.model!r} is not {name!r}, which is here."
            raise Refused(404, what, "model", "model_not_found")
        try:
            jobs = await _for(request, asyncio.get_running_loop().run_in_executor(encoder, engine.jobs, ask))
        except (Refused, ClientDisconnect):
            raise
        except Exception as error:  # chat templates raise what they like
            what = "No tokens can be made of the prompt, or of the messages with chat_template_kwargs"
            raise Refused(400, f"{what}: {error}") from error
        return await _respond(engine, jobs, request)

    app = FastAPI(title="Preceptor's local model", docs_url=None, redoc_url=None, openapi_url=None)
    for raised in (Refused, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(raised, _refuse)
    app.add_middleware(RequestLimits, host=host, most_bytes=MOST_BYTES, refuse=lambda *said: _error(Refused(*said)))
    api = APIRouter(prefix="/v1", dependencies=[Depends(guard)])

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({}, 503 if engine.stopped else 200)

    @app.get("/openapi.json", dependencies=[Depends(guard)])
    async def openapi() -> Response:
        return JSONResponse(app.openapi())

    @api.get("/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [card]})

    @api.post("/chat/completions")
    async def chat(request: Request) -> Response:
        return await answer(ChatRequest, request)

    @api.post("/completions")
    async def completions(request: Request) -> Response:
        return await answer(CompletionRequest, request)

    app.include_router(api)
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientDisconnect):
        return Response(status_code=_CLOSED)
    if isinstance(error, HTTPException):
        error = Refused(error.status_code, f"{error.detail}: {request.method} {request.url.path}")
    elif not isinstance(error, Refused):
        error = Refused(500, f"The server failed: {type(error).__name__}: {error}")
    return _error(error)


def _error(error: Refused) -> Response:
    return JSONResponse(error.body(), error.status)


async def _for(request: Request, work: asyncio.Future[list[Job]]) -> list[Job]:
    """The result of work for a client, given up if the client leaves. Raises `ClientDisconnect`."""
    while not (await asyncio.wait([work], timeout=_LOOK_SECONDS))[0]:
        if await request.is_disconnected():
            work.cancel()
            raise ClientDisconnect
    return work.result()


async def _respond(engine: Engine, jobs: Sequence[Job], request: Request) -> Response:
    """Have the jobs done, and answer; a client that leaves cancels them."""
    ask = jobs[0].ask
    prefix, kind = ("chatcmpl", "chat.completion") if isinstance(ask, ChatRequest) else ("cmpl", "text_completion")
    reply = {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": ask.model}
    if ask.stream:
        if engine.stopped:
            raise Refused(503, "The server is shutting down.")
        return StreamingResponse(_events(engine, jobs, reply), media_type="text/event-stream")
    async with contextlib.aclosing(_progress(engine, jobs)) as progress:
        async for _ in progress:
            if await request.is_disconnected():
                raise ClientDisconnect
    return JSONResponse({**reply, "choices": choices(jobs, engine.codec), "usage": usage(jobs)})


async def _progress(engine: Engine, jobs: Sequence[Job]) -> AsyncGenerator[None, None]:
    """Have jobs done, with a look now and then, in a stream after each token. Raises `Refused`; left, cancels them."""
    loop, changed = asyncio.get_running_loop(), asyncio.Event()

    def notify() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(changed.set)

    done = asyncio.gather(*(asyncio.wrap_future(job.done) for job in jobs))
    done.add_done_callback(lambda _: changed.set())
    done.add_done_callback(lambda over: over.cancelled() or over.exception())  # or it is logged when the client left
    try:
        for job in jobs:
            job.on_token = notify if job.ask.stream else job.on_token
            engine.submit(job)
        while True:
            changed.clear()
            over = done.done()  # read first: what was made until the end is looked at once more
            yield
            if over:
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), _LOOK_SECONDS)
        await done
    finally:
        done.cancel()


async def _events(engine: Engine, jobs: Sequence[Job], reply: dict[str, Any]) -> AsyncIterator[str]:
    """Server-sent events of a stream; abandoned, it cancels its jobs."""
    ask, stream = jobs[0].ask, Stream(jobs, engine.codec)
    chat = isinstance(ask, ChatRequest)
    reply |= {"object": "chat.completion.chunk"} if chat else {}

    def event(body: dict[str, Any]) -> str:
        return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"

    def chunk(index: int, finish: str, **shown: Any) -> str:
        choice = {"index": index, **shown, "finish_reason": finish or None, "logprobs": None}
        return event({**reply, "choices": [choice]})

    try:
        for i in range(ask.n if chat else 0):
            yield chunk(i, "", delta={"role": "assistant", "content": ""})
        async with contextlib.aclosing(_progress(engine, jobs)) as progress:
            async for _ in progress:
                for i, text, finish in stream.news():
                    yield chunk(i, finish, **({"delta": {"content": text}} if chat else {"text": text}))
        if ask.stream_options.include_usage:
            yield event({**reply, "choices": [], "usage": usage(jobs)})
    except Refused as error:
        yield event(error.body())
    yield "data: [DONE]\n\n"
