"""The launcher and the real vLLM and FastChat: ready, killed, started again, stopped, and nothing left behind."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from preceptor.serving.processes import wait_until
from preceptor.serving.ready import QUESTION, ask, is_label
from preceptor.serving.state import known
from tests.processes import group_members, kill, stat
from tests.serving.conftest import READY_SECONDS, command

pytestmark = pytest.mark.serving
Started = dict[str, Any]


def where(server: Started) -> list[str]:
    return ["--port", str(server["port"]), "--logdir", server["logdir"]]


def status(server: Started) -> Started:
    """What `serve --status` says of a server."""
    (said,) = command("--status", *where(server))["servers"]
    return dict(said)


def everyone(server: Started) -> list[int]:
    """Every living process of a server, its launcher first."""
    groups = [pid for group in server["processes"].values() for pid in group_members(group)]
    return [*([server["pid"]] if stat(server["pid"]) else []), *groups]


def restarted(server: Started, name: str) -> Started:
    """What --status says once a process of that name is a new one and the server is ready."""
    old = server["processes"][name]

    def again() -> bool:
        (state,) = known(server["logdir"], port=server["port"])
        return state.status == "ready" and state.processes.get(name, old) != old

    assert wait_until(again, READY_SECONDS), status(server)
    return {**server, **status(server)}


def answers(server: Started) -> bool:
    return is_label(ask(server["base_url"], "tiny"))


def is_gone(server: Started) -> bool:
    return wait_until(lambda: not everyone(server), 60.0)


def test_vllm_answers_and_is_ready_again_after_its_worker_was_killed(vllm: Started) -> None:
    assert answers(vllm)
    assert len(everyone(vllm)) >= 3, "launcher, API server, engine"
    kill(max(group_members(vllm["processes"]["vllm"])))  # the worker, which is started last
    again = restarted(vllm, "vllm")
    assert again["restarts"] == {"vllm": 1}
    assert answers(again)
    assert not group_members(vllm["processes"]["vllm"]), "nothing of the first one is left"


@pytest.mark.parametrize("name", ["worker-1", "controller", "api"])
def test_each_part_of_fastchat_is_started_again_and_finds_the_others(fastchat: Started, name: str) -> None:
    before = {**fastchat, **status(fastchat)}
    assert answers(before)
    kill(before["processes"][name])
    again = restarted(before, name)
    assert answers(again)
    others = {part: pid for part, pid in before["processes"].items() if part != name}
    assert others.items() <= again["processes"].items(), "the others went on"


def test_fastchat_with_two_workers_uses_both(fastchat: Started) -> None:
    before = {**fastchat, **status(fastchat)}
    requests = {worker: handled(before, worker) for worker in ("worker-1", "worker-2")}
    body = {"model": "tiny", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 1}
    for _ in range(20):
        httpx.post(f"{before['base_url']}/chat/completions", json=body, timeout=60.0).raise_for_status()
    assert all(handled(before, worker) > count for worker, count in requests.items())


def handled(server: Started, worker: str) -> int:
    """Requests for a completion in a worker's log."""
    with open(f"{server['logs']}/{worker}.log") as log:
        return log.read().count("POST /worker_generate")


@pytest.mark.parametrize("backend", ["vllm", "fastchat"])
def test_a_killed_launcher_leaves_no_process_and_the_next_one_says_so(
    serve: Callable[..., Started], backend: str
) -> None:
    server = serve("--backend", backend)
    assert answers(server)
    assert len(everyone(server)) >= 3
    kill(server["pid"])
    assert is_gone(server), everyone(server)
    assert status(server)["status"] == "stale"
    stopped = command("--stop", *where(server))
    assert stopped["stopped"] == [server["server"]]
    assert not known(server["logdir"], port=server["port"])


def test_stop_ends_every_process_of_the_server(serve: Callable[..., Started]) -> None:
    server = serve("--backend", "fastchat")
    assert status(server)["status"] == "ready"
    assert status(server)["answers"]
    command("--stop", *where(server))
    assert is_gone(server)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server['base_url']}/models", trust_env=False)
