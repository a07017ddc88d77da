"""Any server that speaks the OpenAI protocol, as a `Model` for `AskingTeacher`.

A label is a scored choice where the server can score, and a frequency of samples where it cannot: `teacher/scoring.py`
has the four ways, `teacher/probe.py` finds out which of them the server honours, `teacher/client.py` sends and sends
again, and `teacher/faults.py` says what follows from a failure.
"""

import asyncio
import hashlib
import json
import os
import re
import weakref
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from queue import SimpleQueue
from time import monotonic
from typing import Any

from preceptor.ground.errors import UserError, unknown_name
from preceptor.teacher.asking import Reply
from preceptor.teacher.base import UNAVAILABLE, BudgetExhausted, TeacherError
from preceptor.teacher.call import ERROR
from preceptor.teacher.card import card_of
from preceptor.teacher.client import ServerClient, Spending, start
from preceptor.teacher.config import Limits, TeacherConfig
from preceptor.teacher.faults import WRONG_MODEL, Breaker, Handling, ServerFault, say
from preceptor.teacher.probe import ESSENTIAL, OF_A_WAY, Probe
from preceptor.teacher.prompts import TEMPLATES, Prompt
from preceptor.teacher.route import checked_url, is_here, key_of_environment
from preceptor.teacher.scoring import SAMPLE_TOKENS, WAYS, Way

# vLLM's and FastChat's own default.
DEFAULT_BASE_URL = "http://localhost:8000/v1"
OPENAI_URL = "https://api.openai.com/v1"

_DEFAULT_LIMITS = Limits()
# Replies with the positions of their prompts, and why the run stops if it does.
_Replied = tuple[list[tuple[int, Reply]], TeacherError | None]
# Fields of requests that have flags, or that the way of asking sets.
_OWN_FIELDS = ESSENTIAL | OF_A_WAY | {"temperature", "max_tokens", "max_completion_tokens", "stream"}
_NOT_REACHED = ("no server", "certificate", "no TLS", "not HTTP", "redirect")
# Requests in flight: for a service, so many; for a server of one's own, so many that even one that answers them one
# after another answers the last within a quarter of its time limit.
_OF_A_SERVICE, _MOST, _MOST_LISTS = 8, 32, 4


