"""Distillation: its loss by hand, what a minibatch shows and hides, and who is held out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from preceptor.agent import phases
from preceptor.agent.config import TrainConfig
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.levels import Player, SkillLow
from preceptor.agent.methods.dagger import Dagger, DaggerSettings
from preceptor.agent.methods.protocol import Parts
from preceptor.agent.networks import LowNetwork, NetworkHigh
from preceptor.agent.phases import Distil
from preceptor.agent.teaching import Annotator, TeacherHigh, annotate, skill_actions
from preceptor.controller.distill import (
    DistilConfig,
    Distillation,
    LabelledScenes,
    calibrate,
    distillation_loss,
    scenes_of,
)
from preceptor.controller.encoders import encoder_of
from preceptor.controller.network import ControllerNetwork, TrunkConfig, to_tensors
from preceptor.envs.catalog import get_task
from preceptor.teacher.config import TeacherConfig
from preceptor.teacher.controls import ScriptedTeacher
from preceptor.teacher.labels import LabelStore
from tests.parts import parts

TASK = get_task("SimpleDoorKey")
K = len(TASK.options)
SMALL = TrunkConfig(embedding=2, hidden=16)
LABELLER = Annotator(TASK, ScriptedTeacher(TASK, LabelStore()))


def labelled(count: int = 40) -> LabelledScenes:
    """Scenes of random play with soft labels among what is legal; of the first five the teacher said nothing."""
    rng, env = np.random.default_rng(0), TASK.make_vec(count)
    obs = env.reset()[0]
    for _ in range(15):
        obs = env.step(rng.integers(7, size=count))[0]
    legal = TASK.legal(obs)
    probs = legal * rng.random((count, K)).astype(np.float32)
    probs = probs / probs.sum(1, keepdims=True) * (np.arange(count) >= 5)[:, None]
    scenes = scenes_of(TASK, obs, rng.integers(-1, K, count), probs.astype(np.float32), legal)
    return scenes.with_skills(skill_actions(TASK, obs).astype(np.int8))


def network() -> ControllerNetwork:
    torch.manual_seed(0)
    made = ControllerNetwork(encoder_of(TASK), K, SMALL)
    torch.nn.init.normal_(made.option_head.weight)
    return made


def log_probs_of(net: ControllerNetwork, scenes: LabelledScenes, masked: bool) -> torch.Tensor:
    logits = net(*to_tensors(scenes.encoded), torch.from_numpy(scenes.previous))[0].detach()
    return (logits.masked_fill(torch.from_numpy(~scenes.legal), -1e9) if masked else logits).log_softmax(1)


@pytest.mark.parametrize("masked", [True, False])
def test_the_loss_is_cross_entropy_where_there_is_a_label_and_that_of_the_ends_everywhere(masked: bool) -> None:
    scenes, net = labelled(), network()
    loss, info = distillation_loss(net, scenes, masked)
    wanted, labels = log_probs_of(net, scenes, masked)[5:], torch.from_numpy(scenes.probs)[5:]
    entropy = -(labels * labels.clamp(min=1e-12).log()).sum(1).mean()
    cross_entropy = -(labels * wanted.clamp(min=-30)).sum(1).mean()
    done = net(*to_tensors(scenes.encoded), torch.from_numpy(scenes.previous))[1]
    ends = functional.binary_cross_entropy_with_logits(done, torch.from_numpy(scenes.done).float())
    assert info["kl"] == pytest.approx(float(cross_entropy - entropy), abs=1e-5)
    torch.testing.assert_close(loss, cross_entropy + ends)


def test_figures_on_held_out_scenes_are_those_of_the_tempered_distribution() -> None:
    scenes, net = labelled(), network()
    logits = log_probs_of(net, scenes, masked=True)
    fitted = replace(scenes, probs=(logits / 3).softmax(1).numpy())
    temperature, figures = calibrate(net, fitted, scenes, np.zeros(len(scenes), np.int64))
    assert temperature == pytest.approx(3.0, rel=0.02)
    probs, labels = (logits / temperature).softmax(1).numpy()[5:], scenes.probs[5:]
    gap = np.log(labels, where=labels > 0, out=np.zeros_like(labels)) - np.log(np.maximum(probs, 1e-12))
    assert figures["kl"] == pytest.approx(float((labels * gap).sum(1).mean()), abs=1e-5)
    assert figures["agreement"] == (probs.argmax(1) == labels.argmax(1)).mean()
    assert figures["truth_agreement"] == (logits.argmax(1).numpy() == 0).mean()


@pytest.mark.parametrize("forget", [0.0, 0.5, 1.0])
def test_minibatches_hide_the_option_before_and_mirror_map_and_skills_together(forget: float) -> None:
    scenes, encoder, seen = labelled(), encoder_of(TASK), []
    network = torch.nn.Linear(1, 1, bias=False)

    def gradients(batch: LabelledScenes) -> tuple[list[torch.Tensor], dict[str, float]]:
        seen.append(batch)
        return [torch.ones(1, 1)], {}

    config = DistilConfig(minibatch=400, lr=1.0, forget_previous=forget)
    distillation = Distillation(encoder, [network], gradients, config, np.random.default_rng(0))
    assert distillation.train(1, 0.5) == {}
    distillation.add(scenes)
    assert distillation.train(1, 0.5) == {"learning_rate": distillation.optimizer.param_groups[0]["lr"]}
    assert distillation.optimizer.param_groups[0]["lr"] == pytest.approx(0.55)
    rows = np.random.default_rng(0).integers(len(scenes), size=400)
    (batch,) = seen
    hidden = batch.previous != scenes.previous[rows]
    assert (batch.previous[hidden] == -1).all()
    assert hidden.mean() == pytest.approx(forget * (scenes.previous >= 0).mean(), abs=0.1)
    straight, turned = scenes.encoded.parts[0][rows], encoder.mirror(scenes.encoded).parts[0][rows]
    mirrored = (batch.encoded.parts[0] == turned).all(1) & (turned != straight).any(1)
    assert 0.3 < mirrored.mean() < 0.7
    for which, skills in ((mirrored, encoder.mirror_actions(scenes.skills)), (~mirrored, scenes.skills)):
        known = which & (turned != straight).any(1)
        np.testing.assert_array_equal(batch.skills[known], skills[rows][known])


def phase(num_envs: int, steps: int, masked: bool = True, soft: bool = True) -> tuple[Distil, Hierarchy]:
    """Distillation with everything that the expert plays in its store, labelled and aggregated."""
    torch.manual_seed(0)
    levels = TeacherHigh(LABELLER), SkillLow()
    low = LowNetwork(encoder_of(TASK), K, TASK.num_actions, SMALL)
    settings = DaggerSettings(distil=DistilConfig(rollout=steps, mirror=False), mask=masked)
    made = parts(TASK, settings, num_envs, 2_000)
    config = replace(made.config, teacher=TeacherConfig(soft=soft))
    distil = Distil(
        replace(made, config=config, labeller=LABELLER), levels, network(), np.random.default_rng(0), low=low
    )
    player = Player(*levels, TASK.options.timeouts)
    hierarchy = Hierarchy(TASK, TASK.make_vec(num_envs), player, rng=np.random.default_rng(0))
    hierarchy.collect(distil.store, steps)
    annotate(distil.store, 0, LABELLER)
    distil._aggregate()
    return distil, hierarchy


def test_the_teacher_plays_alone_at_first_and_not_at_all_after_its_share() -> None:
    distil, _ = phase(16, 2)
    assert [distil.beta(steps) for steps in (0, 500, 1_000, 1_900)] == [1.0, 0.5, 0.0, 0.0]


@pytest.mark.parametrize("num_envs", [32, 1])
def test_a_sixteenth_is_held_out_by_environment_or_by_episode(num_envs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    distil, _ = phase(num_envs, 20 if num_envs > 1 else 900)
    episode = distil.store.column("episode")
    held_out = (np.broadcast_to(np.arange(num_envs), episode.shape) if num_envs > 1 else episode) % 16 == 15
    assert 0 < held_out.sum() < held_out.size / 4
    obs = distil.store.column("obs")
    np.testing.assert_array_equal(np.concatenate(distil._held_out_obs), obs[held_out])
    learned = LabelledScenes.concatenate(distil._distillation._parts)
    np.testing.assert_array_equal(learned.encoded.parts[0], encoder_of(TASK)(obs[~held_out]).parts[0])
    seen = []
    monkeypatch.setattr(phases, "calibrate", lambda _, *rest: seen.append(rest) or (1.0, {}))
    distil.end()
    ((fitted, judged, truth),) = seen
    everything = LabelledScenes.concatenate(distil._held_out)
    np.testing.assert_array_equal(fitted.probs, everything.probs[::2])
    np.testing.assert_array_equal(judged.probs, everything.probs[1::2])
    np.testing.assert_array_equal(truth, judged.probs.argmax(1))


def test_hard_labels_are_the_most_probable_options_and_abstentions_stay_abstentions() -> None:
    for soft in (True, False):
        distil, _ = phase(16, 3, soft=soft)
        labels = distil.store.column("label_probs")
        labels[:] = 0.7 * labels + 0.3 / K
        labels[0] = 0
        distil._distillation.clear()
        distil._read = 0
        distil._aggregate()
        (learned,) = distil._distillation._parts
        assert (learned.probs.sum(1) > 0).tolist() == [False] * 15 + [True] * 30
        assert set(np.unique(learned.probs)) == {0.0, 1.0} or soft
        assert learned.probs.max() == (pytest.approx(0.7 + 0.3 / K) if soft else 1.0)


def test_skills_of_illegal_options_are_not_learned() -> None:
    distil, _ = phase(16, 2)
    scenes, low = distil._distillation._parts[0], distil.low
    assert low is not None
    torch.nn.init.normal_(low.action_head.weight)
    distil.controller = None
    loss = distil.gradients(scenes)[1]["skill_loss"]
    log_probs = low.all_options(*to_tensors(scenes.encoded))[0].log_softmax(2)
    each = -log_probs.gather(2, torch.from_numpy(scenes.skills.astype(np.int64))[..., None])[..., 0]
    assert not scenes.legal.all()
    assert loss == pytest.approx(each[torch.from_numpy(scenes.legal)].mean().item(), rel=1e-5)
    flipped = replace(scenes, skills=np.where(scenes.legal, scenes.skills, 0).astype(np.int8))
    assert distil.gradients(flipped)[1]["skill_loss"] == loss


@pytest.mark.parametrize("masked", [True, False])
def test_dagger_distils_as_it_is_told(masked: bool) -> None:
    settings, teacher = DaggerSettings(mask=masked), TeacherConfig(soft=not masked)
    config = TrainConfig("dagger", steps=500, num_envs=4, teacher=teacher, settings=settings)
    method = Dagger(Parts(TASK, config, np.random.SeedSequence(0), labeller=LABELLER))
    assert method.distil is not None
    assert isinstance(method.player.high, NetworkHigh)
    assert (method.distil._masked, method.distil._teacher.soft, method.player.high.masked) == (
        masked,
        not masked,
        masked,
    )


@pytest.mark.parametrize(("share", "warned"), [(0.2, False), (0.5, True)])
def test_a_teacher_that_is_often_overruled_is_warned_of(
    share: float, warned: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    distil, _ = phase(16, 2)
    monkeypatch.setitem(LABELLER.stats.extra, "overruled", share * len(distil._legal))
    distil.end()
    assert ("python main.py labels judge --teacher local --task SimpleDoorKey" in capsys.readouterr().err) == warned


def test_a_recorded_step_is_not_that_of_an_optimiser_that_was_loaded_since() -> None:
    distil, _ = phase(4, 4)
    before = distil._distillation._step
    distil.load_state_dict(distil.state_dict())
    assert distil._distillation._step is not before
