"""Training on the real servers equals the replay of what they said, whatever is killed in the middle."""

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from preceptor.agent.config import TrainConfig, changed, configure
from preceptor.agent.runs.run import Run
from preceptor.agent.train import train
from preceptor.ground.errors import UserError
from preceptor.teacher import make
from preceptor.teacher.base import TeacherError
from preceptor.teacher.config import Limits
from preceptor.teacher.labels import LabelStore
from tests.serving.conftest import command

pytestmark = [pytest.mark.serving, pytest.mark.timeout(900)]

TINY = {
    "method": "dagger",
    "preset": "tiny",
    "steps": 1600,
    "teacher": "llm",
    "prompt": "compact",
    "quiet": True,
    "eval_episodes": 10,
}
NOT_THE_RUN = {"seconds", "run", "teacher", "queries", "calls", "hits", "invalid", "asking"}
SECONDS_TO_HAPPEN = 120.0

Serve = Callable[..., dict[str, Any]]


def outcome(result: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """What a run came to, without what it cost and where it lies: its numbers and its last checkpoint's tensors."""
    run = Run.open(Path(result["run"]))
    numbers = {name: value for name, value in result.items() if name not in NOT_THE_RUN}
    return numbers, (run.checkpoint(run.last_step or 0) / "state.safetensors").read_bytes()


def replay(result: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    store = str(Path(result["run"]) / "labels.sqlite")
    words = {"teacher": "replay", "labels": store, "savedir": "replay", "base_url": None, "resume": False}
    return train(changed(config, words))


def answers(store: Path) -> dict[str, tuple[float, ...]]:
    """The answers in a store that others write to; none while it is being created."""
    try:
        with LabelStore(store, read_only=True) as labels:
            return {call.key: call.probs for call in labels.calls()}
    except (UserError, sqlite3.Error):
        return {}


@contextmanager
def killing(pids: list[int], store: Path, rows: int) -> Iterator[list[dict[str, tuple[float, ...]]]]:
    """Kill -9 once the run has so many answers; what it has then is what the block gets, in a list."""
    before: list[dict[str, tuple[float, ...]]] = []
    over = threading.Event()

    def wait() -> None:
        while not over.wait(0.005):
            if len(found := answers(store)) >= rows:
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
                before.append(found)
                return

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield before
    finally:
        over.set()
        thread.join()


def below(pid: int) -> list[int]:
    """Process ids of everything that a process has started."""
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(other for child in children for other in below(child))]


def worker_of(server: dict[str, Any]) -> int:
    """vLLM's worker: the process below its API server that names itself so."""
    found = [
        pid for pid in below(server["processes"]["vllm"]) if b"EngineCor" in Path(f"/proc/{pid}/comm").read_bytes()
    ]
    assert found, "vLLM has another process layout"
    return found[0]


def store_of(config: TrainConfig) -> Path:
    return Path(config.logdir) / config.method / config.task / config.savedir / "labels.sqlite"


@pytest.mark.parametrize(("server", "task"), [("vllm_url", "KeyInBox"), ("fastchat_url", "SimpleDoorKey")])
def test_the_student_of_a_server_is_the_student_of_its_store(
    server: str, task: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue(server)
    config = configure(TINY, task=task, logdir=str(tmp_path), base_url=url)
    result = train(config)
    assert result["calls"] > 20
    assert result["abstained"] == 0
    assert outcome(replay(result, config)) == outcome(result)


def test_one_fastchat_worker_is_enough(serve: Serve, tmp_path: Path) -> None:
    server = serve("--backend", "fastchat")
    config = configure(TINY, task="SimpleDoorKey", logdir=str(tmp_path), base_url=server["base_url"])
    result = train(config)
    assert result["abstained"] == 0
    assert outcome(replay(result, config)) == outcome(result)
    stop(server)


def test_a_fastchat_worker_killed_in_the_middle_is_survived(serve: Serve, tmp_path: Path) -> None:
    server = serve("--backend", "fastchat", "--workers", "2")
    config = configure(TINY, task="SimpleDoorKey", logdir=str(tmp_path), base_url=server["base_url"], concurrency=4)
    with killing([server["processes"]["worker-1"]], store_of(config), rows=10) as before:
        result, config = finished(config)
    assert before, "the run was over before it could be killed"
    after = answers(store_of(config))
    assert {key: after[key] for key in before[0]} == before[0]
    assert result["abstained"] == 0
    assert outcome(replay(result, config)) == outcome(result)
    stop(server)


def test_vllm_killed_in_the_middle_stops_the_run_with_advice_and_it_goes_on(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "LIMITS", dict.fromkeys(("abort", "otherwise"), Limits(deadline_seconds=3.0)))
    server = serve("--backend", "vllm")
    config = configure(TINY, task="KeyInBox", logdir=str(tmp_path), base_url=server["base_url"])
    with killing([worker_of(server)], store_of(config), rows=30) as before, pytest.raises(TeacherError) as error:
        train(config)
    assert "--resume" in error.value.next_step
    assert {key: answers(store_of(config))[key] for key in before[0]} == before[0]
    stop(server)
    again = serve("--backend", "vllm")
    config = changed(config, {"resume": True, "base_url": again["base_url"]})
    result = train(config)
    after = answers(store_of(config))
    assert {key: after[key] for key in before[0]} == before[0]
    assert len(after) > len(before[0])
    assert outcome(replay(result, config)) == outcome(result)
    stop(again)


@pytest.mark.parametrize("policy", ["controller"])
def test_vllm_killed_in_the_middle_is_done_without(
    serve: Serve, tmp_path: Path, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "LIMITS", dict.fromkeys(("abort", "otherwise"), Limits(deadline_seconds=3.0)))
    server = serve("--backend", "vllm")
    config = configure(
        TINY, task="KeyInBox", logdir=str(tmp_path), base_url=server["base_url"], on_teacher_failure=policy
    )
    with killing([worker_of(server)], store_of(config), rows=30) as before:
        result = train(config)
    after = answers(store_of(config))
    assert {key: after[key] for key in before[0]} == before[0]
    assert result["asking"]["fallbacks"] > 0
    assert outcome(replay(result, config)) == outcome(result)
    stop(server)


def finished(config: TrainConfig) -> tuple[dict[str, Any], TrainConfig]:
    """The result of a run that may stop for its server, and is then resumed."""
    deadline = time.monotonic() + SECONDS_TO_HAPPEN
    while True:
        try:
            return train(config), config
        except TeacherError as error:
            assert "--resume" in error.next_step or "curl" in error.next_step  # noqa: PT017  # a loop, not a refusal
            assert time.monotonic() < deadline, "the server did not come back"
            config = changed(config, {"resume": True})


def stop(server: dict[str, Any]) -> None:
    """End a server of a test's own before the next one needs its memory."""
    command("--stop", "--port", str(server["port"]), "--logdir", server["logdir"])
