"""What a controller and a teacher say of the steps that a person is asked about, fetched before it is needed."""

import threading
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from agent.data.recording import Recording
from agent.teaching import Labeller
from ground.errors import UserError

_AT_ONCE = 16  # steps that are asked about in one go: few, so that the question on the page never waits long
_PATIENCE = 2.0  # seconds

Place = tuple[int, int]  # trajectory, step


class Opinions:
    """Asks in a thread of its own, since a language model takes its time.

    Args:
        recording: The demonstrations.
        who: Names and those who label, the quick ones first. Nobody else may use them until `close`.

    Attributes:
        trouble: Why somebody is not asked any more; None as long as all are.
    """

    def __init__(self, recording: Recording, who: Mapping[str, Labeller]) -> None:
        self.names = tuple(who)
        self.trouble: str | None = None
        self._recording, self._who = recording, dict(who)
        self._known: dict[str, dict[Place, NDArray[np.float32]]] = {name: {} for name in who}
        self._next: list[Place] = []  # what the person will see
        self._later: dict[Place, None] = {}  # what is compared some time
        self._change = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="opinions", daemon=True)
        self._thread.start()

    def want(self, places: Sequence[Place]) -> None:
        """Say which steps the person will be asked about, the next one first; what was wanted before is not."""
        with self._change:
            self._next = list(places)
            self._change.notify_all()

    def of(self, place: Place) -> dict[str, list[float] | None]:
        """What each says of a step: probabilities of the options, nothing for an abstention, None if not known yet."""
        with self._change:
            told = {
                name: known.get(place) for name, known in self._known.items() if name in self._who or place in known
            }
        return {name: None if row is None else row.round(3).tolist() if row.any() else [] for name, row in told.items()}

    def options(self, name: str, places: Sequence[Place], patience: float = 1.0) -> dict[Place, int]:
        """The likeliest option of each step of which this is known after so many seconds; the others are asked about
        when there is time."""
        known = self._known[name]
        with self._change:
            self._later |= dict.fromkeys(place for place in places if place not in known)
            self._change.notify_all()
            self._change.wait_for(
                lambda: self._closing or name not in self._who or known.keys() >= set(places), patience
            )
            return {place: int(known[place].argmax()) for place in places if place in known and known[place].any()}

    def close(self) -> None:
        """End the thread; a model that is being asked is not waited for."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        self._thread.join(_PATIENCE)

    def _work(self) -> None:
        while (job := self._job()) is not None:
            name, places = job
            obs = self._recording.obs[[n for n, _ in places], [t for _, t in places]]
            try:
                probs, _ = self._who[name].label(obs, np.zeros(len(places), np.int64))
            except UserError as error:
                with self._change:
                    self.trouble = f"The {name} says nothing any more. {error}"
                    del self._who[name]
                    self._change.notify_all()
                continue
            except Exception:
                if self._closing:  # what it writes to is closed already
                    return
                raise
            with self._change:
                self._known[name] |= dict(zip(places, probs, strict=True))
                self._change.notify_all()

    def _job(self) -> tuple[str, list[Place]] | None:
        """Somebody, and what to ask; waits for something. None at the end."""
        with self._change:
            while not self._closing:
                for wanted in (self._next, list(self._later)):
                    for name in self._who:
                        lacking = [place for place in wanted if place not in self._known[name]]
                        if lacking:
                            return name, lacking[:_AT_ONCE]
                self._later.clear()
                self._change.wait()
            return None
