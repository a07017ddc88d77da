"""HIRO (Nachum et al., 2018): a high level sets goals every c steps, a low level is rewarded for reaching them.

Both learn off-policy, at once. What the low level does under a goal changes while it learns, so the goal of an old
segment is replaced, whenever it is drawn, by the one that explains best what the low level did there. A distilled
controller may be the high level, or a prior of it that fades to nothing.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from preceptor.agent.clock import Clock, GoalFrame, moving
from preceptor.agent.computed import NOT_WARM, Computed, no_computation
from preceptor.agent.data.views import Steps, newest_steps, sample_segments, sample_steps
from preceptor.agent.distributions import ClippedNormal, Distribution, UniformBox
from preceptor.agent.goals import CANDIDATES, ExploringGoals, PlannedGoals, goal_space, preferred, relabel
from preceptor.agent.levels import Observations, Player
from preceptor.agent.losses import PriorActions
from preceptor.agent.methods.ihac import PPO_ENVS, PPO_OF_VECTORS
from preceptor.agent.methods.off_policy import (
    PAPER_TD3,
    UpdateRatio,
    envs_of,
    is_ant,
    make_learner,
    of_kind,
    point_updates,
    ring_for,
    steps_of,
)
from preceptor.agent.methods.ppo import BoxPPO, PolicyBatch, PPOConfig, only_option, rollout_batch
from preceptor.agent.methods.protocol import Given, Parts, Preset
from preceptor.agent.methods.sac import SACConfig, Transitions
from preceptor.agent.methods.td3 import TD3Config
from preceptor.agent.methods.two_levels import TwoLevels, TwoLevelSettings
from preceptor.agent.phases import Online
from preceptor.agent.resumable import places
from preceptor.agent.runs.run import Run
from preceptor.ground.device import device, to_numpy, to_tensor
from preceptor.ground.errors import UserError
from preceptor.ground.ranges import Count, Positive, Share

HighKind = Literal["sac", "td3"]
LowKind = Literal["sac", "td3", "ppo"]
_HIGH = SACConfig(hidden=(64, 64), lr=1e-3, gamma=0.93, batch=128)
_LOW = replace(_HIGH, gamma=0.95)


@dataclass(frozen=True)
class HiroSettings(TwoLevelSettings):
    """HIRO over goals (Nachum et al., 2018). Defaults are for a point mass on a CPU; --preset paper has the paper's."""

    high_level: Literal["learned", "options", "controller"] = "learned"
    """learned (goals in space), options (learned, too, but among the task's named options; the only way where actions
    are named), or controller (the distilled controller is the high level, the low level alone learns)."""
    goal_space: str | None = None
    """The space in which goals are set, by name: of ants hiro_xy or hiro_orig (the paper's 15 dimensions), of points
    xy, where there is a chasm xyz; the places that options lead to if not given."""
    low_level: str | None = None
    """A run whose low level is taken over and learns no more, of any task that is seen and acted in alike; its steps
    count."""
    prior: Literal["none", "controller", "reversed"] = "none"
    """none, controller (its goals are offered at first, and fade as `prior_until` says), or reversed (the opposite of
    its goals, as a control)."""
    value_filter: bool = False
    """Follow the controller's goal, and hold to it, only where the critics value it more than the actor's own."""
    high_sees: Literal["all", "slow"] = "all"
    """What the high level sees: all of an observation, or what changes slowly, such as where things are (a task says
    which). Where critics see limbs and speeds, they may learn each remembered goal's outcome by heart."""
    draws: Count = 8
    """Gaussian candidates for relabelling (appendix C)."""
    low_updates: Positive = 0.25
    """Gradient steps of the low level per environment step; PPO has its epochs instead."""
    low_reward: Positive = 1.0
    """Factor on -||s + g - s'||, or on progress."""
    high_reward: Positive = 0.025
    """Factor on the task's reward, summed while a goal ran."""
    random_goals: Share = 0.1
    """Share of goals sampled uniformly."""
    random_episodes: Share = 0.3
    """Share of episodes all of whose goals are."""
    other_goals: Share = 0.0
    """Share of the remembered steps that the low level learns from as though another goal of the box ran; not PPO."""
    reward_progress: bool = False
    """Reward the low level for what a step has brought it nearer, ||g|| - ||s + g - s'||, not for what is left."""
    low_buffer_size: Count = 2_000_000
    """The newest of the remembered steps, which the low level learns from."""
    low_learner: LowKind = "sac"
    """Kind of the low level's learner."""
    high_learner: HighKind = "sac"
    """Kind of the high level's learner."""
    low: Annotated[SACConfig | TD3Config | PPOConfig, Field(discriminator="kind")] = field(default_factory=lambda: _LOW)
    """The low level's learner."""
    high: Annotated[SACConfig | TD3Config, Field(discriminator="kind")] = field(default_factory=lambda: _HIGH)
    """The high level's learner; its gamma is per goal."""


