"""A teacher in the loop of a policy server: asked where the controller doubts, and not missed when it fails.

The teacher's server is real, and so is the one of the agents; the former misbehaves by script.
"""

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from preceptor.agent.acting import Table
from preceptor.agent.remote.client import Client, RefusedError
from preceptor.envs.catalog import get_task
from preceptor.serving.config import FallbackConfig
from preceptor.serving.policy.fallback import ASKED, TAKEN
from preceptor.teacher.labels import LabelStore
from tests.faulty_server import Script, Step, faulty
from tests.policy_server import in_thread, trained, with_a_choice

TASK = get_task("SimpleDoorKey")
ALWAYS = 1.0  # the confidence that an untrained controller never has
WAIT = 20.0  # seconds for a teacher that is made in them


@pytest.fixture(scope="module")
def obs() -> np.ndarray[Any, Any]:
    """Of two environments that show the same, and in which several options are legal."""
    return with_a_choice(TASK).repeat(2, 0)


@pytest.fixture
def run(tmp_path: Path, one_thread: None) -> Iterator[Path]:
    return trained("ihac", tmp_path / "log")


def answers(served: Any, obs: Any, steps: int = 1, **how: Any) -> list[Any]:
    with Client(served.url) as client, client.open("it", environments=len(obs), seed=0, **how) as play:
        found = []
        for _ in range(steps):
            found.append(play.act(obs))
            play.reset()  # so that an option is due in each step
        return found


def asking(url: str, **more: Any) -> FallbackConfig:
    return FallbackConfig("llm", base_url=url, **{"teacher_seconds": WAIT} | more)


def test_the_teacher_chooses_where_the_controller_doubts_and_its_answers_are_kept(
    run: Path, obs: Any, tmp_path: Path
) -> None:
    key = next(k for k, option in enumerate(TASK.options) if TASK.legal(obs[:1])[0, k] and k)
    liked = TASK.options[key].words
    with faulty(Script(likes={liked: 1000.0})) as llm:
        with in_thread({"it": run}, tmp_path / "state", fallback=asking(llm.url)) as served:
            plain, *_ = answers(served, obs)
            assert plain.advice is None
            first, again = answers(served, obs, 2, fallback=ALWAYS, greedy=True)
            assert first.advice == again.advice == [TAKEN, TAKEN]
            assert first.option == again.option == [liked, liked]
            sure, *_ = answers(served, obs, fallback=1e-6)
            assert sure.advice == ["", ""], "nobody was asked"
            with LabelStore(run / ASKED, read_only=True) as store:
                calls = store.calls()
            assert {call.facts for call in calls} == {TASK.describe(obs[:1])[0].facts}, "one scene, asked once"
            text = httpx.get(f"{served.url}/metrics").text
            told = re.search(r'preceptor_teacher{agent="it",of="calls"} (\S+)', text)
            assert told
            assert float(told[1]) > len(calls), "the probe counts for the budget, too"
            assert 'preceptor_advice_total{agent="it",outcome="teacher"} 4.0' in text
        with in_thread({"it": run}, tmp_path / "state", fallback=asking(llm.url)) as served:
            assert answers(served, obs, fallback=ALWAYS)[0].advice == [TAKEN, TAKEN]
        with LabelStore(run / ASKED, read_only=True) as store:
            assert len(store.calls()) == len(calls), "what was answered is not asked again"


def test_with_a_teacher_that_is_down_the_controller_acts_and_the_answer_says_so(
    run: Path, obs: Any, tmp_path: Path
) -> None:
    with in_thread({"it": run}, tmp_path / "state", fallback=asking("http://127.0.0.1:9/v1")) as served:
        (plain,), (found,) = answers(served, obs), answers(served, obs, fallback=ALWAYS)
        assert found.advice
        assert all(said.startswith("the teacher is down: ") for said in found.advice)
        np.testing.assert_array_equal(found.action, plain.action)
        assert found.option == plain.option, "as the controller would by itself"
    with in_thread({"it": run}, tmp_path / "state") as served, pytest.raises(RefusedError, match="has no teacher"):
        answers(served, obs, fallback=ALWAYS)


