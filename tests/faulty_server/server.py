"""The server that misbehaves: HTTP of the standard library, because it has to break HTTP on purpose."""

import contextlib
import json
import logging
import random
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any

from preceptor.serving.ports import bound
from tests.faulty_server.faults import FAULTS, Fault, Response, openai_error
from tests.faulty_server.replies import Refusal, reply
from tests.faulty_server.script import Script, Step
from tests.faulty_server.toy import Toy, Weights

Reply = Callable[[str], Weights | str]
Intercept = Callable[[int, dict[str, Any]], Response | None]

KINDS = {"/v1/chat/completions": "chat", "/v1/completions": "completions", "/v1/models": "models"}
_log = logging.getLogger("preceptor.faulty")


@dataclass(frozen=True)
class Request:
    """A request that the server saw: its kind (`chat`, `completions`, `models`, `other`), the fault that it met."""

    kind: str
    body: dict[str, Any]
    key: str
    fault: str


class FaultyServer:
    """A running server. `requests` are all that it saw; `reply` makes weights of first tokens, or a text, of a prompt,
    in place of the toy model; `intercept` makes a response of the number and the body of a chat request, or None."""

    def __init__(
        self, script: Script | None = None, *, host: str = "127.0.0.1", port: int = 0, reply: Reply | None = None
    ) -> None:
        self.requests: list[Request] = []
        self.intercept: Intercept | None = None
        self.reply = reply
        self.connections: set[socket.socket] = set()
        self.lock = threading.RLock()
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
        with self.lock:
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
        with self.lock:
            if self._listening and not self._stopping.is_set():
                self._break()
                self._hold()
                timer = threading.Timer(seconds, self._listen)
                timer.daemon = True
                timer.start()

    def close(self) -> None:
        """Stop: nothing listens, all connections end."""
        with self.lock:
            self._stopping.set()
            self._break()

    def play(self, script: Script) -> None:
        """Begin a script."""
        with self.lock:
            self.script = script
            self.toy = Toy(script.likes, script.off_menu, lambda prompt: self.reply(prompt) if self.reply else None)
            self._begin(script.steps)

    def _begin(self, steps: tuple[Step, ...]) -> None:
        self._steps, self._seen, self._played = steps, 0, 0
        self._rng = random.Random(steps[0].seed if steps else 0)

    def bodies(self, kind: str) -> list[dict[str, Any]]:
        return [request.body for request in self.requests if request.kind == kind]

    def meet(self, path: str, body: dict[str, Any], key: str) -> tuple[Request, Step | None, int]:
        """Record a request: with it the step that it meets, and how many of its kind there have been."""
        kind = KINDS.get(path, "other")
        with self.lock:
            step = self._next(kind, body)
            if step is not None and step.fault == "frozen":
                self._frozen_until = monotonic() + step.lasting
            request = Request(kind, body, key, step.fault if step else "")
            self.requests.append(request)
            _log.info("%s %s", path, request.fault or "answered")
            return request, step, len(self.bodies(kind))

    def _next(self, kind: str, body: Mapping[str, Any]) -> Step | None:
        """The step of the script whose fault a request meets, if it meets one."""
        if not self._steps or not self._steps[0].concerns(kind, body):
            return None
        step = self._steps[0]
        self._seen += 1
        if self._seen <= step.after or (step.probability < 1 and self._rng.random() >= step.probability):
            return None
        self._played += 1
        if not step.forever and self._played >= step.times:
            self._begin(self._steps[1:])
        return step

    def respond(self, request: Request, number: int) -> Response:
        """The response to a request, as its fault has it if that is not about the connection alone."""
        kind, fault = request.kind, FAULTS.get(request.fault, Fault())
        special = self.intercept(number, request.body) if self.intercept is not None and kind == "chat" else None
        if response := special or fault.answer:
            return response
        if kind == "other":
            return openai_error(404, "Not Found", "NotFoundError")
        if self.script.key and request.key != f"Bearer {self.script.key}":
            return Refusal(401, 40102, "Incorrect API key provided.").response("openai")
        return reply(kind, request.body, self.script, self.toy, fault)

    def wait(self, seconds: float) -> bool:
        """Whether the server was closed within so many seconds."""
        return self._stopping.wait(seconds)

    def thaw(self) -> None:
        """Wait while the server stands still."""
        while monotonic() < self._frozen_until and not self._stopping.wait(0.05):
            pass


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
        with self.server.owner.lock:
            self.server.owner.connections.add(self.connection)

    def finish(self) -> None:
        with self.server.owner.lock:
            self.server.owner.connections.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        owner = self.server.owner
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request, step, number = owner.meet(
            self.path, json.loads(data) if data else {}, self.headers.get("Authorization", "")
        )
        fault, seconds = (step.fault, step.lasting) if step is not None else ("", 0.0)
        if fault in ("refused", "hang"):
            self.close_connection = True
            owner.refuse(seconds) if fault == "refused" else owner.wait(seconds)
            return
        owner.thaw()
        status, headers, answer = owner.respond(request, number)
        kind = "text/plain; charset=utf-8" if isinstance(answer, str) else "application/json"
        text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
        data = text.encode(errors="surrogateescape")
        if fault == "rate_limit" and step is not None and step.seconds is not None:
            headers = headers | {"Retry-After": f"{seconds:g}"}
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if fault == "cut":
            self.close_connection = True
            data = data[: len(data) // 2]
        for piece in [bytes([byte]) for byte in data] if fault == "drip" else [data]:
            if fault == "drip" and owner.wait(seconds / len(data)):
                return
            self.wfile.write(piece)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def faulty(script: Script | None = None, *, reply: Reply | None = None) -> Iterator[FaultyServer]:
    """A server on a free port of this machine while the block lasts."""
    with closing(FaultyServer(script, reply=reply)) as server:
        yield server
