"""Every fault that a server was seen to have: how it is handled, what is counted, and what is left in the store.

The table is the documentation: one row per fault, in the order of `tests.faulty_server.FAULTS`.
"""

from collections.abc import Iterator
from dataclasses import replace
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
import pytest

from preceptor.teacher.asking import AskingTeacher
from preceptor.teacher.base import UNAVAILABLE, TeacherError
from preceptor.teacher.config import Limits, TeacherConfig
from preceptor.teacher.faults import Handling, fault_of_response
from preceptor.teacher.labels import OK, LabelStore
from preceptor.teacher.llm import ServedModel
from preceptor.teacher.make import longest_prompts
from preceptor.teacher.prompts import load_template
from tests.faulty_server import FAULTS, FaultyServer, Script, Step, faulty
from tests.small_task import SmallTask

RETRY, FALL_BACK, ABORT = Handling.RETRY, Handling.FALL_BACK, Handling.ABORT
# No reply at all, and one that is as good as any: neither is a failure.
HARMLESS = "harmless"

TASK = SmallTask()
SCENE = TASK.scene("red", ("red", "green"), "nothing")  # four options, so four menus
# A server that answers late, for which a request must not wait as long as for others.
LATE = ("frozen", "drip", "hang")
BOUND = 60.0  # seconds for everything, on a busy machine


class Row(NamedTuple):
    """A fault, met once by the first request after the probe."""

    fault: str
    handling: str  # what follows: it is tried again, it is no answer, or the run stops
    scoring: str = "logprobs"  # the way of asking that meets it
    seconds: float | None = None  # of the fault
    status: str = ""  # of the calls that met it in the store, where they are kept as no answer


TABLE = (
    Row("rate_limit", RETRY),
    Row("rate_limit", RETRY, seconds=1),
    Row("internal_error", RETRY),
    Row("bad_gateway", RETRY),
    Row("unavailable", RETRY),
    Row("unauthorized", ABORT),
    Row("unknown_model", ABORT),
    Row("context_too_long", ABORT),
    Row("no_worker", RETRY),
    Row("worker_killed", RETRY),
    Row("worker_error", RETRY),
    Row("out_of_memory", RETRY),
    Row("worker_context", ABORT),
    Row("limit_under_200", RETRY),
    Row("failure_under_200", RETRY),
    Row("credit_under_200", ABORT),
    Row("key_under_200", ABORT),
    Row("redirect", ABORT),
    Row("refused", RETRY, seconds=0.5),
    Row("frozen", RETRY, seconds=1),
    Row("cut", RETRY),
    Row("drip", RETRY, seconds=30),
    Row("hang", RETRY, seconds=30),
    Row("no_usage", HARMLESS),
    Row("parts", HARMLESS, "samples"),
    Row("escapes", FALL_BACK, "samples", status="off_menu"),
    Row("no_choices", FALL_BACK, status="empty"),
    Row("null_content", HARMLESS),  # the letters are scored, whatever was written
    Row("null_content", FALL_BACK, "samples", status="empty"),
    Row("wrong_model", FALL_BACK, status="wrong_model"),
    Row("logprobs_withheld", FALL_BACK, status="empty"),
    Row("constraint_ignored", FALL_BACK, "choice", status="off_menu"),
    Row("off_menu", FALL_BACK, "samples", status="off_menu"),
    Row("markdown", HARMLESS, "samples"),
    Row("json", HARMLESS, "samples"),
    Row("thinking", HARMLESS, "samples"),
    Row("truncated", FALL_BACK, "samples", status="unfinished"),
    Row("megabyte", FALL_BACK, status="too_long"),
    Row("invalid_utf8", FALL_BACK, status="garbled"),
)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty() as running:
        yield running


def ask(
    server: FaultyServer, scoring: Any = "logprobs", request: float = 0.5, deadline: float = 1.0, **said: Any
) -> Any:
    template = load_template("compact")
    limits = Limits(request_seconds=30.0, deadline_seconds=deadline, cool_down_seconds=60.0)
    config = TeacherConfig("llm", base_url=server.url, scoring=scoring, samples=2, **{"concurrency": 1} | said)
    model = ServedModel(config, limits=limits)
    model.prepare(longest_prompts(TASK, template))
    model._client.limits = replace(limits, request_seconds=request)
    return AskingTeacher("llm", TASK, model, template, LabelStore())


def statuses(store: LabelStore) -> list[str]:
    return [call.status for call in store.calls(answers_only=False)]


def test_the_table_is_complete() -> None:
    assert {row.fault for row in TABLE} == set(FAULTS)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.fault}-{row.scoring}")
def test_a_fault_that_passes(server: FaultyServer, row: Row) -> None:
    request = 1.0 if row.fault in LATE else 20.0
    teacher, started = ask(server, row.scoring, request=request, deadline=40.0), monotonic()
    before = dict(teacher.stats.extra)
    server.play(Script(steps=(Step(row.fault, seconds=row.seconds),)))
    if row.handling == ABORT:
        with pytest.raises(TeacherError) as error:
            teacher.label([SCENE])
        assert error.value.next_step
        assert set(statuses(teacher.store)) == {"error"}
    else:
        (label,) = teacher.label([SCENE])
        kept = statuses(teacher.store)
        bad = [status for status in kept if status != OK]
        assert set(bad) == ({row.status} if row.handling == FALL_BACK else set())
        assert teacher.stats.invalid == len(bad)
        assert teacher.stats.calls == len(kept) == 4 * teacher.model.samples
        assert label.abstained == (OK not in kept)
    retries = teacher.stats.extra["retries"] - before["retries"]
    failures = teacher.stats.extra["failures"] - before["failures"]
    assert (retries > 0) == (row.handling == RETRY)
    assert failures >= retries
    assert monotonic() - started < BOUND
    server.play(Script())
    answered = ask(server, row.scoring)
    (label,) = AskingTeacher("llm", TASK, answered.model, answered.template, teacher.store).label([SCENE])
    assert not label.abstained, "what went wrong was no answer: the next run asks again, and is answered"
    assert all(call.status == OK and sum(call.probs) == pytest.approx(1) for call in teacher.store.calls())


