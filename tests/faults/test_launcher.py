"""The launcher against servers that die, hang, refuse or do not let go: nothing is left, and the reason is said."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ground.errors import UserError
from serving import processes, ready, supervisor
from serving.config import ServeConfig
from serving.ports import free_ports
from serving.processes import Command, Running, birth, group_members, kill, wait_until
from serving.state import State, known, read
from serving.supervisor import Stopped, Supervisor
from teacher.card import TINY_MODEL

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds for what takes a moment on a quiet machine

# What a server does, in the words that are its arguments; it answers as the protocol wants it, with a letter.
STAND_IN = """
import http.server, json, os, signal, subprocess, sys, time
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
        elif "/crash" in self.path:
            os._exit(3)
        else:
            self.reply(200, {"choices": [{"message": {"content": "A" if "prose" not in words else "Sure"}}]})
http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
"""


@pytest.fixture
def config(tmp_path: Path) -> ServeConfig:
    (port,) = free_ports(1)
    return replace(ServeConfig(backend="local", port=port, logdir=str(tmp_path)).resolved(), timeout=PATIENCE)


@pytest.fixture
def plan(config: ServeConfig, tmp_path: Path) -> Callable[..., list[Command]]:
    """A server of one process that behaves as the words say."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    return lambda *words: [
        Command("server", (sys.executable, str(script), str(config.port), *words), int(config.port or 0))
    ]


class Watched:
    """Runs a supervisor to its end: when it is ready, does the first thing, after each restart the next, then stops."""

    def __init__(self, config: ServeConfig, plan: list[Command], *then: Callable[[State], object]) -> None:
        self.said: list[str] = []
        self.then = list(then)
        with Supervisor(config, plan, self.tell) as self.supervisor:
            self.supervisor.run(self.on_ready)

    def on_ready(self, state: State, answer: ready.Answer) -> None:
        self.answer = answer
        if not self.then:
            raise Stopped
        self.then.pop(0)(state)

    def tell(self, line: str) -> None:
        self.said.append(line)
        if line.endswith("answers again."):
            self.on_ready(self.supervisor.state, self.answer)


def everyone(state: State) -> list[int]:
    return [pid for part in state.parts for pid in group_members(part.pid)]


def test_a_server_is_ready_when_it_labels_and_leaves_nothing(config: ServeConfig, plan: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.5)
    seen: list[Any] = []

    def look(state: State) -> None:
        seen.extend([read(config.folder), everyone(state), (config.folder / "server.log").read_text().splitlines()[0]])
        raise Stopped

    watched = Watched(config, plan("children", "deaf"), look)
    on_disk, group, children = *seen[:2], [int(word) for word in seen[2].split()[1:]]
    assert watched.answer.labelled
    assert (on_disk.status, on_disk.url, on_disk.served) == ("ready", config.url, "tiny")
    assert len(group) == 2, "the server, and its child in the same group"
    assert len(children) == 2
    assert not [pid for pid in [*group, *children] if birth(pid)], "the child in another group ends too"
    assert read(config.folder) is None
    assert (config.folder / "server.log").exists(), "logs stay"


def test_a_reply_that_is_no_letter_is_ready_but_not_labelled(config: ServeConfig, plan: Any) -> None:
    watched = Watched(config, plan("prose"))
    assert (watched.answer.said, watched.answer.labelled) == ("Sure", False)


def test_death_before_the_first_answer_is_explained_at_once(config: ServeConfig, plan: Any) -> None:
    with pytest.raises(UserError) as caught:
        Watched(config, plan("die"))
    assert "before it was ready: no memory is left for its cache" in caught.value.what
    assert "| RuntimeError: No available memory" in caught.value.what, "the end of the log is shown"
    assert "--max-model-len" in caught.value.next_step
    state = read(config.folder)
    assert state is not None
    assert (state.status, state.what) == ("failed", caught.value.what), "kept for --status"


