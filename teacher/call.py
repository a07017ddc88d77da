"""One call: what was asked of whom, and what came back. It is a row of the label store and a line of an export."""

import hashlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Annotated

from annotated_types import Ge, Le

OK = "ok"
ERROR = "error"  # no reply came back
FALLBACK = "fallback"  # something else stood in for the model: an event of the run, never an answer of the model
# The ranges hold where lines of JSON are read (`teacher/label_lines.py`); here they cost nothing.
Natural = Annotated[int, Ge(0), Le(2**63 - 1)]  # as SQLite's integers
Measure = Annotated[float, Ge(0), Le(sys.float_info.max)]  # finite
_QUERY = ("model", "prompt", "task", "options", "facts")


@dataclass(frozen=True)
class Call:
    """A prompt scored once, or sampled once."""

    model: str  # identifier, with the hash of its weights where they are known
    prompt: str  # hash of the template and the task's words in it, empty for teachers that read no prompt
    task: str
    options: str  # digest of the option space
    facts: tuple[str, ...]  # of the scene
    menu: tuple[Natural, ...]  # option indices in the order in which they were shown
    sample: Natural  # 0 for a scored choice; the number of the sample otherwise
    scene: str  # its text
    legal: tuple[Natural, ...]  # option indices that were legal
    source: str  # who answered, as in `Label.source`
    method: str  # how, as in `Label.method`
    status: str  # `ok`, a `ParseFailure`, `error`, `fallback`, ...
    probs: tuple[Measure, ...] = ()  # of each option of the task, length K; empty unless `ok` or `fallback`
    reply: str = ""  # the text that came back, or the error
    tokens: Natural = 0  # of prompt and completion
    seconds: Measure = 0.0  # wall time (a share of the batch where calls are batched)
    created: Measure = 0.0  # Unix time in seconds

    @cached_property
    def key(self) -> str:
        """Hash of what was asked of whom."""
        return self._hash(*_QUERY, "menu", "sample")

    @cached_property
    def query(self) -> str:
        """Hash of everything in the key but menu and sample: calls that are averaged into one label share it."""
        return self._hash(*_QUERY)

    def _hash(self, *names: str) -> str:
        asked = {name: getattr(self, name) for name in names}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


FIELDS = tuple(field.name for field in fields(Call))
Recorded = dict[tuple[str, str], dict[tuple[str, ...], list[Call]]]


def recorded_rows(calls: Sequence[Call]) -> Recorded:
    """Calls of a task, in the order of writing, by who was asked: (model, prompt hash) -> facts -> rows."""
    found: Recorded = {}
    for call in calls:
        found.setdefault((call.model, call.prompt), {}).setdefault(call.facts, []).append(call)
    return found


def mean_probs(calls: Sequence[Call]) -> tuple[float, ...]:
    """Mean of the answers among the calls of one query, empty if there is none."""
    answers = [call.probs for call in calls if call.status == OK]
    # Exact sums: answers come in any order, and a replay must give the same label to the digit.
    return tuple(math.fsum(column) / len(answers) for column in zip(*answers, strict=True))


def top_margin(probs: Sequence[float]) -> float:
    """Probability of the best option minus that of the second best; -1 for an empty sequence, which decides nothing."""
    best = sorted(probs, reverse=True)[:2]
    return best[0] - (best[1] if len(best) > 1 else 0.0) if best else -1.0
