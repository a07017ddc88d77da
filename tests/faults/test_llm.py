"""A language model behind a server that answers well, badly, late, or not at all."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.errors import UserError
from envs.task import Scene
from teacher.asking import AskingTeacher
from teacher.base import BudgetExhausted, TeacherError
from teacher.labels import LabelStore
from teacher.llm import Limits, ServedModel
from teacher.make import make_teacher
from teacher.prompts import load_template
from tests.fake_server import FakeServer, Response, serving
from tests.small_task import SmallTask

TASK = SmallTask()
THREE = TASK.scene("red", ("red", "green"), "nothing")  # explore, two keys, open: four options
TWO = TASK.scene("unseen", ("blue",), "nothing")  # explore, one key: two options


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with serving(FakeServer()) as running:
        yield running


def ask(server: FakeServer, store: LabelStore | None = None, **limits: Any) -> AskingTeacher:
    """A teacher on the server, impatient and one request at a time."""
    patience = {"concurrency": 1, "request_seconds": 5.0, "deadline_seconds": 10.0} | limits
    model = ServedModel(server.url, limits=Limits(**patience))
    return AskingTeacher("llm", TASK, model, load_template("chat"), store if store is not None else LabelStore())


def prefers(words: str, weight: float = 0.7) -> Any:
    """A model that likes an option wherever it stands on the menu, and shares the rest among the others."""

    def reply(prompt: str) -> dict[str, float]:
        lines = [line for line in prompt.splitlines() if line[1:2] == ")"]
        return {line[0]: weight if line[3:] == words else (1 - weight) / (len(lines) - 1) for line in lines}

    return reply


def fail_with(status: int, times: int, headers: dict[str, str] | None = None, after: int = 1) -> Any:
    """Fail the requests that follow the first `after`, which are the probe."""

    def intercept(number: int, request: dict[str, Any]) -> Response | None:
        if after < number <= after + times:
            return status, headers or {}, {"error": {"message": f"told to fail with {status}"}}
        return None

    return intercept


def test_letters_are_scored_over_permuted_menus(server: FakeServer) -> None:
    server.reply = prefers("take the green key")
    teacher = ask(server)
    (label,) = teacher.label([THREE])
    assert label.probs == pytest.approx((0.1, 0.1, 0.7, 0.0, 0.1))
    assert label.method == "logprobs"
    assert label.source == "llm:tiny"
    assert (teacher.stats.queries, teacher.stats.calls, teacher.stats.tokens) == (1, 4, 44)


def test_a_liking_for_a_position_cancels_out(server: FakeServer) -> None:
    server.reply = lambda prompt: {"A": 0.97, "B": 0.01, "C": 0.01, "D": 0.01}
    (label,) = ask(server).label([THREE])
    assert [p for p in label.probs if p] == pytest.approx([0.25] * 4)


def test_equal_facts_are_one_query_and_the_store_answers_the_next_time(server: FakeServer, tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.sqlite") as store:
        first = ask(server, store)
        labels = first.label([TWO, THREE, TWO])
        assert labels[0] == labels[2]
        assert (first.stats.queries, first.stats.calls, first.stats.hits) == (2, 6, 0)
        seen = len(server.chats)
        second = ask(server, store)
        assert second.label([TWO, THREE, TWO]) == labels
        assert (second.stats.queries, second.stats.calls, second.stats.hits) == (0, 0, 2)
        assert len(server.chats) == seen + 1  # the probe


def test_without_logprobs_replies_are_sampled_and_parsed(server: FakeServer) -> None:
    server.logprobs = False
    server.reply = lambda prompt: "explore the room"
    teacher = ask(server)
    assert isinstance(teacher.model, ServedModel)
    assert teacher.model.capability.top_logprobs == 0
    (label,) = teacher.label([TWO])
    assert label.method == "samples"
    assert label.probs == (1.0, 0.0, 0.0, 0.0, 0.0)
    assert teacher.stats.calls == 2 * teacher.model.samples
    assert "logprobs" not in server.chats[-1]


@pytest.mark.parametrize("reply", ["", "Z", "I cannot help with that."])
@pytest.mark.parametrize("logprobs", [True, False])
def test_replies_that_are_no_answers_are_counted_and_never_cached(
    server: FakeServer, reply: str, logprobs: bool
) -> None:
    teacher = ask(server)
    if not logprobs:
        server.logprobs = False
        teacher = ask(server)
    server.reply = lambda prompt: reply
    (label,) = teacher.label([TWO])
    assert label.abstained
    assert sum(label.probs) == 0
    assert teacher.stats.invalid == teacher.stats.calls == len(teacher.store) > 0
    assert teacher.store.calls() == []
    before = len(server.chats)
    teacher.label([TWO])
    assert len(server.chats) == before, "the same run does not ask in vain again"
    server.reply = prefers("explore the room") if logprobs else lambda prompt: "explore the room"
    (label,) = ask(server, teacher.store).label([TWO])
    assert label.probs[0] > 0.5, "the next run does"


def test_a_model_that_never_answers_is_given_up(server: FakeServer) -> None:
    teacher = ask(server)
    server.reply = lambda prompt: "Certainly!"
    scenes = TASK.sample_scenes(np.random.default_rng(0), 200)
    with pytest.raises(TeacherError, match="no answer") as error:
        teacher.label(scenes)
    assert "--model" in str(error.value)
    assert teacher.stats.calls < 50


def test_retry_after_is_waited_for(server: FakeServer) -> None:
    server.intercept = fail_with(429, times=1, headers={"Retry-After": "1"})
    teacher = ask(server)
    (label,) = teacher.label([TWO])
    assert not label.abstained
    assert teacher.stats.extra["retries"] == 1
    assert teacher.stats.seconds >= 1.0


def test_server_errors_are_retried(server: FakeServer) -> None:
    server.intercept = fail_with(500, times=2)
    teacher = ask(server)
    (label,) = teacher.label([TWO])
    assert not label.abstained
    assert teacher.stats.extra == {"requests": 5, "retries": 2}


def test_a_server_that_stays_broken_is_an_error_and_a_row(server: FakeServer) -> None:
    server.intercept = fail_with(500, times=1000)
    teacher = ask(server, deadline_seconds=0.5)
    with pytest.raises(TeacherError, match="told to fail"):
        teacher.label([TWO])
    assert {call.status for call in teacher.store.calls(answers_only=False)} == {"error"}


def test_a_bad_request_is_an_error_with_the_servers_words(server: FakeServer) -> None:
    server.intercept = fail_with(400, times=1000)
    with pytest.raises(TeacherError, match="told to fail with 400"):
        ask(server).label([TWO])


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(TeacherError, match="No server answers") as error:
        ServedModel(url)
    assert f"curl {url}/models" in str(error.value)
    assert "--teacher local" in str(error.value)


def test_a_wrong_model_lists_those_that_there_are(server: FakeServer) -> None:
    server.models = ("qwen-small", "qwen-large")
    with pytest.raises(UserError, match="Did you mean 'qwen-small'") as error:
        ServedModel(server.url, "qwen-smal")
    assert "qwen-large" in str(error.value)
    with pytest.raises(UserError, match="offers 2 models: qwen-large, qwen-small"):
        ServedModel(server.url)


def test_the_only_model_and_the_environment_are_used(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    teacher = make_teacher("llm", TASK)
    assert isinstance(teacher, AskingTeacher)
    assert teacher.model.name == "tiny"
    assert server.keys == {"Bearer sk-secret"}


def test_the_key_is_in_no_error(server: FakeServer) -> None:
    refusal = {"error": {"message": "Incorrect API key provided: sk-secret"}}
    server.intercept = lambda number, request: (401, {}, refusal)
    with pytest.raises(TeacherError, match="refused the key") as error:
        ServedModel(server.url, api_key="sk-secret")
    assert "sk-secret" not in str(error.value)


def test_the_budget_stops_hard_and_keeps_what_was_paid_for(server: FakeServer) -> None:
    teacher = ask(server, max_calls=4)  # the probe and three prompts
    with pytest.raises(BudgetExhausted, match="4 calls"):
        teacher.label([TWO, THREE])
    assert len(server.chats) == 4
    assert len(teacher.store.calls()) == 3
    assert not teacher.label([TWO])[0].abstained, "what was answered in full needs no call"
    with pytest.raises(BudgetExhausted):
        teacher.label([THREE])
    assert len(server.chats) == 4


def test_the_budget_survives_a_resume(server: FakeServer) -> None:
    spent = ask(server, max_calls=4)
    spent.label([TWO])
    resumed = ask(server, max_calls=4)
    resumed.load_state_dict(spent.state_dict())
    with pytest.raises(BudgetExhausted):
        resumed.label([THREE])
    assert resumed.stats.queries == 2


def test_requests_run_together_up_to_the_cap(server: FakeServer) -> None:
    inside, most, lock = 0, 0, threading.Lock()
    gate = threading.Barrier(3, timeout=5)

    def intercept(number: int, request: dict[str, Any]) -> Response | None:
        nonlocal inside, most
        if number == 1:
            return None
        with lock:
            inside += 1
            most = max(most, inside)
        if number <= 4:
            gate.wait()
        with lock:
            inside -= 1
        return None

    server.intercept = intercept
    scenes: list[Scene] = [THREE, TWO]
    ask(server, concurrency=3).label(scenes)
    assert most == 3