def test_a_server_that_never_listens_is_given_up_at_the_deadline(config: ServeConfig, plan: Any) -> None:
    with pytest.raises(UserError, match="not ready within 2 s: server did not listen") as caught:
        Watched(replace(config, timeout=2.0), plan("hang", "children"))
    assert "--timeout" in caught.value.next_step
    state = read(config.folder)
    assert state is not None
    assert (state.status, everyone(state)) == ("failed", [])


def test_a_server_that_refuses_the_question_is_given_up_early(
    config: ServeConfig, plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "REFUSED_SECONDS", 0.5)
    with pytest.raises(UserError, match="refuses to answer: its context is too short for a prompt") as caught:
        Watched(replace(config, timeout=10 * PATIENCE), plan("refuse"))
    assert "--max-model-len" in caught.value.next_step


def test_what_dies_is_started_again_but_not_for_ever(
    config: ServeConfig, plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "RESTARTS", 2)
    pids: list[int] = []

    def strike(state: State) -> None:
        pids.append(state.parts[0].pid)
        kill(pids[-1])

    with pytest.raises(UserError, match="died 3 times within 10 minutes: it was killed"):
        Watched(config, plan("children"), strike, strike, strike)
    assert len(set(pids)) == 3
    assert not [pid for group in pids for pid in group_members(group)]


def test_a_watchdog_that_is_killed_takes_its_server_along(config: ServeConfig, plan: Any) -> None:
    groups: list[int] = []

    def strike(state: State) -> None:
        groups.append(state.parts[0].pid)
        kill(int((processes.PROC / str(groups[0]) / "stat").read_text().rpartition(")")[2].split()[1]))

    watched = Watched(config, plan("children"), strike)
    assert "starting it again, 1 of 3 times" in watched.said[0]
    assert watched.supervisor.state.parts[0].restarts == 1
    assert not group_members(groups[0])


def test_a_command_waits_for_the_port_that_it_needs(config: ServeConfig, plan: Any, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    (server,) = plan()
    first = replace(server, needs=port)
    second = replace(server, name="needed", words=(*server.words[:2], str(port)), port=port)
    order: list[str] = []
    Watched(config, [first, second], lambda state: order.extend(part.name for part in state.parts) or _stop())
    assert order == ["needed", "server"]


def _stop() -> None:
    raise Stopped


def test_a_number_that_is_now_another_process_is_not_mistaken_for_a_launcher(config: ServeConfig) -> None:
    """A state file whose process ids belong to this test: --stop must not end it."""
    watched = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, process_group=0)
    try:
        other = {"pid": watched.pid, "born": "another boot/1"}
        stored = {
            "name": config.name,
            "status": "ready",
            "url": config.url,
            "model": "m",
            "served": "tiny",
        }
        stored |= {"since": "", "folder": "", **other, "parts": [{"name": "server", "log": "", **other}]}
        config.folder.mkdir(parents=True)
        (config.folder / "server.json").write_text(json.dumps(stored))
        (state,) = known(config.logdir)
        assert (state.status, state.alive, state.left) == ("stale", False, [])
        state.stop()
        assert watched.poll() is None
        assert not known(config.logdir)
    finally:
        watched.communicate(b"\n", timeout=PATIENCE)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"parts": []}'])
def test_a_state_file_that_cannot_be_read_counts_as_none(config: ServeConfig, text: str) -> None:
    config.folder.mkdir(parents=True)
    (config.folder / "server.json").write_text(text)
    assert known(config.logdir) == []


# From here on as users have it: `main.py serve` of a real server of ours, the quickest to start.


@pytest.fixture
def command(config: ServeConfig) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Runs `main.py serve` to its end; what it left running is stopped."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        where = ["--port", str(config.port), "--logdir", config.logdir, *words]
        return subprocess.run(_serve(*where), capture_output=True, text=True, timeout=4 * PATIENCE)

    try:
        yield run
    finally:
        run("--stop")


def _serve(*words: str) -> list[str]:
    return [sys.executable, str(ROOT / "main.py"), "serve", *words]


