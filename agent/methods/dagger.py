"""Distillation by dataset aggregation (DAgger; Ross, Gordon & Bagnell, 2011): the controller, and a low level with it.

Teacher and student share the roll-outs, every scene is labelled, and the student trains on all scenes so far. The
controller learns the teacher's distribution over options; the low level, where there is one, learns what the
scripted skill of *every* legal option would do, which costs no environment step.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agent.core import HighLevel, LowLevel, Observations, Player
from agent.data.store import TrajectoryStore, store_for
from agent.data.views import labelled_scenes
from agent.networks import LowNetwork, NetworkHigh
from agent.teaching import Labeller, SkillLow, TeacherHigh, action_distribution, annotate, skill_actions
from controller.distill import LabelledScenes, distillation_loss, judge, option_logits
from controller.encoders import Encoded, GridEncoder, encoder_of
from controller.network import ControllerNetwork, TrunkConfig, to_tensors
from envs.task import Task
from ground.device import device, to_device, to_tensor
from teacher.calibration import fit_temperature

_HOLD_OUT = 16  # one world (or episode) in so many is kept out of training, for calibration and agreement


@dataclass(frozen=True)
class DaggerConfig:
    """Hyper-parameters of distillation."""

    steps: int = 20_000  # environment steps of distillation
    rollout: int = 16  # vector steps between updates
    guided: float = 0.5  # share of the steps after which the teacher no longer acts
    updates: float = 0.15  # gradient steps per environment step
    minibatch: int = 256  # scenes per gradient step
    learning_rate: float = 2e-3  # Adam's, falling linearly to a tenth
    forget_previous: float = 0.5  # share of scenes on which the previous option is hidden from the controller
    mirror: bool = True  # double the data by the world's left-right symmetry
    masked: bool = True  # the controller will choose among legal options only
    soft: bool = True  # learn the label's distribution, or its most probable option only


@dataclass(frozen=True)
class Lessons:
    """Labelled scenes with what each option's skill would do, [M] of them."""

    scenes: LabelledScenes
    skills: NDArray[np.int8]  # [M, K], or [M, 0] where nobody learns them

    def __len__(self) -> int:
        return len(self.scenes)


