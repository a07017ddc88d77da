"""`labels judge`: how good a teacher is at a task's options, measured against the task's script on sampled scenes."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from agent.labels.config import JudgeConfig, check_judge
from agent.labels.figures import Evidence, MenuOrder, measure
from envs.catalog import get_task
from envs.task import Scene, Task
from ground.errors import UserError
from teacher.base import Label
from teacher.call import FALLBACK, OK, Call
from teacher.labels import LabelStore
from teacher.make import make_teacher
from teacher.prompts import TEMPLATES, load_template

_AT_ONCE = 32  # scenes per request to the teacher: enough to fill a batch, few enough to show progress
_DRAWS = 20  # draws of so many scenes as are wanted, after which the task is taken to have no more distinct ones


def judge(config: JudgeConfig) -> dict[str, Any]:
    """`{"rows": [figures of a task, ...]}`, with a row over all tasks where there are several."""
    check_judge(config)
    heads, evidence = map(list, zip(*(_judge_task(config, get_task(name)) for name in config.task), strict=True))
    if len(heads) > 1:  # the hashes of templates differ by task, since the task's words are in them
        names = {head["template"].partition(" ")[0] for head in heads}
        heads.append(heads[0] | {"task": "all", "template": names.pop() if len(names) == 1 else ""})
        evidence.append([part for parts in evidence for part in parts])
    rows = []
    for head, seen in zip(heads, evidence, strict=True):
        figures = measure(seen)
        if config.usd_per_million_tokens is not None:
            figures["usd"] = figures["tokens"] * config.usd_per_million_tokens / 1e6
        rows.append(head | {"seed": config.seed, "permutations": config.teacher.permutations} | figures)
    return {"teacher": config.teacher.teacher, "latex": config.latex, "rows": rows}


def _judge_task(config: JudgeConfig, task: Task) -> tuple[dict[str, Any], list[Evidence]]:
    """Who was judged and how it answered; and what was seen, by scene."""
    replayed = config.teacher.teacher == "replay"
    with LabelStore(config.teacher.labels, read_only=replayed) as store:
        scenes = _recorded(store, task, config) if replayed else _sampled(task, config.scenes, config.seed)
        if not scenes:
            raise UserError(f"{task.name} has no scene in which there is a choice.", "another --task")
        teacher = make_teacher(config.teacher, task, store, seed=config.seed)
        assert teacher is not None  # `none` is not among the teachers that can be judged
        parts = [scenes[start : start + _AT_ONCE] for start in range(0, len(scenes), _AT_ONCE)]
        console = Console(stderr=True)
        quiet = config.quiet or config.json or not console.is_terminal
        shown = track(parts, f"judging on {task.name}", console=console, disable=quiet)
        labels = [label for part in shown for label in teacher.label(part)]
        calls = _calls(store, task, scenes, labels)
    methods = Counter(label.method for label in labels if not label.abstained)
    method = max(methods, key=methods.__getitem__, default="none")
    template = _template(task, calls[0].prompt) if calls else ""
    head = {"model": calls[0].model if calls else teacher.name, "task": task.name}
    return head | {"method": method, "template": template}, evidence_of(task, scenes, labels, calls)


def _sampled(task: Task, count: int, seed: int) -> list[Scene]:
    """Distinct scenes in which there is a choice, as many as wanted or as the task has."""
    rng, found = np.random.default_rng(seed), dict[tuple[str, ...], Scene]()
    for _ in range(_DRAWS):
        found |= {scene.facts: scene for scene in task.sample_scenes(rng, count) if len(scene.legal) > 1}
        if len(found) >= count:
            break
    return list(found.values())[:count]


def _recorded(store: LabelStore, task: Task, config: JudgeConfig) -> list[Scene]:
    """The scenes that the model in question was asked about, without those that a stand-in answered."""
    found: dict[tuple[str, ...], Scene] = {}
    for call in store.calls(task.name, task.options.digest, answers_only=False):
        facts = call.facts
        if call.status == FALLBACK:
            found.pop(facts, None)
        elif len(call.legal) > 1 and (config.teacher.model or "") in call.model:
            found.setdefault(facts, Scene(task.name, facts, call.scene, call.legal))
    if not found:
        raise UserError(f"{store.path} holds no answers for {task.name}.", f"python main.py labels show {store.path}")
    return list(found.values())[: config.scenes]


def _calls(store: LabelStore, task: Task, scenes: Sequence[Scene], labels: Sequence[Label]) -> list[Call]:
    """The calls, rejected ones included, of the model and the prompt that gave the labels; the store may hold more."""
    facts, queries = {scene.facts for scene in scenes}, {label.key for label in labels if label.key}
    about = store.calls(task.name, task.options.digest, answers_only=False)
    asked = {(call.model, call.prompt) for call in about if call.query in queries}
    about = [call for call in about if call.facts in facts]
    return [call for call in about if not asked or (call.model, call.prompt) in asked]


def _template(task: Task, prompt: str) -> str:
    """`chat 9ab706340bf7bc6f`, or the hash alone for a template that has changed since."""
    names = [name for name in TEMPLATES if load_template(name).hash_for(task) == prompt]
    return " ".join((*names, prompt))


def evidence_of(task: Task, scenes: Sequence[Scene], labels: Sequence[Label], calls: Sequence[Call]) -> list[Evidence]:
    """What labels and calls show of a teacher, by scene; the right option of a scene is the script's."""
    found, of_scene = [], dict[tuple[str, ...], list[Call]]()
    for call in calls:
        of_scene.setdefault(call.facts, []).append(call)
    for scene, label in zip(scenes, labels, strict=True):
        mine = of_scene.get(scene.facts, [])
        answers = [call for call in mine if call.status == OK]
        by_menu: dict[tuple[int, ...], list[tuple[float, ...]]] = {}
        for call in answers:
            by_menu.setdefault(call.menu, []).append(call.probs)
        orders = [
            MenuOrder(menu, tuple(np.mean(samples, axis=0)[list(menu)].tolist())) for menu, samples in by_menu.items()
        ]
        probs, tokens = () if label.abstained else label.probs, sum(call.tokens for call in mine)
        seconds = [call.seconds for call in answers]
        found.append(Evidence(probs, task.script(scene), orders, len(mine), tokens, seconds))
    return found
