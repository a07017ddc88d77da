"""Labels out of a store and from nowhere else: how a run is reproduced without its teacher."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from envs.task import Scene, Task
from ground.errors import UserError
from teacher.asking import label_from_rows, recorded_rows
from teacher.base import Label, TeacherError, TeacherStats, restore_stats, stats_state
from teacher.call import FALLBACK, Call
from teacher.corrections import HUMAN, standing
from teacher.labels import LabelStore


class ReplayTeacher:
    """Labels from the rows of one model and prompt in a store file, and from people who corrected them in a review.

    Args:
        task: The task whose labels are replayed.
        path: A label store, for example `labels.sqlite` of a run.
        model: Which model's answers, by its name or a part of it; needed where the store holds those of several.
        margin: As for the teacher that was recorded.

    Raises:
        UserError: No path.
        TeacherError: The store has no labels for this task, or those of several models and `model` picks none of them.
    """

    name = "replay"

    def __init__(self, task: Task, path: Path | str | None, *, model: str | None = None, margin: float = 0.0) -> None:
        if path is None:
            raise UserError("The replay teacher needs a label store.", "--labels log/METHOD/TASK/RUN/labels.sqlite")
        self.stats = TeacherStats()
        self.path = Path(path)
        self._task = task
        self._margin = margin
        self._calls = self._read(model)
        self._labels: dict[tuple[str, ...], Label] = {}

    def _read(self, model: str | None) -> dict[tuple[str, ...], list[Call]]:
        with LabelStore(self.path, read_only=True) as store:
            recorded = recorded_rows(store, self._task)
        if not recorded:
            raise TeacherError(
                f"{self.path} holds no labels for {self._task.name} with these options.",
                f"python main.py train --task {self._task.name} --teacher local, then replay its labels.sqlite",
            )
        corrected = standing([call for rows in recorded.values() for calls in rows.values() for call in calls])
        people = [who for who in recorded if who[0].startswith(f"{HUMAN}:")]
        recorded = {who: rows for who, rows in recorded.items() if who not in people or model == who[0]} or recorded
        named = [who for who in recorded if who[0] == model]
        chosen = named or [who for who in recorded if model is None or model in who[0]]
        if len(chosen) != 1:
            raise TeacherError(
                f"{self.path} holds labels of several models or prompts, or none that fits: {sorted(recorded)}.",
                "name one of them with --model",
            )
        return recorded[chosen[0]] | {facts: [call] for facts, call in corrected.items()}

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
        calls = self._calls.get(scene.facts)
        if calls is None:
            raise TeacherError(
                f"{self.path} has no answer for a scene of {self._task.name}: {scene.text!r}.",
                "ask a teacher that can answer: --teacher local, or --teacher llm",
            )
        label = label_from_rows(calls, self._margin, count)
        if label.method == FALLBACK:
            self.stats.extra["fallbacks"] = self.stats.extra.get("fallbacks", 0) + 1
        else:
            self.stats.abstained += label.abstained
        return label
