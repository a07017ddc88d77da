"""Flat off-policy learning on primitive actions: SAC or TD3 in the training loop, without a teacher."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agent.continuous import UniformBox
from agent.core import Clock, Distribution, HighLevel, LowLevel, Observations, Player
from agent.data.replay import draw_steps
from agent.data.store import TrajectoryStore, store_for
from agent.data.views import Transitions
from agent.methods.sac import SAC, SACConfig
from agent.methods.td3 import TD3, TD3Config
from agent.teaching import SingleOption
from controller.encoders import encoder_of
from controller.network import ControllerNetwork
from envs.task import Task
from ground.device import to_tensor
from ground.level_seeds import SEEDS_PER_SPLIT

Learner = SAC | TD3


@dataclass(frozen=True)
class FlatConfig:
    """Hyper-parameters of a flat off-policy agent."""

    learner: SACConfig | TD3Config = field(default_factory=SACConfig)
    updates: float = 1.0  # gradient steps per environment step
    warmup: int = 1_000  # environment steps of uniform actions before the first gradient step
    rollout: int = 8  # vector steps between updates
    capacity: int = 1_000_000  # environment steps that are remembered
    reward_scale: float = 1.0  # factor on rewards
    holding: float = 0.0  # probability per step of starting to hold a uniform action for a while


def make_learner(inputs: int, actions: int, config: SACConfig | TD3Config, seed: int) -> Learner:
    """SAC or TD3, by the kind of its configuration."""
    if isinstance(config, SACConfig):
        return SAC(inputs, actions, config, seed)
    return TD3(inputs, actions, config, seed)


def memory_for(task: Task, steps: int, num_envs: int, least: int, **kinds: Any) -> TrajectoryStore:
    """A store that remembers so many steps of N worlds, and at least so many of each; `kinds` as the store has them.

    Raises:
        UserError: They do not fit.
    """
    rows = max(-(-steps // num_envs), least)
    return store_for(task, rows, num_envs, ring=True, remedy="--memory {fits}", **kinds)


class Held:
    """Actions that worlds hold on to: temporally extended exploration (epsilon-z-greedy; Dabney et al., 2021).

    Args:
        num_envs: N.
        actions: A.
        probability: With which a world that holds none takes a uniform action, for a time drawn from a zeta law.

    Attributes:
        action: float32 [N, A], what is held.
        left: int64 [N], steps for which it will be.
    """

    _EXPONENT, _LONGEST = 2.0, 100  # of the zeta law, as in the paper; steps

    def __init__(self, num_envs: int, actions: int, probability: float) -> None:
        self.probability = probability
        self.action = np.zeros((num_envs, actions), np.float32)
        self.left = np.zeros(num_envs, np.int64)

    def instead(self, action: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """What is played now [N, A], where `action` is what the policy would do; once per step."""
        begins = (self.left == 0) & (rng.random(len(action)) < self.probability)
        anywhere, _ = UniformBox(self.action.shape).sample(rng)  # type: ignore[arg-type]
        duration = np.minimum(rng.zipf(self._EXPONENT, len(action)), self._LONGEST)
        self.action = np.where(begins[:, None], anywhere, self.action)
        self.left = np.where(begins, duration, self.left)
        played = np.where((self.left > 0)[:, None], self.action, action)
        self.left = np.maximum(self.left - 1, 0)
        return played


@dataclass(frozen=True)
class Holding:
    """What the policy draws, or what is held instead of it (`agent.core.Distribution`)."""

    policy: Distribution
    held: Held

    def sample(self, rng: np.random.Generator | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Actions [N, A]; log-probabilities of the mixture are of no use, and given as 0."""
        action, _ = self.policy.sample(rng)
        return action if rng is None else self.held.instead(action, rng), np.zeros(len(action), np.float32)

    def replaced(self, rows: NDArray[np.bool_], other: Distribution) -> Distribution:
        """Nobody guides a flat agent."""
        raise NotImplementedError


