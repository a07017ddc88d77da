"""The model at work: one thread, which continues all prompts that have arrived in batches of similar length.

Prompts are padded on the right, where causal attention never looks back from; the `n` continuations of a prompt share
its reading. A batch is continued to its end before the next is begun.
"""

import contextlib
import logging
import queue
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from ground.errors import UserError
from serving.local.codec import Codec
from serving.local.sampling import END, Scored, Trie, draw, only, scored
from teacher.local import CPU_BATCH_TOKENS, batches, load_model

_DEFAULT_CONTEXT = 2048  # of a model whose config names none
_log = logging.getLogger("preceptor.local")


class EngineStopped(Exception):
    """The server is shutting down and answers no more."""

    def __init__(self) -> None:
        super().__init__("The server is shutting down.")


@dataclass(frozen=True)
class Settings:
    """How a prompt is continued.

    Attributes:
        max_tokens: Most tokens.
        temperature: Divides the logits; 0 takes the most probable token.
        top_p: Share of the probability, from the top, that is drawn from.
        stop: Texts that end a continuation and are not part of it.
        seed: Makes the draws reproducible.
        top: Alternatives to report for each token beside its own log-probability; None to report nothing.
        choice: The continuations that are allowed; None for all.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    top: int | None = None
    choice: Trie | None = None


@dataclass
class Continuation:
    """What a prompt is continued with, growing while it is generated.

    Attributes:
        ids: Its tokens; one that ends the reply is not among them.
        scores: A score for each token drawn, the one that ended the reply included as with vLLM, if asked for.
        sampled: Tokens drawn, the one that ended the reply included.
        cut: Length of the text up to a stop text; None if none was met.
        finish: `stop` or `length`; empty while it grows.
    """

    rng: random.Random
    allowed: Trie | None
    ids: list[int] = field(default_factory=list)
    scores: list[Scored] = field(default_factory=list)
    sampled: int = 0
    cut: int | None = None
    finish: str = ""


@dataclass(eq=False)
class Job:
    """A prompt and its n continuations.

    Attributes:
        prompt: Token ids, at least one.
        text: The prompt in words.
        echo: Whether the prompt's own tokens are scored too.
        on_token: Called from the engine's thread after each token.
        done: Its end or its failure; cancelled, the job is given up.
        prompt_scores: With `echo`, a score for each token of the prompt after the first.
    """

    prompt: Sequence[int]
    text: str
    settings: Settings
    n: int = 1
    echo: bool = False
    on_token: Callable[[], None] = lambda: None
    done: Future[None] = field(default_factory=Future)
    prompt_scores: list[Scored] = field(default_factory=list)
    continuations: list[Continuation] = field(init=False)

    def __post_init__(self) -> None:
        seed = self.settings.seed
        self.continuations = [
            Continuation(random.Random(None if seed is None else f"{seed}/{i}"), self.settings.choice)
            for i in range(self.n)
        ]

    def end(self, error: Exception | None = None) -> None:
        """Set its outcome, unless it has one or was cancelled."""
        with contextlib.suppress(InvalidStateError):
            self.done.set_result(None) if error is None else self.done.set_exception(error)


Row = tuple[Job, Continuation]


class Engine:
    """A model and the thread that runs it.

    Args:
        path: Folder with a transformers model and its tokenizer.
        max_model_len: Most tokens of a prompt with its reply; else what the model was made for.

    Raises:
        UserError: No model there, or it was not made for so many tokens.
    """

    def __init__(self, path: Path, *, max_model_len: int | None = None) -> None:
        tokenizer, self._network = load_model(path)
        self._path = path
        longest = getattr(self._network.config, "max_position_embeddings", None)
        if max_model_len is not None and longest is not None and max_model_len > longest:
            raise UserError(
                f"The model in {path} was made for {longest} tokens, not {max_model_len}.", f"--max-model-len {longest}"
            )
        self.max_model_len: int = max_model_len or longest or _DEFAULT_CONTEXT
        self.codec = Codec(tokenizer, _stop_tokens(self._network, tokenizer))
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def stopped(self) -> bool:
        """Whether it answers no more."""
        return self._stopping.is_set() or not self._thread.is_alive()

    def warm_up(self) -> None:
        """Continue a short prompt: the first passes take longer than the others, and some models cannot.

        Raises:
            UserError: The model is of a kind that does not continue what it has read.
        """
        job = Job([0], "", Settings(max_tokens=3), n=2)
        self.submit(job)
        if error := job.done.exception():
            what = f"The model in {self._path} cannot be served: {type(error).__name__}: {error}."
            raise UserError(what, "serve it with --backend vllm, or give another folder with --model")

    def submit(self, job: Job) -> None:
        """Queue a job. Raises `EngineStopped`."""
        if self.stopped:
            raise EngineStopped
        self._waiting.put(job)

    def close(self) -> None:
        """End the thread; jobs that are not done fail."""
        self._stopping.set()
        self._waiting.put(None)
        self._thread.join()

    @torch.inference_mode()
    def _run(self) -> None:
        while not self._stopping.is_set():
            for batch in self._batched(self._arrivals()):
                try:
                    self._continue([job for job in batch if not job.done.cancelled()])
                except Exception as error:
                    if not isinstance(error, EngineStopped):
                        _log.exception("a forward pass failed")
                    for job in batch:
                        job.end(error)
        while not self._waiting.empty():
            if left := self._waiting.get():
                left.end(EngineStopped())

    def _arrivals(self) -> list[Job]:
        """Wait for a job; with it come all that wait."""
        jobs = [self._waiting.get()]
        with contextlib.suppress(queue.Empty):
            while True:
                jobs.append(self._waiting.get_nowait())
        return [job for job in jobs if job is not None]

    def _batched(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """Jobs of similar length together; of equal length where padding would push a prompt out of the cache."""
        lengths = [len(job.prompt) for job in jobs]
        order = sorted(range(len(jobs)), key=lambda i: lengths[i])
        together = [[jobs[i] for i in batch] for batch in batches(order, lengths, CPU_BATCH_TOKENS)]
        if not _slides(self._network):
            return together
        return [list(equal) for batch in together for _, equal in groupby(batch, key=lambda job: len(job.prompt))]

    def _continue(self, jobs: Sequence[Job]) -> None:
        """Continue a batch to its end."""
        if not jobs:
            return
        rows, logits, cache, mask = self._read(jobs)
        while True:
            _advance(rows, logits, self.codec)
            for job in jobs:
                job.on_token()
                if all(grown.finish for grown in job.continuations):
                    job.end()
            kept = [i for i, (job, grown) in enumerate(rows) if not (grown.finish or job.done.cancelled())]
            if not kept:
                return
            if self._stopping.is_set():
                raise EngineStopped
            if len(kept) < len(rows):
                rows, mask = [rows[i] for i in kept], mask[kept]
                cache.reorder_cache(torch.tensor(kept))
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            out = self._network(
                input_ids=torch.tensor([[grown.ids[-1]] for _, grown in rows]),
                attention_mask=mask.long(),
                position_ids=torch.tensor([[len(job.prompt) + len(grown.ids) - 1] for job, grown in rows]),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits = out.logits[:, -1]

    def _read(self, jobs: Sequence[Job]) -> tuple[list[Row], torch.Tensor, Any, torch.Tensor]:
        """Read prompts; a row for each continuation, its next logits [N, V], the cache and its mask [N, T]."""
        lengths = torch.tensor([len(job.prompt) for job in jobs])
        padded = pad_sequence([torch.tensor(job.prompt) for job in jobs], batch_first=True)
        echoing = [(i, job) for i, job in enumerate(jobs) if job.echo and job.settings.top is not None]
        ends, place = (lengths - 1).unique(return_inverse=True)
        out = self._network(input_ids=padded, use_cache=True, logits_to_keep=0 if echoing else ends)  # [N, T', V]
        last = out.logits[torch.arange(len(jobs)), lengths - 1 if echoing else place]
        for i, job in echoing:
            if len(job.prompt) > 1:
                before = out.logits[i, : len(job.prompt) - 1]
                job.prompt_scores = scored(before, job.prompt[1:], job.settings.top or 0)
        rows = [(job, grown) for job in jobs for grown in job.continuations]
        sources = torch.tensor([i for i, job in enumerate(jobs) for _ in job.continuations])
        mask = torch.arange(padded.shape[1]) < lengths[:, None]
        out.past_key_values.reorder_cache(sources)
        return rows, last[sources], out.past_key_values, mask[sources]


def _advance(rows: Sequence[Row], logits: torch.Tensor, codec: Codec) -> None:
    """Draw a token for each row from logits [N, V], and end what has come to its end."""
    allowed = torch.stack(
        [
            row if grown.allowed is None else only(grown.allowed, row, codec.stops)
            for (_, grown), row in zip(rows, logits, strict=True)
        ]
    )
    settings = [job.settings for job, _ in rows]
    uniforms = [grown.rng.random() for _, grown in rows]
    tokens = draw(allowed, [each.temperature for each in settings], [each.top_p for each in settings], uniforms)
    scores = scored(logits, tokens, max(each.top or 0 for each in settings))
    for (job, grown), token, score in zip(rows, tokens, scores, strict=True):
        if job.settings.max_tokens == 0:
            grown.finish = "length"
            continue
        grown.sampled += 1
        if job.settings.top is not None:
            grown.scores.append(Scored(score.token, score.logprob, score.top[: job.settings.top]))
        if token in codec.stops:
            grown.finish = "stop"
            continue
        grown.ids.append(token)
        grown.finish = _finish(job, grown, codec)


def _finish(job: Job, grown: Continuation, codec: Codec) -> str:
    """Why a continuation ends with its newest token; empty if it goes on."""
    if grown.allowed is not None:
        grown.allowed = grown.allowed[grown.ids[-1]]
        if set(grown.allowed) == {END}:
            return "stop"
    if job.settings.stop:
        text = codec.text(grown.ids, job.prompt)
        found = [at for at in (text.find(stop) for stop in job.settings.stop) if at >= 0]
        if found:
            grown.cut = min(found)
            return "stop"
    return "length" if len(grown.ids) >= job.settings.max_tokens else ""


def _slides(network: Any) -> bool:
    """Whether the model's attention slides: its cache holds the newest tokens alone, padding included."""
    from transformers import DynamicCache

    return any(DynamicCache(config=network.config).is_sliding)


def _stop_tokens(network: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a reply, by the model's generation config and its tokenizer."""
    config = getattr(network, "generation_config", None)
    named = getattr(config, "eos_token_id", None)
    ids = named if isinstance(named, list) else [named, tokenizer.eos_token_id]
    return frozenset(int(token) for token in ids if token is not None)
