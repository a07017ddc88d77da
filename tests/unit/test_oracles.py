"""Oracles: who answers what, at which price, and that asking in another order hears the same."""

from dataclasses import replace

import numpy as np
import pytest

from preceptor.agent.demonstrating import record
from preceptor.agent.halo.em import honest_but_fallible
from preceptor.agent.halo.ledger import Question
from preceptor.agent.halo.oracles import AUDIT, LabellerOracle, Truth, make_oracle
from preceptor.agent.teaching import Annotator
from preceptor.controller.encoders import encoder_of
from preceptor.controller.network import ControllerNetwork
from preceptor.controller.roles import Controller
from preceptor.envs.catalog import get_task
from preceptor.ground.errors import UserError
from preceptor.teacher.labels import LabelStore
from preceptor.teacher.make import make_teacher

TASK = get_task("RescueWorld-n3")
K = 3


@pytest.fixture(scope="module")
def recording():
    return record(TASK, 20, 0)


@pytest.fixture(scope="module")
def questions(recording):
    """About every step."""
    return [Question(int(n), int(t)) for n, t in np.argwhere(recording.acted)]


@pytest.fixture(scope="module")
def controller():
    return Controller(TASK, ControllerNetwork(encoder_of(TASK), K), facts={"teacher": {"queries": 9, "calls": 30}})


def test_truth_errs_as_often_as_told_and_its_noise_depends_on_the_question_alone(recording, questions):
    true = recording.option[recording.acted]
    assert np.array_equal([np.argmax(a.report) for a in Truth(recording, K, 0.0, 0).ask(questions)], true)
    oracle = Truth(recording, K, 0.2, 0)
    one = [a.report for a in oracle.ask(questions)]
    assert 0.15 < (np.argmax(one, 1) != true).mean() < 0.25
    assert one == [a.report for a in oracle.ask(questions[::-1])][::-1]
    again = [a.report for a in oracle.ask([Question(n, t, 1) for n, t, _ in questions])]
    assert one != again, "asked again, an annotator that errs may say something else"


def test_a_teacher_costs_its_calls_and_the_same_scene_once(recording, questions):
    teacher = make_teacher("scripted", TASK, LabelStore())
    oracle = LabellerOracle("teacher", Annotator(TASK, teacher), recording)
    answers = oracle.ask(questions)
    scenes = len({scene.facts for scene in TASK.describe(recording.obs[recording.acted])})
    assert sum(answer.cost for answer in answers) == pytest.approx(scenes)
    assert sum(answer.cost for answer in oracle.ask(questions)) == 0
    assert np.array_equal([np.argmax(a.report) for a in answers], recording.option[recording.acted]), "order is fixed"


def test_a_flawed_teacher_is_flawed_on_the_levels_that_were_demonstrated():
    task = get_task("ColoredDoorKey", "colours")
    teacher = make_teacher("scripted", task, LabelStore())
    flawed = record(task, 20, 0, epsilon=0.0)
    oracle = LabellerOracle("teacher", Annotator(task, teacher), flawed)
    assert np.array_equal(oracle.everywhere()[flawed.acted], flawed.option[flawed.acted]), "its own mistakes"


def test_a_controller_says_its_distribution_and_costs_what_its_teacher_did(recording, questions, controller):
    oracle = make_oracle(("controller",), recording, K, controller=controller)
    assert (oracle.cost_before, oracle.fallible, oracle.varies) == (30, True, False)
    answers = oracle.ask(questions, np.ones((1, len(questions))))
    assert not any(answer.cost for answer in answers)
    obs = recording.obs[recording.acted]
    probs = controller.probs(obs, legal=TASK.legal(obs))
    np.testing.assert_allclose([answer.report for answer in answers], probs, atol=1e-6)
    assert np.array_equal(oracle.members[0].everywhere()[recording.acted], probs.argmax(1))  # type: ignore[union-attr]


def test_a_cascade_asks_who_tells_most_for_its_price_and_audits(recording, questions, controller):
    oracle = make_oracle(("truth", "controller"), recording, K, controller=controller)
    assert (oracle.annotators, oracle.cost_before) == (("controller", "truth"), 30)
    assert np.array_equal(oracle.at_first(K)[1], np.eye(K)), "the truth does not err"
    noisy = make_oracle(("truth", "controller"), recording, K, controller=controller, noise=0.2)
    assert np.array_equal(noisy.at_first(K), honest_but_fallible(2, K)), "unless it is told to"
    useful = np.tile([[0.5], [1.0]], len(questions))
    answers = oracle.ask(questions, useful)
    assert [(a.trajectory, a.step) for a in answers] == [question[:2] for question in questions]
    assert np.mean([a.annotator == "truth" for a in answers]) == pytest.approx(AUDIT, abs=0.04)
    useful[0] = 0  # what the controller says tells nothing
    assert {answer.annotator for answer in oracle.ask(questions, useful)} == {"truth"}


def test_an_oracle_that_is_not_there_cannot_be_asked(recording, questions):
    with pytest.raises(UserError, match="no controller"):
        make_oracle(("controller",), recording, K)
    with pytest.raises(UserError, match="do not tell their true options"):
        Truth(replace(recording, option=np.full_like(recording.option, -1)), K, 0.0, 0)
    person = make_oracle(("person",), recording, K)
    assert person.ask(questions, np.ones((1, len(questions)))) == []
    assert (person.fallible, person.varies) == (False, True)