class ActorLow:
    """The low level that a learner's actor plays; uniform actions until `warm`, held ones where `held` is given."""

    def __init__(self, learner: Learner, warm: bool = True, held: Held | None = None) -> None:
        self.learner, self.warm, self.held = learner, warm, held

    def act(self, observed: Observations, clock: Clock) -> Distribution:
        """Where the action is drawn from."""
        choice: Distribution = self.learner.act(observed.inputs[0])
        if not self.warm:
            choice = UniformBox((len(observed), observed.task.num_actions))
        if self.held is None or observed.level_seeds[0] >= SEEDS_PER_SPLIT:  # held-out levels come by themselves
            return choice
        self.held.left[clock.previous < 0] = 0  # the first step of an episode
        return Holding(choice, self.held)


class Flat:
    """The method: every step is remembered, and gradient steps keep pace with steps.

    Args:
        task: What is learned; its actions are continuous.
        config: Hyper-parameters.
        num_envs: Worlds.
        seeds: Source of the random streams.
        total_steps: Environment steps of the whole run.
    """

    controller: ControllerNetwork | None = None
    guide: tuple[HighLevel, LowLevel] | None = None
    calibration: tuple[float, dict[str, float]] = (1.0, {})

    def __init__(
        self, task: Task, config: FlatConfig, num_envs: int, seeds: np.random.SeedSequence, total_steps: int
    ) -> None:
        self.task, self.config = task, config
        self.encoder = encoder_of(task)
        weights, draws = seeds.spawn(2)
        width = task.observation_shape[0]
        self.learner = make_learner(width, task.num_actions, config.learner, int(weights.generate_state(1)[0]))
        self.rng = np.random.default_rng(draws)
        self.store = memory_for(task, min(config.capacity, total_steps + num_envs), num_envs, 2)
        self.held = Held(num_envs, task.num_actions, config.holding) if config.holding else None
        self.low = ActorLow(self.learner, warm=False, held=self.held)
        self.player = Player(SingleOption(), self.low, np.ones(1, np.int64))
        self._owed = 0.0  # gradient steps that are due

    def distilling(self, steps: int) -> bool:
        """Nobody teaches."""
        return False

    def plan(self, steps: int) -> tuple[TrajectoryStore, int, float]:
        """Where the next roll-out goes, its vector steps, and that no teacher steers it."""
        return self.store, self.config.rollout, 0.0

    def update(self, observed: Observations, steps: int) -> dict[str, float]:
        """As many gradient steps as are due."""
        self.low.warm = steps >= self.config.warmup
        if not self.low.warm:
            return {}
        self._owed += self.config.updates * self.config.rollout * self.store.num_envs
        info: dict[str, torch.Tensor] = {}
        while self._owed >= 1:
            info |= self.learner.update(self.batch())
            self._owed -= 1
        return {f"low/{name}": float(value) for name, value in info.items()}

    def batch(self) -> Transitions:
        """Remembered steps as the learner reads them."""
        steps, config = draw_steps(self.store, self.rng, self.config.learner.batch), self.config
        discount = np.where(steps.terminated, 0.0, config.learner.gamma).astype(np.float32)
        return Transitions(
            to_tensor(self.encoder(steps.obs).parts[0]),
            to_tensor(steps.action),
            to_tensor(steps.reward * np.float32(config.reward_scale)),
            to_tensor(self.encoder(steps.next_obs).parts[0]),
            to_tensor(discount),
        )

    def graduate(self) -> dict[str, float]:
        """Nobody was taught."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Learner, memory and random state, for an exact resume."""
        return {
            "learner": self.learner.state_dict(),
            "store": self.store.state_dict(),
            "rng": self.rng.bit_generator.state,
            "owed": self._owed,
            "warm": self.low.warm,
            "held": [self.held.action, self.held.left] if self.held else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.load_policy(state)
        self.store.load_state_dict(state["store"])
        self.rng.bit_generator.state = state["rng"]
        self._owed = state["owed"]
        if self.held:
            self.held.action, self.held.left = state["held"]

    def load_policy(self, state: dict[str, Any]) -> None:
        """Restore the learner alone, to play."""
        self.learner.load_state_dict(state["learner"])
        self.low.warm = state["warm"]
