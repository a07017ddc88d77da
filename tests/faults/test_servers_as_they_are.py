"""What real servers, gateways, keys and proxies do beside the protocol, as users of other clients reported it."""

import contextlib
import json
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import main as cli
from preceptor.ground.errors import UserError
from preceptor.teacher.base import BudgetExhausted, TeacherError
from preceptor.teacher.config import TeacherConfig
from preceptor.teacher.cost import cost_of
from preceptor.teacher.labels import LabelStore
from preceptor.teacher.llm import ServedModel
from preceptor.teacher.make import make_teacher
from preceptor.teacher.prompts import load_template
from preceptor.teacher.scoring import WAYS
from tests.faulty_server import FaultyServer, Script, faulty
from tests.small_task import SmallTask

TASK = SmallTask()
SCENE = TASK.scene("red", ("red", "green"), "nothing")  # four options, so four menus
KEY = 'sk-very/secret"0123'
CERTIFICATE = Path(__file__).with_name("localhost.pem")  # and its key; until 2120
PROXIES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, "OPENAI_API_KEY", "OPENAI_BASE_URL", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty() as running:
        yield running


def taught(server: FaultyServer, store: LabelStore | None = None, **said: Any) -> Any:
    config = TeacherConfig(
        "llm", **{"base_url": server.url, "concurrency": 1, "prompt": "compact", "samples": 2} | said
    )
    return make_teacher(config, TASK, store)


@pytest.mark.parametrize(
    ("refuses", "method", "words"),
    [
        (("max_tokens",), "logprobs", ["refuses max_tokens: max_completion_tokens is sent"]),
        (("max_tokens", "max_completion_tokens"), "logprobs", ["refuses max_tokens: it is left out"]),
        (("temperature",), "logprobs", ["refuses temperature: it is left out"]),
        (("chat_template_kwargs", "max_tokens", "temperature"), "logprobs", ["refuses chat_template_kwargs"]),
        (("logprobs",), "choice", ["not used: logprobs"]),
        (("logprobs", "structured_outputs", "n", "max_tokens"), "samples", ["choice", "refuses max_tok"]),
        (("reasoning_effort",), "logprobs", ["refuses reasoning_effort: it is left out"]),
    ],
)
def test_what_a_server_refuses_by_its_name_is_left_out_or_renamed(
    server: FaultyServer, refuses: tuple[str, ...], method: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    server.play(Script(refuses=refuses))
    teacher = taught(server, extra_body='{"reasoning_effort": "low"}')
    (label,) = teacher.label([SCENE])
    assert (label.abstained, label.method) == (False, method)
    said = capsys.readouterr().err
    assert all(word in said for word in words)
    assert teacher.model.capability["left_out"].keys() <= set(refuses)
    assert not server.requests[-1].body.keys() & set(refuses)


def test_what_a_user_says_is_in_every_request_and_other_answers_are_other_labels(server: FaultyServer) -> None:
    plain, store = taught(server, scoring="samples"), LabelStore()
    warm = taught(server, store, temperature=0.5, extra_body='{"top_p": 0.9}', scoring="samples", reply_tokens=3)
    warm.label([SCENE])
    body = server.requests[-1].body
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.5, 0.9, 3)
    names = {plain.model.name, warm.model.name, taught(server, scoring="samples", temperature=0.7).model.name}
    assert len(names) == 3
    for wrong in ("{", "[1]", '{"model": "x"}', '{"messages": []}', "[" * 100_000):
        with pytest.raises(UserError, match="--extra-body"):
            taught(server, extra_body=wrong)


@pytest.mark.parametrize("thinks", [40, 600])
def test_a_model_that_thinks_whatever_it_is_told_gets_the_tokens_that_it_needs(
    server: FaultyServer, thinks: int, capsys: pytest.CaptureFixture[str]
) -> None:
    server.play(Script(thinks=thinks, echo="refused"))
    teacher = taught(server)
    assert not teacher.label([SCENE])[0].abstained
    assert teacher.model.capability["reply_tokens"] > thinks
    assert "thinks before it answers" in capsys.readouterr().err
    with pytest.raises(TeacherError, match="--reply-tokens 64"):
        taught(server, reply_tokens=16)


