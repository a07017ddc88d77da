"""HELIOS: skills from unlabelled demonstrations, a mixture prior over them, and reinforcement learning held to it.

First a skill model learns windows of the demonstrations (`agent/skills.py`), its latent shaped by a mixture that finds
how many kinds of skills there are (`agent/dpm.py`). Then a prior p(z | s) learns which skill is done where. Then soft
actor-critic over skills solves the task, held to that prior (SPiRL; Pertsch et al., 2020). The published method holds
it to one Gaussian; here the prior can be the mixture itself.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preceptor.agent.clock import latent
from preceptor.agent.data.recording import Recording
from preceptor.agent.data.views import Segments, sample_segments, windows
from preceptor.agent.demonstrating import demonstrations_of
from preceptor.agent.dpm import DPMixture
from preceptor.agent.levels import Observations, Player
from preceptor.agent.losses import PriorWeight, weighted_regression
from preceptor.agent.methods.off_policy import UpdateRatio, ring_for
from preceptor.agent.methods.protocol import Entry, Given, Method, Parts, Preset
from preceptor.agent.mixtures import Mixture, MixtureNetwork, cross_entropy
from preceptor.agent.phases import Offline, Online
from preceptor.agent.resumable import places
from preceptor.agent.skill_learner import SkillLearner, transitions
from preceptor.agent.skills import SkillHigh, SkillModel, standard_divergence
from preceptor.controller.encoders import encoder_of
from preceptor.ground.device import to_device, to_tensor
from preceptor.ground.errors import UserError
from preceptor.ground.optim import FusedAdam
from preceptor.ground.ranges import Count, CountOrNone, NotNegative, Positive, Share

_FIRST_FIT = 1 / 8  # of the skill model's steps, after which the mixture is fitted first
_SOONER, _SPARSER = 0.5, 1.35  # the time to the second fit, in that to the first one, and how the times then grow
_BLEND = 100  # gradient steps over which the mixture takes the place of N(0, I), so that the loss does not jump
_FITTED, _FITTED_LAST = 5_000, 20_000  # windows that the mixture is fitted to, on the way and in the end
_OF_GAUSSIAN, _OF_MIXTURE = 5.0, 3.0  # nats by which a policy strays from its prior, if nothing is said
_BETA_SHAPED, _BETA_PLAIN = 0.02, 0.05
_NOISE, _LARGEST = 0.1, 20.0  # of a decoder that is tuned: deviation of its actions while it learns, bound of weights
_FARTHEST = 3.0  # deviations of its components within which the means of prior and policy stay
_AT_ONCE = 4_096  # windows that are encoded together


@dataclass(frozen=True)
class HeliosSettings:
    """Skills from demonstrations, a prior over them, and reinforcement learning over skills. --steps are gradient
    steps, of the skill model and then of the prior; --online environment steps come after them."""

    demos: str = "300"
    """Demonstrations, as `train --method bc` takes them."""
    horizon: Count = 10
    """H, steps of a skill."""
    dims: Count = 8
    """D, numbers of a skill."""
    encoder: Literal["mlp", "gru"] = "mlp"
    """How a window is encoded."""
    latent: Literal["shaped", "plain"] = "shaped"
    """shaped: q is held to a Dirichlet-process mixture (HELIOS); plain: to N(0, I) (SPiRL)."""
    beta: Positive | None = None
    """Weight of the KL in the loss, both sums; 0.02 of a shaped latent and 0.05 of a plain one if not given, the better
    of the two for each (seeds 0 and 1 of the kinematic kitchen)."""
    prior: Literal["dpm", "gauss", "mdn", "uniform"] = "dpm"
    """p(z | s), which holds the policy: dpm, a mixture whose components are those that were found; gauss, one Gaussian
    (SPiRL, and HELIOS as published); mdn, a mixture of --components; uniform, none."""
    policy: Literal["prior", "gaussian", "mixture"] = "prior"
    """The policy over skills: as many components as the prior has, one, or --components."""
    components: Count = 8
    """Of mixtures whose number of components is not found."""
    concentration: Positive = 5.0
    """Of the Dirichlet process: how readily it finds more kinds of skills."""
    least: Share = 0.04
    """rho, the smallest share of the windows that a kind of skill may have."""
    prior_steps: CountOrNone = 0
    """Gradient steps of the prior; a third of all if 0."""
    hidden: Count = 128
    """Width of all layers."""
    skill_lr: Positive = 1e-3
    """Learning rate of skill model and prior."""
    decay: Share = 0.0
    """Last share of the steps of each of the two, over which that rate falls linearly to zero."""
    skill_batch: Count = 64
    """Windows per gradient step of the skill model; the prior sees twice as many."""
    online: CountOrNone = 63_000
    """Environment steps of reinforcement learning."""
    lr: Positive = 3e-4
    """Learning rate of policy and critics."""
    gamma: Share = 0.99
    """Discount per skill."""
    tau: Share = 0.005
    """Share by which the target critics follow."""
    batch: Count = 128
    """Transitions per gradient step."""
    updates: Positive = 1.0
    """Gradient steps per skill that is played."""
    warmup: CountOrNone = 300
    """Skills that are played before the first gradient step."""
    divergence: NotNegative | None = None
    """delta, nats by which the policy strays from the prior; 5 of one Gaussian and 3 of a mixture if not given."""
    decoder: Literal["frozen", "tuned"] = "frozen"
    """Whether reinforcement learning leaves the decoder, or tunes it: it plays with noise, and what turned out better
    than the skill's value is cloned (loss L2 with exponential weights)."""
    normed: bool = False
    """Whether the critics have layer normalisation, which keeps them from overestimating (Ball et al., 2023)."""
    hold: Positive = 0.1
    """lambda at the start, by which the prior holds the policy."""
    hold_rate: Positive = 1e-3
    """Size of the steps of log lambda."""

    @property
    def online_steps(self) -> int:
        """Environment steps after the gradient steps."""
        return self.online


