"""What a controller and a teacher say of the steps that a person is asked about, fetched before it is needed."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from agent.data.recording import Recording
from agent.labelling.background import Background, Place
from agent.teaching import Labeller
from ground.errors import UserError

_AT_ONCE = 16  # steps that are asked about in one go: few, so that the question on the page never waits long
_PATIENCE = 2.0  # seconds in which a model that is being asked may still reply when the page is closed


class Opinions(Background[tuple[str, list[Place]]]):
    """Asks in a thread of its own, since a language model takes its time.

    Args:
        recording: The demonstrations.
        labellers: Who is asked, by name, the quick ones first; used by this thread alone until `close`.
    """

    def __init__(self, recording: Recording, labellers: Mapping[str, Labeller]) -> None:
        self.names = tuple(labellers)
        self._recording, self._labellers = recording, dict(labellers)
        self._known: dict[str, dict[Place, NDArray[np.float32]]] = {name: {} for name in labellers}
        self._later: dict[Place, None] = {}  # what is compared some time
        super().__init__("opinions")

    def of(self, place: Place) -> dict[str, list[float] | None]:
        """What each says of a step: probabilities of the options, nothing for an abstention, None if not known yet."""
        with self._change:
            known = {name: rows.get(place) for name, rows in self._known.items()}
            said = {name: row for name, row in known.items() if row is not None or name in self._labellers}
        return {name: None if row is None else row.round(3).tolist() if row.any() else [] for name, row in said.items()}

    def options(self, name: str, places: Sequence[Place], patience: float = 1.0) -> dict[Place, int]:
        """The likeliest option of each step of which this is known after so many seconds; the others are asked about
        when there is time."""
        known = self._known[name]
        with self._change:
            self._later |= dict.fromkeys(place for place in places if place not in known)
            self._wait_for(lambda: name not in self._labellers or known.keys() >= set(places), patience)
            return {place: int(known[place].argmax()) for place in places if place in known and known[place].any()}

    def close(self, patience: float | None = _PATIENCE) -> None:
        """End the thread; a model that is being asked is not waited for."""
        super().close(patience)

    def _job(self) -> tuple[str, list[Place]] | None:
        for wanted in (self._wanted, list(self._later)):
            for name in self._labellers:
                if lacking := [place for place in wanted if place not in self._known[name]]:
                    return name, lacking[:_AT_ONCE]
        self._later.clear()
        return None

    def _do(self, job: tuple[str, list[Place]]) -> None:
        name, places = job
        trajectories, steps = map(list, zip(*places, strict=True))
        obs = self._recording.obs[trajectories, steps]
        probs, _ = self._labellers[name].label(obs, np.zeros(len(places), np.int64))
        with self._change:
            self._known[name] |= dict(zip(places, probs, strict=True))
            self._change.notify_all()

    def _failed(self, job: tuple[str, list[Place]], error: UserError) -> None:
        self.trouble = f"The {job[0]} says nothing any more. {error}"
        del self._labellers[job[0]]
