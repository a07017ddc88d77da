"""The skills that a run of helios found: how well they fit the options, their pictures, and their names."""

import json
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import main as cli
from preceptor.agent.config import configure
from preceptor.agent.runs.naming import Naming, agreement_of, distinct, read_names, scene_around
from preceptor.agent.runs.run import Run
from preceptor.agent.runs.skills_report import agreement, found_by, stays
from preceptor.agent.train import train
from preceptor.envs.catalog import get_task
from preceptor.envs.kitchen.layout import CENTRE, PLACE, SEEN_PLACE, SHARES, SITES

KITCHEN = get_task("KitchenKinematic")
SMALL = {"method": "helios", "task": "KitchenKinematic", "steps": 120, "eval_episodes": 0, "quiet": True, "demos": "12"}
SMALL |= {"online": 0, "horizon": 10, "dims": 4, "hidden": 32, "least": 0.1}


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("log")
    train(configure(SMALL, logdir=str(place), savedir="s"))
    return place


@pytest.fixture(scope="module")
def run(logs) -> Run:
    return Run.open(logs / "helios" / "KitchenKinematic" / "s")


@pytest.fixture(scope="module")
def found(run):
    return found_by(run)


def said(capsys, *words: str) -> dict:
    assert cli.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *words: str) -> str:
    assert cli.main([*words]) == 2
    err = capsys.readouterr().err
    assert "next: " in err
    assert "Traceback" not in err
    return err


def test_agreement_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    kind, option = rng.integers(5, size=300), rng.integers(4, size=300)
    option[:150] = kind[:150] % 4
    nmi, purity = agreement(kind, option)
    assert nmi == pytest.approx(metrics.normalized_mutual_info_score(option, kind))
    most = sum(np.bincount(option[kind == k]).max() for k in range(5))
    assert purity == pytest.approx(most / 300)
    assert agreement(kind, kind + 3) == pytest.approx((1, 1))
    assert agreement(np.zeros(9, int), np.zeros(9, int)) == (1, 1)


def test_every_window_has_a_kind_and_stays_add_up(found):
    assert len(found.kind) == np.maximum(found.recording.lengths - 1 - 10 + 1, 0).sum()
    assert found.kind.max() < found.kinds
    assert [sum(lengths) for lengths in stays(found)] == np.bincount(found.kind, minlength=found.kinds).tolist()
    few = found._replace(
        kind=np.array([0, 0, 1, 1, 0, 0]), episode=np.array([0, 0, 0, 1, 1, 1]), start=np.array([0, 1, 2, 0, 1, 2])
    )
    assert stays(few)[:2] == [[2, 2], [1, 1]]


def test_the_report_has_a_row_per_kind_and_a_picture(logs, run, capsys):
    result = said(capsys, "report", "s", "--skills", "--logdir", str(logs))
    assert len(result["table"]) == result["kinds"]
    assert sum(float(row["share"].rstrip("%")) for row in result["table"]) == pytest.approx(100, abs=1)
    assert list(result["kinds_by_share"]) == ["0.005", "0.01", "0.02", "0.04"]
    assert 0 <= result["nmi"] <= 1
    assert result["picture"] == str(run.path / "videos" / "skills.png")
    with Image.open(result["picture"]) as drawn:
        assert drawn.width == 4 * 320
        pixels = np.asarray(drawn)
    assert (pixels[:, :320] != pixels[:, 320:640]).any(), "something moves in a window"


def moments(*done: tuple[int, ...]):
    env = KITCHEN.make_vec(len(done))
    obs = env.reset()[0]
    env.close()
    for row, which in zip(obs, done, strict=True):
        row[SHARES][list(which)] = 1
    return obs


def test_the_script_names_what_became_done():
    naming = Naming(KITCHEN)
    nothing, one, three = moments((), (2,), (0, 2, 3))
    other = len(KITCHEN.options)
    assert naming.scene(nothing, nothing) is None
    assert naming.script(naming.scene(nothing, one)) == 2
    assert naming.script(naming.scene(one, three)) == other, "two were done"
    assert naming.script(naming.scene(three, one)) == other, "none was"
    there = nothing.copy()
    there[PLACE] = SEEN_PLACE * (SITES[3] - CENTRE)
    assert naming.script(naming.scene(nothing, there)) == 3, "the gripper has come to it"
    assert naming.script(naming.scene(there, nothing)) == 3, "or has left it"
    assert naming.script(naming.scene(there, one)) == 2, "what became done comes first"
    assert "In place to" not in naming.scene(nothing, one).text
    scene = naming.scene(nothing, one)
    assert scene.legal == tuple(range(other + 1))
    assert scene.text.startswith("Before: Done: nothing.")
    assert naming.options[other].words == "something else"


