"""Flat off-policy learning on primitive actions that are vectors: SAC or TD3, without a teacher."""

from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from preceptor.agent.clock import Clock
from preceptor.agent.computed import NOT_WARM, Computed, no_computation
from preceptor.agent.data.store import TrajectoryStore
from preceptor.agent.data.views import sample_steps
from preceptor.agent.distributions import Distribution, UniformBox
from preceptor.agent.levels import Observations, Player, SingleOption
from preceptor.agent.methods.protocol import Entry, Given, Method, Parts, Preset
from preceptor.agent.methods.sac import SAC, SACConfig, Transitions
from preceptor.agent.methods.td3 import TD3, TD3Config
from preceptor.agent.phases import Online
from preceptor.agent.resumable import places
from preceptor.controller.encoders import encoder_of
from preceptor.envs.mujoco.mazes import SPECS as MAZES
from preceptor.ground.device import to_tensor
from preceptor.ground.errors import UserError
from preceptor.ground.ranges import Count, CountOrNone, Positive, Share

OffPolicyLearner = SAC | TD3


@dataclass(frozen=True)
class OffPolicySettings:
    """What SAC and TD3 share: a flat agent that remembers every step."""

    updates: Positive = 1.0
    """Gradient steps per environment step."""
    warmup: CountOrNone = 1_000
    """Environment steps of uniform actions before the first gradient step."""
    rollout: Count = 8
    """Vector steps between updates."""
    buffer_size: Count = 1_000_000
    """Environment steps that are remembered."""
    reward_scale: Positive = 1.0
    """Factor on rewards."""
    exploration: Literal["steps", "extended"] = "steps"
    """steps (noise of its own at each step), or extended (besides, now and then an action is held for a while:
    epsilon-z-greedy; Dabney et al., 2021)."""
    holding: Share = 0.1
    """Probability per step with which extended exploration starts to hold a uniform action."""


@dataclass(frozen=True)
class SACSettings(OffPolicySettings):
    """Soft actor-critic on a flat policy over vectors."""

    learner: Annotated[SACConfig, tyro.conf.arg(name="")] = field(default_factory=SACConfig)
    """The learner."""


@dataclass(frozen=True)
class TD3Settings(OffPolicySettings):
    """Twin delayed deterministic policy gradient on a flat policy over vectors."""

    learner: Annotated[TD3Config, tyro.conf.arg(name="")] = field(default_factory=TD3Config)
    """The learner."""


def make_learner(inputs: int, actions: int, config: SACConfig | TD3Config, seed: int) -> OffPolicyLearner:
    """SAC or TD3, by the kind of its configuration."""
    if isinstance(config, SACConfig):
        return SAC(inputs, actions, config, seed)
    return TD3(inputs, actions, config, seed)


def of_kind(config: Any, kind: str, noise: float) -> SACConfig | TD3Config:
    """The learner, or one of another kind with its networks, rate, discount and batch."""
    shared = {name: getattr(config, name) for name in ("hidden", "lr", "gamma", "batch")}
    if kind == "td3" and isinstance(config, SACConfig):
        return TD3Config(**shared, actor_lr=config.lr, noise=noise)
    if kind == "sac" and isinstance(config, TD3Config):
        return SACConfig(**shared)
    return config


