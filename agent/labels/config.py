"""The settings of the `main.py labels` verbs. The text under each field is its `--help`; nothing heavy is imported."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro
from annotated_types import Ge, Interval
from pydantic import BeforeValidator

from preceptor.ground.errors import UserError, unknown_name
from preceptor.ground.ranges import Count, CountOrNone, NotNegative
from preceptor.teacher.config import TeacherConfig

JUDGED = ("local", "llm", "replay", "random", "uniform-legal")  # the teachers that may be wrong
_Store = tyro.conf.Positional[Annotated[str | None, tyro.conf.arg(metavar="[RUN_OR_STORE]")]]


@dataclass(frozen=True, kw_only=True)
class _Printing:
    logdir: str = "log"
    """Where runs live."""
    json: bool = False
    """Print JSON: one line, or with `show` one for each call."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class ShowConfig(_Printing):
    """Print the last calls of a label store: prompt, reply, what was read from it, and why something was rejected."""

    store: _Store = None
    """A run by name or path, or a label store (SQLite); the store that was written last if not given."""
    last: Count = 20
    """How many calls."""
    task: str | None = None
    """Only calls of this task."""
    only: Literal["answers", "rejected", "fallback"] | None = None
    """answers, rejected (errors and replies that were no answer), or fallback (a stand-in answered)."""


@dataclass(frozen=True)
class PromptConfig(_Printing):
    """A dry run: print what a language model would be sent for a scene, and send nothing."""

    task: str = "SimpleDoorKey"
    """Task whose scenes are sampled."""
    seed: CountOrNone = 0
    """Seed of the sampling."""
    index: Annotated[int, Interval(ge=0, le=10_000)] = 0
    """Which of the sampled scenes."""
    prompt: str = "chat"
    """compact (the built-in model's), chat (any other model's), or a file of yours."""
    permutations: Count = 4
    """Menu orders per scene."""
    teacher_flaw: str | None = None
    """Cripple the task's text as in train: lava or colours."""


@dataclass(frozen=True)
class ExportConfig(_Printing):
    """Write the calls of a label store as lines of JSON."""

    store: _Store = None
    """A run by name or path, or a label store (SQLite); the store that was written last if not given."""
    to: str | None = None
    """File to write; labels.jsonl beside the store if not given."""
    task: str | None = None
    """Only calls of this task."""
    answers_only: bool = False
    """Leave errors, rejected replies and fallbacks out."""


@dataclass(frozen=True)
class ImportConfig(_Printing):
    """Add exported calls to a label store. What is there stays as it is; a file with one bad line adds nothing."""

    file: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="FILE")]]
    """File that `labels export` wrote."""
    into: str
    """A run by name or path, or a label store (SQLite), which is created if it does not exist."""


@dataclass(frozen=True)
class JudgeConfig(_Printing):
    """Score a teacher (local, llm, replay, random or uniform-legal) against the tasks' scripts on sampled scenes; the
    table can be pasted into a paper."""

    task: tuple[str, ...] = ("SimpleDoorKey",)
    """Tasks to judge on."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """The teacher, and how it is asked; --teacher replay judges the store of --labels."""
    scenes: Annotated[int, Interval(ge=1, le=100_000)] = 200
    """Distinct scenes with a choice per task; fewer where a task has fewer."""
    seed: CountOrNone = 0
    """Seed of the sampling."""
    usd_per_million_tokens: NotNegative | None = None
    """Price, for the column of costs."""
    latex: bool = False
    """Print the table for LaTeX (booktabs) instead of Markdown."""
    quiet: bool = False
    """No progress display."""


def _of_thousands(given: object) -> object:
    """A whole number that is written as 1e6."""
    return int(float(given)) if isinstance(given, str) and re.fullmatch(r"\d{1,9}e\d{1,2}", given) else given


@dataclass(frozen=True)
class ServersConfig(TeacherConfig):
    """A teacher that may be on many servers."""

    base_url: tuple[str, ...] = ()  # type: ignore[assignment]
    """Servers of one model, OpenAI protocol, each after a --base-url of its own. The key is read from OPENAI_API_KEY.
    Without one, the teacher is the one that --teacher names."""
    labels: str | None = None
    """Label store (SQLite) to add answers to; log/labels/TASK.sqlite if not given."""
    concurrency: Annotated[int, Ge(1)] | None = None
    """Requests in flight at once at each server; by its speed if not given."""


@dataclass(frozen=True, kw_only=True)
class BatchConfig(_Printing):
    """Label many scenes of a task with a language model, on one server or on several. The same command goes on after
    an interruption, and asks nothing again that is stored."""

    task: str
    """Task whose scenes are labelled."""
    scenes: Annotated[int, BeforeValidator(_of_thousands), Interval(ge=1, le=10**9)] = 1_000
    """Distinct scenes with a choice (1e6 is a million); fewer where a task has fewer."""
    player: Literal["random", "script"] = "random"
    """Who plays to meet them: random primitive actions, or the task's expert, three in ten of whose actions are
    random."""
    seed: CountOrNone = 0
    """Seed of the play."""
    teacher: ServersConfig = field(default_factory=ServersConfig)
    """The model, and how it is asked."""
    retries: CountOrNone = 2
    """How often a reply that was no answer is asked for again, at the end."""
    dry_run: bool = False
    """Say what it would cost, and send nothing."""
    quiet: bool = False
    """No progress display."""


def check_judge(config: JudgeConfig) -> None:
    """Refuse what the types let through. Raises `UserError` with the nearest right choice."""
    asked, tasks = config.teacher, config.task
    if asked.teacher not in JUDGED:
        raise unknown_name("teacher", asked.teacher, JUDGED, "python main.py labels judge --help")
    if asked.teacher == "replay" and asked.labels is None:
        raise UserError("There is nothing to replay.", "--labels log/METHOD/TASK/RUN/labels.sqlite")
    if not tasks or len(set(tasks)) != len(tasks):
        what = "a task twice" if tasks else "no task"
        raise UserError(f"--task {' '.join(tasks)} names {what}.", "--task KeyInBox TwoDoor")