def test_detach_status_second_serve_and_stop(command: Any) -> None:
    started = json.loads(command("--detach", "--json").stdout)
    pids = [started["pid"], *started["processes"].values()]
    assert all(birth(pid) for pid in pids)
    assert f"--base-url {started['base_url']}" in started["train"]

    (server,) = json.loads(command("--status", "--json").stdout)["servers"]
    assert (server["status"], server["pid"], server["restarts"]) == ("ready", started["pid"], {})
    assert f"{server['server']}: ready" in command("--status").stdout

    same = command()
    assert same.returncode == 0
    assert f"{started['server']} runs already: tiny at {started['base_url']}" in same.stdout
    other = command("--served-model-name", "other")
    assert other.returncode == 2
    assert f"{started['server']} runs on port" in other.stderr
    assert "--stop" in other.stderr

    assert started["server"] in command("--stop").stdout
    assert not [pid for pid in pids if birth(pid)]
    assert "No server was running" in command("--stop").stdout


def test_a_killed_launcher_leaves_no_process_and_the_next_one_says_so(command: Any) -> None:
    started = json.loads(command("--detach", "--json").stdout)
    kill(started["pid"])
    assert wait_until(lambda: not any(map(group_members, started["processes"].values())), PATIENCE)
    assert f"launcher, process {started['pid']}, is gone" in command("--status").stdout
    again = command("--detach", "--json")
    assert f"process {started['pid']}, died; clearing away" in again.stderr
    assert json.loads(again.stdout)["pid"] != started["pid"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_foreground_in_order(config: ServeConfig, number: int) -> None:
    with _foreground(config, signal.SIG_DFL) as (launcher, started):
        launcher.send_signal(number)
        rest, _ = launcher.communicate(timeout=PATIENCE)
    assert json.loads(rest) == {"stopped": [started["server"]]}
    assert launcher.returncode == 0
    assert not any(map(group_members, started["processes"].values()))


def test_under_nohup_the_end_of_the_terminal_ends_nothing(config: ServeConfig) -> None:
    with _foreground(config, signal.SIG_IGN) as (launcher, started):
        launcher.send_signal(signal.SIGHUP)
        kill(started["processes"]["local"])  # started again, so the launcher got past the signal
        assert wait_until(lambda: sum(part.restarts for part in known(config.logdir)[0].parts) == 1, PATIENCE)
        launcher.terminate()
        launcher.communicate(timeout=PATIENCE)


@contextlib.contextmanager
def _foreground(config: ServeConfig, hangup: Any) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """A server in the foreground of a terminal whose end means that, and what it said when it was ready."""
    with subprocess.Popen(
        _serve("--port", str(config.port), "--logdir", config.logdir, "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, hangup),
    ) as launcher:
        try:
            assert launcher.stdout is not None
            yield launcher, json.loads(launcher.stdout.readline())
        finally:
            launcher.kill()


def test_a_detached_server_that_dies_is_an_error_of_the_command(command: Any, tmp_path: Path) -> None:
    model = Path(shutil.copytree(TINY_MODEL, tmp_path / "damaged"))
    (model / "model.safetensors").write_bytes(b"no weights")
    done = command("--model", str(model), "--detach")
    assert done.returncode == 2
    assert "died before it was ready" in done.stderr
    assert "Traceback" not in done.stderr.partition("\n  | ")[0]
    assert "failed: " in command("--status").stdout
    command("--stop")
    assert "No server was started" in command("--status").stdout


def test_a_port_in_use_is_named_with_its_holder(command: Any, config: ServeConfig) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", config.port))
        taken.listen()
        done = command()
    assert done.returncode == 2
    assert f"Port {config.port} is in use by process {os.getpid()}" in done.stderr
    assert "--port" in done.stderr.partition("next: ")[2]


def test_running_ends_even_if_the_command_does_not_exist(tmp_path: Path) -> None:
    running = Running(Command("nothing", (str(tmp_path / "no such program"),), 1), tmp_path, dict(os.environ))
    running.end()
    assert running.code
    assert "No such file" in (tmp_path / "nothing.log").read_text()
