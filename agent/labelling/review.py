"""`main.py label --review`: what a teacher said, the least sure first, for a person to accept or to correct."""

import json
import threading
from typing import Any, NamedTuple

import numpy as np

from preceptor.agent.labelling.agreement import compared
from preceptor.agent.labelling.config import LabelConfig
from preceptor.agent.labelling.view import LONGEST, Asked, Interval, about, progress, suggested
from preceptor.agent.labels.show import line_of
from preceptor.agent.labels.stores import find_store
from preceptor.agent.runs.carried import task_of
from preceptor.ground.errors import UserError, visible
from preceptor.teacher.call import Call, mean_probs, top_margin
from preceptor.teacher.corrections import HUMAN, correct, is_correction, standing, withdraw
from preceptor.teacher.label_lines import to_record
from preceptor.teacher.labels import LabelStore


class _Query(NamedTuple):
    """A scene that the teacher was asked about: the number of its last row, that call, and the teacher's label."""

    row: int
    last: Call
    probs: tuple[float, ...]


class Review:
    """The queries of a label store about a task as questions; the methods are those of `Session`.

    Raises `UserError` if it is not clear which store is meant, or which of its tasks.
    """

    def __init__(self, config: LabelConfig) -> None:
        self._path, self._annotator = find_store(config.review, config.logdir), config.annotator
        self._logdir = config.logdir
        self._lock = threading.Lock()
        with LabelStore(self._path, read_only=True) as store:
            rows = store.last_calls(len(store))
        tasks = {call.task for _, call in rows}
        wanted = task_of(config.task, config.logdir)
        if wanted.name not in tasks and len(tasks) != 1:
            found = ", ".join(sorted(tasks)) or "no task"
            raise UserError(f"{self._path} holds labels of {found}.", "name one of them with --task")
        self._task = task = wanted if wanted.name in tasks else task_of(tasks.pop(), config.logdir)
        reviewed = task.name, task.options.digest
        rows = [(row, call) for row, call in rows if (call.task, call.options) == reviewed]
        asked: dict[str, list[tuple[int, Call]]] = {}
        for row, call in rows:
            if not is_correction(call) and len(call.legal) > 1:
                asked.setdefault(call.query, []).append((row, call))
        queries = [_Query(*calls[-1], mean_probs([call for _, call in calls])) for calls in asked.values()]
        self._queries = sorted(queries, key=lambda query: top_margin(query.probs))
        self._order = [*range(len(queries))]  # what is skipped goes to the end
        self._said = [call for _, call in rows if is_correction(call)]
        if not self._queries:
            raise UserError(f"{self._path} holds no labels of {task.name}.", f"python main.py labels show {self._path}")

    def state(self, who: str | None = None) -> dict[str, Any]:
        """Everything that the page shows, as JSON takes it."""
        with self._lock:
            queue, said = self._queue(), list(standing(self._said).values())
        mine = [call.seconds for call in said if call.model == self._model(who)]
        done, seconds = len(self._queries) - len(queue), round(sum(call.seconds for call in said), 1)
        unsure = round(float(np.mean([1 - max(self._queries[i].probs, default=0.0) for i in queue] or 0.0)), 4)
        more = {"skipped": 0, "cost": done, "seconds": seconds, "expected_error": unsure}
        return {
            "about": about(self._task, ": review"),
            "who": who or self._annotator,
            "phase": "asking" if queue else "finished",
            "question": self._question(queue[0]) if queue else None,
            "progress": progress(done, len(self._queries), mine, **more),
            "result": None if queue else self.outcome(),
        }

    def answer(
        self, who: str | None, question: Asked, option: int | None, interval: Interval = None, seconds: float = 0.0
    ) -> bool:
        """Keep a correction, or an acceptance; None leaves the scene for later, and the teacher's word stands."""
        number = question[0]
        with self._lock:
            if number not in self._queue():
                return False
            if option is None:
                self._order.append(self._order.pop(self._order.index(number)))
                return True
            call = self._queries[number].last
            if option not in call.legal:
                raise ValueError(f"option {option} is not legal in this scene")
            with LabelStore(self._path) as store:
                spent = min(max(seconds, 0.0), LONGEST)
                self._said.append(correct(store, self._task, call, who or self._annotator, option, spent))
        return True

    def undo(self, who: str | None = None) -> bool:
        """Take back a person's last correction."""
        with self._lock:
            stand = standing(self._said).values()
            mine = [call for call in self._said if call.model == self._model(who) and call in stand]
            if mine:
                with LabelStore(self._path) as store:
                    self._said.append(withdraw(store, mine[-1]))
        return bool(mine)

    def frame(self, trajectory: int, step: int) -> bytes | None:
        """Nothing: the teacher saw no pictures either."""
        return None

    def agreement(self) -> list[dict[str, Any]]:
        """How far people agree with the teacher; see `preceptor.agent.labelling.agreement`."""
        said = {facts: int(np.argmax(call.probs)) for facts, call in standing(self._said).items()}
        teacher = {query.last.facts: int(np.argmax(query.probs)) for query in self._queries if query.probs}
        found = compared({"you": said, "the teacher": teacher}, ("you", "the teacher"), len(self._task.options))
        return [found] if found else []

    def lines(self) -> bytes:
        """The corrections, those that were taken back too, as `labels export` writes them."""
        return b"".join(json.dumps(to_record(call)).encode() + b"\n" for call in self._said)

    def outcome(self) -> dict[str, Any]:
        """What the review came to."""
        counted = {"reviewed": len(self._queries) - len(self._queue()), "scenes": len(self._queries)}
        agreed = [("agreement", round(pair["agree"], 4)) for pair in self.agreement()]
        return {"task": self._task.name, "run": str(self._path), **counted, **dict(agreed)}

    def _model(self, who: str | None) -> str:
        return f"{HUMAN}:{who or self._annotator}"

    def _queue(self) -> list[int]:
        said = standing(self._said)
        return [number for number in self._order if self._queries[number].last.facts not in said]

    def _question(self, number: int) -> dict[str, Any]:
        row, last, probs = self._queries[number]
        line = line_of(row, last, self._logdir)
        return {
            "trajectory": number,
            "step": 0,
            "before": 0,
            "length": 1,
            "ask": "Which option does this scene call for?",
            "legal": [k in last.legal for k in range(len(self._task.options))],
            "words": [visible(last.scene)],
            "timeline": [[round(p, 3) for p in probs]] if probs else None,
            "suggestion": suggested(probs) if probs else None,
            "answers": [],
            "prompt": visible("\n\n".join(message["content"] for message in line["messages"] or ()) or line["note"]),
            "reply": visible(f"{last.model}: {last.reply or line['why'] or last.method}"),
        }
