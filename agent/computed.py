"""What a level computes, as a function of tensors that have names: what is played here is what an export holds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from preceptor.agent.distributions import Distribution
from preceptor.ground.device import to_numpy
from preceptor.ground.errors import UserError

NOT_WARM = "it has not begun to learn, and acts at random"


@dataclass(frozen=True)
class Computed:
    """The networks of one level. Levels give theirs as `high_computed()` and `low_computed()`.

    Attributes:
        network: Has the weights.
        kind: What the level's choice is sampled from.
        call: Tensors of `inputs`, in their order, to those that `kind` is made of; before these, where the ends of
            options are learned, whether the running one is over, bool [N]. The network itself if not given.
        inputs: Names of tensors, of `export.playing.SENSES`.
        settings: What else `kind` is made of, the same everywhere.
        ends: Of a high level: what ends an option before its time, of `export.playing.ENDS`; learned if not given.
    """

    network: nn.Module
    kind: type[Distribution]
    call: Callable[..., tuple[Tensor, ...]] | None = None
    inputs: tuple[str, ...] = ("parts",)
    settings: Mapping[str, Any] = field(default_factory=dict)
    ends: str | None = None

    def outputs(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What is computed of the inputs."""
        found = (self.call or self.network)(*tensors)
        return found if isinstance(found, tuple) else (found,)

    @torch.no_grad()
    def __call__(self, *tensors: Tensor) -> Distribution:
        """What the choice is sampled from."""
        return self.kind(*map(to_numpy, self.outputs(*tensors)), **self.settings)


def no_computation(why: str) -> UserError:
    """The error for a level that is more than one function of tensors."""
    return UserError(f"This agent cannot be played without torch: {why}.", "--format torch  # which holds any agent")
