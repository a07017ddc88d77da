"""The server that misbehaves: that it misbehaves as its script says, and otherwise behaves."""

import math
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import openai
import pytest

from preceptor.ground.errors import UserError
from tests.faulty_server import EXAMPLE, FAULTS, FaultyServer, Script, Step, faulty, read_script

ROOT = Path(__file__).parents[2]
PROMPT = "Scene: You see a key.\nA) explore the room\nB) pick up the key\nC) open the door\nAnswer:"
CHAT: dict[str, Any] = {"model": "toy", "messages": [{"role": "user", "content": PROMPT}]}
LETTERS = ["A", "B", "C"]
SCORED = {"logprobs": True, "top_logprobs": 5, "max_tokens": 1}


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty() as running:
        yield running


def client(server: FaultyServer, seconds: float = 20.0, key: str = "EMPTY") -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key=key, max_retries=0, timeout=seconds)


def complete(server: FaultyServer, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/completions", json={"model": "toy", **body})


def ask(server: FaultyServer, **more: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/chat/completions", json=CHAT | more, timeout=20)


def letters(server: FaultyServer, prompt: str = PROMPT) -> dict[str, float]:
    """Log-probabilities of the first token by the way of chat."""
    messages = [{"role": "user", "content": prompt}]
    reply = ask(server, messages=messages, logprobs=True, top_logprobs=20, max_tokens=1).json()
    return {top["token"]: top["logprob"] for top in reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}


# What each fault of a reply does to it; test_fault_table sees that the others are played.
REPLIES: dict[str, Callable[[Any], object]] = {
    "no_choices": lambda reply: reply["choices"] == [],
    "null_content": lambda reply: reply["choices"][0]["message"]["content"] is None,
    "wrong_model": lambda reply: reply["model"] == "another-model",
    "logprobs_withheld": lambda reply: reply["choices"][0]["logprobs"] is None,
    "constraint_ignored": lambda reply: text_of(reply) not in LETTERS,
    "off_menu": lambda reply: not re.search(r"\b[ABC]\b", text_of(reply)),
    "markdown": lambda reply: re.fullmatch(r"```text\n\*\*[ABC]\*\*\n```", text_of(reply)),
    "json": lambda reply: re.fullmatch(r'{"answer": "[ABC]"}', text_of(reply)),
    "thinking": lambda reply: re.fullmatch(r"<think>[^<]+</think>\n\n[ABC]", text_of(reply)),
    "truncated": lambda reply: reply["choices"][0]["finish_reason"] == "length",
    "megabyte": lambda reply: len(text_of(reply)) > 10**6,
}


@pytest.mark.parametrize("fault", REPLIES)
def test_each_fault_of_a_reply_is_played_and_then_all_is_well(fault: str) -> None:
    with faulty(Script(steps=(Step(fault),))) as server:
        asked = {**SCORED, "structured_outputs": {"choice": LETTERS}}
        assert REPLIES[fault](ask(server, **asked).json())
        well = ask(server, **asked).json()
        assert text_of(well) in LETTERS
        assert (well["model"], well["choices"][0]["finish_reason"]) == ("toy", "stop")
        assert well["choices"][0]["logprobs"] is not None
        assert [request.fault for request in server.requests] == [fault, ""]


def text_of(reply: Any) -> str:
    text: str = reply["choices"][0]["message"]["content"]
    return text


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + 30
    while not condition():
        assert monotonic() < deadline
        sleep(0.01)


def test_what_a_fault_does_to_the_bytes() -> None:
    steps = (
        Step("rate_limit", seconds=1.5),
        Step("rate_limit"),
        Step("cut"),
        Step("invalid_utf8"),
        Step("drip", seconds=2.5),
    )
    with faulty(Script(steps=steps)) as server:
        assert ask(server).headers["Retry-After"] == "1.5"
        assert "Retry-After" not in ask(server).headers
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
            ask(server)
        assert b"\xff\xfe" in ask(server).content
        started = monotonic()
        client(server, seconds=2.0).chat.completions.create(**CHAT)
        assert monotonic() - started >= 2.4, "a drip outlasts a time-out per read"


def test_a_client_may_leave_a_server_that_hangs_and_closing_it_breaks_off() -> None:
    with faulty(Script(steps=(Step("hang"), Step("hang")))) as server, ThreadPoolExecutor(1) as pool:
        with pytest.raises(openai.APITimeoutError):
            client(server, seconds=0.3).chat.completions.create(**CHAT)
        left = pool.submit(ask, server)
        wait_for(lambda: len(server.bodies("chat")) == 2)
        server.close()
        with pytest.raises(httpx.TransportError):
            left.result()


def test_a_refusing_server_breaks_open_connections() -> None:
    step = Step("refused", forever=True, after=1)
    with faulty(Script(steps=(step,))) as server, httpx.Client(timeout=20) as kept, httpx.Client() as idle:
        assert idle.get(f"{server.url}/models").status_code == 200
        url = f"{server.url}/chat/completions"
        assert kept.post(url, json=CHAT).status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            kept.post(url, json=CHAT)
        with pytest.raises(httpx.ConnectError):
            kept.post(url, json=CHAT)
        with pytest.raises(httpx.TransportError):
            idle.get(f"{server.url}/models")


def test_a_frozen_server_answers_nobody_for_a_while() -> None:
    with ThreadPoolExecutor(1) as pool, faulty(Script(steps=(Step("frozen", seconds=60),))) as server:
        pool.submit(ask, server)
        wait_for(lambda: bool(server.bodies("chat")))
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{server.url}/models", timeout=httpx.Timeout(30, read=0.2))


def test_steps_follow_one_another_after_proper_answers_and_on_their_own_kind() -> None:
    steps = (
        Step("rate_limit", times=2, after=1),
        Step("internal_error", on="models"),
        Step("bad_gateway", on="any"),
        Step("unavailable", forever=True),
    )
    with faulty(Script(steps=steps)) as server:
        assert [ask(server).status_code for _ in range(4)] == [200, 429, 429, 200]
        assert [httpx.get(f"{server.url}/models").status_code for _ in range(3)] == [500, 502, 200]
        assert {ask(server).status_code for _ in range(5)} == {503}
        server.play(Script())
        assert ask(server).status_code == 200


def test_chance_is_kept_and_comes_out_the_same_again() -> None:
    script = Script(steps=(Step("rate_limit", probability=0.5, seed=3, forever=True),))

    def statuses() -> list[int]:
        with faulty(script) as server, httpx.Client(timeout=60) as http:
            return [http.post(f"{server.url}/chat/completions", json=CHAT).status_code for _ in range(60)]

    first = statuses()
    assert first == statuses()
    assert 10 < first.count(429) < 50


def test_a_fault_is_not_spent_on_what_it_would_not_change() -> None:
    steps = (Step("constraint_ignored"), Step("logprobs_withheld"), Step("off_menu"))
    with faulty(Script(steps=steps)) as server:
        assert said(ask(server)) in LETTERS
        assert said(ask(server, structured_outputs={"choice": LETTERS})) not in LETTERS
        assert said(ask(server)) in LETTERS
        assert ask(server, logprobs=True).json()["choices"][0]["logprobs"] is None
        echoed = complete(server, prompt=PROMPT + "A", echo=True, logprobs=1, max_tokens=0)
        assert echoed.json()["choices"][0]["logprobs"]["tokens"][-1] == "A"
        assert said(ask(server)) not in LETTERS


def said(reply: httpx.Response) -> str:
    return text_of(reply.json())


def test_the_toy_likes_options_by_their_words(server: FaultyServer) -> None:
    turned = "A) open the door\nB) explore the room\nC) pick up the key\nAnswer:"
    here, there = letters(server), letters(server, turned)
    assert sum(math.exp(value) for value in here.values()) == pytest.approx(1.0)
    assert [there[letter] for letter in "BCA"] == pytest.approx([here[letter] for letter in "ABC"])
    assert len(set(here.values())) == 3
    example = "A) fill the can\nB) wait\nC) search\nD) leave\nAnswer: B\n"
    assert letters(server, example + PROMPT) == pytest.approx(here), "a worked example is no menu"
    server.play(Script(likes={"pick up the key": 8.0}, off_menu=0.1))
    liked = {token: math.exp(value) for token, value in letters(server).items()}
    assert liked == pytest.approx({"A": 0.09, "B": 0.72, "C": 0.09, "The": 0.07, "I": 0.03})


@pytest.mark.parametrize(("dialect", "fewest"), [("openai", 0), ("fastchat", 1)])
def test_an_echo_scores_the_letters_as_chat_does(server: FaultyServer, dialect: str, fewest: int) -> None:
    chat = letters(server)
    server.play(Script(dialect=dialect))
    for letter in LETTERS:
        body: dict[str, Any] = {"prompt": PROMPT + letter, "echo": True, "logprobs": 1, "max_tokens": fewest}
        (choice,) = complete(server, **body).json()["choices"]
        scores, last = choice["logprobs"], -1 - fewest
        assert (scores["tokens"][last], scores["text_offset"][last]) == (letter, len(PROMPT))
        assert scores["token_logprobs"][last] == pytest.approx(chat[letter])
        assert scores["token_logprobs"][0] is None
        assert "".join(scores["tokens"]) == choice["text"]
        assert choice["text"].startswith(PROMPT + letter)


def test_samples_follow_the_probabilities_and_the_seed(server: FaultyServer) -> None:
    def sample(**more: Any) -> list[str]:
        return [choice["message"]["content"] for choice in ask(server, n=200, max_tokens=4, **more).json()["choices"]]

    probs = {letter: math.exp(value) for letter, value in letters(server).items()}
    drawn = Counter(sample(seed=1))
    for letter, p in probs.items():
        assert abs(drawn[letter] / 200 - p) < 4 * math.sqrt(p * (1 - p) / 200) + 0.005
    assert sample(seed=1) == sample(seed=1) != sample(seed=2)
    server.play(Script())
    unseeded = [sample() for _ in range(2)]
    assert unseeded[0] != unseeded[1]
    server.play(Script())
    assert [sample() for _ in range(2)] == unseeded
    assert set(sample(temperature=0)) == {max(probs, key=lambda letter: probs[letter])}


def test_what_a_server_cannot_do_it_ignores_or_refuses(server: FaultyServer) -> None:
    weather = [{"role": "user", "content": "What is the weather like?"}]
    echo: dict[str, Any] = {"prompt": PROMPT + "A", "echo": True, "logprobs": 1, "max_tokens": 1}
    seen = {}
    for manner in ("honoured", "ignored", "refused"):
        server.play(Script(logprobs=manner, echo=manner, structured_outputs=manner))
        constrained = ask(server, messages=weather, structured_outputs={"choice": ["X", "Y"]})
        scored = ask(server, **SCORED), complete(server, **echo)
        seen[manner] = [
            reply.status_code == 200 and reply.json()["choices"][0]["logprobs"] is not None for reply in scored
        ]
        seen[manner].append(constrained.status_code == 200 and said(constrained) in ("X", "Y"))
        assert {reply.status_code for reply in (constrained, *scored)} == {400 if manner == "refused" else 200}
    assert seen == {"honoured": [True] * 3, "ignored": [False] * 3, "refused": [False] * 3}
    server.play(Script(top_logprobs=5))
    assert [ask(server, logprobs=True, top_logprobs=top).status_code for top in (5, 6)] == [200, 400]


@pytest.mark.parametrize(
    ("request_", "openai_status", "fastchat_code"),
    [({"model": "other"}, 404, 40301), ({"max_tokens": 0}, 400, 40302), ({"max_tokens": 5000}, 400, 40303)],
)
def test_wrong_requests_are_refused_in_the_dialect(
    server: FaultyServer, request_: dict[str, Any], openai_status: int, fastchat_code: int
) -> None:
    assert ask(server, **request_).status_code == openai_status
    server.play(Script(dialect="fastchat"))
    reply = ask(server, **request_)
    assert (reply.status_code, reply.json()["code"]) == (400, fastchat_code)


def test_a_key_is_wanted_if_the_script_has_one(server: FaultyServer) -> None:
    server.play(Script(key="secret"))
    with pytest.raises(openai.AuthenticationError):
        client(server).models.list()
    assert [model.id for model in client(server, key="secret").models.list()] == ["toy"]
    assert server.requests[-1].key == "Bearer secret"


def test_a_callable_may_reply_or_intercept(server: FaultyServer) -> None:
    server.reply = lambda prompt: {"A": 0.25, "B": 0.75}
    assert {token: math.exp(value) for token, value in letters(server).items()} == pytest.approx({"A": 0.25, "B": 0.75})
    server.reply = lambda prompt: prompt.upper()
    assert said(ask(server)) == PROMPT.upper()
    server.intercept = lambda number, request: (418, {}, {"number": number, "model": request["model"]})
    reply = ask(server)
    assert (reply.status_code, reply.json()) == (418, {"number": 3, "model": "toy"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models = [", "cannot be read"),
        ("dialekt = 'openai'", "dialekt"),
        ("echo = 'honored'", "echo.*'honoured'"),
        ("likes = { key = 0 }", "likes.key.*greater than 0"),
        ("[[steps]]\ntimes = 2", "fault.*required"),
        ("[[steps]]\nfault = 'rate_limits'", "Did you mean 'rate_limit'"),
        ("[[steps]]\nfault = 'cut'\n[[steps]]\nfault = 'cut'\ntime = 1", "steps.1.time"),
        ("[[steps]]\nfault = 'cut'\ntimes = 0", "steps.0.times"),
        ("[[steps]]\nfault = 'cut'\nseconds = 1", "seconds means nothing"),
    ],
)
def test_a_script_with_a_mistake_is_refused_by_its_name(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "script.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as error:
        read_script(path)
    assert str(EXAMPLE) in str(error.value)


def test_the_example_names_every_fault_and_plays_from_the_command_line() -> None:
    assert not [fault for fault in FAULTS if fault not in EXAMPLE.read_text()]
    command = [sys.executable, "-m", "tests.faulty_server", "--script", str(EXAMPLE), "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        url = re.findall(r"misbehaving at (\S+) by", process.stderr.readline())[0]
        statuses = [httpx.post(f"{url}/chat/completions", json=CHAT).status_code for _ in range(14)]
        assert statuses == [200] * 10 + [429] * 3 + [200]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert process.communicate()[0] == ""
    finally:
        process.kill()
        process.communicate()
