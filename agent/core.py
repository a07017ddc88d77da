"""The slots of the hierarchy: what a high level and a low level answer, what they look at, and when an option ends."""

from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from controller.encoders import Encoded, GridEncoder
from controller.network import to_tensors
from envs.task import Task


class Percept:
    """One batch of observations; what is derived from them is computed once, by whoever asks first.

    Args:
        task: Where they come from.
        encoder: Turns them into network inputs.
        obs: uint8 [N, ...].
        level_seeds: int64 [N], known to the environment and to limited teachers, never to a student.
    """

    def __init__(
        self,
        task: Task,
        encoder: GridEncoder,
        obs: NDArray[np.uint8],
        level_seeds: NDArray[np.int64],
    ) -> None:
        self.task = task
        self.obs = obs
        self.level_seeds = level_seeds
        self._encoder = encoder

    def __len__(self) -> int:
        return len(self.obs)

    @cached_property
    def encoded(self) -> Encoded:
        """Network inputs as arrays."""
        return self._encoder(self.obs)

    @cached_property
    def inputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Network inputs as tensors: tokens [N, cells] and presence [N, tokens]."""
        return to_tensors(self.encoded)

    @cached_property
    def legal(self) -> NDArray[np.bool_]:
        """Legality of each option [N, K]."""
        return self.task.legal(self.obs)


class HighLevel(Protocol):
    """Chooses options."""

    def consider(self, percept: Percept, running: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Whether the running option [N] is over (-1: none runs), and the distribution of the next one [N, K]."""
        ...


class LowLevel(Protocol):
    """Chooses primitive actions."""

    def probs(self, percept: Percept, option: NDArray[np.int64]) -> NDArray[np.float32]:
        """Distribution over actions [N, A] while `option` [N] runs."""
        ...


class Clock:
    """When an option ends: it is over, it has run out of time, or the episode has ended.

    Attributes:
        option: Running option [N], -1 before the first choice of an episode.
        previous: Option that ran before it [N], -1 for none.
        age: Steps for which the running option has run [N].
    """

    def __init__(self, num_envs: int, timeouts: NDArray[np.int64]) -> None:
        self._timeouts = timeouts
        self.option = np.full(num_envs, -1, np.int64)
        self.previous = np.full(num_envs, -1, np.int64)
        self.age = np.zeros(num_envs, np.int64)

    def due(self, over: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Worlds [N] that need a new option now."""
        return (self.option < 0) | over | (self.age >= self._timeouts[self.option])

    def start(self, rows: NDArray[np.bool_], option: NDArray[np.int64]) -> None:
        """Start `option` [N] in the worlds of `rows` [N]."""
        self.previous = np.where(rows, self.option, self.previous)
        self.option = np.where(rows, option, self.option)
        self.age = np.where(rows, 0, self.age)

    def advance(self, ended: NDArray[np.bool_]) -> None:
        """One step has passed; episodes that `ended` [N] start anew without an option."""
        self.age = np.where(ended, 0, self.age + 1)
        self.option = np.where(ended, -1, self.option)
        self.previous = np.where(ended, -1, self.previous)

    def state_dict(self) -> dict[str, Any]:
        """Arrays for an exact resume."""
        return {"option": self.option, "previous": self.previous, "age": self.age}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.option, self.previous, self.age = state["option"], state["previous"], state["age"]


def draw(probs: NDArray[np.float32], rng: np.random.Generator | None) -> NDArray[np.int64]:
    """One index per row of distributions [N, C]; the most probable one where `rng` is None (greedy)."""
    if rng is None:
        return probs.argmax(1)
    cumulative = probs.cumsum(1, dtype=np.float64)
    threshold = rng.random(len(probs)) * cumulative[:, -1]
    return (cumulative > threshold[:, None]).argmax(1)
