"""Trials as tasks of a cluster of Ray. Ray is imported here alone, and only when `--ray` is said.

Tasks, and not Ray Tune: checkpoints, results and early stopping are files of the runs already, and Tune would keep all
of them a second time. What Ray adds is what a task has: a place where there is room, and another one if that is lost.
"""

import logging
import os
from typing import TYPE_CHECKING, Any

from preceptor.agent.executors import Work
from preceptor.ground.errors import UserError

if TYPE_CHECKING:
    from preceptor.agent.grid import Trial

RAY = "ray==2.60.0"
_NODES_LOST = 3  # under one trial; one that brings down each machine that it comes to is given up


class RayTasks:
    """A cluster whose nodes have this environment, this folder and the runs at the same paths.

    Args:
        address: Of its head; None for the one that runs here, or, where there is none, one of this machine's cores.
        most: Trials that are given to it at a time.

    Raises:
        UserError: Ray is not installed, or the cluster does not answer.
    """

    def __init__(self, address: str | None, most: int) -> None:
        self.most = most
        self._running: dict[Any, Trial] = {}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that begins here tells nobody of itself
        try:
            import ray
        except ImportError as error:
            raise UserError("Ray is not installed.", f'pip install "{RAY}"') from error
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            what = f"No cluster of Ray was found at {address or 'this machine'}: {error}".rstrip(".") + "."
            raise UserError(what, "ray status  # on its head; --ray without an address begins one here") from error
        self._ray = ray

    def start(self, trial: "Trial", work: Work) -> None:  # noqa: D102
        task = self._ray.remote(_on_a_node).options(
            num_cpus=trial.config.threads,
            num_gpus=int(trial.config.device.startswith("cuda")),
            max_retries=_NODES_LOST,
            name=trial.label,
        )
        self._running[task.remote(work, os.getcwd())] = trial

    def ended(self) -> list[tuple["Trial", str]]:  # noqa: D102
        found = []
        for task in self._ray.wait(list(self._running), num_returns=1)[0]:
            try:
                why = str(self._ray.get(task))
            except self._ray.exceptions.RayError as error:
                why = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            found.append((self._running.pop(task), why))
        return found

    def close(self) -> None:  # noqa: D102
        self._ray.shutdown()  # ends the tasks of this command, too


def _on_a_node(work: Work, folder: str) -> str:
    os.chdir(folder)  # paths of runs are relative to it
    return work()
