"""The model at work: one thread, and whatever waits for it goes through one forward pass together.

Prompts that have arrived are padded on the right, where causal attention never looks back from, and read in batches;
those that want more than one token go on as a group, a token at a time, groups in turn, so that nobody waits for
another's whole reply. The `n` continuations of a prompt share its reading.
"""

import contextlib
import logging
import queue
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from ground.errors import UserError
from serving.local.codec import Codec
from serving.local.sampling import END, Scored, Settings, Trie, draw, scored
from teacher.local import batches, load_model

_DEFAULT_CONTEXT = 2048  # of a model whose config names none
_log = logging.getLogger("preceptor.local")


class EngineStopped(Exception):
    """The server is going down and answers no more."""


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
        notify: Called from the engine's thread when it is done, and with `stream` after each token.
        prompt_scores: With `echo`, a score for each token of the prompt after the first.
        error: What went wrong, if anything.
    """

    prompt: Sequence[int]
    text: str
    settings: Settings
    n: int = 1
    echo: bool = False
    stream: bool = False
    notify: Callable[[], None] = lambda: None
    prompt_scores: list[Scored] = field(default_factory=list)
    error: Exception | None = None
    cancelled: bool = False
    continuations: list[Continuation] = field(init=False)

    def __post_init__(self) -> None:
        seed = self.settings.seed
        self.continuations = [
            Continuation(random.Random(None if seed is None else f"{seed}/{i}"), self.settings.choice)
            for i in range(self.n)
        ]

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self.error is not None or all(continuation.finish for continuation in self.continuations)


Row = tuple[Job, Continuation]


class Engine:
    """A model and the thread that runs it.

    Args:
        path: Folder with a transformers model and its tokenizer.
        max_model_len: Most tokens of a prompt with its reply; else what the model was made for.
        batch_tokens: Padded tokens of prompts per forward pass. A thousand stay in the cache of a small model.

    Raises:
        UserError: No model there, or it was not made for so many tokens.
    """

    def __init__(self, path: Path, *, max_model_len: int | None = None, batch_tokens: int = 1024) -> None:
        tokenizer, self._network = load_model(path)
        self._path = path
        longest = getattr(self._network.config, "max_position_embeddings", None)
        if max_model_len is not None and longest is not None and max_model_len > longest:
            raise UserError(
                f"The model in {path} was made for {longest} tokens, not {max_model_len}.", f"--max-model-len {longest}"
            )
        self.max_model_len: int = max_model_len or longest or _DEFAULT_CONTEXT
        self.vocabulary: int = self._network.get_output_embeddings().weight.shape[0]
        self.codec = Codec(tokenizer, _stop_tokens(self._network, tokenizer))
        self._batch_tokens = batch_tokens
        self._sliding = _slides(self._network)
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def stopped(self) -> bool:
        """Whether it answers no more."""
        return self._stopped or not self._thread.is_alive()

    def warm_up(self) -> None:
        """Continue a short prompt: the first passes take longer than the others, and some models cannot.

        Raises:
            UserError: The model is of a kind that does not go on from what it has read.
        """
        done = threading.Event()
        job = Job([0], "", Settings(max_tokens=3), n=2, notify=done.set)
        self.submit(job)
        done.wait()
        if job.error is not None:
            what = f"The model in {self._path} cannot be served: {type(job.error).__name__}: {job.error}."
            raise UserError(what, "serve it with --backend vllm, or give another folder with --model")

    def submit(self, job: Job) -> None:
        """Queue a job. Its outcome stands in it when `notify` is called."""
        if self.stopped:
            raise EngineStopped("The server is going down.")
        self._waiting.put(job)

    def close(self) -> None:
        """End the thread; jobs that are not done fail."""
        self._stopped = True
        self._waiting.put(None)
        self._thread.join()

    @torch.inference_mode()
    def _run(self) -> None:
        groups: list[_Group] = []
        while True:
            fresh = self._arrivals(block=not groups)
            if self._stopped:
                break
            for batch in self._batched(fresh):
                with self._failing(batch):
                    groups += self._read(batch)
                    _notify(batch)
            for group in groups:
                with self._failing(group.jobs):
                    group.step()
                    _notify(group.jobs)
                group.forget_finished()
            groups = [group for group in groups if group.rows]
        rest = [job for group in groups for job in group.jobs]
        while not self._waiting.empty():
            waiting = self._waiting.get()
            rest += [waiting] if waiting is not None else []
        for job in [*fresh, *rest]:
            job.error = job.error or EngineStopped("The server is going down.")
        _notify([*fresh, *rest])

    def _arrivals(self, *, block: bool) -> list[Job]:
        """Jobs that have come; if there is nothing else to do, wait for one."""
        jobs: list[Job | None] = [self._waiting.get()] if block else []
        with contextlib.suppress(queue.Empty):
            while True:
                jobs.append(self._waiting.get_nowait())
        return [job for job in jobs if job is not None and not job.cancelled]

    def _batched(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """Jobs of similar length together."""
        order = sorted(range(len(jobs)), key=lambda i: len(jobs[i].prompt))
        lengths = [len(job.prompt) for job in jobs]
        together = [[jobs[i] for i in batch] for batch in batches(order, lengths, self._batch_tokens)]
        if not self._sliding:
            return together
        return [list(equal) for batch in together for _, equal in groupby(batch, key=lambda job: len(job.prompt))]

    @contextlib.contextmanager
    def _failing(self, jobs: Sequence[Job]) -> Iterator[None]:
        """What goes wrong in a forward pass is the error of its jobs; the engine goes on."""
        try:
            yield
        except Exception as error:
            _log.exception("a forward pass failed")
            for job in jobs:
                job.error = error
            _notify(jobs)

    def _read(self, jobs: Sequence[Job]) -> list["_Group"]:
        """Read prompts and draw a first token for each continuation; the group of those that go on."""
        lengths = torch.tensor([len(job.prompt) for job in jobs])
        padded = torch.zeros(len(jobs), int(lengths.max()), dtype=torch.long)
        for row, job in zip(padded, jobs, strict=True):
            row[: len(job.prompt)] = torch.tensor(job.prompt)
        go_on = any(job.settings.max_tokens > 1 for job in jobs)
        ends, place = (lengths - 1).unique(return_inverse=True)
        echo = any(job.echo and job.settings.top is not None for job in jobs)
        out = self._network(input_ids=padded, use_cache=go_on, logits_to_keep=0 if echo else ends)  # logits [N, T', V]
        last = out.logits[torch.arange(len(jobs)), lengths - 1 if echo else place]  # [N, V]
        for i, job in enumerate(jobs):
            if job.echo and job.settings.top is not None and len(job.prompt) > 1:
                before = out.logits[i, : len(job.prompt) - 1]
                job.prompt_scores = scored(before, job.prompt[1:], job.settings.top)
            if job.settings.max_tokens == 0:
                for grown in job.continuations:
                    grown.finish = "length"
        rows = [(i, row) for i, job in enumerate(jobs) for row in _rows(job)]
        if not rows:
            return []
        sources = torch.tensor([i for i, _ in rows])
        _advance([row for _, row in rows], last[sources], self.codec)
        if not go_on:
            return []
        mask = torch.arange(padded.shape[1]) < lengths[:, None]  # [N, T]
        out.past_key_values.reorder_cache(sources)
        group = _Group(self._network, self.codec, [row for _, row in rows], out.past_key_values, mask[sources])
        group.forget_finished()
        return [group] if group.rows else []


class _Group:
    """Continuations that grow together, a token each at a step."""

    def __init__(self, network: Any, codec: Codec, rows: list[Row], cache: Any, mask: torch.Tensor) -> None:
        self._network = network
        self._codec = codec
        self.rows = rows
        self._cache = cache
        self._mask = mask  # [N, T] of what the cache holds, false where a shorter prompt was padded

    @property
    def jobs(self) -> list[Job]:
        return list(dict.fromkeys(job for job, _ in self.rows))

    def step(self) -> None:
        """One more token for each."""
        tokens = torch.tensor([[continuation.ids[-1]] for _, continuation in self.rows])
        positions = torch.tensor([[len(job.prompt) + len(grown.ids) - 1] for job, grown in self.rows])
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.rows), 1)], dim=1)
        out = self._network(
            input_ids=tokens,
            attention_mask=self._mask.long(),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        _advance(self.rows, out.logits[:, -1], self._codec)

    def forget_finished(self) -> None:
        """Drop rows that are finished, failed or cancelled."""
        kept = [
            i
            for i, (job, grown) in enumerate(self.rows)
            if not (grown.finish or job.cancelled or job.error is not None)
        ]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[i] for i in kept]
        if kept:
            self._cache.reorder_cache(torch.tensor(kept))
            self._mask = self._mask[kept]


def _rows(job: Job) -> list[Row]:
    return [(job, continuation) for continuation in job.continuations if not continuation.finish]


def _notify(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if job.stream or job.done:
            job.notify()


def _advance(rows: Sequence[Row], logits: torch.Tensor, codec: Codec) -> None:
    """Draw a token for each row from logits [N, V], and end what has come to its end."""
    allowed = logits
    for i, (_, grown) in enumerate(rows):
        if grown.allowed is not None:
            allowed = allowed.clone() if allowed is logits else allowed
            allowed[i] = _only(grown.allowed, logits[i], codec.stops)
    settings = [job.settings for job, _ in rows]
    tokens = draw(
        allowed,
        [each.temperature for each in settings],
        [each.top_p for each in settings],
        [grown.rng.random() for _, grown in rows],
    )
    scores: list[Scored] = []
    if any(each.top is not None for each in settings):
        scores = scored(logits, tokens, max(each.top or 0 for each in settings))
    for i, (job, grown) in enumerate(rows):
        grown.sampled += 1
        if job.settings.top is not None:
            score = scores[i]
            grown.scores.append(Scored(score.token, score.logprob, score.top[: job.settings.top]))
        if tokens[i] in codec.stops:
            grown.finish = "stop"
            continue
        grown.ids.append(tokens[i])
        grown.finish = _finish(job, grown, codec)


def _only(node: Trie, logits: torch.Tensor, stops: frozenset[int]) -> torch.Tensor:
    """Logits [V] with nothing left but what a node of choices allows."""
    ids = [token for token in node if token != END] + (sorted(stops) if END in node else [])
    kept = torch.full_like(logits, -torch.inf)
    kept[ids] = logits[ids]
    return kept


def _finish(job: Job, grown: Continuation, codec: Codec) -> str:
    """Why a continuation ends with its newest token; empty if it goes on."""
    if grown.allowed is not None:
        grown.allowed = grown.allowed[grown.ids[-1]]
        if set(grown.allowed) == {END}:
            return "stop"
    if job.settings.stop:
        text = codec.text(job.prompt, grown.ids)
        found = [at for at in (text.find(stop) for stop in job.settings.stop) if at >= 0]
        if found:
            grown.cut = min(found)
            return "stop"
    return "length" if len(grown.ids) >= job.settings.max_tokens else ""


def _slides(network: Any) -> bool:
    """Whether the model forgets what is far back: padding would then push out of its cache what it should remember."""
    from transformers import DynamicCache

    return any(DynamicCache(config=network.config).is_sliding)


def _stop_tokens(network: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a reply, by the model's generation config and its tokenizer."""
    config = getattr(network, "generation_config", None)
    named = getattr(config, "eos_token_id", None)
    ids = named if isinstance(named, list) else [named, tokenizer.eos_token_id]
    return frozenset(int(token) for token in ids if token is not None)
