"""A teacher that asks a language model: prompts out, replies in, the label store between.

`local` and `llm` are this class with another `Model`. Only what is missing in the store is asked, one call per permuted
menu (and per sample, where a server gives no log-probabilities).
"""

import contextlib
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from preceptor.envs.task import Scene, Task
from preceptor.teacher.base import UNAVAILABLE, Label, Teacher, TeacherError, TeacherStats, label_of, only_option
from preceptor.teacher.call import ERROR, FALLBACK, OK, Call, recorded_rows
from preceptor.teacher.labels import LabelStore, Reached
from preceptor.teacher.prompts import Prompt, Template, menus

# With this many replies that are none and fewer than one answer in ten, the model is not fit to teach.
_HOPELESS_AFTER, _HOPELESS_SHARE = 24, 0.9


@dataclass(frozen=True)
class Reply:
    """What came back for one prompt."""

    # `ok`, a `ParseFailure` or another reason why it is no answer, `error` (no reply came), or `unavailable` (the model
    # was not asked, since its server has been given up for now).
    status: str
    scores: tuple[float, ...] = ()  # of the menu's letters, in its order, summing to one; empty unless `ok`
    text: str = ""  # the reply, or the error
    tokens: int = 0  # of prompt and completion
    seconds: float = 0.0  # wall time, a share of the batch where prompts are batched


class Model(Protocol):
    """What reads prompts: the model in this process, or a server."""

    name: str  # identifier and hash, part of every key
    source: str  # as in Label.source
    method: str  # as in Label.method
    samples: int  # calls per menu: 1 where letters are scored, more where replies are sampled
    template: str  # name of the prompt template that it reads best
    extra: dict[str, float]  # its own counters, shown as TeacherStats.extra

    def replies(self, prompts: Sequence[Prompt]) -> Generator[list[tuple[int, Reply]], None, None]:
        """Replies with the positions of their prompts, in groups, as they come. Raises `TeacherError` to give up."""
        ...


Facts = tuple[str, ...]
Ask = tuple[Call, Prompt]  # a call without its reply yet, and what the model reads


