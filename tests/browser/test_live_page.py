"""The live view as a person watches it, in Chromium, over a real server whose sessions play."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preceptor.agent.remote.client import Client
from preceptor.envs.catalog import get_task
from preceptor.serving.config import FallbackConfig
from tests.policy_server import Served, in_thread, trained, with_a_choice

pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
KEY = "a key of this test"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Iterator[Served]:
    runs = {method: trained(method, tmp_path_factory.mktemp("log")) for method in ("ihac", "sac")}
    with in_thread(runs, tmp_path_factory.mktemp("state"), key=KEY) as running:
        yield running


def unlocked(page: Any, served: Served) -> None:
    page.goto(f"{served.url}/live")
    page.wait_for_selector("dialog#ask[open]")
    page.fill("#key", KEY)
    page.keyboard.press("Enter")


def test_a_session_is_watched_step_by_step(page: Any, served: Served) -> None:
    task = get_task("SimpleDoorKey")
    env = task.make_vec(2, split="eval", seed=3)
    obs, _ = env.reset()
    with Client(served.url, key=KEY) as client, client.open("ihac", environments=2, seed=0) as play:
        unlocked(page, served)
        page.wait_for_function("() => document.getElementById('curtain').textContent.includes('No session plays')")
        seen = []
        for step in range(1, 4):
            answer = play.act(obs)
            assert answer.option
            assert answer.probs is not None
            page.wait_for_function("n => document.querySelector('#figures dd')?.textContent === n", arg=str(step))
            assert page.inner_text("#option") == answer.option[0]
            assert page.inner_text(".option.running span:nth-child(2)") == answer.option[0]
            told = [float(text.rstrip("%")) for text in page.locator(".option .said").all_inner_texts()]
            np.testing.assert_allclose(told, 100 * answer.probs[0], atol=0.5001)
            assert page.inner_text("#deciders .now") == ("controller" if answer.ended[0] else "low level")
            page.wait_for_function("() => document.getElementById('picture').naturalWidth > 0")
            expected = task.picture(obs[0])
            assert expected is not None
            assert page.evaluate("document.getElementById('picture').naturalWidth") == expected.shape[1]
            seen.append(page.evaluate("document.getElementById('picture').src"))
            obs = env.step(answer.action)[0]
        assert len(set(seen)) == 3, "each step has its picture"
        page.fill("#environment", "1")
        page.wait_for_function("words => document.getElementById('option').textContent === words", arg=answer.option[1])
        page.click("#pause")
        play.act(obs)
        page.wait_for_timeout(1000)
        assert page.inner_text("#figures dd >> nth=0") == "3", "it rests"
        page.click("#pause")
        page.wait_for_function("() => document.querySelector('#figures dd').textContent === '4'")


def test_what_cannot_be_drawn_is_said_and_nothing_sticks_out(page: Any, served: Served) -> None:
    with Client(served.url, key=KEY) as client, client.open("sac", seed=0) as play:
        play.act(np.zeros((1, 6), np.float32))
        looks = []
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            for width in (1180, 360):
                page.set_viewport_size({"width": width, "height": 800})
                unlocked(page, served) if page.url == "about:blank" else page.reload()
                page.wait_for_selector("body[data-phase=watching]")
                assert "No picture" in page.inner_text("#curtain")
                assert page.inner_text("#option") == "primitive actions"
                assert page.inner_text("#deciders .now") == "low level"
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
            looks.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert looks[0] != looks[1], "dark is dark"
    page.wait_for_function("() => document.getElementById('curtain').textContent.includes('No session plays')")


def test_the_teacher_in_the_loop_is_shown_with_its_cost(page: Any, served: Served, tmp_path: Path) -> None:
    obs = with_a_choice(get_task("SimpleDoorKey"))
    config = FallbackConfig("scripted", teacher_seconds=30.0)
    (run,) = {each.run for each, _ in served.service.agents.all() if each.name == "ihac"}
    with (
        in_thread({"it": run}, tmp_path, fallback=config) as own,
        Client(own.url) as client,
        client.open("it", fallback=1.0) as play,
    ):
        answer = play.act(obs)
        assert answer.option
        page.goto(f"{own.url}/live/")
        page.wait_for_selector("#deciders .now")
        assert page.inner_text("#deciders .now") == "teacher"
        assert page.inner_text("#option") == answer.option[0]
        assert "teacher's calls" in page.inner_text("#figures")


def test_a_wrong_key_is_asked_for_again(page: Any, served: Served) -> None:
    page.goto(f"{served.url}/live/")
    page.wait_for_selector("dialog#ask[open]")
    page.fill("#key", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_timeout(300)
    page.wait_for_selector("dialog#ask[open]")
