"""What people said in the review of a label store: rows of source `human`, of which the last that stands counts.

A row is never changed. Who takes a correction back leaves a row of status `withdrawn`, and says something else in a
further one: `sample` counts them, so that each has a key of its own.
"""

from collections.abc import Sequence
from dataclasses import replace

from envs.task import Task
from teacher.call import OK, Call, Identity
from teacher.labels import LabelStore

HUMAN, WITHDRAWN = "human", "withdrawn"
_MODEL = f"{HUMAN}:"  # and the name


def is_correction(call: Call) -> bool:
    """Whether a row is of a person."""
    return call.source == HUMAN


def standing(calls: Sequence[Call]) -> dict[tuple[str, ...], Call]:
    """The correction of each scene (by its facts) that stands, of rows in the order of writing."""
    said: dict[tuple[str, ...], list[Call]] = {}
    for call in filter(is_correction, calls):
        rows = said.setdefault(call.identity.facts, [])
        if call.status == OK:
            rows.append(call)
        else:
            mine = [i for i, row in enumerate(rows) if row.identity.model == call.identity.model]
            del rows[mine[-1]]
    return {facts: rows[-1] for facts, rows in said.items() if rows}


def correct(store: LabelStore, task: Task, of: Call, who: str, option: int, seconds: float) -> Call:
    """Write that a person says `option` of the scene of a call. Raises `UserError` if the disk refuses."""
    probs = tuple(float(k == option) for k in range(len(task.options)))
    said = _row(store, task, of, _MODEL + who)
    return _written(store, replace(said, status=OK, probs=probs, reply=task.options[option].id, seconds=seconds))


def withdraw(store: LabelStore, task: Task, correction: Call) -> Call:
    """Write that a person takes a correction back. Raises `UserError` if the disk refuses."""
    return _written(store, _row(store, task, correction, correction.identity.model))


def _row(store: LabelStore, task: Task, of: Call, model: str) -> Call:
    """The next row of a person about the scene of a call; it withdraws unless it is given an answer."""
    facts, rows = of.identity.facts, store.calls(task.name, task.options.digest, answers_only=False)
    number = sum(row.identity.model == model and row.identity.facts == facts for row in rows)
    identity = Identity(model, "", task.name, task.options.digest, facts, of.legal, number)
    return Call(identity, of.scene, of.legal, HUMAN, "review", WITHDRAWN)


def _written(store: LabelStore, call: Call) -> Call:
    store.put_many([call])
    return call
