"""The real servers, each started once for all tests that want it, through the command that users type."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from preceptor.serving.ports import free_ports
from preceptor.serving.processes import END_SECONDS

ROOT = Path(__file__).parents[2]
READY_SECONDS = 240.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the first test that asks for a server the time to start it on a busy machine."""
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(4 * READY_SECONDS))


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., dict[str, Any]]]:
    """Starts `main.py serve` in the background; returns what it says when the server is ready. All end at the end.

    Of the result, `base_url` is for clients, `processes` are process ids by name, `pid` is the launcher's, `logdir` and
    `port` are for further commands.
    """
    logdir, ports = str(tmp_path_factory.mktemp("servers")), []

    def start(*words: str) -> dict[str, Any]:
        ports.append(port := free_ports(1)[0])
        where = ["--port", str(port), "--logdir", logdir, "--timeout", str(READY_SECONDS)]
        return {**command(*words, *where, "--detach"), "port": port, "logdir": logdir}

    try:
        yield start
    finally:
        for port in ports:
            command("--stop", "--port", str(port), "--logdir", logdir)


def command(*words: str) -> dict[str, Any]:
    """The result line of one `serve` command."""
    run = [sys.executable, str(ROOT / "main.py"), "serve", *words, "--json"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=2 * READY_SECONDS + 4 * END_SECONDS)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="session")
def vllm(serve: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """A vLLM server of the tiny model, as `serve` describes it."""
    return serve("--backend", "vllm")


@pytest.fixture(scope="session")
def fastchat(serve: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """FastChat with two workers of the tiny model, as `serve` describes it."""
    return serve("--backend", "fastchat", "--workers", "2")
