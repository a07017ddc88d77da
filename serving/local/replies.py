"""What the engine made, in the shapes of the OpenAI protocol."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from preceptor.serving.local.codec import Codec
from preceptor.serving.local.engine import Continuation, Job
from preceptor.serving.local.protocol import ChatRequest

_UNFINISHED = "\ufffd"  # what half a character is decoded to


def usage(jobs: Sequence[Job]) -> dict[str, int]:
    """Tokens read and written; a prompt is read once, however often it is continued."""
    read = sum(len(job.prompt) for job in jobs)
    wrote = sum(grown.sampled for job in jobs for grown in job.continuations)
    return {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}


def choices(jobs: Sequence[Job], codec: Codec) -> list[dict[str, Any]]:
    """The choices: those of the first prompt, then those of the second, ..."""
    made: list[dict[str, Any]] = []
    for job in jobs:
        chat = isinstance(job.ask, ChatRequest)
        logprobs = None if job.ask.top is None else _of_chat if chat else _of_completion
        for grown in job.continuations:
            text = codec.text(grown.ids, job.prompt)[: grown.cut]
            shown = (
                {"message": {"role": "assistant", "content": text}} if chat else {"text": job.text * job.echo + text}
            )
            scores = logprobs and logprobs(grown, codec)
            made.append({"index": len(made), **shown, "logprobs": scores, "finish_reason": grown.finish})
    return made


def _of_chat(grown: Continuation, codec: Codec) -> dict[str, Any]:
    def entry(token: int, logprob: float) -> dict[str, Any]:
        text = codec.piece(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    content = [
        entry(score.token, score.logprob) | {"top_logprobs": [entry(*each) for each in score.top]}
        for score in grown.scores
    ]
    return {"content": content}


def _of_completion(grown: Continuation, codec: Codec) -> dict[str, Any]:
    """The token itself is always among its alternatives; nothing stands before an echoed prompt's first token."""
    job = grown.job
    unscored = [job.prompt[0]] if job.echo else []
    scores = [*job.prompt_scores, *grown.scores]
    pieces = [codec.piece(token) for token in [*unscored, *(score.token for score in scores)]]
    tops = [{codec.piece(token): p for token, p in (*score.top, (score.token, score.logprob))} for score in scores]
    return {
        "text_offset": list(accumulate(map(len, pieces), initial=0 if job.echo else len(job.text)))[:-1],
        "token_logprobs": [*(None for _ in unscored), *(score.logprob for score in scores)],
        "tokens": pieces,
        "top_logprobs": [*(None for _ in unscored), *tops],
    }


class Stream:
    """What of some jobs has been sent, and what can be sent next.

    Text is held back while its last character is half there, or while it may be the beginning of a stop text.
    """

    def __init__(self, jobs: Sequence[Job], codec: Codec) -> None:
        self._codec = codec
        self._rows = [grown for job in jobs for grown in job.continuations]
        self._sent = [0] * len(self._rows)
        self._finished = [False] * len(self._rows)

    def news(self) -> Iterator[tuple[int, str, str]]:
        """(index of the choice, its new text, why it is finished or nothing) since the last call."""
        for i, grown in enumerate(self._rows):
            finish = grown.finish  # read first: the engine goes on meanwhile, and writes it last
            if self._finished[i]:
                continue
            text = self._codec.text(list(grown.ids), grown.job.prompt)[: grown.cut]
            new = text[self._sent[i] : None if finish else self._safe(text, grown.job.ask.stop)]
            self._sent[i] += len(new)
            self._finished[i] = bool(finish)
            if new or finish:
                yield i, new, finish

    @staticmethod
    def _safe(text: str, stops: Sequence[str]) -> int:
        """How much of an unfinished text can be sent."""
        end = len(text.rstrip(_UNFINISHED))
        starts = range(max(0, end - max(map(len, stops), default=0)), end)
        return next((at for at in starts if any(stop.startswith(text[at:end]) for stop in stops)), end)
