"""Settings of a run: what can be said on the command line, in a file or in Python, checked, and recorded as resolved.

A run's settings are the flags that all methods share, those of the teacher, and the method's own. The preset of method
and task is where they begin; what is said changes it; the result is saved whole, and a checkpoint is rebuilt from that.
"""

import dataclasses
import difflib
import json
import math
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache, reduce
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, cast

import tyro
from annotated_types import Ge

from preceptor.agent.grid_config import GridConfig, first_of
from preceptor.agent.runs.settings import FREE_SETTINGS, check_same, dotted, without_passwords
from preceptor.ground.errors import UserError, unknown_name
from preceptor.ground.ranges import Count, CountOrNone, LevelsOrNone, Seeds, Threads
from preceptor.ground.sealed import plain_text
from preceptor.teacher.config import TeacherConfig

_LARGEST = 2**53  # of whole numbers: JSON elsewhere holds no more, and no memory or time does
_LONGEST_SHOWN = 100  # characters of a value that is refused
_SPACES = str.maketrans("\n\t", "  ")  # which may stand in text
SUPPRESSED, POSITIONAL = (mark[int].__metadata__[0] for mark in (tyro.conf.Suppress, tyro.conf.Positional))


@dataclass(frozen=True)
class TrainConfig:
    """Teach an agent a task: a teacher labels scenes, a controller is distilled from the labels, PPO improves both.
    Made by `configure`, which resolves the preset."""

    method: str = "ihac"
    """One that the verb `methods` lists. --help shows the settings of the --method that is named."""
    task: str = "SimpleDoorKey"
    """One that the verb `tasks` lists, or a variant of a grid task, as `KeyInBox:rooms=12-14`; `module:Name` of your
    own; any MiniGrid environment by its id; or any Gymnasium id with vectors for observations and actions, such as
    HalfCheetah-v5."""
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
    seeds: Seeds = ()
    """Several training seeds, or A:B (B not included), one after another, into SAVEDIR/seed-0 and so on."""
    controller: str | None = None
    """Run, or folder, of a distilled controller to start from; a new one is distilled if not given."""
    teacher_flaw: Literal["lava", "colours"] | None = None
    """Cripple teacher and skills: lava (they do not see it) or colours (key options swapped on 30% of levels)."""
    eval_episodes: LevelsOrNone = 100
    """Held-out levels on which the finished student is judged; 0 for none."""
    eval_every: Count | None = None
    """Judge it so on the way as well, each time that so many environment steps have passed: a learning curve."""
    threads: Threads = 1
    """Threads of torch, and of mazes, kitchens or robots side by side. Sums are rounded otherwise on another number, so
    that a run repeats to the bit on the same."""
    device: str = "auto"
    """Where networks are: cpu, cuda, cuda:1 and so on, or auto: the GPU where there is one. hiro's small networks are
    faster on the processor, and there alone a run repeats to the bit."""
    graphs: bool = False
    """On a GPU, record all of --on-gpu, and gradient steps of PPO, SAC, TD3, distillation and EM, as CUDA graphs; never
    tried on one."""
    quiet: bool = False
    """No progress display."""
    json: bool = False
    """Print one line of JSON on stdout and everything else on stderr."""
    debug: bool = False
    """Show tracebacks."""
    grid: GridConfig = field(default_factory=GridConfig)
    """Many runs as one command."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """The teacher, and how it is asked."""
    settings: Any = None
    """The method's own settings."""

    @property
    def needs_controller(self) -> bool:
        """Whether there must be a distilled controller before the run begins."""
        return bool(getattr(self.settings, "needs_controller", False))

    @property
    def total(self) -> int:
        """Where the x-axis ends: the steps, and what a method plays after its gradient steps."""
        return self.steps + int(getattr(self.settings, "online_steps", 0))


_SHARED = [f.name for f in fields(TrainConfig) if f.name not in ("grid", "teacher", "settings")]


