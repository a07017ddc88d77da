"""SAC's gradients worked out by hand are autograd's, and are taken wherever networks and batch are plain."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from bench import sac as bench
from preceptor.agent.losses import PriorActions
from preceptor.agent.methods.sac import SAC, SACConfig, Transitions
from preceptor.agent.networks import LOG_STD_MAX, LOG_STD_MIN
from preceptor.ground.optim import FusedAdam
from tests.hiro_played import once

OBS, ACTIONS = 5, 3


def learner_of(hidden=(32, 32), obs=OBS, actions=ACTIONS, **settings):
    return SAC(obs, actions, SACConfig(hidden=hidden, lr=1e-2, temperature=0.3, **settings), 0)


def drawn(count=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    seen, action, following = (torch.randn(count, width, generator=generator) for width in (OBS, ACTIONS, OBS))
    discount = torch.where(torch.rand(count, generator=generator) < 0.2, 0.0, 0.9)
    return Transitions(seen, action.tanh(), seen[:, 0].contiguous(), following, discount)


def check(learner, batch, by_hand=True):
    """Gradients, figures and draws are those of the losses, to 1e-5."""
    worker = learner.by_hand(batch)
    assert (worker is not None) == by_hand
    for name, network in (("critic", learner.critic), ("actor", learner.actor)):
        before = learner.generator.get_state()
        found, told = getattr(learner, f"{name}_gradients")(batch, worker)
        after = learner.generator.get_state()
        learner.generator.set_state(before)
        loss, terms = getattr(learner, f"{name}_loss")(batch)
        assert torch.equal(learner.generator.get_state(), after)
        expected = torch.autograd.grad(loss, list(network.parameters()))
        for one, other in zip(found, expected, strict=True):
            assert (one.shape, one.stride()) == (other.shape, other.stride())
            assert (one - other).abs().max() <= 1e-5 * other.abs().max()
        assert told.keys() == terms.keys()
        for key, value in terms.items():
            torch.testing.assert_close(told[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hidden", [(8,), (32, 32), (24, 40, 16)])
@pytest.mark.parametrize("count", [1, 16, 50, 128])
def test_gradients_are_autograds(hidden, count):
    learner = learner_of(hidden)
    for seed in range(3):  # weights change in place, and are read anew
        check(learner, drawn(count, seed))
        learner.update(drawn(count, seed))


def test_deviations_outside_their_range_have_no_gradient():
    learner = learner_of()
    with torch.no_grad():
        learner.actor.net[-1].weight *= 300
    batch = drawn()
    log_std = learner.actor.net(batch.obs)[:, ACTIONS:]
    assert (log_std < LOG_STD_MIN).any()
    assert (log_std > LOG_STD_MAX).any()
    check(learner, dataclasses.replace(batch, discount=torch.zeros(64)))


@pytest.mark.parametrize("less", [0, 1])
def test_one_critic_may_value_everything_less_or_both_the_same(less):
    learner = learner_of()
    with torch.no_grad():
        for parameter in learner.critic.parameters():
            parameter[1 - less] = parameter[less]
    check(learner, drawn())
    with torch.no_grad():
        learner.critic.biases[-1][less] -= 100
    check(learner, drawn())


def test_batches_of_both_levels_of_hiro_are_handled(monkeypatch):
    method = once().method
    for real, batch in ((method.low_learner, method.low_batch()), (method.high_learner, method.high_batch())):
        learner = copy.deepcopy(real)
        check(learner, batch)
        without_losses(monkeypatch)
        learner.update(batch)
        monkeypatch.undo()


def without_losses(monkeypatch):
    for name in ("critic_loss", "actor_loss"):
        monkeypatch.setattr(SAC, name, lambda *_: pytest.fail("autograd was asked"))


def test_the_bench_measures_them(monkeypatch):
    without_losses(monkeypatch)
    monkeypatch.setattr(bench, "_MEMORY", 300)
    bench.ours("HalfCheetah-v5", "float32")(2)


def test_everything_else_goes_on_by_autograd():
    batch = drawn()
    check(learner_of(normed=True), batch, by_hand=False)
    learner = learner_of()
    check(learner, batch)
    check(learner, dataclasses.replace(batch, prior=PriorActions(batch.action, 0.5)), by_hand=False)
    check(learner, batch)
    learner = learner_of()
    learner.actor.net[0].bias.requires_grad_(False)
    learner.actor_optimizer = FusedAdam([p for p in learner.actor.parameters() if p.requires_grad], 1e-2)
    learner.update(batch)
    assert learner.by_hand(batch) is None


@pytest.mark.parametrize("network", ["actor", "critic", "target"])
def test_parameters_that_are_held_elsewhere_are_read_there(network):
    learner, batch = learner_of(), drawn()
    changed = getattr(learner, network)
    learner.update(batch)
    first = next(changed.parameters())
    first.data = torch.randn_like(first)
    check(learner, batch)
    changed.share_memory()
    learner.update(batch)
    check(learner, batch)
    if network == "target":
        changed.load_state_dict(
            {name: torch.randn_like(each) for name, each in changed.state_dict().items()}, assign=True
        )
        check(learner, batch)


def test_what_no_longer_learns_is_autograds_to_refuse():
    batch = drawn()
    for change in (
        lambda learner: learner.actor.net[0].requires_grad_(False),
        lambda learner: learner.critic.weights[1].requires_grad_(False),
        lambda learner: setattr(learner.actor.net, "2", torch.nn.Linear(32, 32)),
        lambda learner: learner.critic.load_state_dict(copy.deepcopy(learner.critic.state_dict()), assign=True),
    ):
        learner = learner_of()
        learner.update(batch)
        change(learner)
        with pytest.raises(RuntimeError, match=r"require grad|not have been used"):
            learner.update(batch)


def test_other_layers_and_none_go_on_by_autograd():
    batch = drawn()
    for net in (torch.nn.Sequential(torch.nn.Linear(OBS, 2 * ACTIONS)), None):
        learner = learner_of()
        learner.update(batch)
        if net:
            learner.actor.net = net
            learner.actor_optimizer = FusedAdam(net.parameters(), 1e-2)
        else:
            learner.actor.net[1] = torch.nn.Tanh()
        check(learner, batch, by_hand=False)


@pytest.mark.parametrize("name", ["critic_loss", "actor_loss"])
def test_a_loss_of_a_subclass_is_what_is_learned_from(name):
    asked = []

    def loss(self, batch):
        asked.append(name)
        return getattr(SAC, name)(self, batch)

    kind = type("Own", (SAC,), {name: loss})
    kind(OBS, ACTIONS, SACConfig(hidden=(32, 32)), 0).update(drawn())
    assert asked == [name]


def test_what_is_not_a_number_stays_so():
    for network in ("critic", "actor"):
        learner = learner_of()
        with torch.no_grad():
            next(getattr(learner, network).parameters()).view(-1)[0] = np.nan
        told = learner.update(drawn())
        assert all(told[name].isnan() for name in ("critic_loss", "actor_loss"))


def test_another_shape_is_refused():
    learner, batch = learner_of(), drawn()
    worker = learner.by_hand(batch)
    for name in ("obs", "action", "reward", "next_obs", "discount"):
        part = getattr(batch, name)
        with pytest.raises(ValueError, match="not the same"):
            worker.critics(dataclasses.replace(batch, **{name: torch.cat([part, part], -1)}), 0.3, learner.generator)
    with pytest.raises(ValueError, match="not the same"):
        worker.actor(dataclasses.replace(batch, obs=torch.cat([batch.obs, batch.obs], 1)), 0.3, learner.generator)


def test_a_copy_learns_by_itself():
    one, alone = learner_of(), learner_of()
    for learner in (one, alone):
        learner.update(drawn())
    other = copy.deepcopy(one)
    assert other._by_hand is None, "whose arrays would be copies that nothing writes into"
    for seed in range(3):
        other.update(drawn(seed=seed))
    check(other, drawn())
    for mine, its in zip(one.actor.parameters(), alone.actor.parameters(), strict=True):
        assert torch.equal(mine, its)
