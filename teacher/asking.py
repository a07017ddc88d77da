"""A teacher that asks a language model: prompts out, replies in, the label store between.

`local` and `llm` are this class with another `Model`. Scenes are deduplicated by their facts, looked up in the store,
and only what is missing is asked, one call per permuted menu (and per sample, where a server gives no
log-probabilities).
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from envs.task import Scene, Task
from teacher.base import Label, TeacherError, TeacherStats, restore_stats, stats_state
from teacher.labels import OK, Call, Identity, LabelStore, mean_probs, top_margin
from teacher.prompts import Prompt, Template, menus

# With this many replies and not one answer among them, the model is not fit to teach and going on only costs money.
_HOPELESS_AFTER = 24


@dataclass(frozen=True)
class Reply:
    """What came back for one prompt.

    Attributes:
        status: `ok`, a `ParseFailure`, or `error`.
        scores: Probability of each letter of the menu, in the order of the menu, summing to one; empty unless `ok`.
        text: The reply, or the error.
        tokens: Prompt and completion tokens.
        seconds: Wall time, a share of the batch where prompts are batched.
    """

    status: str
    scores: tuple[float, ...] = ()
    text: str = ""
    tokens: int = 0
    seconds: float = 0.0


class Model(Protocol):
    """Whoever reads prompts: the model in this process, or a server."""

    name: str  # identifier and hash, part of every key
    source: str  # as in Label.source
    method: str  # as in Label.method
    samples: int  # calls per menu: 1 where letters are scored, more where replies are sampled
    template: str  # name of the prompt template that it reads best
    extra: dict[str, float]  # its own counters, shown as TeacherStats.extra

    def replies(self, prompts: Sequence[Prompt]) -> Iterator[list[tuple[int, Reply]]]:
        """Replies with the positions of their prompts, in groups, as they come. Raises `TeacherError` to give up."""
        ...


@dataclass(frozen=True)
class _Ask:
    identity: Identity
    scene: Scene
    prompt: Prompt


class AskingTeacher:
    """Labels scenes with a language model.

    Args:
        name: Teacher name, as on the command line.
        task: The task whose options are on the menu.
        model: Who reads the prompts.
        template: How the prompts are worded.
        store: Where calls are kept; answers found there are not asked again.
        permutations: Menu orders per scene, averaged (fewer where fewer options are legal).
        margin: A label whose best two probabilities are closer than this is an abstention.
    """

    def __init__(
        self,
        name: str,
        task: Task,
        model: Model,
        template: Template,
        store: LabelStore,
        *,
        permutations: int = 4,
        margin: float = 0.0,
    ) -> None:
        self.name = name
        self.stats = TeacherStats(extra=model.extra)
        self.model = model
        self.template = template
        self.store = store
        self._task = task
        self._prompt_hash = template.hash_for(task)
        self._permutations = permutations
        self._margin = margin
        # Labels of this process, abstentions included: a scene that the model could not answer is not asked again.
        self._labels: dict[tuple[str, ...], Label] = {}
        # Answers that this run has paid for and not counted, since it was killed before it could save its counters.
        self._uncounted = store.answers_after(0) if store.own else set()

    def label(self, scenes: Sequence[Scene]) -> list[Label]:
        """One label per scene; abstained where the model gave no answer or none that is clear by the margin."""
        distinct = {scene.facts: scene for scene in scenes}
        asks = {facts: self._asks(scene) for facts, scene in distinct.items() if facts not in self._labels}
        stored = self.store.get_many([ask.identity.key for group in asks.values() for ask in group])
        missing = [[ask for ask in group if ask.identity.key not in stored] for group in asks.values()]
        uncounted = [{ask.identity.key for ask in group} & self._uncounted for group in asks.values()]
        new_queries = sum(bool(new or old) for new, old in zip(missing, uncounted, strict=True))
        for key in set().union(*uncounted):
            self.stats.calls += 1
            self.stats.tokens += stored[key].tokens
        self._uncounted -= stored.keys()
        self.stats.queries += new_queries
        self.stats.hits += sum(len(scene.legal) > 1 for scene in distinct.values()) - new_queries
        answers = stored | self._ask([ask for group in missing for ask in group])
        for facts, group in asks.items():
            keys = [ask.identity.key for ask in group]
            self._labels[facts] = self._decide(distinct[facts], [answers[key] for key in keys if key in answers])
        return [self._labels[scene.facts] for scene in scenes]

    def state_dict(self) -> dict[str, Any]:
        """Counters and how far the store has been counted, for an exact resume; the labels are in the store."""
        return stats_state(self.stats) | {"row": self.store.last_row()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the counters of another process."""
        restore_stats(self.stats, state)
        self._uncounted = self.store.answers_after(state["row"])

    def _asks(self, scene: Scene) -> list[_Ask]:
        if len(scene.legal) == 1:
            return []
        asks = []
        for menu in menus(scene, self._permutations):
            prompt = self.template.render(self._task, scene, menu)
            for sample in range(self.model.samples):
                identity = Identity(
                    self.model.name,
                    self._prompt_hash,
                    self._task.name,
                    self._task.options.digest,
                    scene.facts,
                    menu.options,
                    sample,
                )
                asks.append(_Ask(identity, scene, prompt))
        return asks

    def _ask(self, asks: Sequence[_Ask]) -> dict[str, Call]:
        """Ask, keep every reply in the store as it comes, and return the answers by key."""
        answers: dict[str, Call] = {}
        if not asks:
            return answers
        started = time.perf_counter()
        try:
            for group in self.model.replies([ask.prompt for ask in asks]):
                calls = [self._call(asks[position], reply) for position, reply in group]
                self.store.put_many(calls)
                answers.update((call.identity.key, call) for call in calls if call.status == OK)
                self.stats.calls += len(calls)
                self.stats.tokens += sum(call.tokens for call in calls)
                self.stats.invalid += sum(call.status != OK for call in calls)
                self._give_up_if_hopeless(calls[-1])
        finally:
            self.stats.seconds += time.perf_counter() - started
        return answers

    def _give_up_if_hopeless(self, last: Call) -> None:
        if self.stats.calls == self.stats.invalid >= _HOPELESS_AFTER:
            raise TeacherError(
                f"{self.model.source} gave {self.stats.invalid} replies and no answer; the last one ({last.status}): "
                f"{last.reply[:200]!r}.",
                "give another model with --model, or use --teacher local",
            )

    def _call(self, ask: _Ask, reply: Reply) -> Call:
        probs = [0.0] * len(self._task.options) if reply.status == OK else []
        if probs:
            for option, score in zip(ask.prompt.menu.options, reply.scores, strict=True):
                probs[option] = score
        return Call(
            identity=ask.identity,
            scene=ask.scene.text,
            legal=ask.scene.legal,
            source=self.model.source,
            method=self.model.method,
            status=reply.status,
            probs=tuple(probs),
            reply=reply.text,
            tokens=reply.tokens,
            seconds=reply.seconds,
        )

    def _decide(self, scene: Scene, answers: Sequence[Call]) -> Label:
        """The label of a scene from the answers to its permuted menus."""
        count = len(self._task.options)
        if len(scene.legal) == 1:
            probs = tuple(float(option in scene.legal) for option in range(count))
            return Label(probs, self.model.source, "only_option")
        label = label_from_answers(answers, self.model.source, self._margin, count)
        self.stats.abstained += label.abstained
        return label


def label_from_answers(answers: Sequence[Call], source: str, margin: float, num_options: int) -> Label:
    """Mean over the answers of one query; abstained if there is none or its best two are closer than `margin`."""
    probs = mean_probs(answers)
    method = answers[0].method if answers else "none"
    key = answers[0].identity.query if answers else ""
    if not probs or top_margin(probs) < margin:
        return Label((0.0,) * num_options, source, method, key, abstained=True)
    return Label(probs, source, method, key)
