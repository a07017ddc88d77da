"""What a user can get wrong about a run, and the smallest runs that there are."""

import json
from pathlib import Path

import pytest

import main as cli
from preceptor.agent.checks import check_train
from preceptor.agent.config import configure
from preceptor.agent.train import train
from preceptor.controller.checkpoint import load_controller
from preceptor.envs.catalog import get_task
from preceptor.ground.errors import UserError
from preceptor.teacher.labels import LabelStore
from tests.faulty_server import faulty

TINY = {"preset": "tiny", "teacher": "scripted", "steps": 600, "quiet": True, "eval_episodes": 0}


def run(logs, **changes):
    return train(configure(TINY, logdir=str(logs), **changes))


MISTAKES = [
    {"teacher": "replay"},
    {"teacher": "replay", "labels": "nowhere.sqlite"},
    {"teacher": "shuffled:nobody"},
    {"teacher": "local", "model": "nowhere"},
    {"method": "dagger", "teacher": "none"},
    {"controller": "nowhere"},
    {"steps": 10},
]


def test_a_run_that_could_not_begin_does_not_keep_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for mistake in MISTAKES:
        with pytest.raises(UserError) as caught:
            run(tmp_path / "log", **mistake)
        assert caught.value.next_step, mistake
        assert not [path for path in tmp_path.rglob("*") if path.is_file()], mistake
    assert run(tmp_path / "log", steps=32)["steps"] == 32


def test_a_run_that_has_begun_keeps_its_labels_when_it_cannot_go_on(tmp_path):
    first = run(tmp_path, steps=64)
    for words in ({"teacher": "replay"}, {"resume": True, "steps": 650, "labels": str(tmp_path)}):
        with pytest.raises(UserError):
            run(tmp_path, **words)
    assert (Path(first["run"]) / "result.json").exists()


@pytest.mark.parametrize("method", ["ihac", "dagger", "ppo"])
def test_few_environments_and_few_steps_suffice(tmp_path, method):
    for steps, num_envs in ((1, 1), (400, 3), (20, 20)):
        result = run(tmp_path, method=method, steps=steps, num_envs=num_envs, savedir=f"{steps}")
        assert result["steps"] == steps // num_envs * num_envs


def test_a_teacher_that_hardly_ever_answers_is_survived_and_counted(tmp_path):
    result = run(tmp_path, teacher="local", margin=1.0)
    assert result["abstained"] > 0


def test_a_store_that_is_replayed_is_only_read(tmp_path):
    first = run(tmp_path, savedir="first")
    store = Path(first["run"]) / "labels.sqlite"
    before = store.read_bytes()
    second = run(tmp_path, savedir="second", teacher="replay", labels=str(store))
    assert (second["queries"], second["calls"]) == (0, 0)
    assert store.read_bytes() == before
    assert [path.name for path in store.parent.glob("labels*")] == ["labels.sqlite"]
    with LabelStore(store, read_only=True) as labels:
        assert len(labels) == first["calls"]


def test_a_controller_is_taken_from_a_run_or_a_folder_with_its_provenance(tmp_path):
    first = run(tmp_path, savedir="first", method="dagger")
    folder, task = Path(first["run"]) / "controller", get_task("SimpleDoorKey")
    for i, source in enumerate(("first", str(folder))):
        second = run(tmp_path, savedir=f"second-{i}", controller=source)
        assert second["steps"] > first["steps"]
        taken = load_controller(Path(second["run"]) / "controller", task)
        assert taken.facts == load_controller(folder, task).facts


@pytest.mark.parametrize("words", ["--method ppo --controller x", "--method dagger --student flat"])
def test_choices_that_exclude_each_other_are_refused(words):
    with pytest.raises(UserError):
        check_train(cli.read("train", words.split()))


def test_a_run_without_a_teacher_says_so_and_names_its_task_in_full(tmp_path):
    result = run(tmp_path, method="ppo", task="simpledoorkey", steps=64)
    assert (result["teacher"], result["task"]) == ("none", "SimpleDoorKey")
    again = run(tmp_path, method="ppo", task="SimpleDoorKey", steps=128, resume=True)
    assert again["steps"] == 128


def test_what_a_server_can_do_stands_in_the_manifest_and_its_key_does_not(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with faulty() as server:
        result = run(tmp_path, teacher="llm", base_url=server.url, label_noise=0.1)
    manifest = (Path(result["run"]) / "manifest.json").read_text()
    capability = json.loads(manifest)["capability"]
    assert capability["model"] == "toy"
    assert capability["top_logprobs"] > 0
    assert "sk-secret" not in manifest
