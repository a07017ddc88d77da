"""Where the controller that is being distilled is sure, the teacher is not asked, and the controller decides."""

import numpy as np
import pytest
import torch

import preceptor
from preceptor.agent.controllers import named_controller
from preceptor.agent.distributions import Categorical
from preceptor.agent.levels import Observations
from preceptor.agent.teaching import Annotator, TeacherHigh
from preceptor.controller.distill import Distillation
from preceptor.controller.encoders import GridEncoder
from preceptor.controller.network import ControllerNetwork
from preceptor.controller.roles import Controller, network_of
from preceptor.envs.catalog import get_task
from preceptor.teacher.controls import ScriptedTeacher
from preceptor.teacher.labels import LabelStore

TASK = get_task("KeyInBox")


def annotator(network: ControllerNetwork, ask_below: float) -> Annotator:
    made = Annotator(TASK, ScriptedTeacher(TASK, LabelStore()), ask_below=ask_below)
    made.controller = Controller(TASK, network)
    return made


def test_only_scenes_of_which_the_controller_is_not_sure_are_asked_about() -> None:
    env, rng = TASK.make_vec(16, seed=1), np.random.default_rng(0)
    seen = [env.reset()[0], *(env.step(rng.integers(TASK.num_actions, size=16))[0] for _ in range(30))]
    obs, network = np.concatenate(seen), network_of(TASK)
    seeds = np.zeros(len(obs), np.int64)
    asks_all = annotator(network, 1.0)
    labels, codes = asks_all.label(obs, seeds)
    best = asks_all.controller.probs(obs, legal=TASK.legal(obs)).max(1)  # type: ignore[union-attr]
    first = np.unique(codes, return_index=True)[1]  # a scene is spared, or not, as it was met first
    middle = float(np.median(best[first]))
    some = annotator(network, middle)
    found, _ = some.label(obs, seeds)
    assert asks_all.stats.calls > some.stats.calls > 0
    spared = some.spared(codes)
    assert not asks_all.spared(codes).any()
    assert np.array_equal(spared[first], best[first] >= middle)
    assert np.array_equal(found[~spared], labels[~spared])
    assert not found[spared].any()
    assert some.stats.extra["spared"] == len(np.unique(codes[spared]))


def test_the_controller_chooses_in_their_place_and_a_resumed_run_spares_the_same() -> None:
    obs, info = TASK.make_vec(8, seed=1).reset()
    network = network_of(TASK)
    before = annotator(network, 1e-6)  # sure of everything
    _, codes = before.label(obs, info["level_seed"])
    after = annotator(network, 1.0)
    after.load_state_dict(before.state_dict())
    observed = Observations(TASK, GridEncoder(TASK.observation_shape), obs, info["level_seed"])
    for each in (before, after):
        choice = TeacherHigh(each).choose(observed, np.full(8, -1))[1]
        assert isinstance(choice, Categorical)
        assert np.allclose(choice.probs, each.controller.probs(obs, legal=observed.legal))  # type: ignore[union-attr]
        assert each.stats.calls == 0
        assert each.spared(codes).all()


def test_only_what_was_asked_about_is_learned_from(monkeypatch, tmp_path) -> None:
    learned: list[int] = []
    monkeypatch.setattr(Distillation, "add", lambda self, scenes: learned.extend((scenes.probs.sum(1) > 0).tolist()))
    monkeypatch.setattr(Distillation, "train", lambda *_: {})
    words = {
        "teacher": "scripted",
        "steps": 2_000,
        "num_envs": 16,
        "eval_episodes": 0,
        "quiet": True,
        "logdir": str(tmp_path),
    }
    counts = []
    for below in (1.0, 0.5):
        learned.clear()
        preceptor.train("KeyInBox", "dagger", ask_below=below, savedir=f"below-{below}", **words)
        assert all(learned)
        counts.append(len(learned))
    assert 0 < counts[1] < counts[0]


@pytest.mark.parametrize(("task", "more"), [("KeyInBox", {}), ("OneRoom-GoTo", {"retell": True})])
def test_a_run_in_which_nothing_is_asked_ends_with_what_it_began_with(tmp_path, task, more) -> None:
    words = {"teacher": "scripted", "steps": 800, "num_envs": 8, "eval_episodes": 0, "quiet": True}
    run = preceptor.train(task, "dagger", ask_below=1e-6, savedir="sure", logdir=str(tmp_path), **words, **more)
    assert run.result["calls"] == 0
    torch.manual_seed(0)
    fresh, found = network_of(get_task(task)), named_controller("sure", str(tmp_path), get_task(task))
    for name, weights in fresh.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], weights), name
