"""What people said in the review of a label store: rows of source `human`, of which the last that stands counts.

A row is never changed. Whatever a person does adds one: a correction, its withdrawal (status `withdrawn`), a further
correction. `sample` counts them, so that each has a key of its own.
"""

from collections.abc import Sequence
from dataclasses import replace

from preceptor.envs.task import Task
from preceptor.teacher.call import OK, Call
from preceptor.teacher.labels import LabelStore

HUMAN, WITHDRAWN = "human", "withdrawn"


def is_correction(call: Call) -> bool:
    """Whether a row is of a person."""
    return call.source == HUMAN


def standing(calls: Sequence[Call]) -> dict[tuple[str, ...], Call]:
    """The correction of each scene (by its facts) that stands, of rows in the order of writing."""
    said: dict[tuple[str, ...], list[Call]] = {}
    for call in filter(is_correction, calls):
        rows = said.setdefault(call.facts, [])
        if call.status == OK:
            rows.append(call)
        else:
            mine = [i for i, row in enumerate(rows) if row.model == call.model]
            for last in mine[-1:]:  # none where a file was imported without the correction
                del rows[last]
    return {facts: rows[-1] for facts, rows in said.items() if rows}


def correct(store: LabelStore, task: Task, of: Call, who: str, option: int, seconds: float) -> Call:
    """Write that a person says `option` of the scene of a call. Raises `UserError` if the disk refuses."""
    probs = tuple(float(k == option) for k in range(len(task.options)))
    said = replace(of, model=f"{HUMAN}:{who}", status=OK, probs=probs, reply=task.options[option].id, seconds=seconds)
    return _write(store, said)


def withdraw(store: LabelStore, correction: Call) -> Call:
    """Write that a person takes a correction back. Raises `UserError` if the disk refuses."""
    return _write(store, replace(correction, status=WITHDRAWN, probs=(), reply="", seconds=0.0))


def _write(store: LabelStore, said: Call) -> Call:
    """Append what a person said as the next row about its scene."""
    rows = store.calls(said.task, said.options, answers_only=False)
    number = sum((row.model, row.facts) == (said.model, said.facts) for row in rows)
    about = replace(said, prompt="", menu=said.legal, source=HUMAN, method="review", tokens=0, created=0.0)
    store.put_many([call := replace(about, sample=number)])
    return call
