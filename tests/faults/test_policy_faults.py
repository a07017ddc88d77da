"""What goes wrong around the policy server: clients that flood, vanish or sleep, no room, other keys, changed files.

Each has a clear answer, and those who do nothing wrong notice nothing.
"""

import asyncio
import json
import logging
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from preceptor.agent.acting import Ahead, Table
from preceptor.agent.api import load
from preceptor.agent.remote.async_client import AsyncClient
from preceptor.agent.remote.client import Client, RefusedError
from preceptor.agent.remote.wire import packed, unpacked
from preceptor.agent.runs.run import Run
from preceptor.ground.errors import UserError
from preceptor.serving import request_limits
from preceptor.serving.keys import made
from preceptor.serving.policy.measured import JsonLines
from tests.local_server import wait_for
from tests.policy_server import Served, in_thread, trained

OBS = np.zeros((1, 6), np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    return trained("sac", tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def served(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with in_thread({"sac": run}, tmp_path_factory.mktemp("state")) as running:
        yield running


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.url, patience=5.0) as connected:
        yield connected


def test_no_web_page_and_nobody_without_the_key_gets_in(run: Path, tmp_path: Path) -> None:
    with in_thread({"sac": run}, tmp_path, key="new") as served:
        address = served.url.replace("http", "ws") + "/v1/ws"
        there = ("127.0.0.1", int(served.url.rpartition(":")[2]))
        for uri, origin in ((address, "http://evil.example"), ("ws://evil.example/v1/ws", None)):
            with socket.create_connection(there) as own, pytest.raises(InvalidStatus) as denied:
                connect(uri, origin=origin, sock=own)
            assert denied.value.response.status_code == 403
        for key in ("", "expired"):
            with Client(served.url, key=key, patience=3.0) as client:
                for refused in (lambda client=client: client.open("sac"), client.agents):
                    began = time.monotonic()
                    with pytest.raises(RefusedError, match="not the server's any more"):
                        refused()
                    assert time.monotonic() - began < 2.0, "asking again is in vain"
        with Client(served.url, key="new") as client:
            assert client.open("sac").act(OBS).number == 1
        assert httpx.get(f"{served.url}/ready").status_code == 200
        assert httpx.get(f"{served.url}/metrics").status_code == 401
        page = {"content-type": "text/plain", "authorization": "Bearer new"}
        assert httpx.post(f"{served.url}/v1/sessions", content="{}", headers=page).status_code == 415


def test_a_key_that_has_expired_lets_nobody_in_and_ends_what_it_has_opened(run: Path, tmp_path: Path) -> None:
    with in_thread({"sac": run}, tmp_path, key="new") as served:
        key, until = made("new", 3 / 86_400)
        with Client(served.url, key=key, patience=3.0) as client:
            play = client.open("sac")
            assert play.act(OBS).number == 1
            assert client.agents()
            time.sleep(max(0.0, until - time.time()) + 0.01)
            for refused in (lambda: play.act(OBS), client.agents, lambda: Client(served.url, key=key).open("sac")):
                with pytest.raises(RefusedError, match="The key expired on 20") as error:
                    refused()
                assert "serve --key-days" in error.value.next_step
        with Client(served.url, key=made("new", 1)[0]) as other:
            again = other.ask({"op": "act", "session": play.told["session"], "obs": OBS})
            assert again["number"] == 2, "nothing was taken meanwhile"


def test_what_is_too_large_is_refused(served: Served, client: Client) -> None:
    with pytest.raises(UserError, match="takes no message so large"):
        client.label(np.zeros(5 * 2**20, np.uint8))
    assert client.open("sac").act(OBS).number == 1
    large = json.dumps({"obs": [0.5] * 2**20})
    reply = httpx.post(f"{served.url}/v1/sessions/x/act", content=large, headers={"content-type": "application/json"})
    assert reply.status_code == 413


def test_a_connection_stays_open_longer_than_a_request_may_take(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_limits, "ARRIVE_SECONDS", 0.3)
    with in_thread({"sac": run}, tmp_path) as served, Client(served.url) as client:
        session = client.open("sac")
        connection = client._socket
        time.sleep(0.6)
        assert session.act(OBS).number == 1
        assert client._socket is connection
        with socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2]))) as late:
            late.settimeout(20)
            assert late.recv(99).startswith(b"HTTP/1.1 408")


