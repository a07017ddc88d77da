"""The server that misbehaves: HTTP of the standard library, because it has to break HTTP on purpose."""

import contextlib
import json
import logging
import random
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any

from serving.ports import bound
from tests.faulty_server.faults import FAULTS, Fault, Response, openai_error
from tests.faulty_server.replies import Refusal, reply
from tests.faulty_server.script import Script, Step
from tests.faulty_server.toy import Toy, Weights

Reply = Callable[[str], Weights | str]
Intercept = Callable[[int, dict[str, Any]], Response | None]

KINDS = {"/v1/chat/completions": "chat", "/v1/completions": "completions", "/v1/models": "models"}
_SECONDS = {"drip": 10.0, "hang": 3600.0, "refused": 2.0, "frozen": 2.0}
_log = logging.getLogger("preceptor.faulty")


@dataclass(frozen=True)
class Request:
    """A request that the server saw: its kind (`chat`, `completions`, `models`, `other`), the fault that it met."""

    kind: str
    body: dict[str, Any]
    key: str
    fault: str


class _Progress:
    """Where the server stands in the steps of its script."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self._steps = list(steps)
        self._begin()

    def _begin(self) -> None:
        self._seen = self._played = 0
        self._rng = random.Random(self._steps[0].seed) if self._steps else random.Random()

    def next(self, kind: str, body: Mapping[str, Any]) -> Step | None:
        """The step whose fault a request meets, if it meets one."""
        if not self._steps or not self._steps[0].concerns(kind, body):
            return None
        step = self._steps[0]
        self._seen += 1
        if self._seen <= step.after or (step.probability < 1 and self._rng.random() >= step.probability):
            return None
        self._played += 1
        if not step.forever and self._played >= step.times:
            self._steps.pop(0)
            self._begin()
        return step


class FaultyServer:
    """A running server.

    Attributes:
        url: Its base URL, with /v1.
        port: Where it listens.
        script: What it can do, and its steps; `play` gives it another.
        requests: All that it saw, in order.
        reply: Prompt (of a chat, its last message) -> weights of first tokens or a text, in place of the toy model.
        intercept: Number of the chat request, request -> a response in place of everything else, or None.
    """

    def __init__(
        self, script: Script | None = None, *, host: str = "127.0.0.1", port: int = 0, reply: Reply | None = None
    ) -> None:
        self.requests: list[Request] = []
        self.intercept: Intercept | None = None
        self.reply = reply
        self.connections: set[socket.socket] = set()
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._frozen_until = 0.0
        self.play(script or Script())
        self._host, self.port = host, port
        self._hold()
        self.url = f"http://{host}:{self.port}/v1"
        self._listen()

    def _hold(self) -> None:
        """Hold the port without listening on it."""
        self._http = _Http((self._host, self.port), _Handler, bind_and_activate=False)
        self._http.socket.close()
        self._http.socket, self._http.owner = bound(self._host, self.port), self
        self.port = self._http.socket.getsockname()[1]

    def _listen(self) -> None:
        with self._lock:
            if not self._stopping.is_set():
                self._http.server_activate()
                self._listening = True
                threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def _break(self) -> None:
        """End the listening, and all connections."""
        if self._listening:  # else shutdown would wait for ever
            self._http.shutdown()
        self._listening = False
        self._http.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def refuse(self, seconds: float) -> None:
        """Let nothing connect for a while."""
        with self._lock:
            if self._listening and not self._stopping.is_set():
                self._break()
                self._hold()
                timer = threading.Timer(seconds, self._listen)
                timer.daemon = True
                timer.start()

    def close(self) -> None:
        """Stop: nothing listens, all connections end."""
        with self._lock:
            self._stopping.set()
            self._break()

    def play(self, script: Script) -> None:
        """Begin a script."""
        with self._lock:
            self.script, self._progress = script, _Progress(script.steps)
            self.toy = Toy(script.likes, script.off_menu, lambda prompt: self.reply(prompt) if self.reply else None)

    def bodies(self, kind: str) -> list[dict[str, Any]]:
        """The bodies of all requests of a kind."""
        return [request.body for request in self.requests if request.kind == kind]

    def meet(self, path: str, body: dict[str, Any], key: str) -> tuple[str, Step | None, int]:
        """Record a request: its kind, the step that it meets, and how many of its kind there have been."""
        kind = KINDS.get(path, "other")
        with self._lock:
            step = self._progress.next(kind, body)
            if step is not None and step.fault == "frozen":
                self._frozen_until = monotonic() + seconds_of(step)
            self.requests.append(Request(kind, body, key, step.fault if step else ""))
            number = len(self.bodies(kind))
        _log.info("%s %s", path, step.fault if step else "answered")
        return kind, step, number

    def respond(self, kind: str, number: int, request: dict[str, Any], key: str, fault: Fault | None) -> Response:
        """The response to a request, as a fault has it if it is not about the connection alone."""
        special = self.intercept(number, request) if self.intercept is not None and kind == "chat" else None
        if special is not None:
            return special
        if fault is not None and fault.answer is not None:
            return fault.answer
        if kind == "other":
            return openai_error(404, "Not Found", "NotFoundError")
        if self.script.key and key != f"Bearer {self.script.key}":
            return Refusal(401, 40102, "Incorrect API key provided.").response("openai")
        return reply(kind, request, self.script, self.toy, fault)

    def wait(self, seconds: float) -> bool:
        """Whether the server was closed within so many seconds."""
        return self._stopping.wait(seconds)

    def thaw(self) -> None:
        """Wait while the server stands still."""
        while monotonic() < self._frozen_until and not self._stopping.wait(0.05):
            pass


def seconds_of(step: Step) -> float:
    """How long a fault of the wire takes."""
    return _SECONDS[step.fault] if step.seconds is None else step.seconds


class _Http(ThreadingHTTPServer):
    owner: FaultyServer
    daemon_threads, block_on_close, request_queue_size = True, False, 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: the peer, or this server, broke the connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def setup(self) -> None:
        super().setup()
        with self.server.owner._lock:
            self.server.owner.connections.add(self.connection)

    def finish(self) -> None:
        with self.server.owner._lock:
            self.server.owner.connections.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        owner, key = self.server.owner, self.headers.get("Authorization", "")
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.loads(data) if data else {}
        kind, step, number = owner.meet(self.path, body, key)
        fault = FAULTS[step.fault] if step is not None else None
        wire = fault.wire if fault is not None else ""
        if step is not None and wire in ("refused", "hang"):
            self.close_connection = True
            owner.refuse(seconds_of(step)) if wire == "refused" else owner.wait(seconds_of(step))
            return
        owner.thaw()
        status, headers, answer = owner.respond(kind, number, body, key, fault)
        if step is not None and step.fault == "rate_limit" and step.seconds is not None:
            headers = headers | {"Retry-After": f"{step.seconds:g}"}
        text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
        data = text.encode(errors="surrogateescape")
        self.send_response(status)
        default = "text/plain; charset=utf-8" if isinstance(answer, str) else "application/json"
        for name, value in {"Content-Type": default, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if wire == "cut":
            self.close_connection = True
            data = data[: len(data) // 2]
        pieces = [bytes([byte]) for byte in data] if wire == "drip" else [data]
        for piece in pieces:
            if step is not None and wire == "drip" and owner.wait(seconds_of(step) / len(data)):
                return
            self.wfile.write(piece)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def faulty(script: Script | None = None, *, reply: Reply | None = None) -> Iterator[FaultyServer]:
    """A server on a free port of this machine while the block lasts."""
    server = FaultyServer(script, reply=reply)
    try:
        yield server
    finally:
        server.close()
