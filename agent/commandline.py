"""Words of the command line -> settings: one set of flags from the dataclasses, a file, and `--set`."""

import dataclasses
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import tyro

from agent.config import TrainConfig, changed, from_file, from_plain, is_flattened, paths, preset, to_plain, validated
from ground.errors import UserError, unknown_name

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
# Flags that are gone, and what to type instead.
GONE = {
    "script": (
        "The misbehaving server is one for tests now.",
        "python -m tests.faulty_server --script tests/faulty_server/example.toml",
    ),
    "planned-candidate": ("The controller's goal is no candidate for relabelling any more.", "leave the flag out"),
}
Pairs = list[tuple[str, str | None]]  # (flag without hyphens in front, its value), in the order in which they were said


def default_of(kind: Any) -> Any:
    """Settings as they are before anything is said; what must be said is missing."""
    required = [f.name for f in fields(kind) if f.default is f.default_factory is dataclasses.MISSING]
    return kind(**dict.fromkeys(required, tyro.MISSING))


def read(verb: str, default: Any, words: Sequence[str]) -> Any:
    """The settings of a verb, changed from its defaults by words. Exits for `--help`.

    Raises:
        UserError: An unknown flag (the nearest is suggested), or a value of the wrong type or out of range.
    """
    said, pairs = _spelled(words)
    given = {name.replace("-", "_"): value for name, value in pairs}
    known = flag_names(default)
    _check_choices(verb, default, given)
    if isinstance(default, TrainConfig):
        changes = from_file(given["config"] or "") if "config" in given else {}
        changes |= _assignments(pairs)
        default = changed(_own(given | changes) or preset(changes | _chosen(given)), changes)
        said = _without(said, "--set", "--config")
        known = {*paths(default.settings.__class__), "set", "config"}
        _check_choices(verb, default.settings, given)
    _check(verb, pairs, known)
    found = _parse(default, said, f"main.py {verb}")
    if isinstance(found, TrainConfig):
        return from_plain(to_plain(found))
    found = validated(type(found), dataclasses.asdict(found), "")
    names = {f.name for f in fields(found)}
    return dataclasses.replace(found, said=tuple(given)) if "said" in names else found


def _own(given: Mapping[str, Any]) -> TrainConfig | None:
    """The settings of the run that is to be continued, where there is one: a preset may have changed since."""
    from agent.runs.run import Run
    from envs.catalog import get_task

    if "resume" not in given:
        return None
    method, task = given.get("method") or TrainConfig.method, given.get("task") or TrainConfig.task
    name = get_task(str(task), given.get("teacher_flaw")).name
    place = (
        Path(given.get("logdir") or TrainConfig.logdir) / method / name / (given.get("savedir") or TrainConfig.savedir)
    )
    of_seeds = sorted(place.glob("seed-*/config.json"))
    found = place / "config.json" if (place / "config.json").exists() else of_seeds[0] if of_seeds else None
    if found is None:
        return None
    config = from_plain(Run.open(found.parent).config)
    return config if found.parent == place else dataclasses.replace(config, seed=0, savedir=place.name)


def _chosen(given: Mapping[str, str | None]) -> dict[str, Any]:
    """What was said, as what decides a preset; switches decide nothing."""
    return {name: value for name, value in given.items() if value is not None and name not in ("set", "config")}


def _spelled(words: Sequence[str]) -> tuple[list[str], Pairs]:
    """The words with every flag as the dataclasses spell it, and the flags with the first value of each."""
    said: list[str] = []
    pairs: Pairs = []
    for word in words:
        flag, equals, value = word.partition("=")
        if not flag.startswith("--") or flag == "--help":
            said.append(word)
            if pairs and pairs[-1][1] is None and not word.startswith("-"):
                pairs[-1] = (pairs[-1][0], word)
            continue
        flag, *rest = SPELLINGS.get(flag.replace("_", "-"), [flag.replace("_", "-")])
        value = rest[0] if rest else value
        said += [flag, *([value] if equals or rest else [])]
        pairs.append((flag.removeprefix("--"), value if equals or rest else None))
    return said, pairs


