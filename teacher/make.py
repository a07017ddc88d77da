"""Teacher names, as on the command line, -> teachers."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from envs.task import Task
from ground.errors import UserError, unknown_name
from teacher.asking import AskingTeacher, Model
from teacher.base import POLICIES, Teacher
from teacher.faults import say
from teacher.labels import LabelStore
from teacher.noisy import ControlTeacher, NoisyTeacher, ShuffledTeacher
from teacher.prompts import Prompt, Template, load_template, menus
from teacher.replay import ReplayTeacher
from teacher.scripted import ScriptedTeacher

_PROBED_SCENES = 200
# Seconds for which a server may stay away: a run that may go on without it waits less long, and then leaves it alone.
DEADLINES = {"abort": 120.0, "otherwise": 30.0}
COOL_DOWN = 30.0

TEACHERS = ("local", "llm", "scripted", "replay", "random", "uniform-legal", "shuffled", "none")


class AskingOptions(TypedDict, total=False):
    """How language models are asked; each has the default that `make_teacher` states."""

    base_url: str | None
    model: str | None
    device: str
    prompt: str | None
    replay_from: Path | str | None
    margin: float
    max_llm_calls: int | None
    max_llm_tokens: int | None
    max_llm_seconds: float | None
    permutations: int
    concurrency: int | None
    scoring: str
    samples: int
    on_failure: str
    as_recorded: bool


def make_teacher(
    name: str,
    task: Task,
    store: LabelStore | None = None,
    *,
    seed: int = 0,
    label_noise: float = 0.0,
    **asking: Unpack[AskingOptions],
) -> Teacher | None:
    """A teacher by name, or None for `none`.

    Args:
        name: One of `TEACHERS`; `shuffled:NAME` shuffles the answers of another teacher than `local`.
        task: The task whose scenes it labels.
        store: Where its calls are kept; in memory if None.
        seed: Seed of the run, for controls and noise.
        label_noise: Probability that a query's label is replaced by another legal option.
        **asking: `base_url` of the server of `llm`; `model` (id for `llm`, folder for `local`, part of a name for
            `replay`); `prompt`, `compact` or `chat` (default: the model's own); `replay_from`, the store file of
            `replay`; `margin` (0) under which the best two options are too close and the teacher abstains;
            `permutations` (4) of the menu per scene; and for `llm`: the hard limits `max_llm_calls`, `max_llm_tokens`
            and `max_llm_seconds` (none); `scoring` (auto), one of `teacher.llm.SCORINGS`; `samples` (10) per menu where
            the server cannot score; `concurrency`, the requests in flight at once (by the speed of the server);
            `on_failure` (abort), one of `POLICIES`: with any other, scenes that cannot be asked are `UNAVAILABLE`.
            `as_recorded` (no): as `AskingTeacher` has it.

    Raises:
        UserError: No such teacher, or one that cannot be had; the message says what to do.
    """
    if not 0.0 <= label_noise <= 1.0:
        raise UserError(f"--label-noise is a probability, not {label_noise}.", "--label-noise 0.3")
    kind, _, inner = name.partition(":")
    if kind not in TEACHERS or (inner and kind != "shuffled"):
        raise unknown_name("teacher", name, TEACHERS, "--teacher local")
    if kind == "none":
        return None
    store = store if store is not None else LabelStore()
    if kind == "shuffled":
        if asking.get("on_failure", "abort") != "abort":
            raise UserError(
                "Shuffled labels are those of other scenes, for which nothing can stand in.",
                "--on-teacher-failure abort",
            )
        answering = make_teacher(inner or "local", task, store, seed=seed, **asking)
        if answering is None:
            raise UserError("There is nothing to shuffle without a teacher.", "--teacher shuffled:local")
        teacher: Teacher = ShuffledTeacher(answering, task, seed)
    else:
        teacher = _plain(kind, task, store, seed, asking)
    return NoisyTeacher(teacher, label_noise, seed) if label_noise > 0 else teacher


def _plain(kind: str, task: Task, store: LabelStore, seed: int, asking: AskingOptions) -> Teacher:
    """A teacher that wraps no other. The modules of language models are slow to import, so only those in use are."""
    margin, model = asking.get("margin", 0.0), asking.get("model")
    match kind:
        case "scripted":
            return ScriptedTeacher(task, store)
        case "replay":
            path = asking.get("replay_from")
            if path is None:
                raise UserError("The replay teacher needs a label store.", "--labels log/METHOD/TASK/RUN/labels.sqlite")
            return ReplayTeacher(task, path, model=model, margin=margin)
        case "local":
            from teacher.local import TINY_MODEL, LocalModel

            local = LocalModel(model or TINY_MODEL, device=asking.get("device", "cpu"))
            if local.tasks and task.name not in local.tasks:
                judge = f"python main.py labels judge --teacher local --task {task.name}"
                say(f"warning: the model of --teacher local was not trained on {task.name}; how good it is: {judge}")
            reader: Model = local
        case "llm":
            reader = _served(model, asking)
        case _:
            return ControlTeacher(kind, task, seed)
    template = load_template(asking.get("prompt") or reader.template)
    if kind == "llm":
        reader.prepare(longest_prompts(task, template))  # type: ignore[attr-defined]
    permutations = asking.get("permutations", 4)
    recorded = asking.get("as_recorded", False)
    return AskingTeacher(
        kind, task, reader, template, store, permutations=permutations, margin=margin, as_recorded=recorded
    )


def _served(model: str | None, asking: AskingOptions) -> Model:
    from teacher.llm import ServedModel
    from teacher.wire import Limits

    policy = asking.get("on_failure", "abort")
    if policy not in POLICIES:
        raise unknown_name("policy", policy, POLICIES, "--on-teacher-failure abort")
    limits = Limits(
        concurrency=asking.get("concurrency"),
        deadline_seconds=DEADLINES["abort" if policy == "abort" else "otherwise"],
        cool_down_seconds=COOL_DOWN,
        max_calls=asking.get("max_llm_calls"),
        max_tokens=asking.get("max_llm_tokens"),
        max_seconds=asking.get("max_llm_seconds"),
    )
    return ServedModel(
        asking.get("base_url"),
        model,
        limits=limits,
        scoring=asking.get("scoring", "auto"),
        samples=asking.get("samples", 10),
        patient=policy != "abort",
    )


def longest_prompts(task: Task, template: Template, count: int = 3) -> list[Prompt]:
    """The longest prompts among those of some sampled scenes, the longest first: what fits these fits the run."""
    drawn = task.sample_scenes(np.random.default_rng(0), _PROBED_SCENES)
    scenes = {scene.facts: scene for scene in drawn if len(scene.legal) > 1}
    prompts = [template.render(task, scene, menus(scene, 1)[0]) for scene in scenes.values()]
    return sorted(prompts, key=lambda prompt: -sum(len(text) for _, text in prompt.messages))[:count]


def asking_of(teacher: Teacher) -> AskingTeacher | None:
    """The teacher inside noise and the like that asks a language model, if one does."""
    while hasattr(teacher, "inner"):
        teacher = teacher.inner
    return teacher if isinstance(teacher, AskingTeacher) else None


def capability_of(teacher: Teacher) -> dict[str, Any]:
    """What a served model was seen to do when it was probed, for a run's manifest; empty for all other teachers."""
    asking = asking_of(teacher)
    capability = getattr(asking.model, "capability", None) if asking else None
    return asdict(capability) if capability else {}
