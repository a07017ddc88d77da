"""The server that misbehaves: that it plays its script; what its faults do to a client is in test_fault_table."""

import math
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import openai
import pytest

from preceptor.ground.errors import UserError
from tests.faulty_server import EXAMPLE, FAULTS, FaultyServer, Script, Step, faulty, read_script
from tests.local_server import first_token, wait_for

PROMPT = "Scene: You see a key.\nA) explore the room\nB) pick up the key\nC) open the door\nAnswer:"
CHAT: dict[str, Any] = {"model": "toy", "messages": [{"role": "user", "content": PROMPT}]}
LETTERS = ["A", "B", "C"]


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty() as running:
        yield running


def ask(server: FaultyServer, **more: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/chat/completions", json=CHAT | more, timeout=20)


def said(reply: httpx.Response) -> str:
    return str(reply.json()["choices"][0]["message"]["content"])


def scored(reply: httpx.Response) -> bool:
    return reply.status_code == 200 and reply.json()["choices"][0]["logprobs"] is not None


def client(server: FaultyServer, **more: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, max_retries=0, **{"api_key": "EMPTY", "timeout": 20.0} | more)


def letters(server: FaultyServer) -> dict[str, float]:
    return first_token(client(server).chat.completions.create(**CHAT, logprobs=True, top_logprobs=20, max_tokens=1))


def test_what_a_fault_does_to_the_connection() -> None:
    faults = (Step("rate_limit", seconds=1.5), Step("rate_limit"), Step("cut"), Step("invalid_utf8"))
    late = (Step("drip", seconds=1.5), Step("hang"), Step("hang"))
    with faulty(Script(steps=faults + late)) as server, ThreadPoolExecutor(1) as pool:
        assert [ask(server).headers.get("Retry-After") for _ in range(2)] == ["1.5", None]
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
            ask(server)
        assert b"\xff\xfe" in ask(server).content
        started = monotonic()
        client(server, timeout=1.0).chat.completions.create(**CHAT)
        assert monotonic() - started >= 1.4, "a drip outlasts a time-out per read"
        with pytest.raises(openai.APITimeoutError):
            client(server, timeout=0.3).chat.completions.create(**CHAT)
        left = pool.submit(ask, server)
        wait_for(lambda: len(server.bodies("chat")) == 7)
        server.close()
        with pytest.raises(httpx.TransportError):
            left.result()


def test_a_refusing_server_breaks_open_connections_and_a_frozen_one_does_not_answer() -> None:
    steps = (Step("frozen", seconds=1), Step("refused", forever=True))
    with faulty(Script(steps=steps)) as server, httpx.Client() as idle, ThreadPoolExecutor(1) as pool:
        assert idle.get(f"{server.url}/models").status_code == 200
        pool.submit(ask, server)
        wait_for(lambda: bool(server.bodies("chat")))
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{server.url}/models", timeout=httpx.Timeout(30, read=0.2))
        for error in (httpx.RemoteProtocolError, httpx.ConnectError):
            with pytest.raises(error):
                ask(server)
        with pytest.raises(httpx.TransportError):
            idle.get(f"{server.url}/models")


def test_steps_follow_one_another_after_proper_answers_and_on_their_own_kind() -> None:
    steps = (Step("rate_limit", times=2, after=1), Step("internal_error", on="models"), Step("bad_gateway", on="any"))
    unspent = (Step("constraint_ignored"), Step("logprobs_withheld"), Step("off_menu"))
    with faulty(Script(steps=steps)) as server:
        assert [ask(server).status_code for _ in range(4)] == [200, 429, 429, 200]
        assert [httpx.get(f"{server.url}/models").status_code for _ in range(3)] == [500, 502, 200]
        server.play(Script(steps=unspent))  # not on what they would not change
        assert said(ask(server)) in LETTERS
        assert said(ask(server, structured_outputs={"choice": LETTERS})) not in LETTERS
        assert [scored(ask(server, logprobs=True)), said(ask(server)) in LETTERS] == [False, False]
        assert [request.fault for request in server.requests[-3:]] == [step.fault for step in unspent]
        server.play(Script(steps=(Step("rate_limit", probability=0.5, seed=3, forever=True),)))
        first = [ask(server).status_code for _ in range(12)]
        server.play(server.script)
        assert [ask(server).status_code for _ in range(12)] == first
        assert 0 < first.count(429) < 12


def test_letters_are_liked_by_their_words_drawn_as_they_are_scored_and_scored_alike_in_an_echo(
    server: FaultyServer,
) -> None:
    likes = {"pick up the key": 8.0}
    for dialect, fewest in (("openai", 0), ("fastchat", 1)):
        server.play(Script(dialect=dialect, likes=likes, off_menu=0.1))
        probs = {token: math.exp(value) for token, value in letters(server).items()}
        assert probs == pytest.approx({"A": 0.09, "B": 0.72, "C": 0.09, "The": 0.07, "I": 0.03})
        body = {"model": "toy", "prompt": PROMPT + "B", "echo": True, "logprobs": 1, "max_tokens": fewest}
        scores = httpx.post(f"{server.url}/completions", json=body).json()["choices"][0]["logprobs"]
        assert (scores["tokens"][-1 - fewest], scores["text_offset"][-1 - fewest]) == ("B", len(PROMPT))
        assert math.exp(scores["token_logprobs"][-1 - fewest]) == pytest.approx(0.72)
    draws = []
    for seed in (1, 1, 2, None):
        server.play(Script(likes=likes))
        draws.append([choice["message"]["content"] for choice in ask(server, n=200, seed=seed).json()["choices"]])
    assert draws[0] == draws[1] != draws[2] != draws[3]
    assert abs(draws[0].count("B") / 200 - 0.8) < 0.12
    server.reply = lambda prompt: {"A": 0.25, "B": 0.75}
    assert letters(server) == pytest.approx({"A": math.log(0.25), "B": math.log(0.75)})
    server.intercept = lambda number, request: (418, {}, {"number": number})
    assert (ask(server).status_code, ask(server).json()["number"]) == (418, len(server.bodies("chat")))


def test_what_a_server_cannot_do_it_ignores_or_refuses_in_its_dialect(server: FaultyServer) -> None:
    asked: dict[str, dict[str, Any]] = {
        "logprobs": {"logprobs": True, "top_logprobs": 5},
        "structured_outputs": {"structured_outputs": {"choice": ["X", "Y"]}},
    }
    for what, more in asked.items():
        seen = []
        for manner in ("honoured", "ignored", "refused"):
            server.play(Script(**{what: manner}))  # type: ignore[arg-type]
            reply = ask(server, **more)
            seen.append((reply.status_code, scored(reply) or (reply.is_success and said(reply) in ("X", "Y"))))
        assert seen == [(200, True), (200, False), (400, False)]
    server.play(Script(top_logprobs=5))
    assert [ask(server, logprobs=True, top_logprobs=top).status_code for top in (5, 6)] == [200, 400]
    wrong: list[dict[str, Any]] = [{"model": "other"}, {"max_tokens": 0}, {"max_tokens": 5000}]
    assert [ask(server, **more).status_code for more in wrong] == [404, 400, 400]
    server.play(Script(dialect="fastchat"))
    assert [ask(server, **more).json()["code"] for more in wrong] == [40301, 40302, 40303]
    server.play(Script(key="secret"))
    with pytest.raises(openai.AuthenticationError):
        client(server).models.list()
    assert [model.id for model in client(server, api_key="secret").models.list()] == ["toy"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models = [", "cannot be read"),
        ("dialekt = 'openai'", "dialekt"),
        ("echo = 'honored'", "echo.*'honoured'"),
        ("likes = { key = 0 }", "likes.key.*greater than 0"),
        ("[[steps]]\nfault = 'rate_limits'", "Did you mean 'rate_limit'"),
        ("[[steps]]\nfault = 'cut'\n[[steps]]\nfault = 'cut'\ntime = 1", "steps.1.time"),
        ("[[steps]]\nfault = 'cut'\nseconds = 1", "seconds means nothing"),
    ],
)
def test_a_script_with_a_mistake_is_refused_by_its_name(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "script.toml").write_text(text)
    with pytest.raises(UserError, match=words) as error:
        read_script(tmp_path / "script.toml")
    assert str(EXAMPLE) in str(error.value)


def test_the_example_names_every_fault_and_plays_from_the_command_line() -> None:
    assert not [fault for fault in FAULTS if fault not in EXAMPLE.read_text()]
    command = [sys.executable, "-m", "tests.faulty_server", "--script", str(EXAMPLE), "--port", "0"]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            url = re.findall(r"misbehaving at (\S+) by", process.stderr.readline())[0]
            statuses = [httpx.post(f"{url}/chat/completions", json=CHAT).status_code for _ in range(14)]
            assert statuses == [200] * 10 + [429] * 3 + [200]
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
