"""The teacher in the hierarchy's slots: it labels what was seen, and it can act through the scripted skills."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.clock import Clock
from preceptor.agent.data.store import TrajectoryStore
from preceptor.agent.distributions import Categorical
from preceptor.agent.doubts import Runs, revised
from preceptor.agent.levels import Observations
from preceptor.controller.roles import Controller
from preceptor.envs.task import LimitedTask, Scene, Task
from preceptor.teacher.base import HELD, UNAVAILABLE, Label, Teacher, TeacherStats
from preceptor.teacher.make import asking_of


class Labeller:
    """Labels observations.

    Attributes:
        stats: What the labels have cost.
        controller: The one that learns from them; None until there is one.
    """

    stats: TeacherStats
    controller: Controller | None = None

    def label(self, obs: NDArray, level_seeds: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Option distributions [N, K], zeros for an abstention, and the codes [N] of the facts that were read.

        The level seeds [N] matter to a deliberately limited teacher only (`envs.task.LimitedTask`).
        """
        raise NotImplementedError

    def held(self, codes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the abstention on each of these facts [N] means that the running option goes on."""
        return np.zeros(len(codes), np.bool_)

    def spared(self, codes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether nobody was asked about each of these facts [N], because `controller` was sure."""
        return np.zeros(len(codes), np.bool_)

    def doubt(self, runs: Runs, legal: Mapping[int, NDArray[np.bool_]]) -> bool:
        """Reconsider the labels of facts, by their codes, of which `legal` has the options [K]; whether any changed."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Labels known so far and the teacher's own state, for an exact resume."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""


class Annotator(Labeller):
    """A teacher's labels; equal facts are looked up, so that it is asked once per distinct scene.

    Args:
        task: Describes observations as scenes.
        teacher: Answers.
        on_failure: What stands in for a teacher that cannot be reached, one of `teacher.config.Policy`. It stands for a
            scene for the rest of the run, and is a row in the label store.
        ask_below: Of the controller's best option; where it has this probability or more, the teacher is not asked.
    """

    def __init__(self, task: Task, teacher: Teacher, on_failure: str = "abort", ask_below: float = 1.0) -> None:
        self.task, self.teacher, self.stats = task, teacher, teacher.stats
        self._on_failure, self._ask_below = on_failure, ask_below
        self._known: dict[int, NDArray[np.float32]] = {}
        self._held: set[int] = set()
        self._spared: set[int] = set()
        self._revised: dict[int, NDArray[np.float32]] = {}  # what stands for a label that play speaks against

    def label(self, obs: NDArray, level_seeds: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """As `Labeller.label`; scenes that are new are asked about at once."""
        limited = self.task if isinstance(self.task, LimitedTask) else None
        seen = limited.teacher_view(obs, level_seeds) if limited else obs
        codes = self.task.fact_codes(seen)
        distinct, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
        new = [i for i, code in enumerate(distinct.tolist()) if code not in self._known]
        if new and self.controller is not None and self._ask_below < 1:
            new = self._spare(new, obs[first[new]], distinct, self.controller)
        if new:
            for i, label in zip(new, self._labels(seen[first[new]]), strict=True):
                self._known[int(distinct[i])] = np.array(label.probs, np.float32)
                if label.source == HELD:
                    self._held.add(int(distinct[i]))
        rows = np.stack([self._revised.get(code, self._known[code]) for code in distinct.tolist()])
        probs = rows[inverse]
        return np.take_along_axis(probs, limited.teacher_to_true(level_seeds), axis=1) if limited else probs, codes

    def held(self, codes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Where the teacher could not be reached, and is waited for."""
        return np.isin(codes, list(self._held))

    def spared(self, codes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Where the controller was sure when a scene was met."""
        return np.array([code in self._spared for code in codes.tolist()], np.bool_)

    def _spare(self, new: list[int], obs: NDArray, codes: NDArray[np.int64], controller: Controller) -> list[int]:
        """The rows of `new`, with observations `obs`, that are to be asked about; the others are so no more."""
        sure = controller.probs(obs, legal=self.task.legal(obs)).max(1) >= self._ask_below
        spared = codes[np.array(new)[sure]].tolist()
        self._known |= dict.fromkeys(spared, np.zeros(len(self.task.options), np.float32))
        self._spared.update(spared)
        self.stats.extra["spared"] = len(self._spared)
        return [i for i, skip in zip(new, sure, strict=True) if not skip]

    def doubt(self, runs: Runs, legal: Mapping[int, NDArray[np.bool_]]) -> bool:
        """As `Labeller.doubt`. The labels of a teacher that is limited on purpose stay as they are."""
        if isinstance(self.task, LimitedTask):
            return False
        scenes = np.array(sorted(legal), np.int64)
        labels = np.stack([self._known[code] for code in scenes.tolist()])
        found = revised(runs, scenes, labels, np.stack([legal[code] for code in scenes.tolist()]))
        before, rows = self._revised, np.flatnonzero(found.overruled | found.doubted)
        self._revised = {int(scenes[row]): found.probs[row] for row in rows}
        if self._revised or "overruled" in self.stats.extra:
            self.stats.extra |= {"overruled": int(found.overruled.sum()), "lost": int(found.lost.sum())}
        return before.keys() != self._revised.keys() or any(
            (before[code] != label).any() for code, label in self._revised.items()
        )

    def _labels(self, obs: NDArray[np.uint8]) -> list[Label]:
        """The teacher's labels, and what stands in for them where the teacher cannot be reached."""
        scenes = self.task.describe(obs)
        labels = self.teacher.label(scenes)
        stands_in: dict[tuple[str, ...], Label] = {}
        for i, (scene, label) in enumerate(zip(scenes, labels, strict=True)):
            if label.method == UNAVAILABLE and scene.facts not in stands_in:
                asking = asking_of(self.teacher)
                assert asking is not None, "only a server can be unavailable"
                stand_in = self._stand_in(scene, obs[i : i + 1])
                stands_in[scene.facts] = asking.fall_back(scene, self._on_failure, stand_in)
        return [stands_in.get(scene.facts, label) for scene, label in zip(scenes, labels, strict=True)]

    def _stand_in(self, scene: Scene, obs: NDArray[np.uint8]) -> tuple[float, ...]:
        """A distribution over options without the teacher, empty for none; exactly as it will be used."""
        match self._on_failure:
            case "scripted":
                return tuple(float(i == self.task.script(scene)) for i in range(len(self.task.options)))
            case "controller":
                assert self.controller is not None, "checked before training: this method distils a controller"
                return tuple(map(float, self.controller.probs(obs, legal=self.task.legal(obs))[0]))
        return ()

    def state_dict(self) -> dict[str, Any]:
        """As `Labeller.state_dict`."""
        labels = {"known": self._known, "held": sorted(self._held), "spared": sorted(self._spared)}
        labels |= {"revised": self._revised}
        return labels | {"teacher": self.teacher.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._known, self._held = state["known"], set(state["held"])
        # Earlier versions have neither.
        self._revised, self._spared = state.get("revised", {}), set(state.get("spared", ()))
        self.teacher.load_state_dict(state["teacher"])


class ControllerLabels(Labeller):
    """A finished controller in the teacher's place: its distribution is the label, and no teacher is asked."""

    controller: Controller

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        teacher = controller.facts.get("teacher", {})
        self.stats = TeacherStats(queries=teacher.get("queries", 0), calls=teacher.get("calls", 0))

    def label(self, obs: NDArray, level_seeds: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """As `Labeller.label`; a controller never abstains."""
        task = self.controller.task
        return self.controller.probs(obs, legal=task.legal(obs)), task.fact_codes(obs)


def annotate(store: TrajectoryStore, start: int, labeller: Labeller) -> None:
    """Fill the labels of everything stored from vector step `start` on."""
    obs, labels = store.column("obs", start), store.column("label_probs", start)
    probs, _ = labeller.label(obs.reshape(-1, *obs.shape[2:]), store.column("level_seed", start).reshape(-1))
    labels[:] = probs.reshape(labels.shape)


class TeacherHigh:
    """Chooses options as the teacher says; where it abstains, any legal option.

    Where it could not be reached and is to be waited for (`hold`), the running option goes on while it is legal. Where
    it was not asked because the controller was sure, the controller chooses.
    """

    def __init__(self, labeller: Labeller) -> None:
        self.labeller = labeller

    def choose(self, observed: Observations, running: NDArray[np.int64]) -> tuple[NDArray[np.bool_], Categorical]:
        """The task's own done-condition [N], and the label of each scene [N, K]."""
        probs, codes = self.labeller.label(observed.obs, observed.level_seeds)
        silent = probs.sum(1) == 0
        if silent.any():
            legal = observed.legal[silent]
            probs[silent] = legal / legal.sum(1, keepdims=True)
            goes_on = silent & self.labeller.held(codes) & (running >= 0)
            goes_on &= observed.legal[np.arange(len(running)), running]
            probs[goes_on] = np.eye(probs.shape[1], dtype=probs.dtype)[running[goes_on]]
            spared = silent & self.labeller.spared(codes)
            if spared.any() and self.labeller.controller is not None:
                probs[spared] = self.labeller.controller.probs(observed.obs[spared], legal=observed.legal[spared])
        return observed.task.option_done(observed.obs, running), Categorical(probs)


class TeacherActions:
    """A flat teacher: the labels' distribution over options, carried by the skills to primitive actions.

    p(a | s) = sum_o label(o | s) 1[a = skill(s, o)], IHAC's soft planner.
    """

    def __init__(self, labeller: Labeller) -> None:
        self._high = TeacherHigh(labeller)

    def act(self, observed: Observations, clock: Clock) -> Categorical:
        """Distribution over actions [N, A]."""
        none_runs = np.full(len(observed), -1, np.int64)  # the one option of a flat student is none of the task's
        _, labels = self._high.choose(observed, none_runs)
        acted = np.eye(observed.task.num_actions, dtype=np.float32)[skill_actions(observed.task, observed.obs)]
        return Categorical(np.einsum("nk,nka->na", labels.probs, acted))


def skill_actions(task: Task, obs: NDArray) -> NDArray[np.int64]:
    """What the scripted executor of every option would do, [N, K]."""
    count, options = len(obs), len(task.options)
    repeated = np.repeat(obs, options, axis=0)
    return task.skill(repeated, np.tile(np.arange(options), count)).reshape(count, options)
