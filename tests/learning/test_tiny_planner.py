"""The tiny planner: what is held out stays out, and the shipped model writes plans of missions that it never saw."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from preceptor.agent.evaluate import evaluate
from preceptor.agent.flags import EvalConfig
from preceptor.envs.missions.mission import words
from preceptor.envs.missions.parsing import parse
from preceptor.envs.missions.plans import plan_of, plan_prompt
from preceptor.serving.config import ServeConfig
from preceptor.serving.state import new_state
from preceptor.teacher.card import CARD_FILE, TINY_MODEL
from preceptor.teacher.config import TeacherConfig
from preceptor.teacher.local import LocalModel
from preceptor.teacher.tiny_lm.held_out import is_held_out
from preceptor.teacher.tiny_lm.plan_pairs import PREFIX, draw_plan, draw_train
from preceptor.teacher.tiny_lm.train import train
from preceptor.teacher.tiny_lm.train_plans import DEFAULT, judge, write_card
from tests.local_server import serving

LEAST = {"training": 0.9, "held-out": 0.85}  # share of plans of one clause that are right
PROBES = 10  # requests that find out what a server can do, on the first missions
PLANNER = TINY_MODEL.with_name("plans")
pytestmark = pytest.mark.usefixtures("one_thread")


def test_training_never_shows_a_mission_that_is_held_out_and_its_plans_are_the_rules() -> None:
    rng = np.random.default_rng(6)
    for pair in draw_train(rng, 300):
        assert not is_held_out(words(pair.mission))
        assert pair.reply == plan_of(parse(pair.text)).text
        assert pair.asked == "\n".join(content for _, content in plan_prompt(pair.text))
    assert is_held_out(words(draw_plan(rng, held_out=True).mission))


def test_training_is_the_same_each_time() -> None:
    small = replace(DEFAULT, hidden=64, intermediate=128, layers=1, heads=2, steps=2, batch=4, corpus=200)
    (_, first), (_, again) = (train(draw_train, small, PREFIX) for _ in range(2))
    weights, same = (dict(model.named_parameters()) for model in (first, again))
    assert all(bool((weights[name] == same[name]).all()) for name in weights)


def test_the_shipped_planner_writes_plans_of_missions_and_of_sentences_that_it_never_saw(tmp_path: Path) -> None:
    shipped, card = LocalModel(PLANNER), json.loads((PLANNER / CARD_FILE).read_text())
    shares = judge(shipped, np.random.default_rng(7), 100)
    for said, least in LEAST.items():
        assert shares[said]["1"] >= least
        assert abs(shares[said]["all"] - card["plan_accuracy"][said]["all"]) < 0.15, "the card says what it can do"
    prefix = shipped.tokenizer.encode(PREFIX, add_special_tokens=False)
    assert len(prefix) == 1, "the prompt is no longer the one of its training"
    assert shipped.tokenizer.decode(prefix) == PREFIX
    write_card(tmp_path, card)
    assert (tmp_path / "README.md").read_text() == (PLANNER / "README.md").read_text()


def test_both_built_in_models_together_are_small() -> None:
    assert sum(file.stat().st_size for folder in (TINY_MODEL, PLANNER) for file in folder.iterdir()) <= 5_000_000


def test_a_teacher_that_asks_a_server_of_the_planner_plays_missions_well(tmp_path: Path) -> None:
    with serving(model=PLANNER) as running:
        asked = TeacherConfig(teacher="llm", teacher_by="plan", base_url=f"{running.url}/v1", model="tiny")
        where = {"compare": "teacher", "seeds": "1000000:1000010", "logdir": str(tmp_path), "quiet": True}
        result = evaluate(EvalConfig(task="OneRoom-PutNext", teacher=asked, **where))
        missions = [job.ask.messages[-1].content for job in running.jobs]
        assert len(missions) - len(set(missions)) <= PROBES, "none is asked for twice"
    assert result["teacher"]["greedy"]["success"] >= 0.9


def test_what_is_printed_when_the_planner_is_served_asks_it_for_plans() -> None:
    state = new_state(ServeConfig(backend="local", model=str(PLANNER), served_model_name="plans"))
    assert state.use.endswith("--model plans --teacher-by plan --task OneRoom-GoTo")
