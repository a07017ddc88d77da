"""Teachers that ask no model: the script, a replay, and controls that are wrong on purpose, to show what labels do.

Noise and shuffling act after the store, which holds clean labels, and are functions of the run's seed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from preceptor.envs.task import Scene, Task
from preceptor.ground.errors import UserError
from preceptor.teacher.base import Label, Teacher, TeacherError, label_of, only_option
from preceptor.teacher.call import FALLBACK, OK, Call, recorded_rows
from preceptor.teacher.corrections import HUMAN, standing
from preceptor.teacher.labels import LabelStore
from preceptor.teacher.prompts import scene_digest

_SHUFFLE_POOL = 256  # scenes that `shuffled` draws its wrong answers from
_SCRIPT = "script@smoothing=0"  # as the keys of existing label stores have it


class ScriptedTeacher(Teacher):
    """Labels with `task.script`, the task's own expert, and keeps the labels in the store as any other teacher's.

    They are computed anew in each process; the script may have changed.
    """

    def __init__(self, task: Task, store: LabelStore) -> None:
        super().__init__("scripted")
        self._task, self._store = task, store

    def _label_distinct(self, scenes: Sequence[Scene]) -> list[Label]:
        calls = [self._call(scene) for scene in scenes if scene.facts not in self._labels]
        self.stats.hits += len(scenes) - len(calls)
        self.stats.queries += len(calls)
        self.stats.calls += len(calls)
        self._store.put_many(calls)
        self._labels |= {call.facts: Label(call.probs, self.name, call.method, call.query) for call in calls}
        return [self._labels[scene.facts] for scene in scenes]

    def _call(self, scene: Scene) -> Call:
        options, chosen = self._task.options, self._task.script(scene)
        asked = (_SCRIPT, "", self._task.name, options.digest, scene.facts, scene.legal, 0, scene.text, scene.legal)
        return Call(*asked, self.name, "script", OK, _one_hot(chosen, len(options)), options[chosen].id)


class ReplayTeacher(Teacher):
    """Labels out of a store and from nowhere else: how a run is reproduced without its teacher.

    They are those of one model and prompt, and of people who corrected them in a review. `model`, a name or a part of
    it, is needed where the store at `path` holds the answers of several; `margin` is that of the recorded teacher.
    A scene without an answer is an abstention if it `abstains`, else refused.

    Raises:
        UserError: No path.
        TeacherError: The store has no labels for this task, or those of several models and `model` picks none of them.
    """

    def __init__(
        self,
        task: Task,
        path: Path | str | None,
        *,
        model: str | None = None,
        margin: float = 0.0,
        abstains: bool = False,
    ) -> None:
        super().__init__("replay")
        if path is None:
            raise UserError("The replay teacher needs a label store.", "--labels log/METHOD/TASK/RUN/labels.sqlite")
        self.path, self._task, self._margin, self._abstains = Path(path), task, margin, abstains
        self._calls = self._read(model)

    def _read(self, model: str | None) -> dict[tuple[str, ...], list[Call]]:
        with LabelStore(self.path, read_only=True) as store:
            calls = store.calls(self._task.name, self._task.options.digest, answers_only=False)
        if not calls:
            raise TeacherError(
                f"{self.path} holds no labels for {self._task.name} with these options.",
                f"python main.py train --task {self._task.source} --teacher local, then replay its labels.sqlite",
            )
        recorded = recorded_rows(calls)
        # Models before people, whose corrections stand beside those of any model; the whole name before a part of it.
        models = [who for who in recorded if not who[0].startswith(f"{HUMAN}:")]
        chosen = [who for who in recorded if model == who[0]]
        chosen = chosen or [who for who in models or recorded if model is None or model in who[0]]
        if len(chosen) != 1:
            raise TeacherError(
                f"{self.path} holds labels of several models or prompts, or none that fits: {sorted(recorded)}.",
                "name one of them with --model",
            )
        rows = recorded[chosen[0]] if chosen[0] in models else {}  # what a person took back is no label
        return rows | {facts: [call] for facts, call in standing(calls).items()}

    def _label_distinct(self, scenes: Sequence[Scene]) -> list[Label]:
        """Raises `TeacherError` for a scene that was never labelled."""
        self.stats.hits += len(scenes)
        self._labels |= {scene.facts: self._replay(scene) for scene in scenes if scene.facts not in self._labels}
        return [self._labels[scene.facts] for scene in scenes]

    def _replay(self, scene: Scene) -> Label:
        count = len(self._task.options)
        if len(scene.legal) == 1:
            return only_option(scene, count, self.name)
        calls = self._calls.get(scene.facts)
        if calls is None and self._abstains:
            return label_of([], self.name, self._margin, count)
        if calls is None:
            raise TeacherError(
                f"{self.path} has no answer for a scene of {self._task.name}: {scene.text!r}.",
                "ask a teacher that can answer: --teacher local, or --teacher llm",
            )
        label = label_of(calls, calls[-1].source, self._margin, count)
        if label.method == FALLBACK:
            self.stats.extra["fallbacks"] = self.stats.extra.get("fallbacks", 0) + 1
        else:
            self.stats.abstained += label.abstained
        return label


class ControlTeacher(Teacher):
    """Knows only what is legal: `random` (an option for each scene, fixed by the seed) or `uniform-legal`."""

    def __init__(self, name: str, task: Task, seed: int) -> None:
        super().__init__(name)
        self._count, self._seed = len(task.options), seed

    def _label_distinct(self, scenes: Sequence[Scene]) -> list[Label]:
        new = [scene for scene in scenes if scene.facts not in self._labels]
        self.stats.queries += len(new)
        self.stats.hits += len(scenes) - len(new)
        self._labels |= {scene.facts: Label(self._probs(scene), self.name, "control") for scene in new}
        return [self._labels[scene.facts] for scene in scenes]

    def _probs(self, scene: Scene) -> tuple[float, ...]:
        if self.name == "uniform-legal":
            return _uniform(scene.legal, self._count)
        rng = _generator("random", self._seed, scene_digest(scene))
        return _one_hot(int(rng.choice(scene.legal)), self._count)


class AlteredTeacher(Teacher):
    """What is altered about the labels of another teacher, the inner one; the counters are those of both."""

    def __init__(self, name: str, inner: Teacher) -> None:
        super().__init__(name, inner.stats)
        self.inner = inner

    def state_dict(self) -> dict[str, Any]:
        """The inner teacher's state."""
        return {"inner": self.inner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the inner teacher's state."""
        self.inner.load_state_dict(state["inner"])


class NoisyTeacher(AlteredTeacher):
    """Replaces a label by a one-hot on another legal option with probability p; abstentions are passed on.

    The noise is not frozen: each time that a distinct scene is asked, it is a new query with a new index, and whether
    and how it is corrupted is a function of the run's seed and that index. Within one call equal facts stay equal.
    Where it is `fixed`, it is a function of the seed and the scene: asking again gives the same answer.
    """

    def __init__(self, inner: Teacher, probability: float, seed: int, fixed: bool = False) -> None:
        super().__init__(f"{inner.name}+noise{probability:g}", inner)
        self._probability, self._seed, self._fixed, self._next_query = probability, seed, fixed, 0

    def _label_distinct(self, scenes: Sequence[Scene]) -> list[Label]:
        clean, first = self.inner.label(scenes), self._next_query
        self._next_query += len(scenes)
        return [self._corrupt(*pair, query) for query, pair in enumerate(zip(clean, scenes, strict=True), first)]

    def _corrupt(self, clean: Label, scene: Scene, query: int) -> Label:
        rng = _generator("noise", self._seed, scene_digest(scene) if self._fixed else query)
        best = int(np.argmax(clean.probs))
        others = [option for option in scene.legal if option != best]
        # What stands in for the teacher, or will, is not the teacher's to corrupt.
        if clean.abstained or clean.method == FALLBACK or not others or rng.random() >= self._probability:
            return clean
        return replace(clean, probs=_one_hot(int(rng.choice(others)), len(clean.probs)), method="noise")

    def state_dict(self) -> dict[str, Any]:
        """The inner teacher's state and the index of the next query."""
        return super().state_dict() | {"next_query": self._next_query}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the stream of noise where it was."""
        super().load_state_dict(state)
        self._next_query = state["next_query"]


class ShuffledTeacher(AlteredTeacher):
    """The inner teacher's answer to another scene of the same task: true labels in the wrong places, at the same cost.

    The other scene is drawn for each scene by the seed. Its answer is restricted to what is legal here and
    renormalised; where nothing is left of it, the label is uniform over the legal options.
    """

    def __init__(self, inner: Teacher, task: Task, seed: int) -> None:
        super().__init__("shuffled", inner)
        self._seed = seed
        drawn = task.sample_scenes(_generator("pool", seed), _SHUFFLE_POOL)
        self._pool = list({scene.facts: scene for scene in drawn}.values())

    def _label_distinct(self, scenes: Sequence[Scene]) -> list[Label]:
        answers = self.inner.label([self._other(scene) for scene in scenes])
        return [_restrict(answer, scene) for answer, scene in zip(answers, scenes, strict=True)]

    def _other(self, scene: Scene) -> Scene:
        others = [other for other in self._pool if other.facts != scene.facts]
        return others[_generator("shuffled", self._seed, scene_digest(scene)).integers(len(others))]


def _generator(*key: object) -> np.random.Generator:
    """A stream of its own for each key, the same in every process."""
    return np.random.default_rng(list(hashlib.sha256(repr(key).encode()).digest()))


def _restrict(answer: Label, scene: Scene) -> Label:
    legal = [answer.probs[option] if option in scene.legal else 0.0 for option in range(len(answer.probs))]
    total = sum(legal)
    probs = tuple(p / total for p in legal) if total > 0 else _uniform(scene.legal, len(legal))
    return Label(probs, "shuffled", "control")


def _one_hot(option: int, count: int) -> tuple[float, ...]:
    return (0.0,) * option + (1.0,) + (0.0,) * (count - option - 1)


def _uniform(legal: Sequence[int], count: int) -> tuple[float, ...]:
    return tuple(1.0 / len(legal) if i in legal else 0.0 for i in range(count))