class ServedModel:
    """A model behind an OpenAI-compatible URL, `prepare`d before it is asked.

    The key is read from `OPENAI_API_KEY`, and is never logged and never in an error.

    Args:
        config: Where it is (without a URL OpenAI if there is a key, else localhost:8000), how it is asked, and the
            budget. Unless `on_teacher_failure` is `abort`, a server that spends a deadline in vain is not an error: its
            scenes are `UNAVAILABLE`, and it is left alone for a while (`Breaker`).
        limits: Time and bytes.
        spending: What it has in common with other servers of one budget, if it has.

    Attributes:
        template: Name of the prompt template that the model wants, as far as the server tells.
        concurrency: Requests in flight at once.
        way: How it is asked; there is none before `prepare`.
        capability: What the probe saw, for a run's manifest; empty before `prepare`.

    Raises:
        TeacherError: No server there, or key refused.
        UserError: No such model, or several and none named.
    """

    def __init__(
        self, config: TeacherConfig, *, limits: Limits = _DEFAULT_LIMITS, spending: Spending | None = None
    ) -> None:
        key = key_of_environment()
        default = OPENAI_URL if key else DEFAULT_BASE_URL
        self.base_url = checked_url(config.base_url or os.environ.get("OPENAI_BASE_URL") or default)
        self._extra = _extra_of(config)
        self._config, self._limits = config, limits
        self._client = ServerClient(self.base_url, key, config, limits, spending)
        weakref.finalize(self, lambda client: start(client.close()), self._client)
        self.extra = self._client.counters
        self.extra["breaker_opened"] = 0
        breaker = Breaker(self.base_url, limits.cool_down_seconds, self.extra)
        self._breaker = None if config.on_teacher_failure == "abort" else breaker
        self._trial = asyncio.Lock()
        self.way: Way
        self._answers_as, self.concurrency = "", 1
        self.capability: dict[str, Any] = {}
        self.model = config.model or "any model"
        try:
            listed = start(self._models()).result()
        except ServerFault as fault:
            if config.model is None or fault.name in _NOT_REACHED:
                raise self.explain(fault) from fault
            listed = {}
        self.model = _chosen(config.model, list(listed), self.base_url)
        self._listed = tuple(sorted(listed))
        self.template = _template(listed.get(self.model, {}))
        self.name, self.method, self.samples = self.model, "none", 1
        self.source = f"llm:{self.model}"

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Find out what the server can do, on real prompts, the longest first.

        Raises:
            TeacherError: The prompts do not fit, or no way of asking gives an answer.
        """
        config, wanted = self._config, self._config.scoring
        fields = {"temperature": 1.0 if config.temperature is None else config.temperature, **self._extra}
        probe = Probe(self._client, {"model": self.model, **fields}, prompts, config.reply_tokens)
        try:
            way, reasons = start(probe.run(WAYS if wanted == "auto" else (wanted,))).result()
        except ServerFault as fault:
            raise self.explain(fault) from fault
        self.way, dropped = way, tuple(reasons)
        self.method, self._answers_as = way.name, probe.answers_as
        if way.sampled:
            # Scores are scores, but a frequency is another label.
            self.samples, self.name = config.samples, f"{self.model}#{way.name}"
        if fields != {"temperature": 1.0}:
            self.name += f"#{hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]}"
        self.way = way = self._in_time(way, probe.seconds)
        self.concurrency = config.concurrency or self._by_speed(probe.seconds, way.size)
        self.capability = {
            "base_url": self.base_url,
            "model": self.model,
            "models": self._listed,
            "scoring": way.name,
            "top_logprobs": way.top,
            "list_size": way.size,
            "thinking": probe.thinking,
            "dropped": dropped,
            "left_out": self._client.left_out,
            "reply_tokens": way.tokens,
            "tokens_counted": not self._client.estimates,
            "concurrency": self.concurrency,
        }
        for why in dropped:
            say(f"{self.base_url}: not used: {why}")
        for name, other in self._client.left_out.items():
            say(f"{self.base_url} refuses {name}: {f'{other} is sent' if other else 'it is left out'}")
        if way.tokens > (config.reply_tokens or SAMPLE_TOKENS):
            say(f"{self.model} thinks before it answers: up to {way.tokens:,} tokens for a reply (--reply-tokens)")

    def replies(self, prompts: Sequence[Prompt]) -> Generator[list[tuple[int, Reply]], None, None]:
        """Replies as they come. After a failure nothing more is sent, what is in flight is kept, then it is raised."""
        gate, done, failure = asyncio.Semaphore(self.concurrency), SimpleQueue[Future[_Replied]](), None
        self._client.begin()
        groups = self.way.groups(prompts)
        asking = [start(self._ask(group, [prompts[i] for i in group], gate)) for group in groups]
        try:
            for one in asking:
                one.add_done_callback(done.put)
            for _ in asking:
                replies, error = done.get().result()
                failure = failure or error
                if replies:
                    yield replies
        finally:  # early where the caller has had enough, or was interrupted
            for one in asking:
                one.cancel()
            self._client.spending.end()
        if failure is not None:
            raise failure

    async def _ask(self, positions: list[int], group: list[Prompt], gate: asyncio.Semaphore) -> _Replied:
        """Ask, unless the server is given up for now; after the cool-down one group finds out, and the others wait."""
        async with gate:
            if self._client.stopping.is_set():
                return [], None
            if self._breaker and self._breaker.open:
                async with self._trial:
                    if not self._breaker.admits():
                        return [(i, Reply(UNAVAILABLE)) for i in positions], None
                    if self._breaker.open:
                        return await self._answer(positions, group, patience=0.0)
            return await self._answer(positions, group)

    def begin(self) -> None:
        """Let requests out that are sent by `attempt`, and count the time until `spending` ends."""
        self._client.begin()

    def end(self) -> None:
        """Send none of them again."""
        self._client.stopping.set()
        self._client.spending.end()

    async def attempt(self, group: Sequence[Prompt], patience: float | None = None) -> list[Reply]:
        """Replies to prompts that are asked together. Raises `ServerFault` and `BudgetExhausted`, as the client."""
        started = monotonic()
        requests = self.way.requests(group)
        responses = [await self._client.post(self.way.path, body, calls, patience) for body, calls in requests]
        others = {str(response.get("model") or self._answers_as) for response in responses} - {self._answers_as}
        if others:
            raise ServerFault(WRONG_MODEL, Handling.FALL_BACK, f"{others.pop()!r} answered")
        share = (monotonic() - started) / len(group)
        return [replace(reply, seconds=share) for reply in self.way.read(group, responses)]

    async def _answer(self, positions: list[int], group: list[Prompt], patience: float | None = None) -> _Replied:
        """The replies to one group of prompts, and the error that follows from it if one does."""
        started, failure = monotonic(), None
        try:
            replies = await self.attempt(group, patience)
        except BudgetExhausted as exhausted:
            self._client.stopping.set()
            return [], exhausted
        except ServerFault as fault:
            status = fault.name if fault.handling == Handling.FALL_BACK else ERROR
            replies = [Reply(status, text=str(fault), seconds=(monotonic() - started) / len(group))] * len(group)
            if fault.handling == Handling.RETRY and self._breaker:
                self._breaker.failed()
            elif fault.handling != Handling.FALL_BACK:
                self._client.stopping.set()
                failure = self.explain(fault)
        if self._breaker and not any(reply.status == ERROR for reply in replies):
            self._breaker.succeeded()
        return list(zip(positions, replies, strict=True)), failure

    def _in_time(self, way: Way, seconds: float) -> Way:
        """The way with shorter lists, if the server is slow: it takes `seconds` for a prompt.

        All lists in flight are answered within a quarter of the time limit, even one after another. A server elsewhere
        keeps its lists, since the seconds are also those of the network.
        """
        if not is_here(self.base_url):
            return way
        limit = min(self._limits.request_seconds, self._limits.deadline_seconds)
        prompts = int(limit / 4 / max(seconds, 1e-3))
        return replace(way, size=max(1, min(way.size, prompts // (self._config.concurrency or _MOST_LISTS))))

    def _by_speed(self, seconds: float, size: int) -> int:
        if not is_here(self.base_url):
            return _OF_A_SERVICE
        if size > 1:
            return _MOST_LISTS  # for which `_in_time` has chosen the size
        return max(2, min(_MOST, int(self._limits.request_seconds / 4 / max(seconds, 1e-3))))

    def explain(self, fault: ServerFault) -> TeacherError:
        """The fault in words for a user."""
        text, url = fault.text, self.base_url
        check = f"check with: curl {url}/models, or use --teacher local"
        if self.capability:
            check = f"curl {url}/models, start the server again, and repeat the command with --resume"
        if fault.name == "no server":
            return TeacherError(f"No server answers at {url}: {text}", check)
        other = f"--base-url {'http' if fault.name == 'no TLS' else 'https'}{url[url.index(':') :]}"
        target = re.sub("/(models|(chat/)?completions)$", "", text.partition(" ")[0])
        shorter = "--prompt compact, or serve the model with a larger --max-model-len"
        what, advice = {
            "wrong key": ("refused the key", "export OPENAI_API_KEY=..."),
            "quota": ("asks for payment", "another --base-url, or a new key"),
            "no worker": (f"has no worker with {self.model} at the moment", check),
            "certificate": (
                "has a certificate that is not trusted here",
                "export SSL_CERT_FILE=ca.pem  # the certificate of who signed it; then the command again",
            ),
            "no TLS": ("is https, and no TLS is spoken there", other),
            "not HTTP": ("is http, and no plain HTTP is spoken there", other),
            "redirect": ("sends all requests elsewhere", f"--base-url {target}"),
            "timed out": ("did not answer in time", check),
            "rate limit": ("keeps limiting the rate", "wait, or lower --concurrency"),
            "context": ("has too short a context for the prompt", shorter),
        }.get(fault.name, (f"failed ({fault.name})", check))
        return TeacherError(f"{url} {what}: {text}", advice)

    async def _models(self) -> dict[str, dict[str, Any]]:
        """What the server lists, by id; empty if it lists nothing."""
        try:
            listed = (await self._client.get("/models")).get("data")
        except ServerFault as fault:
            if fault.status in (404, 405, 501):
                return {}
            raise
        entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
        return {str(entry["id"]): entry for entry in entries if "id" in entry}


def _extra_of(config: TeacherConfig) -> dict[str, Any]:
    """The fields of `--extra-body`. Raises `UserError` for what is no JSON object, or sets what is set already."""
    example = """--extra-body '{"reasoning_effort": "low"}'"""
    try:
        extra = json.loads(config.extra_body or "{}")
    except (ValueError, RecursionError) as error:
        raise UserError(f"--extra-body is no JSON: {error}.", example) from error
    if not isinstance(extra, dict):
        raise UserError("--extra-body is no JSON object.", example)
    if own := sorted(extra.keys() & _OWN_FIELDS):
        raise UserError(f"--extra-body sets {own[0]!r}, which is set for each request.", example)
    return extra


def _chosen(model: str | None, models: list[str], base_url: str) -> str:
    if model is not None:
        if models and model not in models:
            raise unknown_name("model", model, models, "name one of them with --model")
        return model
    if len(models) != 1:
        offered = f"offers {len(models)} models: {', '.join(sorted(models)[:20])}" if models else "lists no model"
        hint = "name one with --model" if models else "name one with --model; FastChat's workers take a while"
        raise UserError(f"{base_url} {offered}.", hint)
    return models[0]


def _template(entry: dict[str, Any]) -> str:
    """The prompt template that a model wants: its own word, or its card's if its folder (vLLM's `root`) is here."""
    root = entry.get("root")
    said = (card_of(root) if "prompt" not in entry and isinstance(root, str) else entry).get("prompt")
    return said if said in TEMPLATES else "chat"
