"""What a server can do, found out by asking it: servers ignore what they do not know without a word, and answer 200.

Each way is tried on the longest real prompts of the task, which shows at the same time whether they fit and whether
the model answers them; a constraint is tried on a question whose natural answer it forbids.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from teacher.asking import Reply
from teacher.base import TeacherError
from teacher.client import ServerClient
from teacher.faults import Handling, ServerFault
from teacher.labels import OK
from teacher.prompts import Menu, Prompt
from teacher.scoring import (
    CHAT,
    MIN_MENU_MASS,
    Echo,
    LetterLists,
    Letters,
    Payload,
    Samples,
    Way,
    Work,
    choices_of,
    echoed_mass,
    first_token,
    text_of,
)

_QUESTION = "Which letter comes first?\nA) A\nB) B\nReply with one letter.\nAnswer:"
CANARY = Prompt((("user", _QUESTION),), Menu((0, 1)), ("A", "B"))
# No model answers the canary with one of these, unless made to.
_FORCED = ["Y", "Z"]
_TOP_LOGPROBS = (20, 5)  # vLLM and OpenAI allow 20, some servers 5
_THINKING_OFF = {"chat_template_kwargs": {"enable_thinking": False}}
_PATIENCE = 90.0
_SAME = 0.01  # total variation up to which two transports are the same
_LIST_SIZE = 64
_PROBE_SAMPLES = 8


@dataclass(frozen=True)
class Capability:
    """What the server was seen to do when it was probed; part of a run's manifest.

    Attributes:
        base_url: Where it is.
        model: The model that answers.
        models: All ids that the server offers, empty if it does not list them.
        scoring: The way in use, one of `teacher.scoring.WAYS`.
        top_logprobs: Alternatives that it gives with the first token; 0 if it gives no log-probabilities.
        list_size: Prompts in one request.
        thinking: `off`: the server took the wish that the model not think aloud (or ignored it); `refused`.
        dropped: Ways that were tried in vain, with the reason.
        concurrency: Requests in flight at once.
    """

    base_url: str
    model: str
    models: tuple[str, ...]
    scoring: str
    top_logprobs: int = 0
    list_size: int = 1
    thinking: str = "off"
    dropped: tuple[str, ...] = ()
    concurrency: int = 1


class Probe:
    """One probing of a server.

    Args:
        client: The connections.
        model: The model to ask.
        prompts: Real prompts of the task, the longest first.
    """

    def __init__(self, client: ServerClient, model: str, prompts: Sequence[Prompt]) -> None:
        self._client = client
        self._common: dict[str, Any] = {"model": model, "temperature": 1.0}
        self._prompts = prompts or (CANARY,)
        self.thinking = "off"
        self.seconds = 0.0  # that the chosen way took for one prompt
        self.answers_as = ""  # what the server calls the model in its replies

    async def run(self, wanted: Sequence[str]) -> tuple[Way, list[str]]:
        """The first way that works, and why those before it do not.

        Raises:
            ServerFault: The server does not answer at all, or the prompt does not fit.
            TeacherError: No wanted way works.
        """
        chat = await self._settle_thinking()
        dropped: list[str] = []
        tries: dict[str, Callable[[], Awaitable[Way]]] = {
            "logprobs": self._letters,
            "choice": self._choice,
            "echo": self._echo,
            "samples": self._samples,
        }
        for name in wanted:
            try:
                if not chat and name != "echo":
                    raise _Unfit("the server has no chat")
                way = await tries[name]()
            except _Unfit as why:
                dropped.append(f"{name}: {why}")
                continue
            except ServerFault as fault:
                gone = fault.handling == Handling.RETRY and not fault.status
                if gone or fault.name in ("context", "wrong key", "quota"):
                    raise
                dropped.append(f"{name}: {fault}")
                continue
            return way, dropped
        raise TeacherError(
            f"{self._client.base_url} answers, but {self._common['model']} gives no usable answer to the longest "
            f"prompt of the task ({'; '.join(dropped)}).",
            "another --model, or --prompt compact for a small one" + ("" if len(wanted) > 1 else ", or --scoring auto"),
        )

    async def _send(self, path: str, payload: Payload) -> dict[str, Any]:
        response = await self._client.post(path, payload, _PATIENCE)
        self.answers_as = str(response.get("model", ""))
        return response

    async def _chat(self, count: int = 1, **fields: Any) -> list[dict[str, Any]]:
        """The choices that the server gives for the canary."""
        body = {**self._common, "messages": CANARY.chat, "max_tokens": 8, "n": count, **fields}
        return choices_of(await self._send(CHAT, Payload(body, count, count)))

    async def _settle_thinking(self) -> bool:
        """Whether the server chats, with the wish not to think where it takes it."""
        self._common |= _THINKING_OFF
        try:
            await self._chat()
        except ServerFault as fault:
            if fault.name == "context" or fault.status not in (400, 404, 405, 422, 501):
                raise
            if fault.status != 404:
                self._common = _without_thinking(self._common)
                self.thinking = "refused"
                await self._chat()
            return fault.status != 404
        return True

    async def _first(self, way: Way) -> tuple[Work, list[dict[str, Any]]]:
        """The work that is the longest prompt, and its responses."""
        work, started = next(way.works(self._prompts[:1])), monotonic()
        responses = [await self._send(work.path, payload) for payload in work.payloads]
        self.seconds = monotonic() - started
        return work, responses

    async def _replies(self, way: Way, prompts: Sequence[Prompt]) -> list[Reply]:
        """Replies of a way to some prompts, in order."""
        replies: dict[int, Reply] = {}
        for work in way.works(prompts):
            responses = [await self._send(work.path, payload) for payload in work.payloads]
            replies |= dict(zip(work.positions, work.read(responses), strict=True))
        return [replies[i] for i in range(len(prompts))]

    async def _letters(self) -> Way:
        refused: ServerFault | None = None
        for top in _TOP_LOGPROBS:
            way = Letters(self._common, "logprobs", top)
            try:
                work, responses = await self._first(way)
            except ServerFault as fault:
                if fault.name == "context" or fault.status not in (400, 422):
                    raise
                refused = fault
                continue
            if len(first_token(next(iter(choices_of(responses[0])), {}))) < 2:
                raise _Unfit("asked for log-probabilities of alternatives, the server gave none")
            if work.read(responses)[0].status != OK:
                raise _Unfit(f"less than {MIN_MENU_MASS:.0%} of the probability is on the letters of the menu")
            return await self._in_lists(way)
        raise _Unfit(str(refused))

    async def _in_lists(self, way: Letters) -> Way:
        """The same scores faster, where lists of prompts give them."""
        lists = LetterLists(_without_thinking(self._common), way.name, way.top, _LIST_SIZE)
        prompts = [*self._prompts, CANARY]
        try:
            ours, theirs = await self._replies(lists, prompts), await self._replies(way, prompts)
        except ServerFault:
            return way
        same = all(
            a.status == b.status and _distance(a.scores, b.scores) < _SAME for a, b in zip(ours, theirs, strict=True)
        )
        # A sure model may say the same of another text: a chat template shows in the number of tokens.
        read = sum(reply.tokens for reply in ours), sum(reply.tokens for reply in theirs)
        return lists if same and read[0] == read[1] > 0 else way

    async def _choice(self) -> Way:
        choices = await self._chat(2, structured_outputs={"choice": _FORCED})
        texts = [text_of(choice).strip() for choice in choices]
        if not texts or any(text not in _FORCED for text in texts):
            raise _Unfit(f"told to answer one of {_FORCED}, the model said {(texts or [''])[0][:40]!r}")
        return await self._answering(Samples(self._common, "choice", many=len(texts) == 2))

    async def _samples(self) -> Way:
        try:
            many = len(await self._chat(2)) == 2
        except ServerFault as fault:
            if fault.status not in (400, 422):
                raise
            many = False
        return await self._answering(Samples(self._common, "samples", many=many))

    async def _answering(self, way: Samples) -> Way:
        started = monotonic()
        replies = await self._replies(way, [self._prompts[0]] * _PROBE_SAMPLES)
        self.seconds = monotonic() - started
        if not any(reply.status == OK for reply in replies):
            raise _Unfit(f"{len(replies)} samples and no answer; the last: {replies[-1].text[:60]!r}")
        return way

    async def _echo(self) -> Way:
        """The way to write the letter that the model has in mind, and whether lists are taken."""
        common, found = _without_thinking(self._common), list[tuple[float, Echo]]()
        for lead in ("", " "):
            for lists in (True, False):
                way = Echo(common, "echo", lead=lead, lists=lists)
                try:
                    work, responses = await self._first(way)
                except ServerFault as fault:
                    if fault.name == "context" or not lists:
                        raise
                    continue
                if work.read(responses)[0].status == OK:
                    found.append((echoed_mass(self._prompts[0], responses), way))
                    break
        if not found:
            raise _Unfit("the server echoes no log-probabilities, or has next to none for the letters of the menu")
        return max(found, key=lambda pair: pair[0])[1]


class _Unfit(Exception):
    """Why a way is dropped."""


def _without_thinking(common: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in common.items() if key not in _THINKING_OFF}


def _distance(a: Sequence[float], b: Sequence[float]) -> float:
    """Total variation of two distributions; 1 where one of them is missing."""
    return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / 2 if len(a) == len(b) else 1.0
