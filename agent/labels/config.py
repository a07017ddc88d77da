"""What can be said after `main.py labels`. The text under each field is its `--help`; nothing heavy is imported."""

import math
from dataclasses import dataclass
from typing import Annotated

import tyro

from ground.errors import UserError, unknown_name

ONLY = ("answers", "rejected", "fallback")
PROMPTS = ("compact", "chat")
# Who can be judged: whoever may be wrong.
JUDGED = ("local", "llm", "replay", "random", "uniform-legal")

_Store = tyro.conf.Positional[Annotated[str | None, tyro.conf.arg(metavar="[RUN_OR_STORE]")]]


@dataclass(frozen=True)
class ShowConfig:
    """Print the last calls of a label store: prompt, reply, what was read from it, and why something was rejected."""

    store: _Store = None
    """A run by name or path, or a label store (SQLite); the store that was written last if not given."""
    last: int = 20
    """How many calls."""
    task: str | None = None
    """Only calls of this task."""
    only: str | None = None
    """answers, rejected (errors and replies that were no answer), or fallback (somebody stood in for the teacher)."""
    logdir: str = "log"
    """Where runs live."""
    json: bool = False
    """Print one line of JSON for each call."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class PromptConfig:
    """A dry run: print what a language model would be sent for a scene, and ask nobody."""

    task: str = "SimpleDoorKey"
    """Task whose scenes are sampled."""
    seed: int = 0
    """Seed of the sampling."""
    index: int = 0
    """Which of the sampled scenes."""
    prompt: str = "chat"
    """compact (the built-in model's) or chat (any other model's)."""
    permutations: int = 4
    """Menu orders per scene."""
    limit: str | None = None
    """Cripple the task's text as in train: lava or colours."""
    json: bool = False
    """Print one line of JSON."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class ExportConfig:
    """Write the calls of a label store as lines of JSON."""

    store: _Store = None
    """A run by name or path, or a label store (SQLite); the store that was written last if not given."""
    to: str | None = None
    """File to write; labels.jsonl beside the store if not given."""
    task: str | None = None
    """Only calls of this task."""
    answers_only: bool = False
    """Leave errors, rejected replies and fallbacks out."""
    logdir: str = "log"
    """Where runs live."""
    json: bool = False
    """Print one line of JSON."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class ImportConfig:
    """Add exported calls to a label store. What is there stays as it is; a file with one bad line adds nothing."""

    file: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="FILE")]]
    """File that `labels export` wrote."""
    into: str
    """A run by name or path, or a label store (SQLite), which is created if it does not exist."""
    logdir: str = "log"
    """Where runs live."""
    json: bool = False
    """Print one line of JSON."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class JudgeConfig:
    """Score a teacher against the tasks' scripts on sampled scenes; the table can be pasted into a paper."""

    task: tuple[str, ...] = ("SimpleDoorKey",)
    """Tasks to judge on."""
    teacher: str = "local"
    """local, llm, replay (on the scenes that its store knows), or a control: random, uniform-legal."""
    base_url: str | None = None
    """Server of --teacher llm, OpenAI protocol; OPENAI_BASE_URL if not given. The key is read from OPENAI_API_KEY."""
    model: str | None = None
    """Model on that server, or for --teacher local a folder; the only one that the server offers if not given."""
    prompt: str | None = None
    """compact or chat; the model's own if not given."""
    labels: str | None = None
    """Label store (SQLite): for --teacher replay the one to judge, else where answers are kept and found again."""
    scenes: int = 200
    """Distinct scenes with a choice per task; fewer where a task has fewer."""
    permutations: int = 4
    """Menu orders per scene."""
    margin: float = 0.0
    """Labels whose two best options are closer than this are abstentions."""
    seed: int = 0
    """Seed of the sampling."""
    scoring: str = "auto"
    """How --teacher llm is asked: logprobs, choice, echo or samples; auto takes the first that the server can do."""
    samples: int = 10
    """Samples per menu order where the server cannot score."""
    concurrency: int | None = None
    """Requests in flight at once; by the speed of the server if not given."""
    usd_per_million_tokens: float | None = None
    """Price, for the column of costs."""
    latex: bool = False
    """Print the table for LaTeX (booktabs) instead of Markdown."""
    quiet: bool = False
    """No progress display."""
    json: bool = False
    """Print one line of JSON."""
    debug: bool = False
    """Show tracebacks."""


Config = ShowConfig | PromptConfig | ExportConfig | ImportConfig | JudgeConfig

_NAMED = {"only": ONLY, "prompt": PROMPTS, "teacher": JUDGED}
_MOST = {"index": 10_000, "scenes": 100_000}
_LEAST = {"last": 1, "scenes": 1, "permutations": 1, "concurrency": 1, "samples": 1}
_LEAST |= {"index": 0, "seed": 0, "margin": 0, "usd_per_million_tokens": 0}


def check(config: Config) -> None:
    """Refuse what cannot be meant. Raises `UserError` with the nearest right choice."""
    for field, known in _NAMED.items():
        value = getattr(config, field, None)
        if value is not None and value not in known:
            raise unknown_name(field, value, known, "python main.py labels --help")
    for field, least in _LEAST.items():
        value = getattr(config, field, None)
        if value is not None and not least <= value <= _MOST.get(field, math.inf):
            most = f" and at most {_MOST[field]:,}" if field in _MOST else ""
            raise UserError(
                f"--{field.replace('_', '-')} is {value}, and must be at least {least}{most}.", "give another number"
            )
    if isinstance(config, JudgeConfig) and config.teacher == "replay" and config.labels is None:
        raise UserError("There is nothing to replay.", "--labels log/METHOD/TASK/RUN/labels.sqlite")
    if isinstance(config, JudgeConfig) and (not config.task or len(set(config.task)) != len(config.task)):
        named = "a task twice" if config.task else "no task"
        raise UserError(f"--task {' '.join(config.task)} names {named}.", "--task KeyInBox TwoDoor")
