"""The levels of a hierarchy: what they look at and answer, and those without networks. Nothing here needs torch."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.clock import Clock, Transition, named
from preceptor.agent.distributions import Categorical, ClippedNormal, Distribution
from preceptor.controller.encoders import Encoded, Encoder
from preceptor.envs.task import Task
from preceptor.ground.level_seeds import SEEDS_PER_SPLIT

if TYPE_CHECKING:
    import torch

FEWEST_ROWS = 4  # that are played together: MKL's kernels for up to three rows round otherwise


@dataclass(eq=False)
class Observations:
    """One batch of observations; what is derived from them is computed once, when it is first asked for.

    Attributes:
        task: Where they come from.
        encoder: Turns them into network inputs.
        obs: [N, ...].
        level_seeds: int64 [N], known to the environment and to limited teachers, never to a student.
        true_option: int64 [N], what an expert does here where the environment knows it, else None; for demonstrations,
            never for a student.
    """

    task: Task
    encoder: Encoder
    obs: NDArray
    level_seeds: NDArray[np.int64]
    true_option: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.obs)

    def of(self, rows: NDArray[np.int64]) -> "Observations":
        """Those of some rows."""
        known = None if self.true_option is None else self.true_option[rows]
        return Observations(self.task, self.encoder, self.obs[rows], self.level_seeds[rows], known)

    @property
    def training(self) -> NDArray[np.bool_]:
        """Where a training level is played [N], and a student may explore."""
        return self.level_seeds < SEEDS_PER_SPLIT

    @cached_property
    def encoded(self) -> Encoded:
        """Network inputs as arrays."""
        return self.encoder(self.obs)

    @cached_property
    def inputs(self) -> tuple["torch.Tensor", ...]:
        """Network inputs as tensors."""
        from preceptor.controller.network import to_tensors  # torch, which exports are played without

        return to_tensors(self.encoded)

    @cached_property
    def legal(self) -> NDArray[np.bool_]:
        """Legality of each option [N, K]."""
        return self.task.legal(self.obs)


class HighLevel(Protocol):
    """Chooses options, or other commands."""

    def choose(self, observed: Observations, running: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Distribution]:
        """Whether the running option [N] is over (-1: none runs), and what the next one is sampled from."""
        ...


class LowLevel(Protocol):
    """Chooses primitive actions."""

    def act(self, observed: Observations, clock: Clock) -> Distribution:
        """What the action under the clock's command is sampled from."""
        ...


@dataclass
class Spent:
    """What a player has asked a language model while it played: decisions (one without a choice is no call), calls,
    tokens of prompts and of replies, seconds of asking, and replies that could not be read."""

    decisions: int = 0
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    unreadable: int = 0


class Player(NamedTuple):
    """A high level, a low level, the steps after which each option or vector ends, what commands are, of one that asks
    at each decision what that has come to, and whether decisions are free, so that rows can be repeated."""

    high: HighLevel
    low: LowLevel
    timeouts: NDArray[np.int64]
    transition: Transition = named()
    spent: Spent | None = None
    free: bool = True


class SkillLow:
    """Acts with the scripted executors."""

    def act(self, observed: Observations, clock: Clock) -> Distribution:
        """The skill's action with certainty."""
        action = observed.task.skill(observed.obs, clock.option)
        if observed.task.continuous:
            return ClippedNormal(action)
        return Categorical(np.eye(observed.task.num_actions, dtype=np.float32)[action])


class SingleOption:
    """The high level of a flat policy."""

    def choose(self, observed: Observations, running: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Categorical]:
        """Always over [N]; the one option with certainty [N, 1]."""
        return np.ones(len(running), np.bool_), Categorical(np.ones((len(running), 1), np.float32))


class Slices:
    """The low level of chunks: the first actions of the clock's command, with certainty."""

    def act(self, observed: Observations, clock: Clock) -> Distribution:
        """As the low level of a player."""
        actions = observed.task.num_actions
        if observed.task.continuous:
            return ClippedNormal(clock.command[:, :actions])
        return Categorical(np.eye(actions, dtype=np.float32)[clock.command[:, 0].astype(np.int64)])
