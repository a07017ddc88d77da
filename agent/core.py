"""The slots of the hierarchy: what a high level and a low level answer, what they look at, and when an option ends."""

from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from agent.goals import GoalFrame
from controller.encoders import Encoded, Encoder
from controller.network import to_tensors
from envs.task import Task


class Observations:
    """One batch of observations; what is derived from them is computed once, by whoever asks first.

    Args:
        task: Where they come from.
        encoder: Turns them into network inputs.
        obs: [N, ...].
        level_seeds: int64 [N], known to the environment and to limited teachers, never to a student.
        true_option: int64 [N], what an expert does here where the environment knows it, else None; for whoever
            demonstrates, never for a student.
    """

    def __init__(
        self,
        task: Task,
        encoder: Encoder,
        obs: NDArray,
        level_seeds: NDArray[np.int64],
        true_option: NDArray[np.int64] | None = None,
    ) -> None:
        self.task = task
        self.obs = obs
        self.level_seeds = level_seeds
        self.true_option = true_option
        self._encoder = encoder

    def __len__(self) -> int:
        return len(self.obs)

    @cached_property
    def encoded(self) -> Encoded:
        """Network inputs as arrays."""
        return self._encoder(self.obs)

    @cached_property
    def inputs(self) -> tuple[torch.Tensor, ...]:
        """Network inputs as tensors."""
        return to_tensors(self.encoded)

    @cached_property
    def legal(self) -> NDArray[np.bool_]:
        """Legality of each option [N, K]."""
        return self.task.legal(self.obs)


class Distribution(Protocol):
    """N distributions from which options, goals or actions are drawn."""

    def sample(self, rng: np.random.Generator | None) -> tuple[NDArray, NDArray[np.float32]]:
        """One value per row, [N, ...], and its log-probability [N]; the most probable value where `rng` is None."""
        ...

    def replaced(self, rows: NDArray[np.bool_], other: Any) -> "Distribution":
        """The distributions of `other`, which is of the same kind, in `rows` [N]; these elsewhere."""
        ...


class Categorical:
    """Distributions over C indices.

    Args:
        probs: [N, C].
    """

    def __init__(self, probs: NDArray[np.float32]) -> None:
        self.probs = probs

    def sample(self, rng: np.random.Generator | None) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Indices [N] and their log-probabilities [N]."""
        index = draw(self.probs, rng)
        return index, np.log(self.probs[np.arange(len(index)), index])

    def replaced(self, rows: NDArray[np.bool_], other: "Categorical") -> "Categorical":
        """The distributions of `other` in `rows` [N], these elsewhere."""
        return Categorical(np.where(rows[:, None], other.probs, self.probs))


class HighLevel(Protocol):
    """Chooses options."""

    def choose(self, observed: Observations, running: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Distribution]:
        """Whether the running option [N] is over (-1: none runs), and where the next one is drawn from."""
        ...


class LowLevel(Protocol):
    """Chooses primitive actions."""

    def act(self, observed: Observations, clock: "Clock") -> Distribution:
        """Where the action is drawn from while the clock's option, or goal, is in force."""
        ...


class Clock:
    """When an option or a goal ends, and what becomes of it meanwhile.

    An option ends when it is over, has run out of time, or the episode has ended. A goal moves with the agent, so that
    its target stays (`GoalFrame.moved`); for the clock it is option 0.

    Args:
        num_envs: N.
        timeouts: Steps after which each option ends [K]; of goals, [1].
        frame: The dimensions of goals; None for a high level that names options.

    Attributes:
        option: Running option [N], -1 before the first choice of an episode.
        previous: Option that ran before it [N], -1 for none.
        age: Steps for which the running option has run [N].
        goal: Relative goal in force [N, D].
    """

    def __init__(self, num_envs: int, timeouts: NDArray[np.int64], frame: GoalFrame | None = None) -> None:
        self._timeouts, self._frame = timeouts, frame
        self.option = np.full(num_envs, -1, np.int64)
        self.previous = np.full(num_envs, -1, np.int64)
        self.age = np.zeros(num_envs, np.int64)
        self.goal = np.zeros((num_envs, len(frame.indices) if frame else 0), np.float32)

    def due(self, over: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Worlds [N] that need a new option now."""
        return (self.option < 0) | over | (self.age >= self._timeouts[self.option])

    def start(self, rows: NDArray[np.bool_], chosen: NDArray) -> None:
        """Start what was `chosen`, options [N] or goals in [-1, 1] [N, D], in the worlds of `rows` [N]."""
        if self._frame is not None:
            self.goal = np.where(rows[:, None], self._frame.to_units(chosen), self.goal)
            chosen = np.zeros(len(rows), np.int64)
        self.previous = np.where(rows, self.option, self.previous)
        self.option = np.where(rows, chosen, self.option)
        self.age = np.where(rows, 0, self.age)

    def advance(self, ended: NDArray[np.bool_], obs: NDArray, next_obs: NDArray) -> None:
        """One step from `obs` to `next_obs` has passed; episodes that `ended` [N] start anew without an option."""
        self.age = np.where(ended, 0, self.age + 1)
        self.option = np.where(ended, -1, self.option)
        self.previous = np.where(ended, -1, self.previous)
        if self._frame is not None:
            self.goal = self._frame.moved(self.goal, obs, next_obs)

    def state_dict(self) -> dict[str, Any]:
        """Arrays for an exact resume."""
        return {"option": self.option, "previous": self.previous, "age": self.age, "goal": self.goal}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.option, self.previous, self.age = state["option"], state["previous"], state["age"]
        self.goal = state["goal"]


class Player(NamedTuple):
    """Whoever plays: its levels, the steps after which each option or goal ends, and the dimensions of its goals."""

    high: HighLevel
    low: LowLevel
    timeouts: NDArray[np.int64]
    frame: GoalFrame | None = None


def draw(probs: NDArray[np.float32], rng: np.random.Generator | None) -> NDArray[np.int64]:
    """One index per row of distributions [N, C]; the most probable one where `rng` is None (greedy)."""
    if rng is None:
        return probs.argmax(1)
    cumulative = probs.cumsum(1, dtype=np.float64)
    threshold = rng.random(len(probs)) * cumulative[:, -1]
    return (cumulative > threshold[:, None]).argmax(1)
