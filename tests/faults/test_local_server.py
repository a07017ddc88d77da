"""The server of a model folder when clients crowd, leave or lie, when its model fails, and when it is told to go."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Any

import httpx
import openai
import pytest

from preceptor.ground.errors import UserError
from preceptor.serving.keys import made
from preceptor.serving.local.__main__ import serve
from preceptor.serving.local.app import MOST_BYTES
from preceptor.serving.local.protocol import ChatRequest, CompletionRequest
from preceptor.serving.ports import bound
from tests.local_server import CHAT, PROMPT, WILD, Running, scores, serving, wait_for

ROOT = Path(__file__).parents[2]


def raw(server: Running, sent: bytes) -> bytes:
    """The beginning of what the server answers; empty if it closes the connection without a word."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(sent)
        return connection.recv(4096)


POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\ncontent-type: application/json\r\n"


def test_a_body_beyond_all_measure_is_not_even_read(server: Running) -> None:
    assert b" 413 " in raw(server, POST + b"Content-Length: 99999999999\r\n\r\n{")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * (MOST_BYTES // 0x10000 + 1)
    assert b" 413 " in raw(server, chunked), "before its end, and though it was not announced"
    body = json.dumps({"model": "tiny", "prompt": "x" * 60_000_000})
    reply = server.post("/completions", None, content=body, headers={"content-type": "application/json"})
    assert (reply.status_code, str(MOST_BYTES) in reply.json()["error"]["message"]) == (413, True)


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-", b" 408 "),
        (POST + b"Content-Length: 9\r\n\r\n{", b" 408 "),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{", b" 408 "),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b" 200 "),
    ],
)
def test_a_request_that_does_not_arrive_is_given_up(
    server: Running, sent: bytes, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preceptor.serving.request_limits.ARRIVE_SECONDS", 0.3)
    assert answer in raw(server, sent)
    server.before_pass = lambda number: sleep(0.6) if number == 1 else None
    assert server.post("/chat/completions", CHAT).status_code == 200, "the answer may take longer"


HOSTS = {
    **dict.fromkeys(
        ("localhost", "localhost.", "LOCALHOST:1", "127.0.0.1:80", "[::1]:80", "10.0.0.5", socket.gethostname()), 200
    ),
    **dict.fromkeys(("evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", "["), 421),
    **dict.fromkeys(("", "127.0.0.1@evil.example", "x/127.0.0.1"), 421),
}


@pytest.mark.parametrize("host", HOSTS)
def test_another_name_than_its_own_is_not_answered(server: Running, host: str) -> None:
    for path in ("/health", "/v1/models", "/openapi.json"):
        reply = httpx.get(server.url + path, headers={"Host": host})
        assert (reply.status_code, "error" in reply.json()) == (HOSTS[host], HOSTS[host] == 421)


def test_what_any_web_page_can_send_is_refused(server: Running) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        reply = server.post("/chat/completions", None, content=json.dumps(CHAT), headers={"content-type": kind})
        assert (reply.status_code, "content-type: application/json" in reply.json()["error"]["message"]) == (415, True)
    assert not server.jobs


def test_who_leaves_before_tokens_are_made_is_forgotten(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    made, release, render = [], threading.Event(), server.engine.codec.render
    hold = lambda messages, extra: (made.append(messages), release.wait(30), render(messages, extra))[2]  # noqa: E731
    monkeypatch.setattr(server.engine.codec, "render", hold)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.post, "/chat/completions", CHAT)
        wait_for(lambda: len(made) == 1)
        for _ in range(3):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{server.url}/v1/chat/completions", json=CHAT, timeout=httpx.Timeout(30, read=0.2))
        sleep(1.0)  # the server looks every half second
        release.set()
        assert first.result().status_code == 200
    assert server.post("/chat/completions", CHAT).status_code == 200
    assert len(made) == 2, "the first and the last"


def test_requests_that_come_together_share_forward_passes(server: Running) -> None:
    def ask(number: int) -> dict[str, float]:
        return scores(server, PROMPT.replace("No key", f"Key {number % 4}"))

    server.before_pass = lambda number: wait_for(lambda: len(server.jobs) == 17) if number == 1 else None
    with ThreadPoolExecutor(17) as pool:
        first, *rest = pool.map(ask, range(17))
    assert server.passes <= 4, "the first alone, the others in batches"
    assert rest[3] == pytest.approx(first, abs=1e-4)


def test_many_long_replies_do_not_block_short_ones(server: Running, endless: None) -> None:
    came = threading.Event()
    server.before_pass = lambda number: (came.set(), sleep(0.005))[1]
    with ThreadPoolExecutor(2) as pool:
        long = [pool.submit(server.post, "/completions", WILD | {"n": 4, "max_tokens": 120, "seed": 5}) for _ in "ab"]
        came.wait(30)
        for number in range(3):
            assert server.post("/completions", WILD | {"max_tokens": 2, "seed": number}).status_code == 200
        assert not any(one.done() for one in long)
        texts = [[choice["text"] for choice in one.result().json()["choices"]] for one in long]
    assert texts[0] == texts[1], "the one that was interrupted, and the one that waited"


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


ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        -1,
        2,
        129,
        10**30,
        1.5,
        1e308,
        "",
        "x",
        "\x1b[2J",
        "tiny",
        "y" * 50_000,
        [],
        {},
        [None],
        [[]],
        [1],
    ),
    *({"a": 1}, {"type": "text"}, {"choice": ["A", " "]}, {"chat_template": "{{ 1 }}"}, {"self": 1}, CHAT["messages"]),
)


