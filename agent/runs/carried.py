"""A task by the name that its runs carry, wherever a name can be said."""

from pathlib import Path

from preceptor.agent.runs.run import Run
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
        sources = {str(run.config["task"]) for run in Run.all(logdir, task=name)} - {name}
        if not sources:
            raise
    first, *more = sorted(sources)
    if more:
        raise UserError(f"Runs of {first} and of {', '.join(more)} carry the name {name}.", f"--task {first}")
    return get_task(first, flaw)
