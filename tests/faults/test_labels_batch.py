"""`labels batch` on servers that are slow, dead, or say nonsense, killed in the middle, and asked again."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from preceptor.agent.labels import batch as module
from preceptor.agent.labels.batch import batch
from preceptor.agent.labels.collecting import Stream
from preceptor.agent.labels.config import BatchConfig, ServersConfig
from preceptor.agent.runs.checkpoint import tree_as_bytes
from preceptor.envs.catalog import get_task
from preceptor.ground.errors import UserError
from preceptor.teacher import make, pool
from preceptor.teacher.asking import AskingTeacher
from preceptor.teacher.config import Limits
from preceptor.teacher.labels import LabelStore, Reached
from tests.faulty_server import FaultyServer, Script, Step, faulty

SCENES = 40
CHATS = Script(refuses=("prompt",))  # a request for each prompt


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is given up at its first fault. A deadline of less than a second would be one for this process as well,
    which is tests and servers in one: on a busy machine they stand still for as long, and servers that answer are lost.
    """
    monkeypatch.setitem(make.LIMITS, "otherwise", Limits(60.0, deadline_seconds=0.0))
    monkeypatch.setattr(pool, "_COOL_DOWN_SECONDS", 0.3)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty(CHATS) as running:
        yield running


@pytest.fixture
def second() -> Iterator[FaultyServer]:
    with faulty(CHATS) as running:
        yield running


def label(store: Path, *servers: FaultyServer, **said: Any) -> dict[str, Any]:
    """What a command with these servers says; settings of the teacher are among what is said."""
    own = {name: said.pop(name) for name in list(said) if name in ServersConfig.__dataclass_fields__}
    how: dict[str, Any] = {"concurrency": 2, "permutations": 2, "scoring": "logprobs", "labels": str(store)}
    asked = ServersConfig(base_url=tuple(server.url for server in servers), **how | own)
    return batch(BatchConfig(**{"task": "ColoredDoorKey", "scenes": SCENES, "teacher": asked, "quiet": True} | said))


def content(store: Path) -> Counter[tuple[Any, ...]]:
    """All rows of a store, without times and the letter that a server happened to draw."""
    times: dict[str, Any] = {"seconds": 0.0, "created": 0.0, "reply": ""}
    with LabelStore(store, read_only=True) as labels:
        return Counter(replace(call, **times) for call in labels.calls(answers_only=False))


def slowly(server: FaultyServer, seconds: Callable[[], float]) -> None:
    def intercept(number: int, body: dict[str, Any]) -> None:
        time.sleep(seconds())

    server.intercept = intercept


