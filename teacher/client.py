"""Requests to an OpenAI-compatible server: bounded in time, bytes and money, sent again where that may help."""

import asyncio
import json
import math
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextvars import ContextVar
from functools import cache
from time import monotonic
from typing import Any, TypeVar

import httpx
import openai
import tenacity

from preceptor.teacher.base import BudgetExhausted
from preceptor.teacher.config import Limits, TeacherConfig
from preceptor.teacher.faults import GARBLED, Handling, ServerFault, fault_of_response, say
from preceptor.teacher.parse import ParseFailure

T = TypeVar("T")

_CONNECT_SECONDS = 5.0
# uvicorn, which most servers here run on, drops idle connections after five seconds.
_KEEP_ALIVE_SECONDS = 3.0
_BACKOFF = tenacity.wait_random_exponential(multiplier=0.25, max=10.0)
_LATE_SECONDS, _SECONDS_BETWEEN_LINES = 10.0, 30.0
_LEAST_SECONDS = 0.05  # for a request that begins just before its deadline
_COUNTERS = ("requests", "retries", "failures", "calls_sent", "tokens_spent", "seconds_spent")


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of all connections, in a thread of its own: the caller may be inside a notebook's loop."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="language model servers", daemon=True).start()
    return loop


def start(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine in the loop of all connections."""
    return asyncio.run_coroutine_threadsafe(coroutine, _loop())


# Bytes that the reply to the request of this task may have.
_most_bytes: ContextVar[int] = ContextVar("most_bytes")


class _BoundedTransport(httpx.AsyncHTTPTransport):
    """Reads replies as a whole, and cuts one that is too long off, as a fault."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response, body, most = await super().handle_async_request(request), bytearray(), _most_bytes.get()
        try:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > most:
                    raise ServerFault(ParseFailure.TOO_LONG, Handling.FALL_BACK, f"more than {most} bytes")
        finally:
            await response.aclose()
        return httpx.Response(response.status_code, headers=response.headers, content=bytes(body))


class ServerClient:
    """The connections to one server, `http://host:port/v1`. Its coroutines run in the loop of `start`.

    Attributes:
        counters: `requests` sent, `retries` among them, `failures` of any kind; and what counts for the budget of the
            config, which survives a resume: `calls_sent`, `tokens_spent`, `seconds_spent`.
        stopping: Set where nothing is sent again, since the run gives up.
    """

    def __init__(self, base_url: str, key: str, config: TeacherConfig, limits: Limits) -> None:
        self.base_url, self.config, self.limits, self._key = base_url, config, limits, key
        self.counters: dict[str, float] = dict.fromkeys(_COUNTERS, 0)
        self.stopping = threading.Event()
        self._asking_since: float | None = None
        self._trouble_since: float | None = None
        self._said = float("-inf")
        connections = httpx.Limits(max_connections=None, keepalive_expiry=_KEEP_ALIVE_SECONDS)
        self._openai = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=key or "EMPTY",
            max_retries=0,
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
            default_headers={"Accept-Encoding": "identity"},  # bytes are counted as they come
            http_client=httpx.AsyncClient(transport=_BoundedTransport(limits=connections)),
        )

    async def post(
        self, path: str, body: dict[str, Any], calls: int = 1, patience: float | None = None
    ) -> dict[str, Any]:
        """The body of the reply; `calls` count for the budget. `patience` is another deadline, 0 for one attempt.

        Raises:
            ServerFault: It failed, with `Handling.RETRY` after its deadline.
            BudgetExhausted: A limit is reached; nothing was sent.
        """
        deadline = self.limits.deadline_seconds if patience is None else patience
        started = monotonic()

        async def attempt() -> dict[str, Any]:
            remaining = max(deadline - (monotonic() - started), _LEAST_SECONDS) if deadline else math.inf
            self._charge(calls)
            return await self._send(path, body, min(self.limits.request_seconds, remaining))

        def again(state: tenacity.RetryCallState) -> None:
            self.counters["retries"] += 1
            assert state.outcome is not None
            self._say_trouble(state.outcome.exception(), deadline)

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(lambda error: getattr(error, "handling", None) == Handling.RETRY),
            wait=_wait,
            stop=tenacity.stop_before_delay(deadline) | tenacity.stop_when_event_set(self.stopping),
            before_sleep=again,
            reraise=True,
        )
        reply: dict[str, Any] = await retrying(attempt)
        usage = reply.get("usage")
        total = usage.get("total_tokens") if isinstance(usage, dict) else 0
        self.counters["tokens_spent"] += total if isinstance(total, int) else 0
        if self._trouble_since is not None:
            say(f"{self.base_url} answers again after {monotonic() - self._trouble_since:.1f} s")
            self._trouble_since = None
        return reply

    async def get(self, path: str) -> dict[str, Any]:
        """The body of the reply; one attempt. Raises `ServerFault`."""
        return await self._send(path, None, self.limits.request_seconds)

    def begin(self) -> None:
        """The clock of the budget runs from here to `end`."""
        self.stopping.clear()
        self._asking_since = monotonic()

    def end(self) -> None:
        """The clock of the budget stops."""
        self.counters["seconds_spent"], self._asking_since = self._seconds_spent(), None

    async def close(self) -> None:
        """Close the connections."""
        await self._openai.close()

    def without_key(self, text: str) -> str:
        """A text that may be shown."""
        return text.replace(self._key, "***") if self._key else text

    async def _send(self, path: str, body: dict[str, Any] | None, seconds: float) -> dict[str, Any]:
        """One attempt, as a POST if there is a body. Raises `ServerFault`."""
        prompts = (body or {}).get("prompt")
        texts = len(prompts) if isinstance(prompts, list) else (body or {}).get("n", 1)
        _most_bytes.set(self.limits.max_bytes * texts)
        late = ServerFault("late", Handling.RETRY, f"no reply for {_LATE_SECONDS:g} s")
        warning = asyncio.get_running_loop().call_later(_LATE_SECONDS, self._say_trouble, late, seconds)
        try:
            # A time-out of httpx is one of each chunk; this one holds for the whole exchange.
            async with asyncio.timeout(seconds):
                if body is None:
                    response = await self._openai.get(path, cast_to=httpx.Response)
                else:
                    response = await self._openai.post(path, cast_to=httpx.Response, body=body)
            return _decoded(response.content)
        except (TimeoutError, openai.APIError, ServerFault) as error:
            self.counters["failures"] += 1
            fault = _fault_of(error, seconds)
            raise fault from (None if fault is error else error)
        finally:
            warning.cancel()

    def _seconds_spent(self) -> float:
        since = self._asking_since
        return self.counters["seconds_spent"] + (monotonic() - since if since is not None else 0.0)

    def _charge(self, calls: int) -> None:
        """Count a request, or refuse it where the budget is spent."""
        spent, config = self.counters, self.config
        for limit, used, what, flag in (
            (config.max_llm_calls, spent["calls_sent"] + calls, "calls to the language model", "--max-llm-calls"),
            (config.max_llm_tokens, spent["tokens_spent"] + 1, "tokens of the language model", "--max-llm-tokens"),
            (config.max_llm_seconds, self._seconds_spent(), "seconds of asking", "--max-llm-seconds"),
        ):
            if limit is not None and used > limit:
                raise BudgetExhausted(
                    f"The budget of {limit:g} {what} is spent.",
                    f"raise {flag} and --resume the run: what was answered is in its label store",
                )
        spent["calls_sent"] += calls
        spent["requests"] += 1

    def _say_trouble(self, fault: BaseException | None, deadline: float) -> None:
        now = monotonic()
        self._trouble_since = self._trouble_since or now
        if now - self._said > _SECONDS_BETWEEN_LINES:
            self._said = now
            say(f"warning: {self.base_url}: {self.without_key(str(fault))}; trying for up to {deadline:.3g} s")


