"""The launcher against servers that die, hang, refuse or do not let go: nothing is left, and the reason is said."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import main as cli
from preceptor.ground.errors import UserError
from preceptor.serving import launch, processes, supervisor
from preceptor.serving.config import ServeConfig
from preceptor.serving.ports import free_ports
from preceptor.serving.processes import Command, Running, wait_until
from preceptor.serving.state import ServerState, known, launching, read
from preceptor.serving.supervisor import Stopped, supervise
from tests.processes import group_members, kill, stat

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds for what takes a moment on a quiet machine

# What a server does, in the words that are its arguments; it answers as the protocol wants it, with a letter.
STAND_IN = """
import http.server, json, signal, subprocess, sys, time
port, *words = sys.argv[1:]
sleep = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(300)"]
if "children" in words:
    children = [subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True)]
    print("children", *(child.pid for child in children), flush=True)
if "deaf" in words:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "die" in words:
    sys.exit("RuntimeError: No available memory for the cache blocks. Try increasing something.")
if "hang" in words:
    time.sleep(300)
class Handler(http.server.BaseHTTPRequestHandler):
    def reply(self, status, body):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())
    def do_GET(self):
        self.reply(200, {"data": [{"id": "tiny"}]})
    def do_POST(self):
        if "refuse" in words:
            self.reply(400, {"message": "the maximum context length is 8 tokens"})
        else:
            self.reply(200, {"choices": [{"message": {"content": "A"}}]})
http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
"""


@pytest.fixture
def config(tmp_path: Path) -> ServeConfig:
    (port,) = free_ports(1)
    return ServeConfig(backend="local", port=port, logdir=str(tmp_path), timeout=PATIENCE).resolved()


@pytest.fixture
def plan(config: ServeConfig, tmp_path: Path) -> Callable[..., list[Command]]:
    """A server of one process that behaves as the words say."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    return lambda *words: [Command("server", (sys.executable, str(script), str(config.port), *words), config.port or 0)]


def watched(config: ServeConfig, plan: list[Command], *then: Callable[[ServerState], object]) -> list[str]:
    """What a server's supervisor tells: once ready it does the first thing, after each restart the next, then stops."""
    said: list[str] = []
    left = list(then)

    def go_on() -> None:
        if not left:
            raise Stopped
        state = read(config.folder)
        assert state is not None
        left.pop(0)(state)

    def tell(line: str) -> None:
        said.append(line)
        if line.endswith("answers again."):
            go_on()

    supervise(config, plan, tell, lambda state, first: said.append(first) or go_on())
    return said