def test_a_store_is_the_same_whoever_answers_in_whatever_order_and_nothing_is_asked_again(
    tmp_path: Path, server: FaultyServer, second: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ROWS", 10)
    one = label(tmp_path / "one.sqlite", server)
    assert (one["scenes"], one["labels"], one["unanswered"]) == (SCENES, SCENES, 0)
    chance = random.Random(0)
    for each in (server, second):
        slowly(each, lambda: chance.uniform(0, 0.02))
    two = label(tmp_path / "two.sqlite", server, second)
    assert content(tmp_path / "one.sqlite") == content(tmp_path / "two.sqlite")
    assert sum(s["calls"] for s in two["servers"]) == two["calls"] == one["calls"]
    assert min(s["calls"] for s in two["servers"]) > 0
    before = len(server.bodies("chat"))
    assert label(tmp_path / "one.sqlite", server)["calls"] == 0
    assert len(server.bodies("chat")) - before <= 4  # the probe's
    more = label(tmp_path / "one.sqlite", server, scenes=SCENES + 10)
    assert more["labels"] == SCENES + 10 <= SCENES + more["calls"] <= SCENES + 20


def test_a_slow_server_gets_less(tmp_path: Path, server: FaultyServer, second: FaultyServer) -> None:
    slowly(server, lambda: 0.1)
    done = {s["url"]: s["calls"] for s in label(tmp_path / "x.sqlite", server, second)["servers"]}
    assert 0 < 3 * done[server.url] < done[second.url]


def test_a_server_that_dies_is_left_alone_and_taken_back(
    tmp_path: Path, server: FaultyServer, second: FaultyServer, capsys: pytest.CaptureFixture[str]
) -> None:
    label(tmp_path / "whole.sqlite", second)
    back, before = threading.Event(), len(second.bodies("chat"))

    def dying(number: int, body: dict[str, Any]) -> Any:
        back.set() if number > 18 else None
        return (500, {}, "dead") if 10 < number <= 18 else None

    def patient(number: int, body: dict[str, Any]) -> None:
        back.wait(0.4 if number > before + 20 else 0.05)  # so that there is something left for the other one

    server.intercept, second.intercept = dying, patient
    result = label(tmp_path / "x.sqlite", server, second)
    assert content(tmp_path / "x.sqlite") == content(tmp_path / "whole.sqlite")
    said = capsys.readouterr().err
    assert f"{server.url}: server error" in said
    assert f"{server.url} is back" in said
    failures = {s["url"]: s["failures"] for s in result["servers"]}
    assert failures[server.url] > 0 == failures[second.url]


def test_one_that_is_dead_from_the_start_is_left_out_and_all_dead_is_an_error(
    tmp_path: Path, server: FaultyServer, second: FaultyServer
) -> None:
    second.close()
    assert label(tmp_path / "x.sqlite", second, server)["labels"] == SCENES
    with pytest.raises(UserError, match="No server answers"):
        label(tmp_path / "y.sqlite", second)
    before = len(server.bodies("chat"))
    server.intercept = lambda number, body: (503, {}, "dead") if number > before + 12 else None
    with pytest.raises(UserError, match=r"No server is left.*\n.*failed") as raised:
        label(tmp_path / "y.sqlite", server)
    assert "repeat the command" in raised.value.next_step
    server.intercept = None
    assert label(tmp_path / "y.sqlite", server)["labels"] == SCENES
    assert content(tmp_path / "x.sqlite") == content(tmp_path / "y.sqlite")


def test_bad_rows_are_set_aside_asked_again_at_the_end_and_counted(tmp_path: Path, server: FaultyServer) -> None:
    hopeless: set[str] = set()
    seen = Counter[str]()

    def reply(prompt: str) -> Any:
        seen[prompt] += 1
        chosen = int.from_bytes(prompt.encode()[-200:], "big") % 13
        if chosen == 0:
            hopeless.add(prompt)
        return "What?" if chosen == 0 or (chosen == 1 and seen[prompt] == 1) else {"A": 0.7, "B": 0.3}

    server.reply = reply
    result = label(tmp_path / "x.sqlite", server, permutations=1, retries=2)
    assert result["rejected"]["off_menu"] >= 3 * len(hopeless) > 0
    assert result["unanswered"] == len(hopeless)
    assert result["labels"] == SCENES - len(hopeless)
    assert label(tmp_path / "x.sqlite", server, permutations=1, retries=2)["calls"] == 0
    assert label(tmp_path / "x.sqlite", server, permutations=1, retries=3)["calls"] == len(hopeless)


def test_a_refused_prompt_is_set_aside_and_spoils_no_other(tmp_path: Path, server: FaultyServer) -> None:
    def intercept(number: int, body: dict[str, Any]) -> Any:
        grey = number > 20 and "The door is grey" in body["messages"][-1]["content"]
        return (400, {}, {"error": {"message": "I will not read this.", "code": 400}}) if grey else None

    server.intercept = intercept
    result = label(tmp_path / "x.sqlite", server, permutations=1)
    assert set(result["rejected"]) == {"refused"}
    assert 0 < result["unanswered"] < SCENES // 2
    assert result["labels"] + result["unanswered"] == SCENES


def test_a_budget_is_one_for_all_servers_and_the_same_command_goes_on(
    tmp_path: Path, server: FaultyServer, second: FaultyServer
) -> None:
    with pytest.raises(UserError, match="The budget of 40 calls") as raised:
        label(tmp_path / "x.sqlite", server, second, max_llm_calls=40)
    assert "repeat the command" in raised.value.next_step
    with LabelStore(tmp_path / "x.sqlite") as store:
        assert 0 < len(store) <= 40
        kept = len(store)
    whole = label(tmp_path / "x.sqlite", server)
    assert (whole["labels"], whole["calls"] > kept) == (SCENES, True)


def test_a_dry_run_sends_nothing_and_says_the_price(tmp_path: Path, server: FaultyServer) -> None:
    said = label(tmp_path / "x.sqlite", server, dry_run=True, usd_per_million_in=1.0)
    assert server.requests == []
    assert os.listdir(tmp_path) == []
    assert said["scenes"] == SCENES <= said["calls"] <= 2 * SCENES
    assert said["usd"] == pytest.approx(said["tokens_in"] / 1e6)


def test_servers_of_two_models_are_refused(tmp_path: Path, server: FaultyServer) -> None:
    with faulty(replace(CHATS, models=("other",))) as other, pytest.raises(UserError, match="a label is of one model"):
        label(tmp_path / "x.sqlite", server, other)
    with pytest.raises(UserError, match="named twice"):
        label(tmp_path / "x.sqlite", server, server)


def test_killed_with_9_the_same_command_goes_on_to_the_same_store(tmp_path: Path, server: FaultyServer) -> None:
    label(tmp_path / "whole.sqlite", server)
    slowly(server, lambda: 0.03)
    words = f"--task ColoredDoorKey --scenes {SCENES} --labels {tmp_path / 'x.sqlite'} --base-url {server.url}"
    words = f"labels batch {words} --permutations 2 --concurrency 2 --scoring logprobs --quiet"
    code = f"from preceptor.agent.labels import batch; batch._ROWS = 8; import main; main.main({words.split()})"
    child = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    stored = 0
    while stored < 16:
        assert child.poll() is None, "it ended by itself"
        time.sleep(0.02)
        if (tmp_path / "x.sqlite").exists():
            try:
                with LabelStore(tmp_path / "x.sqlite", read_only=True) as store:
                    stored = len(store)
            except UserError:  # being made
                continue
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    with LabelStore(tmp_path / "x.sqlite", read_only=True) as store:
        kept = len(store)
    result = label(tmp_path / "x.sqlite", server)
    assert result["calls"] == sum(content(tmp_path / "whole.sqlite").values()) - kept
    assert content(tmp_path / "x.sqlite") == content(tmp_path / "whole.sqlite")


def test_the_model_in_this_process_gives_the_same_rows_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.setattr(module, "_ROWS", 16)
    label(tmp_path / "whole.sqlite")
    put, puts = LabelStore.put_many, 0

    def interrupted(self: LabelStore, *written: Any) -> None:
        nonlocal puts
        puts += 1
        if puts > 2:
            raise KeyboardInterrupt
        put(self, *written)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LabelStore, "put_many", interrupted)
        with pytest.raises(KeyboardInterrupt):
            label(tmp_path / "x.sqlite")
    assert sum(content(tmp_path / "x.sqlite").values()) == 32
    label(tmp_path / "x.sqlite")
    assert content(tmp_path / "x.sqlite") == content(tmp_path / "whole.sqlite")


