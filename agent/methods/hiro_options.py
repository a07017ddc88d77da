"""HIRO over named options: a high level that chooses among K of them, a low level that is rewarded for finishing them.

With K options the relabelling of old choices is exact: each option is a candidate, and the one under which the low
level of today would most probably have acted as it did takes the place of the one that ran. Only the current
probabilities of actions are needed, so that the low level may learn on-policy (PPO), from maps as well as from vectors.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from preceptor.agent.computed import Computed, no_computation
from preceptor.agent.data.views import Segments, newest_steps, sample_segments
from preceptor.agent.distributions import Categorical
from preceptor.agent.levels import Observations, Player
from preceptor.agent.methods.hiro import Hiro, HiroSettings, goals_preset
from preceptor.agent.methods.ihac import PPO_ENVS, PPO_OF_VECTORS
from preceptor.agent.methods.off_policy import ring_for
from preceptor.agent.methods.ppo import PPO, PolicyBatch, PPOConfig, rollout_batch
from preceptor.agent.methods.protocol import Entry, Given, Method, Parts, Preset
from preceptor.agent.methods.sac_discrete import DiscreteSAC, DiscreteSACConfig, OptionTransitions
from preceptor.agent.methods.two_levels import TwoLevels, TwoLevelSettings
from preceptor.agent.networks import LowNetwork
from preceptor.agent.phases import Online
from preceptor.agent.resumable import places
from preceptor.controller.network import TrunkConfig, to_tensors
from preceptor.ground.device import to_device, to_numpy, to_tensor
from preceptor.ground.errors import UserError
from preceptor.ground.ranges import Count, CountOrNone, NotNegative, Positive, Share


@dataclass(frozen=True)
class OptionHiroSettings(TwoLevelSettings):
    """HIRO over named options: the high level chooses among the task's own."""

    high_level: Literal["learned", "options", "controller"] = "options"
    """learned or options, or controller (the distilled controller chooses, the low level alone learns)."""
    prior: Literal["none", "controller"] = "none"
    """none, or controller (its options are offered at first, and fade as `prior_until` says)."""
    prior_weight: NotNegative = 0.2
    prior_until: NotNegative = 0.6
    high_updates: Positive = 0.01
    warmup: CountOrNone = 4_000
    rollout: Count = 32
    buffer_size: Count = 200_000
    mask: bool = True
    """Choose among legal options only."""
    uniform: Share = 0.1
    """Share of options sampled uniformly."""
    low: PPOConfig = field(default_factory=PPOConfig)
    """The low level's learner."""
    high: DiscreteSACConfig = field(default_factory=DiscreteSACConfig)
    """The high level's learner."""
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    """Size of the low level."""


