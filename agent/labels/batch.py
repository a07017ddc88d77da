"""`labels batch`: a million scenes labelled by one model, in this process or on many servers.

Scenes stream from play to prompts to the store, and only those in flight are objects. The stream is the same each time.
A place in it is written with the replies that complete all before it, so that a command that was killed goes on from
there, and asks what is not in the store.
"""

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import chain, islice
from pathlib import Path
from typing import Any

from preceptor.agent.labels.collecting import Stream
from preceptor.agent.labels.config import BatchConfig
from preceptor.agent.runs.carried import task_of
from preceptor.agent.runs.checkpoint import tree_as_bytes
from preceptor.envs.task import Scene, Task
from preceptor.ground.errors import UserError
from preceptor.ground.sealed import digest_of
from preceptor.teacher.asking import Ask, AskingTeacher, Reply
from preceptor.teacher.base import UNAVAILABLE, BudgetExhausted
from preceptor.teacher.call import ERROR, OK, Call
from preceptor.teacher.config import TeacherConfig
from preceptor.teacher.cost import cost_of
from preceptor.teacher.faults import say
from preceptor.teacher.labels import LabelStore, Reached
from preceptor.teacher.local import LocalModel
from preceptor.teacher.make import local_model, make_pool
from preceptor.teacher.pool import Member, ServerPool
from preceptor.teacher.prompts import Prompt, Template, load_template

# Calls of one transaction, and seconds after which it ends with fewer; a model in this process is asked so many at
# once, so that a kill loses or keeps its batches as wholes and the same ones are computed again.
_ROWS, _SECONDS = 4_096, 5.0
_LOOKED_UP = 512  # scenes
_PRICED = 1_000
_SAY_SECONDS = 30.0


def batch(config: BatchConfig) -> dict[str, Any]:
    """Label, and say what that came to.

    Returns:
        `store`, `scenes` met, `labels` of this model for this task in the store and queries `unanswered` there, and of
        this process alone `calls`, `tokens`, `rejected` replies by kind, `seconds`, and what each of the `servers` did.

    Raises:
        UserError: No such task, no server left, a budget that is spent: the same command goes on.
    """
    task = task_of(config.task, config.logdir)
    if config.teacher.teacher not in ("local", "llm") or config.teacher.teacher_by != "scene":
        what = "Only a language model that labels scenes is asked for so many labels."
        raise UserError(what, "--teacher local, or --base-url http://localhost:8000/v1")
    if config.dry_run:
        return _priced(config, task)
    model, template = _asked(config, task)
    path = Path(config.teacher.labels or Path(config.logdir, "labels", f"{task.name}.sqlite"))
    path.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with LabelStore(path) as store:
        teacher = AskingTeacher("batch", task, model, template, store, config.teacher.permutations)
        run = _Run(config, task, teacher, model)
        try:
            run.ask(run.new_asks())
            for tries in range(1, config.retries + 1):
                while again := store.set_aside(tries, _ROWS, **run.columns):
                    run.ask(map(run.asked_again, again), singly=True)
        except BudgetExhausted as spent:
            raise BudgetExhausted(
                spent.what, "raise it, and repeat the command: what was answered is stored"
            ) from spent
        labels, unanswered = store.labelled(**run.columns)
    seconds = time.perf_counter() - started
    stats = teacher.stats
    return {
        "store": str(path),
        "task": task.name,
        "model": model.name,
        "scenes": run.scenes,
        "labels": labels,
        "unanswered": unanswered,
        "calls": stats.calls,
        "tokens": stats.tokens,
        "rejected": dict(run.rejected),
        "seconds": seconds,
        "servers": [_figures(member) for member in model.members] if isinstance(model, ServerPool) else [],
    }


