"""Controls: teachers that are wrong on purpose, to show what the labels are worth.

Everything here acts after the store, which holds clean labels, and is a function of the run's seed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from envs.task import Scene, Task
from teacher.base import Label, Teacher, TeacherStats, restore_stats, stats_state
from teacher.call import FALLBACK
from teacher.prompts import scene_digest

# How many scenes `shuffled` draws its wrong answers from.
_SHUFFLE_POOL = 256


def _generator(*key: object) -> np.random.Generator:
    """A stream of its own for each key, the same in every process."""
    return np.random.default_rng(list(hashlib.sha256(repr(key).encode()).digest()))


class NoisyTeacher:
    """Replaces a label by a one-hot on another legal option with probability p.

    The noise is not frozen: each time that a distinct scene is asked, it is a new query with a new index, and whether
    and how it is corrupted is a function of the run's seed and that index. Within one call equal facts stay equal.

    Args:
        inner: The teacher whose labels are corrupted.
        probability: p.
        seed: Seed of the run.
    """

    def __init__(self, inner: Teacher, probability: float, seed: int) -> None:
        self.inner = inner
        self.name = f"{inner.name}+noise{probability:g}"
        self._probability = probability
        self._seed = seed
        self._next_query = 0

    @property
    def stats(self) -> TeacherStats:
        """The inner teacher's counters."""
        return self.inner.stats

    def label(self, scenes: Sequence[Scene]) -> list[Label]:
        """The inner teacher's labels, some of them corrupted; abstentions are passed on."""
        distinct = {scene.facts: scene for scene in scenes}
        labels = {}
        for clean, scene in zip(self.inner.label(list(distinct.values())), distinct.values(), strict=True):
            labels[scene.facts] = self._corrupt(clean, scene, self._next_query)
            self._next_query += 1
        return [labels[scene.facts] for scene in scenes]

    def _corrupt(self, clean: Label, scene: Scene, query: int) -> Label:
        rng = _generator("noise", self._seed, query)
        best = int(np.argmax(clean.probs))
        others = [option for option in scene.legal if option != best]
        # What stands in for the teacher, or will, is not the teacher's to corrupt.
        if clean.abstained or clean.method == FALLBACK or not others or rng.random() >= self._probability:
            return clean
        return replace(clean, probs=_one_hot(int(rng.choice(others)), len(clean.probs)), method="noise")

    def state_dict(self) -> dict[str, Any]:
        """The inner teacher's state and the index of the next query."""
        return {"inner": self.inner.state_dict(), "next_query": self._next_query}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the stream of noise where it was."""
        self.inner.load_state_dict(state["inner"])
        self._next_query = state["next_query"]


class ControlTeacher:
    """A teacher that knows nothing of the scene but its legal options.

    Args:
        name: `random` (one legal option for each scene, fixed by the seed) or `uniform-legal`.
        task: The task.
        seed: Seed of the run.
    """

    def __init__(self, name: str, task: Task, seed: int) -> None:
        self.name = name
        self.stats = TeacherStats()
        self._count = len(task.options)
        self._seed = seed
        self._seen: set[tuple[str, ...]] = set()

    def label(self, scenes: Sequence[Scene]) -> list[Label]:
        """One label per scene; equal facts have equal labels."""
        distinct = {scene.facts for scene in scenes}
        self.stats.queries += len(distinct - self._seen)
        self.stats.hits += len(distinct & self._seen)
        self._seen |= distinct
        return [Label(self._probs(scene), self.name, "control") for scene in scenes]

    def _probs(self, scene: Scene) -> tuple[float, ...]:
        if self.name == "uniform-legal":
            return _uniform(scene.legal, self._count)
        rng = _generator("random", self._seed, scene_digest(scene))
        return _one_hot(int(rng.choice(scene.legal)), self._count)

    def state_dict(self) -> dict[str, Any]:
        """Counters, for an exact resume."""
        return stats_state(self.stats) | {"seen": sorted(map(list, self._seen))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the counters of another process."""
        restore_stats(self.stats, state)
        self._seen = {tuple(facts) for facts in state["seen"]}


class ShuffledTeacher:
    """The inner teacher's answer to another scene of the same task: true labels in the wrong places.

    The other scene is drawn for each scene by the seed. Its answer is restricted to what is legal here and
    renormalised; where nothing is left of it, the label is uniform over the legal options.

    Args:
        inner: Who answers.
        task: The task whose scenes are drawn.
        seed: Seed of the run.
    """

    name = "shuffled"

    def __init__(self, inner: Teacher, task: Task, seed: int) -> None:
        self.inner = inner
        self._seed = seed
        drawn = task.sample_scenes(_generator("pool", seed), _SHUFFLE_POOL)
        self._pool = list({scene.facts: scene for scene in drawn}.values())

    @property
    def stats(self) -> TeacherStats:
        """The inner teacher's counters: the wrong answers cost as much as right ones."""
        return self.inner.stats

    def label(self, scenes: Sequence[Scene]) -> list[Label]:
        """One label per scene; equal facts have equal labels."""
        distinct = {scene.facts: scene for scene in scenes}
        answers = self.inner.label([self._other(scene) for scene in distinct.values()])
        labels = {
            scene.facts: _restrict(answer, scene) for answer, scene in zip(answers, distinct.values(), strict=True)
        }
        return [labels[scene.facts] for scene in scenes]

    def _other(self, scene: Scene) -> Scene:
        others = [other for other in self._pool if other.facts != scene.facts]
        return others[_generator("shuffled", self._seed, scene_digest(scene)).integers(len(others))]

    def state_dict(self) -> dict[str, Any]:
        """The inner teacher's state; which scene answers for which is a function of the seed."""
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the inner teacher's state."""
        self.inner.load_state_dict(state)


def _restrict(answer: Label, scene: Scene) -> Label:
    legal = [answer.probs[option] if option in scene.legal else 0.0 for option in range(len(answer.probs))]
    total = sum(legal)
    probs = tuple(p / total for p in legal) if total > 0 else _uniform(scene.legal, len(legal))
    return Label(probs, "shuffled", "control")


def _one_hot(option: int, count: int) -> tuple[float, ...]:
    return tuple(float(i == option) for i in range(count))


def _uniform(legal: Sequence[int], count: int) -> tuple[float, ...]:
    return tuple(1.0 / len(legal) if i in legal else 0.0 for i in range(count))