class AskingTeacher(Teacher):
    """Labels scenes with a language model.

    Args:
        name: Teacher name, as on the command line.
        task: The task whose options are on the menu.
        model: What reads the prompts, which `template` words.
        store: Where calls are kept; answers found there are not asked again.
        permutations: Menu orders per scene, averaged (fewer where fewer options are legal).
        margin: A label whose best two probabilities are closer than this is an abstention.
        as_recorded: Scenes that the store has anything about keep the label that they had, and are never asked again:
            the teacher of a run that is over, which replays as it was.
    """

    def __init__(
        self,
        name: str,
        task: Task,
        model: Model,
        template: Template,
        store: LabelStore,
        permutations: int = 4,
        margin: float = 0.0,
        *,
        as_recorded: bool = False,
    ) -> None:
        super().__init__(name, TeacherStats(extra=model.extra))
        self.model, self.template, self.store = model, template, store
        self._task, self._permutations, self._margin = task, permutations, margin
        self._prompt_hash = template.hash_for(task)
        # Answers that this run has got and not counted, since it was killed before it could save its counters.
        self._uncounted: set[str] = set()
        self._counted_here = dict(model.extra)  # spent in this process already: the probe
        if store.own:
            self._recount(0)
        if as_recorded:
            calls = store.calls(task.name, task.options.digest, answers_only=False)
            recorded = recorded_rows(calls).get((model.name, self._prompt_hash), {})
            self._labels = {facts: self._label_of(rows) for facts, rows in recorded.items()}

    def _label_of(self, rows: Sequence[Call]) -> Label:
        return label_of(rows, self.model.source, self._margin, len(self._task.options))

    def _label_distinct(self, scenes: Sequence[Scene]) -> list[Label]:
        """Labels; abstained where the model gave no answer or none that is clear by the margin."""
        asks = {scene.facts: self.asks(scene) for scene in scenes if scene.facts not in self._labels}
        answers, unreached = self._answered(asks, sum(len(scene.legal) > 1 for scene in scenes))
        for scene in scenes:
            if scene.facts in asks:
                keys = [call.key for call, _ in asks[scene.facts]]
                rows = [answers[key] for key in keys if key in answers]
                self._labels[scene.facts] = self._decide(scene, rows, scene.facts in unreached)
        return [self._labels[scene.facts] for scene in scenes]

    def _answered(self, asks: Mapping[Facts, Sequence[Ask]], queries: int) -> tuple[dict[str, Call], set[Facts]]:
        """Answers by their keys, from the store or of the model, and the facts about which it gave no reply.

        Of so many `queries`, those that are neither new nor from an interrupted run are hits.
        """
        answers = self.store.get_many([call.key for group in asks.values() for call, _ in group])
        missing = [ask for group in asks.values() for ask in group if ask[0].key not in answers]
        uncounted = [answers[key] for key in self._uncounted & answers.keys()]
        self._uncounted -= answers.keys()
        self.stats.calls += len(uncounted)
        self.stats.tokens += sum(call.tokens for call in uncounted)
        new = {call.facts for call in uncounted} | {call.facts for call, _ in missing}
        self.stats.queries += len(new)
        self.stats.hits += queries - len(new)
        return answers, self._ask(missing, answers)

    def _decide(self, scene: Scene, answers: Sequence[Call], unreached: bool) -> Label:
        """The label of a scene from the answers to its permuted menus; of one not asked in full, that it was not."""
        count = len(self._task.options)
        if len(scene.legal) == 1:
            return only_option(scene, count, self.model.source)
        if unreached:
            return Label((0.0,) * count, self.model.source, UNAVAILABLE, abstained=True)
        label = self._label_of(answers)
        self.stats.abstained += label.abstained
        return label

    def fall_back(self, scene: Scene, policy: str, probs: Sequence[float]) -> Label:
        """Let a distribution (empty to abstain) be the label of a scene that the model could not be asked about.

        It is kept in the store as a row that is never an answer: a later run asks again, and a replay finds it.
        """
        asked, source = self._call(scene, scene.legal), f"{FALLBACK}:{policy}"
        call = replace(asked, source=source, method=FALLBACK, status=FALLBACK, probs=tuple(probs))
        self.store.put_many([call])
        self.stats.extra["fallbacks"] = self.stats.extra.get("fallbacks", 0) + 1
        self._labels[scene.facts] = label = self._label_of([call])
        return label

    def forget(self, scenes: Sequence[Scene]) -> None:
        """Ask again about scenes for which the model could not be reached, the next time that they are met."""
        for scene in scenes:
            if (known := self._labels.get(scene.facts)) and known.method == UNAVAILABLE:
                del self._labels[scene.facts]

    def state_dict(self) -> dict[str, Any]:
        """Counters and how far the store has been counted, for an exact resume; labels are in the store."""
        return super().state_dict() | {"row": self.store.last_row(), "model": self.model.name}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the counters of another process. Raises `TeacherError` if it asked another model."""
        if state.get("model", self.model.name) != self.model.name:
            raise TeacherError(
                f"The run was taught by {state['model']}, and this is {self.model.name}.",
                "serve the same model under the same name, with the same --scoring, or start a new run",
            )
        super().load_state_dict(state)
        for counter, value in self._counted_here.items():
            self.stats.extra[counter] += value
        self._recount(state["row"])

    def _recount(self, row: int) -> None:
        """Take over what was asked after a row of the store and before this process began."""
        calls = self.store.calls_after(row)
        self._uncounted = {call.key for call in calls if call.status == OK}
        asked = [call for call in calls if call.seconds > 0]
        # Requests ran side by side: their sum is not wall time, their share of it is near it.
        seconds = sum(call.seconds for call in asked) / getattr(self.model, "concurrency", 1)
        tokens = sum(call.tokens for call in asked)
        spent = {"calls_sent": len(asked), "tokens_spent": tokens, "seconds_spent": seconds}
        for counter in spent.keys() & self.model.extra.keys():
            self.model.extra[counter] += spent[counter]

    def asks(self, scene: Scene) -> list[Ask]:
        """What there is to ask about a scene: nothing where only one option is legal."""
        asks: list[Ask] = []
        for menu in menus(scene, self._permutations) if len(scene.legal) > 1 else ():
            prompt = self.template.render(self._task, scene, menu)
            asks += [(self._call(scene, menu.options, sample), prompt) for sample in range(self.model.samples)]
        return asks

    def _call(self, scene: Scene, menu: tuple[int, ...], sample: int = 0) -> Call:
        """A call about a scene, without a reply."""
        model, task = self.model, self._task
        asked = (model.name, self._prompt_hash, task.name, task.options.digest, scene.facts, menu, sample)
        return Call(*asked, scene.text, scene.legal, model.source, model.method, status="")

    def _ask(self, asks: Sequence[Ask], answers: dict[str, Call]) -> set[tuple[str, ...]]:
        """Ask, keep replies in the store as they come, add to `answers`; the facts of scenes without a reply."""
        unreached: set[tuple[str, ...]] = set()
        if not asks:
            return unreached
        started = time.perf_counter()
        try:
            # Closed at once where an error ends the loop: what is on its way costs money.
            with contextlib.closing(self.model.replies([prompt for _, prompt in asks])) as replies:
                for group in replies:
                    calls = [self.replied(*asks[i], reply) for i, reply in group]
                    unreached |= {call.facts for call in calls if call.status in (ERROR, UNAVAILABLE)}
                    answers.update((call.key, call) for call in calls if call.status == OK)
                    self.keep(calls)
        finally:
            self.stats.seconds += time.perf_counter() - started
        return unreached

    def keep(self, calls: Sequence[Call], reached: Reached | None = None) -> None:
        """Put replies into the store, with where that led to, in one transaction, and count them.

        Raises:
            TeacherError: None is of use.
        """
        self.store.put_many((call for call in calls if call.status != UNAVAILABLE), reached)
        replied = [call for call in calls if call.status not in (ERROR, UNAVAILABLE)]
        self.stats.calls += len(replied)
        self.stats.tokens += sum(call.tokens for call in replied)
        self.stats.invalid += sum(call.status != OK for call in replied)
        failed = self.stats.invalid
        if replied and failed >= _HOPELESS_AFTER and failed > _HOPELESS_SHARE * self.stats.calls:
            raise self._hopeless(replied[-1])

    def replied(self, call: Call, prompt: Prompt, reply: Reply) -> Call:
        """The call with what came back for its prompt."""
        by_option = dict(zip(prompt.menu.options, reply.scores, strict=True)) if reply.status == OK else {}
        probs = tuple(by_option.get(option, 0.0) for option in range(len(self._task.options))) if by_option else ()
        return replace(
            call, status=reply.status, probs=probs, reply=reply.text, tokens=reply.tokens, seconds=reply.seconds
        )

    def _hopeless(self, last: Call) -> TeacherError:
        answers = self.stats.calls - self.stats.invalid
        said = f"{self.model.source} gave {self.stats.calls} replies and {answers or 'no'} answer{'s' * (answers > 1)}"
        return TeacherError(
            f"{said}; the last one ({last.status}): {last.reply[:200]!r}.",
            "give another model with --model, or use --teacher local",
        )
