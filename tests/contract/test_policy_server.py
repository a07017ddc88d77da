"""The policy server plays what is played here, to the bit: over both protocols, killed or not, in company or alone."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
import pytest

import main as cli
from preceptor.agent.api import load
from preceptor.agent.evaluate import load_student
from preceptor.agent.export.playing import load as load_export
from preceptor.agent.export.playing import load_player
from preceptor.agent.export.writing import export
from preceptor.agent.flags import ExportConfig
from preceptor.agent.players import Episodes, play
from preceptor.agent.remote.client import Client, RefusedError
from preceptor.agent.remote.player import remote_player
from preceptor.agent.remote.wire import generator_of, generator_state, packed, unpacked
from preceptor.agent.runs.run import Run
from preceptor.controller.checkpoint import load_controller
from preceptor.envs.catalog import get_task
from preceptor.serving.ports import free_ports
from preceptor.serving.ready import NotReady, ask_agents
from tests.policy_server import TASKS, Served, in_thread, process, trained
from tests.processes import kill

LEVELS = range(1_000_000, 1_000_020)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> dict[str, Path]:
    logdir = tmp_path_factory.mktemp("log")
    return {method: trained(method, logdir) for method in TASKS}


@pytest.fixture(scope="module")
def served(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with in_thread(runs, tmp_path_factory.mktemp("state")) as running:
        yield running


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.url) as connected:
        yield connected


def observations(task: str, steps: int, count: int = 1) -> np.ndarray:
    """What a task's environments give while they are played at random, [steps, count, ...]."""
    env, rng = get_task(task).make_vec(count, split="eval", seed=3), np.random.default_rng(0)
    found = [env.reset()[0]]
    for _ in range(steps - 1):
        actions = rng.uniform(-1, 1, env.action_space.shape) if get_task(task).continuous else rng.integers(0, 6, count)
        found.append(env.step(actions.astype(env.action_space.dtype))[0])
    return np.stack(found)


