"""Settings of a run: what can be said on the command line, in a file or in Python, checked, and recorded as resolved.

A run's settings are the flags that all methods share, those of the teacher, and the method's own. The preset of method
and task is where they begin; what is said changes it; the result is saved whole, and a checkpoint is rebuilt from that.
"""

import dataclasses
import difflib
import json
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from ground.errors import UserError, unknown_name
from ground.ranges import Count, CountOrNone
from teacher.config import TeacherConfig


@dataclass(frozen=True)
class TrainConfig:
    """Teach an agent a task: a teacher labels scenes, a controller is distilled from the labels, PPO improves both.
    Made by `configure`, which resolves the preset."""

    method: str = "ihac"
    """One of `python main.py methods`. --help shows the settings of the --method that is named."""
    task: str = "SimpleDoorKey"
    """One of `python main.py tasks`; any MiniGrid environment by its id; or any Gymnasium id with vectors for
    observations and actions, such as HalfCheetah-v5."""
    preset: Literal["tiny", "small", "paper"] = "small"
    """tiny (a minute, to try things), small, or paper: where the settings of a method on a task begin."""
    savedir: str = "run"
    """Name of the run, which goes to LOGDIR/METHOD/TASK/SAVEDIR."""
    logdir: str = "log"
    """Where runs live."""
    resume: bool = False
    """Continue the run of that name, to the bit; --steps may have grown."""
    steps: CountOrNone = 0
    """Environment steps in all, demonstrations included."""
    num_envs: CountOrNone = 0
    """Environments side by side."""
    seed: Annotated[int, Ge(0)] = 0
    """Training seed: networks, actions, training levels, label noise."""
    seeds: tuple[CountOrNone, ...] = ()
    """Several training seeds, one after another, into SAVEDIR/seed-0 and so on."""
    controller: str | None = None
    """Run, or folder, of a distilled controller to start from; a new one is distilled if not given."""
    teacher_flaw: Literal["lava", "colours"] | None = None
    """Cripple teacher and skills: lava (they do not see it) or colours (key options swapped on 30% of levels)."""
    eval_episodes: CountOrNone = 100
    """Held-out levels on which the finished student is judged; 0 for none."""
    eval_every: Count | None = None
    """Judge it so on the way as well, each time that so many environment steps have passed: a learning curve."""
    threads: Count = 1
    """Threads of torch."""
    device: str = "auto"
    """Where networks are: cpu, cuda, cuda:1 and so on, or auto: the GPU where there is one. hiro's small networks are
    faster on the processor, and there alone a run repeats to the bit."""
    quiet: bool = False
    """No progress display."""
    json: bool = False
    """Print one line of JSON on stdout and everything else on stderr."""
    debug: bool = False
    """Show tracebacks."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """The teacher, and how it is asked."""
    settings: Any = None
    """The method's own settings."""

    @property
    def needs_controller(self) -> bool:
        """Whether there must be a distilled controller before the run begins."""
        return bool(getattr(self.settings, "needs_controller", False))


_SHARED = [f.name for f in fields(TrainConfig) if f.name not in ("teacher", "settings")]
_TEACHER = [f.name for f in fields(TeacherConfig)]


def configure(said: Mapping[str, Any] | None = None, **more: Any) -> TrainConfig:
    """The settings of a run: the preset of its method and task, changed by what is said.

    Args:
        said: Values by name: a shared flag (`task`), one of the teacher (`label_noise`), or one of the method, dotted
            where it is nested (`low.lr`). Text is read as the field's type.
        **more: Likewise.

    Raises:
        UserError: An unknown name (the nearest is suggested), or a value of the wrong type or out of range.
    """
    words = {name.replace("-", "_"): value for name, value in {**(said or {}), **more}.items()}
    return changed(preset(words), words)


def preset(words: Mapping[str, Any]) -> TrainConfig:
    """The settings that a run begins with, of what decides them in `words`: method, task, preset, steps, teacher, and
    the method's own choices between kinds. Raises `UserError` for unknown names."""
    from agent.methods import entry_of
    from agent.methods.protocol import Given
    from envs.catalog import get_task

    size = str(words.get("preset", "small"))
    if size not in (sizes := typing.get_args(typing.get_type_hints(TrainConfig)["preset"])):
        raise unknown_name("preset", size, sizes, f"--preset {sizes[1]}")
    method, flaw = str(words.get("method", "ihac")), words.get("teacher_flaw")
    entry, task = entry_of(method), get_task(str(words.get("task", TrainConfig.task)), flaw)
    steps = validated(CountOrNone | None, words.get("steps"), "steps") or None
    taught = words.get("teacher", "local") != "none"
    found = entry.preset(Given(task, size, steps, taught, flaw, dict(words)))
    start = TrainConfig(method, task.name, size)  # type: ignore[arg-type]
    return replace(start, steps=found.steps, num_envs=found.num_envs, settings=found.settings)


