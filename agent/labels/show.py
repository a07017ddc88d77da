"""`labels show`: what was sent, what came back, what was read from it, and why something was rejected."""

from functools import cache
from typing import Any

from preceptor.agent.labels.config import ShowConfig
from preceptor.agent.labels.stores import find_store
from preceptor.agent.runs.carried import task_of
from preceptor.envs.gridworld.flaws import FLAWS
from preceptor.envs.task import Scene, Task
from preceptor.ground.errors import UserError
from preceptor.teacher.call import ERROR, FALLBACK, OK, Call
from preceptor.teacher.corrections import WITHDRAWN
from preceptor.teacher.faults import GARBLED, WRONG_MODEL
from preceptor.teacher.label_lines import to_record
from preceptor.teacher.labels import LabelStore
from preceptor.teacher.parse import ParseFailure
from preceptor.teacher.prompts import LETTERS, TEMPLATES, Menu, Template, load_template

_WHY = {
    GARBLED: "the reply is not text",
    WRONG_MODEL: "another model answered than the one that was asked",
    WITHDRAWN: "the person has taken it back",
    **{failure.value: failure.words for failure in ParseFailure},
}


def show(config: ShowConfig) -> dict[str, Any]:
    """`{"store": path, "lines": [call, ...]}`, oldest first."""
    task = task_of(config.task, config.logdir).name if config.task else None
    path = find_store(config.store, config.logdir)
    with LabelStore(path, read_only=True) as store:
        calls = store.last_calls(config.last, task, config.only)
    return {"store": str(path), "lines": [line_of(row, call, config.logdir) for row, call in calls]}


def line_of(row: int, call: Call, logdir: str = "log") -> dict[str, Any]:
    """What is known of a call: as it is in the store, with its prompt and menu as they were sent, and why it failed."""
    worded, template, note = wording(call.task, call.options, call.prompt, logdir)
    scene, messages = Scene(call.task, call.facts, call.scene, call.legal), None
    if worded and template:
        messages = template.render(worded, scene, Menu(call.menu)).chat
    shown = [
        {
            "letter": letter,
            "option": worded.options[option].id if worded else str(option),
            "words": worded.options[option].words if worded else "",
            "probability": call.probs[option] if call.probs else None,
        }
        for letter, option in zip(LETTERS, call.menu, strict=False)
    ]
    line = {"row": row, **to_record(call), "query": call.query, "why": why(call), "note": note}
    return line | {"template": template.name if template else None, "messages": messages, "shown": shown}


def why(call: Call) -> str | None:
    """Why a call is not an answer, in words; None if it is one."""
    if call.status == OK:
        return None
    if call.status == ERROR:
        return f"no reply came back: {call.reply}"
    if call.status == FALLBACK:
        return f"the teacher could not be asked, and {call.source} stood in for it"
    if call.status == ParseFailure.OFF_MENU and call.method in ("logprobs", "echo"):
        return "the letters of the menu had almost none of the probability"
    return _WHY.get(call.status, "")


@cache
def wording(task_name: str, options: str, prompt: str, logdir: str = "log") -> tuple[Task | None, Template | None, str]:
    """The task and the template that a prompt's hash stands for, each None if it is not what it was; and which is so.

    Prompts are not stored, they are rendered again: their hash tells whether that gives what was sent.
    """
    unknown = ", so that what was sent cannot be shown"
    try:
        task = task_of(task_name, logdir)
    except UserError:
        return None, None, f"there is no task {task_name} here{unknown}"
    if task.options.digest != options:
        return None, None, f"the options of {task_name} have changed since{unknown}"
    if not prompt:
        return task, None, "this teacher reads no prompt"
    for flaw in (None, *FLAWS):
        try:
            worded = task_of(task_name, logdir, flaw)
        except UserError:  # a task without that flaw
            continue
        for template in map(load_template, TEMPLATES):
            if template.hash_for(worded) == prompt:
                return worded, template, ""
    return task, None, f"the template has changed since{unknown}"
