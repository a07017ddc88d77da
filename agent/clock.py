"""The clock: when an option ends, and what becomes of the high level's command from one step to the next.

A *command* is what the high level has chosen: one of the task's named options, or a vector. Four transitions say how a
vector changes while it runs: a named option has none, a goal moves with the agent (HIRO), a latent stays for its H
steps (SPiRL), a chunk of k actions is played slice by slice (action chunking).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.goals import GoalFrame
from preceptor.agent.resumable import Resumable, places

Vectors = NDArray[np.float32]


class Transition(NamedTuple):
    """How a command's vector begins and changes; by default it stays as it was chosen.

    Attributes:
        size: Numbers of the vector, D; 0 where commands are named options, which have none.
        begin: The vectors [N, D] of what was chosen [N, D].
        advance: Of the vectors [N, D], `obs` and `next_obs`: the vectors after the step between these.
        frame: The dimensions of goals, where commands are these.
    """

    size: int
    begin: Callable[[Vectors], Vectors] = lambda chosen: chosen
    advance: Callable[[Vectors, NDArray, NDArray], Vectors] = lambda command, obs, next_obs: command
    frame: GoalFrame | None = None


def named() -> Transition:
    """Commands are named options."""
    return Transition(0)


def moving(frame: GoalFrame) -> Transition:
    """Commands are goals relative to the agent: h(s, g, s') = s + g - s' keeps the target where it is (HIRO, eq. 3).

    They are chosen in [-1, 1], and run in the units of the observation.
    """
    return Transition(len(frame.indices), frame.to_units, frame.moved, frame)


def latent(dims: int) -> Transition:
    """Commands are latent skills of so many dimensions, which stay as they were chosen."""
    return Transition(dims)


def sliced(steps: int, actions: int) -> Transition:
    """Commands are k actions of A numbers, one behind the other; the first A are what is played now."""
    return Transition(steps * actions, advance=lambda command, obs, next_obs: np.roll(command, -actions, axis=1))


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
