"""IHAC: distil a teacher into controller and low level, then improve both by reward under an annealed prior.

First DAgger (agent/methods/dagger.py) distils the labels into the controller and the skills into the low level. Then
both levels act alone and minimise loss L1 with PPO: each is held to a frozen copy of what it was after distillation,
with a weight that falls to zero well before the run ends. Unlike the published code (shared/reference/ihac.md,
section 1.5) the reinforcement phase sees the student's own roll-outs only, and its ratios are those of whoever acted.

Without distillation, and flat, the same class is plain PPO.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from agent.core import HighLevel, LowLevel, Observations, Player
from agent.data.store import TrajectoryStore, store_for
from agent.data.views import OnPolicy, on_policy
from agent.losses import explained_variance, option_advantages
from agent.methods.dagger import DaggerConfig, Distiller
from agent.methods.ppo import PPO, PolicyBatch, PPOConfig, normalised
from agent.networks import HighNetwork, LowNetwork, NetworkHigh, NetworkLow, frozen
from agent.teaching import Labeller, SingleOption, SkillLow, TeacherActions, TeacherHigh
from controller.encoders import Encoded, encoder_of
from controller.network import ControllerNetwork, TrunkConfig, to_tensors
from envs.task import Task
from ground.device import to_device, to_numpy, to_tensor


@dataclass(frozen=True)
class IhacConfig:
    """Hyper-parameters of one student, flat or hierarchical."""

    flat: bool = False  # primitive actions only, as in the published IHAC
    masked: bool = True  # choose among legal options only
    rollout: int = 32  # vector steps between PPO updates
    reward_scale: float = 1.0  # factor on rewards, so that values are of order one
    critic_warmup: float = 0.1  # share of the reinforcement steps that train the values alone
    prior_weight: float = 0.5  # lambda of L1 at the start of reinforcement
    prior_until: float = 0.7  # share of all steps after which lambda is zero
    dagger: DaggerConfig = field(default_factory=DaggerConfig)
    low: PPOConfig = field(default_factory=PPOConfig)
    high: PPOConfig = field(default_factory=PPOConfig)
    trunk: TrunkConfig = field(default_factory=TrunkConfig)


class Ihac:
    """The student: networks, who acts when, and how each roll-out changes the networks.

    Args:
        task: What is learned.
        labeller: Labels scenes; None for a student without a teacher.
        config: Hyper-parameters; `config.dagger.steps` of 0 leaves distillation out.
        total_steps: Environment steps of the whole run.
        num_envs: Worlds.
        seeds: Source of the random streams.
        controller: A distilled controller to use instead of distilling one.
    """

    def __init__(
        self,
        task: Task,
        labeller: Labeller | None,
        config: IhacConfig,
        total_steps: int,
        num_envs: int,
        seeds: np.random.SeedSequence,
        controller: ControllerNetwork | None = None,
    ) -> None:
        self.task, self.config, self.total_steps = task, config, total_steps
        self.encoder = encoder_of(task)
        streams = [np.random.default_rng(seed) for seed in seeds.spawn(3)]
        options = len(task.options)
        heads = 1 if config.flat else options
        self.low_network = to_device(LowNetwork(self.encoder, heads, task.num_actions, config.trunk, task.continuous))
        self.low_learner = PPO(self.low_network, config.low, streams[0])
        self.high_network: HighNetwork | None = None
        self.high_learner: PPO | None = None
        if not config.flat:
            self.high_network = to_device(
                HighNetwork(controller or ControllerNetwork(self.encoder, options, config.trunk))
            )
            self.high_learner = PPO(self.high_network, config.high, streams[1])
        self.rollouts = store_for(task, config.rollout, num_envs)
        self.distiller: Distiller | None = None
        self.guide: tuple[HighLevel, LowLevel] | None = None
        if labeller is not None and config.dagger.steps > 0:
            learns = self.high_network.controller if self.high_network and controller is None else None
            self.distiller = Distiller(task, labeller, learns, self.low_network, config.dagger, streams[2], num_envs)
            flat_guide = (SingleOption(), TeacherActions(labeller))
            self.guide = flat_guide if config.flat else (TeacherHigh(labeller), SkillLow())
        self.calibration: tuple[float, dict[str, float]] = (1.0, {})
        self._priors: tuple[nn.Module, nn.Module | None] | None = None

    @property
    def player(self) -> Player:
        """The student; a flat one's only option ends at every step."""
        low = NetworkLow(self.low_network)
        if self.high_network is None:
            return Player(SingleOption(), low, np.ones(1, np.int64))
        high = NetworkHigh(self.high_network.controller, self.config.masked)
        return Player(high, low, self.task.options.timeouts)

    @property
    def controller(self) -> ControllerNetwork | None:
        """The network that labels were distilled into; None for a flat student."""
        return self.high_network.controller if self.high_network else None

    def distilling(self, steps: int) -> bool:
        """Whether the teacher still labels at this point of the run."""
        return self.distiller is not None and steps < self.config.dagger.steps

    def plan(self, steps: int) -> tuple[TrajectoryStore, int, float]:
        """Where the next roll-out goes, its vector steps, and the share of it that the teacher steers."""
        if self.distiller is not None and self.distilling(steps):
            return self.distiller.store, self.config.dagger.rollout, self.distiller.mix(steps)
        return self.rollouts, self.config.rollout, 0.0

    def prior_weight(self, steps: int) -> float:
        """lambda of L1: linear from `prior_weight` at the end of distillation to zero at `prior_until`."""
        if self._priors is None:
            return 0.0
        start, end = self.config.dagger.steps, self.config.prior_until * self.total_steps
        return self.config.prior_weight * float(np.clip((end - steps) / max(1.0, end - start), 0, 1))

    def update(self, observed: Observations, steps: int) -> dict[str, float]:
        """Learn from the roll-out just collected; `observed` is what came after it, `steps` the steps so far."""
        if self.distiller is not None and len(self.rollouts) == 0:
            return {f"controller/{name}": value for name, value in self.distiller.update(steps).items()}
        rollout = on_policy(self.rollouts, self.encoder, observed.obs)
        weight, remaining = self.prior_weight(steps), 1 - steps / self.total_steps
        start = self.config.dagger.steps if self._priors else 0
        policy = steps > start + self.config.critic_warmup * (self.total_steps - start) or self._priors is None
        low_prior, high_prior = self._priors or (None, None)
        info = {"low/" + k: v for k, v in self._update_low(rollout, low_prior, weight, policy, remaining).items()}
        if self.high_learner is not None:
            high_info = self._update_high(rollout, high_prior, weight, policy, remaining)
            info |= {"high/" + k: v for k, v in high_info.items()}
        self.rollouts.clear()
        return info | {"low/prior_weight": weight}

    def graduate(self) -> dict[str, float]:
        """Distillation is over: calibrate, freeze the priors, and let the teacher and its scenes go."""
        assert self.distiller is not None
        info: dict[str, float] = {}
        if self.distiller.controller is not None:
            self.calibration = self.distiller.calibrate()
            info = {f"controller/{name}": value for name, value in self.calibration[1].items()}
        self._freeze_priors()
        self.distiller = self.guide = None
        return info

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers, priors, stored scenes and random states, for an exact resume."""
        return {
            "low": self.low_learner.state_dict(),
            "high": self.high_learner.state_dict() if self.high_learner else None,
            "priors": [prior.state_dict() if prior else None for prior in self._priors] if self._priors else None,
            "distiller": self.distiller.state_dict() if self.distiller else None,
            "calibration": self.calibration,
        }

    def load_policy(self, state: dict[str, Any]) -> None:
        """Restore the networks alone, to play."""
        self.low_network.load_state_dict(state["low"]["network"])
        if self.high_network is not None:
            self.high_network.load_state_dict(state["high"]["network"])
        self.calibration = state["calibration"]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.low_learner.load_state_dict(state["low"])
        if self.high_learner is not None:
            self.high_learner.load_state_dict(state["high"])
        self.calibration = state["calibration"]
        if state["priors"] is not None:
            self._freeze_priors()
            for prior, saved in zip(self._priors or (), state["priors"], strict=True):
                if prior is not None:
                    prior.load_state_dict(saved)
        if state["distiller"] is None:
            self.distiller = self.guide = None
        elif self.distiller is not None:
            self.distiller.load_state_dict(state["distiller"])

    def _freeze_priors(self) -> None:
        self._priors = (frozen(self.low_network), frozen(self.high_network) if self.high_network else None)

    def _update_low(
        self, rollout: OnPolicy, prior: nn.Module | None, weight: float, policy: bool, remaining: float
    ) -> dict[str, float]:
        store, config = rollout.store, self.config.low
        option = rollout.flat("option")
        values = _forward(self.low_network, rollout.encoded, option)[1].reshape(store.column("reward").shape)
        bootstrap = np.zeros_like(values)
        time, world = rollout.final_rows.T
        running = store.column("option")
        bootstrap[time, world] = self._continuation(rollout.final, running[time, world])
        still = ~(store.column("terminated")[-1] | store.column("truncated")[-1])
        bootstrap[-1, still] = self._continuation(rollout.last, running[-1])[still]
        advantages = self._advantages(rollout, np.ones_like(rollout.chosen), values, bootstrap, config)
        returns = advantages + values
        batch = PolicyBatch(
            (*to_tensors(rollout.encoded), to_tensor(option)),
            to_tensor(rollout.flat("action")),
            to_tensor(rollout.flat("behaviour_logprob")),
            to_tensor(normalised(advantages.ravel())),
            to_tensor(returns.ravel()),
        )
        info = self.low_learner.update(batch, prior, weight, policy, remaining)
        return info | {"explained_variance": explained_variance(values, returns)}

    def _update_high(
        self, rollout: OnPolicy, prior: nn.Module | None, weight: float, policy: bool, remaining: float
    ) -> dict[str, float]:
        assert self.high_network is not None
        assert self.high_learner is not None
        store, config, chosen = rollout.store, self.config.high, rollout.chosen
        previous = rollout.flat("prev_option")
        values = _forward(self.high_network, rollout.encoded, previous)[1].reshape(chosen.shape)
        bootstrap = np.zeros_like(values)
        time, world = rollout.final_rows.T
        running = store.column("option")
        bootstrap[time, world] = _forward(self.high_network, rollout.final, running[time, world])[1]
        still = ~(store.column("terminated")[-1] | store.column("truncated")[-1])
        bootstrap[-1, still] = _forward(self.high_network, rollout.last, running[-1])[1][still]
        advantages = self._advantages(rollout, chosen, values, bootstrap, config)
        rows = np.flatnonzero(chosen)
        returns = (advantages + values).ravel()[rows]
        batch = PolicyBatch(
            (*to_tensors(rollout.encoded[rows]), to_tensor(previous[rows])),
            to_tensor(rollout.flat("option")[rows]),
            to_tensor(rollout.flat("option_logprob")[rows]),
            to_tensor(normalised(advantages.ravel()[rows])),
            to_tensor(returns),
            to_tensor(rollout.flat("legal")[rows]) if self.config.masked else None,
        )
        info = self.high_learner.update(batch, prior, weight, policy, remaining)
        return info | {"explained_variance": explained_variance(values.ravel()[rows], returns)}

    def _advantages(
        self, rollout: OnPolicy, chosen: NDArray, values: NDArray, bootstrap: NDArray, config: PPOConfig
    ) -> NDArray[np.float32]:
        store = rollout.store
        reward = store.column("reward") * np.float32(self.config.reward_scale)
        ends = store.column("terminated"), store.column("truncated")
        return option_advantages(reward, chosen, values, bootstrap, *ends, config.gamma, config.lam)

    def _continuation(self, encoded: Encoded, running: NDArray[np.int64]) -> NDArray[np.float32]:
        """V of going on from here: under the running option, or, where that is over, under the next one on average."""
        with torch.no_grad():
            inputs = to_tensors(encoded)
            values = self.low_network.all_options(*inputs)[1]
            if self.high_network is None:
                return to_numpy(values[:, 0])
            rows, option = np.arange(len(running)), to_tensor(running)
            option_logits, done_logits = self.high_network.controller(*inputs, option)
            expected = (torch.softmax(option_logits, 1) * values).sum(1)
            return to_numpy(torch.where(done_logits[rows, option] > 0, expected, values[rows, option]))


@torch.no_grad()
def _forward(
    network: nn.Module, encoded: Encoded, condition: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    logits, values = network(*to_tensors(encoded), to_tensor(condition))
    return to_numpy(logits), to_numpy(values)
