"""`labels judge`: how good a teacher is at a task's options, measured against the task's script on sampled scenes."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from preceptor.agent.labels.config import JudgeConfig, check_judge
from preceptor.agent.runs.carried import task_of
from preceptor.agent.runs.statistics import wilson
from preceptor.envs.task import Scene, Task
from preceptor.ground.errors import UserError
from preceptor.teacher.base import Label
from preceptor.teacher.calibration import expected_calibration_error
from preceptor.teacher.call import FALLBACK, OK, Call
from preceptor.teacher.labels import LabelStore
from preceptor.teacher.make import make_teacher
from preceptor.teacher.prompts import TEMPLATES, distinct_scenes, load_template

_AT_ONCE = 32  # scenes per request to the teacher: enough to fill a batch, few enough to show progress
_DRAWS = 20  # draws of so many scenes as are wanted, after which the task is taken to have no more distinct ones


class Seen(NamedTuple):
    """What was seen of a teacher: its label and the script's option of each scene, and its calls about all of them."""

    labels: list[Label]
    truth: list[int]
    calls: list[Call]


def judge(config: JudgeConfig) -> dict[str, Any]:
    """`{"rows": [figures of a task, ...]}`, with a row over all tasks where there are several."""
    check_judge(config)
    rows, everything, price = [], Seen([], [], []), config.usd_per_million_tokens
    for name in config.task:
        head, seen = _judge_task(config, task_of(name, config.logdir))
        rows.append(head | measure(seen, price))
        everything.labels.extend(seen.labels)
        everything.truth.extend(seen.truth)
        everything.calls.extend(seen.calls)
    if len(rows) > 1:  # the hashes of templates differ by task, since the task's words are in them
        names = {row["template"].partition(" ")[0] for row in rows}
        template = names.pop() if len(names) == 1 else ""
        rows.append(rows[0] | {"task": "all", "template": template} | measure(everything, price))
    return {"teacher": config.teacher.teacher, "latex": config.latex, "rows": rows}


def _judge_task(config: JudgeConfig, task: Task) -> tuple[dict[str, Any], Seen]:
    """Who was judged and how it answered; and what was seen."""
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
    prompt = calls[0].prompt if calls else ""
    template = [name for name in TEMPLATES if load_template(name).hash_for(task) == prompt]  # none if it has changed
    head = {
        "model": calls[0].model if calls else teacher.name,
        "task": task.name,
        "method": methods.most_common(1)[0][0] if methods else "none",
        "template": " ".join((*template, prompt)),
        "seed": config.seed,
        "permutations": config.teacher.permutations,
    }
    return head, Seen(labels, [task.script(scene) for scene in scenes], calls)


def _sampled(task: Task, count: int, seed: int) -> list[Scene]:
    """Distinct scenes in which there is a choice, as many as wanted or as the task has."""
    rng, found = np.random.default_rng(seed), dict[tuple[str, ...], Scene]()
    for _ in range(_DRAWS):
        found |= {scene.facts: scene for scene in distinct_scenes(task, rng, count)}
        if len(found) >= count:
            break
    return list(found.values())[:count]


def _recorded(store: LabelStore, task: Task, config: JudgeConfig) -> list[Scene]:
    """The scenes that the model in question was asked about, without those that a stand-in answered."""
    found: dict[tuple[str, ...], Scene] = {}
    for call in store.calls(task.name, task.options.digest, answers_only=False):
        if call.status == FALLBACK:
            found.pop(call.facts, None)
        elif len(call.legal) > 1 and (config.teacher.model or "") in call.model:
            found.setdefault(call.facts, Scene(task.name, call.facts, call.scene, call.legal))
    if not found:
        raise UserError(f"{store.path} holds no answers for {task.name}.", f"python main.py labels show {store.path}")
    return list(found.values())[: config.scenes]


def _calls(store: LabelStore, task: Task, scenes: Sequence[Scene], labels: Sequence[Label]) -> list[Call]:
    """The calls, rejected ones included, of the model and the prompt that gave the labels; the store may hold more."""
    facts, queries = {scene.facts for scene in scenes}, {label.key for label in labels if label.key}
    about = store.calls(task.name, task.options.digest, answers_only=False)
    asked = {(call.model, call.prompt) for call in about if call.query in queries}
    return [c for c in about if c.facts in facts and (not asked or (c.model, c.prompt) in asked)]


def measure(seen: Seen, usd_per_million_tokens: float | None = None) -> dict[str, Any]:
    """The figures by name; None where there is nothing to measure (calls of a teacher that makes none).

    Right is a label that gives the right option more than any other; a tie or an abstention is not.
    """
    labels, truth, calls = seen
    n, answers = len(labels), [call for call in calls if call.status == OK]
    said = [(label.probs, option) for label, option in zip(labels, truth, strict=True) if not label.abstained]
    right = sum(probs.index(max(probs)) == option and probs.count(max(probs)) == 1 for probs, option in said)
    low, high = wilson(right, n)
    seconds, tokens = [call.seconds for call in answers], sum(call.tokens for call in calls)
    p50, p95 = np.percentile(seconds, (50, 95)).tolist() if seconds else (None, None)
    return {
        "scenes": n,
        "accuracy": _share(right, n),
        "low": low,
        "high": high,
        "abstained": _share(n - len(said), n),
        **_calibration(said),
        **_places(answers),
        "calls": len(calls),
        "tokens": tokens,
        "valid": _share(len(answers), len(calls)),
        "tokens_per_scene": tokens / n if n and calls else None,
        "seconds_p50": p50,
        "seconds_p95": p95,
        "usd": None if usd_per_million_tokens is None else tokens * usd_per_million_tokens / 1e6,
    }


def _share(count: int, of: int) -> float | None:
    return count / of if of else None


def _calibration(said: Sequence[tuple[Sequence[float], int]]) -> dict[str, float | None]:
    """ECE (Naeini et al., 2015) and the Brier score summed over options (Brier, 1950), abstentions left out."""
    if not said:
        return {"ece": None, "brier": None}
    padded = zip_longest(*(probs for probs, _ in said), fillvalue=0.0)  # tasks have different numbers of options
    probs, truth = np.array([*padded], np.float32).T, np.array([option for _, option in said])
    brier = float(((probs - np.eye(probs.shape[1])[truth]) ** 2).sum(axis=1).mean())
    return {"ece": expected_calibration_error(probs, truth), "brier": brier}


def _places(answers: Sequence[Call]) -> dict[str, float | None]:
    """What the order of the menu did to answers, samples of the same question averaged.

    The position bias is the total variation between where the probability went on the menus and the uniform
    distribution over places. Menus of different lengths are compared each with their own uniform distribution and
    weighted by their number.
    """
    samples = defaultdict[tuple[str, tuple[int, ...]], list[tuple[float, ...]]](list)
    for call in answers:
        samples[call.query, call.menu].append(call.probs)
    masses, choices = defaultdict[int, list[NDArray]](list), defaultdict[str, list[int]](list)
    for (query, menu), probs in samples.items():
        mean = np.mean(probs, axis=0)
        masses[len(menu)].append(mean[list(menu)])
        choices[query].append(int(mean.argmax()))
    bias = sum(len(rows) * 0.5 * float(np.abs(np.mean(rows, axis=0) - 1 / k).sum()) for k, rows in masses.items())
    several = [set(options) for options in choices.values() if len(options) > 1]
    changed = sum(len(options) > 1 for options in several)
    return {"position_bias": bias / len(samples) if samples else None, "order_changes": _share(changed, len(several))}
