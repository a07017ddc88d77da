"""The server that misbehaves: HTTP over plain sockets, because it has to break HTTP on purpose."""

import contextlib
import json
import logging
import random
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from time import monotonic
from typing import Any

from serving.ports import bound
from tests.faulty_server.faults import FAULTS, Fault, Response, openai_error
from tests.faulty_server.replies import Refusal, reply
from tests.faulty_server.script import Script, Step
from tests.faulty_server.toy import Toy, Weights

Reply = Callable[[str], Weights | str]
Intercept = Callable[[int, dict[str, Any]], Response | None]

KINDS = {"/v1/chat/completions": "chat", "/v1/completions": "completions", "/v1/models": "models", "/health": "health"}
_SECONDS = {"drip": 10.0, "hang": 3600.0, "refused": 2.0, "frozen": 2.0}
_POLL = 0.05
_log = logging.getLogger("preceptor.faulty")


@dataclass(frozen=True)
class Request:
    """A request that the server saw.

    Attributes:
        kind: `chat`, `completions`, `models`, `health` or `other`.
        body: Decoded JSON; empty if there was none.
        key: The Authorization header.
        fault: What became of it; empty for a proper answer.
    """

    method: str
    path: str
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
        intercept: Number of the chat request, request -> a response in place of everything else, or None.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        reply: Reply | None = None,
        intercept: Intercept | None = None,
    ) -> None:
        self.requests: list[Request] = []
        self.intercept = intercept
        self._reply = reply
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._closed_until = self._frozen_until = 0.0
        self._refusing = threading.Event()
        self.play(script or Script())
        self._host = host
        self._socket = bound(host, port)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{host}:{self.port}/v1"
        self._socket.listen(128)
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def play(self, script: Script) -> None:
        """Begin a script."""
        with self._lock:
            self.script = script
            self._progress = _Progress(script.steps)
            self.toy = Toy(script.likes, script.off_menu, self._reply)

    @property
    def reply(self) -> Reply | None:
        """Prompt (of a chat, its last message) -> weights of first tokens or a text, in place of the toy model."""
        return self._reply

    @reply.setter
    def reply(self, reply: Reply | None) -> None:
        self._reply = self.toy.reply = reply

    @property
    def chats(self) -> list[dict[str, Any]]:
        """Bodies of the chat requests seen."""
        return self.bodies("chat")

    def bodies(self, kind: str) -> list[dict[str, Any]]:
        """Bodies of the requests of a kind."""
        with self._lock:
            return [request.body for request in self.requests if request.kind == kind]

    def close(self) -> None:
        """Stop: nobody listens, all connections end."""
        self._stopping.set()
        self._acceptor.join()
        self._socket.close()
        self._drop_connections()
        for thread in self._threads:
            thread.join(timeout=5)

    def _accept(self) -> None:
        """Accept connections; while the server is to be refused, hold the port without listening on it."""
        while not self._stopping.is_set():
            now = monotonic()
            if not self._refusing.is_set() and now < self._closed_until:
                self._socket.close()
                self._socket = bound(self._host, self.port)
                self._drop_connections()
                self._refusing.set()
            if self._refusing.is_set() and now >= self._closed_until:
                self._socket.listen(128)
                self._refusing.clear()
            if self._refusing.is_set():
                self._stopping.wait(_POLL)
                continue
            self._socket.settimeout(_POLL)
            try:
                connection, address = self._socket.accept()
            except TimeoutError:
                continue
            connection.settimeout(None)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._serve, args=(connection, address), daemon=True)
            with self._lock:
                self._connections.add(connection)
                self._threads = [*(one for one in self._threads if one.is_alive()), thread]
            thread.start()

    def _serve(self, connection: socket.socket, address: Any) -> None:
        with contextlib.suppress(OSError, ValueError):  # the peer, or this server, broke the connection
            _Handler(connection, address, self)  # type: ignore[arg-type]
        with self._lock:
            self._connections.discard(connection)
        connection.close()

    def _drop_connections(self) -> None:
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def meet(self, method: str, path: str, body: dict[str, Any], key: str) -> tuple[str, Step | None, int]:
        """Record a request: its kind, the step that it meets, and how many of its kind there have been."""
        kind = KINDS.get(path, "other")
        with self._lock:
            step = self._progress.next(kind, body)
            if step is not None and step.fault == "frozen":
                self._freeze(step)
            self.requests.append(Request(method, path, kind, body, key, step.fault if step else ""))
            number = sum(request.kind == kind for request in self.requests)
        _log.info("%s %s %s", method, path, step.fault if step else "answered")
        return kind, step, number

    def respond(self, kind: str, number: int, request: dict[str, Any], key: str, step: Step | None) -> Response:
        """The response to a request, as a step has it if it is not about the connection alone."""
        special = self.intercept(number, request) if self.intercept is not None and kind == "chat" else None
        if special is not None:
            return special
        fault = FAULTS[step.fault] if step is not None else None
        if fault is not None and step is not None and fault.answer is not None:
            return fault.answer(request, step.seconds)
        if kind == "health":
            return 200, {}, ""
        if kind == "other":
            return openai_error(404, "Not Found", "NotFoundError")
        if self.script.key and key != f"Bearer {self.script.key}":
            return Refusal(401, 40102, "Incorrect API key provided.").response("openai")
        return reply(kind, request, self.script, self.toy, fault)

    def break_off(self, fault: Fault, step: Step) -> None:
        """Play a fault in which no answer comes at all, and return when it is time to break the connection."""
        seconds = step.seconds if step.seconds is not None else _SECONDS[fault.wire]
        until = float("inf") if step.forever and step.seconds is None else monotonic() + seconds
        if fault.wire == "refused":
            self._closed_until = until
            self._refusing.wait(timeout=5)  # lest the client is back before the door is shut
        else:
            self._stopping.wait(seconds)

    def _freeze(self, step: Step) -> None:
        seconds = _SECONDS["frozen"] if step.seconds is None else step.seconds
        self._frozen_until = float("inf") if step.forever and step.seconds is None else monotonic() + seconds

    def thaw(self) -> None:
        """Wait while the server stands still."""
        while monotonic() < self._frozen_until and not self._stopping.wait(_POLL):
            pass

    def drip(self, write: Callable[[bytes], Any], data: bytes, seconds: float | None) -> None:
        """Write byte by byte, over some seconds in all."""
        pause = (_SECONDS["drip"] if seconds is None else seconds) / max(1, len(data))
        for byte in data:
            if self._stopping.wait(pause):
                return
            write(bytes([byte]))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyServer  # type: ignore[assignment]

    def do_GET(self) -> None:
        self._meet({})

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            body = json.loads(data)
        except ValueError:
            body = None
        self._meet(body if isinstance(body, dict) else {})

    def _meet(self, body: dict[str, Any]) -> None:
        key = self.headers.get("Authorization", "")
        kind, step, number = self.server.meet(self.command, self.path, body, key)
        fault = FAULTS[step.fault] if step is not None else None
        if fault is not None and step is not None and fault.wire in ("refused", "hang"):
            self.close_connection = True
            self.server.break_off(fault, step)
            return
        self.server.thaw()
        status, headers, answer = self.server.respond(kind, number, body, key, step)
        text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
        data = text.encode(errors="surrogateescape")
        default = "text/plain; charset=utf-8" if isinstance(answer, str) else "application/json"
        self.send_response(status)
        for name, value in {"Content-Type": default, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if fault is not None and fault.wire == "cut":
            self.close_connection = True
            data = data[: len(data) // 2]
        if fault is not None and step is not None and fault.wire == "drip":
            self.server.drip(self.wfile.write, data, step.seconds)
            return
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def faulty(
    script: Script | None = None, *, reply: Reply | None = None, intercept: Intercept | None = None
) -> Iterator[FaultyServer]:
    """A server on a free port of this machine while the block lasts."""
    server = FaultyServer(script, reply=reply, intercept=intercept)
    try:
        yield server
    finally:
        server.close()
