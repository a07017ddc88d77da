"""Exports: each plays as its run does, without torch; what cannot be exported, or was tampered with, is refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import preceptor
import preceptor.runtime
from preceptor.agent.evaluate import load_student
from preceptor.agent.export import writing
from preceptor.agent.export.parity import check_parity
from preceptor.agent.export.playing import MANIFEST, load_player
from preceptor.agent.flags import ExportConfig
from preceptor.agent.levels import Player
from preceptor.agent.players import play, random_player
from preceptor.agent.runs.run import Run
from preceptor.ground.atomic import CheckpointError, DamagedError, write_json
from preceptor.ground.errors import UserError
from tests.export_played import played
from tests.small_runs import RUNS, made

ROOT = Path(__file__).parents[2]
Exported = Callable[..., tuple[Path, Path]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A run of a name, and its export."""
    log = tmp_path_factory.mktemp("log")
    run = cache(lambda name: made(log, name))

    @cache
    def both(name: str, form: Any = "onnx") -> tuple[Path, Path]:
        result = writing.export(ExportConfig(str(run(name)), form, observations=200))
        return run(name), Path(result["export"])

    return both


def elsewhere(folder: Path, levels: int, style: str) -> dict[str, Any]:
    """What is played in a process that has no torch."""
    words = [sys.executable, "-m", "tests.export_played", str(folder), str(levels), style]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=200)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("style", ["greedy", "7"])
@pytest.mark.parametrize("name", ["ihac", "sac", "hiro"])
def test_without_torch_200_levels_are_played_as_the_run_plays_them(exported: Exported, name: str, style: str) -> None:
    run, folder = exported(name)
    theirs = elsewhere(folder, 200, style)
    ours = played(preceptor.load(run, greedy=style == "greedy", seed=7), 200)
    assert theirs["torch"] is False
    assert theirs["options"] == ours["options"]
    np.testing.assert_allclose(theirs["actions"], ours["actions"], atol=1e-4)  # of named actions: the same
    np.testing.assert_allclose(theirs["returns"], ours["returns"], atol=1e-3)


@pytest.mark.parametrize("name", sorted(RUNS.keys() - {"flow"}))
def test_every_level_that_is_a_network_is_exported(exported: Exported, name: str) -> None:
    run, folder = exported(name)
    said = json.loads((folder / MANIFEST).read_text())
    assert said["parity"]["observations"] >= 200
    assert said["parity"]["differed"] == 0
    assert 0 <= said["parity"]["largest_difference"] <= 1e-5
    task, player = load_player(folder)
    student = load_student(Run.open(run), task)
    for greedy in (True, False):
        ours, theirs = (play(task, each, range(1_000_000, 1_000_010), greedy=greedy) for each in (student, player))
        np.testing.assert_allclose(ours.returns, theirs.returns, atol=1e-3)
        np.testing.assert_array_equal(ours.length, theirs.length)


def test_what_onnx_cannot_hold_is_refused_and_torch_holds_it(exported: Exported) -> None:
    with pytest.raises(UserError, match="a flow leads noise to its actions"):
        exported("flow")
    run, folder = exported("flow", "torch")
    assert not (run / "export" / "onnx").exists()
    agents = preceptor.load(run, greedy=True), preceptor.runtime.load(folder, greedy=True)
    ours, theirs = (played(agent, 20) for agent in agents)
    assert ours == theirs
    again = shutil.copytree(folder, folder.parent / "elsewhere")
    shutil.rmtree(run / "checkpoints")  # an export is whole without its run
    assert played(preceptor.runtime.load(again, greedy=True), 20) == ours


def test_a_run_that_is_loaded_may_be_an_export(exported: Exported) -> None:
    _, folder = exported("sac")
    agent = preceptor.load(folder, greedy=True)
    observation, _ = agent.task.make_env().reset(seed=0)
    assert np.shape(agent.act(observation)) == (2,)


