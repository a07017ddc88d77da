"""Flat off-policy learning on primitive actions: SAC or TD3 in the training loop, without a teacher."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from agent.continuous import UniformBox
from agent.core import Choice, Clock, HighLevel, LowLevel, Percept, Player
from agent.data.replay import draw_steps
from agent.data.store import TrajectoryStore, store_for
from agent.data.views import Transitions
from agent.methods.sac import SAC, SACConfig
from agent.methods.td3 import TD3, TD3Config
from agent.teaching import SingleOption
from controller.encoders import encoder_of
from controller.network import ControllerNetwork
from envs.task import Task

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


def make_learner(inputs: int, actions: int, config: SACConfig | TD3Config, seed: int) -> Learner:
    """SAC or TD3, by the kind of its configuration."""
    if isinstance(config, SACConfig):
        return SAC(inputs, actions, config, seed)
    return TD3(inputs, actions, config, seed)


class ActorLow:
    """The low level that a learner's actor plays; uniform actions until `warm`."""

    def __init__(self, learner: Learner, warm: bool = True) -> None:
        self.learner, self.warm = learner, warm

    def act(self, percept: Percept, clock: Clock) -> Choice:
        """Where the action is drawn from."""
        if not self.warm:
            return UniformBox((len(percept), percept.task.num_actions))
        return self.learner.act(percept.inputs[0])


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
        steps = min(config.capacity, total_steps + num_envs)
        self.store = store_for(task, -(-steps // num_envs), num_envs, ring=True)
        self.low = ActorLow(self.learner, warm=False)
        self.player = Player(SingleOption(), self.low, np.ones(1, np.int64))
        self._owed = 0.0  # gradient steps that are due

    def distilling(self, steps: int) -> bool:
        """Nobody teaches."""
        return False

    def plan(self, steps: int) -> tuple[TrajectoryStore, int, float]:
        """Where the next roll-out goes, its vector steps, and that no teacher steers it."""
        return self.store, self.config.rollout, 0.0

    def update(self, percept: Percept, steps: int) -> dict[str, float]:
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
            torch.from_numpy(self.encoder(steps.obs).parts[0]),
            torch.from_numpy(steps.action),
            torch.from_numpy(steps.reward * np.float32(config.reward_scale)),
            torch.from_numpy(self.encoder(steps.next_obs).parts[0]),
            torch.from_numpy(discount),
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
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.load_policy(state)
        self.store.load_state_dict(state["store"])
        self.rng.bit_generator.state = state["rng"]
        self._owed = state["owed"]

    def load_policy(self, state: dict[str, Any]) -> None:
        """Restore the learner alone, to play."""
        self.learner.load_state_dict(state["learner"])
        self.low.warm = state["warm"]
