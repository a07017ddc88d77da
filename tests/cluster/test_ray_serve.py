"""The policy server on Ray Serve: evaluation through it is local evaluation, also where its replicas are killed."""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from preceptor.agent.evaluate import load_student
from preceptor.agent.players import play
from preceptor.agent.remote.client import Client, RefusedError
from preceptor.agent.remote.player import remote_player
from preceptor.agent.runs.run import Run
from preceptor.envs.catalog import get_task
from preceptor.serving.ports import free_ports
from tests.policy_server import ROOT, trained
from tests.processes import kill
from tests.ray_cluster import Cluster, cluster, descendants, until

LEVELS = range(1_000_000, 1_000_040)
pytestmark = [pytest.mark.ray, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    return trained("sac", tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="ray") as folder, cluster(2, Path(folder)) as both:
        yield both


@pytest.fixture(scope="module")
def url(run: Path, nodes: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the server, which two replicas on two nodes are."""
    (port,) = free_ports(1)
    code = (
        "import json, sys, ray\nfrom ray import serve\nfrom preceptor.serving.policy.on_ray import Settings, server\n"
        "address, port, settings = json.loads(sys.argv[1])\nray.init(address, logging_level=40)\n"
        "serve.start(http_options={'host': '127.0.0.1', 'port': port})\nserve.run(server(Settings(**settings)))\n"
    )
    settings = {"agents": f"sac={run}", "state": str(tmp_path_factory.mktemp("state"))}
    said = json.dumps([nodes.address, port, settings])
    done = subprocess.run([sys.executable, "-c", code, said], env=nodes.environment, cwd=ROOT, check=False)
    assert done.returncode == 0
    return f"http://127.0.0.1:{port}"


def replicas(nodes: Cluster) -> list[int]:
    names = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for node in nodes.nodes for pid in descendants(node.pid)}
    return [pid for pid, name in names.items() if name.startswith(b"ray::ServeReplica:default:replica-")]


def test_evaluation_through_replicas_that_are_killed_is_local_evaluation(url: str, run: Path, nodes: Cluster) -> None:
    task, how = get_task("PointReach"), {"seed": 5, "batch": 12}
    student = load_student(Run.open(run), task)
    assert len(replicas(nodes)) == 2
    with Client(url, patience=300.0) as client:
        sessions = [client.open("sac", environments=2, seed=0) for _ in range(8)]
        places = [session.told["session"].partition("-")[0] for session in sessions]
        assert set(places) == {"0", "1"}
        assert client.agent("sac")["sessions"] == 8
        obs, _ = task.make_vec(2, split="eval", seed=0).reset()
        first = [session.act(obs).action for session in sessions]
        before = replicas(nodes)
        for greedy in (False, True):
            ours: Any = play(task, student, LEVELS, greedy=greedy, **how)
            killer = threading.Timer(0.3, lambda: list(map(kill, before)))  # the place of what is played, too
            if not greedy:
                killer.start()
            theirs: Any = play(task, remote_player(client, "sac"), LEVELS, greedy=greedy, **how)
            assert killer.finished.is_set() != greedy, "it is killed while it plays"
            for name in ("success", "returns", "length", "cut"):
                np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        assert until(lambda: len(replicas(nodes)) == 2, 120.0)
        assert not set(replicas(nodes)) & set(before)
        second = [session.act(obs).action for session in sessions]
        for one, other in ((first, first[0]), (second, second[0])):  # of one seed: wherever they live, and lived
            for actions in one:
                np.testing.assert_array_equal(actions, other)
        assert not np.array_equal(first[0], second[0])
        for session in sessions:
            session.close()
        with pytest.raises(RefusedError, match="no such session"):
            sessions[0].act(obs)


def test_any_router_takes_any_request_and_what_is_wrong_is_refused(url: str, run: Path) -> None:
    opened = httpx.post(f"{url}/v1/sessions", json={"agent": "sac", "seed": 3}).raise_for_status().json()
    place = f"{url}/v1/sessions/{opened['session']}"
    state = httpx.get(f"{place}/export").raise_for_status().json()["state"]
    assert httpx.post(f"{place}/act", json={"obs": [1.0]}).status_code == 422
    assert httpx.post(f"{url}/v1/sessions", json={"agent": "sca"}).status_code == 404
    for id in ("7-x", "x", "-1-x", opened["session"][2:]):
        assert httpx.post(f"{url}/v1/sessions/{id}/reset", json={}).status_code == 404
    moved = httpx.post(f"{url}/v1/sessions", json={"state": state}).raise_for_status().json()
    assert moved["session"] != opened["session"]
    assert httpx.post(f"{url}/v1/agents/sac/reload", json={}).raise_for_status().json()["newest"]
    assert 'preceptor_requests_total{op="open",status="404"} 1.0' in httpx.get(f"{url}/metrics").text