class Hiro(TwoLevels):
    """HIRO over goals: both of the player's levels.

    Args:
        parts: Task (state vectors, continuous actions, and a space in which goals can be set), settings, streams, and
            the controller where one plans.

    Raises:
        UserError: No goal could be set in the task.
    """

    saved = places(
        *("store", "rng", "generator", "steps", "warm"),
        low="low_learner",
        high="high_learner",
        ratios=("low_ratio.left", "high_ratio.left"),
    )
    played = ("low", "high", "steps", "warm")

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        task, settings = parts.task, parts.settings
        space = goal_space(task, settings.goal_space, settings.plans)
        self.frame = GoalFrame(space.indices, space.scale)
        reverse = settings.prior == "reversed"
        self.planner: Any = PlannedGoals(parts.controller, self.frame, reverse) if parts.controller else None
        width, dims = task.observation_shape[0], len(self.frame.indices)
        low_seed, high_seed, draws, noise = parts.seeds.spawn(4)
        self._seen = torch.tensor([i for i in range(width) if i not in task.hidden_from_low_level], device=device())
        unseen = task.hidden_from_high_level if settings.high_sees == "slow" else ()
        self._high_seen = torch.tensor([i for i in range(width) if i not in unseen], device=device())
        self._scale = torch.tensor(task.observation_scale, device=device())
        self._reach = torch.tensor(self.frame.reach, device=device())
        first_weights = [int(seed.generate_state(1)[0]) for seed in (low_seed, high_seed)]
        make: Any = BoxPPO if isinstance(settings.low, PPOConfig) else make_learner
        self.low_learner = make(len(self._seen) + dims, task.num_actions, settings.low, first_weights[0])
        self.high_learner = make_learner(len(self._high_seen), dims, settings.high, first_weights[1])
        self.rng = np.random.default_rng(draws)
        self.generator = torch.Generator().manual_seed(int(noise.generate_state(1)[0]))
        self.store = ring_for(parts, settings.buffer_size, settings.rollout + 2 * settings.period, dims)
        self.player = Player(self, self, np.full(1, settings.period), moving(self.frame))
        self.phases = (Online(self.store, settings.rollout, self.update),)
        self.low_ratio = UpdateRatio(settings.low_updates)
        if settings.low_level and parts.run is not None and parts.run.last_step is None:
            run = Run.find(parts.config.logdir, "hiro", None, settings.low_level)
            step = run.restore(lambda tree: self.take_low_level(tree["method"]))
            self.facts = {"low_level_steps": int(run.results().get("steps", step))}

    def choose(self, observed: Observations, running: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Distribution]:
        """No goal is over before its time; what the next one is sampled from."""
        settings = self.settings
        # An episode explores or does not as a whole; its level decides, so that nothing has to be remembered.
        exploring = (observed.level_seeds * 2_654_435_761 % 2**32) / 2**32 < settings.random_episodes
        uniform = observed.training * np.where(exploring | (not self.warm), 1.0, settings.random_goals)
        never = np.zeros(len(observed), np.bool_)
        plans, inputs = settings.high_level == "controller", self.high_inputs(observed.inputs[0])
        policy: Distribution = ClippedNormal(self.planner(observed.obs)) if plans else self.high_learner.act(inputs)
        if not observed.training.any():
            return never, policy
        if plans:
            return never, ExploringGoals(policy, uniform)
        planned = self.planner(observed.obs) if self.planner and self.share > 0 else None
        share = observed.training * self.share
        if planned is not None and settings.value_filter:
            share = share * preferred(self.high_learner.critic, inputs, policy, planned)
        return never, ExploringGoals(policy, uniform, planned, share)

    def act(self, observed: Observations, clock: Clock) -> Distribution:
        """What the action is sampled from. The low level does not see where it is, only where it is to go."""
        if not isinstance(self.low_learner, BoxPPO) and not self.warm and not self.settings.low_level:
            return UniformBox((len(observed), observed.task.num_actions))
        return self.low_computed()(to_tensor(observed.obs), to_tensor(clock.command))

    def high_computed(self) -> Computed:
        """What is computed of observations. Raises `UserError` where nothing is learned yet."""
        if not self.warm:
            raise no_computation(NOT_WARM)
        if self.settings.high_level == "controller":
            return replace(self.planner.computed(), ends="never")
        learned = self.high_learner.computed()
        return replace(learned, call=lambda parts: learned.outputs(self.high_inputs(parts)), ends="never")

    def low_computed(self) -> Computed:
        """What is computed of observations and goals."""
        learned, names = self.low_learner.computed(), ("obs", "command")
        return replace(learned, call=lambda *seen: learned.outputs(self.low_inputs(*seen)), inputs=names)

    def low_inputs(self, obs: Tensor, goal: Tensor) -> Tensor:
        """What the low level's networks take, [B, S + D]: what it may see of observations [B, O], and goals [B, D]."""
        return torch.cat([(obs / self._scale).index_select(-1, self._seen), goal / self._reach], -1)

    def high_inputs(self, parts: Tensor) -> Tensor:
        """What the high level's networks take of an encoder's numbers [B, O]."""
        return parts.index_select(-1, self._high_seen)

    def update_low(self, observed: Observations, length: int) -> dict[str, float]:
        """PPO learns from the newest steps; SAC and TD3 from all that are remembered, once they are warm."""
        if self.settings.low_level:
            return {}
        if isinstance(self.low_learner, BoxPPO):
            remaining = 1 - self.steps / self.total_steps
            return self.low_learner.update(self.low_rollout(observed, length), remaining=remaining)
        info: dict[str, Tensor] = {}
        for _ in range(self.low_ratio.due(length * self.store.num_envs) if self.warm else 0):
            info |= self.low_learner.update(self.low_batch())
        return {name: float(value) for name, value in info.items()}

    def low_batch(self) -> Transitions:
        """Steps under the goals that ran, or might have."""
        config = self.settings.low
        newest = self.settings.low_buffer_size // self.store.num_envs
        steps = sample_steps(self.store, self.rng, config.batch, newest)
        if share := self.settings.other_goals:
            other = self.rng.random((config.batch, 1)) < share
            goals = self.frame.to_units(self.rng.uniform(-1.0, 1.0, steps.command.shape).astype(np.float32))
            steps = replace(steps, command=np.where(other, goals, steps.command))
        inputs, reward, after = self._rewarded(steps)
        discount = to_tensor(np.where(steps.terminated, 0.0, config.gamma).astype(np.float32))
        return Transitions(inputs, to_tensor(steps.action), reward, after, discount)

    def low_rollout(self, observed: Observations, length: int) -> PolicyBatch:
        """The newest steps as PPO reads them; where a goal is over, what it would still have been worth counts."""
        steps = newest_steps(self.store, length, observed.obs)
        inputs, reward, after = self._rewarded(steps)
        return rollout_batch(
            self.low_learner,
            only_option(inputs),
            only_option(after),
            to_tensor(steps.action).flatten(0, 1),
            to_tensor(steps.behaviour_logprob).flatten(),
            to_numpy(reward),
            terminated=steps.terminated,
            cut=steps.switched,
        )

    def _rewarded(self, steps: Steps) -> tuple[Tensor, Tensor, Tensor]:
        """Steps as the low level learns from them: what it saw, its reward, and what it saw next."""
        obs, next_obs, goal = (to_tensor(column) for column in (steps.obs, steps.next_obs, steps.command))
        reward = self.settings.low_reward * self.frame.reward(goal, obs, next_obs, self.settings.reward_progress)
        return self.low_inputs(obs, goal), reward, self.low_inputs(next_obs, self.frame.moved(goal, obs, next_obs))

    def high_batch(self, kept: list[str] | None = None) -> Transitions:
        """As `TwoLevels` has it; `kept` are the kinds of the candidates that explain best."""
        config = self.settings.high
        parts = sample_segments(self.store, self.rng, config.batch, self.settings.period)
        first = parts.obs[:, 0]
        goal = to_tensor(parts.command)
        if self.settings.relabel:
            mode, frame, draws = self.low_learner.mode, self.frame, self.settings.draws
            goal, kinds = relabel(frame, lambda *seen: mode(self.low_inputs(*seen)), parts, draws, self.generator)
            if kept is not None:
                kept += kinds
        weight, prior = self.prior_weight(self.steps), None
        if self.planner and weight > 0:
            prior = PriorActions(to_tensor(self.planner(first)), weight, self.settings.value_filter)
        return Transitions(
            self.high_inputs(to_tensor(self.encoder(first).parts[0])),
            goal / self._reach,
            to_tensor(np.float32(self.settings.high_reward) * parts.reward.sum(1)),
            self.high_inputs(to_tensor(self.encoder(parts.final).parts[0])),
            to_tensor(np.where(parts.terminated, 0.0, config.gamma).astype(np.float32)),
            prior,
        )

    def take_low_level(self, state: dict[str, Any]) -> None:
        """The low level of another run, from what its `state_dict` gave. Raises `UserError` if it acts otherwise."""
        try:
            self.low_learner.load_state_dict(state["low"])
        except (KeyError, RuntimeError, ValueError) as error:
            again = f"--low-level RUN, of train --method hiro --task {self.task.source}"
            raise UserError(f"That low level sees or does something else than {self.task.name} has.", again) from error

    def progress(self, kept: list[str]) -> dict[str, float]:
        """Which candidates explained best; what is left of the way when a goal ends, of late; the share reached."""
        winners = Counter(kept)
        info = {f"high/relabelled_{kind}": winners[kind] / len(kept) for kind in CANDIDATES if kept}
        rng, late = np.random.default_rng(self.store.total), 20 * self.settings.period
        parts = sample_segments(self.store, rng, 64, self.settings.period, late)
        goal, first, final = (to_tensor(column) for column in (parts.command, parts.obs[:, 0], parts.final))
        left = -self.frame.reward(goal, first, final)
        reached = (left < 0.25 * self._reach.norm()).float().mean()
        return info | {"low/goal_distance": float(left.mean()), "low/goal_reached": float(reached)}


