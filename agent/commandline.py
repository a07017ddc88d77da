"""Words of the command line -> settings: flags of the dataclasses' fields, a file, and `--set`."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro

from preceptor.agent.config import (
    POSITIONAL,
    Place,
    TrainConfig,
    assignment,
    changed,
    from_file,
    from_plain,
    places,
    preset,
    validated,
    with_said,
)
from preceptor.agent.grid_config import first_of
from preceptor.ground.errors import UserError, unknown_name
from preceptor.ground.program import as_called

# IHAC's and LLM4Teach's spellings, and names of earlier versions. Their offline planner is a fixed table from scene to
# option: here, the script.
SPELLINGS: dict[str, list[str]] = {
    "--offline-planner": ["--teacher", "scripted"],
    "--soft-planner": ["--soft"],
    "--hard-planner": ["--no-soft"],
    "--hard": ["--no-soft"],
    "--eval-meta-controller": ["--eval-teacher"],
    "--tasks": ["--task"],
    "--limit": ["--teacher-flaw"],
    "--memory": ["--buffer-size"],
    "--trust": ["--annotator-model"],
}
_FAULTY = (
    "The misbehaving server is one for tests now.",
    "python -m tests.faulty_server --script tests/faulty_server/example.toml",
)
# Flags that are gone, by themselves or with one value, and what to type instead.
GONE = {
    "script": _FAULTY,
    "backend faulty": _FAULTY,
    "no_decay": ("--decay is the last share of the steps, over which learning rates fall.", "--decay 0"),
    "planned_candidate": ("The controller's goal is no candidate for relabelling any more.", "leave the flag out"),
}
Said = list[tuple[str, list[str]]]  # flags as settings are named, as they were said, and the words after each


def default_of(kind: Any) -> Any:
    """Settings as they are before anything is said; what must be said is missing."""
    return kind(**dict.fromkeys(_required(kind), tyro.MISSING))


def _required(kind: Any) -> list[str]:
    return [f.name for f in fields(kind) if f.default is f.default_factory is dataclasses.MISSING]


def read(verb: str, default: Any, words: Sequence[str]) -> Any:
    """The settings of a verb, changed from its defaults by words. Exits for `--help`.

    Raises:
        UserError: An unknown flag (the nearest is suggested), or a value of the wrong type or out of range.
    """
    kind: Any = type(default)
    said, more = _spelled(words, places(kind)), dict[str, Place]()
    if kind is TrainConfig:
        decides = {name: values[0] for name, values in said if name and values}
        changes = from_file(decides.pop("config")) if "config" in decides else {}
        changes |= dict(assignment(" ".join(values)) for name, values in said if name == "set")
        several = {of: [v for name, values in said if name == of for v in values] for of in ("tasks", "set_grid")}
        changes |= first_of(changes | several)
        decides = changes | {name: value for name, value in decides.items() if name != "set"}
        resumes = "resume" in dict(said) or validated(bool, changes.get("resume", False), {}, "resume")
        resumed = _own(decides) if resumes else None
        default = changed(resumed or preset(decides), changes)
        more = {name: Place((), str) for name in ("set", "config")}
    if {"--help", "-h"} & set(words):
        _show_help(default, as_called(f"python main.py {verb}"))
    own: Any = type(default.settings) if kind is TrainConfig else None
    where = places(kind, own)
    given = _values(verb, said, where | more)
    if kind is TrainConfig:
        return changed(default, {name: value for name, value in given.items() if name not in more})
    if missing := [name for name in _required(kind) if name not in given]:
        raise UserError(f"{verb} needs --{missing[0]}, or what it stands for.", f"python main.py {verb} --help")
    found = validated(kind, with_said(dataclasses.asdict(default), given, where, verb), where)
    return dataclasses.replace(found, said=tuple(given)) if hasattr(found, "said") else found


def _own(said: Mapping[str, Any]) -> TrainConfig | None:
    """The settings of the run that is to be continued, where there is one: a preset may have changed since."""
    from preceptor.agent.runs.carried import task_of
    from preceptor.agent.runs.run import Run

    method, task, logdir, savedir = (
        said.get(name, getattr(TrainConfig, name)) for name in ("method", "task", "logdir", "savedir")
    )
    place = Path(logdir) / method / task_of(str(task), logdir, said.get("teacher_flaw")).name / savedir
    of_seeds = sorted(place.glob("seed-*/config.json"))
    if (place / "config.json").exists():
        return from_plain(Run.open(place).config)
    if not of_seeds:
        return None
    return dataclasses.replace(from_plain(Run.open(of_seeds[0].parent).config), seed=0, savedir=place.name)


def _spelled(words: Sequence[str], known: Mapping[str, Place]) -> Said:
    """The words by flag, under "" those before the first flag; a flag that the verb has is never another's spelling."""
    said: Said = [("", [])]
    for word in words:
        flag, equals, value = word.partition("=")
        if not flag.startswith("--"):
            said[-1][1].append(word)
            continue
        taken = flag.removeprefix("--").replace("-", "_") in known
        flag, *rest = [flag] if taken else SPELLINGS.get(flag.replace("_", "-"), [flag])
        said.append((flag.removeprefix("--").replace("-", "_"), [value] if equals else rest))
    return said


