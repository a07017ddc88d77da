"""A language model server for tests that answers, and misbehaves, as it is told to."""

import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Takes the decoded request, returns (status, headers, body); None is a plain right answer.
Response = tuple[int, dict[str, str], dict[str, Any]]


@dataclass
class FakeServer:
    """Its behaviour, and what it saw.

    Attributes:
        models: Ids that it lists.
        logprobs: Whether it gives log-probabilities; without a word where it does not.
        reply: The letters' weights, or the text, for a prompt.
        intercept: Called with the number of the chat request and the request; may return another response.
        chats: Requests seen.
    """

    models: tuple[str, ...] = ("tiny",)
    logprobs: bool = True
    reply: Callable[[str], dict[str, float] | str] = lambda prompt: {"A": 0.9, "B": 0.1}
    intercept: Callable[[int, dict[str, Any]], Response | None] = lambda number, request: None
    chats: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    url: str = ""

    def answer(self, request: dict[str, Any]) -> Response:
        """The response to a chat request."""
        self.chats.append(request)
        special = self.intercept(len(self.chats), request)
        if special is not None:
            return special
        if request["model"] not in self.models:
            return 404, {}, {"error": {"message": f"no model {request['model']}"}}
        reply = self.reply(request["messages"][-1]["content"])
        text = reply if isinstance(reply, str) else max(reply, key=lambda letter: reply[letter])
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": text},
        }
        if self.logprobs and request.get("logprobs"):
            weights = {text: 1.0} if isinstance(reply, str) else reply
            top = [{"token": t, "logprob": math.log(w), "bytes": None} for t, w in weights.items()]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}] if text else []}
        usage = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}
        body = {"id": "x", "object": "chat.completion", "created": 0, "model": request["model"]}
        return 200, {}, body | {"choices": [choice], "usage": usage}


@contextmanager
def serving(server: FakeServer) -> Iterator[FakeServer]:
    """Run the server on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            models = [{"id": name, "object": "model", "created": 0, "owned_by": "x"} for name in server.models]
            self._send(200, {}, {"object": "list", "data": models})

        def do_POST(self) -> None:
            server.keys.add(self.headers.get("Authorization", ""))
            self._send(*server.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def _send(self, status: int, headers: dict[str, str], body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(data)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
