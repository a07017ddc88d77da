"""Where the trials of a grid are trained, behind one protocol: processes here, or a cluster of Ray (`ray_tasks`)."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from preceptor.agent.grid import Trial

Work = Callable[[], str]  # can be sent to another process, and tells why it did not come to its end, or nothing


class Executor(Protocol):
    """Trains trials side by side; none outlives the command.

    Attributes:
        most: Trials that may be started and have not ended.
    """

    most: int

    def start(self, trial: "Trial", work: Work) -> None:
        """Begin to train a trial, by work that may be begun anew: it goes on from the trial's last checkpoint."""

    def ended(self) -> list[tuple["Trial", str]]:
        """Wait for one or more trials to end; each with what stopped it, or nothing."""

    def close(self) -> None:
        """End what runs still."""


class Processes:
    """Processes on this machine, one per trial."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._spawn = multiprocessing.get_context("spawn")
        self._running: dict[Connection, tuple[Trial, Any]] = {}

    def start(self, trial: "Trial", work: Work) -> None:  # noqa: D102
        ours, theirs = self._spawn.Pipe(duplex=False)
        process = self._spawn.Process(target=_in_process, args=(work, theirs))
        process.start()
        theirs.close()  # so that ours ends when the process does, however that happens
        self._running[ours] = trial, process

    def ended(self) -> list[tuple["Trial", str]]:  # noqa: D102
        found = []
        for ours in wait(list(self._running)):
            assert isinstance(ours, Connection)
            trial, process = self._running.pop(ours)
            try:
                why = ours.recv()
            except EOFError:
                process.join()
                why = f"its process was ended from outside (exit code {process.exitcode})"
            process.join()
            found.append((trial, why))
        return found

    def close(self) -> None:  # noqa: D102
        for _, process in self._running.values():
            process.kill()
        for _, process in self._running.values():
            process.join()


def _in_process(work: Work, answer: Connection) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_it() -> None:  # which may be killed, and its trials would hold their folders on
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()
    answer.send(work())
