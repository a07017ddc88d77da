"""The clock: when an option ends, and what becomes of the high level's command from one step to the next.

A *command* is what the high level has chosen: one of the task's named options, or a vector. Four transitions say how a
vector changes while it runs: a named option has none, a goal moves with the agent (HIRO), a latent stays for its H
steps (SPiRL), a chunk of k actions is played slice by slice (action chunking).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from preceptor.agent.resumable import Resumable, places

if TYPE_CHECKING:  # clocks run where there is no torch
    from torch import Tensor

Vectors = NDArray[np.float32]
Values = TypeVar("Values", NDArray[np.float32], "Tensor")


@dataclass(frozen=True)
class GoalFrame:
    """Where a goal's dimensions are in an observation, and how far it may reach. For arrays and for tensors.

    Attributes:
        indices: Positions in the observation, D of them: any, in any order.
        reach: Half-ranges of the box of goals, length D, in the units of the observation.
    """

    indices: tuple[int, ...]
    reach: tuple[float, ...]

    def of(self, obs: Values) -> Values:
        """The goal's dimensions [..., D] of observations [..., O]."""
        return obs[..., list(self.indices)]

    def to_units(self, unit: NDArray[np.float32]) -> NDArray[np.float32]:
        """Goals in [-1, 1] -> in the units of the observation, [..., D]."""
        return unit * np.array(self.reach, np.float32)

    def clip(self, goal: "Tensor") -> "Tensor":
        """Goals [..., D] in the box."""
        reach = goal.new_tensor(self.reach)
        return goal.clamp(-reach, reach)

    def moved(self, goal: Values, obs: Values, next_obs: Values) -> Values:
        """h(s, g, s') = s + g - s' [..., D]: the same target, seen from the next state."""
        return self.of(obs) + goal - self.of(next_obs)

    def reward(self, goal: "Tensor", obs: "Tensor", next_obs: "Tensor", progress: bool = False) -> "Tensor":
        """-||s + g - s'|| [...]: minus what is left of the way after the step; of `progress`, how much less that is."""
        left: Tensor = self.moved(goal, obs, next_obs).norm(dim=-1)
        return goal.norm(dim=-1) - left if progress else -left


class Transition(NamedTuple):
    """How a command's vector begins and changes; by default it stays as it was chosen.

    Attributes:
        size: Numbers of the vector, D; 0 where commands are named options, which have none.
        begin: The vectors [N, D] of what was chosen [N, D].
        advance: Of the vectors [N, D], `obs` and `next_obs`: the vectors after the step between these.
        frame: The dimensions of goals, where commands are these.
        kind: Which of the four it is, and `numbers` what `transition_of` makes it of again.
    """

    size: int
    begin: Callable[[Vectors], Vectors] = lambda chosen: chosen
    advance: Callable[[Vectors, NDArray, NDArray], Vectors] = lambda command, obs, next_obs: command
    frame: GoalFrame | None = None
    kind: str = "named"
    numbers: tuple[Any, ...] = ()


def named() -> Transition:
    """Commands are named options."""
    return Transition(0)


def moving(frame: GoalFrame) -> Transition:
    """Commands are goals relative to the agent: h(s, g, s') = s + g - s' keeps the target where it is (HIRO, eq. 3).

    They are chosen in [-1, 1], and run in the units of the observation.
    """
    numbers = frame.indices, frame.reach
    return Transition(len(frame.indices), frame.to_units, frame.moved, frame, "moving", numbers)


def latent(dims: int) -> Transition:
    """Commands are latent skills of so many dimensions, which stay as they were chosen."""
    return Transition(dims, kind="latent", numbers=(dims,))


def sliced(steps: int, actions: int) -> Transition:
    """Commands are k actions of A numbers, one behind the other; the first A are what is played now."""

    def advance(command: Vectors, obs: NDArray, next_obs: NDArray) -> Vectors:
        return np.roll(command, -actions, axis=1)

    return Transition(steps * actions, advance=advance, kind="sliced", numbers=(steps, actions))


def transition_of(kind: str, numbers: Sequence[Any]) -> Transition:
    """The transition that says this of itself. Raises `KeyError` or `TypeError` for none of these."""
    makers: dict[str, Callable[..., Transition]] = {
        "named": named,
        "moving": lambda indices, reach: moving(GoalFrame(tuple(indices), tuple(reach))),
        "latent": latent,
        "sliced": sliced,
    }
    return makers[kind](*numbers)


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
        due = np.empty(len(self.option), np.bool_)
        _due(self.option, over, self.age, self._timeouts, due)
        return due

    def start(self, rows: NDArray[np.bool_], chosen: NDArray) -> None:
        """Start what was `chosen`, options [N] or vectors [N, D], in the environments of `rows` [N]."""
        if self._transition.size:
            self.command = np.where(rows[:, None], self._transition.begin(chosen), self.command)
            chosen = np.zeros(len(rows), np.int64)
        self._copy()
        _start(rows, chosen, self.option, self.previous, self.age)

    def advance(self, ended: NDArray[np.bool_], obs: NDArray, next_obs: NDArray) -> None:
        """One step from `obs` to `next_obs` has passed; episodes that `ended` [N] start anew without a command."""
        self._copy()
        _advance(ended, self.option, self.previous, self.age)
        self.command = self._transition.advance(self.command, obs, next_obs)

    def of(self, rows: NDArray[np.int64]) -> "Clock":
        """A clock that goes on from here in some environments."""
        part = Clock(len(rows), self._timeouts, self._transition)
        for name in self.saved:
            setattr(part, name, getattr(self, name)[rows])
        return part

    def _copy(self) -> None:
        """Go on with new arrays; those that were read until now stay as they are."""
        self.option, self.previous, self.age = self.option.copy(), self.previous.copy(), self.age.copy()


# Compiled, since each is a handful of operations on a few numbers. They fill arrays: to return some takes much longer.


@njit(cache=True)
def _due(option, over, age, timeouts, due):  # type: ignore[no-untyped-def]
    for n in range(len(option)):
        due[n] = option[n] < 0 or over[n] or age[n] >= timeouts[option[n]]


@njit(cache=True)
def _start(rows, chosen, option, previous, age):  # type: ignore[no-untyped-def]
    for n in range(len(rows)):
        if rows[n]:
            option[n], previous[n], age[n] = chosen[n], option[n], 0


@njit(cache=True)
def _advance(ended, option, previous, age):  # type: ignore[no-untyped-def]
    for n in range(len(ended)):
        age[n] += 1
        if ended[n]:
            option[n], previous[n], age[n] = -1, -1, 0
