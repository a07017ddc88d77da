"""The model at work: one thread, which continues all prompts that have arrived in batches of similar length.

Prompts are padded on the right, where causal attention never looks back from; the `n` continuations of a prompt share
its reading. A batch is continued to its end before the next is begun, but for much shorter work, which is done between
its tokens: so a request for many long replies does not block the others. Prompts of which one token is wanted, as by
teachers, are read together with what they have in common (`teacher/packing.py`), if the model is seen to allow that.
"""

import contextlib
import json
import logging
import queue
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from preceptor.ground.errors import UserError
from preceptor.serving.local.codec import Codec
from preceptor.serving.local.protocol import ChatRequest, CompletionRequest, Refused
from preceptor.serving.local.sampling import END, Scored, Trie, draw, only, scored
from preceptor.teacher.local import CPU_BATCH_TOKENS, batches, load_model
from preceptor.teacher.packing import Packed, packed

_DEFAULT_CONTEXT = 2048  # of a model whose config names none
_SHORTER = 4  # how many times less work is done before the rest of a batch
_log = logging.getLogger("preceptor.local")


@dataclass(eq=False)
class Continuation:
    """What a prompt is continued with, growing while it is generated.

    Attributes:
        allowed: What may follow; None for everything.
        ids: Its tokens; one that ends the reply is not among them.
        scores: If asked for, a score for each token drawn, the one that ended the reply included as with vLLM.
        sampled: Tokens drawn, the one that ended the reply included.
        cut: Length of the text up to a stop text; None if none was met.
        finish: `stop` or `length`; empty while it grows.
    """

    job: "Job"
    rng: random.Random
    allowed: Trie | None = None
    ids: list[int] = field(default_factory=list)
    scores: list[Scored] = field(default_factory=list)
    sampled: int = 0
    cut: int | None = None
    finish: str = ""


@dataclass(eq=False)
class Job:
    """A prompt and the n continuations that a request wants.

    Attributes:
        ask: The request.
        prompt: Token ids, at least one.
        max_tokens: Most tokens of a continuation.
        text: The prompt in words, of completions.
        on_token: Called from the engine's thread after each token.
        done: Its end or its failure, which is a `Refused`; cancelled, the job is given up.
        prompt_scores: With `echo`, a score for each token of the prompt after the first.
    """

    ask: ChatRequest | CompletionRequest
    prompt: Sequence[int]
    max_tokens: int
    text: str = ""
    on_token: Callable[[], None] = lambda: None
    done: Future[None] = field(default_factory=Future)
    prompt_scores: list[Scored] = field(default_factory=list)
    continuations: list[Continuation] = field(init=False)

    def __post_init__(self) -> None:
        seeds = [None if self.ask.seed is None else f"{self.ask.seed}/{i}" for i in range(self.ask.n)]
        self.continuations = [Continuation(self, random.Random(seed)) for seed in seeds]

    @property
    def left(self) -> int:
        """Tokens that it may still need."""
        return sum(self.max_tokens - len(grown.ids) for grown in self.continuations if not grown.finish)

    @property
    def echo(self) -> bool:
        """Whether the prompt is part of the reply."""
        return isinstance(self.ask, CompletionRequest) and self.ask.echo

    def end(self, error: Refused | None = None) -> None:
        """Set its outcome, unless it has one or was cancelled."""
        with contextlib.suppress(InvalidStateError):
            self.done.set_result(None) if error is None else self.done.set_exception(error)