class _Run:
    """One pass over the stream, and those over what was set aside.

    Attributes:
        scenes: How many have been met.
        columns: What the calls of this model about this task have in common in the store.
        rejected: Replies that were no answers, by kind.
    """

    def __init__(
        self, config: BatchConfig, task: Task, teacher: AskingTeacher, model: "LocalModel | ServerPool"
    ) -> None:
        self.config, self.task, self.teacher, self.model = config, task, teacher, model
        self.scenes, self.rejected = 0, Counter[str]()
        hashed = teacher.template.hash_for(task)
        self.columns = {"task": task.name, "options": task.options.digest, "model": model.name, "prompt": hashed}
        played = {"player": config.player, "seed": config.seed}
        asked = {"permutations": config.teacher.permutations, "samples": model.samples}
        self._stream_name = digest_of(self.columns | played | asked)
        # What has had no reply yet by its number, the oldest first, and places with the number that all before are of.
        self._pending, self._drawn = dict[int, Ask](), 0
        self._places = deque[tuple[int, dict[str, Any]]]()
        self._said = self._kept = time.monotonic()

    def new_asks(self) -> Iterator[Ask]:
        """What is to be asked about the scenes of the stream and has had no reply yet, prompts made when needed."""
        stream, wanted = self._stream(), self.config.scenes
        steps = iter(stream)
        while self.scenes < wanted and (lot := list(chain.from_iterable(_steps(steps, _LOOKED_UP)))):
            within = lot[: wanted - self.scenes]
            self.scenes += len(within)
            asks = [ask for scene in within for ask in self.teacher.asks(scene)]
            replied = self.teacher.store.replied([call.query for call, _ in asks])
            new = [ask for ask in asks if ask[0].key not in replied]
            if len(within) == len(lot) and (place := stream.place()):
                self._places.append((self._drawn + len(new), place))
            yield from new

    def _stream(self) -> Stream:
        """The stream from where it was left; from its beginning where that is not known, or of another task by now."""
        played = self.task, self.config.player, self.config.seed
        stream, reached = Stream(*played), self.teacher.store.reached(self._stream_name)
        if reached and reached.scenes <= self.config.scenes:
            try:
                stream.go_on(reached)
            except (KeyError, UserError, ValueError):
                stream = Stream(*played)
        self.scenes = stream.scenes
        return stream

    def asked_again(self, call: Call) -> Ask:
        """A call whose reply was no answer, as it was asked."""
        scene = Scene(call.task, call.facts, call.scene, call.legal)
        return next(ask for ask in self.teacher.asks(scene) if ask[0].key == call.key)

    def ask(self, asks: Iterable[Ask], *, singly: bool = False) -> None:
        """Ask, and keep the replies in large transactions, whatever happens."""
        rows, first = list[Call](), self._drawn

        def prompts() -> Iterator[Prompt]:
            for ask in asks:
                self._pending[self._drawn] = ask
                self._drawn += 1
                yield ask[1]

        try:
            for group in _replies(self.model, prompts(), singly):
                for number, reply in group:
                    rows.append(self.teacher.replied(*self._pending[first + number], reply))
                    if reply.status not in (ERROR, UNAVAILABLE):
                        del self._pending[first + number]
                if len(rows) >= _ROWS or time.monotonic() - self._kept > _SECONDS:
                    rows = self._keep(rows)
        finally:
            self._keep(rows)

    def _keep(self, rows: Sequence[Call]) -> list[Call]:
        self.rejected.update(call.status for call in rows if call.status != OK)
        self.teacher.keep(rows, self._reached())
        self._kept = now = time.monotonic()
        if not self.config.quiet and now - self._said > _SAY_SECONDS:
            self._said = now
            say(f"{self.scenes:,} of {self.config.scenes:,} scenes met, {self.teacher.stats.calls:,} calls made")
        return []

    def _reached(self) -> Reached | None:
        """The last place before which nothing is without a reply, if there is a new one."""
        oldest, passed = next(iter(self._pending), self._drawn), list[dict[str, Any]]()
        while self._places and self._places[0][0] <= oldest:
            passed.append(self._places.popleft()[1])
        if not passed:
            return None
        hashes, last = b"".join(place["hashes"] for place in passed), passed[-1]
        return Reached(self._stream_name, last["scenes"], hashes, tree_as_bytes(last["state"]))


def _replies(
    model: "LocalModel | ServerPool", prompts: Iterator[Prompt], singly: bool
) -> Iterator[list[tuple[int, Reply]]]:
    """Replies with the numbers of their prompts, for which prompts are taken as there is room for them."""
    if isinstance(model, ServerPool):
        yield from model.replies(prompts, singly=singly)
        return
    first = 0
    for lot in _lots(prompts, _ROWS):
        yield [(first + i, reply) for group in model.replies(lot) for i, reply in group]
        first += len(lot)


def _figures(member: Member) -> dict[str, Any]:
    rate = member.calls / member.seconds if member.seconds else 0.0
    figures = {"calls": member.calls, "tokens": member.tokens, "failures": member.failures, "seconds": member.seconds}
    return {"url": member.model.base_url, **figures, "calls_per_second": rate}


def _steps(steps: Iterator[list[Scene]], scenes: int) -> Iterator[list[Scene]]:
    """The scenes of the next steps, of so many that they are at least that many."""
    while scenes > 0 and (step := next(steps, None)):
        scenes -= len(step)
        yield step


def _lots(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    more = iter(items)
    while lot := list(islice(more, size)):
        yield lot


def _plain(config: BatchConfig) -> TeacherConfig:
    """How each server is asked, without its URL."""
    said = {f.name: getattr(config.teacher, f.name) for f in fields(TeacherConfig)}
    return TeacherConfig(**said | {"base_url": None})


def _asked(config: BatchConfig, task: Task) -> tuple[LocalModel | ServerPool, Template]:
    asked, urls = _plain(config), config.teacher.base_url
    if len(set(urls)) < len(urls):
        raise UserError("A server is named twice.", "--concurrency N  # for more requests at each")
    if urls or asked.teacher == "llm":
        return make_pool(asked, urls or (None,), task)
    model = local_model(asked, task, "cpu", shares=True)
    return model, load_template(asked.prompt or model.template)


def _priced(config: BatchConfig, task: Task) -> dict[str, Any]:
    """What it would cost, by the first scenes of the stream."""
    served = bool(config.teacher.base_url) or config.teacher.teacher == "llm"
    template = load_template(config.teacher.prompt or ("chat" if served else "compact"))
    stream = chain.from_iterable(Stream(task, config.player, config.seed))
    scenes = list(islice(stream, min(_PRICED, config.scenes)))
    cost = cost_of(task, template, _plain(config), scenes=scenes)
    times = 1.0 if len(scenes) < _PRICED else config.scenes / len(scenes)
    return {
        "dry_run": True,
        "task": task.name,
        "template": template.name,
        "priced": len(scenes),
        "scenes": round(len(scenes) * times),
        "calls": round(cost.calls * times),
        "tokens_in": round(cost.tokens_in * times),
        "tokens_out": round(cost.tokens_out * times),
        "usd": cost.usd and cost.usd * times,
    }
