"""Plans as a teacher: one call for each mission, a monitor that follows it, and what is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic_core import to_json

from preceptor.envs.catalog import get_task
from preceptor.envs.missions.scenes import from_strings, legal_ids, to_strings, to_text, understood
from preceptor.envs.task import Scene
from preceptor.ground.errors import UserError
from preceptor.teacher.base import UNAVAILABLE, Label, Teacher, TeacherError
from preceptor.teacher.config import TeacherConfig
from preceptor.teacher.label_lines import from_lines, to_record
from preceptor.teacher.labels import LabelStore
from preceptor.teacher.make import make_teacher
from preceptor.teacher.planning import REFUSED
from tests.faulty_server import FaultyServer, faulty

TASK = get_task("OneRoom-PutNext:distractors=0")
SCENES = TASK.sample_scenes(np.random.default_rng(3), 60)
MISSIONS = {scene.facts[0] for scene in SCENES if len(scene.legal) > 1}
PUT = "put the red ball next to the blue box"
PLAN_OF_PUT = "find the red ball\npick up the red ball\nfind the blue box\ndrop next to the blue box"


def planning(store: LabelStore | None = None, teacher: str = "scripted", **said: Any) -> Teacher:
    made = make_teacher(TeacherConfig(teacher, teacher_by="plan", **said), TASK, store)
    assert made is not None
    return made


def scene(mission: str = PUT, **changes: Any) -> Scene:
    """A scene of a mission in which everything can be reached, but for what is changed."""
    said = dict(fact.split("=", 1) for fact in ("explore=yes", "bare=yes", "aside=yes", "at=no"))
    said |= {"mission": mission, "done": "0000", "1.what": "reachable", "1.beside": "reachable+beside"} | changes
    facts = from_strings(tuple(f"{name}={value}" for name, value in said.items()))
    task_options = {option: k for k, option in enumerate(TASK.options.ids)}
    return Scene(TASK.name, to_strings(facts), to_text(facts), tuple(sorted(task_options[o] for o in legal_ids(facts))))


def chosen(label: Label) -> str:
    return TASK.options.ids[int(np.argmax(label.probs))] if not label.abstained else "abstained"


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({}, "goto:red ball"),
        ({"1.what": "unknown"}, "explore"),
        ({"1.what": "reachable+front", "front": "red ball"}, "pickup"),
        ({"1.what": "held", "held": "red ball", "1.beside": "unknown"}, "explore"),
        ({"1.what": "held", "held": "red ball", "1.beside": "reachable+beside"}, "beside:blue box"),
        ({"1.what": "held", "held": "red ball", "1.beside": "reachable+beside+here"}, "drop"),
        ({"held": "green key"}, "aside"),
        ({"done": "1000"}, "abstained"),
    ],
)
def test_the_facts_say_which_step_is_the_current_one(changes: dict[str, str], option: str) -> None:
    assert chosen(planning().label([scene(**changes)])[0]) == option


def test_the_clauses_are_done_in_the_order_of_the_plan() -> None:
    mission = "go to the red ball and pick up the blue box"
    statuses = {"1.what": "reachable", "2.what": "reachable"}
    plans = TASK.plans
    assert plans is not None
    steps = ("pick up the blue box", "go to the red ball")
    for plan, option in ((steps, "goto:blue box"), (steps[::-1], "goto:red ball")):
        where = scene(mission, **statuses)
        index, step = plans.follow(plans.read(plans.question(where), "\n".join(plan))[0], where)
        assert index is not None
        assert (TASK.options.ids[index], step) == (option, plan[0])


def test_one_call_for_each_mission_and_none_for_those_in_the_store() -> None:
    store = LabelStore()
    teacher = planning(store)
    labels = teacher.label(SCENES)
    assert (teacher.stats.queries, teacher.stats.calls) == (len(MISSIONS), len(MISSIONS))
    assert len(MISSIONS) < len({one.facts for one in SCENES})
    for one, label in zip(SCENES, labels, strict=True):
        assert sum(label.probs) == 1
        assert all(p == 0 or k in one.legal for k, p in enumerate(label.probs))
    again = planning(store)
    assert again.label(SCENES) == labels
    assert (again.stats.calls, again.stats.hits) == (0, len(MISSIONS))


def test_its_plans_solve_levels_that_it_has_not_seen() -> None:
    teacher, env, levels = planning(), TASK.make_vec(16, split="eval"), np.arange(1_000_000, 1_000_016)
    obs, _ = env.reset(options={"level_seeds": levels})
    won, over = np.zeros(16, np.bool_), np.zeros(16, np.bool_)
    while not over.all():
        options = np.array([int(np.argmax(label.probs)) for label in teacher.label(TASK.describe(obs))])
        obs, _, terminated, truncated, info = env.step(TASK.skill(obs, options))
        won |= info["success"] & ~over
        over |= terminated | truncated
    assert won.all()
    assert teacher.stats.abstained == 0


def test_another_plan_is_asked_for_when_a_step_has_become_impossible() -> None:
    store = LabelStore()
    teacher = planning(store)
    hidden = scene(**{"1.what": "unknown", "explore": "no", "held": "green key", "bare": "no", "aside": "no"})
    assert chosen(teacher.label([hidden])[0]) == "abstained", "it cannot be put down either"
    assert (teacher.stats.calls, teacher.stats.extra["again"], teacher.stats.abstained) == (2, 1, 1)
    first, second = store.calls()
    assert first.facts == (f"mission={PUT}",)
    assert second.facts == (f"mission={PUT}", "held=green key", "impossible=find the red ball")
    assert "This cannot be done now: find the red ball" in second.scene
    assert second.reply.startswith("drop\n")


def test_another_plan_is_followed() -> None:
    mission, statuses = f"{PUT} and pick up the grey key", {"2.what": "reachable"}
    hidden = scene(mission, **{"1.what": "unknown", "explore": "no"}, **statuses)
    other = f"find the grey key\npick up the grey key\ndrop\n{PLAN_OF_PUT}"

    def reply(prompt: str) -> str:
        return other if "cannot be done" in prompt else f"{PLAN_OF_PUT}\ndrop\npick up the grey key"

    with faulty(reply=reply) as server:
        label = planning(teacher="llm", base_url=server.url).label([hidden])[0]
    assert chosen(label) == "goto:grey key"


def test_a_mission_that_no_rule_reads_is_not_planned_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    teacher = planning()
    strange = Scene(TASK.name, to_strings(from_strings(scene().facts)._replace(text="frobnicate it")), "", (0, 1))
    assert chosen(teacher.label([strange])[0]) == "abstained"
    assert understood("frobnicate it").clauses == ()
    assert (teacher.stats.calls, teacher.stats.extra["not_understood"]) == (0, 1)
    assert "frobnicate" in capsys.readouterr().err


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty(reply=lambda prompt: f"<think>well</think>\n{PLAN_OF_PUT}".replace("pick up", "take")) as running:
        yield running


def test_a_server_writes_the_plan_and_it_is_repaired_counted_and_carried_to_other_stores(
    server: FaultyServer, tmp_path: Path
) -> None:
    store = LabelStore()
    teacher = planning(store, "llm", base_url=server.url)
    labels = teacher.label([scene(), scene(**{"1.what": "unknown"})])
    assert [chosen(label) for label in labels] == ["goto:red ball", "explore"]
    assert (teacher.stats.queries, teacher.stats.calls, teacher.stats.extra["repaired"]) == (1, 1, 1)
    messages = server.bodies("chat")[-1]["messages"]
    assert messages[-1]["content"] == f"Mission: {PUT}"
    lines = [to_json(to_record(call)) for call in store.calls()]
    assert [call.reply for call in from_lines(lines, "lines")] == [call.reply for call in store.calls()]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("juggle the red ball", "juggle"),
        ("\n".join(["drop"] * 40), "1 to 32 steps"),
        ("go to the green key", "for another mission"),
        ("open the red ball", "red ball"),
        ("x" * 5000, "5000 characters"),
    ],
)
def test_what_is_no_plan_for_the_mission_is_refused_kept_counted_and_said(
    reply: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = LabelStore()
    with faulty(reply=lambda prompt: reply) as server:
        teacher = planning(store, "llm", base_url=server.url)
        labels = teacher.label([scene(), scene(**{"1.what": "unknown"})])
    assert all(label.abstained for label in labels)
    assert (teacher.stats.calls, teacher.stats.invalid, teacher.stats.extra["refused"]) == (1, 1, 1)
    assert said in capsys.readouterr().err
    (row,) = store.calls(answers_only=False)
    assert (row.status, row.reply) == (REFUSED, reply)


def test_a_dead_server_and_a_spent_budget_end_as_they_do_for_labels(server: FaultyServer) -> None:
    other = "put the grey ball next to the blue box"
    teacher = planning(teacher="llm", base_url=server.url, max_llm_calls=12)
    with pytest.raises(TeacherError, match="max-llm-calls"):
        teacher.label(
            [
                scene(f"put the {colour} {kind} next to the blue box")
                for colour in ("grey", "green", "blue", "red")
                for kind in ("ball", "key")
            ]
        )
    waiting = planning(teacher="llm", base_url=server.url, on_teacher_failure="hold")
    server.close()
    assert waiting.label([scene(other)])[0].method == UNAVAILABLE


def test_what_cannot_be_planned_is_an_error_with_the_next_command(server: FaultyServer) -> None:
    with pytest.raises(UserError, match="--teacher-by scene"):
        make_teacher(TeacherConfig("scripted", teacher_by="plan"), get_task("SimpleDoorKey"))
    with pytest.raises(UserError, match="--teacher scripted, or --teacher llm"):
        planning(teacher="local")
    with pytest.raises(UserError, match="--scoring samples"):
        planning(teacher="llm", base_url=server.url, scoring="logprobs")
