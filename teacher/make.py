"""Teacher names, as on the command line, -> teachers."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict, Unpack

from envs.errors import UserError, unknown_name
from envs.task import Task
from teacher.asking import AskingTeacher, Model
from teacher.base import Teacher
from teacher.labels import LabelStore
from teacher.noisy import ControlTeacher, NoisyTeacher, ShuffledTeacher
from teacher.prompts import load_template
from teacher.replay import ReplayTeacher
from teacher.scripted import ScriptedTeacher

TEACHERS = ("local", "llm", "scripted", "replay", "random", "uniform-legal", "shuffled", "none")


class AskingOptions(TypedDict, total=False):
    """How language models are asked; each has the default that `make_teacher` states."""

    base_url: str | None
    model: str | None
    prompt: str | None
    replay_from: Path | str | None
    margin: float
    max_llm_calls: int | None
    permutations: int
    concurrency: int


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
            `max_llm_calls` (none), the hard limit on requests to a server; `permutations` (4) of the menu per scene;
            `concurrency` (8), the requests in flight at once.

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

            reader: Model = LocalModel(model or TINY_MODEL)
        case "llm":
            from teacher.llm import Limits, ServedModel

            limits = Limits(concurrency=asking.get("concurrency", 8), max_calls=asking.get("max_llm_calls"))
            reader = ServedModel(asking.get("base_url"), model, limits=limits)
        case _:
            return ControlTeacher(kind, task, seed)
    template = load_template(asking.get("prompt") or reader.template)
    permutations = asking.get("permutations", 4)
    return AskingTeacher(kind, task, reader, template, store, permutations=permutations, margin=margin)


def capability_of(teacher: Teacher) -> dict[str, Any]:
    """What a served model was seen to do when it was probed, for a run's manifest; empty for all other teachers."""
    while hasattr(teacher, "inner"):
        teacher = teacher.inner
    capability = getattr(getattr(teacher, "model", None), "capability", None)
    return asdict(capability) if capability else {}
