"""Requests to the policy server that make no sense: each is refused with its reason, and the session goes on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.sync.client import connect

from preceptor.agent.remote.client import Client, RefusedError
from preceptor.agent.remote.wire import as_text, from_text, packed, unpacked
from tests.policy_server import Served, in_thread, trained

OBS = np.zeros((1, 6), np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    return trained("sac", tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained("ihac", tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def served(run: Path, maps: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with in_thread({"sac": run, "maps": maps}, tmp_path_factory.mktemp("state")) as running:
        yield running


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.url, patience=5.0) as connected:
        yield connected


BAD_OBSERVATIONS: list[tuple[str, Any, str]] = [
    ("sac", np.zeros((1, 7), np.float32), r"shape \(6,\)"),
    ("sac", np.zeros((2, 6), np.float32), "2 observations, and the session has 1"),
    ("sac", np.zeros((0, 6), np.float32), "shape"),
    ("sac", np.full((1, 6), np.nan, np.float32), "NaN or infinite"),
    ("sac", np.full((1, 6), 1e300), "NaN or infinite"),  # in the task's own precision
    ("sac", np.array(3.0), "shape"),
    ("sac", "six", "numbers are expected"),
    ("sac", [[1, 2, 3, 4, 5, "x"]], "numbers are expected"),
    ("sac", [[1, 2], [3]], "obs: "),
    ("sac", [[None] * 6], "numbers are expected, not object"),
    ("sac", {"image": [1]}, "shape"),
    ("maps", np.zeros((1, 10, 10, 4), np.float32), "whole numbers"),
    ("maps", np.full((1, 10, 10, 4), 300), "from 0 to 255"),
    ("maps", np.full((1, 10, 10, 4), -1), "from 0 to 255"),
    ("maps", np.full((1, 10, 10, 4), 11, np.uint8), "no codes of cells"),
    ("maps", np.zeros((1, 10, 10, 3), np.uint8), "view of the moment"),
]


@pytest.mark.parametrize(("agent", "obs", "why"), BAD_OBSERVATIONS)
def test_observations_that_make_no_sense_are_refused_and_the_session_goes_on(
    agent: str, obs: Any, why: str, client: Client
) -> None:
    good = OBS if agent == "sac" else np.tile(np.array([0, 0, 0, 4], np.uint8), (1, 10, 10, 1))
    with client.open(agent, seed=0) as session, client.open(agent, seed=0) as twin:
        session.act(good)
        twin.act(good)
        url = f"{client._place.url}/v1/sessions/{session.told['session']}/act"
        plain = json.dumps({"obs": obs.tolist() if isinstance(obs, np.ndarray) else obs})
        reply = httpx.post(url, content=plain, headers={"content-type": "application/json"})
        assert reply.status_code == 422, reply.text
        with pytest.raises(RefusedError, match=why) as refused:
            client.ask({"op": "act", "session": session.told["session"], "obs": obs})
        assert refused.value.status == 422
        np.testing.assert_array_equal(session.act(good).action, twin.act(good).action)


@pytest.mark.parametrize(
    ("message", "status", "why"),
    [
        (b"\xc1", 422, "cannot be read"),
        (b"\x91" * 5000 + b"\x00", 422, "cannot be read"),
        (packed([1]), 422, "is a map"),
        (packed({}), 422, "op: there are open, act"),
        (packed({"op": ["act"]}), 422, "op: there are open, act"),
        (packed({"op": "act"}), 422, "obs: Field required"),
        (packed({"op": "act", "session": "none", "obs": OBS}), 404, "closed, or has expired"),
        (
            packed({"op": "act", "session": "none", "obs": {"dtype": "object", "shape": [1], "data": b""}}),
            422,
            "arrays",
        ),
        (
            packed({"op": "act", "session": "x", "obs": {"dtype": "float32", "shape": [9], "data": b"1234"}}),
            422,
            "read",
        ),
        (packed({"op": "act", "session": "none", "obs": OBS, "number": 0}), 422, "number"),
        (packed({"op": "open", "agent": "sac", "environments": 5000}), 422, "environments"),
        (packed({"op": "open", "agent": "sac", "seed": -1}), 422, "seed"),
        (packed({"op": "open", "agent": "sac", "generator": "AAAA"}), 422, "37 bytes"),
        (packed({"op": "open", "agent": "sac", "colour": "red"}), 422, "colour: Extra inputs"),
        (packed({"op": "open", "agent": "sax"}), 404, "Did you mean 'sac'"),
        (packed({"op": "open", "agent": "sac@3-beef"}), 409, "not here as version 3-beef"),
        (packed({"op": "open"}), 422, "there are 2: sac, maps"),
        (packed({"op": "open", "state": "no"}), 422, "no exported session"),
        (packed({"op": "open", "state": as_text(packed({"schema": 2}))}), 409, "newer version"),
        (packed({"op": "label", "agent": "sac", "obs": OBS}), 409, "labels nothing"),
    ],
)
def test_messages_that_make_no_sense_are_refused(message: bytes, status: int, why: str, served: Served) -> None:
    with connect(served.url.replace("http", "ws") + "/v1/ws") as bare:
        bare.send(message)
        error = unpacked(bare.recv())["error"]
        assert error["status"] == status
        assert why in error["message"]
        bare.send(packed({"op": "open", "agent": "sac"}))
        assert "session" in unpacked(bare.recv()), "the connection goes on"


def test_an_exported_session_that_was_changed_is_refused(client: Client) -> None:
    with client.open("sac", environments=2, seed=0) as session:
        session.act(np.zeros((2, 6), np.float32))
        state = unpacked(from_text(session.export()))
    wrong = {"option": b"\x09" * 16, "age": b"1", "environments": 10**9, "obs": OBS, "generator": b"1", "number": "x"}
    for name, value in wrong.items():
        with pytest.raises(RefusedError, match=r"no exported session|obs:"):
            client.open(state=as_text(packed(state | {name: value})))
    assert client.open(state=as_text(packed(state))).told["number"] == 1


def test_steps_must_say_truly_what_began(client: Client) -> None:
    with client.open("sac") as session:
        for began in ([True, False], [1.0], "yes"):
            with pytest.raises(RefusedError, match="began: 1 truth values"):
                client.ask({"op": "act", "session": session.told["session"], "obs": OBS, "began": began})