def test_a_reply_that_was_cut_before_anything_could_be_shown_is_an_unfinished_thought(server: FaultyServer) -> None:
    def o1(number: int, request: dict[str, Any]) -> Any:
        if request.get("max_completion_tokens", request.get("max_tokens")) > 100:
            return None
        words = "Could not finish the message because max_tokens or model output limit was reached."
        return 400, {}, {"error": {"message": words, "type": "invalid_request_error"}}

    server.play(Script(echo="refused"))
    server.intercept = o1
    assert taught(server).model.capability["reply_tokens"] == 512
    choice = {"message": {"content": "", "reasoning_content": None}, "finish_reason": "length"}
    server.intercept = lambda number, request: (200, {}, {"choices": [choice]})
    with pytest.raises(TeacherError, match="--reply-tokens"):
        taught(server, scoring="samples")


# As JSON: figures that are none, or are no count.
NO_USAGE: list[Any] = json.loads("""
[null, {}, [], "many", {"total_tokens": null}, {"total_tokens": "7"}, {"total_tokens": -5}, {"total_tokens": 1e30},
{"total_tokens": 1000000000000000000000000000000}, {"total_tokens": true}, {"total_tokens": 0}, {"total_tokens": 1.5},
{"prompt_tokens": -1, "completion_tokens": null}]
""")


@pytest.mark.parametrize("usage", [*NO_USAGE, {"prompt_tokens": 90, "completion_tokens": 10}, {"total_tokens": 100}])
def test_tokens_count_for_the_budget_whatever_a_server_says_of_them(server: FaultyServer, usage: Any) -> None:
    choice = {"message": {"content": "A"}, "finish_reason": "stop"}
    server.intercept = lambda number, request: (200, {}, {"choices": [choice], "usage": usage})
    teacher = taught(server, scoring="samples")
    before = teacher.stats.extra["tokens_spent"]
    teacher.label([SCENE])
    spent = {name: teacher.stats.extra[name] for name in ("tokens_spent", "tokens_in", "tokens_out")}
    assert spent["tokens_spent"] == spent["tokens_in"] + spent["tokens_out"]
    if usage in NO_USAGE:
        assert not teacher.model.capability["tokens_counted"]
        assert 8 * 50 < spent["tokens_spent"] - before < 8 * 400
    else:
        assert spent["tokens_spent"] - before == 8 * 100
    with pytest.raises(BudgetExhausted, match="--max-llm-tokens"):
        taught(server, scoring="samples", max_llm_tokens=int(before) + 10).label([SCENE])


