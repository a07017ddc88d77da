"""Oracles: who answers what, at which price, and that asking in another order hears the same."""

from dataclasses import replace

import numpy as np
import pytest

from agent.data.recording import Recording
from agent.demonstrating import record
from agent.halo.em import honest_but_fallible
from agent.halo.ledger import Question
from agent.halo.oracles import AUDIT, PRICES, Belief, Cascade, LabellerOracle, Truth, at_first, make_oracle
from agent.teaching import Annotator
from controller.encoders import encoder_of
from controller.network import ControllerNetwork
from controller.roles import Controller
from envs.catalog import get_task
from ground.errors import UserError
from teacher.labels import LabelStore
from teacher.make import make_teacher

TASK = get_task("RescueWorld-n3")
K = 3


@pytest.fixture(scope="module")
def recording() -> Recording:
    return record(TASK, 20, 0)


@pytest.fixture(scope="module")
def questions(recording: Recording) -> list[Question]:
    """About every step."""
    return [Question(int(n), int(t)) for n, t in np.argwhere(recording.acted)]


def unsure(questions: list[Question], annotators: int = 1) -> Belief:
    return Belief(np.full((len(questions), K), 1 / K), honest_but_fallible(annotators, K))


@pytest.fixture(scope="module")
def controller() -> Controller:
    return Controller(TASK, ControllerNetwork(encoder_of(TASK), K), facts={"teacher": {"queries": 9, "calls": 30}})


def test_truth_is_true_and_errs_as_often_as_told(recording: Recording, questions: list[Question]) -> None:
    true = recording.option[recording.acted]
    said = [np.argmax(a.report) for a in Truth(recording, K, 0.0, 0).ask(questions, unsure(questions))]
    assert np.array_equal(said, true)
    noisy = [np.argmax(a.report) for a in Truth(recording, K, 0.2, 0).ask(questions, unsure(questions))]
    assert 0.15 < (np.array(noisy) != true).mean() < 0.25


def test_noise_depends_on_the_question_alone(recording: Recording, questions: list[Question]) -> None:
    oracle = Truth(recording, K, 0.5, 7)
    one = [a.report for a in oracle.ask(questions, unsure(questions))]
    other = [a.report for a in oracle.ask(questions[::-1], unsure(questions))]
    assert one == other[::-1]
    twice = [a.report for a in oracle.ask([Question(n, t, 1) for n, t, _ in questions], unsure(questions))]
    assert one != twice, "asked again, an annotator that errs may say something else"


def test_a_teacher_costs_its_calls_and_the_same_scene_once(recording: Recording, questions: list[Question]) -> None:
    teacher = make_teacher("scripted", TASK, LabelStore())
    assert teacher is not None
    oracle = LabellerOracle("teacher", Annotator(TASK, teacher), recording)
    answers = oracle.ask(questions, unsure(questions))
    scenes = len({scene.facts for scene in TASK.describe(recording.obs[recording.acted])})
    assert sum(answer.cost for answer in answers) == pytest.approx(scenes)
    assert sum(answer.cost for answer in oracle.ask(questions, unsure(questions))) == 0
    assert np.array_equal([np.argmax(a.report) for a in answers], recording.option[recording.acted]), "order is fixed"


def test_a_flawed_teacher_is_flawed_on_the_levels_that_were_demonstrated() -> None:
    task = get_task("ColoredDoorKey", "colours")
    teacher = make_teacher("scripted", task, LabelStore())
    assert teacher is not None
    flawed = record(task, 20, 0, epsilon=0.0)
    oracle = LabellerOracle("teacher", Annotator(task, teacher), flawed)
    assert np.array_equal(oracle.everywhere()[flawed.acted], flawed.option[flawed.acted]), "its own mistakes"


def test_a_controller_says_its_distribution_and_costs_what_its_teacher_did(
    recording: Recording, questions: list[Question], controller: Controller
) -> None:
    oracle = make_oracle(("controller",), recording, K, controller=controller)
    assert isinstance(oracle, LabellerOracle)
    assert oracle.cost_before == 30
    answers = oracle.ask(questions, unsure(questions))
    assert not any(answer.cost for answer in answers)
    obs = recording.obs[recording.acted]
    probs = controller.probs(obs, legal=TASK.legal(obs))
    np.testing.assert_allclose([answer.report for answer in answers], probs, atol=1e-6)
    assert np.array_equal(oracle.everywhere()[recording.acted], probs.argmax(1))


def test_a_cascade_asks_who_tells_most_for_its_price_and_audits(
    recording: Recording, questions: list[Question], controller: Controller
) -> None:
    oracle = make_oracle(("truth", "controller"), recording, K, controller=controller)
    assert isinstance(oracle, Cascade)
    assert oracle.annotators == ("controller", "truth")
    assert oracle.cost_before == 30
    first = at_first(oracle, K)
    assert np.array_equal(first[1], np.eye(K)), "the truth does not err"
    noisy = at_first(make_oracle(("truth", "controller"), recording, K, controller=controller, noise=0.2), K)
    assert np.array_equal(noisy, honest_but_fallible(2, K)), "unless it is told to"
    useful = [a.annotator for a in oracle.ask(questions, Belief(unsure(questions).options, first))]
    assert np.mean([who == "truth" for who in useful]) == pytest.approx(AUDIT, abs=0.04)
    useless = first.copy()
    useless[0] = 1 / K  # what it says tells nothing
    asked = [a.annotator for a in oracle.ask(questions, Belief(unsure(questions).options, useless))]
    assert set(asked) == {"truth"}


def test_an_oracle_that_is_not_there_cannot_be_asked(recording: Recording, questions: list[Question]) -> None:
    assert set(PRICES) == {"truth", "controller", "teacher", "person"}
    with pytest.raises(UserError, match="no controller"):
        make_oracle(("controller",), recording, K)
    with pytest.raises(UserError, match="do not tell their true options"):
        Truth(replace(recording, option=np.full_like(recording.option, -1)), K, 0.0, 0)
    assert make_oracle(("person",), recording, K).ask(questions, unsure(questions)) == []
