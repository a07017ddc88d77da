"""Proximal policy optimisation (Schulman et al., 2017) for one policy head: the low level's, or the high level's."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from preceptor.agent import by_hand
from preceptor.agent.computed import Computed
from preceptor.agent.distributions import Distribution
from preceptor.agent.losses import option_advantages, prior_regularised
from preceptor.agent.networks import HighNetwork, LowNetwork
from preceptor.agent.recorded import RecordedLearner
from preceptor.agent.resumable import places
from preceptor.controller.encoders import VectorEncoder
from preceptor.controller.network import TrunkConfig
from preceptor.ground.device import to_device, to_numpy, to_tensor
from preceptor.ground.optim import FusedAdam
from preceptor.ground.ranges import Count, NotNegative, Positive, Share
from preceptor.ground.repeated import kept


@dataclass(frozen=True)
class PPOConfig:
    """One PPO learner (Schulman et al., 2017)."""

    lr: Positive = 5e-4
    """Learning rate of Adam, which falls linearly to zero over the run."""
    gamma: Share = 0.99
    """Discount per environment step."""
    lam: Share = 0.95
    """Decay of generalised advantage estimation (Schulman et al., 2016, eq. 16)."""
    clip: Positive = 0.2
    """Trust region on the ratio of probabilities (eq. 7)."""
    epochs: Count = 4
    """Passes over a roll-out."""
    minibatch: Count = 256
    """Samples per gradient step."""
    entropy: NotNegative = 0.01
    """Weight of the entropy bonus (eq. 9, c2)."""
    value: NotNegative = 0.5
    """Weight of the squared value error (eq. 9, c1)."""
    max_grad_norm: Positive = 0.5
    """Norm to which gradients are clipped."""
    kind: tyro.conf.Suppress[Literal["ppo"]] = "ppo"


@dataclass(frozen=True)
class PolicyBatch:
    """On-policy samples, B of them.

    Attributes:
        inputs: What the network takes, each [B, ...]: the trunk's inputs, then the option of a low level or the
            previous option of a high one.
        action: int64 [B], or float32 [B, A] of vectors.
        behaviour_logprob: float32 [B].
        advantage: float32 [B].
        returns: float32 [B].
        legal: bool [B, C], or None where everything is allowed.
        wanted: Outputs [B, P] of the network that this one is held to, or None.
    """

    inputs: tuple[Tensor, ...]
    action: Tensor
    behaviour_logprob: Tensor
    advantage: Tensor
    returns: Tensor
    legal: Tensor | None = None
    wanted: Tensor | None = None

    def __len__(self) -> int:
        return len(self.action)

    def select(self, rows: Tensor) -> "PolicyBatch":
        """The samples of `rows`, in that order."""
        columns: list[Any] = [None if part is None else part.index_select(0, rows) for part in self._columns]
        return PolicyBatch(tuple(part.index_select(0, rows) for part in self.inputs), *columns)

    def split(self, count: int) -> Iterator["PolicyBatch"]:
        """`count` parts of nearly equal size, as views."""
        inputs = zip(*(part.tensor_split(count) for part in self.inputs), strict=True)
        columns = ([None] * count if part is None else part.tensor_split(count) for part in self._columns)
        return map(PolicyBatch, inputs, *columns)

    @property
    def _columns(self) -> tuple[Tensor | None, ...]:
        always = self.action, self.behaviour_logprob, self.advantage, self.returns
        return *always, self.legal, self.wanted


class PPO(RecordedLearner):
    """Improves a network that maps a batch's inputs to (outputs [B, P], value [B]); its `head` reads the outputs.

    Args:
        network: Trained in place.
        config: Hyper-parameters.
        rng: Shuffles minibatches.
    """

    saved = places("network", "optimizer", "rng")

    def __init__(self, network: LowNetwork | HighNetwork, config: PPOConfig, rng: np.random.Generator) -> None:
        self.network, self.config, self.rng = network, config, rng
        self.parameters = list(network.parameters())
        self.optimizer = FusedAdam(self.parameters, config.lr, eps=1e-5)
        self._looks = any(getattr(part, "looks", False) for part in network.modules())
        super().__init__()

    def loss(
        self, batch: PolicyBatch, prior_weight: float = 0.0, policy: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss L1 with the clipped surrogate for the value, and the squared value error (eq. 9); or the latter alone.

        The entropy bonus is L1 with a uniform prior. For the arguments see `update`.
        """
        outputs, value = self.network(*batch.inputs)
        return self.loss_of(outputs, value, batch, prior_weight, policy)

    def loss_of(
        self, outputs: Tensor, value: Tensor, batch: PolicyBatch, prior_weight: float = 0.0, policy: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The same of what the network makes of the inputs."""
        config, head, legal = self.config, self.network.head, batch.legal
        value_loss = (value - batch.returns).square().mean()
        if not policy:
            return 0.5 * value_loss, {"value_loss": value_loss.detach()}
        log_ratio = head.log_prob(outputs, batch.action, legal) - batch.behaviour_logprob
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
        policy_loss = -torch.minimum(ratio * batch.advantage, clipped * batch.advantage).mean()
        loss = policy_loss + 0.5 * config.value * value_loss
        terms = {"policy_loss": policy_loss, "value_loss": value_loss}
        if config.entropy > 0:
            entropy = head.entropy(outputs, legal)
            terms["entropy"] = entropy.mean()
            loss = prior_regularised(loss, entropy, -config.entropy)
        if batch.wanted is not None:
            divergence = head.divergence(outputs, batch.wanted, legal)
            terms["prior_kl"] = divergence.mean()
            loss = prior_regularised(loss, divergence, prior_weight)
        with torch.no_grad():
            terms["approximate_kl"] = (ratio - 1 - log_ratio).mean()
            terms["clip_fraction"] = (ratio != clipped).float().mean()
        return loss, {name: term.detach() for name, term in terms.items()}

    def gradients(
        self, batch: PolicyBatch, prior_weight: float = 0.0, policy: bool = True
    ) -> tuple[Sequence[Tensor | None], Mapping[str, Tensor | float]]:
        """The gradient of `loss` in each parameter, None where it does not depend on it, and the terms."""
        if by_hand.fits(self.network):
            return by_hand.ppo(self.network, batch, self.config, prior_weight, policy)
        loss, terms = self.loss(batch, prior_weight, policy)
        return torch.autograd.grad(loss, self.parameters, allow_unused=True), terms

    def update(
        self,
        batch: PolicyBatch,
        prior: nn.Module | None = None,
        prior_weight: float = 0.0,
        policy: bool = True,
        remaining: float = 1.0,
    ) -> dict[str, float]:
        """Several epochs of minibatches over one rollout; the rate, and means of the loss terms over the last epoch.

        Args:
            batch: The rollout.
            prior: Network that the policy is held to, with `prior_weight` as lambda of loss L1.
            prior_weight: lambda.
            policy: Whether to train the policy, or the value alone.
            remaining: Share of the run that is left; the learning rate falls with it.
        """
        rate = self.optimizer.scale_rate(remaining)
        if prior is not None and prior_weight > 0 and policy:
            with torch.no_grad():
                batch = replace(batch, wanted=prior(*batch.inputs)[0])
        terms: list[Mapping[str, Tensor | float]] = []
        for _ in range(self.config.epochs):
            terms = self.pass_over(batch, to_tensor(self.rng.permutation(len(batch))), prior_weight, policy)
        return {name: float(mean) for name, mean in means(terms).items()} | {"learning_rate": rate}

    def pass_over(
        self, batch: PolicyBatch, order: Tensor, prior_weight: float = 0.0, policy: bool = True
    ) -> list[Mapping[str, Tensor | float]]:
        """Gradient steps on minibatches of all samples in an order; the terms of each."""
        step = self._step if self._looks else self._repeated
        minibatches = batch.select(order).split(max(1, round(len(batch) / self.config.minibatch)))
        return [kept(step(minibatch, prior_weight, policy)) for minibatch in minibatches]

    def _step(self, batch: PolicyBatch, prior_weight: float, policy: bool) -> Mapping[str, Tensor | float]:
        gradients, info = self.gradients(batch, prior_weight, policy)
        self.optimizer.follow(gradients, self.config.max_grad_norm)
        return info


def means(terms: Sequence[Mapping[str, Tensor | float]]) -> dict[str, Tensor | float]:
    """Of the terms of several minibatches."""
    return {name: sum(info[name] for info in terms) / len(terms) for name in terms[0]}


def rollout_batch(
    learner: PPO,
    inputs: tuple[Tensor, ...],
    after: tuple[Tensor, ...],
    action: Tensor,
    behaviour_logprob: Tensor,
    reward: np.ndarray,
    *,
    terminated: np.ndarray,
    cut: np.ndarray,
) -> PolicyBatch:
    """A rollout of T steps in N environments as samples with advantages (GAE) and returns.

    Args:
        learner: Whose values are bootstrapped from.
        inputs: Of its network at the T * N steps, time-major, each [T N, ...]; `after` likewise, after each step, under
            the option or goal that ran during it.
        action: [T N, ...].
        behaviour_logprob: [T N].
        reward: float32 [T, N].
        terminated: bool [T, N], where nothing is worth anything afterwards.
        cut: bool [T, N], where what follows belongs to another option, goal or episode.
    """
    with torch.no_grad():
        values, following = (to_numpy(learner.network(*parts)[1]).reshape(reward.shape) for parts in (inputs, after))
    config, everywhere = learner.config, np.ones_like(cut)
    advantage = option_advantages(
        reward, everywhere, values, following, terminated, cut & ~terminated, config.gamma, config.lam
    )
    return PolicyBatch(
        inputs,
        action,
        behaviour_logprob,
        to_tensor(normalised(advantage.ravel())),
        to_tensor((advantage + values).ravel()),
    )


def normalised(advantage: np.ndarray) -> np.ndarray:
    """Advantages with zero mean and unit deviation over the rollout."""
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)


class BoxPPO(PPO):
    """PPO behind the interface of SAC and TD3: a vector in, a vector in [-1, 1] out.

    Args:
        inputs: Width of the observation.
        actions: A.
        config: Hyper-parameters.
        seed: Of the first weights and of the shuffles.
    """

    def __init__(self, inputs: int, actions: int, config: PPOConfig, seed: int) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = to_device(LowNetwork(VectorEncoder([1.0] * inputs), 1, actions, TrunkConfig(), continuous=True))
        super().__init__(network, config, np.random.default_rng(seed))

    def computed(self) -> Computed:
        """What is computed of observations [N, inputs]."""
        head = self.network.head
        return Computed(self.network, head.kind, lambda obs: head.parameters(self.network(*only_option(obs))[0]))

    def act(self, obs: Tensor) -> Distribution:
        """What actions for observations [N, inputs] are sampled from."""
        return self.computed()(obs)

    @torch.no_grad()
    def mode(self, obs: Tensor) -> Tensor:
        """The most probable actions [B, A]."""
        outputs, _ = self.network(*only_option(obs))
        return torch.tanh(outputs.chunk(2, -1)[0])


def only_option(obs: Tensor) -> tuple[Tensor, Tensor]:
    """Observations [..., inputs] as rows, and the only option, as `LowNetwork` takes them."""
    rows = obs.reshape(-1, obs.shape[-1])
    return rows, torch.zeros_like(rows[:, 0], dtype=torch.int64)
