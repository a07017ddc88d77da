"""What an exact resume needs of an object: the parts that it names, saved and restored in one way."""

from collections.abc import Iterable, Mapping
from operator import attrgetter
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

Places = Mapping[str, str | tuple[str, ...]]  # name in the saved tree -> attribute, or several


def places(*names: str, **others: str | tuple[str, ...]) -> Places:
    """Attributes that are saved under their own names, and others."""
    return MappingProxyType({name: name for name in names} | others)


class Resumable:
    """Saves and restores the attributes that `saved` names.

    A part with a state of its own is restored in place: networks, optimisers, stores, environments, random generators.
    Any other value is replaced.

    Attributes:
        saved: Names in the saved tree and attributes, with dots where they are a part's.
    """

    saved: ClassVar[Places] = places()

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact resume needs."""
        return {
            key: _state(self, names) if isinstance(names, str) else [_state(self, name) for name in names]
            for key, names in self.saved.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.restore(state, self.saved)

    def restore(self, state: Mapping[str, Any], keys: Iterable[str]) -> None:
        """Restore some of it."""
        for key in keys:
            names, value = self.saved[key], state[key]
            if isinstance(names, str):
                _restore(self, names, value)
            elif value is not None:
                for name, part in zip(names, value, strict=True):
                    _restore(self, name, part)


class Learner(Resumable):
    """A learner whose learning rates can be scaled: those of the optimisers that are attributes of it."""

    def scale_rates(self, share: float) -> dict[str, float]:
        """Set the learning rates to this share of their initial values; what they are now, to be logged."""
        return {
            name.replace("optimizer", "learning_rate"): part.scale_rate(share)
            for name, part in vars(self).items()
            if hasattr(part, "scale_rate")
        }


def _owner(of: Any, path: str) -> tuple[Any, str]:
    parents, _, name = path.rpartition(".")
    return attrgetter(parents)(of) if parents else of, name


def _state(of: Any, path: str) -> Any:
    owner, name = _owner(of, path)
    part: Any = None if owner is None else getattr(owner, name)
    if isinstance(part, np.random.Generator):
        return part.bit_generator.state
    if hasattr(part, "detach"):  # a tensor: torch is not loaded here, since clocks run without it
        return part.detach()
    for method in ("state_dict", "get_state"):
        if hasattr(part, method):
            return getattr(part, method)()
    return part


def _restore(of: Any, path: str, value: Any) -> None:
    owner, name = _owner(of, path)
    part: Any = None if owner is None else getattr(owner, name)
    if isinstance(part, np.random.Generator):
        part.bit_generator.state = value
    elif hasattr(part, "detach"):
        part.detach().copy_(value)
    elif hasattr(part, "register_buffer"):  # a network
        from preceptor.ground.device import load_weights

        load_weights(part, value)
    elif hasattr(part, "load_state_dict"):
        part.load_state_dict(value)
    elif hasattr(part, "set_state"):
        part.set_state(value)
    elif owner is not None:
        setattr(owner, name, value)