@pytest.fixture
def heeded() -> Iterator[None]:
    """Signals that tests under nohup, or in the background of a shell, were started to ignore."""
    numbers = (signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_server_is_ready_when_it_labels_and_leaves_nothing(
    number: int, config: ServeConfig, plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.5)
    seen: list[ServerState] = []
    group: list[int] = []

    def look(state: ServerState) -> None:
        seen.append(state)
        group.extend(group_members(state.processes["server"]))
        os.kill(os.getpid(), number)

    assert watched(config, plan("children", "deaf"), look) == ["A"]
    assert (seen[0].status, seen[0].base_url, seen[0].model) == ("ready", config.base_url, "tiny")
    children = [int(word) for word in (config.folder / "server.log").read_text().splitlines()[0].split()[1:]]
    assert len(group) == 2, "the server, and its child in the same group"
    assert len(children) == 2
    assert not [pid for pid in [*group, *children] if stat(pid)], "the child in another group ends too"
    assert read(config.folder) is None


def test_a_server_that_does_not_become_ready_says_why_and_so_does_status(
    config: ServeConfig, plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failure(config: ServeConfig, *words: str) -> UserError:
        with pytest.raises(UserError) as caught:
            watched(config, plan(*words))
        state = read(config.folder)
        assert state
        assert (state.status, state.what, state.processes) == ("failed", caught.value.what, {})
        return caught.value

    monkeypatch.setattr(supervisor, "REFUSED_SECONDS", 0.5)
    died = failure(config, "die")
    assert "before it was ready: no memory is left for its cache" in died.what
    assert "| RuntimeError: No available memory" in died.what, "the end of the log is shown"
    silent = failure(replace(config, timeout=1.5), "hang", "children")
    assert "not ready within 1.5 s: ConnectError" in silent.what
    refused = failure(config, "refuse")  # long before the time is over
    assert "refuses to answer: its context is too short for a prompt" in refused.what
    assert ["--max-model-len" in error.next_step for error in (died, silent, refused)] == [True, False, True]
    assert "--timeout" in silent.next_step


def test_what_dies_is_started_again_but_not_for_ever(
    config: ServeConfig, plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "RESTARTS", 2)
    groups: list[int] = []

    def strike(state: ServerState) -> None:
        groups.append(state.processes["server"])
        assert state.restarts.get("server", 0) == len(groups) - 1
        # The watchdog at first, which takes the server along; then the server.
        kill(int(stat(groups[0])[1]) if len(groups) == 1 else groups[-1])

    with pytest.raises(UserError, match="died 3 times within 10 minutes: it was killed"):
        watched(config, plan("children"), strike, strike, strike)
    assert len(set(groups)) == 3
    assert not [pid for group in groups for pid in group_members(group)]


def test_a_command_waits_for_the_port_that_it_needs(config: ServeConfig, plan: Any) -> None:
    (port,) = free_ports(1)
    (server,) = plan()
    second = server._replace(name="needed", words=(*server.words[:2], str(port)), port=port)
    order: list[str] = []
    watched(config, [server._replace(needs=port), second], lambda state: order.extend(state.processes) or _stop())
    assert order == ["needed", "server"]


def _stop() -> None:
    raise Stopped


def test_under_nohup_the_end_of_the_terminal_ends_nothing(config: ServeConfig, plan: Any) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        watched(config, plan(), lambda state: os.kill(os.getpid(), signal.SIGHUP) or kill(state.processes["server"]))
    finally:
        signal.signal(signal.SIGHUP, before)


def test_running_ends_even_if_the_command_does_not_exist(tmp_path: Path) -> None:
    with launching(tmp_path) as lock:
        running = Running(Command("nothing", (str(tmp_path / "no such program"),), 1), tmp_path, {}, lock)
        running.end()
    assert running.code()
    assert "No such file" in running.said()


def test_a_number_that_is_now_another_process_is_not_mistaken_for_a_launcher(config: ServeConfig) -> None:
    """A state file whose process ids belong to this test: --stop must not end it."""
    state = dict.fromkeys(("logs", "use", "stop", "since"), "") | {"server": config.name, "status": "ready"}
    state |= {"base_url": config.base_url, "model": "tiny", "path": "m"}
    config.folder.mkdir(parents=True)
    written = json.dumps({**state, "pid": os.getpid(), "processes": {"s": os.getpid()}})
    (config.folder / "server.json").write_text(written)
    for name in ("launcher.lock", "whole.lock"):
        (config.folder / name).touch()
    (found,) = known(config.logdir)
    assert (found.status, found.alive) == ("stale", False)
    found.end()
    assert not known(config.logdir)


def test_two_launchers_do_not_start_one_server(config: ServeConfig, plan: Any) -> None:
    with launching(config.folder), pytest.raises(UserError, match="Another command starts"):
        watched(config, plan())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"processes": []}'])
def test_a_state_file_that_cannot_be_read_counts_as_none(config: ServeConfig, text: str) -> None:
    config.folder.mkdir(parents=True)
    (config.folder / "server.json").write_text(text)
    assert known(config.logdir) == []


# From here on as users have it: `main.py serve` of a real server of ours, the quickest to start.


@pytest.fixture
def command(config: ServeConfig, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Runs `main.py serve`, here if it leaves no process behind: exit code, stdout, stderr; stops what it left."""

    def run(*words: str) -> tuple[int, str, str]:
        words = ("serve", *words, "--port", str(config.port), "--logdir", config.logdir)
        if "--detach" in words:
            done = subprocess.run(
                [sys.executable, ROOT / "main.py", *words], capture_output=True, text=True, check=False
            )
            return done.returncode, done.stdout, done.stderr
        capfd.readouterr()
        return cli.main(words), *capfd.readouterr()

    try:
        yield run
    finally:
        run("--stop")


def test_detach_status_second_serve_and_kill(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started = json.loads(command("--detach", "--json")[1])
    assert all(map(stat, [started["pid"], *started["processes"].values()]))
    assert f"--base-url {started['base_url']}" in started["use"]
    (server,) = json.loads(command("--status", "--json")[1])["servers"]
    assert (server["status"], server["answers"], server["pid"]) == ("ready", True, started["pid"])
    assert f"{server['server']}: ready, tiny at" in command("--status")[1]
    code, out, _ = command()
    assert code == 0
    assert f"{started['server']} runs already: tiny at {started['base_url']}" in out
    code, _, err = command("--served-model-name", "other")
    assert code == 2
    assert f"{started['server']} runs on port" in err.partition("--stop")[0]
    kill(started["pid"])
    assert wait_until(lambda: not stat(started["pid"]), PATIENCE)
    assert f"launcher, process {started['pid']}, is gone" in command("--status")[1]
    monkeypatch.setattr(launch, "supervise", lambda *_: None)
    assert f"process {started['pid']}, died; clearing away" in command()[2]
    assert not any(map(group_members, started["processes"].values()))
    assert "No server was started" in command("--status")[1]


def test_stop_ends_the_foreground_in_order(config: ServeConfig, plan: Any, command: Any) -> None:
    code = (
        "import json, sys, main; from preceptor.serving import launch, processes; words = json.loads(sys.argv[1]);"
        "launch.commands = lambda config: [processes.Command('server', tuple(words), config.port)];"
        "sys.exit(main.main(sys.argv[2:]))"
    )
    words = ["serve", "--port", str(config.port), "--logdir", config.logdir, "--json"]
    python = [sys.executable, "-c", code, json.dumps(plan("stand-in")[0].words), *words]
    with subprocess.Popen(python, cwd=ROOT, stdout=subprocess.PIPE) as launcher:
        try:
            assert launcher.stdout is not None
            started = json.loads(launcher.stdout.readline())
            (pid,) = started["processes"].values()
            assert b"stand-in" in Path(f"/proc/{pid}/cmdline").read_bytes()
            assert command("--stop")[1] == f"stopped: {config.name}\n"
            rest, _ = launcher.communicate(timeout=PATIENCE)
        finally:
            launcher.kill()
    assert (json.loads(rest), launcher.returncode) == ({"stopped": [config.name]}, 0)
    assert not group_members(pid)
    assert "No server was running" in command("--stop")[1]


def test_a_detached_server_that_dies_is_an_error_of_the_command(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise RuntimeError('CUDA out of memory')")  # in the place of the real one
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code, _, err = command("--detach")
    assert code == 2
    assert "died before it was ready: the GPU has too little memory" in err
    assert "Traceback" not in err.partition("\n  | ")[0]
    assert "failed: " in command("--status")[1]


def test_a_port_in_use_is_refused(command: Any, config: ServeConfig) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", config.port))
        taken.listen()
        code, _, err = command()
    assert code == 2
    assert f"Port {config.port} of 127.0.0.1 cannot be had: Address already in use" in err
    assert "--port" in err.partition("next: ")[2]
