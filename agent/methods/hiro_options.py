"""HIRO over named options: a high level that chooses among K of them, a low level that is paid for finishing them.

With K options the relabelling of old choices is exact: each option is a candidate, and the one under which the low
level of today would most probably have acted as it did takes the place of the one that was in force. Only the current
probabilities of actions are needed, so that the low level may learn on-policy (PPO), from maps as well as from vectors.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agent.core import Categorical, HighLevel, LowLevel, Observations, Player
from agent.data.replay import Segments, draw_segments, newest_steps
from agent.data.store import TrajectoryStore
from agent.methods.flat import memory_for
from agent.methods.ppo import PPO, PolicyBatch, PPOConfig, rollout_batch
from agent.methods.sac_discrete import DiscreteSAC, DiscreteSACConfig, OptionTransitions
from agent.networks import LowNetwork, NetworkLow
from controller.encoders import encoder_of
from controller.network import ControllerNetwork, TrunkConfig, to_tensors
from controller.roles import Controller
from envs.task import Task
from ground.device import to_device, to_numpy, to_tensor
from ground.level_seeds import SEEDS_PER_SPLIT


@dataclass(frozen=True)
class OptionHiroConfig:
    """Hyper-parameters of HIRO over options."""

    period: int = 10  # c, most steps for which an option is in force before one is chosen anew
    low: PPOConfig = field(default_factory=PPOConfig)  # the low level's learner
    high: DiscreteSACConfig = field(default_factory=DiscreteSACConfig)  # the high level's learner
    high_updates: float = 0.01  # gradient steps of the high level per environment step
    relabel: bool = True  # correct old options when they are drawn
    masked: bool = True  # choose among legal options only
    uniform: float = 0.1  # share of options drawn uniformly
    warmup: int = 4_000  # environment steps before the high level's first gradient step
    rollout: int = 32  # vector steps between updates
    capacity: int = 200_000  # environment steps that the high level remembers
    trunk: TrunkConfig = field(default_factory=TrunkConfig)  # of the low level
    planned: bool = False  # a controller chooses the options, and the low level alone learns
    prior_weight: float = 0.2  # lambda of KL(policy || controller) at the start, in units of the reward
    prior_until: float = 0.6  # share of the steps after which the prior has faded: divergence, and share of its choices


class OptionHigh:
    """The high level that chooses options until they are done or the clock says so."""

    def __init__(self, method: "OptionHiro") -> None:
        self._method = method

    def choose(self, observed: Observations, running: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Categorical]:
        """Whether the running option [N] has reached its end, and where the next one is drawn from."""
        method, config = self._method, self._method.config
        legal = method.legal(observed.obs)
        over = method.task.option_done(observed.obs, np.maximum(running, 0)) & (running >= 0)
        training = observed.level_seeds < SEEDS_PER_SPLIT
        if config.planned:
            assert method.planner is not None
            probs = method.planner.probs(observed.obs, legal=legal)
        else:
            probs = method.high_learner.act(observed.inputs, to_tensor(legal)).probs
            if method.planner is not None and method.prior > 0:
                share = (training * method.prior)[:, None]
                probs = (1 - share) * probs + share * method.planner.probs(observed.obs, legal=legal)
        uniform = (training * config.uniform)[:, None]
        probs = (1 - uniform) * probs + uniform * legal / legal.sum(1, keepdims=True)
        return over, Categorical(probs.astype(np.float32))


class OptionHiro:
    """The method.

    Args:
        task: What is learned; its options are what the high level chooses among.
        config: Hyper-parameters.
        num_envs: Worlds.
        seeds: Source of the random streams.
        total_steps: Environment steps of the whole run.
        controller: The planner, where there is one.
    """

    controller: ControllerNetwork | None = None
    guide: tuple[HighLevel, LowLevel] | None = None
    calibration: tuple[float, dict[str, float]] = (1.0, {})

    def __init__(
        self,
        task: Task,
        config: OptionHiroConfig,
        num_envs: int,
        seeds: np.random.SeedSequence,
        total_steps: int,
        controller: Controller | None = None,
    ) -> None:
        self.task, self.config, self.total_steps, self.planner = task, config, total_steps, controller
        self.encoder = encoder_of(task)
        weights, draws, shuffles = seeds.spawn(3)
        low_seed, high_seed = (int(seed) for seed in weights.generate_state(2))
        options = len(task.options)
        with torch.random.fork_rng():
            torch.manual_seed(low_seed)
            self.low_network = to_device(
                LowNetwork(self.encoder, options, task.num_actions, config.trunk, task.continuous)
            )
        self.low_learner = PPO(self.low_network, config.low, np.random.default_rng(shuffles))
        self.high_learner = DiscreteSAC(self.encoder, options, config.high, high_seed)
        self.rng = np.random.default_rng(draws)
        remembered = min(config.capacity, total_steps + num_envs)
        self.store = memory_for(task, remembered, num_envs, config.rollout + config.period + 1)
        timeouts = np.full(options, config.period)
        self.player = Player(OptionHigh(self), NetworkLow(self.low_network), timeouts)
        self._steps = 0
        self._owed = 0.0  # gradient steps of the high level that are due

    @property
    def prior(self) -> float:
        """What is left of the prior: one at the start, zero from `prior_until` on."""
        if self.planner is None or self.config.prior_weight == 0.0:
            return 0.0
        return max(0.0, 1.0 - self._steps / (self.config.prior_until * self.total_steps))

    def legal(self, obs: NDArray) -> NDArray[np.bool_]:
        """Options [N, K] that may be chosen at observations [N, ...]."""
        if self.config.masked:
            return self.task.legal(obs)
        return np.ones((len(obs), len(self.task.options)), np.bool_)

    def distilling(self, steps: int) -> bool:
        """The controller was distilled before."""
        return False

    def plan(self, steps: int) -> tuple[TrajectoryStore, int, float]:
        """Where the next roll-out goes, its vector steps, and that no teacher steers it."""
        return self.store, self.config.rollout, 0.0

    def update(self, observed: Observations, steps: int) -> dict[str, float]:
        """The low level learns from the roll-out just played, the high level from all that is remembered."""
        length, self._steps = (steps - self._steps) // self.store.num_envs, steps
        batch = self.low_batch(observed, length)
        info = self.low_learner.update(batch, remaining=1 - steps / self.total_steps)
        numbers = {f"low/{name}": value for name, value in info.items()}
        if self.config.planned or steps < self.config.warmup or len(self.store) <= self.config.period:
            return numbers
        self._owed += self.config.high_updates * length * self.store.num_envs
        learnt: dict[str, Tensor] = {}
        kept: list[float] = []
        while self._owed >= 1:
            learnt |= self.high_learner.update(self.high_batch(kept))
            self._owed -= 1
        numbers |= {f"high/{name}": float(value) for name, value in learnt.items()}
        if kept:
            numbers["high/relabelled_original"] = float(np.mean(kept))
        return numbers | {"high/prior": self.prior}

    def low_batch(self, observed: Observations, length: int) -> PolicyBatch:
        """The newest steps, paid 1 where the option in force was achieved.

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
        """Segments as transitions of the high level, each with the option that explains it best.

        The prior is asked at the segment's own first state; it never sees a relabelled option.
        """
        config = self.config.high
        parts = draw_segments(self.store, self.rng, config.batch, self.config.period)
        first, legal = parts.obs[:, 0], self.legal(parts.obs[:, 0])
        option = self.explained(parts, legal) if self.config.relabel else parts.option
        if kept is not None:
            kept.append(float((option == parts.option).mean()))
        decay = np.float32(config.gamma) ** np.arange(self.config.period, dtype=np.float32)
        weight = self.config.prior_weight * self.prior
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

    def graduate(self) -> dict[str, float]:
        """Nobody was taught."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Learners, memory and random states, for an exact resume."""
        return {
            "low": self.low_learner.state_dict(),
            "high": self.high_learner.state_dict(),
            "store": self.store.state_dict(),
            "rng": self.rng.bit_generator.state,
            "steps": self._steps,
            "owed": self._owed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.low_learner.load_state_dict(state["low"])
        self.high_learner.load_state_dict(state["high"])
        self.store.load_state_dict(state["store"])
        self.rng.bit_generator.state = state["rng"]
        self._steps, self._owed = state["steps"], state["owed"]

    def load_policy(self, state: dict[str, Any]) -> None:
        """Restore the networks alone, to play."""
        self.low_network.load_state_dict(state["low"]["network"])
        self.high_learner.load_state_dict(state["high"])
        self._steps = state["steps"]
