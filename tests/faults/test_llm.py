"""A language model behind a server: how it is asked, what is kept, and what it may cost."""

import asyncio
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest

from preceptor.ground.errors import UserError
from preceptor.teacher import llm
from preceptor.teacher.asking import AskingTeacher
from preceptor.teacher.base import BudgetExhausted, TeacherError
from preceptor.teacher.config import Limits, TeacherConfig
from preceptor.teacher.labels import LabelStore
from preceptor.teacher.llm import ServedModel
from preceptor.teacher.make import longest_prompts, make_teacher
from preceptor.teacher.probe import Probe
from preceptor.teacher.prompts import load_template
from tests.faulty_server import FaultyServer, Script, faulty
from tests.small_task import SmallTask

TASK = SmallTask()
THREE = TASK.scene("red", ("red", "green"), "nothing")  # explore, two keys, open: four options
TWO = TASK.scene("unseen", ("blue",), "nothing")  # explore, one key: two options
SAMPLES_ONLY = Script(logprobs="ignored", structured_outputs="ignored", echo="ignored")


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty() as running:
        yield running


def of(server: FaultyServer, **said: Any) -> TeacherConfig:
    return TeacherConfig("llm", base_url=server.url, **said)


def served(server: FaultyServer, **said: Any) -> ServedModel:
    """The model on the server, impatient and one request at a time, with its probe behind it."""
    model = ServedModel(of(server, **{"concurrency": 1} | said), limits=Limits(5.0, 10.0))
    model.prepare(longest_prompts(TASK, load_template("chat")))
    return model


def ask(server: FaultyServer, store: LabelStore | None = None, **asking: Any) -> AskingTeacher:
    """A teacher on the server."""
    kept = store if store is not None else LabelStore()
    return AskingTeacher("llm", TASK, served(server, **asking), load_template("chat"), kept)


def prefers(words: str, weight: float = 0.7) -> Any:
    """A model that likes an option wherever it stands on the menu, and shares the rest among the others."""

    def reply(prompt: str) -> dict[str, float]:
        question = prompt.rpartition("Scene:")[2]  # over completions, the worked example stands before it
        lines = [line for line in question.splitlines() if line[1:2] == ")"]
        return {line[0]: weight if line[3:] == words else (1 - weight) / (len(lines) - 1) for line in lines}

    return reply


def generated(server: FaultyServer) -> int:
    """Requests for replies that the server has seen."""
    return len(server.bodies("chat")) + len(server.bodies("completions"))


@pytest.mark.parametrize("scoring", ["logprobs", "choice", "echo", "samples"])
def test_every_way_of_asking_finds_the_preference(server: FaultyServer, scoring: str) -> None:
    teacher = ask(server, scoring=scoring, samples=9)
    server.reply = prefers("take the green key", weight=0.94)
    (label,) = teacher.label([THREE])
    assert (label.method, label.source) == (scoring, "llm:toy")
    assert max(range(5), key=lambda i: label.probs[i]) == 2
    assert teacher.model.samples == (9 if scoring in ("choice", "samples") else 1)
    assert teacher.stats.calls == len(teacher.store) == 4 * teacher.model.samples
    assert teacher.stats.tokens == sum(call.tokens for call in teacher.store.calls()) > 400


