"""The clock: when an option ends, and what becomes of the high level's command from one step to the next.

A *command* is what the high level has chosen: one of the task's named options, or a vector. Four transitions say how a
vector changes while it runs: a named option has none, a goal moves with the agent (HIRO), a latent stays for its H
steps (SPiRL), a chunk of k actions is played slice by slice (action chunking).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.goals import GoalFrame
from agent.resumable import Resumable, places

Vectors = NDArray[np.float32]


class Transition:
    """How a command's vector begins and changes; by default it stays as it was chosen."""

    @property
    def size(self) -> int:
        """Numbers of the vector, D; 0 where commands are named options."""
        return 0

    def begin(self, chosen: Vectors) -> Vectors:
        """The vectors [N, D] of what was chosen [N, D]."""
        return chosen

    def advance(self, command: Vectors, obs: NDArray, next_obs: NDArray) -> Vectors:
        """The vectors [N, D] after a step from `obs` to `next_obs`."""
        return command


@dataclass(frozen=True)
class Named(Transition):
    """Commands are named options, which have no vector."""


@dataclass(frozen=True)
class Moving(Transition):
    """Commands are goals relative to the agent: h(s, g, s') = s + g - s' keeps the target where it is (HIRO, eq. 3).

    Attributes:
        frame: Their dimensions.
    """

    frame: GoalFrame

    @property
    def size(self) -> int:
        """D."""
        return len(self.frame.indices)

    def begin(self, chosen: Vectors) -> Vectors:
        """Goals in the units of the observation, of choices in [-1, 1]."""
        return self.frame.to_units(chosen)

    def advance(self, command: Vectors, obs: NDArray, next_obs: NDArray) -> Vectors:
        """The same target, seen from the next observation."""
        return self.frame.moved(command, obs, next_obs)


@dataclass(frozen=True)
class Latent(Transition):
    """Commands are latent skills, which stay as they were chosen.

    Attributes:
        dims: D, dimensions of the latent.
    """

    dims: int

    @property
    def size(self) -> int:
        """D."""
        return self.dims


@dataclass(frozen=True)
class Chunk(Transition):
    """Commands are k actions one behind the other; the first A numbers are what is played now.

    Attributes:
        steps: k.
        actions: A, numbers of an action; 1 where actions are named.
    """

    steps: int
    actions: int

    @property
    def size(self) -> int:
        """k A."""
        return self.steps * self.actions

    def advance(self, command: Vectors, obs: NDArray, next_obs: NDArray) -> Vectors:
        """The next slice comes to the front."""
        return np.roll(command, -self.actions, axis=1)


class Clock(Resumable):
    """Runs a command until it is over, has run out of time, or the episode has ended.

    Args:
        num_envs: N.
        timeouts: Steps after which each option ends, [K]; of vectors, [1].
        transition: What the commands are.

    Attributes:
        option: Running option [N], -1 before the first choice of an episode; 0 while a vector runs.
        previous: Option that ran before it [N], -1 for none.
        age: Steps for which it has run [N].
        command: Its vector [N, D].
    """

    saved = places("option", "previous", "age", "command")

    def __init__(self, num_envs: int, timeouts: NDArray[np.int64], transition: Transition) -> None:
        self._timeouts, self._transition = timeouts, transition
        self.option = np.full(num_envs, -1, np.int64)
        self.previous = np.full(num_envs, -1, np.int64)
        self.age = np.zeros(num_envs, np.int64)
        self.command = np.zeros((num_envs, transition.size), np.float32)

    def due(self, over: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Environments [N] that need a new command now."""
        return (self.option < 0) | over | (self.age >= self._timeouts[self.option])

    def start(self, rows: NDArray[np.bool_], chosen: NDArray) -> None:
        """Start what was `chosen`, options [N] or vectors [N, D], in the environments of `rows` [N]."""
        if self._transition.size:
            self.command = np.where(rows[:, None], self._transition.begin(chosen), self.command)
            chosen = np.zeros(len(rows), np.int64)
        self.previous = np.where(rows, self.option, self.previous)
        self.option = np.where(rows, chosen, self.option)
        self.age = np.where(rows, 0, self.age)

    def advance(self, ended: NDArray[np.bool_], obs: NDArray, next_obs: NDArray) -> None:
        """One step from `obs` to `next_obs` has passed; episodes that `ended` [N] start anew without a command."""
        self.age = np.where(ended, 0, self.age + 1)
        self.option = np.where(ended, -1, self.option)
        self.previous = np.where(ended, -1, self.previous)
        self.command = self._transition.advance(self.command, obs, next_obs)
