"""One checkpoint file in all three roles, with the network unplugged, and refused where it does not belong."""

import json
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from preceptor.agent.config import configure
from preceptor.agent.train import train
from preceptor.controller.checkpoint import ControllerMismatch, load_controller, save_controller
from preceptor.envs.catalog import get_task
from preceptor.ground.atomic import CheckpointError
from tests.scripted import scripted

TASK = get_task("SimpleDoorKey")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A controller distilled in a few seconds by `--method dagger`."""
    logs = tmp_path_factory.mktemp("log")
    config = configure(method="dagger", preset="tiny", teacher="scripted", quiet=True, eval_episodes=0)
    result = train(replace(config, logdir=str(logs), savedir="c"))
    assert result["queries"] <= 40
    return logs / "dagger" / "SimpleDoorKey" / "c" / "controller"


def test_oracle_planner_and_prior_from_one_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On held-out episodes of the expert."""
    monkeypatch.setattr(socket, "socket", lambda *_args, **_kwargs: pytest.fail("a controller needs no network"))
    controller = load_controller(folder, TASK)
    env = TASK.make_vec(64, split="eval", seed=5)
    obs, seen = env.reset()[0], []
    for _ in range(20):
        seen.append(obs)
        obs = env.step(TASK.skill(obs, scripted(TASK, obs)))[0]
    obs = np.concatenate(seen)
    legal, expert = TASK.legal(obs), scripted(TASK, obs)
    prior = controller.probs(obs, legal=legal)
    np.testing.assert_allclose(prior.sum(1), 1, atol=1e-5)
    assert (prior[~legal] == 0).all()
    label, confidence = controller.label(obs, legal)
    assert (label == expert).mean() > 0.97
    np.testing.assert_array_equal(confidence, prior.max(1))
    mean, scale = controller.goal(obs, label)
    assert mean.shape == scale.shape == (len(obs), len(TASK.goal_space.names))
    assert (scale > 0).all()
    assert (controller.terminate(obs, expert) == TASK.option_done(obs, expert)).mean() > 0.95
    described, training = json.loads((folder / "controller.json").read_text()), {"agreement", "truth_agreement", "ece"}
    assert described["options"] == list(TASK.options.ids)
    assert described["options_digest"] == TASK.options.digest
    assert {"names", "scale"} == described["goal_space"].keys()
    assert training | {"kl", "steps", "teacher"} <= described["training"].keys()
    assert described["training"]["agreement"] > 0.95
    assert {"queries", "calls"} <= described["training"]["teacher"].keys()


@pytest.mark.parametrize("damage", ["truncated", "foreign", "newer", "missing"])
def test_damaged_files_are_refused(folder: Path, tmp_path: Path, damage: str) -> None:
    original, copy = load_controller(folder, TASK), tmp_path / "copy"
    save_controller(copy, original)
    assert load_controller(copy, TASK).temperature == original.temperature
    weights, description = copy / "controller.safetensors", copy / "controller.json"
    texts = {"foreign": {"hello": 1}, "newer": json.loads(description.read_text()) | {"schema": 99}}
    if damage in texts:
        description.write_text(json.dumps(texts[damage]))
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        weights.unlink()
    with pytest.raises(CheckpointError):
        load_controller(copy, TASK)


def test_another_task_is_refused(folder: Path) -> None:
    with pytest.raises(ControllerMismatch, match="SimpleDoorKey"):
        load_controller(folder, get_task("KeyInBox"))
