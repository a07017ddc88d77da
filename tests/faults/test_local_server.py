"""The server of a model folder when clients crowd, leave or lie, when its model fails, and when it is told to go."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

from preceptor.ground.errors import UserError
from preceptor.serving.local.__main__ import serve
from preceptor.serving.ports import bound
from tests.local_server import CHAT, PROMPT, WILD, Running, scores, serving, wait_for

ROOT = Path(__file__).parents[2]


def test_a_body_beyond_all_measure_is_not_even_read(server: Running) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n{")
        assert b" 413 " in connection.recv(4096)


def test_requests_that_come_together_share_forward_passes(server: Running) -> None:
    def ask(number: int) -> dict[str, float]:
        return scores(server, PROMPT.replace("No key", f"Key {number % 4}"))

    server.before_pass = lambda number: wait_for(lambda: len(server.jobs) == 17) if number == 1 else None
    with ThreadPoolExecutor(17) as pool:
        first, *rest = pool.map(ask, range(17))
    assert server.passes <= 4, "the first alone, the others in batches"
    assert rest[3] == pytest.approx(first, abs=1e-4)


@pytest.mark.parametrize("at_work", ["model", "tokenizer"])
def test_the_loop_answers_meanwhile(server: Running, at_work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    working, release = threading.Event(), threading.Event()
    render = server.engine.codec.render

    def hold() -> None:
        working.set()
        release.wait(30)

    if at_work == "model":
        server.before_pass = lambda number: hold()
    else:
        monkeypatch.setattr(server.engine.codec, "render", lambda *given: (hold(), render(*given))[1])
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.post, "/chat/completions", CHAT)
        wait_for(working.is_set)
        assert httpx.get(f"{server.url}/health", timeout=20).status_code == 200
        assert not answer.done()
        release.set()
        assert answer.result().status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_is_worked_for_no_longer(server: Running, stream: bool, endless: None) -> None:
    server.before_pass = lambda number: wait_for(server.jobs[0].done.cancelled) if number == 5 else None
    with pytest.raises(httpx.ReadTimeout), httpx.Client(timeout=httpx.Timeout(30, read=1.0)) as client:
        client.post(f"{server.url}/v1/completions", json=WILD | {"max_tokens": 400, "stream": stream})
    wait_for(lambda: server.jobs[0].done.cancelled() and server.passes >= 5)
    assert server.post("/completions", WILD | {"max_tokens": 1}).status_code == 200
    assert len(server.jobs[0].continuations[0].ids) <= 6


def test_a_pass_that_fails_is_a_500_and_the_server_goes_on(server: Running) -> None:
    def fail(number: int) -> None:
        if number in (1, 3):
            raise RuntimeError("no memory")

    server.before_pass = fail
    for ask in (
        lambda: server.client.chat.completions.create(**CHAT),
        lambda: server.client.completions.create(**WILD),
    ):
        with pytest.raises(openai.InternalServerError, match="no memory"):
            ask()
    server.passes = 2
    with pytest.raises(openai.APIError, match="no memory"):
        list(server.client.chat.completions.create(**CHAT, stream=True))
    assert server.client.chat.completions.create(**CHAT).choices[0].message.content


@pytest.mark.usefixtures("one_thread")
def test_a_key_is_asked_for_and_compared() -> None:
    with serving(key="sk-right") as server:
        for key in ("sk-wrong", "EMPTY", "schlüssel"):
            reply = httpx.get(f"{server.url}/v1/models", headers={"Authorization": f"Bearer {key}".encode()})
            assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
        with pytest.raises(openai.AuthenticationError):
            server.client.chat.completions.create(**CHAT)
        with server.client.with_options(api_key="sk-right") as right:
            assert right.chat.completions.create(**CHAT).choices
            assert httpx.get(f"{server.url}/health").status_code == 200
            server.engine.close()
            with pytest.raises(openai.InternalServerError, match="shutting down"):
                right.chat.completions.create(**CHAT)
        assert httpx.get(f"{server.url}/health").status_code == 503


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "preceptor.serving.local", *words]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PRECEPTOR_SERVER_KEY": "k"}
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=settings)


def test_the_command_serves_until_it_is_told_to_stop() -> None:
    process = start("--port", "0", "--served-model-name", "pocket", "--max-model-len", "100")
    try:
        assert process.stderr is not None
        url = next(found[1] for line in process.stderr if (found := re.search(r"as 'pocket' at (\S+)$", line)))
        with openai.OpenAI(base_url=url, api_key="k", max_retries=0) as client, ThreadPoolExecutor(1) as pool:
            (model,) = client.models.list()
            assert (model.id, (model.model_extra or {})["max_model_len"]) == ("pocket", 100)
            going = pool.submit(client.completions.create, **WILD | {"model": "pocket", "max_tokens": 90})
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
            assert going.exception() is None or isinstance(going.exception(), openai.APIError)
        out, err = process.communicate()
        assert (out, "Traceback" in err) == ("", False)
    finally:
        process.kill()
        process.communicate()


def test_what_cannot_be_served_says_why() -> None:
    with pytest.raises(UserError, match="There is no model in no/such/folder"):
        serve(model=Path("no/such/folder"), port=0)
    with bound("127.0.0.1", 0) as taken:
        taken.listen()
        process = start("--port", str(taken.getsockname()[1]))
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    assert "cannot be had" in err.partition("next:")[0]
