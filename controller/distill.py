"""Label -> controller: the one distillation loop, its loss, calibration on a hold-out, and agreement with the truth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from preceptor.controller import by_hand
from preceptor.controller.encoders import Encoded, Encoder, GridEncoder, encoder_of
from preceptor.controller.network import ControllerNetwork, mask_logits, to_tensors
from preceptor.envs.task import Task
from preceptor.ground.device import to_numpy, to_tensor
from preceptor.ground.optim import FusedAdam
from preceptor.ground.ranges import Count, CountOrNone, Positive, Share
from preceptor.ground.repeated import Repeated
from preceptor.teacher.calibration import expected_calibration_error, fit_temperature


@dataclass(frozen=True)
class LabelledScenes:
    """A batch of observations with what the teacher said of them, in arrays, or in tensors where networks are.

    Attributes:
        encoded: Network inputs, N of them.
        previous: int64 [N], the option that ran before, -1 for none.
        legal: bool [N, K].
        probs: float32 [N, K], the teacher's distribution; all zero where the teacher abstained.
        done: bool [N, K], `Task.option_done` of every option here: the target of the termination head.
        skills: int8 [N, K], what the scripted skill of each option would do, for low levels; [N, 0] without any.
    """

    encoded: Encoded
    previous: NDArray[np.int64]
    legal: NDArray[np.bool_]
    probs: NDArray[np.float32]
    done: NDArray[np.bool_]
    skills: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.previous)

    def __getitem__(self, rows: NDArray[np.int64]) -> "LabelledScenes":
        return LabelledScenes(self.encoded[rows], *(getattr(self, name)[rows] for name in _COLUMNS))

    def with_skills(self, skills: NDArray[np.int8]) -> "LabelledScenes":
        """The same scenes with what the skills [N, K] would do."""
        return replace(self, skills=skills)

    @staticmethod
    def concatenate(parts: Sequence["LabelledScenes"]) -> "LabelledScenes":
        """Batches one after the other."""
        columns = (np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS)
        return LabelledScenes(Encoded.concatenate([part.encoded for part in parts]), *columns)


_COLUMNS = ("previous", "legal", "probs", "done", "skills")


def scenes_of(
    task: Task, obs: NDArray, previous: NDArray[np.int64], probs: NDArray[np.float32], legal: NDArray[np.bool_]
) -> LabelledScenes:
    """Observations [N, ...] with their labels [N, K] as scenes to learn from, without skills."""
    return LabelledScenes(
        encoder_of(task)(obs), previous, legal, probs, task.options_done(obs), np.zeros((len(obs), 0), np.int8)
    )


# A loss's gradient in each parameter, None where it does not depend on one, and terms to log
Gradients = tuple[Sequence[Tensor | None], dict[str, Tensor | float]]


@dataclass(frozen=True)
class DistilConfig:
    """Distillation by dataset aggregation (DAgger; Ross, Gordon and Bagnell, 2011)."""

    rollout: Count = 16
    """Vector steps between updates."""
    guided: Share = 0.5
    """Share of those steps over which the teacher's part of the acting falls from all to nothing (DAgger's beta)."""
    updates: Positive = 0.15
    """Gradient steps per environment step."""
    minibatch: Count = 256
    """Scenes per gradient step."""
    lr: Positive = 2e-3
    """Learning rate of Adam, which falls linearly to a tenth."""
    forget_previous: Share = 0.5
    """Share of scenes on which the previous option is hidden from the controller."""
    mirror: bool = True
    """Double the data of grid tasks by their left-right symmetry."""
    doubt: bool = True
    """Overrule labels by which the agent gets nowhere, where another option has turned out better."""
    stretch: CountOrNone = 0
    """Rows and columns of bare floor added, at most, to half of a grid task's maps, so that it masters larger rooms."""
    retell: bool = False
    """Ask the teacher about each scene a second time, with another level's mission, where missions are in words."""


class Distillation:
    """The one distillation loop: gradient steps on minibatches of all labelled scenes so far.

    Args:
        encoder: Of the scenes; knows how to mirror them.
        networks: What learns. A gradient step is recorded (`Repeated`) unless one of them `looks` at numbers.
        gradients: Of the loss of a minibatch.
        config: Hyper-parameters.
        rng: Samples minibatches.
    """

    def __init__(
        self,
        encoder: Encoder,
        networks: Sequence[nn.Module],
        gradients: Callable[[LabelledScenes], Gradients],
        config: DistilConfig,
        rng: np.random.Generator,
    ) -> None:
        self.encoder, self.config, self.rng = encoder, config, rng
        self._gradients = gradients
        self.optimizer = FusedAdam([each for network in networks for each in network.parameters()], config.lr)
        self._looks = any(getattr(network, "looks", False) for network in networks)
        self._parts: list[LabelledScenes] = []
        self.forget_step()

    def forget_step(self) -> None:
        """Let go of a recorded step, which is of the memory of what was there before."""
        self._step = self._learn if self._looks else Repeated(self._learn)

    def add(self, scenes: LabelledScenes) -> None:
        """Aggregate scenes."""
        self._parts.append(scenes)

    def clear(self) -> None:
        """Forget all scenes."""
        self._parts.clear()

    def train(self, count: int, progress: float) -> dict[str, float]:
        """So many gradient steps at a point of the run between 0 and 1, if there are scenes; rate and last terms."""
        rate = self.optimizer.scale_rate(1 - 0.9 * progress)
        info: dict[str, Tensor | float] = {}
        count = count if any(map(len, self._parts)) else 0
        for _ in range(count):
            info = self._step(self._minibatch())
        return {name: float(value) for name, value in info.items()} | {"learning_rate": rate} if count else {}

    def _learn(self, scenes: LabelledScenes) -> dict[str, Tensor | float]:
        gradients, info = self._gradients(scenes)
        self.optimizer.follow(gradients, max_norm=1.0)
        return info

    def _minibatch(self) -> LabelledScenes:
        """Scenes sampled uniformly, half of them mirrored, the previous option sometimes hidden."""
        if len(self._parts) > 1:
            self._parts = [LabelledScenes.concatenate(self._parts)]
        rows = self.rng.integers(len(self._parts[0]), size=self.config.minibatch)
        scenes = self._parts[0][rows]
        hidden = self.rng.random(len(rows)) < self.config.forget_previous
        encoded, skills = scenes.encoded, scenes.skills
        if self.config.mirror and isinstance(self.encoder, GridEncoder):
            turned = self.rng.random(len(rows))[:, None] < 0.5
            pairs = zip(self.encoder.mirror(encoded).parts, encoded.parts, strict=True)
            encoded = Encoded(tuple(np.where(turned, there, here) for there, here in pairs))
            skills = np.where(turned, self.encoder.mirror_actions(skills), skills).astype(np.int8)
        return replace(scenes, encoded=encoded, previous=np.where(hidden, -1, scenes.previous), skills=skills)


