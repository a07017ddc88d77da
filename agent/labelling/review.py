"""`main.py label --review`: what a teacher said, the least sure first, for a person to accept or to correct."""

import json
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agent.labelling.agreement import compared
from agent.labelling.config import LabelConfig
from agent.labelling.view import LONGEST, about, pace
from agent.labels.show import line_of
from agent.labels.stores import find_store
from envs.catalog import get_task
from envs.task import Task
from ground.errors import UserError
from teacher.call import Call, mean_probs, top_margin
from teacher.corrections import HUMAN, correct, is_correction, standing, withdraw
from teacher.label_lines import to_record
from teacher.labels import LabelStore


class _Query(NamedTuple):
    """A scene that the teacher was asked about: its last call, with the number of that row, and the teacher's label."""

    row: int
    last: Call
    probs: tuple[float, ...]


class Review:
    """The queries of a label store as questions; see `Session` for the methods, which are the same.

    Args:
        path: The store.
        task: Whose labels are reviewed.
        annotator: Who reviews where a request gives no name.
    """

    def __init__(self, path: Path, task: Task, annotator: str) -> None:
        self.annotator = annotator
        self._path, self._task = path, task
        self._lock = threading.RLock()
        with LabelStore(path) as store:
            rows = store.last_calls(len(store), task.name)
        rows = [(row, call) for row, call in rows if call.options == task.options.digest]
        asked: dict[str, list[tuple[int, Call]]] = {}
        for row, call in rows:
            if not is_correction(call) and len(call.legal) > 1:
                asked.setdefault(call.query, []).append((row, call))
        queries = [_Query(*calls[-1], mean_probs([call for _, call in calls])) for calls in asked.values()]
        self._queries = sorted(queries, key=lambda query: top_margin(query.probs))
        self._later: dict[int, None] = {}  # skipped, in that order
        self._said = [call for _, call in rows if is_correction(call)]
        if not self._queries:
            raise UserError(f"{path} holds no labels of {task.name}.", f"python main.py labels show {path}")

    def about(self) -> dict[str, Any]:
        """The task and its options."""
        return about(self._task, f"{self._task.name}: review")

    def state(self, who: str | None = None) -> dict[str, Any]:
        """Everything that the page shows, as JSON takes it."""
        who = who or self.annotator
        with self._lock:
            queue, said = self._queue(), list(standing(self._said).values())
        mine = [call for call in said if call.model == f"{HUMAN}:{who}"]
        done = len(self._queries) - len(queue)
        unsure = [1 - max(self._queries[i].probs, default=0.0) for i in queue]
        return {
            "who": who,
            "again": False,
            "phase": "asking" if queue else "finished",
            "trouble": None,
            "pictures": None,
            "question": self._question(queue[0]) if queue else None,
            "next": [],
            "progress": {
                "answered": done,
                "budget": len(self._queries),
                "mine": len(mine),
                "skipped": 0,
                "cost": done,
                "seconds": round(sum(call.seconds for call in said), 1),
                **pace([call.seconds for call in mine], len(queue)),
                "expected_error": round(float(np.mean(unsure)), 4) if unsure else 0.0,
                "steps": len(queue),
            },
            "result": None if queue else self.outcome(),
        }

    def answer(
        self,
        who: str | None,
        question: tuple[int, int, int],
        option: int | None,
        start: int | None = None,
        stop: int | None = None,
        seconds: float = 0.0,
    ) -> bool:
        """Keep a correction, or an acceptance; false if the scene is reviewed already. None leaves it for later.

        Raises:
            ValueError: The option is not legal there.
            UserError: The disk refuses; nothing was kept.
        """
        with self._lock:
            if question[0] not in self._queue():
                return False
            about = self._queries[question[0]].last
            if option is None:  # it comes again, behind the others; until then the teacher's word stands
                self._later.pop(question[0], None)
                self._later[question[0]] = None
                return True
            if option not in about.legal:
                raise ValueError(f"option {option} is not legal in this scene")
            with LabelStore(self._path) as store:
                spent = min(max(seconds, 0.0), LONGEST)
                self._said.append(correct(store, self._task, about, who or self.annotator, option, spent))
        return True

    def undo(self, who: str | None = None) -> bool:
        """Take back a person's last correction; false if none stands. Raises `UserError` if the disk refuses."""
        model = f"{HUMAN}:{who or self.annotator}"
        with self._lock:
            stand = standing(self._said).values()
            mine = [call for call in self._said if call.model == model and call in stand]
            if not mine:
                return False
            with LabelStore(self._path) as store:
                self._said.append(withdraw(store, mine[-1]))
        return True

    def frame(self, trajectory: int, step: int) -> bytes | None:
        """Nothing: the teacher saw no pictures either."""
        return None

    def agreement(self) -> list[dict[str, Any]]:
        """How far people agree with the teacher; see `agent.labelling.agreement`."""
        said = {facts: int(np.argmax(call.probs)) for facts, call in standing(self._said).items()}
        teacher = {query.last.facts: int(np.argmax(query.probs)) for query in self._queries if query.probs}
        found = compared({"you": said, "the teacher": teacher}, ("you", "the teacher"), len(self._task.options))
        return [found] if found else []

    def lines(self) -> bytes:
        """The corrections, those that were taken back too, as `labels export` writes them."""
        with self._lock:
            return b"".join(json.dumps(to_record(call)).encode() + b"\n" for call in self._said)

    def outcome(self) -> dict[str, Any]:
        """What the review came to."""
        done = len(self._queries) - len(self._queue())
        pairs = self.agreement()
        agreed = {"agreement": round(pairs[0]["agree"], 4)} if pairs else {}
        head = {"task": self._task.name, "run": str(self._path)}
        return head | {"reviewed": done, "scenes": len(self._queries)} | agreed

    def _queue(self) -> list[int]:
        said, later = standing(self._said), list(self._later)
        open_ = [i for i, query in enumerate(self._queries) if query.last.facts not in said]
        return sorted(open_, key=lambda i: later.index(i) if i in later else -1)

    def _question(self, number: int) -> dict[str, Any]:
        row, last, probs = self._queries[number]
        line = line_of(row, last)
        prompt = "\n\n".join(message["content"] for message in line["messages"] or ()) or line["note"]
        best = int(np.argmax(probs)) if probs else None
        return {
            "trajectory": number,
            "step": 0,
            "before": 0,
            "length": 1,
            "ask": "Which option does this scene call for?",
            "legal": [k in last.legal for k in range(len(self._task.options))],
            "words": [last.scene],
            "timeline": [[round(p, 3) for p in probs]] if probs else None,
            "suggestion": None if best is None else {"option": best, "probability": round(probs[best], 3)},
            "said": {},
            "answers": [],
            "prompt": prompt,
            "reply": f"{last.model}: {last.reply or line['why'] or last.method}",
        }


def open_review(config: LabelConfig) -> Review:
    """The review of a store. Raises `UserError` if it is not clear which, or of which task."""
    path = find_store(config.review, config.logdir)
    with LabelStore(path, read_only=True) as store:
        tasks = sorted({call.task for call in store.calls(answers_only=False)})
    name = config.task if config.task in tasks else tasks[0] if len(tasks) == 1 else None
    if name is None:
        raise UserError(f"{path} holds labels of {', '.join(tasks) or 'no task'}.", "name one of them with --task")
    return Review(path, get_task(name), config.annotator)
