"""What a controller and a teacher say of the steps that a person is asked about, fetched before it is needed."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.data.recording import Recording
from preceptor.agent.labelling.background import Background, Place
from preceptor.agent.teaching import Labeller
from preceptor.ground.errors import UserError

_AT_ONCE = 16  # steps that are asked about in one go: few, so that the question on the page never waits long
_PATIENCE = 2.0  # seconds in which a model that is being asked may still reply when the page is closed


class Opinions:
    """Asks labellers, the first ones first, in a thread of its own: a language model takes its time."""

    def __init__(self, recording: Recording, labellers: Mapping[str, Labeller]) -> None:
        self.names = tuple(labellers)
        self.trouble: str | None = None  # why one of them says nothing any more
        self._recording, self._labellers = recording, dict(labellers)
        self._known: dict[str, dict[Place, NDArray[np.float32]]] = {name: {} for name in labellers}
        self._wanted: dict[Place, None] = {}
        self._thread = Background("opinions", _PATIENCE)
        self.close = self._thread.close

    def want(self, places: Sequence[Place]) -> None:
        """Say which steps the person will be asked about, the next one first; what was wanted before comes later."""
        self._wanted = dict.fromkeys((*places, *self._wanted))
        self._thread.submit(self._ask)

    def of(self, place: Place) -> dict[str, list[float] | None]:
        """What each says of a step: probabilities of the options, nothing for an abstention, None if not known yet."""
        known = {name: rows.get(place) for name, rows in self._known.items()}
        said = {name: row for name, row in known.items() if row is not None or name in self._labellers}
        return {name: None if row is None else row.round(3).tolist() if row.any() else [] for name, row in said.items()}

    def options(self, name: str, places: Sequence[Place], patience: float = 1.0) -> dict[Place, int]:
        """The likeliest option of each step of which this is known after so many seconds; the others are asked about
        when there is time."""
        known = self._known[name]
        if name in self._labellers and not known.keys() >= set(places):
            self._wanted = dict.fromkeys((*self._wanted, *places))
            self._thread.submit(self._ask).wait(patience)
        return {place: int(known[place].argmax()) for place in places if place in known and known[place].any()}

    def _ask(self) -> None:
        """Ask until nothing is wanted any more."""
        while not self._thread.closing and (job := self._due()):
            name, places = job
            trajectories, steps = map(list, zip(*places, strict=True))
            try:
                probs, _ = self._labellers[name].label(
                    self._recording.obs[trajectories, steps], np.zeros(len(places), np.int64)
                )
                self._known[name] |= zip(places, probs, strict=True)
            except UserError as error:
                self.trouble = f"The {name} says nothing any more. {error}"
                del self._labellers[name]

    def _due(self) -> tuple[str, list[Place]] | None:
        for name in self._labellers:
            if lacking := [place for place in self._wanted if place not in self._known[name]]:
                return name, lacking[:_AT_ONCE]
        return None
