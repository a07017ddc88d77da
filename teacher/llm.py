"""Any server that speaks the OpenAI protocol, as a `Model` for `AskingTeacher`.

A label is a scored choice: the log-probabilities of the menu's letters as the first token of the reply. Servers that
give none get samples and a strict parse. What a server can do is probed once, at the start, because servers ignore what
they do not know without a word.
"""

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from time import monotonic
from typing import Any

import httpx
import openai
from openai.types.chat import ChatCompletion
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

from envs.errors import UserError, unknown_name
from teacher.asking import Reply
from teacher.base import BudgetExhausted, TeacherError
from teacher.labels import OK
from teacher.parse import ParseFailure, parse_reply
from teacher.prompts import Prompt

# vLLM's and FastChat's own default.
DEFAULT_BASE_URL = "http://localhost:8000/v1"
OPENAI_URL = "https://api.openai.com/v1"

# Below this share of the probability on the menu's letters, the model meant to say something else.
_MIN_MENU_MASS = 0.05
_SAMPLE_TOKENS = 16
_PROBE = "Which letter comes first?\nA) A\nB) B\nReply with one letter.\nAnswer:"
_TOP_LOGPROBS = (20, 5)  # vLLM and OpenAI allow 20, some servers 5
_BACKOFF = wait_random_exponential(multiplier=0.25, max=20.0)
_LOCAL_INSTEAD = "or use --teacher local"


@dataclass(frozen=True)
class Limits:
    """How long to wait and how much to spend.

    Attributes:
        concurrency: Requests in flight at once.
        request_seconds: Limit of one request.
        deadline_seconds: Limit of one call with all its retries.
        max_calls: Requests that may be sent in all, retries and probes included; None for no limit.
    """

    concurrency: int = 8
    request_seconds: float = 30.0
    deadline_seconds: float = 120.0
    max_calls: int | None = None


@dataclass(frozen=True)
class Capability:
    """What the server was seen to do when it was probed.

    Attributes:
        base_url: Where it is.
        model: The model that answers.
        models: All ids that the server offers, empty if it does not list them.
        top_logprobs: Alternatives that it gives with the first token; 0 if it gives no log-probabilities.
    """

    base_url: str
    model: str
    models: tuple[str, ...]
    top_logprobs: int