def test_where_there_is_no_room_clients_wait_until_there_is(run: Path, tmp_path: Path) -> None:
    with in_thread({"sac": run}, tmp_path, most_sessions=2, keep_seconds=3.0) as served:
        with Client(served.url, patience=0.2) as client:
            first, second = client.open("sac"), client.open("sac")
            with pytest.raises(RefusedError, match="2 sessions are open") as full:
                client.open("sac")
            assert (full.value.status, full.value.retry_after) == (429, 5.0)
            reply = httpx.post(f"{served.url}/v1/sessions", json={"agent": "sac"})
            assert (reply.status_code, reply.headers["retry-after"]) == (429, "5")
            first.close()
            third = client.open("sac")
            time.sleep(3.2)  # the others expire
            client.open("sac")
            for gone in (second, third):
                with pytest.raises(RefusedError, match="closed, or has expired"):
                    gone.act(OBS)
        with Client(served.url, patience=20.0) as patient:
            patient.open("sac")
            began = time.monotonic()
            patient.open("sac")
            assert 3.0 < time.monotonic() - began < 15.0


def test_the_queue_is_bounded(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a batch takes long, so many wait and the others are refused; nothing is lost or taken twice."""
    with in_thread({"sac": run}, tmp_path, most_waiting=4) as served:
        clients = [Client(served.url, patience=30.0) for _ in range(12)]
        sessions = [client.open("sac", seed=i) for i, client in enumerate(clients)]
        go, held = Table.go, threading.Event()
        monkeypatch.setattr(Table, "go", lambda *args: (held.wait(30), go(*args))[1])
        threads = [threading.Thread(target=session.act, args=(OBS,)) for session in sessions]
        for thread in threads:
            thread.start()
        wait_for(lambda: b'requests_total{op="act",status="429"}' in served.service.measured.text())
        assert httpx.get(f"{served.url}/health").status_code == 200, "the event loop goes on"
        held.set()
        for thread in threads:
            thread.join()
        assert all(session._steps.number == 1 for session in sessions)
        for client in clients:
            client.close()


def test_who_floods_sleeps_or_vanishes_disturbs_nobody(served: Served, client: Client) -> None:
    flood = connect(served.url.replace("http", "ws") + "/v1/ws", ping_interval=None)
    flood.send(packed({"op": "open", "agent": "sac", "environments": 512}))
    session = unpacked(flood.recv())["session"]
    step = packed({"op": "act", "session": session, "obs": np.zeros((512, 6), np.float32)})
    raw = flood.socket
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stop = threading.Event()

    def send_and_never_read() -> None:
        while not stop.is_set():
            try:
                flood.send(step)
            except (ConnectionClosed, OSError):
                return

    flooding = threading.Thread(target=send_and_never_read, daemon=True)
    flooding.start()
    time.sleep(0.5)
    with client.open("sac", seed=1) as mine:
        taken = []
        for _ in range(20):
            began = time.perf_counter()
            mine.act(OBS)
            taken.append(time.perf_counter() - began)
        assert np.median(taken) < 0.5
    stop.set()
    raw.shutdown(socket.SHUT_RDWR)  # it vanishes
    flood.close()
    flooding.join(timeout=10)
    assert not flooding.is_alive()
    with client.open("sac") as mine:
        assert mine.act(OBS).number == 1


def test_a_step_whose_client_vanished_was_taken_and_is_answered_when_it_is_sent_again(served: Served) -> None:
    with Client(served.url) as client, client.open("sac", seed=8) as session:
        ask = session._steps.act(OBS, None)
        with connect(served.url.replace("http", "ws") + "/v1/ws") as other:
            other.send(packed(ask))
        wait_for(lambda: served.service.worker.sessions[session.told["session"]].number == 1)
        np.testing.assert_array_equal(session.act(OBS).action, load_same(served).act(OBS))


def test_what_was_taken_before_a_restart_is_answered_after_it(run: Path, tmp_path: Path) -> None:
    """Killed between saving and answering: the step is not taken twice, and the next ones are as without the kill."""
    agent, steps = load(run, seed=2), np.random.default_rng(1).uniform(-1, 1, (5, 3, 6)).astype(np.float32)
    expected = [agent.act(obs) for obs in steps]
    with in_thread({"sac": run}, tmp_path) as served, Client(served.url) as client:
        session = client.open("sac", environments=3, seed=2)
        asks = [session._steps.act(obs, None) | {"number": i + 1} for i, obs in enumerate(steps)]
        for ask in asks[:3]:
            client.ask(ask)
    with in_thread({"sac": run}, tmp_path) as served, Client(served.url) as client:
        acted = [client.ask(ask)["action"] for ask in asks[2:]]
    np.testing.assert_array_equal(np.stack(acted), np.stack(expected[2:]))


def load_same(served: Served) -> Any:
    return load(next(each.run for each, _ in served.service.agents.all() if each.name == "sac"), seed=8)


def test_an_agent_that_fails_for_one_session_goes_on_for_the_others(
    served: Served, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = Table.go

    def faulty(table: Table, ahead: Ahead, *more: Any) -> Any:
        made = go(table, ahead, *more)  # generators have moved when it fails
        if any((each == 13).any() for each in ahead.obs):
            raise RuntimeError("unlucky")
        return made

    monkeypatch.setattr(Table, "go", faulty)
    results: dict[int, Any] = {}

    def play(number: int) -> None:
        with Client(served.url) as own, own.open("sac", seed=number) as session:
            obs = [np.full((1, 6), 13 if number == 0 and step == 3 else step, np.float32) for step in range(6)]
            for step, each in enumerate(obs):
                try:
                    results[number, step] = session.act(each).action
                except RefusedError as error:
                    results[number, step] = error.status

    threads = [threading.Thread(target=play, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    run = next(each.run for each, _ in served.service.agents.all() if each.name == "sac")
    for number in range(6):
        agent = load(run, seed=number)
        for step in range(6):
            if (number, step) == (0, 3):
                assert results[number, step] == 500
                continue
            np.testing.assert_array_equal(results[number, step], agent.act(np.full((1, 6), step, np.float32)))


def test_a_run_that_changes_is_loaded_beside_what_is_played(run: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(run, tmp_path / "run"))
    with in_thread({"sac": mine}, tmp_path / "state") as served, Client(served.url) as client:
        old, twin = client.open("sac", seed=3), load(run, seed=3)
        np.testing.assert_array_equal(old.act(OBS).action, twin.act(OBS))
        saved = Run.open(mine)
        step, tree = saved.load()
        weights = saved.checkpoint(step) / "state.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # swapped while it is loaded
        np.testing.assert_array_equal(old.act(OBS).action, twin.act(OBS))
        with pytest.raises(RefusedError, match="was not loaded again"):
            client.reload("sac")
        weights.write_bytes(whole)
        assert client.reload("sac")["version"] == old.told["version"], "nothing has changed"
        saved.save(step + 1, tree)
        stop, failed = threading.Event(), []

        def go_on() -> None:
            with Client(served.url) as own, own.open(f"sac@{old.told['version']}", seed=4) as session:
                while not stop.is_set():
                    try:
                        session.act(OBS)
                    except UserError as error:
                        failed.append(error)

        playing = threading.Thread(target=go_on)
        playing.start()
        new = client.reload("sac")["version"]
        stop.set()
        playing.join()
        assert failed == []
        assert new != old.told["version"]
        assert client.open("sac").told["version"] == new
        np.testing.assert_array_equal(old.act(OBS).action, twin.act(OBS))
        assert {each["version"] for each in client.agents()} == {new, old.told["version"]}
        old.close()
        assert [each["version"] for each in client.agents()] == [new]
    with in_thread({"sac": mine}, tmp_path / "state") as again, Client(again.url) as client:
        assert client.open(f"sac@{new}").act(OBS).number == 1


def test_another_version_after_a_restart_is_said(run: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(run, tmp_path / "run"))
    with in_thread({"sac": mine}, tmp_path / "state") as served, Client(served.url) as client:
        session = client.open("sac")
        session.act(OBS)
    saved = Run.open(mine)
    step, tree = saved.load()
    saved.save(step + 1, tree)
    with in_thread({"sac": mine}, tmp_path / "state") as again, Client(again.url) as anew:
        ask = session._steps.act(OBS, None)
        with pytest.raises(RefusedError, match="not here as version"):
            anew.ask(ask)


def test_two_servers_do_not_share_their_sessions(run: Path, tmp_path: Path) -> None:
    with in_thread({"sac": run}, tmp_path), pytest.raises(UserError, match="Sessions cannot be kept"):
        in_thread({"sac": run}, tmp_path).__enter__()


def test_a_client_without_a_server_says_so(client: Client) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match="does not answer") as missing:
        Client("http://127.0.0.1:9", patience=0.5).open("sac")
    assert time.monotonic() - began < 3.0
    assert missing.value.next_step == "python main.py serve --status"
    with pytest.raises(UserError, match="no address"):
        Client("ftp://x")


def test_the_async_client_plays_as_the_other_and_outlives_a_connection(run: Path, served: Served) -> None:
    steps = np.random.default_rng(0).uniform(-1, 1, (9, 2, 6)).astype(np.float32)

    async def play() -> list[np.ndarray]:
        async with AsyncClient(served.url) as client:
            session = await client.open("sac", environments=2, seed=6)
            acted = []
            for step, obs in enumerate(steps):
                if step == 4:
                    assert client._socket is not None
                    client._socket.transport.abort()
                acted.append((await session.act(obs)).action)
            cancelled = asyncio.create_task(session.act(steps[0]))
            await asyncio.sleep(0)
            cancelled.cancel()
            again = await client.open(state=await session.export())
            assert again.told["environments"] == 2
            await session.reset()
            await session.close()
            await session.close()
            return acted

    agent = load(run, seed=6)
    np.testing.assert_array_equal(np.stack(asyncio.run(play())), np.stack([agent.act(obs) for obs in steps]))


def test_logs_tell_of_no_observations_unless_asked(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "preceptor")
    for asked in (False, True):
        caplog.clear()
        with in_thread({"sac": run}, tmp_path, tells_observations=asked) as served, Client(served.url) as client:
            session = client.open("sac")
            session.act(np.full((1, 6), 0.123))
            with pytest.raises(RefusedError):
                session.act(OBS[:, :3])
        lines = [json.loads(JsonLines().format(record)) for record in caplog.records]
        text = json.dumps(lines)
        assert ("0.123" in text) == asked
        assert session.told["session"] not in text
        assert {"opened", "refused"} <= {line["event"] for line in lines}
        assert all({"at", "level"} <= line.keys() for line in lines)


def test_prometheus_reads_what_is_measured(served: Served, client: Client) -> None:
    with client.open("sac", environments=3) as session:
        session.act(np.zeros((3, 6), np.float32))
        text = httpx.get(f"{served.url}/metrics").text
        for name in ("requests_total", "act_seconds_bucket", "batch_sessions_count", "actions_total", "sessions "):
            assert f"preceptor_{name}" in text
        assert "process_resident_memory_bytes" in text