def test_lists_are_so_short_that_a_slow_server_answers_them_in_time(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_at_a_time = threading.Lock()

    def slow(prompt: str) -> dict[str, float]:
        with one_at_a_time:
            sleep(0.02)
        return prefers("explore the room")(prompt)

    def prepared(concurrency: int | None = None) -> ServedModel:
        model = ServedModel(of(server, concurrency=concurrency), limits=Limits(4.0, 2.5))
        model.prepare(longest_prompts(TASK, load_template("chat")))
        return model

    assert served(server).way.size == 64, "lists that the slow server would not answer in time"
    server.reply = slow
    model = prepared()
    assert model.concurrency == 4
    assert 2 <= model.way.size <= 7, "7 are computed, fewer if this machine is busy"
    assert prepared(concurrency=40).way.size == 1
    teacher = AskingTeacher("llm", TASK, model, load_template("chat"), LabelStore())
    labels = teacher.label(TASK.sample_scenes(np.random.default_rng(0), 100))
    assert not any(label.abstained for label in labels)
    assert teacher.stats.calls > 64
    monkeypatch.setattr(llm, "is_here", lambda url: False)
    assert prepared().way.size == 64, "it may be the network that is slow"


def test_a_first_prompt_that_finds_the_server_cold_makes_no_list_shorter(server: FaultyServer) -> None:
    cold = [True]

    def reply(prompt: str) -> dict[str, float]:
        if cold and "Scene:" in prompt:
            cold.clear()
            sleep(1.0)
        return prefers("explore the room")(prompt)

    server.reply = reply
    assert served(server).way.size > 8
    assert not cold


def test_letters_are_scored_over_permuted_menus_which_cancel_a_liking_for_a_position(server: FaultyServer) -> None:
    server.reply = lambda prompt: {"A": 0.97, "B": 0.01, "C": 0.01, "D": 0.01}
    assert [p for p in ask(server).label([THREE])[0].probs if p] == pytest.approx([0.25] * 4)


def test_equal_facts_are_one_query_and_the_store_answers_the_next_time(server: FaultyServer) -> None:
    store = LabelStore()
    first = ask(server, store)
    labels = first.label([TWO, THREE, TWO])
    assert labels[0] == labels[2]
    assert (first.stats.queries, first.stats.calls, first.stats.hits) == (2, 6, 0)
    # Scores are scores, in whatever way the server gives them; the frequencies of samples are other labels.
    for scoring, calls in (("logprobs", 0), ("echo", 0), ("samples", 20)):
        again = ask(server, store, scoring=scoring)
        seen = generated(server)
        assert (again.label([TWO, TWO]) == labels[:1] * 2) == (calls == 0)
        assert (again.stats.calls, again.stats.hits) == (calls, int(not calls))
        assert generated(server) == seen + bool(calls) * 2, "one request for each menu"


def test_what_was_no_answer_is_not_asked_again_by_the_same_run_but_by_the_next(server: FaultyServer) -> None:
    teacher = ask(server)
    server.reply = lambda prompt: "Z"
    assert teacher.label([TWO])[0].abstained
    before = generated(server)
    teacher.label([TWO])
    assert generated(server) == before
    server.reply = prefers("explore the room", weight=0.99)
    assert ask(server, teacher.store).label([TWO])[0].probs[0] > 0.5


def test_a_model_that_never_answers_is_given_up(server: FaultyServer) -> None:
    teacher = ask(server)
    server.reply = lambda prompt: "Certainly!"
    with pytest.raises(TeacherError, match=r"no answer.*(\n.*)*--model"):
        teacher.label(TASK.sample_scenes(np.random.default_rng(0), 200))
    assert teacher.stats.calls <= 64


def test_a_run_whose_calls_nearly_all_fail_stops(server: FaultyServer) -> None:
    teacher = ask(server, scoring="samples", samples=1)
    answers = iter(["A", *["I cannot say."] * 1000])
    server.reply = lambda prompt: next(answers)
    with pytest.raises(TeacherError, match="replies and 1 answer"):
        teacher.label(TASK.sample_scenes(np.random.default_rng(0), 200))


@pytest.mark.parametrize(
    ("script", "said", "advice"),
    [
        (SAMPLES_ONLY, "no usable answer", "--prompt compact"),
        (Script(context=250, dialect="openai"), "context", "--prompt compact, or .* --max-model-len"),
        (Script(context=250, dialect="fastchat"), "context", "--prompt compact, or .* --max-model-len"),
        (Script(key="sk-right"), "refused the key", "OPENAI_API_KEY"),
    ],
)
def test_what_is_wrong_is_found_out_before_any_scene(
    server: FaultyServer, script: Script, said: str, advice: str
) -> None:
    server.play(script)
    server.reply = lambda prompt: "Certainly!"
    with pytest.raises(TeacherError, match=said) as error:
        make_teacher(TeacherConfig("llm", base_url=server.url, prompt="chat"), TASK)
    assert re.search(advice, error.value.next_step)
    if said == "context":
        server.reply = prefers("explore the room")
        assert make_teacher(TeacherConfig("llm", base_url=server.url, prompt="compact"), TASK)


def test_what_cannot_be_reached_is_said_before_any_prompt(server: FaultyServer) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(TeacherError, match=rf"No server answers.*(\n.*)*curl {url}/models.*--teacher local"):
            ServedModel(TeacherConfig("llm", base_url=url))
    with pytest.raises(UserError, match="no URL"):
        ServedModel(TeacherConfig("llm", base_url="localhost:8000"))
    server.play(Script(models=("qwen-small", "qwen-large")))
    with pytest.raises(UserError, match=r"Did you mean 'qwen-small'.*qwen-large"):
        ServedModel(of(server, model="qwen-smal"))
    with pytest.raises(UserError, match="offers 2 models: qwen-large, qwen-small"):
        ServedModel(of(server))


def test_the_only_model_and_the_environment_are_used_and_the_key_is_in_no_error(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.play(Script(key="sk-secret"))
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    teacher: Any = make_teacher("llm", TASK)
    assert teacher.model.name == "toy"
    assert not teacher.label([TWO])[0].abstained
    refusal: Any = {"error": {"message": "Incorrect API key provided: sk-secret"}}
    server.intercept = lambda number, request: (401, {}, refusal)
    with pytest.raises(TeacherError, match="refused the key") as error:
        ServedModel(of(server)).prepare([])
    assert "sk-secret" not in str(error.value)


def test_calls_are_a_budget_that_stops_hard_and_keeps_what_was_answered(server: FaultyServer) -> None:
    probed = int(served(server, scoring="samples").extra["calls_sent"])
    limit = probed + 30  # of the 60 samples: three menus
    teacher = ask(server, scoring="samples", max_llm_calls=limit)
    with pytest.raises(BudgetExhausted, match=f"{limit} calls.*(\n.*)*--max-llm-calls and --resume"):
        teacher.label([TWO, THREE])
    assert len(teacher.store.calls()) == 30
    assert not teacher.label([TWO])[0].abstained, "what was answered in full needs no call"
    before = generated(server)
    with pytest.raises(BudgetExhausted):
        teacher.label([THREE])
    assert generated(server) == before


@pytest.mark.parametrize(
    ("limit", "flag"), [({"max_llm_tokens": 1500}, "--max-llm-tokens"), ({"max_llm_seconds": 0.5}, "--max-llm-seconds")]
)
def test_tokens_and_seconds_are_budgets_too(server: FaultyServer, limit: dict[str, Any], flag: str) -> None:
    teacher = ask(server, scoring="samples")
    teacher.model._client.config = of(server, **limit)  # type: ignore[attr-defined]
    teacher.model.extra["tokens_spent"] = 0

    def in_its_own_time(prompt: str) -> str:
        sleep(0.05)  # each of 40 requests at least
        return "A"

    server.reply = in_its_own_time
    with pytest.raises(BudgetExhausted, match=rf"budget.*(\n.*)*{flag}"):
        teacher.label([TWO, THREE, *TASK.sample_scenes(np.random.default_rng(0), 20)])
    assert len(teacher.store.calls()) > 0


def test_the_budget_survives_a_resume_and_a_kill(server: FaultyServer, tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.sqlite", own=True) as store:
        spent = ask(server, store)
        saved = spent.state_dict()
        spent.label([TWO])  # after the checkpoint: a kill loses the counters, and not the rows
        used = spent.model.extra["calls_sent"]
        resumed = ask(server, store, max_llm_calls=int(used) + 15)
        resumed.load_state_dict(saved)
        probe = saved["stats"]["extra"]["calls_sent"]
        assert resumed.model.extra["calls_sent"] == used + probe, "both probes, and what was asked"
        tight = ask(server, store, max_llm_calls=int(used))
        tight.load_state_dict(saved)
        with pytest.raises(BudgetExhausted):
            tight.label([THREE])


def test_a_run_is_not_resumed_with_another_way_of_asking(server: FaultyServer) -> None:
    state = ask(server, scoring="logprobs").state_dict()
    with pytest.raises(TeacherError, match=r"toy#samples.*(\n.*)*--scoring"):
        ask(server, scoring="samples").load_state_dict(state)


def test_requests_run_together_up_to_the_cap(server: FaultyServer) -> None:
    teacher = ask(server, scoring="samples", concurrency=3)
    gate, lock = threading.Barrier(3, timeout=30), threading.Lock()
    inside: list[int] = []
    most = []

    def intercept(number: int, request: dict[str, Any]) -> None:
        with lock:
            inside.append(number)
            most.append(len(inside))
        if len(most) <= 3:
            gate.wait()
        with lock:
            inside.remove(number)

    server.intercept = intercept
    teacher.label([THREE, TWO])
    assert max(most) == 3


class SureModel:
    """In the place of a client: a model that says A whatever it reads, behind a chat template of some tokens."""

    base_url = "http://nowhere/v1"
    left_out: dict[str, str] = {}  # noqa: RUF012
    estimates = False

    def __init__(self, template_tokens: int) -> None:
        self.template_tokens = template_tokens

    async def post(self, path: str, body: dict[str, Any], calls: int, patience: float) -> dict[str, Any]:
        said = {"A": -0.01, "B": -4.6}
        if path == "/completions":
            tops = [{"logprobs": {"top_logprobs": [said]}, "text": "A"} for _ in body["prompt"]]
            return {"choices": tops, "usage": {"total_tokens": 100 * len(tops)}}
        alternatives = [{"token": token, "logprob": p} for token, p in said.items()]
        choice = {"message": {"content": "A"}, "logprobs": {"content": [{"top_logprobs": alternatives}]}}
        return {"choices": [choice], "usage": {"total_tokens": 100 + self.template_tokens}}


@pytest.mark.parametrize(("template_tokens", "in_lists"), [(0, True), (9, False)])
def test_prompts_go_in_lists_only_where_the_server_reads_the_same_text(template_tokens: int, in_lists: bool) -> None:
    client: Any = SureModel(template_tokens)
    way, dropped = asyncio.run(
        Probe(client, {"model": "sure"}, longest_prompts(TASK, load_template("chat"))).run(["logprobs"])
    )
    assert (way.size > 1) == in_lists
    assert not dropped
