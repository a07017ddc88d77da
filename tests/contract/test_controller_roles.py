"""One checkpoint file in all three roles, with the network unplugged, and refused where it does not belong."""

import json
import socket
from dataclasses import replace

import numpy as np
import pytest

from agent.config import configure
from agent.train import train
from controller.checkpoint import ControllerMismatch, load_controller, save_controller
from controller.roles import Controller
from envs.catalog import get_task
from ground.atomic import CheckpointError
from tests.scripted import scripted


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A controller distilled in a few seconds by `--method dagger`."""
    logs = tmp_path_factory.mktemp("log")
    config = configure(method="dagger", preset="tiny", teacher="scripted", quiet=True, eval_episodes=0)
    result = train(replace(config, logdir=str(logs), savedir="c"))
    assert result["queries"] <= 40
    return logs / "dagger" / "SimpleDoorKey" / "c" / "controller"


@pytest.fixture
def scenes():
    """Observations of a held-out episode of the expert, with what is legal in them."""
    task = get_task("SimpleDoorKey")
    env = task.make_vec(64, split="eval", seed=5)
    obs, seen = env.reset()[0], []
    for _ in range(20):
        seen.append(obs)
        obs = env.step(task.skill(obs, scripted(task, obs)))[0]
    obs = np.concatenate(seen)
    return obs, task.legal(obs), scripted(task, obs)


def test_oracle_planner_and_prior_from_one_file(folder, scenes, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a controller needs no network")

    monkeypatch.setattr(socket, "socket", refuse)
    task = get_task("SimpleDoorKey")
    controller = load_controller(folder, task)
    obs, legal, expert = scenes

    prior = controller.probs(obs, legal=legal)
    np.testing.assert_allclose(prior.sum(1), 1, atol=1e-5)
    assert (prior[~legal] == 0).all()

    label, confidence = controller.label(obs, legal)
    assert (label == expert).mean() > 0.97
    assert (confidence <= 1).all()

    mean, scale = controller.goal(obs, label)
    assert mean.shape == scale.shape == (len(obs), len(task.goal_space.names))
    assert (scale > 0).all()

    over = controller.terminate(obs, expert)
    assert (over == task.option_done(obs, expert)).mean() > 0.95


def test_the_description_is_complete(folder):
    described = json.loads((folder / "controller.json").read_text())
    task = get_task("SimpleDoorKey")
    assert described["options"] == list(task.options.ids)
    assert described["options_digest"] == task.options.digest
    assert {"names", "scale"} == described["goal_space"].keys()
    assert {"agreement", "truth_agreement", "ece", "kl", "steps", "teacher"} <= described["training"].keys()
    assert described["training"]["agreement"] > 0.95
    assert {"queries", "calls"} <= described["training"]["teacher"].keys()


def test_another_task_is_refused(folder):
    with pytest.raises(ControllerMismatch, match="SimpleDoorKey"):
        load_controller(folder, get_task("KeyInBox"))


@pytest.mark.parametrize("damage", ["truncate", "foreign", "newer", "missing"])
def test_damaged_files_are_named(folder, tmp_path, damage):
    task = get_task("SimpleDoorKey")
    original = load_controller(folder, task)
    copy = tmp_path / "copy"
    save_controller(copy, Controller(task, original.network, original.temperature, original.facts))
    assert load_controller(copy, task).temperature == original.temperature
    weights, description = copy / "controller.safetensors", copy / "controller.json"
    match damage:
        case "truncate":
            weights.write_bytes(weights.read_bytes()[:-100])
        case "foreign":
            description.write_text('{"hello": 1}')
        case "newer":
            description.write_text(json.dumps(json.loads(description.read_text()) | {"schema": 99}))
        case "missing":
            weights.unlink()
    with pytest.raises(CheckpointError):
        load_controller(copy, task)
