"""What Prometheus reads of a policy server, and its log: a JSON object a line, without observations or session ids."""

import contextlib
import json
import logging
import time
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from preceptor.serving.policy.protocol import OPERATIONS, Refused

_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_log = logging.getLogger("preceptor.policy")
_PLAIN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class Measured:
    """The counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        made: Any = {"registry": self._registry, "namespace": "preceptor"}
        self._requests = Counter("requests", "Requests answered", ["op", "status"], **made)
        self._seconds = Histogram("act_seconds", "From request to reply of a step", buckets=_SECONDS, **made)
        self._batch = Histogram("batch_sessions", "Sessions played together", buckets=_SIZES, **made)
        self._actions = Counter("actions", "Actions chosen, one for each environment and step", **made)
        self.waiting = Gauge("waiting_requests", "Requests that wait for the worker", **made)
        self.sessions = Gauge("sessions", "Sessions that are kept", **made)
        self.sockets = Gauge("sockets", "WebSockets that are open", **made)
        self.advice = Counter("advice", "Environments for which a teacher was asked", ["agent", "outcome"], **made)
        self.distillations = Counter(
            "distillations", "Controllers distilled again: learned, refused, failed", ["agent", "outcome"], **made
        )
        self.labels_waiting = Gauge("labels_waiting", "Labelled scenes that wait to be learned from", ["agent"], **made)
        self.teacher = Gauge("teacher", "What an agent's teacher has cost", ["agent", "of"], **made)
        self._answered: dict[tuple[str, int], Any] = {}

    def played(self, sessions: int, environments: int) -> None:
        """A batch was played."""
        self._batch.observe(sessions)
        self._actions.inc(environments)

    def answered(self, op: str, status: int, began: float) -> None:
        """A request was answered that began at a second of `time.perf_counter`."""
        if (counter := self._answered.get((op, status))) is None:
            counter = self._answered[op, status] = self._requests.labels(op, str(status))
        counter.inc()
        if op == "act":
            self._seconds.observe(time.perf_counter() - began)

    @contextlib.contextmanager
    def request(self, op: Any) -> Iterator[None]:
        """Count a request that is answered, or refused, in the block; those of no operation together."""
        began, status, op = time.perf_counter(), 200, op if str(op) in OPERATIONS else "unknown"
        try:
            yield
        except Refused as error:
            status = error.status
            _log.info("refused", extra={"op": op, "status": status, "why": str(error)})
            raise
        finally:
            self.answered(op, status, began)

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self._registry)


class JsonLines(logging.Formatter):
    """A record as a JSON object: time, level, event, and what was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:  # noqa: D102
        line = {"at": round(record.created, 3), "level": record.levelname.lower(), "event": record.getMessage()}
        line |= {key: value for key, value in vars(record).items() if key not in _PLAIN}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
