"""A learner whose gradient steps a GPU may record."""

from abc import ABC, abstractmethod
from typing import Any

from preceptor.agent.resumable import Learner
from preceptor.ground.repeated import Repeated


class RecordedLearner(Learner, ABC):
    """Takes its gradient steps by `_repeated`, which is `_step`."""

    def __init__(self) -> None:
        self._forget()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        super().load_state_dict(state)
        self._forget()

    def _forget(self) -> None:
        """Let go of recorded steps, which are of the memory of what was there before."""
        self._repeated = Repeated(self._step)

    @abstractmethod
    def _step(self, *given: Any) -> Any:
        """A gradient step; what it came to."""
