"""The task's own expert as a teacher: ground truth, at no cost, for controls and comparisons."""

from collections.abc import Sequence
from typing import Any

from envs.task import Scene, Task
from teacher.base import Label, TeacherStats, restore_stats, stats_state
from teacher.labels import OK, Call, Identity, LabelStore


class ScriptedTeacher:
    """Labels with `task.script`, and keeps the labels in the store as any other teacher's.

    Args:
        task: The task whose script answers.
        store: Where labels are kept. They are computed anew in each process; the script may have changed.
        smoothing: Probability that is spread evenly over the legal options; 0 gives one-hot labels.
    """

    name = "scripted"

    def __init__(self, task: Task, store: LabelStore, *, smoothing: float = 0.0) -> None:
        self.stats = TeacherStats()
        self._task = task
        self._store = store
        self._smoothing = smoothing
        self._labels: dict[tuple[str, ...], Label] = {}

    def label(self, scenes: Sequence[Scene]) -> list[Label]:
        """One label per scene."""
        new = {scene.facts: scene for scene in scenes if scene.facts not in self._labels}
        self.stats.hits += len({scene.facts for scene in scenes}) - len(new)
        self.stats.queries += len(new)
        self.stats.calls += len(new)
        calls = [self._call(scene) for scene in new.values()]
        self._store.put_many(calls)
        for call in calls:
            self._labels[call.identity.facts] = Label(call.probs, self.name, call.method, call.identity.query)
        return [self._labels[scene.facts] for scene in scenes]

    def state_dict(self) -> dict[str, Any]:
        """Counters, for an exact resume."""
        return stats_state(self.stats)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the counters of another process."""
        restore_stats(self.stats, state)

    def _call(self, scene: Scene) -> Call:
        chosen = self._task.script(scene)
        probs = [0.0] * len(self._task.options)
        for option in scene.legal:
            probs[option] = self._smoothing / len(scene.legal)
        probs[chosen] += 1.0 - self._smoothing
        model = f"script@smoothing={self._smoothing:g}"
        identity = Identity(model, "", self._task.name, self._task.options.digest, scene.facts, scene.legal)
        return Call(
            identity, scene.text, scene.legal, self.name, "script", OK, tuple(probs), self._task.options[chosen].id
        )