def test_a_window_in_which_nothing_changes_is_widened(found):
    naming, last = Naming(KITCHEN), found.recording.lengths - 1
    seen = found.recording.obs
    codes = [KITCHEN.fact_codes(seen[n]) * 8 + KITCHEN.in_place(seen[n]) for n in range(len(found.recording))]
    some = np.random.default_rng(0).permutation(len(found.kind))[:200]
    for window in some:
        n, start = found.episode[window], found.start[window]
        near = codes[n][start] != codes[n][start + 10]
        far = codes[n][max(0, start - 10)] != codes[n][min(last[n], start + 20)]
        assert (scene_around(found, naming, window) is not None) == bool(near or far)


def test_shuffled_answers_agree_less():
    kind = np.repeat(np.arange(4), 50)
    probs = np.eye(5)[kind]
    assert agreement_of(probs, kind, 4) == 1
    rng = np.random.default_rng(0)
    chance = np.mean([agreement_of(probs[rng.permutation(200)], kind, 4) for _ in range(20)])
    assert 0.25 <= chance < 0.4
    assert agreement_of(probs[:0], kind[:0], 4) == 0


def test_names_are_distinct_and_a_person_has_the_last_word(logs, run, capsys):
    first = said(capsys, "skills", "s", "--teacher", "scripted", "--windows", "12", "--logdir", str(logs))
    names = [skill["name"] for skill in first["skills"]]
    assert len(set(names)) == len(names) == len(first["table"])
    assert 0 < first["undecided"] < first["windows"]
    assert first["agreement"] >= first["shuffled"] > 0
    assert first["right"] > first["right_shuffled"]
    assert all(sum(skill["probs"]) == pytest.approx(1) for skill in first["skills"])
    own = ("--name", "0=shake hands", "--logdir", str(logs))
    second = said(capsys, "skills", "s", "--teacher", "none", *own)
    assert second["skills"][0]["name"] == "shake hands"
    assert second["skills"][0]["source"] == "person"
    assert [skill["words"] for skill in second["skills"][1:]] == [skill["words"] for skill in first["skills"][1:]]
    assert read_names(run.path / "skills.json")["skills"] == second["skills"]
    assert distinct(["a", "b", "a", "a"]) == ["a", "b", "a (2)", "a (3)"]
    assert cli.main(["report", "s", "--logdir", str(logs)]) == 0, "the run is as sound as before"


def test_what_cannot_be_named_is_refused(logs, capsys):
    for wrong in ("99=far", "x=y", "0=", "0"):
        assert "is not the number of a skill" in refused(
            capsys, "skills", "s", "--teacher", "none", "--name", wrong, "--logdir", str(logs)
        )
    assert "one run of helios" in refused(capsys, "report", "--skills", "--logdir", str(logs))
    refused(capsys, "skills", "nowhere", "--logdir", str(logs))


def test_named_skills_are_the_options_of_a_controller(logs, run, capsys, tmp_path, monkeypatch):
    said(capsys, "skills", "s", "--teacher", "scripted", "--logdir", str(logs))
    module = "from preceptor.agent.skill_options import SkillTask\n\n\nclass Skilled(SkillTask):\n"
    (tmp_path / "skilled_kitchen.py").write_text(f"{module}    run = {str(run.path)!r}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    train_it = ("train", "--method", "dagger", "--task", "skilled_kitchen:Skilled", "--teacher", "scripted")
    result = said(capsys, *train_it, "--steps", "640", "--num-envs", "4", "--eval-episodes", "0", "--quiet")
    assert result["queries"] > 0
    task = get_task("skilled_kitchen:Skilled")
    names = [skill["name"] for skill in read_names(run.path / "skills.json")["skills"]]
    assert task.options.ids == tuple(f"skill:{name}" for name in names)
    assert set(task.options.timeouts) == {10}
    obs = moments((), (2,), (0, 2, 3))
    acts = [task.skill(obs, np.full(3, k)) for k in range(len(names))]
    assert all(np.abs(act).max() <= 1 and act.shape == (3, 4) for act in acts)
    assert not task.option_done(obs, np.zeros(3, int)).any()
    scene = task.describe(obs)[0]
    assert scene.legal == tuple(range(len(names)))
    assert task.script(scene) in scene.legal

    def refuse(*args):
        raise AssertionError("a student needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    (run.path / "skills.json").rename(run.path / "gone.json")  # read at construction, and not again
    judged = said(capsys, "eval", "--task", "skilled_kitchen:Skilled", "--seeds", "1000000:1000002")
    (run.path / "gone.json").rename(run.path / "skills.json")
    assert judged["student"]["sampled"]["episodes"] == 2