def ring_for(parts: Parts, steps: int, least: int, command_size: int = 0) -> TrajectoryStore:
    """A ring that remembers so many steps, no more than the run has, and at least `least` of each environment.

    Raises:
        UserError: They do not fit into memory.
    """
    num_envs = parts.config.num_envs
    rows = max(-(-min(steps, parts.config.total + num_envs) // num_envs), least)
    return TrajectoryStore(parts.task, rows, num_envs, command_size=command_size, ring=True)


class UpdateRatio:
    """How many gradient steps are due, at so many per environment step; fractions are carried over.

    Args:
        ratio: Gradient steps per environment step.
    """

    def __init__(self, ratio: float) -> None:
        self.ratio, self.left = ratio, 0.0

    def due(self, steps: int) -> int:
        """Gradient steps that are due after so many more environment steps."""
        self.left += self.ratio * steps
        count = int(self.left)
        self.left -= count
        return count


class Held:
    """Actions that are held: temporally extended exploration (epsilon-z-greedy; Dabney et al., 2021, section 4).

    Args:
        num_envs: N.
        actions: A.
        probability: With which an environment that holds none takes a uniform action, for zeta-distributed steps.

    Attributes:
        action: float32 [N, A], what is held.
        left: int64 [N], steps for which it will be.
    """

    _EXPONENT, _LONGEST = 2.0, 100  # of the zeta distribution, as in the paper; steps

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
class Holding(Distribution):
    """What the policy samples, or what is held instead of it."""

    policy: Distribution
    held: Held

    def sample(self, rng: np.random.Generator | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Actions [N, A]; log-probabilities of the mixture are of no use, and given as 0."""
        action, _ = self.policy.sample(rng)
        return action if rng is None else self.held.instead(action, rng), np.zeros(len(action), np.float32)


class OffPolicy(Method):
    """The method: every step is remembered, and gradient steps keep pace with steps.

    Args:
        parts: Task (its actions are vectors), settings and random streams.
    """

    saved = places("learner", "store", "rng", "warm", ratio="ratio.left", held=("held.action", "held.left"))
    played = ("learner", "warm")

    def __init__(self, parts: Parts) -> None:
        task, settings = parts.task, parts.settings
        self.settings: SACSettings | TD3Settings = settings
        self.encoder = encoder_of(task)
        weights, draws = parts.seeds.spawn(2)
        width, seed = task.observation_shape[0], int(weights.generate_state(1)[0])
        self.learner = make_learner(width, task.num_actions, settings.learner, seed)
        self.rng = np.random.default_rng(draws)
        self.store = ring_for(parts, settings.buffer_size, 2)
        extended = settings.exploration == "extended"
        self.held = Held(parts.config.num_envs, task.num_actions, settings.holding) if extended else None
        self.warm = False  # whether the learner acts
        self.player = Player(SingleOption(), self, np.ones(1, np.int64))
        self.ratio = UpdateRatio(settings.updates)
        self.phases = (Online(self.store, settings.rollout, self.update),)

    def act(self, observed: Observations, clock: Clock) -> Distribution:
        """What the action is sampled from: uniform until the learner is warm; one that is held may take its place."""
        choice: Distribution = self.learner.act(observed.inputs[0])
        if not self.warm:
            choice = UniformBox((len(observed), observed.task.num_actions))
        if self.held is None or not observed.training.any():
            return choice
        self.held.left[clock.previous < 0] = 0  # the first step of an episode
        return Holding(choice, self.held)

    def low_computed(self) -> Computed:
        """What is computed of observations. Raises `UserError` where nothing is learned yet."""
        if not self.warm:
            raise no_computation(NOT_WARM)
        return self.learner.computed()

    def update(self, observed: Observations, steps: int) -> dict[str, float]:
        """As many gradient steps as are due."""
        self.warm = steps >= self.settings.warmup
        if not self.warm:
            return {}
        info: dict[str, torch.Tensor] = {}
        for _ in range(self.ratio.due(self.settings.rollout * self.store.num_envs)):
            info |= self.learner.update(self.batch())
        return {f"low/{name}": float(value) for name, value in info.items()}

    def batch(self) -> Transitions:
        """Remembered steps as the learner reads them."""
        settings, config = self.settings, self.settings.learner
        steps = sample_steps(self.store, self.rng, config.batch)
        return Transitions(
            to_tensor(self.encoder(steps.obs).parts[0]),
            to_tensor(steps.action),
            to_tensor(steps.reward * np.float32(settings.reward_scale)),
            to_tensor(self.encoder(steps.next_obs).parts[0]),
            to_tensor(np.where(steps.terminated, 0.0, config.gamma).astype(np.float32)),
        )


# Steps in all. A point mass needs few environments and small networks; an ant many steps, and what one costs is the
# simulator's, so that many environments share the networks' overhead.
_MAZE_STEPS = {"": 60_000, "PointReach": 10_000, "PointPush": 50_000}
_ANT_STEPS = 1_000_000
_GYM_STEPS = {"": 100_000, "Pendulum-v1": 6_000}
_POINT_ENVS, _ANT_ENVS = 4, 16
# Gradient steps per environment step of a point mass, flat or as HIRO's low level; with 0.25 HIRO and flat SAC fail on
# PointUMaze with one seed of three (dev/tuning.py).
_POINT_UPDATES = {"": 0.25, "PointUMaze": 0.5}

PAPER_TD3 = TD3Config(hidden=(300, 300), lr=1e-3, actor_lr=1e-4, batch=100, huber=1.0)  # HIRO, appendix C
# Settings of SAC; those of TD3 follow from them. Of Gymnasium's own tasks networks, rates and one update per step are
# as in the papers, whatever the preset.
_GYM = SACSettings()
_PENDULUM = SACSettings(warmup=500, learner=SACConfig(hidden=(64, 64), lr=2e-3, gamma=0.95))
_POINT = SACSettings(learner=SACConfig(hidden=(64, 64), lr=1e-3, batch=128))
_ANT = SACSettings(0.25, 5_000, learner=SACConfig(hidden=(128, 128), lr=5e-4, batch=128))
_PAPER_TD3 = TD3Settings(reward_scale=0.1, learner=replace(PAPER_TD3, noise=1 / 30))


def is_ant(task: str) -> bool:
    """Whether an ant moves through the maze of that name."""
    return task in MAZES and MAZES[task].robot.name == "ant"


def steps_of(given: Given) -> int:
    """Environment steps of SAC, TD3 and HIRO."""
    if given.steps is not None:
        return given.steps
    name = given.task.name
    table = _MAZE_STEPS if name in MAZES else _GYM_STEPS
    steps = _ANT_STEPS if is_ant(name) else table.get(name, table[""])
    return steps // 8 if given.size == "tiny" else steps


def envs_of(given: Given) -> int:
    """Environments of SAC, TD3 and HIRO: one outside the mazes and in the paper."""
    one = given.size == "paper" or given.task.name not in MAZES
    return 1 if one else _ANT_ENVS if is_ant(given.task.name) else _POINT_ENVS


def point_updates(task: str) -> float:
    """Gradient steps per environment step in the maze of that name, of a flat agent or of HIRO's low level."""
    return _POINT_UPDATES.get(task, _POINT_UPDATES[""])


def preset(learner: str, given: Given) -> Preset:
    """Settings of SAC or TD3 for a task."""
    name = given.task.name
    if not given.task.continuous:
        what = f"{learner} acts with vectors, and the actions of {name} are named."
        raise UserError(what, f"python main.py train --method ppo --task {given.task.source}")
    paper, maze = given.size == "paper", name in MAZES
    if paper and maze and learner == "td3":
        return Preset(steps_of(given), envs_of(given), _PAPER_TD3)
    settings: Any = _PENDULUM if name == "Pendulum-v1" else _ANT if is_ant(name) else _POINT if maze else _GYM
    settings = _GYM if paper else settings
    if settings is _POINT:
        settings = replace(settings, updates=point_updates(name))
    if learner == "td3":
        shared = {f.name: getattr(settings, f.name) for f in fields(OffPolicySettings)}
        td3: Any = of_kind(settings.learner, "td3", noise=0.1)
        settings = TD3Settings(**shared, learner=td3)
    return Preset(steps_of(given), envs_of(given), settings)


SAC_ALONE = Entry((SACSettings,), partial(preset, "sac"), OffPolicy)
TD3_ALONE = Entry((TD3Settings,), partial(preset, "td3"), OffPolicy)
