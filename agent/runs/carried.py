"""A task by the name that its runs carry, wherever a name can be said."""

import glob
import json
from contextlib import suppress
from pathlib import Path

from preceptor.envs.catalog import get_task
from preceptor.envs.task import Task
from preceptor.ground.errors import UserError


def task_of(name: str, logdir: str | Path = "log", flaw: str | None = None) -> Task:
    """The task of a name, as `get_task` has it, or the one that runs under `logdir` were started with and named after.

    Raises:
        UserError: There is none, or runs of two tasks carry the name.
    """
    try:
        return get_task(name, flaw)
    except UserError:
        sources = _sources(name, logdir)
        if not sources:
            raise
    first, *more = sorted(sources)
    if more:
        raise UserError(f"Runs of {first} and of {', '.join(more)} carry the name {name}.", f"--task {first}")
    return get_task(first, flaw)


def _sources(name: str, logdir: str | Path) -> set[str]:
    found = set()
    for pattern in ("*", "*/seed-*"):
        for path in Path(logdir).glob(f"*/{glob.escape(name)}/{pattern}/config.json"):
            with suppress(OSError, ValueError, KeyError):  # a damaged one says so elsewhere
                found.add(str(json.loads(path.read_text())["config"]["task"]))
    return found - {name}
