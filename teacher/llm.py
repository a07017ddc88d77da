"""Any server that speaks the OpenAI protocol, as a `Model` for `AskingTeacher`.

A label is a scored choice where the server can score, and a frequency of samples where it cannot: `teacher/tiers.py`
has the four ways, `teacher/probe.py` finds out which of them the server honours, `teacher/wire.py` sends and sends
again, and `teacher/faults.py` says what follows from a failure.
"""

import asyncio
import contextlib
import json
import os
import weakref
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from ground.errors import UserError, unknown_name
from teacher.asking import Reply
from teacher.base import UNAVAILABLE, BudgetExhausted, TeacherError
from teacher.call import ERROR
from teacher.faults import WRONG_MODEL, Breaker, Handling, ServerFault, say
from teacher.probe import Capability, Probe
from teacher.prompts import Prompt
from teacher.tiers import TIERS, Tier, Work
from teacher.wire import Limits, Wire, start

# vLLM's and FastChat's own default.
DEFAULT_BASE_URL = "http://localhost:8000/v1"
OPENAI_URL = "https://api.openai.com/v1"
CARD_FILE = "preceptor.json"

SCORINGS = ("auto", *TIERS)
# Replies and errors as they come; None at the end.
_Results = SimpleQueue[list[tuple[int, Reply]] | TeacherError | None]
_CLOSE_SECONDS = 5.0
_LOCAL_INSTEAD = "or use --teacher local"
# Requests in flight: for a service, so many; for a server of one's own, so many that even one that answers them one
# after another answers the last within a quarter of its time limit.
_OF_A_SERVICE, _MOST = 8, 32