def weighted_regression(log_probs: Tensor, weights: Tensor) -> Tensor:
    """Loss L2 of each sample: sum_g w_g (-log pi_g), [...].

    Args:
        log_probs: [..., G], log-probability of what was stored, per group of actions, or of every class.
        weights: [..., G], weight of each; soft targets where G are classes. No gradient flows into them.
    """
    return -(weights * log_probs).sum(-1)


def distillation_loss(
    network: ControllerNetwork, batch: LabelledScenes, masked: bool
) -> tuple[Tensor, dict[str, Tensor | float]]:
    """Cross-entropy to the soft labels plus binary cross-entropy of the termination head.

    Kullback-Leibler divergence is cross-entropy minus the labels' own entropy, so the gradient is that of
    KL(teacher || controller). A controller that will choose among all options (`masked` false) learns from the labels
    what is legal, too; one that is masked spends nothing on it. Rows on which the teacher abstained train the
    termination head only.
    """
    option_logits, done_logits = network(*to_tensors(batch.encoded), to_tensor(batch.previous))
    labels = to_tensor(batch.probs)
    legal = to_tensor(batch.legal) if masked else None
    log_probs = torch.log_softmax(mask_logits(option_logits, legal), dim=1)
    cross_entropy = weighted_regression(log_probs.clamp(min=-30.0), labels)
    labelled = labels.sum(1) > 0
    option_loss = cross_entropy.sum() / labelled.sum().clamp(min=1)
    done_loss = nn.functional.binary_cross_entropy_with_logits(done_logits, to_tensor(batch.done).float())
    entropy = -(labels * labels.clamp(min=1e-12).log()).sum(1)
    kl = ((cross_entropy - entropy) * labelled).sum() / labelled.sum().clamp(min=1)
    return option_loss + done_loss, {"kl": kl.detach(), "done_loss": done_loss.detach()}


def distillation_gradients(network: ControllerNetwork, batch: LabelledScenes, masked: bool) -> Gradients:
    """The gradient of `distillation_loss` in the network's parameters, and its terms."""
    if by_hand.fits(network):
        return by_hand.distillation(network, batch, masked)
    loss, info = distillation_loss(network, batch, masked)
    return torch.autograd.grad(loss, list(network.parameters())), info


@torch.no_grad()
def choices(network: ControllerNetwork, scenes: LabelledScenes) -> NDArray[np.int64]:
    """The legal option that is most probable in each scene [N]."""
    option_logits, _ = network(*to_tensors(scenes.encoded), to_tensor(scenes.previous))
    return to_numpy(mask_logits(option_logits, to_tensor(scenes.legal))).argmax(1)


def calibrate(
    network: ControllerNetwork, fitted: LabelledScenes, judged: LabelledScenes, truth: NDArray[np.int64]
) -> tuple[float, dict[str, float]]:
    """Temperature, fitted on some held-out scenes, and figures on others, whose true options are [N].

    The figures are agreement with the teacher and with the truth, KL to the teacher, and ECE.
    """

    @torch.no_grad()
    def logits(scenes: LabelledScenes) -> Tensor:
        option_logits, _ = network(*to_tensors(scenes.encoded), to_tensor(scenes.previous))
        return mask_logits(option_logits, to_tensor(scenes.legal))

    temperature = fit_temperature(logits(fitted), fitted.probs)
    probs = to_numpy(torch.softmax(logits(judged) / temperature, 1))
    labelled = judged.probs.sum(1) > 0
    labels = judged.probs[labelled]
    gap = np.log(np.maximum(labels, 1e-12)) - np.log(np.maximum(probs[labelled], 1e-12))
    return temperature, {
        "agreement": float((probs[labelled].argmax(1) == labels.argmax(1)).mean()),
        "truth_agreement": float((probs.argmax(1) == truth).mean()),
        "kl": float((labels * gap).sum(1).mean()),
        "ece": expected_calibration_error(probs[labelled], labels.argmax(1)),
    }
