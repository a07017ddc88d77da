"""Work that is done in a thread of its own before a person needs it: a picture, or an opinion."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from ground.errors import UserError

Place = tuple[int, int]  # trajectory, step
Job = TypeVar("Job")


class Background(ABC, Generic[Job]):
    """A thread that looks for the next job and does it. Subclasses guard what they keep by `_change`.

    Attributes:
        trouble: Why something is not done any more; None as long as everything is.
    """

    def __init__(self, name: str) -> None:
        self.trouble: str | None = None
        self._wanted: list[Place] = []
        self._change = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def want(self, places: Sequence[Place]) -> None:
        """Say which steps the person will look at, the next one first; what was wanted before is not."""
        with self._change:
            self._wanted = list(places)
            self._change.notify_all()

    def close(self, patience: float | None = None) -> None:
        """End the thread, which is waited for so many seconds."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        self._thread.join(patience)

    @abstractmethod
    def _job(self) -> Job | None:
        """The next job, if there is one; called with `_change` held."""

    @abstractmethod
    def _do(self, job: Job) -> None:
        """Do it. Raises `UserError` if it cannot be done."""

    def _failed(self, job: Job, error: UserError) -> None:
        """It could not be done; called with `_change` held."""
        self.trouble = str(error)

    def _wait_for(self, there: Callable[[], bool], patience: float) -> None:
        """Wait so many seconds for a condition; called with `_change` held."""
        self._change.notify_all()
        self._change.wait_for(lambda: self._closing or there(), patience)

    def _work(self) -> None:
        while True:
            with self._change:
                while not self._closing and (job := self._job()) is None:
                    self._change.wait()
                if self._closing:
                    return
            assert job is not None
            try:
                self._do(job)
            except UserError as error:
                with self._change:
                    self._failed(job, error)
                    self._change.notify_all()
            except Exception:
                if self._closing:  # what it writes to is closed already
                    return
                raise