# An ant: wider layers, slower learning, a longer view. It walks far sooner where every step teaches it to walk to any
# place, and where what a step is worth does not drown in what the way is worth (dev/LOG.md).
_ANT = HiroSettings(
    high_updates=0.05,
    high_reward=0.0125,
    random_episodes=0.2,
    decay=0.3,
    other_goals=0.5,
    reward_progress=True,
    warmup=5_000,
    low=SACConfig(hidden=(128, 128), lr=5e-4, gamma=0.95, batch=128),
    high=SACConfig(hidden=(128, 128), lr=5e-4, gamma=0.97, batch=128),
)
# HIRO, appendix C, in units of the box: noise of 1 is 1/30 of the torques' range and 1/10 of the goals'.
_PAPER = HiroSettings(
    low_updates=1.0,
    high_reward=0.1,
    random_goals=0.0,
    random_episodes=0.0,
    warmup=2_500,
    low_buffer_size=200_000,
    low_learner="td3",
    high_learner="td3",
    low=replace(PAPER_TD3, noise=1 / 30, target_noise=0.2 / 30, target_clip=0.5 / 30),
    high=replace(PAPER_TD3, noise=0.1, target_noise=0.02, target_clip=0.05),
)
_PPO_ROLLOUT, _PPO_REWARD = 64, 0.1  # vector steps, since PPO learns from whole roll-outs; factor on metres


def goals_preset(given: Given) -> Preset:
    """Settings of HIRO over goals for a task; what was said chooses the learners' kinds."""
    name = given.task.name
    small = replace(HiroSettings(), low_updates=point_updates(name))
    settings = _PAPER if given.size == "paper" else _ANT if is_ant(name) else small
    low_kind: Any = given.word("low_learner", settings.low.kind)
    high_kind: Any = given.word("high_learner", settings.high.kind)
    settings = replace(settings, high=of_kind(settings.high, high_kind, noise=0.2), high_learner=high_kind)
    envs = envs_of(given)
    if low_kind == "ppo":
        low = replace(PPO_OF_VECTORS, gamma=settings.low.gamma)
        settings = replace(settings, low=low, low_reward=_PPO_REWARD, rollout=_PPO_ROLLOUT)
        settings = replace(settings, other_goals=0.0, reward_progress=False)  # PPO learns from goals that ran
        envs = PPO_ENVS
    else:
        settings = replace(settings, low=of_kind(settings.low, low_kind, noise=0.1))
    return Preset(steps_of(given), envs, replace(settings, low_learner=low_kind))
