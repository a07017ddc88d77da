"""Scene -> Label: what a teacher is, what a label is, and the ways in which asking one can fail."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from preceptor.envs.task import Scene
from preceptor.ground.errors import UserError
from preceptor.teacher.call import FALLBACK, OK, Call, mean_probs, top_margin

UNAVAILABLE = "unavailable"  # method of the label of a scene about which the model could not be asked
HELD = f"{FALLBACK}:hold"  # source of labels that let the running option go on


@dataclass(frozen=True)
class Label:
    """A distribution over a task's options for one scene."""

    probs: tuple[float, ...]  # of each option, length K, zero where illegal; sum to one unless `abstained`
    source: str  # who labelled: `local`, `llm:<model>`, `scripted`, `random`, ...
    # How: a way of asking (`logprobs`, `choice`, `echo`, `samples`), `script`, `control`, `noise`, `review`,
    # `only_option` (one is legal, no model was asked), `unavailable` (the model could not be asked), `fallback` (what
    # stands in for that), `none`.
    method: str
    key: str = ""  # query key in the store, shared by the calls that were averaged; empty for labels not stored
    abstained: bool = False  # the teacher declined; `probs` are all zero and no learner may use them


def only_option(scene: Scene, num_options: int, source: str) -> Label:
    """The label of a scene with one legal option, which is no question."""
    return Label(tuple(float(option in scene.legal) for option in range(num_options)), source, "only_option")


def label_of(rows: Sequence[Call], source: str, margin: float, num_options: int) -> Label:
    """The label of a scene from the calls about it, in the order of writing, of whose teacher `source` is the name.

    The last row decides: if it is what stood in for the teacher, that is the label; else the mean of the answers is.
    The label is an abstention if there is none, or its best two are closer than `margin`.
    """
    if rows and rows[-1].status == FALLBACK:
        rows, source, probs = rows[-1:], rows[-1].source, rows[-1].probs
    else:
        rows = [row for row in rows if row.status == OK]
        probs = mean_probs(rows)
        probs = probs if top_margin(probs) >= margin else ()
    method, key = (rows[0].method, rows[0].query) if rows else ("none", "")
    return Label(probs or (0.0,) * num_options, source, method, key, abstained=not probs)


@dataclass
class TeacherStats:
    """Counters of one teacher over one run.

    A *query* is a distinct scene that was not in the store; a *call* is one prompt scored (or sampled once); a *hit* is
    a distinct scene of a request that was. `invalid` counts calls without an answer, `seconds` is the wall time of
    asking, `extra` is what only some teachers count: of a server `requests`, `retries`, `failures`, `breaker_opened`,
    and what has been spent of the budget (`calls_sent`, `tokens_spent`, `seconds_spent`); of a run `fallbacks`,
    and the labels that play has `overruled`, or `lost`.
    """

    queries: int = 0
    calls: int = 0
    hits: int = 0
    abstained: int = 0
    invalid: int = 0
    tokens: int = 0
    seconds: float = 0.0
    extra: dict[str, float] = field(default_factory=dict)


class Teacher:
    """It labels scenes, those with equal facts once, and counts over the whole run in `stats`; `name` as in a flag."""

    def __init__(self, name: str, stats: TeacherStats | None = None) -> None:
        self.name, self.stats = name, stats or TeacherStats()
        # Labels of this process, abstentions included: a scene that a model could not answer is not asked again.
        self._labels: dict[tuple[str, ...], Label] = {}

    def label(self, scenes: Sequence[Scene]) -> list[Label]:
        """One label per scene, in order; equal facts have equal labels. Raises `TeacherError` if none can be had."""
        distinct = {scene.facts: scene for scene in scenes}
        labels = dict(zip(distinct, self._label_distinct(list(distinct.values())), strict=True))
        return [labels[scene.facts] for scene in scenes]

    def _label_distinct(self, scenes: Sequence[Scene]) -> list[Label]:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs beyond the store, as JSON types: counters, the position in a stream of noise."""
        return {"stats": asdict(self.stats)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.stats.extra.update(state["stats"]["extra"])  # in place: a teacher's model may count into it
        vars(self.stats).update({name: value for name, value in state["stats"].items() if name != "extra"})


class TeacherError(UserError):
    """The teacher cannot answer: unreachable, out of budget, misconfigured, or a replay without that scene."""


class BudgetExhausted(TeacherError):
    """`--max-llm-calls`, `--max-llm-tokens` or `--max-llm-seconds` was reached."""
