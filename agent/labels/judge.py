"""`labels judge`: how good a teacher is at a task's options, measured against the task's script on sampled scenes."""

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from agent.labels.config import JudgeConfig
from agent.labels.figures import Evidence, Shown, measure
from envs.catalog import get_task
from envs.task import Scene, Task
from ground.errors import UserError
from teacher.base import Label, Teacher
from teacher.call import FALLBACK, OK, Call
from teacher.config import TeacherConfig
from teacher.labels import LabelStore
from teacher.make import make_teacher
from teacher.prompts import PLACEHOLDERS, load_template

_AT_ONCE = 32  # scenes per request to the teacher: enough to fill a batch, few enough to show progress
_DRAWS = 20  # scenes drawn per distinct scene that is wanted, before a task is taken to have no more


@dataclass(frozen=True)
class Judged:
    """A teacher on one task.

    Attributes:
        task: Task name.
        model: Who answered, as the store has it; the teacher's name where nobody was called.
        method: How, as in `Label.method`.
        template: Name and hash of the prompts, empty where there were none.
        evidence: What was seen.
    """

    task: str
    model: str
    method: str
    template: str
    evidence: Evidence


def judge(config: JudgeConfig) -> dict[str, Any]:
    """`{"rows": [figures of a task, ...]}`, with a row over all tasks where there are several."""
    judged = [_judge_task(config, get_task(name)) for name in config.task]
    if len(judged) > 1:
        whole = Evidence.joined([one.evidence for one in judged])
        first = judged[0]
        judged.append(Judged("all", first.model, first.method, _shared([one.template for one in judged]), whole))
    rows = []
    for one in judged:
        row = {"model": one.model, "task": one.task, "method": one.method, "template": one.template}
        figures = measure(one.evidence)
        if config.usd_per_million_tokens is not None:
            figures["usd"] = figures["tokens"] * config.usd_per_million_tokens / 1e6
        rows.append(row | {"seed": config.seed, "permutations": config.permutations} | figures)
    return {"teacher": config.teacher, "latex": config.latex, "rows": rows}


def _shared(templates: Sequence[str]) -> str:
    """The name that the templates of several tasks share; their hashes differ, since the task's words are in them."""
    names = {template.partition(" ")[0] for template in templates}
    return names.pop() if len(names) == 1 else ""


def _judge_task(config: JudgeConfig, task: Task) -> Judged:
    with ExitStack() as stack:
        replayed = config.teacher == "replay"
        store = stack.enter_context(LabelStore(config.labels, read_only=replayed))
        scenes = _recorded(store, task, config) if replayed else sampled(task, config.scenes, config.seed)
        if not scenes:
            raise UserError(f"{task.name} has no scene in which there is a choice.", "another --task")
        teacher = _teacher(config, task, store)
        labels = _ask(teacher, scenes, task.name, quiet=config.quiet or config.json)
        calls = _calls(store, task, scenes, labels)
    identity = calls[0].identity if calls else None
    evidence = gather(task, scenes, labels, calls)
    methods = Counter(label.method for label in labels if not label.abstained)
    method = methods.most_common(1)[0][0] if methods else "none"
    template = _template(task, identity.prompt) if identity else ""
    return Judged(task.name, identity.model if identity else teacher.name, method, template, evidence)


def _teacher(config: JudgeConfig, task: Task, store: LabelStore) -> Teacher:
    said = {field.name: getattr(config, field.name) for field in fields(TeacherConfig) if hasattr(config, field.name)}
    teacher = make_teacher(TeacherConfig(**said), task, store, seed=config.seed)
    assert teacher is not None  # `none` is not among the teachers that can be judged
    return teacher


def sampled(task: Task, count: int, seed: int) -> list[Scene]:
    """Distinct scenes in which there is a choice, as many as wanted or as the task has."""
    rng, found = np.random.default_rng(seed), dict[tuple[str, ...], Scene]()
    for _ in range(_DRAWS):
        found |= {scene.facts: scene for scene in task.sample_scenes(rng, count) if len(scene.legal) > 1}
        if len(found) >= count:
            break
    return list(found.values())[:count]


def _recorded(store: LabelStore, task: Task, config: JudgeConfig) -> list[Scene]:
    """The scenes that the model in question was asked about, but for those where something stood in for it."""
    found: dict[tuple[str, ...], Scene] = {}
    for call in store.calls(task.name, task.options.digest, answers_only=False):
        facts = call.identity.facts
        if call.status == FALLBACK:
            found.pop(facts, None)
        elif len(call.legal) > 1 and (config.model is None or config.model in call.identity.model):
            found.setdefault(facts, Scene(task.name, facts, call.scene, call.legal))
    if not found:
        raise UserError(f"{store.path} holds no answers for {task.name}.", f"python main.py labels show {store.path}")
    return list(found.values())[: config.scenes]


def _ask(teacher: Teacher, scenes: Sequence[Scene], task: str, *, quiet: bool) -> list[Label]:
    parts = [scenes[start : start + _AT_ONCE] for start in range(0, len(scenes), _AT_ONCE)]
    console = Console(stderr=True)
    shown = track(parts, f"judging on {task}", console=console, disable=quiet or not console.is_terminal)
    return [label for part in shown for label in teacher.label(part)]


def _calls(store: LabelStore, task: Task, scenes: Sequence[Scene], labels: Sequence[Label]) -> list[Call]:
    """The calls, rejected ones included, of the model and the prompt that gave the labels; the store may hold more."""
    facts, queries = {scene.facts for scene in scenes}, {label.key for label in labels if label.key}
    about = store.calls(task.name, task.options.digest, answers_only=False)
    asked = {(call.identity.model, call.identity.prompt) for call in about if call.identity.query in queries}
    return [
        call
        for call in about
        if call.identity.facts in facts and (not asked or (call.identity.model, call.identity.prompt) in asked)
    ]


def _template(task: Task, prompt: str) -> str:
    """`chat 9ab706340bf7bc6f`, or the hash alone for a template that has changed since."""
    names = [name for name in PLACEHOLDERS if load_template(name).hash_for(task) == prompt]
    return " ".join((*names, prompt))


def gather(task: Task, scenes: Sequence[Scene], labels: Sequence[Label], calls: Iterable[Call]) -> Evidence:
    """What labels and calls show of a teacher; the right option of a scene is the script's."""
    evidence = Evidence()
    number = {scene.facts: i for i, scene in enumerate(scenes)}
    for scene, label in zip(scenes, labels, strict=True):
        evidence.probs.append(() if label.abstained else label.probs)
        evidence.truth.append(task.script(scene))
    menus: dict[tuple[int, tuple[int, ...]], list[tuple[float, ...]]] = {}
    for call in calls:
        evidence.calls += 1
        evidence.valid += call.status == OK
        evidence.tokens += call.tokens
        if call.status == OK:
            evidence.seconds.append(call.seconds)
            menus.setdefault((number[call.identity.facts], call.identity.menu), []).append(call.probs)
    for (scene_number, menu), samples in menus.items():
        mean = np.mean(samples, axis=0)
        evidence.shown.append(Shown(scene_number, menu, tuple(float(mean[option]) for option in menu)))
    return evidence
