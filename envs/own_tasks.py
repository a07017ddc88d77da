"""Tasks that are not in the catalogue: `module:Name` in a file of the user's, and those that installed packages bring.

A package brings a task by an entry point of the group `preceptor.tasks`: in its pyproject.toml,

    [project.entry-points."preceptor.tasks"]
    Corridor = "corridors.tasks:Corridor"
"""

import difflib
import importlib
import os
import re
import sys
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from typing import Any

import gymnasium as gym

from preceptor.envs.task import OptionSpace, Task, defines
from preceptor.envs.users_code import excused
from preceptor.ground.errors import UserError, unknown_name

GROUP = "preceptor.tasks"
_LIST = "python main.py tasks"
_made: dict[str, tuple[Any, Task]] = {}  # by source: what it named when the task was made, and the task


def installed() -> dict[str, list[EntryPoint]]:
    """The entry points of each name that installed packages have given to a task."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        same = found.setdefault(point.name, [])
        if (point.value, _package(point)) not in [(other.value, _package(other)) for other in same]:
            same.append(point)
    return found


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unknown package"


def installed_task(name: str, points: list[EntryPoint], built_in: bool) -> Task:
    """The task of that name of an installed package. Raises `UserError` if it is not the only one."""
    packages = [*(["preceptor"] if built_in else []), *map(_package, points)]
    if len(packages) > 1:
        what = f"The task {name} is one of {' and one of '.join(packages)}."
        again = f"python -m pip uninstall {packages[-1]}"
        raise UserError(what, again if built_in else f"--task {points[0].value}, or {again}")
    return named_task(points[0].value, source=name)


def named_task(place: str, source: str = "") -> Task:
    """The task at `module:Name`: a subclass of `Task`, an instance, or a function without arguments that makes one.

    Args:
        place: The module is looked up from the current folder, as Python does, then among what is installed.
        source: What the task's runs keep, to make it again; the place if not given.

    Raises:
        UserError: There is no such module or name, one of them raises, or what is there is no task that can be used.
    """
    name = place.partition(":")[2]
    found: Any = module_of(place)
    for part in name.split("."):
        if not hasattr(found, part):
            raise _no_such_name(place)
        found = getattr(found, part)
    source = source or place
    kept = _made.get(source)
    if kept is None or kept[0] is not found:  # in a notebook a class of the same name may have changed
        with excused(place):
            task = found() if callable(found) and not isinstance(found, Task) else found
            _check(task, place)
        task.source = source
        kept = _made[source] = found, task
    return kept[1]


def is_there(place: str) -> bool:
    """Whether the module of `module:Name` has that name. Raises `UserError` as `module_of`."""
    return hasattr(module_of(place), place.partition(":")[2].partition(".")[0])


def module_of(place: str) -> Any:
    """The module of `module:Name`. Raises `UserError` if there is none, or it raises."""
    name = place.partition(":")[0]
    if (here := os.getcwd()) not in sys.path:  # a console script's path lacks it
        sys.path.insert(0, here)
    importlib.invalidate_caches()  # a notebook may have written the file just now
    with excused(name):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not error.name or not f"{name}.".startswith(f"{error.name}."):  # one that it needs itself
                raise
            parent = error.name.rpartition(".")[0]
            folders = sys.modules[parent].__path__ if parent else [here]
            known = [f"{parent}.{module.name}".lstrip(".") for module in iter_modules(folders)]
            close = difflib.get_close_matches(error.name, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            what = f"There is no module {error.name!r} in {here}, nor is one installed.{hint}"
            raise UserError(what, f"{_LIST}  # those that are known; or go to the folder of your file first") from error


def _no_such_name(place: str) -> UserError:
    module, _, name = place.partition(":")
    if module == "__main__":
        what = f"The task {name} was defined in a notebook or script, where no other program finds it."
        return UserError(what, f"put it into a file, such as tasks.py, and train with --task tasks:{name}")
    here = vars(sys.modules[module])
    known = [word for word, found in here.items() if _is_task(found)]
    known += [env_id for env_id, spec in gym.registry.items() if _home(spec.entry_point) == module]
    if not known:
        return UserError(f"{module} has no {name!r}, nor any other task.", _LIST)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    return unknown_name(f"task of {module}", name, known, f"--task {module}:{nearest}")


def _home(entry_point: Any) -> str:
    """The module that a registered environment comes from."""
    return entry_point.partition(":")[0] if isinstance(entry_point, str) else getattr(entry_point, "__module__", "")


def _is_task(found: Any) -> bool:
    if isinstance(found, type):
        return issubclass(found, Task) and not found.__module__.startswith("preceptor.")
    return isinstance(found, Task)


def _check(task: Any, place: str) -> None:
    """Refuse what is no task that could be used. Raises `UserError`."""
    if not isinstance(task, Task):
        kind = task.__name__ if isinstance(task, type) else type(task).__name__
        what = f"{place} gives something of type {kind}, not a preceptor.Task: a subclass, or an instance of one."
        raise UserError(what, f"python -c 'import preceptor; help(preceptor.Task)', or {_LIST}")
    base = next(kind for kind in type(task).__mro__ if "needed" in vars(kind))
    lacks = [member for member in task.needed if not defines(task, member, base)]
    if defines(task, "make_vec") and defines(task, "make_env"):
        lacks = [member for member in lacks if member != "simulator"]
    if lacks:
        what = f"{place} lacks {', '.join(lacks)}, which a {base.__name__} needs."
        raise UserError(what, f"python -c 'import preceptor; help(preceptor.{base.__name__})'")
    if not isinstance(task.options, OptionSpace) or not task.options:
        raise UserError(
            f"{place}: options must be an OptionSpace of at least one Option.", "OptionSpace([Option(...)])"
        )
    if not re.fullmatch(r"[\w+-][\w.+-]{0,99}", task.name):
        raise UserError(f"{place}: {task.name!r} is no name for the folder of a task's runs.", "letters, digits, . + -")
    shape = task.observation_shape
    if len(shape) != 1 and (len(shape) != 3 or shape[-1] != 4):
        what = f"{place}: observations have shape {shape}; networks here read vectors (O,) and maps (W, H, 4)."
        raise UserError(what, "let observe() return a vector of what matters in them")