class Place(NamedTuple):
    """Where a setting is in the nested settings, and what it may be: its type with marks, and without."""

    path: tuple[str, ...]
    hint: Any

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The type, and those that it is a union of."""
        bare = typing.get_args(self.hint)[0] if typing.get_origin(self.hint) is Annotated else self.hint
        return (bare, *typing.get_args(bare))

    @property
    def choices(self) -> list[str]:
        """The few values that there are; none where there are many."""
        return [str(c) for kind in self.kinds if typing.get_origin(kind) is Literal for c in typing.get_args(kind)]

    @property
    def many(self) -> bool:
        """Whether it is a list."""
        return any(typing.get_origin(kind) is tuple for kind in self.kinds)

    @property
    def marks(self) -> tuple[Any, ...]:
        """What tyro and pydantic are told of it."""
        return getattr(self.hint, "__metadata__", ())

    @property
    def flattened(self) -> bool:
        """Whether it is a group whose flags have no prefix."""
        return len(self.path) == 1 or any(getattr(m, "name", None) == "" for m in self.marks)


@cache
def places(kind: type, settings: type | None = None) -> dict[str, Place]:
    """Every setting by the name of its flag, of the verb with settings of this kind; of `train`, with the method's."""
    found: dict[str, Place] = {}

    def add(kind: type, prefix: str, path: tuple[str, ...]) -> None:
        hints = typing.get_type_hints(kind, include_extras=True)
        for f in fields(kind):  # type: ignore[arg-type]
            place = Place((*path, f.name), hints[f.name])
            groups: list[Any] = (
                [settings] if place.hint is Any and settings else list(filter(is_dataclass, place.kinds))
            )
            for group in groups:
                add(group, prefix if place.flattened else f"{prefix}{f.name}.", place.path)
            if not groups and place.hint is not Any and SUPPRESSED not in place.marks:
                found.setdefault(f"{prefix}{f.name}", place)

    add(kind, "", ())
    return found


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
    words = {**first_of(words), **words}
    return changed(preset(words), words)


def preset(words: Mapping[str, Any]) -> TrainConfig:
    """The settings that a run begins with, of what decides them in `words`: method, task, preset, steps, teacher, and
    the method's own choices between kinds. Raises `UserError` for unknown names."""
    from preceptor.agent.methods import entry_of
    from preceptor.agent.methods.protocol import Given
    from preceptor.agent.runs.carried import task_of

    where = places(TrainConfig)
    said = {name: as_said(name, value, where[name]) for name, value in words.items() if name in where}
    size, method, flaw = said.get("preset", "small"), str(said.get("method", "ihac")), said.get("teacher_flaw")
    entry, logdir = entry_of(method), str(said.get("logdir", TrainConfig.logdir))
    task = task_of(str(said.get("task", TrainConfig.task)), logdir, flaw)
    if entry.needs_options and len(task.options) == 1:
        what = f"{task.name} has one option, to act, so {method} has nothing to choose among."
        raise UserError(what, f"python main.py train --method ppo --task {task.source}")
    steps = validated(CountOrNone | None, said.get("steps"), where, "steps") or None
    found = entry.preset(Given(task, size, steps, said.get("teacher", "local") != "none", flaw, dict(words)))
    start = TrainConfig(method, task.source, size)
    return replace(start, steps=found.steps, num_envs=found.num_envs, settings=found.settings)


def changed(config: TrainConfig, words: Mapping[str, Any]) -> TrainConfig:
    """The settings with what is said of them, checked. Raises `UserError` as `configure`."""
    kind: Any = type(config.settings)
    where = places(TrainConfig, kind)
    for name in words.keys() - where.keys():
        close = difflib.get_close_matches(name, where, n=1, cutoff=0.5)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        again = f"python main.py train --method {config.method} --help"
        raise UserError(f"{config.method} has no setting {name!r}.{hint}", again)
    said = {name: value for name, value in words.items() if name != "task"}  # that was resolved with the preset
    grid = {f.name: getattr(config.grid, f.name) for f in fields(GridConfig)}
    found = from_plain(with_said(to_plain(config) | {"grid": grid}, said, where))
    for name, value in said.items():
        _check_kind(found, name, value, where[name].path)
    return replace(found, grid=replace(found.grid, said={**config.grid.said, **words}))


