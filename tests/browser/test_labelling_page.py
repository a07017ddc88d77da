"""The labelling page as a person uses it: by keyboard, in Chromium, with a server that is killed in between."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from preceptor.agent.data.recording import Recording
from preceptor.agent.demonstrating import DEMONSTRATIONS
from preceptor.agent.halo.ledger import FILE
from preceptor.envs.catalog import get_task
from preceptor.teacher.call import OK, Call
from preceptor.teacher.labels import LabelStore
from tests.browser.conftest import PATIENCE

pytest.importorskip("playwright.sync_api")
Page = Any
Serve = Callable[..., "PageServer"]

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
WORDS = ["--task", "RescueWorld-n3", "--savedir", "x", "--demos", "24", "--eval-episodes", "0", "--annotator", "ann"]


class PageServer:
    """`main.py label` over a run in a log directory; a page that comes back needs the same port."""

    def __init__(self, logs: Path, *words: str, port: int = 0) -> None:
        self.logs, self._said = logs, logs / "said.txt"
        command = [sys.executable, "main.py", "label", "--logdir", str(logs), "--no-browser", "--port", str(port)]
        with self._said.open("w") as said:
            self.process = subprocess.Popen([*command, *words], cwd=ROOT, stdout=said, stderr=said)
        deadline = time.monotonic() + 2 * PATIENCE / 1000  # on a busy machine that compiles for the first time
        while not (found := re.search(r"label at (\S+:(\d+)/\S+)", self.said())):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"no page: {self.said()}")
            time.sleep(0.05)
        self.address, self.port = found[1], int(found[2])

    def said(self) -> str:
        return self._said.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts servers of one run, and ends those that a test leaves."""
    started: list[PageServer] = []

    def start(budget: int, port: int = 0) -> PageServer:
        started.append(PageServer(tmp_path, *WORDS, "--budget", str(budget), port=port))
        return started[-1]

    yield start
    for server in started:
        server.kill()


def run_of(server: PageServer) -> Path:
    return server.logs / "halo" / "RescueWorld-n3" / "x"


def lines(server: PageServer, kind: str) -> list[dict[str, Any]]:
    written = [json.loads(line) for line in (run_of(server) / FILE).read_text().splitlines()[1:]]
    return [line for line in written if line["kind"] == kind]


def answers(server: PageServer) -> list[dict[str, Any]]:
    return lines(server, "answer")


def text_of(question: tuple[int, int, int]) -> str:
    """As the page has it."""
    return "/".join(map(str, question))


def moves_on(page: Page, question: tuple[int, int, int]) -> None:
    """Wait until the page shows another question than this."""
    page.wait_for_function("was => document.body.dataset.question !== was", arg=text_of(question))


def told(page: Page, words: str) -> None:
    """Wait until the page says so."""
    page.wait_for_function("words => document.getElementById('notice').textContent.includes(words)", arg=words)


def shown(page: Page) -> tuple[int, int, int]:
    """The question on the page."""
    page.wait_for_selector("body[data-phase=asking]")
    trajectory, step, before = map(int, page.evaluate("document.body.dataset.question").split("/"))
    return trajectory, step, before


def press(page: Page, *keys: str) -> None:
    """Press keys, the last of which takes the page elsewhere, and wait for that."""
    was, answered = page.evaluate("[document.body.dataset.question, document.body.dataset.answered]")
    for key in keys:
        page.keyboard.press(key)
    page.wait_for_function(
        "([was, answered]) => document.body.dataset.answered !== answered && document.body.dataset.question !== was",
        arg=[was, answered],
    )


def key_of(server: PageServer) -> Callable[[tuple[int, int, int]], str]:
    """Which key is right for a question."""
    option = Recording.load(run_of(server) / DEMONSTRATIONS)[0].option
    return lambda question: str(option[question[0], question[1]] + 1)


def test_thirty_questions_with_slips_an_interval_a_reload_and_a_kill(page: Page, serve: Serve) -> None:
    server = serve(30)
    page.goto(server.address)
    shown(page)
    right, expected = key_of(server), []  # expected: what stands, in order

    def said() -> tuple[Any, ...]:
        return tuple(answers(server)[-1][name] for name in ("trajectory", "step", "start", "stop", "report", "who"))

    while len(expected) < 30:
        question, count = shown(page), len(expected)
        if count == 5:  # a slip, taken back twice over: the answer before it, too
            for key in ("s", "u"):
                press(page, key)
            assert shown(page) == question
            press(page, "u")
            press(page, right(shown(page)))
            assert said() == expected[-1]
        if count == 10:
            press(page, "Shift+ArrowRight", "Shift+ArrowRight", right(question))
        elif count == 12:
            press(page, "s")
        elif count == 15:
            page.reload()
            assert shown(page) == question, "a reload changes nothing"
            press(page, right(question))
        elif count == 20:
            server.kill()
            page.keyboard.press(right(question))
            told(page, "does not answer")
            server = serve(30, server.port)
            moves_on(page, question)
        else:
            press(page, right(shown(page)))
        n, t, start, stop, report, who = said()
        assert (n, t, stop - start, who) == (*question[:2], 3 if count == 10 else 1, "ann")
        assert report == [] if count == 12 else str(report.index(1.0) + 1) == right(question)
        expected.append(said())
    page.wait_for_selector("body[data-phase=finished]")
    assert server.end() == 0, "Ctrl-C is the way to end it"
    assert "answered: 30" in server.said() or '"answered"' in server.said()
    assert (len(lines(server, "undo")), len(answers(server))) == (2, 32)
    assert len({row[:2] for row in expected}) == 30, "nothing is counted twice"


