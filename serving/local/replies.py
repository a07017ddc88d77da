"""What the engine made, in the shapes of the OpenAI protocol."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from serving.local.codec import Codec
from serving.local.engine import Continuation, Job
from serving.local.sampling import Scored

_UNFINISHED = "\ufffd"  # what half a character is decoded to


@dataclass(frozen=True)
class Envelope:
    """What stands around the choices of a reply and of all chunks of its stream."""

    chat: bool
    model: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def body(self, choices: list[dict[str, Any]], *, chunk: bool = False) -> dict[str, Any]:
        """The reply with its choices."""
        kind = ("chat.completion.chunk" if chunk else "chat.completion") if self.chat else "text_completion"
        name = f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}"
        return {"id": name, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def usage(jobs: Sequence[Job]) -> dict[str, int]:
    """Tokens read and written; a prompt is read once, however often it is continued."""
    read = sum(len(job.prompt) for job in jobs)
    wrote = sum(grown.sampled for job in jobs for grown in job.continuations)
    return {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}


def text_of(job: Job, grown: Continuation, codec: Codec) -> str:
    """The text of a continuation, up to its stop text."""
    return codec.text(job.prompt, grown.ids)[: grown.cut]


def chat_choices(jobs: Sequence[Job], codec: Codec) -> list[dict[str, Any]]:
    """The choices of a chat."""
    return [
        {
            "index": i,
            "message": {"role": "assistant", "content": text_of(job, grown, codec)},
            "logprobs": chat_logprobs(grown.scores, codec) if job.settings.top is not None else None,
            "finish_reason": grown.finish,
        }
        for job in jobs
        for i, grown in enumerate(job.continuations)
    ]


def completion_choices(jobs: Sequence[Job], codec: Codec) -> list[dict[str, Any]]:
    """The choices of completions: those of the first prompt, then those of the second, ..."""
    rows = [(job, grown) for job in jobs for grown in job.continuations]
    choices = []
    for i, (job, grown) in enumerate(rows):
        echoed = _echoed(job) if job.echo else []
        logprobs = None
        if job.settings.top is not None:
            logprobs = completion_logprobs([*echoed, *grown.scores], codec, 0 if job.echo else len(job.text))
        text = text_of(job, grown, codec)
        shown = job.text + text if job.echo else text
        choices.append({"index": i, "text": shown, "logprobs": logprobs, "finish_reason": grown.finish})
    return choices


def _echoed(job: Job) -> list[Scored | int]:
    """The tokens of a prompt with their scores; nothing stands before the first, so it has none."""
    return [job.prompt[0], *job.prompt_scores]


def chat_logprobs(scores: Sequence[Scored], codec: Codec) -> dict[str, Any]:
    """The `logprobs` of a chat's choice."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        text = codec.piece(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    return {
        "content": [
            entry(score.token, score.logprob) | {"top_logprobs": [entry(token, value) for token, value in score.top]}
            for score in scores
        ]
    }


def completion_logprobs(scores: Sequence[Scored | int], codec: Codec, offset: int) -> dict[str, Any]:
    """The `logprobs` of a completion's choice; the token itself is always among its alternatives."""
    tokens = [codec.piece(score if isinstance(score, int) else score.token) for score in scores]
    given = [None if isinstance(score, int) else score for score in scores]
    return {
        "text_offset": list(accumulate(map(len, tokens[:-1]), initial=offset)) if tokens else [],
        "token_logprobs": [score.logprob if score else None for score in given],
        "tokens": tokens,
        "top_logprobs": [
            {codec.piece(token): value for token, value in (*score.top, (score.token, score.logprob))}
            if score
            else None
            for score in given
        ],
    }


class Stream:
    """What of a job has been sent, and what can be sent next.

    Text is held back while its last character is half there, or while it may be the beginning of a stop text.
    """

    def __init__(self, job: Job, first: int, chat: bool, codec: Codec) -> None:
        self._job = job
        self._first = first
        self._chat = chat
        self._codec = codec
        self._sent_text = [0] * job.n
        self._sent_scores = [0] * job.n
        self._finished = [False] * job.n

    def news(self) -> list[dict[str, Any]]:
        """Choices with what is new since the last call."""
        found = [self._choice(i, grown) for i, grown in enumerate(self._job.continuations) if not self._finished[i]]
        return [choice for choice in found if choice is not None]

    def _choice(self, i: int, grown: Continuation) -> dict[str, Any] | None:
        finish = grown.finish  # read first: the engine goes on meanwhile, and writes it last
        text = self._codec.text(self._job.prompt, list(grown.ids))[: grown.cut]
        if not finish:
            text = text[: len(text) - _held_back(text, self._job.settings.stop)]
        new = text[self._sent_text[i] :]
        if not new and not finish:
            return None
        scores = grown.scores[self._sent_scores[i] :]
        self._sent_text[i] += len(new)
        self._sent_scores[i] += len(scores)
        self._finished[i] = bool(finish)
        choice: dict[str, Any] = {"index": self._first + i, "finish_reason": finish or None, "logprobs": None}
        if self._chat:
            choice["delta"] = {"content": new}
            if self._job.settings.top is not None:
                choice["logprobs"] = chat_logprobs(scores, self._codec)
        else:
            choice["text"] = new
            if self._job.settings.top is not None:
                start = len(self._job.text) + self._sent_text[i] - len(new)
                choice["logprobs"] = completion_logprobs(scores, self._codec, start)
        return choice


def _held_back(text: str, stops: Sequence[str]) -> int:
    """Characters at the end of a text that must wait."""
    if text.endswith(_UNFINISHED):
        return len(text) - len(text.rstrip(_UNFINISHED))
    longest = max((len(stop) - 1 for stop in stops), default=0)
    return max(
        (
            size
            for size in range(1, min(longest, len(text)) + 1)
            if any(stop.startswith(text[-size:]) for stop in stops)
        ),
        default=0,
    )