def _check_kind(config: TrainConfig, name: str, value: Any, path: Sequence[str]) -> None:
    """Raises `UserError` for a setting of another kind of learner than the one whose settings are there."""
    own: Any = reduce(getattr, path[:-1], config)
    if hasattr(own, path[-1]):
        return
    *above, level, last = path
    kinds = Place((), typing.get_type_hints(type(reduce(getattr, above, config)))[level]).kinds
    other = next(kind.kind for kind in kinds if last in getattr(kind, "__dataclass_fields__", ()))
    flag, chooses = f"--{name.replace('_', '-')}", f"--{level}-learner"
    again = f"python main.py train --method {config.method} --task {config.task} {chooses} {other} --set {name}={value}"
    raise UserError(f"{flag} is a setting of {other}, and {chooses} is {own.kind}.", again)


def continued(config: TrainConfig, run: Path) -> TrainConfig:
    """The settings with which training goes on in a run directory, if it is to be resumed and there is one.

    A setting that the run was started without, since the program had none, is the default of its field, which is what
    the program did then, and not what a preset says today; unless another value is said.

    Raises:
        UserError: The run was started with other settings.
    """
    from preceptor.agent.runs.run import Run

    if not config.resume or not (run / "config.json").exists():
        return config
    saved = Run.open(run).config
    check_same(run, saved, without_passwords(to_plain(config)))
    before = to_plain(from_plain(saved))
    values, said = dotted(before), config.grid.said
    new, kind = values.keys() - dotted(saved).keys() - FREE_SETTINGS, cast(Any, type(config.settings))
    paths = {name: ".".join(path) for name, (path, _) in places(TrainConfig, kind).items()}
    unsaid = {name: values[path] for name, path in paths.items() if path in new and name not in said}
    goes_on = replace(changed(config, unsaid), grid=config.grid)
    check_same(run, before, without_passwords(to_plain(goes_on)))
    return goes_on


def with_said(tree: dict[str, Any], words: Mapping[str, Any], where: Mapping[str, Place], verb: str = "train") -> Any:
    """Settings as JSON holds them, changed in place by what is said of them."""
    for name, value in words.items():
        *parents, last = where[name].path
        node = tree
        for parent in parents:
            node = node[parent]
        node[last] = as_said(name, value, where[name], verb)
    return tree


def as_said(name: str, value: Any, place: Place, verb: str = "train") -> Any:
    """A value, where it is text with None and lists read. Raises `UserError` if it is none of the few that there are,
    with the nearest one suggested; all else about values is for their types to say."""
    if value == "None" and NoneType in place.kinds:
        return None
    if isinstance(value, str) and place.choices and value not in place.choices:
        raise unknown_name(name.replace("_", " "), value, place.choices, f"python main.py {verb} --help")
    if place.many and isinstance(value, str):
        return [part for part in re.split(r"[\s,\[\]()]+", value) if part]
    return [value] if place.many and not isinstance(value, list | tuple) else value


