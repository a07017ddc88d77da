"""What a server can do, found out by asking it: servers ignore what they do not know without a word, and answer 200.

Each way is tried on the longest real prompts of the task, which shows at the same time whether they fit and whether
the model answers them; a constraint is tried on a question whose natural answer it forbids.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import Any

from preceptor.teacher import scoring
from preceptor.teacher.asking import Reply
from preceptor.teacher.base import TeacherError
from preceptor.teacher.call import OK
from preceptor.teacher.client import ServerClient
from preceptor.teacher.faults import Handling, ServerFault
from preceptor.teacher.parse import ParseFailure
from preceptor.teacher.prompts import Menu, Prompt
from preceptor.teacher.scoring import Fields, Way, choices_of

_QUESTION = "Which letter comes first?\nA) A\nB) B\nReply with one letter.\nAnswer:"
CANARY = Prompt((("user", _QUESTION),), Menu((0, 1)), ("A", "B"))
# No model answers the canary with one of these, unless made to.
_FORCED = ["Y", "Z"]
_TOP_LOGPROBS = (20, 5)  # vLLM and OpenAI allow 20, some servers 5
# Tokens of a sampled reply that are tried, the next where the model was cut while it was thinking.
_REPLY_TOKENS = (scoring.SAMPLE_TOKENS, 512, 2048, 8192)
# What a request cannot do without; where one of the second kind is refused, so is the way that needs it.
ESSENTIAL = {"model", "messages", "prompt"}
OF_A_WAY = {"n", "logprobs", "top_logprobs", "structured_outputs", "echo"}
_REFUSES = re.compile(
    r"support|unrecogni[sz]ed|unknown|unexpected|not permitted|extra|not allowed|no such|invalid param", re.IGNORECASE
)
_OF_A_VALUE = re.compile(r"too (large|small|high|low)|at (most|least)|m(ax|in)imum|(great|less)er than", re.IGNORECASE)
_THINKING_OFF = {"chat_template_kwargs": {"enable_thinking": False}}
_PATIENCE = 90.0
_SAME = 0.01  # total variation up to which two transports are the same
_LIST_SIZE = 64
_PROBE_SAMPLES = 8


class Probe:
    """One probing of a server with real prompts of the task, the longest first.

    Args:
        client: The connections to it.
        common: Fields of every request.
        prompts: Those of the task.
        reply_tokens: Tokens of a sampled reply at most; found out if None.

    Attributes:
        thinking: `off`: the server took the wish that the model not think aloud (or ignored it); `refused`.
        seconds: That the last way took for one prompt.
        answers_as: What the server calls the model in its replies.
    """

    def __init__(
        self,
        client: ServerClient,
        common: Mapping[str, Any],
        prompts: Sequence[Prompt],
        reply_tokens: int | None = None,
    ) -> None:
        self._client, self._common = client, {**_THINKING_OFF, **common}
        self._reply_tokens = (reply_tokens,) if reply_tokens else _REPLY_TOKENS
        self._prompts = prompts or (CANARY,)
        self.thinking, self.seconds, self.answers_as = "off", 0.0, ""

    async def run(self, wanted: Sequence[str]) -> tuple[Way, list[str]]:
        """The first way that works, and why those before it do not.

        Raises:
            ServerFault: The server does not answer at all, or the prompt does not fit.
            TeacherError: No wanted way works.
        """
        chats = await self._settle_thinking()
        tries = {"logprobs": self._letters, "choice": self._choice, "echo": self._echo, "samples": self._samples}
        dropped: list[str] = []
        for name in wanted:
            try:
                if not chats and name != "echo":
                    raise _Unfit("the server has no chat")
                return await tries[name](), dropped
            except _Unfit as why:
                dropped.append(f"{name}: {why}")
            except ServerFault as fault:
                gone = fault.handling == Handling.RETRY and not fault.status
                if gone or fault.name in ("context", "wrong key", "quota"):
                    raise
                dropped.append(f"{name}: {fault}")
        raise TeacherError(
            f"{self._client.base_url} answers, but {self._common['model']} gives no usable answer to the longest "
            f"prompt of the task ({'; '.join(dropped)}).",
            "another --model, or --prompt compact for a small one" + ("" if len(wanted) > 1 else ", or --scoring auto"),
        )

    async def _send(self, path: str, body: dict[str, Any], calls: int) -> Fields:
        while True:  # until nothing more is refused by its name: each time less is sent
            try:
                response = await self._client.post(path, body, calls, _PATIENCE)
            except ServerFault as fault:
                sent = self._client.adapted(body).keys() - ESSENTIAL if fault.status in (400, 403, 422) else ()
                if fault.name == "context" or not (name := _refused_by_name(fault.said, sent)):
                    raise
                if name in OF_A_WAY:  # which 403 is about as well, with o1 and later
                    raise ServerFault("refused", Handling.ABORT, fault.text, status=400) from fault
                self._client.leave_out(name)
            else:
                self.answers_as = str(response.get("model") or self.answers_as)
                return response

    async def _chat(self, count: int = 1, **fields: Any) -> list[Fields]:
        """The choices that the server gives for the canary."""
        body = {**self._common, "messages": CANARY.chat, "max_tokens": 8, **fields}
        body |= {"n": count} if count > 1 else {}
        return choices_of(await self._send(scoring.CHAT, body, count))

    async def _settle_thinking(self) -> bool:
        """Whether the server chats, with the wish not to think where it takes it."""
        try:
            await self._chat()
            self.thinking = "refused" if _THINKING_OFF.keys() & self._client.left_out.keys() else "off"
        except ServerFault as fault:
            if fault.name == "context" or fault.status not in (400, 404, 405, 422, 501):
                raise
            if fault.status == 404:
                return False
            self._common = self._without_thinking()
            self.thinking = "refused"
            await self._chat()
        return True

    def _without_thinking(self) -> dict[str, Any]:
        return {key: value for key, value in self._common.items() if key not in _THINKING_OFF}

    async def _ask(self, way: Way, prompts: Sequence[Prompt]) -> tuple[list[Reply], list[Fields]]:
        """Replies of a way to some prompts, in order, and all responses."""
        started, replies, responses = monotonic(), list[Reply](), list[Fields]()
        for positions in way.groups(prompts):
            group = [prompts[i] for i in positions]
            new = [await self._send(way.path, body, calls) for body, calls in way.requests(group)]
            replies += way.read(group, new)
            responses += new
        self.seconds = monotonic() - started
        return replies, responses

    async def _letters(self) -> Way:
        refused: ServerFault | None = None
        for top in _TOP_LOGPROBS:
            way = scoring.letters(self._common, top)
            try:
                (reply,), (response,) = await self._ask(way, self._prompts[:1])
            except ServerFault as fault:
                if fault.name == "context" or fault.status not in (400, 422):
                    raise
                refused = fault
                continue
            if len(scoring.first_token(next(iter(choices_of(response)), {}))) < 2:
                raise _Unfit("asked for log-probabilities of alternatives, the server gave none")
            if reply.status != OK:
                raise _Unfit(f"less than {scoring.MIN_MENU_MASS:.0%} of the probability is on the letters of the menu")
            return await self._in_lists(way)
        raise _Unfit(str(refused))

    async def _in_lists(self, way: Way) -> Way:
        """The same scores faster, where lists of prompts give them."""
        lists = scoring.letter_lists(self._without_thinking(), way.top, _LIST_SIZE)
        prompts, alone = [*self._prompts, CANARY], self.seconds
        try:
            ours, _ = await self._ask(lists, prompts)
            in_list = self.seconds / len(prompts)
            theirs, _ = await self._ask(way, prompts)
        except ServerFault:
            return way
        finally:
            self.seconds = alone
        if self._client.estimates:
            return way
        same = all(_alike(*pair) for pair in zip(ours, theirs, strict=True))
        # A sure model may say the same of another text: a chat template shows in the number of tokens.
        read = [sum(reply.tokens for reply in replies) for replies in (ours, theirs)]
        if not same or not read[0] == read[1] > 0:
            return way
        self.seconds = min(alone, in_list)  # the first prompt may have found the server cold
        return lists

    async def _choice(self) -> Way:
        choices = await self._chat(2, structured_outputs={"choice": _FORCED})
        texts = [scoring.text_of(choice).strip() for choice in choices]
        if not texts or any(text not in _FORCED for text in texts):
            raise _Unfit(f"told to answer one of {_FORCED}, the model said {(texts or [''])[0][:40]!r}")
        return await self._answering("choice", many=len(texts) == 2)

    async def _samples(self) -> Way:
        try:
            many = len(await self._chat(2)) == 2
        except ServerFault as fault:
            if fault.status not in (400, 422):
                raise
            many = False
        return await self._answering("samples", many=many)

    async def _answering(self, name: str, *, many: bool) -> Way:
        """The way, with as many tokens as the model needs to say more than its thoughts."""
        for tokens in self._reply_tokens:
            longer = scoring.samples(self._common, name, many, tokens)
            try:
                replies, _ = await self._ask(longer, [self._prompts[0]] * _PROBE_SAMPLES)
            except ServerFault as fault:
                if tokens == self._reply_tokens[0] or fault.status not in (400, 422):
                    raise
                break  # so many do not fit
            way = longer
            unfinished = sum(reply.status == ParseFailure.UNFINISHED for reply in replies)
            if 2 * unfinished < len(replies):
                break
        if not any(reply.status == OK for reply in replies):
            more = f"; try --reply-tokens {4 * way.tokens}" if unfinished else ""
            raise _Unfit(f"{len(replies)} samples and no answer; the last: {replies[-1].text[:60]!r}{more}")
        return way

    async def _echo(self) -> Way:
        """The way to write the letter that the model has in mind, and whether lists are taken."""
        found: list[tuple[float, Way]] = []
        for lead in ("", " "):
            for lists in (True, False):
                way = scoring.echo(self._without_thinking(), lead, lists)
                try:
                    (reply,), responses = await self._ask(way, self._prompts[:1])
                except ServerFault as fault:
                    if fault.name == "context" or not lists:
                        raise
                    continue
                if reply.status == OK:
                    found.append((scoring.echoed_mass(self._prompts[0], responses), way))
                    break
        if not found:
            raise _Unfit("the server echoes no log-probabilities, or has next to none for the letters of the menu")
        return max(found, key=lambda pair: pair[0])[1]


def _refused_by_name(said: str, names: Iterable[str]) -> str | None:
    """The parameter that a server's words refuse, the longest where they hold several."""
    named = [name for name in names if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", said)]
    refused = _REFUSES.search(said) and not _OF_A_VALUE.search(said)
    return max(named, key=len) if named and refused else None


class _Unfit(Exception):
    """Why a way is dropped."""


def _alike(one: Reply, other: Reply) -> bool:
    """Whether two replies have the same status and nearly the same scores, by total variation."""
    return (one.status, len(one.scores)) == (other.status, len(other.scores)) and (
        sum(abs(x - y) for x, y in zip(one.scores, other.scores, strict=True)) / 2 < _SAME
    )
