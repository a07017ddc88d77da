"""IHAC: distil a teacher into controller and low level, then improve both by reward under an annealed prior.

First `Distil` distils the labels into the controller and the skills into the low level. Then both levels act alone and
minimise loss L1 with PPO: each is held to a frozen copy of what it was after distillation, with a weight that falls to
zero well before the run ends. Unlike in the published code the second phase sees the student's own roll-outs only, and
its ratios are those of the policy that acted.

Without distillation, and flat, the same class is plain PPO.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import nn

from preceptor.agent.data.store import TrajectoryStore
from preceptor.agent.data.views import OnPolicy, on_policy
from preceptor.agent.levels import Observations, Player, SingleOption, SkillLow
from preceptor.agent.losses import PriorWeight, explained_variance, option_advantages
from preceptor.agent.methods.ppo import PPO, PolicyBatch, PPOConfig, normalised
from preceptor.agent.methods.protocol import Entry, Given, Method, Parts, Preset
from preceptor.agent.networks import HighNetwork, LowNetwork, NetworkHigh, frozen
from preceptor.agent.phases import Distil, Online
from preceptor.agent.resumable import places
from preceptor.agent.teaching import TeacherActions, TeacherHigh
from preceptor.controller.distill import DistilConfig
from preceptor.controller.encoders import Encoded, encoder_of
from preceptor.controller.network import TrunkConfig, to_tensors
from preceptor.controller.roles import network_of
from preceptor.envs.catalog import FETCH_TASKS, MAZE_TASKS, RESCUE_TASKS
from preceptor.envs.task import defines, lacking
from preceptor.ground.device import to_device, to_numpy, to_tensor
from preceptor.ground.errors import UserError
from preceptor.ground.ranges import Count, CountOrNone, NotNegative, Positive, Share


@dataclass(frozen=True)
class PPOSettings:
    """PPO (Schulman et al., 2017) from batched environments."""

    ppo: Annotated[PPOConfig, tyro.conf.arg(name="")] = field(default_factory=PPOConfig)
    """The learner."""
    rollout: Count = 32
    """Vector steps between updates."""
    reward_scale: Positive = 1.0
    """Factor on rewards, so that values are of order one."""
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    """Size of the networks."""


@dataclass(frozen=True)
class FlatSettings(PPOSettings):
    """PPO on a flat policy, without a teacher."""

    on_gpu: bool = False
    """Grids, roll-outs and updates on the GPU as well as networks (`--device cuda`), in whole rounds, all --seeds as
    one program; never tried."""


@dataclass(frozen=True)
class IhacSettings(PPOSettings):
    """IHAC: a distilled controller and low level, improved by PPO (Zhou et al., 2024: LLM4Teach, arXiv 2311.13373)."""

    asks_teacher: ClassVar[bool] = True
    student: Literal["hierarchical", "flat"] = "hierarchical"
    """hierarchical (options, then actions) or flat (actions alone, as IHAC has it)."""
    mask: bool = True
    """Let the student choose legal options only."""
    critic_warmup: Share = 0.1
    """Share of the reinforcement steps that train the values alone."""
    prior_weight: NotNegative = 0.5
    """lambda of loss L1 at the start of reinforcement, per nat."""
    prior_until: Share = 0.7
    """Share of all steps after which lambda is zero."""
    prior_target: Positive | None = None
    """Divergence from the prior, in nats, that lambda is tuned to until it fades; None for no tuning."""
    distil_steps: CountOrNone = 20_000
    """Environment steps of the first phase, distillation; 0 leaves it out."""
    distil: DistilConfig = field(default_factory=DistilConfig)
    """Distillation."""


class Ihac(Method):
    """The student: networks, and how each roll-out changes them.

    Args:
        parts: Task, settings and random streams. `settings.distil_steps` of 0, or no labeller, leaves distillation out;
            a controller is used instead of distilling one.
    """

    saved = places("prior_weight", low="low_learner", high="high_learner")
    played = ("low", "high")

    def __init__(self, parts: Parts) -> None:
        settings: PPOSettings = parts.settings
        if not isinstance(settings, IhacSettings):  # PPO: no teacher, no options
            shared = {name: getattr(settings, name) for name in ("ppo", "rollout", "reward_scale", "trunk")}
            settings = IhacSettings(student="flat", distil_steps=0, **shared)
        self.task, self.settings, self.total_steps = parts.task, settings, parts.config.steps
        task, flat = parts.task, settings.student == "flat"
        self.encoder = encoder_of(task)
        streams = [np.random.default_rng(seed) for seed in parts.seeds.spawn(3)]
        options = len(task.options)
        heads = 1 if flat else options
        self.low_network = to_device(LowNetwork(self.encoder, heads, task.num_actions, settings.trunk, task.continuous))
        self.low_learner = PPO(self.low_network, settings.ppo, streams[0])
        self.high_network: HighNetwork | None = None
        self.high_learner: PPO | None = None
        if flat:  # the only option ends at every step
            self.player = Player(SingleOption(), self.low_network, np.ones(1, np.int64))
        else:
            given = parts.controller.network if parts.controller else None
            network = given or network_of(task, settings.trunk)
            self.high_network = to_device(HighNetwork(network))
            self.high_learner = PPO(self.high_network, settings.ppo, streams[1])
            self.controller = self.high_network.controller
            self.player = Player(NetworkHigh(self.controller, settings.mask), self.low_network, task.options.timeouts)
        without = ("legal",) if flat else ()
        self.rollouts = TrajectoryStore(task, settings.rollout, parts.config.num_envs, without=without)
        online = Online(self.rollouts, settings.rollout, self.update)
        self.distil = self._distillation(parts, streams[2])
        self.phases = (self.distil, online) if self.distil else (online,)
        self._priors: tuple[nn.Module, nn.Module | None] | None = None
        self._began = settings.distil_steps if self.distil else 0  # step at which reinforcement begins
        self.prior_weight = PriorWeight(
            settings.prior_weight, self._began, settings.prior_until * parts.config.steps, settings.prior_target
        )

    def _distillation(self, parts: Parts, rng: np.random.Generator) -> Distil | None:
        settings: IhacSettings = self.settings
        if parts.labeller is None or settings.distil_steps == 0:
            return None
        if not defines(parts.task, "skill"):  # said here, not in mid-run
            raise lacking(parts.task, "skill")
        flat_expert = SingleOption(), TeacherActions(parts.labeller)
        expert = TeacherHigh(parts.labeller), SkillLow()
        controller = self.controller if parts.controller is None else None
        levels = flat_expert if settings.student == "flat" else expert
        rest: dict[str, Any] = {"low": self.low_network, "steps": settings.distil_steps, "ended": self._freeze_priors}
        return Distil(parts, levels, controller, rng, **rest)

    def update(self, observed: Observations, steps: int) -> dict[str, float]:
        """Learn from the roll-out just collected; `observed` is what came after it, `steps` the steps so far."""
        rollout = on_policy(self.rollouts, self.encoder, observed.obs)
        weight, remaining = self.prior_weight(steps) if self._priors else 0.0, 1 - steps / self.total_steps
        warm = self._began + self.settings.critic_warmup * (self.total_steps - self._began)
        policy = steps > warm or self._priors is None
        info: dict[str, float] = {}
        low_prior, high_prior = self._priors or (None, None)
        for level, prior in {"low": low_prior, **({"high": high_prior} if self.high_learner else {})}.items():
            learned = self._learn(level, rollout, prior, weight, policy, remaining)
            info |= {f"{level}/{name}": value for name, value in learned.items()}
        divergences = [info[name] for name in ("low/prior_kl", "high/prior_kl") if name in info]
        if divergences:
            self.prior_weight.observe(float(np.mean(divergences)))
        self.rollouts.clear()
        return info | {"low/prior_weight": weight}

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers, priors, stored scenes and random states, for an exact resume."""
        distil = self.distil.state_dict() if self.distil and self._priors is None else None
        priors = [prior.state_dict() if prior else None for prior in self._priors] if self._priors else None
        return super().state_dict() | {"priors": priors, "distil": distil}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        super().load_state_dict(state)
        if state["priors"] is not None:
            self._freeze_priors()
            for prior, saved in zip(self._priors or (), state["priors"], strict=True):
                if prior is not None:
                    prior.load_state_dict(saved)
        if self.distil is not None and state["distil"] is not None:
            self.distil.load_state_dict(state["distil"])

    def _freeze_priors(self) -> None:
        """Distillation is over: each level is held to what it is now, and the scenes are not needed any more."""
        self._priors = (frozen(self.low_network), frozen(self.high_network) if self.high_network else None)
        if self.distil is not None:
            self.distil.release()

    def _learn(
        self, level: str, rollout: OnPolicy, prior: nn.Module | None, weight: float, policy: bool, remaining: float
    ) -> dict[str, float]:
        """What a level learns from what it chose: the low one actions at every step, the high one options now and then.

        Nothing where one option ran through the whole roll-out, of few environments.
        """
        store, chosen = rollout.store, rollout.chosen
        learner, condition, action, log_prob = self.low_learner, "option", "action", "behaviour_logprob"
        legal: NDArray[np.bool_] | None = None
        value_after: Callable[[Encoded, NDArray[np.int64]], NDArray[np.float32]] = self._continuation
        if level == "high":
            assert self.high_learner is not None
            learner, condition, action, log_prob = self.high_learner, "prev_option", "option", "option_logprob"
            legal = store.flat("legal") if self.settings.mask else None
            value_after = partial(_values, learner.network)
        else:
            chosen = np.ones_like(chosen)
        before = store.flat(condition)
        values = _values(learner.network, rollout.encoded, before).reshape(chosen.shape)
        advantages = self._advantages(rollout, chosen, values, value_after)
        rows = np.flatnonzero(chosen)
        if not len(rows):
            return {}
        returns = (advantages + values).ravel()[rows]
        batch = PolicyBatch(
            (*to_tensors(rollout.encoded[rows]), to_tensor(before[rows])),
            to_tensor(store.flat(action)[rows]),
            to_tensor(store.flat(log_prob)[rows]),
            to_tensor(normalised(advantages.ravel()[rows])),
            to_tensor(returns),
            None if legal is None else to_tensor(legal[rows]),
        )
        info = learner.update(batch, prior, weight, policy, remaining)
        return info | {"explained_variance": explained_variance(values.ravel()[rows], returns)}

    def _advantages(
        self,
        rollout: OnPolicy,
        chosen: NDArray[np.bool_],
        values: NDArray[np.float32],
        value_after: Callable[[Encoded, NDArray[np.int64]], NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        """Advantages [T, N] of choices; `value_after` values observations [M] after the option that ran there."""
        store, config = rollout.store, self.settings.ppo
        running, bootstrap = store.column("option"), np.zeros_like(values)
        time, env = rollout.final_rows.T
        bootstrap[time, env] = value_after(rollout.final, running[time, env])
        still = ~(store.column("terminated")[-1] | store.column("truncated")[-1])
        bootstrap[-1, still] = value_after(rollout.last, running[-1])[still]
        reward = store.column("reward") * np.float32(self.settings.reward_scale)
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
def _values(network: nn.Module, encoded: Encoded, condition: NDArray[np.int64]) -> NDArray[np.float32]:
    """The network's values [M] of observations under an option, or after it."""
    return to_numpy(network(*to_tensors(encoded), to_tensor(condition))[1])


class FlatPPO(Ihac):
    """PPO alone, without a teacher and without options; see `FlatSettings`."""

    saved = places(**Ihac.saved, on_gpu="on_gpu")

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.on_gpu: Any = None
        if parts.settings.on_gpu and parts.run is not None:  # else it is only played
            from preceptor.agent.methods.ppo_on_gpu import OnGpu  # compilers, which take a while

            settings, seed = self.settings, int(parts.seeds.spawn(1)[0].generate_state(1)[0])
            num_envs, rollout = parts.config.num_envs, settings.rollout
            if parts.config.steps < num_envs * rollout:
                what = f"--steps {parts.config.steps} is less than one round of --on-gpu, {num_envs} * {rollout} steps."
                raise UserError(what, f"--steps {num_envs * rollout}, or --num-envs and --rollout with less of them")
            self.on_gpu = OnGpu(parts.task, self.low_learner, num_envs, rollout, settings.reward_scale, seed)
            self.phases = (self.on_gpu,)

    def join(self, others: "Sequence[FlatPPO]") -> None:
        """See `Method.join`."""
        from preceptor.agent.methods.ppo_on_gpu import OnGpu

        OnGpu.join([each.on_gpu for each in (self, *others)])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        super().load_state_dict({"on_gpu": None} | state)  # earlier versions do not have it


# Steps in all and, of these, steps of distillation: what each task was seen to need (dev/LOG.md).
_STEPS = {
    "tiny": {"": (8_000, 6_000)},
    "small": {
        "": (120_000, 60_000),
        "SimpleDoorKey": (30_000, 20_000),
        "ColoredDoorKey": (160_000, 100_000),
        "TwoDoor": (300_000, 150_000),
    },
    "paper": {"": (2_000_000, 200_000)},
}
# Cells by which rooms are stretched in distillation, where rooms larger than those of training were aimed at.
_STRETCH = {"ColoredDoorKey": 5}
# Steps of distillation where all that the teacher is asked is a few dozen questions.
FEW_SCENES = dict.fromkeys((*MAZE_TASKS, *RESCUE_TASKS, *FETCH_TASKS), 8_000)
_NUM_ENVS = {"tiny": 32, "small": 64, "paper": 128}
# PPO alone: many environments and large batches once there are steps enough for many updates all the same.
_PPO_STEPS, _PPO_ENVS, _AT_LENGTH = 1_000_000, 256, 300_000
_FROM_SCRATCH_AT_LENGTH = PPOConfig(lr=1e-3, minibatch=2048)
_FINE_TUNING = PPOConfig(lr=1e-4, entropy=0.0)
# A student of a flawed teacher has to find by reward what it was taught wrongly. It has to unlearn steps onto lava, on
# which no second look at the labels throws doubt.
_STEPS_IF_FLAWED, _ENVS_IF_FLAWED = (500_000, 60_000), 128
_RELEARNING = {"lava": IhacSettings(PPOConfig(lr=3e-4, entropy=0.003, minibatch=512))}
# PPO over vectors: long roll-outs, many epochs, no entropy bonus; rewards of metres are brought to order one.
PPO_OF_VECTORS, PPO_ENVS = PPOConfig(lr=1e-3, epochs=10, entropy=0.0), 16
_VECTOR_STEPS = {"": 500_000, "PointReach": 60_000, "Pendulum-v1": 100_000}
# PPO over Gymnasium's environments with named actions; chosen on seeds 10 to 17 of CartPole-v1 (dev/LOG.md).
_NAMED, _NAMED_STEPS = PPOConfig(lr=1e-3, epochs=10, entropy=0.0, gamma=0.98, lam=0.9), 200_000


def budget(given: Given) -> tuple[int, int, int]:
    """Steps in all, steps of distillation among them, and environments side by side."""
    table = _STEPS[given.size]
    flawed = given.flaw is not None and given.size == "small"
    total, distilled = _STEPS_IF_FLAWED if flawed else table.get(given.task.base_name, table[""])
    if given.steps is not None:
        distilled = round(distilled * min(1.0, given.steps / total))
        total = given.steps
    return total, distilled if given.taught else 0, _ENVS_IF_FLAWED if flawed else _NUM_ENVS[given.size]


def ihac_preset(given: Given) -> Preset:
    """Settings of IHAC for a task."""
    if given.task.continuous:
        what = f"ihac clones skills of named actions, and those of {given.task.name} are vectors."
        raise UserError(what, f"python main.py train --method hiro --task {given.task.source}")
    total, distilled, num_envs = budget(given)
    if not distilled:
        num_envs = _PPO_ENVS if total >= _AT_LENGTH else num_envs
        settings = IhacSettings(_FROM_SCRATCH_AT_LENGTH if total >= _AT_LENGTH else PPOConfig())
    else:
        settings = _RELEARNING.get(given.flaw or "", IhacSettings(_FINE_TUNING))
    distil = replace(settings.distil, stretch=_STRETCH.get(given.task.base_name, 0))
    return Preset(total, num_envs, replace(settings, distil_steps=distilled, distil=distil))


def ppo_preset(given: Given) -> Preset:
    """Settings of PPO for a task."""
    if given.task.continuous:
        steps = given.steps or _VECTOR_STEPS.get(given.task.name, _VECTOR_STEPS[""])
        ppo = replace(PPO_OF_VECTORS, gamma=0.95) if given.task.name == "Pendulum-v1" else PPO_OF_VECTORS
        return Preset(steps, PPO_ENVS, FlatSettings(ppo, rollout=128, reward_scale=0.1))
    if len(given.task.options) == 1 and len(given.task.observation_shape) == 1:
        return Preset(given.steps or _NAMED_STEPS, PPO_ENVS, FlatSettings(_NAMED, rollout=64, reward_scale=0.1))
    total, _, num_envs = budget(given)
    if given.steps is None and given.size == "small":
        total = _PPO_STEPS
    long = total >= _AT_LENGTH
    return Preset(
        total, _PPO_ENVS if long else num_envs, FlatSettings(_FROM_SCRATCH_AT_LENGTH if long else PPOConfig())
    )


IHAC = Entry((IhacSettings,), ihac_preset, Ihac, takes_controller=True, needs_options=True)
PPO_ALONE = Entry(
    (FlatSettings,),
    ppo_preset,
    FlatPPO,
    plays=lambda settings: not settings.on_gpu,
    joins=lambda settings: settings.on_gpu,
)