class ServedModel:
    """A model behind an OpenAI-compatible URL.

    Args:
        base_url: The server; else `OPENAI_BASE_URL`, else OpenAI if there is a key, else localhost:8000.
        model: Model id; without one, the only id that the server offers.
        api_key: Else `OPENAI_API_KEY`. Never logged, never in an error.
        limits: Time and budget.
        scoring: A tier, or `auto` for the best that works.
        samples: Samples per menu where the server cannot score.
        patient: A server that spends a deadline in vain is not an error: its scenes are `UNAVAILABLE`, and it is left
            alone for a while (`Breaker`).

    Attributes:
        template: Name of the prompt template that the model wants, as far as the server tells.
        capability: What the probe saw; None before `prepare`.

    Raises:
        TeacherError: No server there, or key refused.
        UserError: No such model, or several and none named; no such scoring.
    """

    def __init__(
        self,
        base_url: str | None = None,
        model: str | None = None,
        *,
        api_key: str | None = None,
        limits: Limits | None = None,
        scoring: str = "auto",
        samples: int = 10,
        patient: bool = False,
    ) -> None:
        key = api_key or os.environ.get("OPENAI_API_KEY", "")
        default = OPENAI_URL if key else DEFAULT_BASE_URL
        self.base_url = (base_url or os.environ.get("OPENAI_BASE_URL") or default).rstrip("/")
        if not self.base_url.startswith(("http://", "https://")):
            raise UserError(f"{self.base_url!r} is no URL of a server.", "--base-url http://localhost:8000/v1")
        if scoring not in SCORINGS:
            raise unknown_name("scoring", scoring, SCORINGS, "--scoring auto")
        self.limits = limits or Limits()
        self._wanted = TIERS if scoring == "auto" else (scoring,)
        self._samples = samples
        self._breaker = Breaker(self.limits.cool_down_seconds) if patient else None
        self._wire = Wire(self.base_url, key, self.limits)
        self._close = weakref.finalize(self, lambda wire: start(wire.close()), self._wire)
        self.extra = self._wire.counters
        self.extra["breaker_opened"] = 0
        self._trial = asyncio.Lock()
        self._tier: Tier | None = None
        self._answers_as = ""
        self.capability: Capability | None = None
        try:
            listed = start(self._models()).result()
            self.model = _chosen(model, list(listed), self.base_url)
        except ServerFault as fault:
            raise self._explain(fault) from fault
        self._listed = tuple(sorted(listed))
        self.template = _template(listed.get(self.model, {}))
        self.name, self.method, self.samples = self.model, "none", 1
        self.source = f"llm:{self.model}"

    def prepare(self, prompts: Sequence[Prompt] = ()) -> None:
        """Find out what the server can do, on real prompts, the longest first.

        Raises:
            TeacherError: The prompts do not fit, or no way of asking gives an answer.
        """
        probe = Probe(self._wire, self.model, prompts)
        try:
            self._tier, dropped = start(probe.run(self._wanted)).result()
        except ServerFault as fault:
            raise self._explain(fault) from fault
        tier = self._tier
        size = getattr(tier, "size", 1)
        self.method, self._answers_as = tier.name, probe.answers_as
        sampled = tier.name in ("choice", "samples")
        self.samples = self._samples if sampled else 1
        # Scores are scores, but a frequency is another label.
        self.name = f"{self.model}#{tier.name}" if sampled else self.model
        self.capability = Capability(
            self.base_url,
            self.model,
            self._listed,
            tier.name,
            getattr(tier, "top", 0),
            size,
            probe.thinking,
            tuple(self._wire.without_key(why) for why in dropped),
            self.limits.concurrency or _concurrency(self.base_url, self.limits, probe.seconds, size),
        )
        for why in self.capability.dropped:
            say(f"{self.base_url}: not used: {why}")

    def replies(self, prompts: Sequence[Prompt]) -> Generator[list[tuple[int, Reply]], None, None]:
        """Replies as they come. After a failure the queue is dropped, what is in flight is kept, then it is raised."""
        if self._tier is None:
            self.prepare(prompts[:1])
        assert self._tier is not None
        assert self.capability is not None
        works, results = self._tier.works(prompts), _Results()
        failure: TeacherError | None = None
        self._wire.begin()
        asking, over = start(self._ask_all(works, results, self.capability.concurrency)), False
        try:
            while not (over := (result := results.get()) is None):
                if isinstance(result, TeacherError):
                    failure = failure or result
                    self._wire.stopping.set()
                else:
                    yield result
        finally:
            if not over:  # whoever reads has had enough, or was interrupted
                asking.cancel()
                with contextlib.suppress(Empty):
                    while results.get(timeout=_CLOSE_SECONDS) is not None:
                        pass
            self._wire.end()
        if failure is not None:
            raise failure
        asking.result()  # where the code itself has failed, not the server

    def close(self) -> None:
        """Close the connections."""
        self._close()

    async def _ask_all(self, works: Iterator[Work], results: _Results, concurrency: int) -> None:
        async def worker() -> None:
            for work in works:
                if self._wire.stopping.is_set():
                    return
                await self._ask(work, results)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(worker())
        finally:
            results.put(None)

    async def _ask(self, work: Work, results: _Results) -> None:
        """Ask, unless the server is given up for now; after the cool-down one work finds out, and the others wait."""
        if self._breaker and self._breaker.open:
            async with self._trial:
                if not self._breaker.admits():
                    results.put([(i, Reply(UNAVAILABLE)) for i in work.positions])
                    return
                if self._breaker.open:
                    await self._answer(work, results, patience=0.0)
                    return
        await self._answer(work, results)

    async def _answer(self, work: Work, results: _Results, patience: float | None = None) -> None:
        """Put the replies to one work into the queue, and the error that follows from it if one does."""
        started, failure = monotonic(), None
        try:
            responses = [
                await self._wire.post(work.path, p.body, size=p.size, calls=p.calls, patience=patience)
                for p in work.payloads
            ]
            others = {str(response.get("model", "")) for response in responses} - {self._answers_as}
            if others:
                raise ServerFault(WRONG_MODEL, Handling.FALL_BACK, f"{others.pop()!r} answered")
            replies = work.read(responses)
        except BudgetExhausted as exhausted:
            results.put(exhausted)
            return
        except ServerFault as fault:
            handling, text = fault.handling, self._wire.without_key(str(fault))
            status = fault.name if handling == Handling.FALL_BACK else ERROR
            replies = [Reply(status, text=text)] * len(work.positions)
            if handling == Handling.ABORT or (handling == Handling.RETRY and self._breaker is None):
                failure = self._explain(fault)
            elif handling == Handling.RETRY:
                self._open()
        if self._breaker and not any(reply.status == ERROR for reply in replies):
            self._close_breaker()
        share = (monotonic() - started) / len(replies)
        timed = (Reply(r.status, r.scores, r.text, r.tokens, share) for r in replies)
        results.put(list(zip(work.positions, timed, strict=True)))
        if failure:
            results.put(failure)

    def _open(self) -> None:
        assert self._breaker is not None
        if self._breaker.failed():
            self.extra["breaker_opened"] += 1
            say(f"warning: {self.base_url} is given up; it is tried again every {self.limits.cool_down_seconds:g} s")

    def _close_breaker(self) -> None:
        assert self._breaker is not None
        if self._breaker.open:
            say(f"{self.base_url} is back")
        self._breaker.succeeded()

    def _explain(self, fault: ServerFault) -> TeacherError:
        """The fault in words for a user, without the key."""
        text = self._wire.without_key(fault.text)
        check = f"check with: curl {self.base_url}/models, {_LOCAL_INSTEAD}"
        if self.capability is not None:
            check = f"curl {self.base_url}/models, start the server again, and repeat the command with --resume"
        match fault.name:
            case "wrong key":
                return TeacherError(f"{self.base_url} refused the key: {text}", "export OPENAI_API_KEY=...")
            case "quota":
                return TeacherError(f"{self.base_url} wants to be paid: {text}", "another --base-url, or a new key")
            case "nobody listens":
                return TeacherError(f"No server answers at {self.base_url}: {text}", check)
            case "no worker":
                return TeacherError(f"{self.base_url} has no worker with {self.model} at the moment: {text}", check)
            case "timed out":
                return TeacherError(f"{self.base_url} did not answer in time: {text}", check)
            case "rate limit":
                return TeacherError(f"{self.base_url} keeps limiting the rate: {text}", "wait, or lower --concurrency")
            case "context":
                advice = "--prompt compact, or serve the model with a larger --max-model-len"
                return TeacherError(f"The prompt does not fit into the context of {self.base_url}: {text}", advice)
        return TeacherError(f"{self.base_url} failed ({fault.name}): {text}", check)

    async def _models(self) -> dict[str, dict[str, Any]]:
        """What the server lists, by id; empty if it lists nothing."""
        try:
            listed = (await self._wire.get("/models")).get("data")
        except ServerFault as fault:
            if fault.status in (404, 405, 501):
                return {}
            raise
        entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
        return {str(entry["id"]): entry for entry in entries if "id" in entry}