def test_a_slow_teacher_is_waited_for_a_bounded_time_and_others_not_at_all(run: Path, obs: Any, tmp_path: Path) -> None:
    slow = Script(steps=(Step("hang", forever=True),))
    with faulty(slow) as llm, in_thread({"it": run}, tmp_path, fallback=asking(llm.url, teacher_seconds=1.5)) as served:
        taken: list[float] = []

        def doubtful() -> None:
            began = time.monotonic()
            found = answers(served, obs, 3, fallback=ALWAYS)
            assert all(each.advice == ["the teacher is late"] * 2 for each in found)
            taken.append(time.monotonic() - began)

        thread = threading.Thread(target=doubtful)
        thread.start()
        with Client(served.url) as client, client.open("it", environments=2, seed=0) as play:
            waits = []
            while thread.is_alive():
                began = time.monotonic()
                play.act(obs)
                waits.append(time.monotonic() - began)
        thread.join()
        assert taken
        assert taken[0] < 20
        assert np.median(waits) < 0.5


def test_the_budget_is_kept_over_restarts(run: Path, obs: Any, tmp_path: Path) -> None:
    with faulty() as llm:
        for _ in range(2):
            config = asking(llm.url, max_llm_calls=1, usd_per_million_in=1.0)
            with in_thread({"it": run}, tmp_path / "state", fallback=config) as served:
                (found,) = answers(served, obs, fallback=ALWAYS)
                assert found.advice
                assert all(said.startswith("the budget is spent: ") for said in found.advice), found.advice
                assert found.option


def test_who_asks_nobody_is_computed_once_with_others_and_who_waits_changes_nothing(
    run: Path, obs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed, ahead = [0], Table.ahead

    def counted(*given: Any) -> Any:
        computed[0] += 1
        return ahead(*given)

    monkeypatch.setattr(Table, "ahead", counted)
    with in_thread({"it": run}, tmp_path / "s", fallback=FallbackConfig("scripted", teacher_seconds=WAIT)) as served:
        computed[0] = 0  # it is tried out when it is loaded
        answers(served, obs, 3, fallback=1e-6)
        assert computed[0] == 3
        (playing, _), *_ = served.service.agents.all()
    monkeypatch.undo()
    table, begun = playing.table, np.zeros(2, np.bool_)

    def seats() -> list[Any]:
        return [table.seat(2, np.random.default_rng(seed)) for seed in (1, 2, 3)]

    waiting, alone = seats(), seats()[1]
    found = table.ahead(waiting, [obs] * 3, [begun] * 3)
    assert found.doubts(0, ALWAYS)[0].all()
    (decision,) = table.go(found, waits={0, 2})
    (expected,) = table.decide([alone], [obs], [begun])
    np.testing.assert_array_equal(decision.action, expected.action)
    np.testing.assert_array_equal(decision.probs, expected.probs)
    for seat, fresh in zip(waiting, seats(), strict=True):
        moved = seat is waiting[1]
        assert (seat.obs is not None) == (seat.clock.option[0] >= 0) == moved
        assert (seat.rng.bit_generator.state != fresh.rng.bit_generator.state) == moved
    assert table.go(table.ahead(waiting, [obs] * 3, [begun] * 3), waits={0, 1, 2}) == []


def test_a_session_keeps_its_wish_when_it_is_exported_and_is_watched_with_the_cost(
    run: Path, obs: Any, tmp_path: Path
) -> None:
    config = FallbackConfig("scripted", teacher_seconds=WAIT)
    with in_thread({"it": run}, tmp_path / "s", fallback=config) as served, Client(served.url) as client:
        with client.open("it", environments=2, fallback=ALWAYS, greedy=True) as play:
            state = play.export()
        with client.open(state=state) as play:
            assert play.told["fallback"] == ALWAYS
            answer = play.act(obs)
            assert answer.advice == [TAKEN, TAKEN]
            assert answer.option == [TASK.options[TASK.script(TASK.describe(obs)[0])].words] * 2
            name = play.told["session"][:8]
            told = httpx.get(f"{served.url}/v1/live/{name}", timeout=60.0).raise_for_status().json()
            assert (told["decided"], told["advice"]) == ("teacher", "")
            assert told["teacher"].keys() == {"queries", "calls", "tokens"}
