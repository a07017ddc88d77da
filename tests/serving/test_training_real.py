"""Training on the real servers equals the replay of what they said, whatever is killed in the middle."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from preceptor.agent.config import TrainConfig, changed, configure
from preceptor.agent.train import train
from preceptor.ground.errors import UserError
from preceptor.teacher import make
from preceptor.teacher.base import TeacherError
from preceptor.teacher.config import Limits
from preceptor.teacher.labels import LabelStore
from tests.faults.test_replay import outcome, replay
from tests.processes import kill
from tests.serving.conftest import command

pytestmark = [pytest.mark.serving, pytest.mark.timeout(900)]

TINY = {
    "method": "dagger", "preset": "tiny", "steps": 1600, "teacher": "llm", "prompt": "compact", "quiet": True,
    "eval_episodes": 10,
}  # fmt: skip
SECONDS_TO_HAPPEN = 120.0

Serve = Callable[..., dict[str, Any]]
Answers = dict[str, tuple[float, ...]]


def answers(store: Path) -> Answers:
    """The answers in a store that others write to; none while it is being created."""
    try:
        with LabelStore(store, read_only=True) as labels:
            return {call.key: call.probs for call in labels.calls()}
    except (UserError, sqlite3.Error):
        return {}


@contextmanager
def killing(pid: int, store: Path, rows: int) -> Iterator[list[Answers]]:
    """Kill -9 once the run has so many answers; what it has then is what the block gets, in a list."""
    before: list[Answers] = []
    over = threading.Event()

    def wait() -> None:
        while not over.wait(0.005):
            if len(found := answers(store)) >= rows:
                kill(pid)
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


def same_as_replay(result: dict[str, Any], config: TrainConfig, before: Answers) -> Answers:
    """Assert that a run equals the replay of its store, which kept what it held before; what it holds."""
    after = answers(store_of(config))
    assert before.items() <= after.items()
    assert outcome(replay(result, config)) == outcome(result)
    return after


@pytest.mark.parametrize(("server", "task"), [("vllm", "KeyInBox"), ("fastchat", "SimpleDoorKey")])
def test_the_student_of_a_server_is_the_student_of_its_store(
    server: str, task: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    config = configure(TINY, task=task, logdir=str(tmp_path), base_url=request.getfixturevalue(server)["base_url"])
    result = train(config)
    assert (result["calls"] > 20, result["abstained"]) == (True, 0)
    same_as_replay(result, config, {})


def test_a_fastchat_worker_killed_in_the_middle_is_survived(serve: Serve, tmp_path: Path) -> None:
    server = serve("--backend", "fastchat", "--workers", "2")
    config = configure(TINY, task="SimpleDoorKey", logdir=str(tmp_path), base_url=server["base_url"], concurrency=4)
    with killing(server["processes"]["worker-1"], store_of(config), rows=10) as before:
        result, config = finished(config)
    assert before, "the run was over before it could be killed"
    assert result["abstained"] == 0
    same_as_replay(result, config, before[0])
    stop(server)


@pytest.mark.parametrize("policy", ["abort", "controller"])
def test_vllm_killed_in_the_middle_is_done_without_or_waited_for(
    serve: Serve, tmp_path: Path, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "LIMITS", dict.fromkeys(("abort", "otherwise"), Limits(deadline_seconds=3.0)))
    server = serve("--backend", "vllm")
    said = {"base_url": server["base_url"], "on_teacher_failure": policy}
    config = configure(TINY, task="KeyInBox", logdir=str(tmp_path), **said)
    with killing(worker_of(server), store_of(config), rows=30) as before:
        if policy == "controller":
            result = train(config)
            assert result["asking"]["fallbacks"] > 0
        else:
            with pytest.raises(TeacherError) as error:
                train(config)
            assert "--resume" in error.value.next_step
    stop(server)
    if policy == "abort":
        server = serve("--backend", "vllm")
        config = changed(config, {"resume": True, "base_url": server["base_url"]})
        result = train(config)
        stop(server)
    after = same_as_replay(result, config, before[0])
    assert policy == "controller" or len(after) > len(before[0])


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
