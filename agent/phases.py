"""Phases: what a method is a list of. Each says where its data come from, how much, and when it is over.

`Distil` labels what teacher and student play together, `Online` is the student's own play, `Offline` reads a recorded
set; HALO's `Ask` (agent/halo) asks questions. One runner (`agent/train.py`) plays, saves, resumes, logs and judges all.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from preceptor.agent.data.recording import Recording
from preceptor.agent.data.store import TrajectoryStore
from preceptor.agent.data.views import labelled_scenes
from preceptor.agent.doubts import runs_of
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.imitation import imitation_gradients
from preceptor.agent.levels import HighLevel, LowLevel, Observations
from preceptor.agent.networks import LowNetwork
from preceptor.agent.resumable import Resumable, places
from preceptor.agent.teaching import annotate, skill_actions
from preceptor.controller.distill import (
    DistilConfig,
    Distillation,
    Gradients,
    LabelledScenes,
    calibrate,
    distillation_gradients,
    scenes_of,
)
from preceptor.controller.encoders import encoder_of
from preceptor.controller.network import ControllerNetwork, to_tensors
from preceptor.controller.stretching import stretched
from preceptor.envs.task import defines
from preceptor.ground.device import device, to_tensor
from preceptor.ground.errors import UserError
from preceptor.teacher.faults import say

if TYPE_CHECKING:
    from preceptor.agent.methods.protocol import Parts

_HOLD_OUT = 16  # one environment (or episode) in so many is held out of training, for calibration and agreement
_FALLIBLE = 0.25  # with so large a share of labels that lead nowhere, a teacher deserves a warning

Levels = tuple[HighLevel, LowLevel]


class Advance(NamedTuple):
    """One round of a phase.

    Attributes:
        steps: Where the run stands on the x-axis now.
        info: Numbers to log.
    """

    steps: int
    info: dict[str, float]


class Phase(ABC):
    """One part of a run.

    Attributes:
        expert: Levels that share the playing with the student's, or None.
        judged_as: Under which name the student is judged when the phase ends; empty for no judgement.
        farewell: What is said then.
        saves_each_round: Save after each round, rather than a few times per run.
        calibration: Of the controller that it has distilled: temperature, and held-out agreement, KL and ECE.
        result: What the phase adds to the run's result.
        round_seconds: Its share of what the last round took, where several runs are one program.
    """

    expert: Levels | None = None
    judged_as = ""
    farewell = ""
    saves_each_round = False
    calibration: tuple[float, dict[str, float]] = (1.0, {})
    result: Mapping[str, Any] = MappingProxyType({})
    round_seconds: float | None = None

    @abstractmethod
    def over(self, steps: int, total: int) -> bool:
        """Whether nothing is left to do, `steps` into a run of `total`."""

    @abstractmethod
    def advance(self, hierarchy: Hierarchy | None, steps: int, total: int) -> Advance:
        """One round: get data, and learn from them."""

    def end(self) -> dict[str, float]:
        """Called once, when it is over; numbers to log."""
        return {}


def play(hierarchy: Hierarchy | None, store: TrajectoryStore, rollout: int, beta: float, steps: int, total: int) -> int:
    """Play one roll-out into a store, cut where the run ends; the environment steps so far."""
    assert hierarchy is not None, "a phase that plays has environments"
    length = min(rollout, (total - steps) // store.num_envs)
    hierarchy.collect(store, length, beta)
    return steps + length * store.num_envs


def spent(store: TrajectoryStore, steps: int, total: int) -> bool:
    """Whether not one more step of every environment is left."""
    return steps + store.num_envs > total


class Online(Phase):
    """The student plays by itself, and learns from it.

    Args:
        store: Where its steps go.
        rollout: Vector steps between updates.
        update: Learns from the roll-out just played, given what was observed after it and the steps so far.
    """

    def __init__(
        self, store: TrajectoryStore, rollout: int, update: Callable[[Observations, int], dict[str, float]]
    ) -> None:
        self._store, self._rollout, self._update = store, rollout, update

    def over(self, steps: int, total: int) -> bool:
        """Whether the steps are spent."""
        return spent(self._store, steps, total)

    def advance(self, hierarchy: Hierarchy | None, steps: int, total: int) -> Advance:
        """One roll-out, and what is learned from it."""
        steps = play(hierarchy, self._store, self._rollout, 0.0, steps, total)
        assert hierarchy is not None
        return Advance(steps, self._update(hierarchy.observed, steps) | {"rollout/mix": 0.0})


class Offline(Phase):
    """The student learns from a recorded set; no environment is stepped, and the x-axis counts gradient steps.

    Args:
        recording: The set; its steps are those of the run's result.
        update: One gradient step; numbers to log.
        every: Gradient steps per round.
        until: Gradient steps of the run, those before the phase included, with which it is over; all if not given.
        ended: Called when it is over; numbers to log.
    """

    def __init__(
        self,
        recording: Recording,
        update: Callable[[], dict[str, float]],
        every: int = 100,
        until: int | None = None,
        ended: Callable[[], dict[str, float]] = dict,
    ) -> None:
        self._update, self._every, self._until, self._ended = update, every, until, ended
        self.result = {
            "steps": int(recording.acted.sum()),
            "demonstrations": len(recording),
            "recorded_return": float(recording.returns.mean()),
        }

    def over(self, steps: int, total: int) -> bool:
        """Whether all gradient steps were taken."""
        return steps >= self._last(total)

    def advance(self, hierarchy: Hierarchy | None, steps: int, total: int) -> Advance:
        """Some gradient steps."""
        count = min(self._every, self._last(total) - steps)
        info: dict[str, float] = {}
        for _ in range(count):
            info = self._update()
        return Advance(steps + count, info)

    def end(self) -> dict[str, float]:
        """What `ended` says."""
        return self._ended()

    def _last(self, total: int) -> int:
        return total if self._until is None else min(self._until, total)


class Distil(Phase, Resumable):
    """Teacher and student share the playing, every scene is labelled, and the student learns from all scenes so far.

    The controller learns the teacher's distribution over options. A low level, where one is given, learns what the
    scripted skill of *every* legal option would do, which costs no environment step; with one head, that of a flat
    student, it learns the teacher's distribution over actions instead.

    Args:
        parts: Task, labeller, settings and environments of the method.
        expert: The teacher's levels; None where the student plays alone.
        controller: Learns the labels; None for a flat student.
        rng: Samples minibatches.
        low: Learns the skills, or None.
        steps: Environment steps of distillation, which count as all others; all of the run's if not given.
        given: Scenes that were labelled before, to be learned from with those that are played.
        ended: Called when distillation is over.
    """

    judged_as = "distilled"
    farewell = "distilled; the teacher is switched off"
    saved = places("store", optimizer="_distillation.optimizer", rng="_distillation.rng", chance="_chance")

    def __init__(
        self,
        parts: "Parts",
        expert: Levels | None,
        controller: ControllerNetwork | None,
        rng: np.random.Generator,
        *,
        low: LowNetwork | None = None,
        steps: int | None = None,
        given: LabelledScenes | None = None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        assert parts.labeller is not None, "distillation needs labels"
        self.task, self.labeller, self.expert, self._ended = parts.task, parts.labeller, expert, ended
        self.config: DistilConfig = parts.settings.distil
        self._masked, self._teacher = parts.settings.mask, parts.config.teacher
        self.steps, num_envs = parts.config.steps if steps is None else steps, parts.config.num_envs
        self.controller, self.low = controller, low
        if self.config.retell and not defines(self.task, "retold"):
            raise UserError(
                f"{self.task.name} has no missions that could be told of other places.", "leave out --retell"
            )
        self.store = TrajectoryStore(self.task, -(-self.steps // num_envs) + self.config.rollout, num_envs)
        networks = [network for network in (controller, low) if network]
        self._distillation = Distillation(encoder_of(self.task), networks, self.gradients, self.config, rng)
        self._chance = torch.default_generator  # networks that read missions draw from it while they learn
        self._given = given and replace(given, probs=self._learned(given.probs))
        self._forget()

    def over(self, steps: int, total: int) -> bool:
        """Whether the steps of distillation, or of the run, are spent."""
        return steps >= self.steps or spent(self.store, steps, total)

    def beta(self, steps: int) -> float:
        """Probability that the teacher acts: one at first, falling linearly to zero."""
        return max(0.0, 1.0 - steps / (self.config.guided * self.steps))

    def advance(self, hierarchy: Hierarchy | None, steps: int, total: int) -> Advance:
        """One shared roll-out, its labels, and gradient steps on everything so far."""
        beta = self.beta(steps)
        steps = play(hierarchy, self.store, self.config.rollout, beta, steps, total)
        new = (len(self.store) - self._read) * self.store.num_envs
        annotate(self.store, self._read, self.labeller)
        self._aggregate()
        if self.config.doubt and self.controller is not None:
            self._doubt()
        info = self._distillation.train(round(self.config.updates * new), min(1.0, steps / self.steps))
        return Advance(steps, {f"controller/{name}": value for name, value in info.items()} | {"rollout/mix": beta})

    def end(self) -> dict[str, float]:
        """The teacher is switched off; the controller is calibrated on environments that it never trained on."""
        self.expert = None
        wrong, scenes = sum(self.labeller.stats.extra.get(name, 0) for name in ("overruled", "lost")), len(self._legal)
        if wrong > _FALLIBLE * scenes:
            judge = f"python main.py labels judge --teacher {self._teacher.teacher} --task {self.task.source}"
            say(f"warning: the teacher's labels lead nowhere in {wrong:g} of {scenes} scenes; how good it is: {judge}")
        if self.controller is not None:
            self.calibration = self._calibrate(self.controller)
        self._ended()
        return {f"controller/{name}": value for name, value in self.calibration[1].items()}

    @property
    def held_out(self) -> LabelledScenes:
        """The scenes of environments, or episodes, that nothing is learned from."""
        return LabelledScenes.concatenate(self._held_out)

    def gradients(self, scenes: LabelledScenes) -> Gradients:
        """Of the controller's distillation loss and the low level's imitation loss, in the parameters of both."""
        found: Gradients = [], {}
        if self.controller is not None:
            found = distillation_gradients(self.controller, scenes, self._masked)
        if self.low is not None:
            targets, mask = self._skill_targets(self.low, scenes)
            of_low = imitation_gradients(self.low, to_tensors(scenes.encoded), targets, mask)
            found = [*found[0], *of_low[0]], found[1] | of_low[1]
        return found

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; what is derived from the scenes is computed anew."""
        super().load_state_dict({"chance": self._chance.get_state()} | state)  # earlier versions do not have it
        self._distillation.forget_step()
        self._forget()
        self._aggregate()

    def release(self) -> None:
        """Let the scenes go, which nothing reads after the end."""
        self.store = TrajectoryStore(self.task, 1, self.store.num_envs)
        self._forget()

    def _forget(self) -> None:
        """Let go what is derived from the store."""
        self._distillation.clear()
        if self._given is not None:
            self._distillation.add(self._given)
        self._held_out: list[LabelledScenes] = []
        self._held_out_obs: list[NDArray] = []
        self._codes: list[NDArray[np.int64]] = []
        self._legal: dict[int, NDArray[np.bool_]] = {}
        self._read = 0  # vector steps of the store that have become scenes

    def _doubt(self) -> None:
        """Reconsider all labels after what was played since; where some change, the scenes are made of the new ones."""
        runs = runs_of(self.store, np.concatenate(self._codes))
        if self.labeller.doubt(runs, self._legal):
            annotate(self.store, 0, self.labeller)
            self._forget()
            self._aggregate()

    def _skill_targets(self, low: LowNetwork, scenes: LabelledScenes) -> tuple[Any, Any]:
        """Distributions over actions [M, heads, A] and which heads they train [M, heads]."""
        acted = torch.eye(low.num_actions, device=device())[to_tensor(scenes.skills).long()]
        if low.num_options == len(self.task.options):
            return acted, to_tensor(scenes.legal)
        flat = torch.einsum("nk,nka->na", to_tensor(scenes.probs), acted)
        return flat[:, None], flat.sum(1, keepdim=True) > 0

    def _aggregate(self) -> None:
        """Turn what is new in the store into scenes, held out or to learn from."""
        if len(self.store) == self._read:
            return
        rows = labelled_scenes(self.store, self._read)
        probs = self._learned(rows.probs)
        # With fewer environments than that, whole episodes are held out instead.
        count = self.store.num_envs
        unit = rows.env if count >= _HOLD_OUT else rows.episode * count + rows.env
        held_out = unit % _HOLD_OUT == _HOLD_OUT - 1
        codes, kept = self.task.fact_codes(rows.obs), np.flatnonzero(~held_out)

        def scenes(which: NDArray[Any], obs: NDArray) -> LabelledScenes:
            return scenes_of(self.task, obs, rows.previous[which], probs[which], rows.legal[which])

        obs = rows.obs[kept]
        if self.config.stretch and obs.ndim == 4:
            obs = stretched(obs, self.config.stretch, self._read * count + kept)
            same = self.task.fact_codes(obs) == codes[kept]  # else the label is of another
            kept, obs = kept[same], obs[same]
        learned = scenes(kept, obs)
        if self.config.retell:
            others = self.task.retold(obs, self._read * count + kept)
            each = np.arange(2 * len(obs)).reshape(2, -1).T.flatten()  # in an order that a resumed run has, too
            learned = LabelledScenes.concatenate([learned, self._labelled(others)])[each]
            obs = np.concatenate([obs, others])[each]
        if self.low is not None:
            learned = learned.with_skills(skill_actions(self.task, obs).astype(np.int8))
        elif self._teacher.ask_below < 1:  # scenes that were spared would leave minibatches few labels, and memory full
            learned = learned[np.flatnonzero(learned.probs.sum(1) > 0)]
        self._distillation.add(learned)
        self._held_out_obs.append(rows.obs[held_out])
        self._held_out.append(scenes(held_out, self._held_out_obs[-1]))
        distinct, first = np.unique(codes, return_index=True)
        self._codes.append(codes.reshape(-1, count))
        self._legal |= zip(distinct.tolist(), rows.legal[first], strict=True)
        self._read = len(self.store)

    def _learned(self, probs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Labels [N, K] as they are learned: as they are, or the most probable option of each."""
        if self._teacher.soft:
            return probs
        most_probable = np.eye(probs.shape[1], dtype=np.float32)[probs.argmax(1)]
        return most_probable * (probs.sum(1, keepdims=True) > 0)

    def _labelled(self, obs: NDArray) -> LabelledScenes:
        """Scenes that were not played, of observations [M, ...], which the teacher is asked about now."""
        probs, _ = self.labeller.label(obs, np.zeros(len(obs), np.int64))
        return scenes_of(self.task, obs, np.full(len(obs), -1), self._learned(probs), self.task.legal(obs))

    def _calibrate(self, controller: ControllerNetwork) -> tuple[float, dict[str, float]]:
        """Temperature and held-out figures; 1 and none for a run too short to have held out labelled scenes."""
        scenes = self.held_out
        labelled = np.flatnonzero(scenes.probs.sum(1) > 0)
        fitted, judged = labelled[::2], labelled[1::2]
        if not len(judged):
            return 1.0, {}
        obs = np.concatenate(self._held_out_obs)
        truth = scenes.probs.argmax(1)  # what the teacher said, where no script says what is right
        if defines(self.task, "script"):
            truth = np.array([self.task.script(scene) for scene in self.task.describe(obs)])
        return calibrate(controller, scenes[fitted], scenes[judged], truth[judged])
