"""Faults of known groups of actions in an expert's play: data of mixed quality, with the truth about each step."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.clock import Clock
from preceptor.agent.distributions import Categorical, ClippedNormal, Distribution
from preceptor.agent.levels import HighLevel, LowLevel, Observations
from preceptor.envs.action_groups import action_groups_of
from preceptor.envs.task import Task
from preceptor.ground.errors import UserError, unknown_name

KINDS = ("reversed", "frozen", "biased", "delayed")
_BIAS = 0.8  # of a biased dimension, up or down
_DELAY = 3  # steps by which a delayed group lags behind


@dataclass(frozen=True)
class Faults:
    """How often action groups are faulty, and in what way.

    Attributes:
        rate: Probability that a group is faulty in a segment, for each group on its own.
        kinds: Of `KINDS`, all as likely: the group's action is reversed (-a), frozen (0), biased (a + .8 or a - .8 in
            each dimension), or delayed (what it was 3 steps ago, 0 before the first).
        segment: Steps for which a group is faulty or not, from the episode's start on.
        decisions: Probability that a wrong option is chosen, at each choice (`MisledHigh`).

    Raises:
        UserError: There are no kinds, or one is unknown.
    """

    rate: float = 0.4
    kinds: tuple[str, ...] = KINDS[:3]
    segment: int = 8
    decisions: float = 0.0

    def __post_init__(self) -> None:
        for kind in self.kinds or ("",):
            if kind not in KINDS:
                raise unknown_name("kind of fault", kind, KINDS, f"--fault-kinds {','.join(KINDS[:3])}")


class MisledHigh:
    """A high level that now and then chooses a wrong option: any other legal one.

    Args:
        high: The expert's.
        rate: Probability of it at each choice.

    Attributes:
        due: int64 [N], what the expert would have chosen in the last step.
    """

    def __init__(self, high: HighLevel, rate: float) -> None:
        self._high, self._rate = high, rate
        self.due = np.zeros(0, np.int64)

    def choose(self, observed: Observations, running: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Categorical]:
        """Whether the running option [N] is over, and what the next one is sampled from [N, K]."""
        over, choice = self._high.choose(observed, running)
        if not isinstance(choice, Categorical):
            raise TypeError(f"wrong options are for options that have names, not {type(choice).__name__}")
        self.due = choice.probs.argmax(1)
        due = np.eye(choice.probs.shape[1], dtype=np.float32)[self.due]
        others = observed.legal * (1 - due)
        count = others.sum(1, keepdims=True)
        rate = np.where(count > 0, self._rate, 0)
        return over, Categorical((1 - rate) * due + rate * others / np.maximum(count, 1))


class FaultyLow:
    """A low level, the expert's, whose action groups are faulty at times; noise comes on top of a faulty action.

    Attributes:
        faulty: bool [N, G], the groups that were faulty in the last step.

    Raises:
        UserError: The task has no action groups.
    """

    def __init__(self, low: LowLevel, task: Task, faults: Faults, num_envs: int, rng: np.random.Generator) -> None:
        if not task.continuous or not task.action_groups:
            why = "declares no action_groups" if task.continuous else "has named actions, which have no groups"
            raise UserError(
                f"{task.name} {why}, so there is nothing that could be faulty by itself.",
                "expert demonstrations: --quality expert, --demos 100; or action_groups in the task's class",
            )
        groups = action_groups_of(task).values()
        self._low, self._faults, self._rng = low, faults, rng
        self._group_of = np.array([[n in group for group in groups].index(True) for n in range(task.num_actions)])
        self.faulty = np.zeros((num_envs, len(groups)), np.bool_)
        self._kind = np.zeros(self.faulty.shape, np.int64)
        self._bias = np.zeros((num_envs, task.num_actions), np.float32)
        self._past = np.zeros((_DELAY, num_envs, task.num_actions), np.float32)
        self._step = np.zeros(num_envs, np.int64)

    def act(self, observed: Observations, clock: Clock) -> Distribution:
        """What the low level would do, with the faults of this step."""
        choice = self._low.act(observed, clock)
        if not isinstance(choice, ClippedNormal):
            raise TypeError(f"faults are for vectors, not {type(choice).__name__}")
        action, begun = choice.mean, (clock.previous < 0) & (clock.age == 0)  # the first step of an episode
        self._step = np.where(begun, 0, self._step + 1)
        self._draw(self._step % self._faults.segment == 0)
        self._past[:, begun] = 0
        by_kind: dict[str, NDArray] = {
            "reversed": -action,
            "frozen": np.zeros_like(action),
            "biased": np.clip(action + self._bias, -1, 1),
            "delayed": self._past[0].copy(),
        }
        kind = np.where(self.faulty, self._kind, -1)[:, self._group_of]  # [N, A]
        cases = [kind == index for index in range(len(self._faults.kinds))]
        faulty = np.select(cases, [by_kind[name] for name in self._faults.kinds], action)
        self._past = np.concatenate([self._past[1:], action[None]])
        return ClippedNormal(faulty.astype(np.float32), choice.std)

    def _draw(self, due: NDArray[np.bool_]) -> None:
        """New faults in the environments that begin a segment [N]."""
        rows, shape = due[:, None], self.faulty.shape
        self.faulty = np.where(rows, self._rng.random(shape) < self._faults.rate, self.faulty)
        self._kind = np.where(rows, self._rng.integers(len(self._faults.kinds), size=shape), self._kind)
        sign = self._rng.choice(np.array([-_BIAS, _BIAS], np.float32), self._bias.shape)
        self._bias = np.where(rows, sign, self._bias)