def _chosen(model: str | None, models: list[str], base_url: str) -> str:
    if model is None:
        if len(models) != 1:
            offered = f"offers {len(models)} models: {', '.join(sorted(models)[:20])}" if models else "lists no model"
            hint = "name one with --model" if models else "name one with --model; FastChat's workers take a while"
            raise UserError(f"{base_url} {offered}.", hint)
        return models[0]
    if models and model not in models:
        raise unknown_name("model", model, models, "name one of them with --model")
    return model


def _template(entry: dict[str, Any]) -> str:
    """The prompt template that a model wants: its own word, or its card's if its folder (vLLM's `root`) is here."""
    card: Any = entry
    root = entry.get("root")
    if "prompt" not in entry and isinstance(root, str) and (path := Path(root) / CARD_FILE).is_file():
        try:
            card = json.loads(path.read_text())
        except (OSError, ValueError):
            card = {}
    said = card.get("prompt") if isinstance(card, dict) else None
    return said if said in ("compact", "chat") else "chat"


def _concurrency(base_url: str, limits: Limits, seconds: float, size: int) -> int:
    if urlsplit(base_url).hostname not in ("localhost", "127.0.0.1", "::1"):
        return _OF_A_SERVICE
    one_by_one = int(limits.request_seconds / 4 / max(seconds, 1e-3))
    return max(2, min(_MOST if size == 1 else 4, one_by_one))