class OptionHiro(TwoLevels):
    """HIRO over options: the player's high level.

    Args:
        parts: Task, settings and random streams, and the controller where one plans.
    """

    saved = places("store", "rng", "steps", low="low_learner", high="high_learner", ratio="high_ratio.left")
    played = ("low", "high", "steps")

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        task, settings, self.planner = parts.task, parts.settings, parts.controller
        weights, draws, shuffles = parts.seeds.spawn(3)
        low_seed, high_seed = (int(seed) for seed in weights.generate_state(2))
        options = len(task.options)
        with torch.random.fork_rng():
            torch.manual_seed(low_seed)
            network = LowNetwork(self.encoder, options, task.num_actions, settings.trunk, task.continuous)
            self.low_network = to_device(network)
        self.low_learner = PPO(self.low_network, settings.low, np.random.default_rng(shuffles))
        self.high_learner = DiscreteSAC(self.encoder, options, settings.high, high_seed)
        self.rng = np.random.default_rng(draws)
        self.store = ring_for(parts, settings.buffer_size, settings.rollout + settings.period + 1)
        self.player = Player(self, self.low_network, np.full(options, settings.period))
        self.phases = (Online(self.store, settings.rollout, self.update),)

    def choose(self, observed: Observations, running: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Categorical]:
        """Whether the running option [N] has reached its end, and what the next one is sampled from."""
        settings, legal = self.settings, self.legal(observed.obs)
        over = self.task.option_done(observed.obs, np.maximum(running, 0)) & (running >= 0)
        if settings.high_level == "controller":
            assert self.planner is not None
            probs = self.planner.probs(observed.obs, legal=legal)
        else:
            learned: Any = self.high_learner.computed()(*observed.inputs, to_tensor(legal))
            probs = learned.probs
            if self.planner is not None and self.share > 0:
                share = (observed.training * self.share)[:, None]
                probs = (1 - share) * probs + share * self.planner.probs(observed.obs, legal=legal)
        uniform = (observed.training * settings.uniform)[:, None]
        probs = (1 - uniform) * probs + uniform * legal / legal.sum(1, keepdims=True)
        return over, Categorical(probs.astype(np.float32))

    def high_computed(self) -> Computed:
        """What is computed of observations. Raises `UserError` where a controller chooses, or nothing is masked."""
        if self.settings.high_level == "controller" or not self.settings.mask:
            raise no_computation("a controller, or a student without a mask, chooses the options")
        return replace(self.high_learner.computed(), ends="done")

    def legal(self, obs: NDArray) -> NDArray[np.bool_]:
        """Options [N, K] that may be chosen at observations [N, ...]."""
        if self.settings.mask:
            return self.task.legal(obs)
        return np.ones((len(obs), len(self.task.options)), np.bool_)

    def update_low(self, observed: Observations, length: int) -> dict[str, float]:
        """The low level learns from the roll-out just played."""
        remaining = 1 - self.steps / self.total_steps
        return self.low_learner.update(self.low_batch(observed, length), remaining=remaining)

    def low_batch(self, observed: Observations, length: int) -> PolicyBatch:
        """The newest steps, rewarded with 1 where the running option was achieved.

        Nothing counts after that, nor once the option has become impossible: a low level that may hope for more there
        learns to spoil an option instead of achieving it, and its value holds it to that.
        """
        steps = newest_steps(self.store, length, observed.obs)
        shape = steps.reward.shape
        before, after = (column.reshape(-1, *column.shape[2:]) for column in (steps.obs, steps.next_obs))
        running = steps.option.reshape(-1)
        achieved = self.task.option_achieved(before, after, running).reshape(shape)
        over = self.task.option_done(after, running).reshape(shape)
        option = to_tensor(running)
        return rollout_batch(
            self.low_learner,
            (*to_tensors(self.encoder(before)), option),
            (*to_tensors(self.encoder(after)), option),
            to_tensor(steps.action.reshape(-1, *steps.action.shape[2:])),
            to_tensor(steps.behaviour_logprob.reshape(-1)),
            achieved.astype(np.float32),
            terminated=achieved | over | steps.terminated,
            cut=steps.switched,
        )

    def high_batch(self, kept: list[float] | None = None) -> OptionTransitions:
        """As `TwoLevels` has it; `kept` are shares of options that explain their segment best themselves."""
        config = self.settings.high
        parts = sample_segments(self.store, self.rng, config.batch, self.settings.period)
        first, legal = parts.obs[:, 0], self.legal(parts.obs[:, 0])
        option = self.explained(parts, legal) if self.settings.relabel else parts.option
        if kept is not None:
            kept.append(float((option == parts.option).mean()))
        decay = np.float32(config.gamma) ** np.arange(self.settings.period, dtype=np.float32)
        weight = self.prior_weight(self.steps)
        prior = self.planner.probs(first, legal=legal) if self.planner is not None and weight > 0 else None
        return OptionTransitions(
            to_tensors(self.encoder(first)),
            to_tensors(self.encoder(parts.final)),
            to_tensor(legal),
            to_tensor(self.legal(parts.final)),
            to_tensor(option),
            to_tensor((parts.reward * decay).sum(1)),
            to_tensor(np.where(parts.terminated, 0.0, config.gamma**parts.length).astype(np.float32)),
            None if prior is None else to_tensor(prior),
            weight,
        )

    @torch.no_grad()
    def explained(self, parts: Segments, legal: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The legal option [B] under which the low level would most probably have acted so; the original wins ties."""
        batch, steps = parts.inside.shape
        obs = parts.obs.reshape(-1, *parts.obs.shape[2:])
        outputs, _ = self.low_network.all_options(*to_tensors(self.encoder(obs)))  # [B c, K, P]
        options = outputs.shape[1]
        action = to_tensor(parts.action).flatten(0, 1).repeat_interleave(options, 0)
        log_prob = to_numpy(self.low_network.head.log_prob(outputs.flatten(0, 1), action)).reshape(
            batch, steps, options
        )
        score = np.where(legal, (log_prob * parts.inside[:, :, None]).sum(1), -np.inf)  # [B, K]
        score[np.arange(batch), parts.option] += 1e-6
        return score.argmax(1)

    def progress(self, kept: list[float]) -> dict[str, float]:
        """The share of options that were not relabelled."""
        return {"high/relabelled_original": float(np.mean(kept))} if kept else {}


_STEPS, _NUM_ENVS = {"": 300_000, "PointReach": 100_000}, 64


def over_options(given: Given) -> bool:
    """Whether HIRO chooses among options: where it is told so, or the task's actions are named."""
    return given.word("high_level", "learned") == "options" or not given.task.continuous


def preset(given: Given) -> Preset:
    """Settings of HIRO for a task, over goals or over options."""
    if not over_options(given):
        return goals_preset(given)
    alone = {"goal_space", "value_filter", "high_sees", "low_level", "low_learner", "high_learner"}
    goals = alone & (given.said or {}).keys()
    if goals:
        flag = "--" + sorted(goals)[0].replace("_", "-")
        raise UserError(
            f"{flag} is for goals, and {given.task.name} is learned over named options here.",
            f"the same without {flag}",
        )
    if given.word("prior", "none") == "reversed":
        raise UserError("Named options have no opposite, as goals do.", "--prior controller")
    continuous = given.task.continuous
    steps = given.steps or _STEPS.get(given.task.base_name, _STEPS[""])
    low = PPO_OF_VECTORS if continuous else PPOConfig(lr=1e-3, minibatch=1024)
    return Preset(steps, PPO_ENVS if continuous else _NUM_ENVS, OptionHiroSettings(low=low))


def make(parts: Parts) -> Method:
    """HIRO of the kind of its settings."""
    return Hiro(parts) if isinstance(parts.settings, HiroSettings) else OptionHiro(parts)


HIRO = Entry((HiroSettings, OptionHiroSettings), preset, make, takes_controller=True, needs_options=True)
