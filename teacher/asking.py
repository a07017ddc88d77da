"""A teacher that asks a language model: prompts out, replies in, the label store between.

`local` and `llm` are this class with another `Model`. Scenes are deduplicated by their facts, looked up in the store,
and only what is missing is asked, one call per permuted menu (and per sample, where a server gives no
log-probabilities).
"""

import contextlib
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from envs.task import Scene, Task
from teacher.base import UNAVAILABLE, Label, Teacher, TeacherError, TeacherStats
from teacher.call import ERROR, FALLBACK, OK, Call, Identity, mean_probs, top_margin
from teacher.labels import LabelStore
from teacher.prompts import Prompt, Template, menus

# With this many replies and not one answer among them, the model is not fit to teach and going on only costs money.
_HOPELESS_AFTER = 24


@dataclass(frozen=True)
class Reply:
    """What came back for one prompt.

    Attributes:
        status: `ok`, a `ParseFailure` or another reason why it is no answer, `error` (no reply came), or `unavailable`
            (the model was not asked, since its server has been given up for now).
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


@dataclass(frozen=True)
class _Ask:
    identity: Identity
    scene: Scene
    prompt: Prompt


class AskingTeacher(Teacher):
    """Labels scenes with a language model.

    Args:
        name: Teacher name, as on the command line.
        task: The task whose options are on the menu.
        model: Who reads the prompts.
        template: How the prompts are worded.
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
        *,
        permutations: int = 4,
        margin: float = 0.0,
        as_recorded: bool = False,
    ) -> None:
        super().__init__(name, TeacherStats(extra=model.extra))
        self.model = model
        self.template = template
        self.store = store
        self._task = task
        self._prompt_hash = template.hash_for(task)
        self._permutations = permutations
        self._margin = margin
        # Labels of this process, abstentions included: a scene that the model could not answer is not asked again.
        self._labels: dict[tuple[str, ...], Label] = {}
        # Those of them that the answers in the store do not make: abstentions, labels of some menus only, fallbacks.
        self._settled: set[tuple[str, ...]] = set()
        # Answers that this run has got and not counted, since it was killed before it could save its counters.
        self._uncounted: set[str] = set()
        self._counted_here = dict(model.extra)  # spent in this process already: the probe
        if store.own:
            self._recount(0)
        if as_recorded:
            calls = store.calls(task.name, task.options.digest, answers_only=False)
            recorded = recorded_rows(calls).get((model.name, self._prompt_hash), {})
            self._labels = {facts: label_from_rows(rows, margin, len(task.options)) for facts, rows in recorded.items()}

    def _label_distinct(self, scenes: Sequence[Scene]) -> list[Label]:
        """Labels; abstained where the model gave no answer or none that is clear by the margin."""
        asks = {scene.facts: self._asks(scene) for scene in scenes if scene.facts not in self._labels}
        stored = self.store.get_many([ask.identity.key for group in asks.values() for ask in group])
        missing = [[ask for ask in group if ask.identity.key not in stored] for group in asks.values()]
        uncounted = [{ask.identity.key for ask in group} & self._uncounted for group in asks.values()]
        new_queries = sum(bool(new or old) for new, old in zip(missing, uncounted, strict=True))
        for key in set().union(*uncounted):
            self.stats.calls += 1
            self.stats.tokens += stored[key].tokens
        self._uncounted -= stored.keys()
        self.stats.queries += new_queries
        self.stats.hits += sum(len(scene.legal) > 1 for scene in scenes) - new_queries
        new, unreached = self._ask([ask for group in missing for ask in group])
        answers = stored | new
        for scene in scenes:
            if (group := asks.get(scene.facts)) is not None:
                found = [answers[ask.identity.key] for ask in group if ask.identity.key in answers]
                self._labels[scene.facts] = self._decide(scene, found, scene.facts in unreached)
                if len(found) < len(group):
                    self._settled.add(scene.facts)
        return [self._labels[scene.facts] for scene in scenes]

    def fall_back(self, scene: Scene, policy: str, probs: Sequence[float]) -> Label:
        """Let a distribution (empty to abstain) be the label of a scene that the model could not be asked about.

        It is kept in the store as a row that is never an answer: a later run asks again, and a replay finds it.
        """
        identity = self._identity(scene, scene.legal)
        source = f"{FALLBACK}:{policy}"
        call = Call(identity, scene.text, scene.legal, source, FALLBACK, FALLBACK, tuple(probs))
        self.store.put_many([call])
        self.stats.extra["fallbacks"] = self.stats.extra.get("fallbacks", 0) + 1
        self._settled.add(scene.facts)
        self._labels[scene.facts] = label = label_from_fallback(call, len(self._task.options))
        return label

    def state_dict(self) -> dict[str, Any]:
        """Counters and how far the store has been counted, for an exact resume; most labels are in the store."""
        settled = [[list(facts), asdict(self._labels[facts])] for facts in sorted(self._settled)]
        return super().state_dict() | {"row": self.store.last_row(), "model": self.model.name, "settled": settled}

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
        for facts, label in state.get("settled", ()):
            self._labels[tuple(facts)] = Label(**label | {"probs": tuple(label["probs"])})
            self._settled.add(tuple(facts))

    def _recount(self, row: int) -> None:
        """Take over what was asked after a row of the store and before this process began."""
        self._uncounted = self.store.answers_after(row)
        calls, tokens, seconds = self.store.spent_after(row)
        # Requests ran side by side: their sum is not wall time, their share of it is near it.
        together = getattr(getattr(self.model, "capability", None), "concurrency", 1)
        spent = {"calls_sent": calls, "tokens_spent": tokens, "seconds_spent": seconds / together}
        for counter, value in spent.items():
            if counter in self.model.extra:
                self.model.extra[counter] += value

    def _asks(self, scene: Scene) -> list[_Ask]:
        if len(scene.legal) == 1:
            return []
        asks = []
        for menu in menus(scene, self._permutations):
            prompt = self.template.render(self._task, scene, menu)
            for sample in range(self.model.samples):
                asks.append(_Ask(self._identity(scene, menu.options, sample), scene, prompt))
        return asks

    def _identity(self, scene: Scene, menu: tuple[int, ...], sample: int = 0) -> Identity:
        task = self._task
        return Identity(self.model.name, self._prompt_hash, task.name, task.options.digest, scene.facts, menu, sample)

    def _ask(self, asks: Sequence[_Ask]) -> tuple[dict[str, Call], set[tuple[str, ...]]]:
        """Ask and keep every reply in the store as it comes; the answers by key, and the scenes without a reply."""
        answers: dict[str, Call] = {}
        unreached: set[tuple[str, ...]] = set()
        if not asks:
            return answers, unreached
        started = time.perf_counter()
        try:
            # Closed at once where an error ends the loop: what is on its way costs money.
            with contextlib.closing(self.model.replies([ask.prompt for ask in asks])) as replies:
                for group in replies:
                    calls = [self._call(asks[i], reply) for i, reply in group if reply.status != UNAVAILABLE]
                    self.store.put_many(calls)
                    unreached |= {asks[i].scene.facts for i, reply in group if reply.status in (ERROR, UNAVAILABLE)}
                    replied = [call for call in calls if call.status != ERROR]
                    answers.update((call.identity.key, call) for call in replied if call.status == OK)
                    self.stats.calls += len(replied)
                    self.stats.tokens += sum(call.tokens for call in replied)
                    self.stats.invalid += sum(call.status != OK for call in replied)
                    if replied:
                        self._give_up_if_hopeless(replied[-1])
        finally:
            self.stats.seconds += time.perf_counter() - started
        return answers, unreached

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

    def _decide(self, scene: Scene, answers: Sequence[Call], unreached: bool) -> Label:
        """The label of a scene from the answers to its permuted menus; of one not asked in full, that it was not."""
        count = len(self._task.options)
        if len(scene.legal) == 1:
            return only_option(scene, count, self.model.source)
        if unreached:
            return Label((0.0,) * count, self.model.source, UNAVAILABLE, abstained=True)
        label = label_from_answers(answers, self.model.source, self._margin, count)
        self.stats.abstained += label.abstained
        return label