KILLED = """
import os, signal
from pathlib import Path
from preceptor.teacher import labels
from tests.faults.test_labels_batch import label, module

def killed(*args, left=iter(range({times} - 1, -1, -1)), whole={of}):
    done = whole(*args)
    next(left) or os.kill(os.getpid(), signal.SIGKILL)
    return done

module._ROWS, module._LOOKED_UP, {of} = 8, 1, killed
label(Path({store!r}), **{few})
"""
FEW = {"task": "KeyCorridorS3R1", "scenes": 36, "permutations": 1}  # a step meets two or three


# Where labels are written and their place is about to be; and just after both were.
@pytest.mark.parametrize(("of", "times", "kept"), [("labels._seal_of", 6, 16), ("labels.LabelStore.put_many", 3, 24)])
def test_killed_with_9_it_goes_on_from_its_place_in_the_stream_to_the_digit(
    of: str, times: int, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.setattr(module, "_ROWS", 8)
    monkeypatch.setattr(module, "_LOOKED_UP", 1)
    label(tmp_path / "whole.sqlite", **FEW)
    store = tmp_path / "x.sqlite"
    code = KILLED.format(of=of, times=times, store=str(store), few=FEW)
    child = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=120)
    assert child.returncode == -signal.SIGKILL
    with LabelStore(store) as labels:
        assert len(labels) == kept
        ((name, scenes),) = labels._db.execute("SELECT name, scenes FROM streams").fetchall()
        reached = labels.reached(name)
    assert reached is not None
    assert 0 < scenes == len(reached.hashes) // 8 <= kept
    looked, asks = list[Any](), AskingTeacher.asks
    monkeypatch.setattr(AskingTeacher, "asks", lambda self, scene: (looked.append(scene), asks(self, scene))[1])
    result = label(store, **FEW)
    assert (result["scenes"], result["labels"], result["calls"]) == (36, 36, 36 - kept)
    assert len(looked) == 36 - scenes, "what is before its place is not gone through"
    assert content(store) == content(tmp_path / "whole.sqlite")