class Distiller:
    """Learns from labelled scenes. Either network may be None: a flat student has no controller.

    Args:
        task: Whose options are distilled.
        labeller: Labels scenes.
        controller: Learns the labels, with `low` in its hands where given.
        low: Learns the skills; with one option it learns the teacher's action distribution instead (flat student).
        config: Hyper-parameters.
        rng: Draws minibatches.
        num_envs: Worlds that will fill the store.
    """

    def __init__(
        self,
        task: Task,
        labeller: Labeller,
        controller: ControllerNetwork | None,
        low: LowNetwork | None,
        config: DaggerConfig,
        rng: np.random.Generator,
        num_envs: int,
    ) -> None:
        self.task, self.labeller, self.config, self.rng = task, labeller, config, rng
        self.controller, self.low = controller, low
        self.encoder = encoder_of(task)
        capacity = -(-config.steps // num_envs) + config.rollout
        self.store = store_for(task, capacity, num_envs)
        self._parameters = [p for network in (controller, low) if network for p in network.parameters()]
        self._optimizer = torch.optim.Adam(self._parameters, config.learning_rate, fused=True)
        self._chunks: list[Lessons] = []
        self._held_out: list[LabelledScenes] = []
        self._held_out_obs: list[NDArray] = []
        self._digested = 0

    def mix(self, steps: int) -> float:
        """Probability that the teacher acts: one at first, falling linearly to zero."""
        return max(0.0, 1.0 - steps / (self.config.guided * self.config.steps))

    def loss(self, lessons: Lessons) -> tuple[Tensor, dict[str, float]]:
        """Distillation loss of the controller plus imitation loss of the low level (loss L2 with soft targets)."""
        loss = torch.zeros((), device=device())
        info: dict[str, float] = {}
        if self.controller is not None:
            option_loss, info = distillation_loss(self.controller, lessons.scenes, self.config.masked)
            loss = loss + option_loss
        if self.low is not None:
            targets, mask = self._skill_targets(lessons)
            logits, _ = self.low.all_options(*to_tensors(lessons.scenes.encoded))
            cross_entropy = -(targets * torch.log_softmax(logits, 2)).sum(2)
            skill_loss = (cross_entropy * mask).sum() / mask.sum().clamp(min=1)
            loss = loss + skill_loss
            info["skill_loss"] = float(skill_loss.detach())
        return loss, info

    def update(self, steps: int) -> dict[str, float]:
        """Label and digest what is new in the store, then train on everything so far."""
        new_steps = (len(self.store) - self._digested) * self.store.num_envs
        self._digest()
        progress = min(1.0, steps / self.config.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate * (1 - 0.9 * progress)
        info: dict[str, float] = {}
        for _ in range(round(self.config.updates * new_steps)):
            loss, info = self.loss(self._minibatch())
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
            self._optimizer.step()
        return info

    def calibrate(self) -> tuple[float, dict[str, float]]:
        """Temperature and held-out agreement, KL and ECE of the controller, on worlds that it never trained on.

        A run too short to have held out labelled scenes has temperature 1 and no figures.
        """
        assert self.controller is not None
        scenes = _concatenate(self._held_out)
        labelled = np.flatnonzero(scenes.probs.sum(1) > 0)
        fitted_on, judged_on = labelled[::2], labelled[1::2]
        if not len(judged_on):
            return 1.0, {}
        obs = np.concatenate(self._held_out_obs)
        truth = np.array([self.task.script(scene) for scene in self.task.describe(obs)])
        fitted = scenes[fitted_on]
        temperature = fit_temperature(option_logits(self.controller, fitted), fitted.probs)
        return temperature, judge(self.controller, scenes[judged_on], truth[judged_on], temperature)

    def state_dict(self) -> dict[str, Any]:
        """Stored scenes, optimiser and random state; what is derived from the scenes is computed anew."""
        return {
            "store": self.store.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.store.load_state_dict(state["store"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.rng.bit_generator.state = state["rng"]
        self._chunks, self._held_out, self._held_out_obs, self._digested = [], [], [], 0
        self._digest(annotated=True)

    def _skill_targets(self, lessons: Lessons) -> tuple[Tensor, Tensor]:
        """Action distributions [M, heads, A] and which heads they train [M, heads]."""
        assert self.low is not None
        scenes, actions = lessons.scenes, self.low.num_actions
        skills = lessons.skills.astype(np.int64)
        if self.low.num_options == len(self.task.options):
            return torch.eye(actions, device=device())[to_tensor(skills)], to_tensor(scenes.legal)
        flat = to_tensor(action_distribution(scenes.probs, skills, actions))
        return flat[:, None], flat.sum(1, keepdim=True) > 0

    def _digest(self, annotated: bool = False) -> None:
        if len(self.store) == self._digested:
            return
        if not annotated:
            annotate(self.store, self._digested, self.labeller)
        rows = labelled_scenes(self.store, self._digested)
        probs = rows.probs
        if not self.config.soft:
            most_probable = np.eye(probs.shape[1], dtype=np.float32)[probs.argmax(1)]
            probs = most_probable * (probs.sum(1, keepdims=True) > 0)
        done = np.stack(
            [self.task.option_done(rows.obs, np.full(len(rows.obs), k)) for k in range(len(self.task.options))], axis=1
        )
        scenes = LabelledScenes(self.encoder(rows.obs), rows.previous, rows.legal, probs, done)
        # With fewer worlds than that, whole episodes are kept out instead.
        worlds = self.store.num_envs
        unit = rows.env_id if worlds >= _HOLD_OUT else rows.episode * worlds + rows.env_id
        held_out = unit % _HOLD_OUT == _HOLD_OUT - 1
        kept = np.flatnonzero(~held_out)
        skills = np.zeros((len(kept), 0), np.int8)
        if self.low is not None:
            skills = skill_actions(self.task, rows.obs[kept]).astype(np.int8)
        self._chunks.append(Lessons(scenes[kept], skills))
        self._held_out.append(scenes[np.flatnonzero(held_out)])
        self._held_out_obs.append(rows.obs[held_out])
        self._digested = len(self.store)

    def _minibatch(self) -> Lessons:
        """Scenes drawn uniformly from all chunks, half of them mirrored, the previous option sometimes hidden."""
        everything = self._everything()
        rows = self.rng.integers(len(everything), size=self.config.minibatch)
        scenes, skills = everything.scenes[rows], everything.skills[rows]
        hidden = self.rng.random(len(rows)) < self.config.forget_previous
        encoded = scenes.encoded
        if self.config.mirror and isinstance(self.encoder, GridEncoder):
            turned = self.rng.random(len(rows)) < 0.5
            pairs = zip(self.encoder.mirror(encoded).parts, encoded.parts, strict=True)
            encoded = Encoded(tuple(np.where(turned[:, None], there, here) for there, here in pairs))
            skills = np.where(turned[:, None], self.encoder.mirror_actions(skills), skills).astype(np.int8)
        previous = np.where(hidden, -1, scenes.previous)
        return Lessons(LabelledScenes(encoded, previous, scenes.legal, scenes.probs, scenes.done), skills)

    def _everything(self) -> Lessons:
        if len(self._chunks) > 1:
            scenes = _concatenate([chunk.scenes for chunk in self._chunks])
            self._chunks = [Lessons(scenes, np.concatenate([chunk.skills for chunk in self._chunks]))]
        return self._chunks[0]


class Dagger:
    """The method that distils a controller and stops; the scripted skills are its hands.

    Args:
        task: Whose options are distilled.
        labeller: Labels scenes.
        config: Hyper-parameters.
        trunk: Size of the controller's network.
        masked: Choose among legal options only.
        num_envs: Worlds.
        rng: Draws minibatches.
    """

    def __init__(
        self,
        task: Task,
        labeller: Labeller,
        config: DaggerConfig,
        trunk: TrunkConfig,
        masked: bool,
        num_envs: int,
        rng: np.random.Generator,
    ) -> None:
        self.controller = to_device(ControllerNetwork(encoder_of(task), len(task.options), trunk))
        self.player = Player(NetworkHigh(self.controller, masked), SkillLow(), task.options.timeouts)
        self.guide: tuple[HighLevel, LowLevel] | None = (TeacherHigh(labeller), SkillLow())
        self.calibration: tuple[float, dict[str, float]] = (1.0, {})
        self._distiller = Distiller(task, labeller, self.controller, None, config, rng, num_envs)

    def distilling(self, steps: int) -> bool:
        """Whether the teacher still labels at this point of the run."""
        return steps < self._distiller.config.steps

    def plan(self, steps: int) -> tuple[TrajectoryStore, int, float]:
        """Where the next roll-out goes, its vector steps, and the share of it that the teacher steers."""
        return self._distiller.store, self._distiller.config.rollout, self._distiller.mix(steps)

    def update(self, observed: Observations, steps: int) -> dict[str, float]:
        """Learn from the roll-out just collected."""
        return {f"controller/{name}": value for name, value in self._distiller.update(steps).items()}

    def graduate(self) -> dict[str, float]:
        """Calibrate on the hold-out; held-out agreement, KL and ECE."""
        self.guide = None
        self.calibration = self._distiller.calibrate()
        return {f"controller/{name}": value for name, value in self.calibration[1].items()}

    def state_dict(self) -> dict[str, Any]:
        """Network and everything the distiller needs, for an exact resume."""
        distiller = self._distiller.state_dict()
        return {"controller": self.controller.state_dict(), "distiller": distiller, "calibration": self.calibration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.load_policy(state)
        self._distiller.load_state_dict(state["distiller"])

    def load_policy(self, state: dict[str, Any]) -> None:
        """Restore the network alone, to play."""
        self.controller.load_state_dict(state["controller"])
        self.calibration = state["calibration"]


def _concatenate(parts: list[LabelledScenes]) -> LabelledScenes:
    return LabelledScenes(
        Encoded.concatenate([part.encoded for part in parts]),
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("previous", "legal", "probs", "done")),
    )
