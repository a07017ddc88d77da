"""What the engine made, in the shapes of the OpenAI protocol."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from serving.local.codec import Codec
from serving.local.engine import Continuation, Job
from serving.local.sampling import Scored

_UNFINISHED = "\ufffd"  # what half a character is decoded to


def usage(jobs: Sequence[Job]) -> dict[str, int]:
    """Tokens read and written; a prompt is read once, however often it is continued."""
    read = sum(len(job.prompt) for job in jobs)
    wrote = sum(grown.sampled for job in jobs for grown in job.continuations)
    return {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}


def choices(jobs: Sequence[Job], codec: Codec, *, chat: bool) -> list[dict[str, Any]]:
    """The choices: those of the first prompt, then those of the second, ..."""
    rows = [(job, grown) for job in jobs for grown in job.continuations]
    made = []
    for i, (job, grown) in enumerate(rows):
        text = codec.text(grown.ids, job.prompt)[: grown.cut]
        shown = {"message": {"role": "assistant", "content": text}} if chat else {"text": job.text * job.echo + text}
        logprobs = None
        if job.settings.top is not None:
            logprobs = chat_logprobs(grown, codec) if chat else completion_logprobs(job, grown, codec)
        made.append({"index": i, **shown, "logprobs": logprobs, "finish_reason": grown.finish})
    return made


def chat_logprobs(grown: Continuation, codec: Codec) -> dict[str, Any]:
    """The `logprobs` of a chat's choice."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        text = codec.piece(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    return {
        "content": [
            entry(score.token, score.logprob) | {"top_logprobs": [entry(*each) for each in score.top]}
            for score in grown.scores
        ]
    }


def completion_logprobs(job: Job, grown: Continuation, codec: Codec) -> dict[str, Any]:
    """The `logprobs` of a completion's choice; the token itself is always among its alternatives.

    Nothing stands before the first token of an echoed prompt, so it has no score.
    """
    unscored = [job.prompt[0]] if job.echo else []
    scores: list[Scored] = [*job.prompt_scores, *grown.scores]
    pieces = [codec.piece(token) for token in [*unscored, *(score.token for score in scores)]]
    tops = [
        {codec.piece(token): value for token, value in (*score.top, (score.token, score.logprob))} for score in scores
    ]
    return {
        "text_offset": list(accumulate(map(len, pieces), initial=0 if job.echo else len(job.text)))[:-1],
        "token_logprobs": [*(None for _ in unscored), *(score.logprob for score in scores)],
        "tokens": pieces,
        "top_logprobs": [*(None for _ in unscored), *tops],
    }


class Stream:
    """What of a job has been sent, and what can be sent next.

    Text is held back while its last character is half there, or while it may be the beginning of a stop text.
    """

    def __init__(self, job: Job, codec: Codec) -> None:
        self._job, self._codec = job, codec
        self._sent = [0] * job.n
        self._finished = [False] * job.n

    def news(self) -> Iterator[tuple[int, str, str]]:
        """(number of the continuation, its new text, why it is finished or nothing) since the last call."""
        for i, grown in enumerate(self._job.continuations):
            finish = grown.finish  # read first: the engine goes on meanwhile, and writes it last
            if self._finished[i]:
                continue
            text = self._codec.text(list(grown.ids), self._job.prompt)[: grown.cut]
            new = text[self._sent[i] : None if finish else self._safe(text)]
            self._sent[i] += len(new)
            self._finished[i] = bool(finish)
            if new or finish:
                yield i, new, finish

    def _safe(self, text: str) -> int:
        """How much of an unfinished text can be sent."""
        end = len(text.rstrip(_UNFINISHED))
        starts = range(max(0, end - max(map(len, self._job.settings.stop), default=0)), end)
        stops = self._job.settings.stop
        return next((at for at in starts if any(stop.startswith(text[at:end]) for stop in stops)), end)
