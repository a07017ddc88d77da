"""Requests to an OpenAI-compatible server: bounded in time, bytes and money, sent again where that may help."""

import asyncio
import json
import math
import re
import ssl
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

from preceptor.ground.errors import UserError
from preceptor.teacher.base import BudgetExhausted
from preceptor.teacher.config import Limits, TeacherConfig
from preceptor.teacher.faults import GARBLED, Handling, ServerFault, error_in, fault_of_response, say
from preceptor.teacher.parse import ParseFailure
from preceptor.teacher.prompts import CHARACTERS_PER_TOKEN, estimated_tokens
from preceptor.teacher.route import proxy_to, tls_of, without_password

T = TypeVar("T")

_CONNECT_SECONDS = 5.0
# uvicorn, which most servers here run on, drops idle connections after five seconds.
_KEEP_ALIVE_SECONDS = 3.0
_BACKOFF = tenacity.wait_random_exponential(multiplier=0.25, max=10.0)
_LATE_SECONDS, _SECONDS_BETWEEN_LINES = 10.0, 30.0
_LEAST_SECONDS = 0.05  # for a request that begins just before its deadline
_COUNTERS = (
    *("requests", "retries", "failures", "calls_sent"),
    *("tokens_spent", "seconds_spent", "tokens_in", "tokens_out"),
)
_MOST_TOKENS = 2**40  # of one reply; more is no count
_LEAST_SECRET = 8  # characters; a shorter key is a placeholder, and may be a word of an answer
_SHOWN = 300  # characters of a server's own words in an error
# OpenAI's refusal of a reply that its model did not end within `max_tokens`; other servers give what there is of it.
_CUT_SHORT = re.compile(r"max_tokens or model output limit was reached", re.IGNORECASE)


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


class Spending:
    """What asking has cost; servers that share a budget share it.

    Attributes:
        counters: `requests` sent, `retries` among them, `failures` of any kind; and what counts for the budget of the
            config, which survives a resume: `calls_sent`, `tokens_spent`, `seconds_spent`. `tokens_in` of prompts and
            `tokens_out` of replies are what this process and the checkpoints before it have seen.
    """

    def __init__(self) -> None:
        self.counters: dict[str, float] = dict.fromkeys(_COUNTERS, 0)
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """Those in which something was asked, until now."""
        return self.counters["seconds_spent"] + (monotonic() - self._since if self._since is not None else 0.0)

    def begin(self) -> None:
        """The clock runs from here to `end`."""
        self._since = self._since or monotonic()

    def end(self) -> None:
        """The clock stops."""
        self.counters["seconds_spent"], self._since = self.seconds, None


