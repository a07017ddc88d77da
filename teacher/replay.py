"""Labels out of a store and from nowhere else: how a run is reproduced without its teacher."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from envs.task import Scene, Task
from teacher.asking import label_from_answers
from teacher.base import Label, TeacherError, TeacherStats, restore_stats, stats_state
from teacher.labels import Call, LabelStore


class ReplayTeacher:
    """Answers from the answers of one model and prompt in a store file.

    Args:
        task: The task whose labels are replayed.
        path: A label store, for example `labels.sqlite` of a run.
        model: Which model's answers, by its name or a part of it; needed where the store holds those of several.
        margin: As for the teacher that was recorded.

    Raises:
        TeacherError: The store has no answers for this task, or those of several models and `model` picks none of them.
    """

    name = "replay"

    def __init__(self, task: Task, path: Path | str, *, model: str | None = None, margin: float = 0.0) -> None:
        self.stats = TeacherStats()
        self.path = Path(path)
        self._task = task
        self._margin = margin
        self._answers = self._read(model)
        self._labels: dict[tuple[str, ...], Label] = {}

    def _read(self, model: str | None) -> dict[tuple[str, ...], list[Call]]:
        with LabelStore(self.path, read_only=True) as store:
            calls = store.calls(self._task.name, self._task.options.digest)
        if not calls:
            raise TeacherError(
                f"{self.path} holds no answers for {self._task.name} with these options.",
                f"python main.py train --task {self._task.name} --teacher local, then replay its labels.sqlite",
            )
        recorded = sorted({(call.identity.model, call.identity.prompt) for call in calls})
        named = [pair for pair in recorded if pair[0] == model]
        chosen = named or [pair for pair in recorded if model is None or model in pair[0]]
        if len(chosen) != 1:
            raise TeacherError(
                f"{self.path} holds answers of several models or prompts, or none that fits: {recorded}.",
                "name one of them with --model",
            )
        by_facts: dict[tuple[str, ...], list[Call]] = {}
        for call in calls:
            if (call.identity.model, call.identity.prompt) == chosen[0]:
                by_facts.setdefault(call.identity.facts, []).append(call)
        return by_facts

    def label(self, scenes: Sequence[Scene]) -> list[Label]:
        """One label per scene. Raises `TeacherError` for a scene that was never labelled."""
        for facts, scene in {scene.facts: scene for scene in scenes}.items():
            self.stats.hits += 1
            if facts not in self._labels:
                self._labels[facts] = self._replay(scene)
        return [self._labels[scene.facts] for scene in scenes]

    def state_dict(self) -> dict[str, Any]:
        """Counters, for an exact resume."""
        return stats_state(self.stats)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the counters of another process."""
        restore_stats(self.stats, state)

    def _replay(self, scene: Scene) -> Label:
        count = len(self._task.options)
        if len(scene.legal) == 1:
            return Label(tuple(float(i in scene.legal) for i in range(count)), self.name, "only_option")
        answers = self._answers.get(scene.facts)
        if answers is None:
            raise TeacherError(
                f"{self.path} has no answer for a scene of {self._task.name}: {scene.text!r}.",
                "ask a teacher that can answer: --teacher local, or --teacher llm",
            )
        label = label_from_answers(answers, answers[0].source, self._margin, count)
        self.stats.abstained += label.abstained
        return label