class Engine:
    """A model and the thread that runs it.

    Args:
        path: Folder with a transformers model and its tokenizer.
        max_model_len: Most tokens of a prompt with its reply; else what the model was made for.

    Raises:
        UserError: No model there, not one that goes on from what it has read, or not made for so many tokens.
    """

    def __init__(self, path: Path, *, max_model_len: int | None = None) -> None:
        tokenizer, self._network = load_model(path)
        longest = getattr(self._network.config, "max_position_embeddings", None)
        longest = longest or max(_DEFAULT_CONTEXT, max_model_len or 0)
        self.max_model_len: int = longest if max_model_len is None else max_model_len
        if not 1 <= self.max_model_len <= longest:
            what = f"The model in {path} was made for 1 to {longest} tokens, not {max_model_len}."
            raise UserError(what, f"--max-model-len {longest}")
        self.codec = Codec(tokenizer, _stop_tokens(self._network, tokenizer))
        self._slides = _slides(self._network)
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        try:  # the first passes take longer than the others, and some models cannot
            self._continue([Job(CompletionRequest(model="", prompt=["."], n=2), [0], 3)])
        except Exception as error:
            what = f"The model in {path} cannot be served: {type(error).__name__}: {error}."
            raise UserError(what, "serve it with --backend vllm, or give another folder with --model") from error
        self._shares = not self._slides and self._reads_alike([[0], [1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 6, 0]])
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def stopped(self) -> bool:
        """Whether it answers no more."""
        return self._stopping.is_set() or not self._thread.is_alive()

    def jobs(self, ask: ChatRequest | CompletionRequest) -> list[Job]:
        """The work that a request asks for. Raises `Refused`, and what chat templates raise."""
        choice = ask.structured_outputs.choice if ask.structured_outputs else []
        self._refuse_long("structured_outputs", *choice)
        if isinstance(ask, ChatRequest):
            messages = [{"role": message.role, "content": message.content} for message in ask.messages]
            self._refuse_long("messages", "".join(message.content for message in ask.messages))
            self._refuse_long("chat_template_kwargs", json.dumps(ask.chat_template_kwargs))
            ids = self.codec.render(messages, ask.chat_template_kwargs)
            length = ask.max_completion_tokens or ask.max_tokens or max(1, self.max_model_len - len(ids))
            jobs = [self._job(ask, ids, length)]
        else:
            self._refuse_long("prompt", *ask.prompt)
            jobs = [self._job(ask, self.codec.encode(t, special=True), ask.max_tokens, t) for t in ask.prompt]
        if choice:
            tree = self.codec.choices(choice)
            for grown in (grown for job in jobs for grown in job.continuations):
                grown.allowed = tree
        return jobs

    def _refuse_long(self, field_name: str, *texts: str) -> None:
        """Raises `Refused` for a text that cannot fit, before its tokens are made, which takes long."""
        most, longest = self.max_model_len * self.codec.longest, max(map(len, texts), default=0)
        if longest > most:
            what = f"This model's maximum context length is {self.max_model_len} tokens, which are at most {most} "
            what += f"characters, and {longest} are in {field_name}."
            raise Refused(400, what, field_name, "context_length_exceeded")

    def _job(self, ask: ChatRequest | CompletionRequest, ids: Sequence[int], length: int, text: str = "") -> Job:
        """The work on a prompt. Raises `Refused` if there is none, or more than the model can hold."""
        wanted = len(ids) + length
        if not ids:
            raise Refused(400, "The tokenizer makes no tokens of the prompt or the messages.")
        if wanted > self.max_model_len:
            what = f"This model's maximum context length is {self.max_model_len} tokens. However, you requested "
            what += f"{wanted} tokens ({len(ids)} in the prompt, {length} in the completion)."
            raise Refused(400, f"{what} Please reduce the length of either.", code="context_length_exceeded")
        return Job(ask, ids, length, text)

    def submit(self, job: Job) -> None:
        """Queue a job; one that comes after the engine was closed fails."""
        self._waiting.put(job)
        if self.stopped:
            job.end(_closing())

    def close(self) -> None:
        """End the thread; jobs that are not done fail."""
        self._stopping.set()
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._serve([first, *self._arrivals()] if (first := self._waiting.get()) else [])
        for job in self._arrivals():
            job.end(_closing())

    def _serve(self, jobs: Sequence[Job]) -> None:
        """Continue jobs to their end, in batches."""
        once, longer = list[Job](), list[Job]()
        for job in jobs:
            (once if self._shares and job.max_tokens <= 1 and not job.echo else longer).append(job)
        for pack in packed([job.prompt for job in once], CPU_BATCH_TOKENS):
            self._try(partial(self._answer, pack), [once[i] for i in pack.prompts])
        for batch in self._batched(longer):
            self._try(self._continue, batch)

    def _try(self, work: Callable[[Sequence[Job]], None], batch: Sequence[Job]) -> None:
        try:
            work(batch)
        except Exception as error:
            if not isinstance(error, Refused):
                _log.exception("a forward pass failed")
                error = Refused(500, f"The server failed: {type(error).__name__}: {error}")
            for job in batch:
                job.end(error)

    def _make_way(self, left: int) -> None:
        """Serve those who came meanwhile with much less work than what is left of a batch; the others wait on."""
        arrived = self._arrivals()
        short = [job for job in arrived if job.left * _SHORTER <= left]
        for job in arrived:
            if job not in short:
                self._waiting.put(job)
        if short:
            self._serve(short)

    def _arrivals(self) -> list[Job]:
        """All jobs that wait."""
        jobs = []
        with contextlib.suppress(queue.Empty):
            while True:
                jobs.append(self._waiting.get_nowait())
        return [job for job in jobs if job is not None]

    def _batched(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """Jobs of similar length together; of equal length where padding would push a prompt out of the cache."""
        lengths = [len(job.prompt) for job in jobs]
        together = [[jobs[i] for i in batch] for batch in batches(lengths, CPU_BATCH_TOKENS)]
        if not self._slides:
            return together
        return [list(equal) for batch in together for _, equal in groupby(batch, key=lambda job: len(job.prompt))]

    @torch.inference_mode()
    def _answer(self, pack: Packed, jobs: Sequence[Job]) -> None:
        """Draw the only token of each continuation."""
        logits = self._after(pack)
        rows = [(row, grown) for row, job in enumerate(jobs) for grown in job.continuations]
        self._advance([grown for _, grown in rows], logits[[row for row, _ in rows]])
        for job in jobs:
            job.on_token()
            job.end()

    def _after(self, pack: Packed) -> torch.Tensor:
        """The next logits [N, V] of prompts."""
        logits: torch.Tensor = self._network.get_output_embeddings()(pack.read(self._network.base_model))
        return logits

    @torch.inference_mode()
    def _reads_alike(self, prompts: Sequence[Sequence[int]]) -> bool:
        """Whether prompts have the same logits where what they have in common is read once: it depends on how a model
        tells positions, what masks it takes, and what it does with logits."""
        with contextlib.suppress(Exception):  # whatever a model raises that cannot
            (pack,) = packed(prompts, CPU_BATCH_TOKENS)
            alone = [self._network(torch.tensor([prompts[i]]), use_cache=False).logits[0, -1] for i in pack.prompts]
            return torch.allclose(self._after(pack), torch.stack(alone), rtol=1e-4, atol=1e-4)
        return False

    @torch.inference_mode()
    def _continue(self, jobs: Sequence[Job]) -> None:
        """Continue a batch to its end."""
        jobs = [job for job in jobs if not job.done.cancelled()]
        if not jobs:
            return
        rows, logits, cache, mask = self._read(jobs)
        while True:
            self._advance(rows, logits)
            for job in jobs:
                job.on_token()
                if all(grown.finish for grown in job.continuations):
                    job.end()
            kept = [i for i, row in enumerate(rows) if not (row.finish or row.job.done.cancelled())]
            if not kept:
                return
            if not self._waiting.empty():
                self._make_way(sum(job.left for job in jobs if not job.done.cancelled()))
            if self._stopping.is_set():
                raise _closing()
            if len(kept) < len(rows):
                rows, mask = [rows[i] for i in kept], mask[kept]
                cache.reorder_cache(torch.tensor(kept))
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            out = self._network(
                input_ids=torch.tensor([[row.ids[-1]] for row in rows]),
                attention_mask=mask.long(),
                position_ids=torch.tensor([[len(row.job.prompt) + len(row.ids) - 1] for row in rows]),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits = out.logits[:, -1]

    def _read(self, jobs: Sequence[Job]) -> tuple[list[Continuation], torch.Tensor, Any, torch.Tensor]:
        """Read prompts; a row for each continuation, its next logits [N, V], the cache and its mask [N, T]."""
        lengths = torch.tensor([len(job.prompt) for job in jobs])
        padded = pad_sequence([torch.tensor(job.prompt) for job in jobs], batch_first=True)
        echoing = [(i, job) for i, job in enumerate(jobs) if job.echo and job.ask.top is not None]
        ends, place = (lengths - 1).unique(return_inverse=True)
        out = self._network(input_ids=padded, use_cache=True, logits_to_keep=0 if echoing else ends)  # [N, T', V]
        last = out.logits[torch.arange(len(jobs)), lengths - 1 if echoing else place]
        for i, job in echoing:
            if len(job.prompt) > 1:
                before = out.logits[i, : len(job.prompt) - 1]
                job.prompt_scores = scored(before, job.prompt[1:], job.ask.top or 0)
        sources = torch.tensor([i for i, job in enumerate(jobs) for _ in job.continuations])
        mask = torch.arange(padded.shape[1]) < lengths[:, None]
        out.past_key_values.reorder_cache(sources)
        return [row for job in jobs for row in job.continuations], last[sources], out.past_key_values, mask[sources]

    def _advance(self, rows: Sequence[Continuation], logits: torch.Tensor) -> None:
        """Draw a token for each row from logits [N, V], and end what has come to its end."""
        asks, stops = [row.job.ask for row in rows], self.codec.stops
        pairs = zip(rows, logits, strict=True)
        allowed = torch.stack([own if row.allowed is None else only(row.allowed, own, stops) for row, own in pairs])
        uniforms = [row.rng.random() for row in rows]
        tokens = draw(allowed, [ask.temperature for ask in asks], [ask.top_p for ask in asks], uniforms)
        scores = scored(logits, tokens, max(ask.top or 0 for ask in asks))
        for row, token, score in zip(rows, tokens, scores, strict=True):
            if row.job.max_tokens == 0:
                row.finish = "length"
                continue
            row.sampled += 1
            if row.job.ask.top is not None:
                row.scores.append(Scored(score.token, score.logprob, score.top[: row.job.ask.top]))
            if token in stops:
                row.finish = "stop"
                continue
            row.ids.append(token)
            row.finish = self._finish(row)

    def _finish(self, row: Continuation) -> str:
        """Why a continuation ends with its newest token; empty if it goes on."""
        if row.allowed is not None:
            row.allowed = row.allowed[row.ids[-1]]
            if set(row.allowed) == {END}:
                return "stop"
        if row.job.ask.stop:
            text = self.codec.text(row.ids, row.job.prompt)
            if found := [at for at in map(text.find, row.job.ask.stop) if at >= 0]:
                row.cut = min(found)
                return "stop"
        return "length" if len(row.ids) >= row.job.max_tokens else ""


def _closing() -> Refused:
    return Refused(503, "The server is shutting down.")


def _slides(network: Any) -> bool:
    """Whether attention looks back over a window."""
    from transformers import DynamicCache

    return any(DynamicCache(config=network.config).is_sliding)


def _stop_tokens(network: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a reply, by the model's generation config and its tokenizer."""
    named = getattr(getattr(network, "generation_config", None), "eos_token_id", None)
    ids = named if isinstance(named, list) else [named, tokenizer.eos_token_id]
    return frozenset(int(token) for token in ids if token is not None)