def test_whatever_comes_is_answered_or_refused(server: Running) -> None:
    rng = random.Random(0)
    fields = [*ChatRequest.model_fields, *CompletionRequest.model_fields, "best_of", "tools", "metadata", "suffix"]
    with httpx.Client(base_url=f"{server.url}/v1", timeout=60, headers={"content-type": "application/json"}) as client:
        for number in range(300):
            path, body = (
                ("/chat/completions", CHAT) if number % 2 else ("/completions", {"model": "tiny", "prompt": "x"})
            )
            odd = {rng.choice(fields): rng.choice(ODD) for _ in range(rng.randint(1, 3))}
            sent = bytearray(json.dumps({**body, "max_tokens": 2, **odd}).encode())
            if number % 5 == 0:
                sent[rng.randrange(len(sent))] = rng.randrange(256)
            reply = client.post(path, content=bytes(sent))
            assert reply.status_code in (200, 400, 404), (odd, reply.text)
            assert reply.json()["choices" if reply.status_code == 200 else "error"], odd


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
        for key in ("sk-wrong", "EMPTY", "schlüssel", made("sk-other", 1)[0], made("sk-right", -1)[0]):
            reply = httpx.get(f"{server.url}/v1/models", headers={"Authorization": f"Bearer {key}".encode()})
            assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
            assert httpx.get(f"{server.url}/openapi.json", headers=reply.request.headers).status_code == 401
        with pytest.raises(openai.AuthenticationError):
            server.client.chat.completions.create(**CHAT)
        expired = {"Authorization": f"Bearer {made('sk-right', -1)[0]}"}
        assert "expired on" in httpx.get(f"{server.url}/v1/models", headers=expired).json()["error"]["message"]
        assert server.client.with_options(api_key=made("sk-right", 1)[0]).models.list().data
        with server.client.with_options(api_key="sk-right") as right:
            assert right.chat.completions.create(**CHAT).choices
            assert httpx.get(f"{server.url}/health").status_code == 200
            schema = httpx.get(f"{server.url}/openapi.json", headers={"Authorization": "Bearer sk-right"}).json()
            assert "/v1/chat/completions" in schema["paths"]
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
