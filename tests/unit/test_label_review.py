"""Going through what a teacher said: the least sure first, corrections in the store, and replays that heed them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preceptor.agent.labelling.config import LabelConfig
from preceptor.agent.labelling.review import Review
from preceptor.envs.catalog import get_task
from preceptor.ground.errors import UserError
from preceptor.teacher.base import TeacherError
from preceptor.teacher.call import OK, Call
from preceptor.teacher.controls import ReplayTeacher
from preceptor.teacher.corrections import correct, standing, withdraw
from preceptor.teacher.labels import LabelStore
from preceptor.teacher.prompts import load_template

TASK = get_task("RescueWorld-n3")
ALL = (0, 1, 2)
SURE, UNSURE, TORN = (0.9, 0.05, 0.05), (0.5, 0.3, 0.2), (0.4, 0.4, 0.2)


def about(facts: tuple[str, ...], scene: str, probs: tuple[float, ...] = SURE, status: str = OK) -> Call:
    asked = ("model", "", TASK.name, TASK.options.digest, facts, ALL, 0, scene, ALL)
    return Call(*asked, "llm", "logprobs", status, probs, "A")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "labels.sqlite"
    rows: list[Any] = [("sure", SURE), ("unsure", UNSURE), ("torn", TORN), ("failed", (), "error")]
    with LabelStore(made) as store:
        store.put_many(about((name,), f"Scene {name}.", *said) for name, *said in rows)
    return made


@pytest.fixture
def review(path: Path) -> Review:
    return Review(LabelConfig(task=TASK.name, review=str(path), annotator="ann"))


def shown(review: Review) -> str:
    question = review.state()["question"]
    return str(question["words"][0]) if question else ""


def say(review: Review, option: int | None, who: str | None = None) -> bool:
    return review.answer(who, (review.state()["question"]["trajectory"], 0, 0), option, seconds=2.0)


def test_the_least_sure_come_first_and_nothing_is_asked_twice(path: Path, review: Review) -> None:
    order = []
    while words := shown(review):
        order.append(words)
        assert say(review, 1)
    assert order == ["Scene failed.", "Scene torn.", "Scene unsure.", "Scene sure."]
    assert review.state()["phase"] == "finished"
    assert review.outcome()["reviewed"] == 4
    assert Review(LabelConfig(task=TASK.name, review=str(path))).state()["phase"] == "finished"
    (pair,) = review.agreement()
    assert (pair["steps"], pair["agree"]) == (3, 0.0)


def test_prompt_and_reply_are_shown_and_corrections_are_of_their_own_people(review: Review) -> None:
    assert say(review, 0, "my:ann")
    assert [review.state(who)["progress"]["mine"] for who in ("my:ann", "ann")] == [1, 0]
    question = review.state()["question"]
    assert (question["reply"], bool(question["prompt"])) == ("model: A", True)
    assert question["suggestion"] == {"option": 0, "probability": 0.4}


def test_corrections_are_rows_of_a_human_and_replays_heed_them(path: Path, review: Review) -> None:
    scene = next(s for s in TASK.describe(TASK.make_vec(1).reset()[0]) if len(s.legal) == 3)
    with LabelStore(path) as store:
        store.put_many([about(scene.facts, scene.text)])
    before = ReplayTeacher(TASK, path).label([scene])[0]
    assert before.probs == pytest.approx(SURE)
    review = Review(LabelConfig(task=TASK.name, review=str(path), annotator="ann"))
    while shown(review) != scene.text:
        say(review, 0)
    say(review, 2)
    assert ReplayTeacher(TASK, path).label([scene])[0].probs == (0.0, 0.0, 1.0)
    with LabelStore(path, read_only=True) as store:
        human = [call for call in store.calls() if call.source == "human"]
    assert {call.model for call in human} == {"human:ann"}
    assert len(human) == 5


def test_what_is_taken_back_no_longer_counts_and_stays_in_the_store(path: Path, review: Review) -> None:
    first = shown(review)
    say(review, 1)
    assert review.undo("bob") is False, "it is not theirs"
    assert review.undo()
    assert shown(review) == first
    assert not review.undo()
    say(review, 2)
    again = Review(LabelConfig(task=TASK.name, review=str(path), annotator="ann"))
    with LabelStore(path, read_only=True) as store:
        calls = store.calls(answers_only=False)
    assert [call.status for call in calls[4:]] == ["ok", "withdrawn", "ok"]
    assert [call.probs for call in standing(calls).values()] == [(0.0, 0.0, 1.0)]
    assert again.undo()
    assert shown(again) == first
    assert [json.loads(line)["status"] for line in again.lines().splitlines()] == ["ok", "withdrawn", "ok", "withdrawn"]


def test_the_last_of_several_people_is_heeded_and_what_was_taken_back_is_not(tmp_path: Path) -> None:
    first, second, *_ = (s for s in TASK.sample_scenes(np.random.default_rng(0), 50) if len(s.legal) == 3)
    made = tmp_path / "people.sqlite"
    with LabelStore(made) as store:
        asked = about(second.facts, second.text)
        other = replace(asked, facts=first.facts)
        store.put_many([asked, other])
        taken_back = withdraw(store, correct(store, TASK, other, "ann", 0, 1.0))
        correct(store, TASK, asked, "bob", 1, 1.0)
        anns = correct(store, TASK, asked, "ann", 2, 1.0)
    assert ReplayTeacher(TASK, made).label([second])[0].probs == (0.0, 0.0, 1.0)
    assert ReplayTeacher(TASK, made).label([first])[0].probs == pytest.approx(SURE)
    with pytest.raises(TeacherError, match="no answer"):
        ReplayTeacher(TASK, made, model="human:ann").label([first])
    with LabelStore(made) as store:
        correct(store, TASK, asked, "bob", 0, 1.0)
        withdraw(store, anns)
    assert ReplayTeacher(TASK, made).label([second])[0].probs == (1.0, 0.0, 0.0), "bob's is not taken back with it"
    assert standing([taken_back]) == {}, "what it takes back was not imported"


def test_what_cannot_be_is_refused(path: Path, review: Review, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not legal"):
        say(review, 7)
    skipped = shown(review)
    assert say(review, None)
    assert shown(review) != skipped, "it comes again at the end"
    assert review.state()["progress"]["answered"] == 0
    assert not review.answer(None, (99, 0, 0), 0)
    assert review.frame(0, 0) is None
    LabelStore(tmp_path / "none.sqlite").close()
    with pytest.raises(UserError, match="no task"):
        Review(LabelConfig(review=str(tmp_path / "none.sqlite")))


def test_what_a_server_said_is_shown_with_its_control_characters_escaped(tmp_path: Path) -> None:
    said, path = "A\x1b]0;mine\x07\n\u202e", tmp_path / "hostile.sqlite"
    with LabelStore(path) as store:
        store.put_many([replace(about(("bad",), said), reply=said, prompt=load_template("chat").hash_for(TASK))])
    question = Review(LabelConfig(task=TASK.name, review=str(path))).state()["question"]
    assert question["words"] == ["A\\x1b]0;mine\\x07\n\\u202e"]
    assert question["reply"].endswith(question["words"][0])
    assert question["words"][0] in question["prompt"]