def test_a_second_tab_and_keys_that_are_not_legal(browser: Any, page: Page, serve: Serve) -> None:
    server = serve(40)
    other = browser.new_page()
    page.goto(server.address)
    other.goto(server.address + "?who=bob")
    question = shown(page)
    assert shown(other) == question
    right = key_of(server)
    press(page, right(question))
    if other.evaluate("document.body.dataset.question") == text_of(question):  # it has not looked meanwhile
        other.keyboard.press(right(question))
    moves_on(other, question)
    assert len(answers(server)) == 1, "the second answer was refused"
    while not page.query_selector(".option:disabled"):
        press(page, right(shown(page)))
    question, before = shown(page), len(answers(server))
    page.keyboard.press(page.inner_text(".option:disabled kbd"))
    told(page, "not possible here")
    assert (shown(page), len(answers(server))) == (question, before)
    page.keyboard.press("?")
    assert page.is_visible("dialog#keys")
    page.keyboard.press("Escape")
    assert not page.is_visible("dialog#keys")
    other.close()
    server.end()


def test_a_page_that_slept_looks_again_and_counts_no_time_asleep(browser: Any, page: Page, serve: Serve) -> None:
    server = serve(40)
    page.clock.install()
    page.goto(server.address)
    question = shown(page)
    right = key_of(server)
    other = browser.new_page()
    other.goto(server.address + "?who=bob")
    shown(other)
    press(other, right(question))
    other.close()
    page.clock.fast_forward("08:00:00")  # as when a lid is closed: timers that are due run once
    moves_on(page, question)
    assert page.inner_text("#count").startswith("1 of"), "it shows what was answered meanwhile"
    assert [answer["who"] for answer in answers(server)] == ["bob"]
    awake = time.monotonic()
    page.wait_for_timeout(300)
    page.clock.fast_forward("08:00:00")
    press(page, right(shown(page)))
    assert answers(server)[-1]["who"] == "ann"
    assert 0 < answers(server)[-1]["seconds"] < 1 + time.monotonic() - awake, "the hours asleep do not count"
    server.end()


def test_nothing_moves_when_a_question_follows_another_and_keys_suffice(page: Page, serve: Serve) -> None:
    server = serve(40)
    for width in (1180, 400):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(server.address)
        shown(page)
        boxes = []
        for keys in (["Enter"], ["ArrowRight", "s"], ["a", "Enter"], ["Shift+ArrowLeft", "Enter"]):
            press(page, *keys)
            boxes.append([page.locator(f"#{name}").bounding_box() for name in ("frame", "timeline", "options", "undo")])
        assert all(box == boxes[0] for box in boxes)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement !== document.body"), "it can be walked through by Tab"
    timeline = page.locator("#timeline").bounding_box()
    page.mouse.move(timeline["x"] + 5, timeline["y"] + 40)
    page.mouse.down()
    page.mouse.move(timeline["x"] + timeline["width"] - 5, timeline["y"] + 40, steps=4)
    page.mouse.up()
    assert page.inner_text("#marked").startswith("0–")
    press(page, "Enter")
    last = answers(server)[-1]
    assert last["start"] == 0
    assert last["stop"] > last["step"]
    server.end()


def test_what_a_hostile_store_says_is_shown_as_text(page: Page, tmp_path: Path) -> None:
    said = "<img src=x onerror='window.mine=1'><script>window.mine=1</script>\x1b]0;mine\x07\u202eB"
    task, path = get_task("RescueWorld-n3"), tmp_path / "labels.sqlite"
    asked: Any = (said, "", task.name, task.options.digest, ("f",), (0, 1, 2), 0, said, (0, 1, 2))
    with LabelStore(path) as store:
        store.put_many([Call(*asked, "llm", "logprobs", OK, (0.5, 0.3, 0.2), said)])
    server = PageServer(tmp_path, "--review", str(path), "--task", task.name)
    try:
        page.goto(server.address)
        shown(page)
        for place in ("#curtain", "#words"):
            text = page.text_content(place)
            assert "<img src=x" in text
            assert not {"\x1b", "\x07", "\u202e"} & {*text}
        assert page.evaluate("[window.mine ?? 0, document.images.length, document.scripts.length]") == [0, 0, 1]
    finally:
        server.kill()
    assert "\x1b" not in server.said()