class ServedModel:
    """A model behind an OpenAI-compatible URL.

    Args:
        base_url: The server; else `OPENAI_BASE_URL`, else OpenAI if there is a key, else localhost:8000.
        model: Model id; without one, the only id that the server offers.
        api_key: Else `OPENAI_API_KEY`. Never logged, never in an error.
        limits: Time and budget.
        samples: Samples per menu where the server gives no log-probabilities.

    Raises:
        TeacherError: No server there, key refused, or it does not answer a chat.
        UserError: No such model, or several and none named.
    """

    def __init__(
        self,
        base_url: str | None = None,
        model: str | None = None,
        *,
        api_key: str | None = None,
        limits: Limits | None = None,
        samples: int = 3,
    ) -> None:
        self._key = api_key or os.environ.get("OPENAI_API_KEY", "")
        default = OPENAI_URL if self._key else DEFAULT_BASE_URL
        self.base_url = (base_url or os.environ.get("OPENAI_BASE_URL") or default).rstrip("/")
        self.limits = limits or Limits()
        self.extra: dict[str, float] = {"requests": 0, "retries": 0}
        self._lock = threading.Lock()
        self._client = openai.OpenAI(
            base_url=self.base_url,
            api_key=self._key or "EMPTY",
            max_retries=0,
            timeout=httpx.Timeout(self.limits.request_seconds, connect=min(5.0, self.limits.request_seconds)),
        )
        self.capability = self._probe(model)
        self.name = self.capability.model
        self.source = f"llm:{self.capability.model}"
        self.method = "logprobs" if self.capability.top_logprobs else "samples"
        self.samples = 1 if self.capability.top_logprobs else samples

    template = "chat"

    def replies(self, prompts: Sequence[Prompt]) -> Iterator[list[tuple[int, Reply]]]:
        """Replies as they come. After a failure the queue is dropped, what is in flight is kept, then it is raised."""
        failure: TeacherError | None = None
        stop = threading.Event()
        with ThreadPoolExecutor(self.limits.concurrency) as pool:
            futures = {pool.submit(self._ask, prompt, stop): i for i, prompt in enumerate(prompts)}
            try:
                for future in as_completed(futures):
                    try:
                        reply = future.result()
                    except TeacherError as error:
                        stop.set()
                        failure = failure or error
                        reply = None if isinstance(error, BudgetExhausted) else Reply("error", text=str(error))
                    if reply is not None:
                        yield [(futures[future], reply)]
            finally:
                # Not cancel_futures: as_completed waits forever for what it cancels.
                stop.set()
        if failure is not None:
            raise failure

    def _ask(self, prompt: Prompt, stop: threading.Event) -> Reply | None:
        """The reply to a prompt, or None if there is no point any more."""
        if stop.is_set():
            return None
        started = monotonic()
        top = self.capability.top_logprobs
        try:
            completion = self._complete(self.capability.model, prompt.chat, top)
        except openai.OpenAIError as error:
            raise self._explain(error) from error
        usage = completion.usage
        tokens = usage.total_tokens if usage else 0
        text = completion.choices[0].message.content or "" if completion.choices else ""
        status, scores = _scored(completion, prompt) if top else _parsed(text, prompt)
        return Reply(status, scores, text, tokens, monotonic() - started)

    def _complete(self, model: str, messages: list[dict[str, str]], top_logprobs: int) -> ChatCompletion:
        """One chat completion, of one token with the log-probabilities of its alternatives if any are asked for."""
        scored = {"logprobs": True, "top_logprobs": top_logprobs, "max_tokens": 1}
        options: dict[str, Any] = scored if top_logprobs else {"max_tokens": _SAMPLE_TOKENS}
        create: Any = self._client.chat.completions.create
        return self._retry(lambda: create(model=model, messages=messages, temperature=1.0, **options))

    def _retry(self, request: Callable[[], ChatCompletion]) -> ChatCompletion:
        retrying = Retrying(
            retry=retry_if_exception(_is_transient),
            wait=_retry_wait,
            stop=stop_before_delay(self.limits.deadline_seconds),
            before_sleep=lambda _: self._count("retries"),
            reraise=True,
        )
        return retrying(self._send, request)

    def _send(self, request: Callable[[], ChatCompletion]) -> ChatCompletion:
        self._count("requests", self.limits.max_calls)
        return request()

    def _count(self, counter: str, limit: int | None = None) -> None:
        with self._lock:
            if limit is not None and self.extra[counter] >= limit:
                raise BudgetExhausted(
                    f"The budget of {limit} calls to the language model is spent.",
                    "raise --max-llm-calls and --resume the run: what was answered is in its label store",
                )
            self.extra[counter] += 1

    def _explain(self, error: openai.OpenAIError) -> TeacherError:
        """The error in words for a user, without the key."""
        text = str(error).replace(self._key, "***") if self._key else str(error)
        check = f"check with: curl {self.base_url}/models, {_LOCAL_INSTEAD}"
        match error:
            case openai.AuthenticationError() | openai.PermissionDeniedError():
                return TeacherError(f"{self.base_url} refused the key: {text}", "export OPENAI_API_KEY=...")
            case openai.APITimeoutError():
                return TeacherError(f"{self.base_url} did not answer within {self.limits.request_seconds:g} s.", check)
            case openai.APIConnectionError():
                return TeacherError(f"No server answers at {self.base_url}: {text}", check)
            case openai.RateLimitError():
                return TeacherError(f"{self.base_url} keeps limiting the rate: {text}", "wait, or lower --concurrency")
        return TeacherError(f"{self.base_url} failed: {text}", check)

    def _probe(self, model: str | None) -> Capability:
        """Find the model, and find out whether the server gives log-probabilities."""
        try:
            return self._try_out(model, self._models())
        except openai.OpenAIError as error:
            raise self._explain(error) from error

    def _try_out(self, model: str | None, models: tuple[str, ...]) -> Capability:
        if model is None:
            if len(models) != 1:
                offered = (
                    f"offers {len(models)} models: {', '.join(models[:20])}" if models else "does not list its models"
                )
                raise UserError(f"{self.base_url} {offered}.", "name one with --model")
            model = models[0]
        elif models and model not in models:
            raise unknown_name("model", model, models, "name one of them with --model")
        question = [{"role": "user", "content": _PROBE}]
        for top in _TOP_LOGPROBS:
            try:
                if _first_token(self._complete(model, question, top)):
                    return Capability(self.base_url, model, models, top)
            except openai.BadRequestError:
                continue
            break
        self._complete(model, question, 0)
        return Capability(self.base_url, model, models, 0)

    def _models(self) -> tuple[str, ...]:
        try:
            return tuple(sorted(model.id for model in self._client.models.list()))
        except openai.NotFoundError:
            return ()


def _first_token(completion: ChatCompletion) -> list[tuple[str, float]]:
    """(token, log-probability) of the alternatives for the first token, empty if the server gave none."""
    logprobs = completion.choices[0].logprobs if completion.choices else None
    content = logprobs.content if logprobs else None
    return [(top.token, top.logprob) for top in content[0].top_logprobs] if content else []


def _scored(completion: ChatCompletion, prompt: Prompt) -> tuple[str, tuple[float, ...]]:
    """Status and probabilities of the menu's letters, renormalised over the menu."""
    alternatives = _first_token(completion)
    if not alternatives:
        return ParseFailure.EMPTY, ()
    mass = dict.fromkeys(prompt.menu.letters, 0.0)
    for token, logprob in alternatives:
        if token.strip() in mass:
            mass[token.strip()] += math.exp(logprob)
    total = sum(mass.values())
    if not total >= _MIN_MENU_MASS:
        return ParseFailure.OFF_MENU, ()
    return OK, tuple(p / total for p in mass.values())


def _parsed(text: str, prompt: Prompt) -> tuple[str, tuple[float, ...]]:
    """Status and a one-hot on the option that a sampled reply names."""
    position = parse_reply(text, prompt.words)
    if isinstance(position, ParseFailure):
        return position, ()
    return OK, tuple(float(i == position) for i in range(len(prompt.words)))


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409, 425, 429) or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError)


def _retry_wait(state: RetryCallState) -> float:
    """What the server asks for in Retry-After (seconds), else an exponential wait with jitter."""
    error = state.outcome.exception() if state.outcome else None
    backoff = _BACKOFF(state)
    if isinstance(error, openai.APIStatusError):
        try:
            return max(backoff, float(error.response.headers["retry-after"]))
        except (KeyError, ValueError):
            return backoff
    return backoff