def _values(verb: str, said: Said, where: Mapping[str, Place]) -> dict[str, Any]:
    """What flags and the words without one say, by setting."""
    found: dict[str, Any] = {}
    rest: list[str] = []
    more = f"python main.py {verb} --help"
    for name, words in said:
        flag, setting = f"--{name.replace('_', '-')}", re.sub(r"(^|\.)no_", r"\1", name)  # --distil.no-mirror, too
        place, taken = where.get(name), len(words)
        if not name:
            taken = 0
        elif gone := GONE.get(name) or GONE.get(" ".join([name, *words[:1]])):
            raise UserError(*gone)
        elif setting in where and bool in where[setting].kinds:
            found[setting], taken = setting == name, 0
        elif place is None:
            raise unknown_name("flag", flag, (f"--{known.replace('_', '-')}" for known in where), more)
        elif place.many:
            found[name] = [*found.get(name, ()), *words]
        elif not words:
            raise UserError(f"{flag} needs a value.", more)
        else:
            found[name], taken = words[0], 1
        rest += words[taken:]
    for name, place in where.items():
        if rest and POSITIONAL in place.marks:
            found[name], rest = (rest, []) if place.many else (rest[0], rest[1:])
    if rest:
        raise UserError(f"There is no place for {rest[0]!r}: values come after a flag.", more)
    return found


def _show_help(default: Any, prog: str) -> None:
    """Print every flag with its help, and exit. Groups are shown by themselves, but need no prefix."""
    groups = {f.name: value for f in fields(default) if is_dataclass(value := getattr(default, f.name))}
    shown = {name: _without_prefix(type(value)) for name, value in groups.items()}
    kind = dataclasses.make_dataclass(
        type(default).__name__, shown.items(), bases=(type(default),), frozen=True, kw_only=True
    )
    values = _values_of(default) | {name: shown[name](**_values_of(value)) for name, value in groups.items()}
    tyro.cli(kind, args=["--help"], default=kind(**values), prog=prog, config=(tyro.conf.AvoidSubcommands,))


def _values_of(config: Any) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in fields(config)}


def _without_prefix(kind: type) -> type:
    """A dataclass of settings whose flags have no prefix, whatever it is nested in; groups within it keep theirs.

    A group without a name would do that, too, but its flags would be lost among the others in the help.
    """
    whole, part = tyro.conf.arg(name="", prefix_name=False), tyro.conf.arg(prefix_name=False)
    hints = get_type_hints(kind, include_extras=True)
    marked = [
        (f.name, Annotated[hint, whole if Place((kind.__name__, f.name), hint).flattened else part])
        for f in fields(kind)
        for hint in (hints[f.name],)
    ]
    return dataclasses.make_dataclass(kind.__name__, marked, bases=(kind,), frozen=True, kw_only=True)