@pytest.mark.parametrize("fault", ["refused", "internal_error", "worker_killed", *LATE])
def test_a_fault_that_lasts_stops_the_run_or_is_left_alone_by_one_that_can_go_on(
    server: FaultyServer, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    started, seconds = monotonic(), {"refused": 60.0, "frozen": 60.0, "drip": 30.0, "hang": 30.0}.get(fault)
    stopping, patient = ask(server), ask(server, on_teacher_failure="scripted")
    server.play(Script(steps=(Step(fault, forever=True, seconds=seconds),)))
    with pytest.raises(TeacherError) as error:
        stopping.label([SCENE])
    assert "--resume" in error.value.next_step or "--concurrency" in error.value.next_step
    assert set(statuses(stopping.store)) == {"error"}
    assert capsys.readouterr().err.count("trying for up to 1 s") == 1
    (label,) = patient.label([SCENE])
    assert (label.abstained, label.method) == (True, UNAVAILABLE)
    sent = patient.stats.extra["requests"]
    labels = patient.label(TASK.sample_scenes(np.random.default_rng(0), 100))
    assert {label.method for label in labels} == {UNAVAILABLE, "only_option"}
    assert patient.stats.extra["requests"] == sent, "the breaker is open: nothing touches the network"
    assert patient.stats.extra["breaker_opened"] == 1
    assert "given up" in capsys.readouterr().err
    assert patient.stats.calls == patient.stats.invalid == 0
    stand_in = patient.fall_back(SCENE, "scripted", (1.0, 0.0, 0.0, 0.0, 0.0))
    assert patient.label([SCENE]) == [stand_in], "what stood in is the label for the rest of the run"
    assert monotonic() - started < BOUND


def test_after_the_cool_down_one_request_finds_out(server: FaultyServer, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = ask(server, "samples", request=20.0, on_teacher_failure="scripted", concurrency=8)
    breaker = teacher.model._breaker
    scenes = [s for s in TASK.sample_scenes(np.random.default_rng(0), 60) if len(s.legal) > 1 and s != SCENE]
    server.play(Script(steps=(Step("internal_error", forever=True),)))
    teacher.label([SCENE])
    breaker._opened -= 120.0  # the cool-down is over
    sent = teacher.stats.extra["requests"]
    assert teacher.label(scenes[:1])[0].method == UNAVAILABLE
    assert teacher.stats.extra["requests"] == sent + 1
    server.play(Script())
    breaker._opened -= 120.0
    assert not {label.method for label in teacher.label(scenes[1:])} & {UNAVAILABLE}, (
        "the others wait for what it finds"
    )
    assert teacher.stats.extra["breaker_opened"] == 1
    assert "is back" in capsys.readouterr().err
    assert teacher.label([SCENE])[0].method == UNAVAILABLE, "what was decided stands for the rest of the run"


@pytest.mark.parametrize(
    ("status", "body", "name", "handling"),
    [
        (400, '{"object": "error", "message": "Only  allowed now", "code": 40301}', "no worker", RETRY),
        (400, '{"object": "error", "message": "x", "code": 42902}', "quota", ABORT),
        (400, '{"message": "Server disconnected"}', "worker failed", RETRY),
        (400, '{"error": {"message": "bad field", "code": 400}}', "refused", ABORT),
        (400, '{"error": "prompt is longer than the maximum model length of 512"}', "context", ABORT),
        (429, '{"error": {"message": "x", "code": "insufficient_quota"}}', "quota", ABORT),
        (429, "slow down", "rate limit", RETRY),
        (403, "", "wrong key", ABORT),
        (501, "", "not implemented", ABORT),
        (504, "<html>", "server error", RETRY),
        (500, "[1, 2]", "server error", RETRY),
        (404, '{"error": null}', "not found", ABORT),
        (429, '[{"error": {"code": 429, "message": "x", "status": "RESOURCE_EXHAUSTED"}}]', "rate limit", RETRY),
        (429, '{"error": {"message": "x", "type": "insufficient_quota", "code": null}}', "quota", ABORT),
        (200, '{"error": {"message": "Insufficient Balance"}}', "quota", ABORT),
        (200, '{"error": "Rate limit reached for your quota"}', "rate limit", RETRY),
        (200, '{"error": {"message": "x", "code": "503"}}', "server error", RETRY),
        (200, '{"error": {"message": "x", "code": 1e400}}', "server error", RETRY),
        (200, '{"error": {"message": "x", "code": 400}}', "refused", ABORT),
        (200, '{"error": {}}', "server error", RETRY),
        (200, '{"error": [[[1]]]}', "server error", RETRY),
    ],
)
def test_status_and_body_decide_together(status: int, body: str, name: str, handling: Handling) -> None:
    fault = fault_of_response(status, {"retry-after": "3"}, body)
    assert (fault.name, fault.handling, fault.retry_after) == (name, handling, 3.0)
    assert fault_of_response(429, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, "").retry_after == 0.0
