"""A thread beside the person who answers: learning, drawing and asking others have one each."""

import threading
import traceback
from collections.abc import Callable
from queue import SimpleQueue

Place = tuple[int, int]  # trajectory, step


class Background:
    """Does what is submitted, one after another. Unlike an executor's thread, it does not keep the process alive."""

    def __init__(self, name: str, patience: float | None = None, last: Callable[[], None] = lambda: None) -> None:
        self.closing = False  # what is being done should come to an end
        self._patience, self._last = patience, last
        self._jobs: SimpleQueue[tuple[Callable[[], None], threading.Event] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], None]) -> threading.Event:
        """Do this when everything before it is done; what is returned is set then."""
        done = threading.Event()
        self._jobs.put((job, done))
        return done

    def close(self) -> None:
        """Do what is done last and end the thread, which is waited for as long as there is patience, in seconds."""
        self.closing = True
        self.submit(self._last)
        self._jobs.put(None)
        self._thread.join(self._patience)

    def _work(self) -> None:
        while (submitted := self._jobs.get()) is not None:
            job, done = submitted
            try:
                job()
            except Exception:
                if not self.closing:  # otherwise what it writes to is closed already
                    traceback.print_exc()
            done.set()
