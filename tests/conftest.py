"""Of many files: the processor, no settings of the user, one thread, local server, a verb that succeeds, drawing."""

import os
from collections.abc import Callable, Iterator

import pytest
import torch

import main as cli
from tests.local_server import Running, serving


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests that draw are skipped where nothing can, but for machines that are to draw."""
    if item.get_closest_marker("draws"):
        from preceptor.envs.mujoco.rendering import choose_backend

        if choose_backend().name == "off":
            (pytest.fail if os.environ.get("MUST_DRAW") else pytest.skip)("nothing here can draw")


@pytest.fixture(scope="session", autouse=True)
def on_the_processor() -> Iterator[None]:
    """`--device auto` is the processor, where runs repeat to the bit; tests of other devices name them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch computes in one thread, and so always in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def module_server(one_thread: None) -> Iterator[Running]:
    """The server of the tiny model, for all tests of a file."""
    with serving() as running:
        yield running


@pytest.fixture
def server(module_server: Running) -> Iterator[Running]:
    """The same, for one test: what it counts begins anew."""
    module_server.passes = 0
    module_server.jobs.clear()
    yield module_server
    module_server.before_pass = lambda number: None


@pytest.fixture
def endless(server: Running) -> Iterator[None]:
    """Its model ends no reply by itself."""
    server.engine.codec.stops, stops = frozenset(), server.engine.codec.stops
    yield
    server.engine.codec.stops = stops


@pytest.fixture
def verb(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a `labels` command that has to succeed; what it printed."""

    def command(*words: str) -> str:
        capsys.readouterr()
        assert cli.main(["labels", *words]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return command