@pytest.mark.parametrize(
    ("status", "listed"),
    [
        *((200, [{"id": "toy"}]), (200, {"data": [{"id": "toy"}, {"id": 3}, None, {}]}), (200, {"data": None})),
        *((200, "<html>"), (200, [[[]]]), (401, {"error": "no"}), (403, ""), (404, "")),
        *((429, {"error": {"message": "x"}}), (500, "x")),
    ],
)
def test_a_list_of_models_is_never_in_the_way_of_a_model_that_is_named(
    server: FaultyServer, status: int, listed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    respond = FaultyServer.respond
    monkeypatch.setattr(
        FaultyServer,
        "respond",
        lambda self, request, number: (
            (status, {}, listed) if request.kind == "models" else respond(self, request, number)
        ),
    )
    assert not taught(server, model="toy").label([SCENE])[0].abstained
    if status == 200 and isinstance(listed, list) and listed != [[[]]]:
        assert taught(server).model.model == "toy"
    elif not (isinstance(listed, dict) and listed.get("data")):
        with pytest.raises(UserError):
            ServedModel(TeacherConfig("llm", base_url=server.url))


@pytest.mark.parametrize(
    "around", ["{}", "{}\n", " {}\r\n", '"{}"', "'{}'", "\u201c{}\u201d", "\u2018{}\u2019", "\ufeff{}"]
)
def test_what_copying_left_around_a_key_is_taken_off(
    server: FaultyServer, around: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.play(Script(key="sk-plain-0123"))
    monkeypatch.setenv("OPENAI_API_KEY", around.format("sk-plain-0123"))
    assert not taught(server).label([SCENE])[0].abstained


@pytest.mark.parametrize("inside", ["\n", "\r\n", "\u201c", "\u2014", " ", "\t", "\u00e9", "\x1b[2J", "\udcff", "\x7f"])
def test_a_key_that_is_none_is_named_and_not_printed(
    server: FaultyServer, inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"sk-plain{inside}0123")
    with pytest.raises(UserError, match="OPENAI_API_KEY holds") as error:
        taught(server)
    assert not any(part in str(error.value) for part in ("sk-plain", "0123", "\x1b"))
    assert not server.requests


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(character):04x}" for character in text)


@pytest.mark.parametrize(
    "written", [json.dumps(KEY)[1:-1], escaped(KEY), f"{escaped(KEY[:5])}{json.dumps(KEY[5:])[1:-1]}"]
)
@pytest.mark.parametrize("status", [200, 400, 401, 429, 502])
def test_a_key_that_a_server_repeats_reaches_no_terminal_store_or_export(
    server: FaultyServer,
    written: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("preceptor.teacher.probe._PATIENCE", 0.5)
    path, shown = tmp_path / "labels.sqlite", ""
    said = (
        '{"error": {"message": "KEY"}, "message": "KEY", "model": "KEY", "choices": [{"message": {"content": "KEY"}}]}'
    )
    with LabelStore(path) as store:
        teacher = taught(server, store, scoring="samples", on_teacher_failure="scripted")
        teacher.model._client.limits = teacher.model._client.limits.__class__(5.0, 0.5)
        server.intercept = lambda number, request: (status, {}, said.replace("KEY", written))
        try:
            teacher.label([SCENE])
            taught(server, scoring="samples")
        except UserError as error:
            shown = str(error)
    cli.main(["labels", "show", str(path)])
    cli.main(["labels", "export", str(path), "--to", str(tmp_path / "out.jsonl")])
    out = capsys.readouterr()
    everything = out.out + out.err + shown + (tmp_path / "out.jsonl").read_text()
    assert "***" in everything
    assert KEY not in everything
    assert json.dumps(KEY)[1:-1] not in everything
    assert KEY.encode() not in path.read_bytes()


def test_no_half_of_a_key_is_shown(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    teacher = taught(server)
    for before in range(270, 300):
        said = {"error": {"message": f"{'x' * before}{KEY}{'y' * 999}"}}
        server.intercept = lambda number, request, said=said: (401, {}, said)
        with pytest.raises(TeacherError, match="refused the key") as error:
            teacher.model.prepare([])
        assert KEY[:4] not in str(error.value)
        assert len(str(error.value)) < 500


def test_a_short_key_hides_no_refused_parameter(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    server.play(Script(refuses=("max_tokens",)))
    assert not taught(server).label([SCENE])[0].abstained


@pytest.mark.parametrize("place", ["models", "error", "reply", "model"])
def test_escape_sequences_of_a_server_reach_no_terminal(
    server: FaultyServer,
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m"
    if place == "models":
        server.play(Script(models=(f"a{bad}", f"b{bad}")))
    path = tmp_path / "labels.sqlite"
    answers: dict[str, Callable[[], Any]] = {
        "error": lambda: (401, {}, {"error": {"message": bad}}),
        "reply": lambda: (200, {}, {"choices": [{"message": {"content": bad}}]}),
        "model": lambda: (200, {}, {"model": bad, "choices": [{"message": {"content": "A"}}]}),
    }
    with LabelStore(path) as store:
        if place != "models":
            first = taught(server, store, scoring="samples")
            server.intercept = lambda number, request: answers[place]()
            with contextlib.suppress(UserError):
                first.label([SCENE])
        try:
            taught(server, scoring="samples", max_llm_calls=1)
        except UserError as error:
            sys.stderr.write(f"{error}\n")
    cli.main(["labels", "show", str(path)])
    judged = ["--task", "SimpleDoorKey", "--teacher", "replay", "--labels", str(path)]
    cli.main(["labels", "judge", *judged])
    out = capsys.readouterr()
    assert not {"\x1b", "\x07", "\u202e", "\x9b"} & set(out.out + out.err)


class _Plain(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def with_tls() -> Iterator[str]:
    """A server with a certificate that only its own file vouches for."""
    http = HTTPServer(("127.0.0.1", 0), _Plain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    http.socket = context.wrap_socket(http.socket, server_side=True)
    http.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    yield f"https://127.0.0.1:{http.server_port}/v1"
    http.shutdown()
    http.server_close()


def test_each_failure_of_the_way_there_has_its_own_words(
    server: FaultyServer, with_tls: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = with_tls

    def refusal(base_url: str) -> UserError:
        with pytest.raises(UserError) as error:
            ServedModel(TeacherConfig("llm", base_url=base_url, model="toy"))
        return error.value

    assert "certificate" in refusal(url).what
    assert "SSL_CERT_FILE=" in refusal(url).next_step
    assert "no TLS" in refusal(server.url.replace("http:", "https:")).what
    assert refusal(server.url.replace("http:", "https:")).next_step == f"--base-url {server.url}"
    respond = FaultyServer.respond
    here = server.url.removesuffix("/v1")
    for moved, base_url in (
        ("https://elsewhere.example/v1/models", "https://elsewhere.example/v1"),
        ("/v2/models", f"{here}/v2"),
        ("/v3/completions", f"{here}/v3"),
        ("/v4/chat/completions", f"{here}/v4"),
    ):
        monkeypatch.setattr(FaultyServer, "respond", lambda *_, to=moved: (301, {"Location": to}, ""))
        assert refusal(server.url).next_step == f"--base-url {base_url}"
    monkeypatch.setattr(FaultyServer, "respond", respond)
    for wrong in ("ftp://x/v1", "http://", "http://[::1/v1", "http://x:99999999/v1", "http://\x1b/v1"):
        assert "no URL" in refusal(wrong).what
    assert "hunter2" not in str(refusal("http://me:hunter2@127.0.0.1:1/v1"))
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    ServedModel(TeacherConfig("llm", base_url=url, model="toy"))
    for bad in ("/nowhere.pem", __file__):
        monkeypatch.setenv("SSL_CERT_FILE", bad)
        assert "SSL_CERT_FILE" in refusal(url).what
    assert not taught(server).label([SCENE])[0].abstained, "http needs no certificates"


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_loopback_goes_through_no_proxy_and_everything_else_names_it(
    server: FaultyServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "http://me:hunter2@127.0.0.1:9")
    for host in ("127.0.0.1", "localhost"):
        assert not taught(server, base_url=server.url.replace("127.0.0.1", host)).label([SCENE])[0].abstained
    far = TeacherConfig("llm", base_url="http://192.0.2.1/v1", model="toy")
    with pytest.raises(TeacherError, match=r"through the proxy http://\*\*\*@127.0.0.1:9") as error:
        ServedModel(far)
    assert "hunter2" not in str(error.value)
    monkeypatch.setenv(name, server.url.removesuffix("/v1").removeprefix("http://"))
    ServedModel(far)
    assert server.requests[-1].kind == "other", "what is far away goes through the proxy, with its whole URL"
    for wrong in ("nonsense://x", "socks5://127.0.0.1:9", "http://[::1"):
        monkeypatch.setenv(name, wrong)
        with pytest.raises(UserError, match="proxy"):
            ServedModel(far)


@pytest.mark.parametrize(("scoring", "refused"), [(way, "") for way in WAYS] + [("samples", "n")])
def test_the_cost_is_told_before_and_is_not_exceeded(
    server: FaultyServer, scoring: str, refused: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.play(Script(refuses=(refused,)))
    teacher = taught(server, scoring=scoring, usd_per_million_in=2.0, usd_per_million_out=8.0)
    told = capsys.readouterr().err
    cost = cost_of(TASK, load_template("compact"), TeacherConfig(), teacher.model.way, teacher.model.samples)
    probed = dict(teacher.stats.extra)
    teacher.label(TASK.sample_scenes(np.random.default_rng(0), 1000))
    spent = {name: teacher.stats.extra[name] - probed[name] for name in ("calls_sent", "tokens_in", "tokens_out")}
    assert spent["calls_sent"] == cost.calls
    assert spent["tokens_out"] <= cost.tokens_out
    assert spent["tokens_in"] / cost.tokens_in == pytest.approx(1.85, abs=0.15), "the toy's tokens are short"
    assert f"{cost.calls:,} calls, about {cost.tokens_in:,} tokens" in told
    assert f"${(2 * cost.tokens_in + 8 * cost.tokens_out) / 1e6:,.4f}" in told


@pytest.mark.parametrize(
    "words",
    [
        *("--temperature nan", "--temperature -1", "--reply-tokens 0", "--extra-body {", "--prompt nowhere.txt"),
        *("--usd-per-million-in -1", "--base-url http://[::1/v1", "--base-url http://me:hunter2@127.0.0.1:1/v1"),
    ],
)
def test_a_mistake_on_the_command_line_is_an_error(
    words: str, server: FaultyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ["train", "--teacher", "llm", "--logdir", str(tmp_path), "--base-url", server.url, *words.split()]
    assert cli.main(said) == 2
    assert "next:" in capsys.readouterr().err