class ServerClient:
    """The connections to one server, `http://host:port/v1`. Its coroutines run in the loop of `start`.

    Attributes:
        spending: What is charged to the budget; its own if not given.
        counters: Those of `spending`.
        left_out: Parameters that the server refuses, each with the name under which it takes them, empty for none.
        estimates: Whether the server does not count tokens, so that they are estimated from characters.
        proxy: The proxy between, None for none.
        stopping: Set where nothing is sent again, since the run gives up.
    """

    def __init__(
        self, base_url: str, key: str, config: TeacherConfig, limits: Limits, spending: Spending | None = None
    ) -> None:
        self.base_url, self.config, self.limits, self._key = base_url, config, limits, key
        self.spending = spending or Spending()
        self.counters = self.spending.counters
        self.stopping = threading.Event()
        self.left_out: dict[str, str] = {}
        self.estimates, self.proxy = False, proxy_to(base_url)
        self._trouble_since: float | None = None
        self._said = float("-inf")
        connections = httpx.Limits(max_connections=None, keepalive_expiry=_KEEP_ALIVE_SECONDS)
        self._openai = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=key or "EMPTY",
            max_retries=0,
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
            default_headers={"Accept-Encoding": "identity"},  # bytes are counted as they come
            http_client=httpx.AsyncClient(transport=self._transport(connections)),
        )

    def _transport(self, connections: httpx.Limits) -> _BoundedTransport:
        verify = tls_of(self.base_url)
        try:
            return _BoundedTransport(limits=connections, proxy=self.proxy, verify=verify)
        except (ValueError, ImportError, httpx.InvalidURL) as error:  # ImportError: SOCKS needs a package
            what = f"The proxy {without_password(str(self.proxy))} of the environment cannot be used: {error}"
            raise UserError(what, f"unset it, or NO_PROXY={httpx.URL(self.base_url).host}") from error

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
            return await self._send(path, self.adapted(body), min(self.limits.request_seconds, remaining))

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
        reply["usage"] = usage = self._counted(reply, body)
        for counter, tokens in zip(("tokens_in", "tokens_out", "tokens_spent"), usage.values(), strict=True):
            self.counters[counter] += tokens
        if self._trouble_since is not None:
            say(f"{self.base_url} answers again after {monotonic() - self._trouble_since:.1f} s")
            self._trouble_since = None
        return reply

    async def get(self, path: str) -> dict[str, Any]:
        """The body of the reply; one attempt. Raises `ServerFault`."""
        return await self._send(path, None, self.limits.request_seconds)

    def adapted(self, body: dict[str, Any]) -> dict[str, Any]:
        """A request as the server takes it: what it refuses is left out, or has another name."""
        named = {self.left_out.get(name, name): value for name, value in body.items()}
        return {name: value for name, value in named.items() if name}

    def leave_out(self, name: str) -> None:
        """Send a parameter no more that the server refused, or under its other name (that of o1 and later)."""
        if name == "max_tokens":
            self.left_out[name] = "max_completion_tokens"
        else:
            old = "max_tokens" if name == "max_completion_tokens" else name
            self.left_out[old] = ""

    def _counted(self, reply: dict[str, Any], body: dict[str, Any]) -> dict[str, int]:
        """Tokens of prompt, reply and both, as the server counts them, or estimated where it does not."""
        said = reply["usage"] if isinstance(reply.get("usage"), dict) else {}
        counts = [said.get(f"{of}_tokens") for of in ("prompt", "completion", "total")]
        prompt, completion, total = (n if type(n) is int and 0 <= n < _MOST_TOKENS else 0 for n in counts)
        if not (total := max(total, prompt + completion)):
            choices = reply["choices"] if isinstance(reply.get("choices"), list) else []
            shown = [(c.get("message"), c.get("text")) for c in choices if isinstance(c, dict)]
            sent = (body.get("messages"), body.get("prompt"))
            prompt, completion = map(estimated_tokens, (sent, shown))
            total = prompt + completion
            if not self.estimates:
                self.estimates = True
                say(f"{self.base_url} does not count tokens: {CHARACTERS_PER_TOKEN} characters are taken for one")
        prompt = prompt or total - completion
        return {"prompt_tokens": prompt, "completion_tokens": total - prompt, "total_tokens": total}

    def begin(self) -> None:
        """Ask, and be charged for the time, until `spending` ends."""
        self.stopping.clear()
        self.spending.begin()

    async def close(self) -> None:
        """Close the connections."""
        await self._openai.close()

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
            decoded = _decoded(response.content, self._key if len(self._key) >= _LEAST_SECRET else "")
            if body is None and isinstance(decoded, list):  # a list of models without its envelope (Together)
                decoded = {"data": decoded}
            if not isinstance(decoded, dict):
                raise ServerFault("not JSON", Handling.RETRY, f"a JSON {type(decoded).__name__}")
            if body is not None and (said := error_in(decoded)) is not None:
                raise fault_of_response(response.status_code, response.headers, json.dumps({"error": said}))
            return decoded
        except (TimeoutError, openai.APIError, ServerFault) as error:
            fault = _fault_of(error, seconds)
            if body is not None and _CUT_SHORT.search(fault.said):
                return {"choices": [{"message": {"content": ""}, "finish_reason": "length"}]}
            self.counters["failures"] += 1
            # Starred out before it is shortened, so that no half of a key is left; `said` is read, and never shown.
            fault.text = (fault.text.replace(self._key, "***") if self._key else fault.text)[:_SHOWN]
            if self.proxy:
                fault.text += f" (through the proxy {without_password(self.proxy)} that the environment names)"
            raise fault from (None if fault is error else error)
        finally:
            warning.cancel()

    def _charge(self, calls: int) -> None:
        """Count a request, or refuse it where the budget is spent."""
        spent, config = self.counters, self.config
        for limit, used, what, flag in (
            (config.max_llm_calls, spent["calls_sent"] + calls, "calls to the language model", "--max-llm-calls"),
            (config.max_llm_tokens, spent["tokens_spent"] + 1, "tokens of the language model", "--max-llm-tokens"),
            (config.max_llm_seconds, self.spending.seconds, "seconds of asking", "--max-llm-seconds"),
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
            say(f"warning: {self.base_url}: {fault}; trying for up to {deadline:.3g} s")


def _wait(state: tenacity.RetryCallState) -> float:
    """What the server asks for in Retry-After, else an exponential wait with jitter."""
    return max(_BACKOFF(state), getattr(state.outcome and state.outcome.exception(), "retry_after", 0.0))


def _fault_of(error: Exception, seconds: float) -> ServerFault:
    """What a failed attempt is for the run."""
    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
    match cause:
        case ServerFault():
            return cause
        case TimeoutError():
            return ServerFault("timed out", Handling.RETRY, f"no reply within {seconds:.3g} s")
        case openai.APIStatusError(response=response) if response.is_redirect:
            to = response.next_request.url if response.next_request else "nowhere"
            return ServerFault("redirect", Handling.ABORT, str(to), status=response.status_code)
        case openai.APIStatusError(response=response):
            said = response.content.decode("utf-8", "replace")
            return fault_of_response(response.status_code, response.headers, said)
        case httpx.ConnectError() if tls := _tls_error(cause):
            name = "certificate" if isinstance(tls, ssl.SSLCertVerificationError) else "no TLS"
            return ServerFault(name, Handling.ABORT, getattr(tls, "verify_message", "") or tls.reason or str(tls))
        case httpx.RemoteProtocolError() if "illegal status line" in str(cause):
            return ServerFault("not HTTP", Handling.ABORT, "what comes back is not HTTP")
        case httpx.ConnectError():
            return ServerFault("no server", Handling.RETRY, str(cause))
    return ServerFault("connection lost", Handling.RETRY, str(cause) or type(cause).__name__)


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """The refusal of TLS that a failure to connect comes from, None if it comes from something else."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def _decoded(body: bytes, secret: str) -> Any:
    """What a body says, a secret that it repeats starred out, however it is escaped."""
    try:
        parsed = json.loads(body.decode("utf-8"))
        if secret and (escaped := json.dumps(secret)[1:-1]) in (text := json.dumps(parsed)):
            parsed = json.loads(text.replace(escaped, "***"))
    except UnicodeDecodeError as error:
        raise ServerFault(GARBLED, Handling.FALL_BACK, f"not UTF-8: {error.reason}") from error
    except (ValueError, RecursionError) as error:
        raise ServerFault("not JSON", Handling.RETRY, f"{error}") from error
    return parsed