class Helios(Method):
    """The method: a phase for the skill model, one for the prior, and one that is played.

    Args:
        parts: Task, settings and random streams.

    Raises:
        UserError: Actions are named, or demonstrations are too short, too few, or not of this task.
    """

    saved = places(
        *("model", "optimizer", "mixture", "components", "taken", "fits", "rng", "noise", "store"),
        *("prior", "prior_optimizer", "start_optimizer", "learner", "tuner"),
        left="ratio.left",
    )
    played = ("model", "mixture", "prior", "learner")

    def __init__(self, parts: Parts) -> None:
        task, settings = parts.task, parts.settings
        if not task.continuous or len(task.observation_shape) != 1:
            what = f"helios decodes skills into vectors, and {task.name} has named actions or maps."
            raise UserError(what, "python main.py train --method helios --task KitchenKinematic")
        self.task, self.settings, self.encoder, self._parts = task, settings, encoder_of(task), parts
        weights, draws, self._seeds = parts.seeds.spawn(3)
        self.noise = torch.Generator().manual_seed(int(weights.generate_state(1)[0]))
        self.rng, self.inputs = np.random.default_rng(draws), task.observation_shape[0]
        self.beta = settings.beta or (_BETA_SHAPED if settings.latent == "shaped" else _BETA_PLAIN)
        size = settings.horizon, settings.dims, settings.hidden, settings.encoder
        self.model = to_device(SkillModel(self.inputs, task.num_actions, *size))
        self.model.noise = _NOISE if settings.decoder == "tuned" else 0.0
        self.optimizer = FusedAdam(self.model.parameters(), settings.skill_lr)
        self.tuner = FusedAdam(self.model.decoder.parameters(), settings.lr)
        self.mixture = DPMixture(settings.dims, settings.concentration, settings.least)
        self.taken = 0  # gradient steps
        self.fits: list[int] = []  # those after which the mixture was fitted
        self.ratio = UpdateRatio(settings.updates)
        self.store: Any = None
        self._highs = SkillHigh(), SkillHigh()  # of players that others hold already: their networks are exchanged
        self.player, self.prior_player = (
            Player(high, self.model, np.full(1, settings.horizon), latent(settings.dims)) for high in self._highs
        )
        self._make(1, 1)
        if parts.run is not None:
            recording, _ = demonstrations_of(settings.demos, task, parts.config.seed, parts.run)
            self.begin(recording)

    def _make(self, prior: int, policy: int) -> None:
        """Prior and policy of so many components, which the players play from now on."""
        settings = self.settings
        self.components = [prior, policy]
        hidden = (settings.hidden,) * 2
        self.prior, start = (
            to_device(MixtureNetwork(self.inputs, hidden, count, settings.dims)) for count in self.components
        )
        self.prior_optimizer, self.start_optimizer = (
            FusedAdam(network.parameters(), settings.skill_lr) for network in (self.prior, start)
        )
        wanted = settings.divergence
        if wanted is None:
            wanted = _OF_GAUSSIAN if policy == 1 else _OF_MIXTURE
        self.learner = SkillLearner(
            self.inputs,
            start,
            self.divergence_from_prior,
            hidden=hidden,
            lr=settings.lr,
            tau=settings.tau,
            normed=settings.normed,
            weight=PriorWeight(settings.hold, target=wanted, rate=settings.hold_rate),
            seed=int(self._seeds.generate_state(1)[0]),
        )
        self._highs[0].network, self._highs[1].network = start, self.prior

    def begin(self, recording: Recording) -> None:
        """Make ready to learn from demonstrations.

        Raises:
            UserError: They are too short.
        """
        settings, total = self.settings, self._parts.config.steps
        self.recording, self.windows = recording, windows(recording, settings.horizon)
        self.rows = np.flatnonzero(self.windows.count == settings.horizon)
        if not len(self.rows):
            longest = int(recording.lengths.max()) - 1
            raise UserError(f"No demonstration has {settings.horizon} actions.", f"--horizon {longest}  # or less")
        if not recording.action[recording.acted].std(0).any():
            what = "All demonstrations do the same at every step, so that there are no skills to tell apart."
            raise UserError(what, f"python main.py doctor --data {settings.demos} --task {self.task.source}")
        self.obs, self.action = self.encoder(recording.obs).parts[0], recording.action
        self.skill_steps = total - (settings.prior_steps or total // 3)
        self.store = ring_for(self._parts, settings.online, 2 * settings.horizon + 1, settings.dims)
        self._began = total
        skills = Offline(recording, self.update_skills, until=self.skill_steps, ended=self.found)
        prior = Offline(recording, self.update_prior, until=total, ended=self.begin_learning)
        prior.judged_as, prior.farewell = "offline", "skills and their prior are learned; reinforcement learning begins"
        online = Online(self.store, settings.horizon, self.update)
        self._recorded_steps = int(recording.acted.sum())
        self.result = online.result = dict(prior.result)
        self.phases = (skills, prior, online)

    # The skill model.

    def update_skills(self) -> dict[str, float]:
        """One gradient step of the skill model; now and then the mixture is fitted to its latent."""
        obs, action = self._windows(self.rng.choice(self.rows, self.settings.skill_batch))
        loss, info = self.model.loss(obs, action, self.beta, self.divergence, self.noise)
        rate = self._pace(0, self.skill_steps, self.optimizer)
        self.optimizer.minimize(loss)
        self.taken += 1
        told = {f"low/{name}": float(value) for name, value in (info | rate).items()}
        if self.settings.latent == "shaped" and self.taken >= self._next_fit() and self.taken < self.skill_steps:
            told |= self._fit(_FITTED)
        return told

    def divergence(self, mean: Tensor, log_std: Tensor, skill: Tensor) -> Tensor:
        """KL [B] of q from N(0, I), and once it was fitted, from the mixture: sum_k r_k KL(q || N_k), r constant."""
        plain = standard_divergence(mean, log_std, skill)
        if not self.fits:
            return plain
        shares = self.mixture.responsibilities(skill.detach())
        found = self.mixture.divergence(mean, log_std, shares)
        return plain.lerp(found, min(1.0, (self.taken - self.fits[0]) / _BLEND))

    def _next_fit(self) -> float:
        """Gradient steps after which the mixture is fitted next: often at first, and then more and more seldom."""
        first = _FIRST_FIT * self.skill_steps
        return first * (1 + _SOONER * sum(_SPARSER**n for n in range(len(self.fits))))

    def _fit(self, count: int) -> dict[str, float]:
        """Fit the mixture to the latent of so many windows, or of all."""
        rows = self.rng.permutation(self.rows)[:count]
        mean, log_std = self.latents(rows)
        skills = torch.addcmul(mean, log_std.exp(), torch.randn(mean.shape, generator=self.noise).to(mean.device))
        report = self.mixture.fit(skills, self.rng, warm=bool(self.fits))
        self.fits = [*self.fits, self.taken]
        return {"high/components": float(report.components)}

    @torch.no_grad()
    def latents(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Mean and log-deviation [M, D] of q of the windows `rows` [M]."""
        parts = [self.model.encode(*self._windows(part)) for part in np.array_split(rows, -(-len(rows) // _AT_ONCE))]
        return torch.cat([mean for mean, _ in parts]), torch.cat([log_std for _, log_std in parts])

    def _windows(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Encoded observations [B, H, O] and actions [B, H, A] of the windows `rows` [B]."""
        steps = self.windows.start[rows][:, None] + np.arange(self.settings.horizon)
        at = self.windows.episode[rows][:, None], steps
        return to_tensor(self.obs[at]), to_tensor(self.action[at])

    # The prior.

    def found(self) -> dict[str, float]:
        """The skill model is finished: a last fit, and the prior begins with what it found, or with some latents."""
        info, settings, kinds = self._fit(_FITTED_LAST), self.settings, len(self.mixture.weight)
        if self._parts.log is not None and (doubt := self._doubt(kinds)):
            self._parts.log.warn(doubt)
        prior = {"dpm": kinds, "mdn": settings.components}.get(settings.prior, 1)
        self._make(prior, {"gaussian": 1, "mixture": settings.components}.get(settings.policy, prior))
        mean, log_std = self.latents(self.rng.permutation(self.rows)[:_FITTED])
        spread = (mean.var(0) + (2 * log_std).exp().mean(0)).sqrt()
        bound = (mean.abs() + _FARTHEST * spread).amax(0)
        for network in (self.prior, self.learner.policy):
            count = network.components
            if self._of_mixture(network):
                network.begin(self.mixture.mean.float(), self.mixture.var.sqrt().float(), bound)
            elif count == 1:
                network.begin(mean.mean(0, keepdim=True), spread[None], bound)
            else:
                network.begin(mean[:count], spread.expand(count, -1), bound)
        self.result["skills"] = kinds
        return info

    def _doubt(self, kinds: int) -> str:
        """Why little may come of a mixture of so many kinds; empty if nothing speaks against it."""
        if kinds == self.mixture.cap:
            return f"the mixture has as many kinds of skills as it may, {kinds}: --beta or --least is too small"
        if kinds == 1 and self.settings.latent == "shaped":
            return "the mixture has found one kind of skills, a plain Gaussian: --beta or --least is too large"
        return ""

    def _of_mixture(self, network: MixtureNetwork) -> bool:
        """Whether a network's components are those of the mixture."""
        return self.settings.prior == "dpm" and network.components == len(self.mixture.weight)

    def update_prior(self) -> dict[str, float]:
        """One gradient step of the prior, and of a policy that has another number of components."""
        rows = self.rng.choice(self.rows, 2 * self.settings.skill_batch)
        mean, log_std = self.latents(rows)
        obs = to_tensor(self.obs[self.windows.episode[rows], self.windows.start[rows]])
        loss = self._prior_loss(self.prior, obs, mean, log_std)
        rate = self._pace(self.skill_steps, self._began, self.prior_optimizer, self.start_optimizer)
        self.prior_optimizer.minimize(loss)
        if not self._begins_as_prior and self.settings.prior != "uniform":
            self.start_optimizer.minimize(self._prior_loss(self.learner.policy, obs, mean, log_std))
        self.taken += 1
        return {f"high/{name}": float(value) for name, value in ({"prior_loss": loss.detach()} | rate).items()}

    def _prior_loss(self, network: MixtureNetwork, obs: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
        """-sum_k r_k [log p(k | s) + E log N_k], r of the mixture if the components are its, else likelihood."""
        mixture = network(obs)
        each = mixture.log_weight - cross_entropy(mean, log_std, mixture)  # [B, K]
        if self._of_mixture(network):
            return -(self.mixture.responsibilities(mean) * each).sum(1).mean()
        return -each.logsumexp(1).mean()

    def _pace(self, first: int, end: int, *optimizers: FusedAdam) -> dict[str, float]:
        """Set the one learning rate of gradient steps from `first` on, before `end`; to be logged, if it falls."""
        decay, left = self.settings.decay, 1.0 - (self.taken - first) / (end - first)
        rates = [optimizer.scale_rate(min(1.0, left / decay)) for optimizer in optimizers if decay]
        return {"learning_rate": rates[0]} if rates else {}

    @property
    def _begins_as_prior(self) -> bool:
        """Whether the policy begins as a copy of the prior."""
        return self.components[0] == self.components[1] and self.settings.prior != "uniform"

    # Reinforcement learning.

    def begin_learning(self) -> dict[str, float]:
        """The prior is finished: the policy begins as it."""
        if self._begins_as_prior:
            self.learner.policy.load_state_dict(self.prior.state_dict())
        return {}

    def divergence_from_prior(self, obs: Tensor, mixture: Mixture) -> Tensor:
        """KL [B] of the policy from the prior, of encoded observations [B, inputs]."""
        if self.settings.prior == "uniform":
            return mixture.divergence_from_box(self.prior.bound)
        with torch.no_grad():
            prior = self.prior(obs)
        return mixture.divergence(prior)

    def update(self, observed: Observations, steps: int) -> dict[str, float]:
        """As many gradient steps as are due."""
        played, settings = steps - self._began, self.settings
        self.result |= {"steps": self._recorded_steps + played, "online_steps": played}
        if played < settings.warmup * settings.horizon or self.store.total <= settings.horizon:
            return {}
        info: dict[str, Tensor] = {}
        for _ in range(self.ratio.due(self.store.num_envs)):
            found = sample_segments(self.store, self.rng, settings.batch, settings.horizon)
            info = self.learner.update(transitions(found, self.encoder, settings.gamma))
            if settings.decoder == "tuned":
                self._tune(found)
        return {f"high/{name}": float(value) for name, value in info.items()} | {"high/hold": self.learner.weight(0)}

    def _tune(self, found: Segments) -> None:
        """One gradient step of the decoder on skills whose values were just learned."""
        better = self.learner.surprise
        weight = (better / better.std().clamp(min=1e-6)).exp().clamp(max=_LARGEST)
        obs, inside = to_tensor(self.encoder(found.obs).parts[0]), to_tensor(found.inside)
        told = to_tensor(found.command)[:, None].expand(-1, obs.shape[1], -1)
        error = (self.model.decode(obs, told) - to_tensor(found.action)).square().sum(-1) * inside
        self.tuner.minimize(weighted_regression(-0.5 * error.sum(1, keepdim=True), weight[:, None]).mean())

    # Loading.

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._make(*state["components"])
        super().load_state_dict(state)

    def load_policy(self, state: dict[str, Any]) -> None:
        """Restore what playing needs."""
        self._make(*state["components"])
        super().load_policy(state)


# A robot's joints ask for more than a gripper's place; chosen on seeds 0, 10 and 11.
_FRANKA = HeliosSettings(hidden=256, decay=1.0, beta=0.005, divergence=1.0, normed=True, online=60_000)
_OF = {"Kitchen": (18_000, _FRANKA)}


def preset(given: Given) -> Preset:
    """Settings of HELIOS for a task."""
    if given.size == "tiny":
        return Preset(given.steps or 900, 8, HeliosSettings(demos="60", online=4_000))
    steps, settings = _OF.get(given.task.base_name, (4_500, HeliosSettings()))
    return Preset(given.steps or steps, 8, settings)


HELIOS = Entry((HeliosSettings,), preset, Helios, plays=lambda settings: settings.online_steps > 0)
