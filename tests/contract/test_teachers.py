"""What every teacher promises, and what each control is."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preceptor.envs.catalog import get_task
from preceptor.ground.errors import UserError
from preceptor.teacher.base import Label, Teacher, TeacherError
from preceptor.teacher.config import TeacherConfig
from preceptor.teacher.controls import NoisyTeacher, ScriptedTeacher
from preceptor.teacher.labels import LabelStore
from preceptor.teacher.make import make_teacher
from tests.faulty_server import FaultyServer, faulty
from tests.small_task import SmallTask

TASK = SmallTask()
SCENES = TASK.sample_scenes(np.random.default_rng(3), 60)
DISTINCT = {scene.facts: scene for scene in SCENES}
CHOICES = [scene for scene in DISTINCT.values() if len(scene.legal) > 1]

Make = Callable[[], Teacher]


def made(name: str, store: LabelStore | None = None, seed: int = 0, **said: Any) -> Teacher:
    teacher = make_teacher(TeacherConfig(name, **said), TASK, store, seed=seed)
    assert teacher is not None
    return teacher


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty() as running:
        yield running


@pytest.fixture(params=["local", "llm", "scripted", "replay", "random", "uniform-legal", "shuffled:scripted", "noisy"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """A way to make one kind of teacher, as often as wanted."""
    if request.param == "llm":
        server = request.getfixturevalue("server")
        return lambda: made("llm", base_url=server.url)
    if request.param == "replay":
        with LabelStore(tmp_path / "recorded.sqlite") as store:
            made("scripted", store).label(SCENES)
        return lambda: made("replay", labels=str(tmp_path / "recorded.sqlite"))
    if request.param == "noisy":
        return lambda: made("scripted", label_noise=0.3, seed=5)
    return lambda: made(request.param, seed=5)


def is_over_legal_options(label: Label, legal: tuple[int, ...]) -> bool:
    zero_elsewhere = all(p == 0 for i, p in enumerate(label.probs) if i not in legal)
    return len(label.probs) == len(TASK.options) and zero_elsewhere and sum(label.probs) == pytest.approx(1.0)


def test_labels_are_distributions_over_legal_options_in_order(make: Make) -> None:
    labels = make().label(SCENES)
    assert len(labels) == len(SCENES)
    assert all(is_over_legal_options(label, scene.legal) for label, scene in zip(labels, SCENES, strict=True))
    by_facts = {scene.facts: label for scene, label in zip(SCENES, labels, strict=True)}
    assert all(by_facts[scene.facts] == label for scene, label in zip(SCENES, labels, strict=True))


def test_what_was_asked_is_no_second_query_and_a_resume_changes_nothing(make: Make) -> None:
    teacher, straight, before, after = (make() for _ in range(4))
    assert teacher.label([]) == []
    teacher.label(SCENES)
    queries = teacher.stats.queries
    assert queries <= len(DISTINCT)
    teacher.label(SCENES[:10])
    assert teacher.stats.queries == queries
    assert teacher.stats.hits > 0
    straight.label(SCENES[:30])
    before.label(SCENES[:30])
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    for resumed, uninterrupted in zip(after.label(SCENES[20:]), straight.label(SCENES[20:]), strict=True):
        # Not to the bit: with a store of its own it asks again, and a model's last digits depend on the batch.
        assert resumed.probs == pytest.approx(uninterrupted.probs, abs=1e-5)
    assert after.stats.queries >= straight.stats.queries


def test_an_unknown_teacher_is_suggested_and_none_is_none() -> None:
    for unknown, said in (("script", "Did you mean 'scripted'"), ("local:x", "Unknown teacher")):
        with pytest.raises(UserError, match=said):
            make_teacher(unknown, TASK)
    assert make_teacher("none", TASK) is None


def test_replay_gives_what_was_recorded_of_one_model_and_nothing_else(tmp_path: Path) -> None:
    path = str(tmp_path / "labels.sqlite")
    with LabelStore(path) as store:
        recorded = made("scripted", store).label(CHOICES[:-1])
        replay = made("replay", labels=path)
        made("local", store).label(CHOICES)
    assert [label.probs for label in replay.label(CHOICES[:-1])] == [label.probs for label in recorded]
    assert replay.stats.queries == replay.stats.calls == 0
    with pytest.raises(TeacherError, match="no answer") as error:
        replay.label([CHOICES[-1]])
    assert "--teacher local" in str(error.value)
    with pytest.raises(TeacherError, match="several"):
        made("replay", labels=path)
    chosen = made("replay", labels=path, model="script@smoothing=0")
    assert [label.probs for label in chosen.label(CHOICES[:-1])] == [label.probs for label in recorded]
    with pytest.raises(UserError, match="--labels"):
        made("replay")


def test_the_script_is_sure_and_controls_know_nothing_and_depend_on_the_seed() -> None:
    scripted = [np.eye(len(TASK.options))[TASK.script(scene)].tolist() for scene in CHOICES]
    assert [list(label.probs) for label in made("scripted").label(CHOICES)] == scripted
    uniform = made("uniform-legal").label(CHOICES)
    assert all(max(label.probs) == 1 / len(s.legal) for label, s in zip(uniform, CHOICES, strict=True))
    for control in ("random", "shuffled:scripted"):
        one, again, other = (made(control, seed=seed).label(CHOICES) for seed in (1, 1, 2))
        assert one == again != other
        assert np.mean([list(label.probs) == right for label, right in zip(one, scripted, strict=True)]) < 0.75


def noisy(probability: float, seed: int = 0, store: LabelStore | None = None) -> NoisyTeacher:
    return NoisyTeacher(ScriptedTeacher(TASK, LabelStore() if store is None else store), probability, seed)


def test_noise_flips_the_share_that_was_asked_for_to_other_legal_options_after_the_store() -> None:
    teacher, clean = noisy(0.3), made("scripted").label(CHOICES)
    flips = [given != true for _ in range(100) for given, true in zip(teacher.label(CHOICES), clean, strict=True)]
    assert np.mean(flips) == pytest.approx(0.3, abs=0.03)
    store = LabelStore()
    for label, scene in zip(noisy(1.0, store=store).label(CHOICES), CHOICES, strict=True):
        assert is_over_legal_options(label, scene.legal)
        assert int(np.argmax(label.probs)) != TASK.script(scene)
    kept = {call.facts: call.probs for call in store.calls()}
    assert all(int(np.argmax(kept[scene.facts])) == TASK.script(scene) for scene in CHOICES)
    one, again, other = noisy(0.5, 1), noisy(0.5, 1), noisy(0.5, 2)
    first = one.label(CHOICES)
    assert first == again.label(CHOICES) != other.label(CHOICES)
    assert first != one.label(CHOICES), "it is not frozen"


def test_one_legal_option_is_no_question_and_an_unclear_label_an_abstention(server: FaultyServer) -> None:
    store = LabelStore()
    teacher = made("llm", store, base_url=server.url, margin=0.1)
    (label,) = teacher.label([TASK.scene("unseen", (), "nothing")])
    assert (label.probs, label.method) == ((1.0, 0.0, 0.0, 0.0, 0.0), "only_option")
    assert teacher.stats.queries == teacher.stats.calls == 0
    server.reply = lambda prompt: {"A": 0.6, "B": 0.4}
    scene = TASK.scene("unseen", ("blue",), "nothing")
    (label,) = teacher.label([scene])
    assert label.abstained, "both orders say A"
    assert label.probs == (0.0,) * 5
    (label,) = made("llm", store, base_url=server.url).label([scene])
    assert not label.abstained, "the store holds what was said, not what was made of it"


def test_a_small_model_on_a_task_that_it_never_saw_is_said_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    for name, warned in (("KeyInBox", False), ("RescueWorld-n3", True)):
        make_teacher("local", get_task(name))
        assert ("labels judge --teacher local --task RescueWorld-n3" in capsys.readouterr().err) == warned