def assert_equal(ours: Episodes, theirs: Episodes) -> None:
    for name in ("success", "returns", "length", "cut"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_evaluation_through_a_server_that_is_killed_is_local_evaluation(runs: dict[str, Path], tmp_path: Path) -> None:
    (port,) = free_ports(1)
    server = [process(runs, tmp_path, port)]
    done = threading.Event()

    def kill_it() -> None:
        if not done.wait(1.0):
            kill(server[0].pid)
            server[0].wait()
            server[0] = process(runs, tmp_path, port)

    client = Client(f"http://127.0.0.1:{port}", patience=120.0)
    killer = threading.Thread(target=kill_it)
    try:
        killer.start()
        for method, name in TASKS.items():
            task = get_task(name)
            student = load_student(Run.open(runs[method]), task)
            for greedy in (False, True):
                how: dict[str, Any] = {"greedy": greedy, "seed": 5, "batch": 12}
                levels = LEVELS[:6] if method == "ihac" else LEVELS  # of 12 and 8 at once
                assert_equal(
                    play(task, remote_player(client, method), levels, **how), play(task, student, levels, **how)
                )
        assert server[0].poll() is None
    finally:
        done.set()
        killer.join()
        client.close()
        server[0].terminate()
        assert server[0].wait(timeout=30) == 0


@pytest.mark.parametrize("method", TASKS)
@pytest.mark.parametrize("greedy", [False, True])
def test_an_agent_here_and_one_there_do_the_same(
    method: str, greedy: bool, runs: dict[str, Path], client: Client
) -> None:
    """Alone and several, over WebSocket and HTTP; the latter is a page of numbers, which are no less exact."""
    for count in (1, 3, 6):
        agent = load(runs[method], greedy=greedy, seed=2)
        how: dict[str, Any] = {"environments": count, "greedy": greedy, "seed": None if greedy else 2}
        opened = httpx.post(f"{client._place.url}/v1/sessions", json={"agent": method, **how}).raise_for_status().json()
        with client.open(method, **how) as session:
            for step, obs in enumerate(observations(TASKS[method], 12, count)):
                began = np.arange(count) == step % 5
                expected = agent.act(obs, began)
                answer = session.act(obs, began)
                np.testing.assert_array_equal(answer.action, expected)
                assert answer.option == agent.option
                said = {"number": step + 1, "obs": obs.tolist(), "began": began.tolist()}
                told = (
                    httpx.post(f"{client._place.url}/v1/sessions/{opened['session']}/act", json=said)
                    .raise_for_status()
                    .json()
                )
                np.testing.assert_array_equal(np.array(told["action"], expected.dtype), expected)
                assert told["option"] == agent.option
                assert told["ended"] == answer.ended.tolist()
                assert (answer.probs is None) == (method == "hiro")
                if agent.command is not None:
                    np.testing.assert_array_equal(answer.command, agent.command)
        assert httpx.delete(f"{client._place.url}/v1/sessions/{opened['session']}").status_code == 200
        assert httpx.delete(f"{client._place.url}/v1/sessions/{opened['session']}").status_code == 404


def test_what_a_session_does_does_not_depend_on_its_company(runs: dict[str, Path], served: Served) -> None:
    """Sixteen clients at once, of several agents and sizes, each as the agent that plays alone here."""
    kinds = [("ihac", 1), ("hiro", 1), ("hiro", 5), ("sac", 1), ("sac", 2), ("sac", 1), ("hiro", 3), ("ihac", 2)] * 2
    recorded = {(method, n): observations(TASKS[method], 25, n) for method, n in kinds}
    acted: dict[int, Any] = {}

    def work(number: int, method: str, count: int) -> None:
        with Client(served.url) as client, client.open(method, environments=count, seed=number) as session:
            acted[number] = [session.act(obs).action for obs in recorded[method, count]]

    threads = [threading.Thread(target=work, args=(i, *kind)) for i, kind in enumerate(kinds)]
    before = served.service.measured.text().decode()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, (method, count) in enumerate(kinds):
        agent = load(runs[method], seed=number)
        expected = [agent.act(obs) for obs in recorded[method, count]]
        np.testing.assert_array_equal(np.stack(acted[number]), np.stack(expected))
    batches, played = (
        float(served.service.measured.text().decode().split(name)[1].split()[0])
        - float(before.split(name)[1].split()[0])
        for name in ("batch_sessions_count ", "batch_sessions_sum ")
    )
    assert played == 25 * len(kinds)
    assert batches < played, "some were played together"


@pytest.mark.parametrize("method", TASKS)
def test_an_exported_session_goes_on_as_the_original(method: str, client: Client) -> None:
    steps = observations(TASKS[method], 16, 2)
    with client.open(method, environments=2, seed=9) as original:
        for obs in steps[:8]:
            original.act(obs)
        state = original.export()
        expected = [original.act(obs).action for obs in steps[8:]]
    with client.open(state=state) as resumed:
        assert resumed.told["number"] == 8
        np.testing.assert_array_equal(np.stack([resumed.act(obs).action for obs in steps[8:]]), np.stack(expected))


def test_a_step_that_is_sent_again_is_answered_again_and_not_taken_again(client: Client) -> None:
    steps = observations("PointReach", 4)
    with client.open("sac", seed=1) as session:
        session.act(steps[0])
        ask = session._steps.act(steps[1], None)
        first = client.ask(ask)
        again = client.ask(ask)
        assert first.keys() == again.keys()
        np.testing.assert_array_equal(first["action"], again["action"])
        session._steps.taken(first)
        assert not np.array_equal(session.act(steps[1]).action, first["action"])
        for number, message in ((9, "has taken 3 steps"), (3, "other observations")):
            with pytest.raises(RefusedError, match=message) as refused:
                client.ask({**ask, "number": number, "obs": steps[3]})
            assert refused.value.status == 409


def test_reset_begins_all_episodes_anew(runs: dict[str, Path], client: Client) -> None:
    obs = observations("SimpleDoorKey", 1, 3)[0]
    with client.open("ihac", environments=3, seed=4) as session:
        agent = load(runs["ihac"], seed=4)
        for _ in range(3):
            np.testing.assert_array_equal(session.act(obs).action, agent.act(obs))
        session.reset()
        agent.reset()
        answer = session.act(obs)
        np.testing.assert_array_equal(answer.action, agent.act(obs))
        assert answer.ended.all()


def test_the_controller_labels_for_others(runs: dict[str, Path], client: Client) -> None:
    task = get_task("SimpleDoorKey")
    obs = observations("SimpleDoorKey", 1, 7)[0]
    probs = load_controller(runs["ihac"] / "controller", task).probs(obs, legal=task.legal(obs))
    said = client.label(obs, "ihac")
    np.testing.assert_array_equal(said["probs"], probs)
    assert said["option"] == [task.options[k].words for k in probs.argmax(1)]
    told = httpx.post(f"{client._place.url}/v1/agents/ihac/label", json={"obs": obs.tolist()}).raise_for_status().json()
    np.testing.assert_array_equal(np.array(told["probs"], np.float32), probs)
    with pytest.raises(RefusedError, match="sac labels nothing"):
        client.label(np.zeros((1, 6)), "sac")


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_an_export_is_served_as_it_plays_here(
    format: Literal["onnx", "torch"], runs: dict[str, Path], tmp_path: Path
) -> None:
    exported = export(ExportConfig(run=str(runs["sac"]), to=str(tmp_path / "export"), format=format, observations=64))
    with in_thread({"it": Path(exported["export"])}, tmp_path / "state") as served, Client(served.url) as client:
        task, player = load_player(exported["export"])
        assert client.agents()[0]["batched"]
        for greedy in (False, True):
            how: dict[str, Any] = {"greedy": greedy, "seed": 5, "batch": 12}
            assert_equal(play(task, remote_player(client), LEVELS, **how), play(task, player, LEVELS, **how))
        agent = load_export(exported["export"], seed=1)
        with client.open(seed=1) as session:
            for obs in observations("PointReach", 5):
                np.testing.assert_array_equal(session.act(obs).action, agent.act(obs))
        with pytest.raises(RefusedError, match="it labels nothing"):
            client.label(np.zeros((1, 6)))


def test_a_server_is_ready_when_it_lists_the_agents_that_are_meant(served: Served) -> None:
    assert ask_agents(f"{served.url}/v1", "sac,ihac,hiro") == ""
    with pytest.raises(NotReady, match="it lists hiro, ihac, sac, not sac"):
        ask_agents(f"{served.url}/v1", "sac")


def test_openapi_describes_every_request(served: Served) -> None:
    page = httpx.get(f"{served.url}/openapi.json").json()
    assert {"/v1/sessions", "/v1/sessions/{session}/act", "/v1/agents/{agent}/label", "/ready"} <= set(page["paths"])
    act = page["components"]["schemas"]["Act"]["properties"]
    assert act.keys() == {"session", "number", "obs", "began"}
    assert all("description" in field for field in act.values())
    assert httpx.get(f"{served.url}/health").status_code == httpx.get(f"{served.url}/ready").status_code == 200


def test_eval_compares_a_served_agent_with_the_student(
    runs: dict[str, Path], served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--compare", "served,student", "--server", served.url, "--agent", "sac", "--loaddir", str(runs["sac"])]
    words += ["--seeds", "1000000:1000008", "--savedir", str(tmp_path), "--json", "--quiet"]
    assert cli.main(["eval", *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["task"] == "PointReach"
    ours, theirs = (
        {k: v for k, v in told[name]["sampled"].items() if k != "ms_per_step"} for name in ("served", "student")
    )
    assert ours == theirs
    assert cli.main(["eval", "--compare", "served"]) == 2


def test_messages_and_generators_survive_the_wire() -> None:
    rng = np.random.default_rng(3)
    rng.standard_normal(3, np.float32)  # leaves half a number over
    again = generator_of(generator_state(rng))
    np.testing.assert_array_equal(rng.standard_normal(9, np.float32), again.standard_normal(9, np.float32))
    arrays = {kind: np.arange(6).reshape(2, 3).astype(kind) for kind in ("?", "u1", "i4", "i8", ">f4", "f8")}
    for kind, found in unpacked(packed(arrays)).items():
        np.testing.assert_array_equal(found, arrays[kind])
        assert found.dtype.name == arrays[kind].dtype.name