def changed(config: TrainConfig, words: Mapping[str, Any]) -> TrainConfig:
    """The settings with what is said of them, checked. Raises `UserError` as `configure`."""
    where = paths(config.settings.__class__)
    tree = to_plain(config)
    for name, value in words.items():
        if name == "task":
            continue  # resolved with the preset
        path = where.get(name)
        if path is None:
            raise unknown_setting(name, where, config.method)
        *parents, last = path
        node = tree
        for parent in parents:
            node = node[parent]
        if isinstance(value, str) and isinstance(node.get(last), list):
            value = [part for part in re.split(r"[\s,\[\]()]+", value) if part]
        node[last] = value if not isinstance(node.get(last), list) or isinstance(value, list | tuple) else [value]
    return from_plain(tree)


def unknown_setting(name: str, known: Iterable[str], method: str) -> UserError:
    """The error for a setting that there is not, with the nearest one suggested."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UserError(f"{method} has no setting {name!r}.{hint}", f"python main.py train --method {method} --help")


def from_file(path: str) -> dict[str, Any]:
    """What a TOML or YAML file says, by dotted names. Raises `UserError` if it cannot be read."""
    source = Path(path)
    try:
        if source.suffix == ".toml":
            import tomllib

            tree = tomllib.loads(source.read_text())
        elif source.suffix in (".yaml", ".yml"):
            import yaml

            tree = yaml.safe_load(source.read_text())
        else:
            raise UserError(f"--config {path} is neither TOML nor YAML by its name.", "a file ending in .toml or .yaml")
    except (OSError, ValueError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"--config {path} cannot be read: {reason}.", f"ls -l {path}") from error
    except Exception as error:  # a YAML error is no ValueError
        raise UserError(f"--config {path} cannot be read: {error}".splitlines()[0], f"ls -l {path}") from error
    if not isinstance(tree, dict):
        raise UserError(f"--config {path} holds no settings.", "lines such as: lr = 1e-3")
    return flat(tree)


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings by dotted names; tables called `teacher` and `settings` need no name."""
    out: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            prefix = "" if name in ("teacher", "settings") else f"{name}."
            out |= {f"{prefix}{inner}": setting for inner, setting in flat(value).items()}
        else:
            out[name.replace("-", "_")] = value
    return out


@cache
def paths(settings: type) -> dict[str, tuple[str, ...]]:
    """Every setting by the name of its flag -> where it is in the nested settings."""
    found: dict[str, tuple[str, ...]] = {name: (name,) for name in _SHARED}
    found |= {name: ("teacher", name) for name in _TEACHER}

    def add(kind: Any, prefix: str, path: tuple[str, ...]) -> None:
        hints = typing.get_type_hints(kind, include_extras=True)
        for f in fields(kind):
            options = [option for option in _options(hints[f.name]) if is_dataclass(option)]
            inner = prefix if is_flattened(hints[f.name]) else f"{prefix}{f.name}."
            for option in options:
                add(option, inner, (*path, f.name))
            if not options:
                found.setdefault(f"{prefix}{f.name}", (*path, f.name))

    add(settings, "", ("settings",))
    return found


def _options(hint: Any) -> tuple[Any, ...]:
    """The kinds of a field: one, or those of a union."""
    bare = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    return typing.get_args(bare) or (bare,)


def is_flattened(hint: Any) -> bool:
    """Whether a nested group of settings has flags without a prefix: `tyro.conf.arg(name="")`."""
    return any(getattr(mark, "name", None) == "" for mark in getattr(hint, "__metadata__", ()))


def to_plain(config: Any) -> dict[str, Any]:
    """Settings as JSON holds them."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def from_plain(tree: Mapping[str, Any]) -> TrainConfig:
    """Settings from what `to_plain` gave, by the types of their fields.

    Raises:
        UserError: A value is of the wrong type or out of range.
    """
    from agent.methods import entry_of

    kinds = entry_of(tree["method"]).settings
    own = tree["settings"] or {}
    kind = next((kind for kind in kinds if own.keys() <= {f.name for f in fields(kind)}), kinds[0])
    settings = validated(kind, own, "")
    teacher = validated(TeacherConfig, tree["teacher"], "")
    shared = validated(TrainConfig, {name: tree[name] for name in _SHARED if name in tree}, "")
    return replace(shared, teacher=teacher, settings=settings)


def validated(kind: Any, value: Any, name: str) -> Any:
    """A value as its type has it. Raises `UserError` with the name of what does not fit."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        flag = "--" + (_setting_at(kind, first["loc"]) or name).replace("_", "-")
        wanted = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        raise UserError(f"{flag} is {first['input']!r}, and must be {wanted}.", f"{flag} with another value") from error


def _setting_at(kind: Any, place: Sequence[str | int]) -> str:
    """The setting that an error is about, as its flag has it; its place also names kinds of unions and list entries."""

    def leads_there(path: Sequence[str]) -> bool:
        parts = iter(place)
        return all(part in parts for part in path)

    known = paths(kind).items() if isinstance(kind, type) and is_dataclass(kind) else ()
    found = (name for name, (group, *path) in known if group == "settings" and leads_there(path))
    return next(found, ".".join(map(str, place)))