def _wait(state: tenacity.RetryCallState) -> float:
    """What the server asks for in Retry-After, else an exponential wait with jitter."""
    error = state.outcome.exception() if state.outcome else None
    return max(_BACKOFF(state), error.retry_after if isinstance(error, ServerFault) else 0.0)


def _fault_of(error: Exception, seconds: float) -> ServerFault:
    """What a failed attempt is for the run."""
    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
    match cause:
        case ServerFault():
            return cause
        case TimeoutError():
            return ServerFault("timed out", Handling.RETRY, f"no reply within {seconds:.3g} s")
        case openai.APIStatusError(response=response):
            said = response.content.decode("utf-8", "replace")
            return fault_of_response(response.status_code, response.headers, said)
        case httpx.ConnectError():
            return ServerFault("no server", Handling.RETRY, str(cause))
    return ServerFault("connection lost", Handling.RETRY, str(cause) or type(cause).__name__)


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ServerFault(GARBLED, Handling.FALL_BACK, f"not UTF-8: {error.reason}") from error
    except (ValueError, RecursionError) as error:
        raise ServerFault("not JSON", Handling.RETRY, f"{error}") from error
    if not isinstance(parsed, dict):
        raise ServerFault("not JSON", Handling.RETRY, f"a JSON {type(parsed).__name__}")
    return parsed