def assignment(text: str) -> tuple[str, str]:
    """The name and the value of `--set a.b=1`. Raises `UserError` if it has none."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set {text} sets nothing.", "--set NAME=VALUE, such as --set lr=1e-3")
    return name.strip().replace("-", "_"), value.strip()


def from_file(path: str) -> dict[str, Any]:
    """What a TOML or YAML file says, by dotted names; tables called `teacher` and `settings` need no name.

    Raises:
        UserError: It cannot be read.
    """
    import tomllib

    import yaml

    source = Path(path)
    if source.suffix not in (".toml", ".yaml", ".yml"):
        raise UserError(f"--config {path} is neither TOML nor YAML by its name.", "a file ending in .toml or .yaml")
    try:
        text = plain_text(source.read_bytes(), path).decode()
        tree = tomllib.loads(text) if source.suffix == ".toml" else yaml.safe_load(text)
    except (OSError, RecursionError, ValueError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"--config {path} cannot be read: {reason}.", f"ls -l {path}") from error
    if not isinstance(tree, dict):
        raise UserError(f"--config {path} holds no settings.", "lines such as: lr = 1e-3")
    return {re.sub(r"^(teacher|settings)\.", "", name).replace("-", "_"): value for name, value in dotted(tree).items()}


def to_plain(config: Any) -> dict[str, Any]:
    """Settings as JSON holds them; of a run, without the grid that it is a trial of."""
    tree = {name: value for name, value in dataclasses.asdict(config).items() if name != "grid"}
    plain: dict[str, Any] = json.loads(json.dumps(tree))
    return plain


def from_plain(tree: Mapping[str, Any]) -> TrainConfig:
    """Settings from what `to_plain` gave, by the types of their fields.

    Raises:
        UserError: A value is of the wrong type or out of range.
    """
    from preceptor.agent.methods import entry_of

    kinds = entry_of(tree["method"]).settings
    own = tree["settings"] or {}
    # The nearest one, since a run of another version may have settings that none has now.
    kind = max(kinds, key=lambda kind: len(own.keys() & {f.name for f in fields(kind)}))
    where = places(TrainConfig, kind)
    settings = validated(kind, own, where, "settings")
    teacher = validated(TeacherConfig, tree["teacher"], where, "teacher")
    grid = validated(GridConfig, tree.get("grid", {}), where, "grid")
    shared = validated(TrainConfig, {name: tree[name] for name in _SHARED if name in tree}, where)
    return replace(shared, grid=grid, teacher=teacher, settings=settings)


def validated(kind: Any, value: Any, where: Mapping[str, Place], *above: str) -> Any:
    """A value as its type has it. Raises `UserError` with the flag of what does not fit.

    Args:
        kind: The type.
        value: Anything.
        where: Every setting.
        *above: Where the value is in the nested settings.
    """
    from pydantic import TypeAdapter, ValidationError

    def refused(place: tuple[Any, ...], given: Any, wanted: str) -> UserError:
        flag = next((name for name, (path, _) in where.items() if _leads(path, place)), ".".join(map(str, place)))
        flag = "--" + flag.replace("_", "-")
        said = repr(given) if len(repr(given)) <= _LONGEST_SHOWN else f"{repr(given)[:_LONGEST_SHOWN]}..."
        return UserError(f"{flag} is {said}, and must be {wanted}.", f"{flag} with another value")

    try:
        found = TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        wanted = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        # Its place names kinds of unions and entries of lists, too.
        raise refused((*above, *first["loc"]), first["input"], wanted) from error
    for path, leaf in _leaves(found):
        if wanted := _what_it_must_be(leaf):
            raise refused((*above, *path), leaf, wanted)
    return found


def _leaves(value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each number and text in settings, with its place."""
    if is_dataclass(value):
        for f in fields(value):
            yield from (((f.name, *path), leaf) for path, leaf in _leaves(getattr(value, f.name)))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield (), value


def _what_it_must_be(leaf: Any) -> str:
    """What a number or a text of any setting must be, whatever its type says; empty if it is."""
    if isinstance(leaf, float) and not math.isfinite(leaf):
        return "a finite number"
    if isinstance(leaf, int) and abs(leaf) > _LARGEST:
        return f"at most {_LARGEST:,}"
    if isinstance(leaf, str) and not leaf.translate(_SPACES).isprintable():
        return "text without control characters"
    return ""


def _leads(path: Sequence[str], place: Sequence[str | int]) -> bool:
    """Whether the parts of a path come in that order in a place."""
    parts = iter(place)
    return all(part in parts for part in path)