def test_parity_fails_loudly_and_leaves_nothing(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    run, folder = exported("sac")
    task, player = load_player(folder)
    with pytest.raises(UserError, match="UniformBox"):
        check_parity(task, player, random_player(), 100)

    class Off:
        def __init__(self, level: Any, by: float) -> None:
            self.level, self.by = level, by

        def act(self, *seen: Any) -> Any:
            choice = self.level.act(*seen)
            return type(choice)(choice.mean + np.float32(self.by), choice.log_std)

    def tampered(*args: Any) -> Player:
        return player._replace(low=Off(player.low, 1e-4))  # type: ignore[arg-type]

    monkeypatch.setattr(writing, "player_in", tampered)
    with pytest.raises(UserError, match=r"low level.*Nothing was written"):
        writing.export(ExportConfig(str(run), to=str(folder.parent / "other")))
    assert not (folder.parent / "other").exists()
    check_parity(task, player, player._replace(low=Off(player.low, 1e-7)), 100)  # type: ignore[arg-type]


def test_the_card_says_what_the_run_came_to(exported: Exported) -> None:
    run, folder = exported("halo")
    card = (folder / "card.md").read_text()
    result = json.loads((run / "result.json").read_text())
    greedy = result["student"]["greedy"]
    assert f"| greedy | {greedy['success']:.3f} [{greedy['low']:.3f}, {greedy['high']:.3f}]" in card
    assert f"{result['teacher']}: {result['queries']} queries" in card
    assert "10 demonstrations" in card
    assert "go to the red target (`" in card
    assert "judged on 4 episodes only" in card


def test_what_was_tampered_with_is_refused(exported: Exported, tmp_path: Path) -> None:
    _, folder = exported("sac")
    said = json.loads((folder / MANIFEST).read_text())

    def changed(**changes: Any) -> Path:
        shutil.rmtree(tmp_path / "agent", ignore_errors=True)
        copy = shutil.copytree(folder, tmp_path / "agent")
        if changes:
            write_json(copy / MANIFEST, said | changes)
        return copy

    with pytest.raises(CheckpointError, match="schema 2; this version reads up to 1"):
        preceptor.runtime.load(changed(schema=2))
    with pytest.raises(CheckpointError, match="has task 'PointPush', but PointReach needs"):
        preceptor.runtime.load(changed(identity=said["identity"] | {"task": "PointPush"}))
    (changed() / "low.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"low.onnx is missing"):
        preceptor.runtime.load(tmp_path / "agent")
    with (changed() / "low.onnx").open("r+b") as file:
        file.seek(200)
        file.write(b"\0\1\2")
    with pytest.raises(DamagedError, match=r"low.onnx.*digest"):
        preceptor.runtime.load(tmp_path / "agent")
    (changed() / MANIFEST).write_text(json.dumps(said | {"timeouts": [3]}))
    with pytest.raises(DamagedError, match="export RUN"):
        preceptor.runtime.load(tmp_path / "agent")
    with pytest.raises(CheckpointError, match="There is no export at"):
        preceptor.runtime.load(tmp_path / "nowhere")


def test_observations_that_do_not_fit_are_refused(exported: Exported) -> None:
    agent = preceptor.runtime.load(exported("sac")[1], seed=0)
    fit = np.zeros((3, 6), np.float32)
    for wrong in (np.zeros((3, 5)), np.zeros(()), "north", np.full((3, 6), np.nan), np.full((3, 6), np.inf)):
        with pytest.raises(UserError, match="PointReach"):
            agent.act(wrong)
    assert agent.act(fit).shape == (3, 2)
    maps = preceptor.runtime.load(exported("ppo")[1], seed=0)
    whole = maps.task.make_vec(2, split="eval").reset()[0]
    for wrong in (whole + 0.5, whole.astype(np.int64) - 1, whole[..., :3].astype(np.float64)):
        with pytest.raises(UserError, match=r"MiniGrid|uint8|SimpleDoorKey"):
            maps.act(wrong)
    assert maps.act(whole.astype(np.int64)).shape == (2,)


def test_what_is_not_installed_is_named(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    run, folder = exported("sac")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="pip install onnxruntime=="):
        preceptor.runtime.load(folder)
    whole = exported("sac", "torch")[1]
    monkeypatch.delitem(sys.modules, "preceptor.agent.export.whole")
    monkeypatch.setitem(sys.modules, "preceptor.agent.evaluate", None)  # as if it could not load torch
    with pytest.raises(UserError, match="played with torch, which cannot be loaded"):
        preceptor.runtime.load(whole)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="pip install onnx onnxruntime=="):
        writing.export(ExportConfig(str(run)))
    assert (folder / MANIFEST).exists()


def test_no_folder_of_yours_is_replaced(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="is no export that could be replaced"):
        writing.export(ExportConfig(str(exported("sac")[0]), to=str(tmp_path / "mine")))


def test_a_run_that_has_not_begun_to_learn_is_refused(tmp_path: Path) -> None:
    run = preceptor.train("PointReach", "sac", steps=100, eval_episodes=4, logdir=str(tmp_path), savedir="young")
    with pytest.raises(UserError, match="acts at random"):
        writing.export(ExportConfig(str(run.path)))
