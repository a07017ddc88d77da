"""The server of the tiny model in a thread of this process, and a view of what its model is doing."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import openai

from preceptor.serving.local.app import create_app
from preceptor.serving.local.engine import Engine, Job
from preceptor.serving.ports import bound
from preceptor.serving.ports import server as server_of
from preceptor.teacher.card import TINY_MODEL, card_of

PROMPT = "Goal: Open the held.\nScene: No key.\nA) go to the key\nB) explore the room\nAnswer:"
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": PROMPT}]}
# Long and different on every seed: the tiny model ends nearly all replies at once unless it is hot.
WILD: dict[str, Any] = {"model": "tiny", "prompt": "Scene:", "temperature": 2.0, "max_tokens": 40}


class Running:
    """A server in a thread of this process, and what its model is doing."""

    def __init__(self, engine: Engine, url: str) -> None:
        self.engine = engine
        self.url = url
        self.passes = 0
        self.before_pass: Callable[[int], None] = lambda number: None
        self.jobs: list[Job] = []
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="EMPTY", max_retries=0, timeout=60)

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/v1{path}", json=body, timeout=60, **more)


@contextmanager
def serving(key: str = "", model: Path = TINY_MODEL) -> Iterator[Running]:
    engine, prompt = Engine(model), card_of(model).get("prompt", "")
    app, held = create_app(engine, "tiny", str(model), prompt=prompt, key=key), bound("127.0.0.1", 0)
    server = server_of(app, grace_seconds=1)
    running = Running(engine, f"http://127.0.0.1:{held.getsockname()[1]}")

    def hook(network: Any, arguments: Any) -> None:
        running.passes += 1
        running.before_pass(running.passes)

    engine._network.register_forward_pre_hook(hook)
    submit = engine.submit
    engine.submit = lambda job: (running.jobs.append(job), submit(job))[1]  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [held]})
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield running
    finally:
        running.before_pass = lambda number: None
        running.client.close()
        server.should_exit = True
        thread.join(timeout=60)
        engine.close()
        held.close()


def wait_for(condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline
        sleep(0.01)


def first_token(reply: Any) -> dict[str, float]:
    return {top.token: top.logprob for top in reply.choices[0].logprobs.content[0].top_logprobs}


def scores(server: Running, prompt: str = PROMPT) -> dict[str, float]:
    """Log-probabilities of the first token of a reply."""
    messages: Any = [{"role": "user", "content": prompt}]
    create = server.client.chat.completions.create
    return first_token(create(model="tiny", messages=messages, logprobs=True, top_logprobs=20, max_tokens=1))
