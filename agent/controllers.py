"""Distilled controllers that lie in runs: the one that is named, and the newest of a task."""

from collections.abc import Iterable
from pathlib import Path

from preceptor.agent.runs.run import Run
from preceptor.controller.checkpoint import DESCRIPTION, load_controller
from preceptor.controller.roles import Controller
from preceptor.envs.task import Task


def named_controller(name: str, logdir: str, task: Task) -> Controller:
    """The controller in a folder, or of a run. Raises `UserError` if there is none, or it is of another task."""
    folder = Path(name)
    if not (folder / DESCRIPTION).exists():
        folder = Run.find(logdir, None, task.name, name).controller
    return load_controller(folder, task)


def newest_controller(runs: Iterable[Run], task: Task) -> Controller | None:
    """The controller that was written last in some runs of a task, if any of them holds one."""
    folders = [run.controller for run in runs if run.controller.exists()]
    return load_controller(max(folders, key=lambda path: path.stat().st_mtime), task) if folders else None
