"""Teacher names, as on the command line, -> teachers."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from preceptor.envs.plans import Plans
from preceptor.envs.task import Task, defines, lacking
from preceptor.ground.errors import UserError, unknown_name
from preceptor.teacher import controls
from preceptor.teacher.asking import AskingTeacher, Model
from preceptor.teacher.base import Teacher, TeacherError
from preceptor.teacher.config import Limits, TeacherConfig, TeacherName
from preceptor.teacher.cost import cost_of
from preceptor.teacher.faults import say
from preceptor.teacher.labels import LabelStore
from preceptor.teacher.planning import PLAN_TOKENS, PlanningTeacher, ScriptedPlans, plan_prompts
from preceptor.teacher.prompts import AGENT, Prompt, Template, distinct_scenes, load_template, menus

if TYPE_CHECKING:
    from preceptor.teacher.llm import ServedModel
    from preceptor.teacher.local import LocalModel
    from preceptor.teacher.pool import ServerPool

_PROBED_SCENES, _PROBED_PROMPTS, _PLANNED_SCENES = 200, 3, 1_000
# How long a server may stay away: a run that may go on without it waits less long, and then leaves it alone.
LIMITS = {"abort": Limits(), "otherwise": Limits(deadline_seconds=30.0)}

TEACHERS: tuple[str, ...] = get_args(TeacherName)


def make_teacher(
    config: TeacherConfig | str,
    task: Task,
    store: LabelStore | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
    as_recorded: bool = False,
) -> Teacher | None:
    """A teacher, or None for `none`.

    Args:
        config: Who it is and how it is asked; a plain name is the config with that teacher and nothing else said. For
            `replay` its `labels` are the store that is replayed, and `model` may be part of a model's name.
        task: The task whose scenes it labels.
        store: Where its calls are kept; in memory if None.
        seed: Seed of the run, for controls and noise.
        device: Where a model in this process computes.
        as_recorded: As `AskingTeacher` has it.

    Raises:
        UserError: No such teacher, or one that cannot be had; the message says what to do.
    """
    config = TeacherConfig(config) if isinstance(config, str) else config
    store = store if store is not None else LabelStore()
    kind, _, inner = config.teacher.partition(":")
    if kind not in TEACHERS or (inner and kind != "shuffled"):
        raise unknown_name("teacher", config.teacher, TEACHERS, "--teacher local")
    teacher: Teacher
    by_plan = config.teacher_by == "plan"
    if by_plan and kind in ("local", "replay"):
        raise UserError(f"--teacher {kind} writes no plans.", "--teacher scripted, or --teacher llm")
    match kind:
        case "none":
            return None
        case "shuffled":
            if config.on_teacher_failure != "abort":
                what = "Shuffled labels are those of other scenes, for which nothing can stand in."
                raise UserError(what, "--on-teacher-failure abort")
            plain = replace(config, teacher=inner or "local", label_noise=0.0)
            answering = make_teacher(plain, task, store, seed=seed, device=device, as_recorded=as_recorded)
            if answering is None:
                raise UserError("There is nothing to shuffle without a teacher.", "--teacher shuffled:local")
            teacher = controls.ShuffledTeacher(answering, task, seed)
        case "scripted" | "llm" if by_plan:
            if (plans := task.plans) is None:
                what = f"{task.name} has no missions that differ from episode to episode, and nothing to plan."
                raise UserError(what, "--teacher-by scene")
            writer = _planner(config, task, plans) if kind == "llm" else ScriptedPlans(plans)
            teacher = PlanningTeacher(kind, task, writer, plans, store, as_recorded=as_recorded)
        case "scripted":
            if not defines(task, "script"):
                raise lacking(task, "script")
            teacher = controls.ScriptedTeacher(task, store)
        case "replay":
            teacher = controls.ReplayTeacher(task, config.labels, model=config.model, margin=config.margin)
        case "local" | "llm":
            model, template = (_local if kind == "local" else _served)(config, task, device)
            teacher = AskingTeacher(
                kind, task, model, template, store, config.permutations, config.margin, as_recorded=as_recorded
            )
        case _:
            teacher = controls.ControlTeacher(kind, task, seed)
    if config.label_noise == 0:
        return teacher
    return controls.NoisyTeacher(teacher, config.label_noise, seed, fixed=config.noise_per == "scene")


def make_player(
    config: TeacherConfig, task: Task, device: str, probes: Callable[[Template], Sequence[Prompt]]
) -> tuple[Model, Template]:
    """A language model that is asked for one choice at a time, and the template of its prompts.

    Args:
        config: Which model, and how it is asked: for one reply in words, unless `scoring` says otherwise.
        task: What it plays.
        device: Where a model in this process computes.
        probes: Prompts of a template on which a server is tried, the longest first.

    Raises:
        UserError: It is no language model, or cannot be had; the message says what to do.
    """
    if config.teacher not in ("local", "llm"):
        what = f"The player llm-agent asks a language model, and --teacher {config.teacher} is none."
        raise UserError(what, "--teacher local, or --teacher llm --base-url http://localhost:8000/v1")
    own = load_template(config.prompt) if config.prompt else None  # before anything is sent
    once = replace(config, scoring="samples" if config.scoring == "auto" else config.scoring, samples=1)
    served = _served_model(once) if config.teacher == "llm" else None
    model: Model = served or local_model(config, task, device)
    template = own or load_template(AGENT if model.template == "chat" else model.template)
    if served is not None:
        served.prepare(probes(template))
    return model, template


def local_model(config: TeacherConfig, task: Task, device: str, *, shares: bool = False) -> "LocalModel":
    """The model in this process; a warning if it was not trained on the task. Raises `UserError` if there is none."""
    from preceptor.teacher.card import TINY_MODEL
    from preceptor.teacher.local import LocalModel  # slow to import, as is the other one

    model = LocalModel(config.model or TINY_MODEL, device=device, shares=shares)
    if model.tasks and task.base_name not in model.tasks:
        judge = f"python main.py labels judge --teacher local --task {task.source}"
        say(f"warning: the model of --teacher local was not trained on {task.name}; how good it is: {judge}")
    return model


def _served_model(config: TeacherConfig) -> "ServedModel":
    from preceptor.teacher.llm import ServedModel

    return ServedModel(config, limits=LIMITS["abort" if config.on_teacher_failure == "abort" else "otherwise"])


def _local(config: TeacherConfig, task: Task, device: str) -> tuple[Model, Template]:
    model = local_model(config, task, device)
    return model, load_template(config.prompt or model.template)


def _served(config: TeacherConfig, task: Task, device: str) -> tuple[Model, Template]:
    own = load_template(config.prompt) if config.prompt else None  # before anything is sent
    model = _served_model(config)
    template = own or load_template(model.template)
    model.prepare(longest_prompts(task, template))
    say(f"{model.base_url}: {cost_of(task, template, config, model.way, model.samples)}")
    return model, template


def make_pool(config: TeacherConfig, urls: Sequence[str | None], task: Task) -> tuple["ServerPool", Template]:
    """Servers of one model for one task, and the template of their prompts. Those that are not there are left out.

    Raises:
        UserError: None is there, or they serve different models.
    """
    from preceptor.teacher.client import Spending
    from preceptor.teacher.llm import ServedModel
    from preceptor.teacher.pool import ServerPool

    own = load_template(config.prompt) if config.prompt else None  # before anything is sent
    spending, servers, missing = Spending(), list[ServedModel](), list[UserError]()
    for url in urls:
        try:
            model = ServedModel(replace(config, base_url=url), limits=LIMITS["otherwise"], spending=spending)
            template = own or load_template(model.template)
            model.prepare(longest_prompts(task, template))
            servers.append(model)
        except TeacherError as error:
            say(f"warning: left out: {error.what}")
            missing.append(error)
    if not servers:
        raise missing[0]
    return ServerPool(servers), own or load_template(servers[0].template)


def _planner(config: TeacherConfig, task: Task, plans: Plans) -> Model:
    """A served model that is tried on the longest missions. Raises `UserError` for a `scoring` that gives no words."""
    if config.scoring not in ("auto", "samples"):
        raise UserError(f"A plan is written, and --scoring {config.scoring} gives a letter.", "--scoring samples")
    tokens = config.reply_tokens or PLAN_TOKENS
    warmth = 0.0 if config.temperature is None else config.temperature  # one reply is all that there is
    model = _served_model(replace(config, scoring="samples", samples=1, reply_tokens=tokens, temperature=warmth))
    prompts = plan_prompts(task, plans, _PLANNED_SCENES)
    model.prepare(prompts[:_PROBED_PROMPTS])
    read = sum(prompt.tokens for prompt in prompts)
    cost = f"{_PLANNED_SCENES:,} sampled situations are of {len(prompts):,} missions to plan: {len(prompts):,} calls"
    say(f"{model.base_url}: {cost}, about {read:,} tokens of prompts and at most {tokens:,} of each reply")
    return model


def longest_prompts(task: Task, template: Template) -> list[Prompt]:
    """The longest prompts among those of some sampled scenes, the longest first: what fits these fits the run."""
    scenes = distinct_scenes(task, np.random.default_rng(0), _PROBED_SCENES)
    prompts = [template.render(task, scene, menus(scene, 1)[0]) for scene in scenes]
    return sorted(prompts, key=lambda prompt: -prompt.tokens)[:_PROBED_PROMPTS]


def asking_of(teacher: Teacher) -> AskingTeacher | None:
    """The teacher inside noise and the like that asks a language model, if one does."""
    while isinstance(teacher, controls.AlteredTeacher):
        teacher = teacher.inner
    return teacher if isinstance(teacher, AskingTeacher) else None


def capability_of(teacher: Teacher) -> dict[str, Any]:
    """What a served model was seen to do when it was probed, for a run's manifest; empty for all other teachers."""
    asking = asking_of(teacher)
    return getattr(asking.model, "capability", {}) if asking else {}