def only_option(scene: Scene, num_options: int, source: str) -> Label:
    """The label of a scene with one legal option, which is no question."""
    return Label(tuple(float(option in scene.legal) for option in range(num_options)), source, "only_option")


def label_from_answers(answers: Sequence[Call], source: str, margin: float, num_options: int) -> Label:
    """Mean over the answers of one query; abstained if there is none or its best two are closer than `margin`."""
    probs = mean_probs(answers)
    method = answers[0].method if answers else "none"
    key = answers[0].identity.query if answers else ""
    if not probs or top_margin(probs) < margin:
        return Label((0.0,) * num_options, source, method, key, abstained=True)
    return Label(probs, source, method, key)


Recorded = dict[tuple[str, str], dict[tuple[str, ...], list[Call]]]


def recorded_rows(calls: Sequence[Call]) -> Recorded:
    """Calls of a task, in the order of writing, by who was asked: (model, prompt hash) -> facts -> rows."""
    found: Recorded = {}
    for call in calls:
        who = found.setdefault((call.identity.model, call.identity.prompt), {})
        who.setdefault(call.identity.facts, []).append(call)
    return found


def label_from_rows(rows: Sequence[Call], margin: float, num_options: int) -> Label:
    """The label of one scene in a finished run, from its rows in the order of writing.

    The last row decides: if it is what stood in for the teacher, that is the label; else the mean of the answers is,
    and an abstention where there is none.
    """
    if rows[-1].status == FALLBACK:
        return label_from_fallback(rows[-1], num_options)
    return label_from_answers([row for row in rows if row.status == OK], rows[-1].source, margin, num_options)


def label_from_fallback(call: Call, num_options: int) -> Label:
    """What stood in for the teacher, from its row: a distribution, or an abstention where that is empty."""
    probs = call.probs or (0.0,) * num_options
    return Label(probs, call.source, call.method, call.identity.query, abstained=not call.probs)