def _assignments(pairs: Pairs) -> dict[str, str]:
    """What `--set a.b=1` says."""
    found = {}
    for name, text in pairs:
        if name == "set":
            setting, equals, value = (text or "").partition("=")
            if not equals:
                raise UserError(f"--set {text} sets nothing.", "--set NAME=VALUE, such as --set lr=1e-3")
            found[setting.strip().replace("-", "_")] = value.strip()
    return found


def _without(words: Sequence[str], *flags: str) -> list[str]:
    """The words without some flags and their values."""
    kept: list[str] = []
    skip = False
    for word in words:
        if not skip and word not in flags:
            kept.append(word)
        skip = not skip and word in flags
    return kept


def _check(verb: str, pairs: Pairs, known: Iterable[str]) -> None:
    flags = {f"--{name.replace('_', '-')}" for name in known}
    for name, _ in pairs:
        if name in GONE:
            raise UserError(*GONE[name])
        if f"--{name}" not in flags and f"--{name.removeprefix('no-')}" not in flags:
            raise unknown_name("flag", f"--{name}", flags, f"python main.py {verb} --help")


def _check_choices(verb: str, config: Any, given: Mapping[str, str | None]) -> None:
    """Suggest the nearest choice where a flag has a few; all else about values is for their types to say."""
    hints = typing.get_type_hints(config.__class__)
    for f in fields(config):
        value, said = getattr(config, f.name), given.get(f.name)
        if is_dataclass(value):
            _check_choices(verb, value, given)
        known = [choice for option in (hints[f.name], *typing.get_args(hints[f.name])) for choice in _literals(option)]
        if known and said is not None and said not in map(str, known):
            raise unknown_name(f.name.replace("_", " "), said, map(str, known), f"python main.py {verb} --help")


def _literals(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def flag_names(config: Any) -> set[str]:
    """Names of all flags of settings, nested ones included."""
    found: set[str] = set()
    for f in fields(config):
        value = getattr(config, f.name)
        found |= flag_names(value) if is_dataclass(value) else {f.name}
    return found


def _parse(default: Any, words: Sequence[str], prog: str) -> Any:
    """Settings of the kind of `default`, changed by the words."""
    kind, values = type(default), {f.name: getattr(default, f.name) for f in fields(default)}
    nested = {name: _with_flags(value) for name, value in values.items() if is_dataclass(value)}
    groups = [(name, type(value)) for name, value in nested.items()]
    flags = dataclasses.make_dataclass(kind.__name__, groups, bases=(kind,), frozen=True, kw_only=True)
    start = flags(**(values | nested))
    found = tyro.cli(flags, args=list(words), default=start, prog=prog, config=(tyro.conf.AvoidSubcommands,))
    said = {f.name: getattr(found, f.name) for f in fields(found)}
    return kind(**(said | {name: _without_flags(said[name]) for name in nested}))


@cache
def _flags_of(kind: type) -> type:
    """A dataclass of settings whose flags have no prefix, whatever it is nested in; groups within it keep theirs.

    A group without a name would do that, too, but its flags would be lost among the others in the help.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    whole, part = tyro.conf.arg(name="", prefix_name=False), tyro.conf.arg(prefix_name=False)
    marked = [(f.name, Annotated[hints[f.name], whole if is_flattened(hints[f.name]) else part]) for f in fields(kind)]
    return dataclasses.make_dataclass(kind.__name__, marked, bases=(kind,), frozen=True, kw_only=True)


def _with_flags(config: Any) -> Any:
    return _flags_of(config.__class__)(**{f.name: getattr(config, f.name) for f in fields(config)})


def _without_flags(config: Any) -> Any:
    kind = type(config).__mro__[1]
    return kind(**{f.name: getattr(config, f.name) for f in fields(kind)})