def test_a_place_that_is_damaged_or_of_another_task_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.setattr(module, "_ROWS", 4)
    monkeypatch.setattr(module, "_LOOKED_UP", 1)
    label(tmp_path / "whole.sqlite", **FEW)
    for harm in ("UPDATE streams SET state = x'00'", "DELETE FROM met", "UPDATE met SET hashes = zeroblob(160)"):
        store = tmp_path / "x.sqlite"
        store.unlink(missing_ok=True)
        label(store, **FEW | {"scenes": 20})
        with LabelStore(store) as labels:
            labels._db.execute(harm)
        assert label(store, **FEW)["calls"] == 16
        assert content(store) == content(tmp_path / "whole.sqlite")


@pytest.mark.parametrize(("task", "player"), [("ColoredDoorKey", "script"), ("OneRoom-Mix:levels=64", "random")])
def test_a_stream_goes_on_to_the_same_scenes_from_any_place(task: str, player: str) -> None:
    whole = Stream(get_task(task), player, 3)
    steps = iter(whole)
    met, places = list[Any](), list[Any]()
    for step in islice(steps, 6):
        met.append(step)
        places.append(whole.place())
    for at in (0, 3):
        hashes = b"".join(place["hashes"] for place in places[: at + 1])
        other = Stream(get_task(task), player, 3)
        other.go_on(Reached("", places[at]["scenes"], hashes, tree_as_bytes(places[at]["state"])))
        assert list(islice(other, 5 - at)) == met[at + 1 :]
        assert other.scenes == whole.scenes


@pytest.mark.parametrize("patience", [0.0, 60.0], ids=["given up and taken back", "repeated"])
@pytest.mark.parametrize("step", [Step("cut", probability=0.3, forever=True, after=5), Step("internal_error", after=5)])
def test_passing_faults_leave_no_trace(
    tmp_path: Path, server: FaultyServer, step: Step, patience: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    label(tmp_path / "whole.sqlite", server)
    monkeypatch.setitem(make.LIMITS, "otherwise", Limits(60.0, patience))
    with faulty(replace(CHATS, steps=(step,))) as shaky:
        shaken, _ = label(tmp_path / "x.sqlite", shaky, server)["servers"]
        assert any(request.fault for request in shaky.requests)
    assert (shaken["failures"] > 0) == (patience == 0)
    assert content(tmp_path / "x.sqlite") == content(tmp_path / "whole.sqlite")
