"""What two levels that learn side by side share, whether the high one chooses goals or options."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from preceptor.agent.data.store import TrajectoryStore
from preceptor.agent.levels import Observations
from preceptor.agent.losses import PriorWeight
from preceptor.agent.methods.off_policy import UpdateRatio
from preceptor.agent.methods.protocol import Method, Parts
from preceptor.controller.encoders import encoder_of
from preceptor.ground.ranges import Count, CountOrNone, NotNegative, Positive, Share


@dataclass(frozen=True)
class TwoLevelSettings:
    """What HIRO over goals and HIRO over options share."""

    high_level: str = "learned"
    prior: str = "none"
    prior_weight: NotNegative = 2.0
    """lambda of the divergence from what the controller would choose, at the start; of options, in units of the reward
    per nat."""
    prior_until: NotNegative = 0.3
    """Share of the steps after which the prior has faded: divergence, and share of its choices. Above 1, some of both
    is left when the run ends."""
    relabel: bool = True
    """Correct old goals, or options, when they are sampled (section 3.3)."""
    period: Count = 10
    """c, steps for which a goal runs (section 4), or the most for which an option does."""
    high_updates: Positive = 0.1
    """Gradient steps of the high level per environment step."""
    decay: Share = 0.0
    """Last share of the run, over which learning rates fall linearly to zero; PPO has its own schedule."""
    warmup: CountOrNone = 1_000
    """Environment steps before the first gradient step; over options, of the high level alone."""
    rollout: Count = 10
    """Vector steps between updates."""
    buffer_size: Count = 2_000_000
    """Environment steps that are remembered."""

    @property
    def plans(self) -> bool:
        """Whether a controller chooses, or offers what it would choose."""
        return self.high_level == "controller" or self.prior != "none"

    needs_controller = plans


class TwoLevels(Method, ABC):
    """What HIRO over goals and over options share: two learners that keep pace with the steps, and a fading prior.

    Args:
        parts: Task, settings and random streams.
    """

    low_learner: Any
    high_learner: Any
    store: TrajectoryStore

    def __init__(self, parts: Parts) -> None:
        settings: TwoLevelSettings = parts.settings
        self.task, self.settings, self.total_steps = parts.task, parts.settings, parts.config.steps
        self.encoder = encoder_of(parts.task)
        weight = settings.prior_weight if settings.prior != "none" else 0.0
        self.prior_weight = PriorWeight(weight, end=settings.prior_until * parts.config.steps)
        self.warm = False  # whether the learners act
        self.steps = 0
        self.high_ratio = UpdateRatio(0.0 if settings.high_level == "controller" else settings.high_updates)

    @property
    def share(self) -> float:
        """Share of the choices that are the prior's: one at the start, zero from `prior_until` on."""
        return self.prior_weight.left(self.steps)

    def update(self, observed: Observations, steps: int) -> dict[str, float]:
        """As many gradient steps of both levels as are due."""
        length, self.steps = (steps - self.steps) // self.store.num_envs, steps
        self.warm = steps >= self.settings.warmup and len(self.store) > self.settings.period
        rates = self.scale_rates()
        info = {f"low/{name}": value for name, value in self.update_low(observed, length).items()}
        if not self.warm:
            return info
        high: dict[str, Tensor] = {}
        kept: list[Any] = []
        for _ in range(self.high_ratio.due(length * self.store.num_envs)):
            high |= self.high_learner.update(self.high_batch(kept))
        info |= {f"high/{name}": float(value) for name, value in high.items()}
        return rates | info | self.progress(kept) | {"high/prior": self.share}

    def scale_rates(self) -> dict[str, float]:
        """Set the learning rates to what they are at this step, if they fall; PPO sets its own whenever it learns."""
        rates: dict[str, float] = {}
        if ending := self.settings.decay * self.total_steps:
            share = min(1.0, (self.total_steps - self.steps) / ending)
            for level, learner in (("low", self.low_learner), ("high", self.high_learner)):
                rates |= {f"{level}/{name}": rate for name, rate in learner.scale_rates(share).items()}
        return rates

    @abstractmethod
    def update_low(self, observed: Observations, length: int) -> dict[str, float]:
        """The gradient steps of the low level that are due after so many vector steps."""

    @abstractmethod
    def high_batch(self, kept: list[Any] | None = None) -> Any:
        """Segments as transitions of the high level, each with the goal, or option, that explains it best.

        The prior is asked at the segment's own first state; it never sees what has been relabelled. What relabelling
        has kept is added to `kept`.
        """

    @abstractmethod
    def progress(self, kept: list[Any]) -> dict[str, float]:
        """Numbers to log, of what relabelling has kept."""
