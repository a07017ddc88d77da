"""What the policy server tells of sessions that play to who watches, and that watching changes nothing."""

import base64
import io
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from preceptor.agent.remote.client import Client
from preceptor.envs.catalog import get_task
from tests.policy_server import Served, in_thread, trained

KEY = "key"


def ask(path: str, **params: int) -> httpx.Response:
    """With the key, and with time for a first picture, which imports minigrid."""
    return httpx.get(path, headers={"authorization": f"Bearer {KEY}"}, params=params, timeout=60.0)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Iterator[Served]:
    runs = {"ihac": trained("ihac", tmp_path_factory.mktemp("log"))}
    with in_thread(runs, tmp_path_factory.mktemp("state"), key=KEY) as running:
        yield running


def test_the_last_step_is_told_and_no_id_is_given_away(served: Served) -> None:
    task = get_task("SimpleDoorKey")
    obs, _ = task.make_vec(2, split="eval", seed=3).reset()
    with Client(served.url, key=KEY) as client, client.open("ihac", environments=2, seed=0) as play:
        (listed,) = ask(f"{served.url}/v1/live").json()
        assert play.told["session"].startswith(listed["name"])
        assert len(play.told["session"]) > 2 * len(listed["name"]), "it cannot be guessed from that"
        where = f"{served.url}/v1/live/{listed['name']}"
        assert ask(where).status_code == 204, "nothing was done yet"
        answer = play.act(obs)
        told = ask(where, environment=1).raise_for_status().json()
        assert answer.option
        assert answer.probs is not None
        assert (told["number"], told["option"], told["action"]) == (1, answer.option[1], answer.action[1])
        assert told["options"][told["running"]] == told["option"]
        np.testing.assert_allclose(told["probs"], answer.probs[1])
        assert told["decided"] == "controller", "an option begins"
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(told["picture"]))))
        np.testing.assert_array_equal(picture, task.picture(obs[1]))
        assert ask(where, after=1).status_code == 204
        assert ask(where, environment=2).status_code == 422
        assert ask(f"{served.url}/v1/live/nobody").status_code == 404
    assert ask(where).status_code == 404, "it was closed"


def test_the_page_is_there_without_the_key_and_tells_nothing(served: Served) -> None:
    page = httpx.get(f"{served.url}/live", follow_redirects=True)
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("page.js", "parts.js", "page.css", "base.css", "icon.svg"):
        assert httpx.get(f"{served.url}/live/{name}").status_code == 200
    for name in ("__init__.py", "nothing", "%2e%2e/app.py", "__pycache__"):
        assert httpx.get(f"{served.url}/live/{name}").status_code == 404
    for path in ("/v1/live", "/v1/live/x"):
        assert httpx.get(served.url + path).status_code == 401


def test_who_watches_and_the_worker_do_not_wait_for_each_other(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """No request of the page goes to the worker."""
    obs, _ = get_task("SimpleDoorKey").make_vec(1, split="eval", seed=3).reset()
    with Client(served.url, key=KEY) as client, client.open("ihac", seed=0) as play:
        play.act(obs)

        async def refuses(work: object) -> None:
            raise AssertionError("the worker was asked")

        with monkeypatch.context() as patched:
            patched.setattr(served.service.worker, "do", refuses)
            (listed,) = ask(f"{served.url}/v1/live").json()
            assert ask(f"{served.url}/v1/live/{listed['name']}").json()["number"] == 1


def test_maps_and_rescue_worlds_are_drawn_from_what_is_observed() -> None:
    for name in ("SimpleDoorKey", "RescueWorld-n3"):
        task = get_task(name)
        env = task.make_vec(1, split="eval", seed=1)
        first = env.reset()[0][0]
        moved = next(obs for obs in (env.step(np.array([i % 3]))[0][0] for i in range(30)) if (obs != first).any())
        before, after = task.picture(first), task.picture(moved)
        assert before is not None
        assert after is not None
        assert (before != after).any()
    assert get_task("PointReach").picture(np.zeros(6, np.float32)) is None
