"""SAC, TD3 and discrete SAC: targets and gradients by hand, exact resume, and problems that a broken learner fails."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from preceptor.agent.methods.sac import SAC, SACConfig, Transitions
from preceptor.agent.methods.sac_discrete import DiscreteSAC, DiscreteSACConfig, OptionTransitions
from preceptor.agent.methods.td3 import TD3, TD3Config
from preceptor.agent.networks import TwinCritic, mlp
from preceptor.controller.encoders import VectorEncoder
from preceptor.controller.network import TrunkConfig
from preceptor.ground import optim
from preceptor.ground.optim import FusedAdam, fast_precision, products_in

OBS, ACTIONS, OPTIONS, TAU = 3, 2, 4, 0.2
WORTH = torch.tensor([0.0, 0.5, 1.0, 0.2])


def vectors(seed=0, discount=0.9, obs=OBS):
    generator = torch.Generator().manual_seed(seed)
    seen, action, following = (torch.randn(64, width, generator=generator) for width in (obs, ACTIONS, obs))
    return Transitions(seen, action.tanh(), seen[:, 0], following, torch.full((64,), discount))


def options(seed=0, discount=0.0, prior=None, weight=0.0, legal=None):
    """Options drawn anywhere, each worth its own reward."""
    generator = torch.Generator().manual_seed(seed)
    obs = torch.randn(64, 2, generator=generator)
    legal = torch.ones(64, OPTIONS, dtype=torch.bool) if legal is None else legal.expand(64, -1)
    option = torch.multinomial(legal.float(), 1, generator=generator).squeeze(1)
    return OptionTransitions(
        (obs,), (obs,), legal, legal, option, WORTH[option], torch.full((64,), discount), prior, weight
    )


def discrete():
    config = DiscreteSACConfig(lr=1e-2, tau=TAU, temperature=0.1, trunk=TrunkConfig(hidden=16))
    return DiscreteSAC(VectorEncoder([1.0, 1.0]), OPTIONS, config, 0)


LEARNERS = {
    "sac": (lambda: SAC(OBS, ACTIONS, SACConfig(hidden=(32, 32), tau=TAU), 0), vectors),
    "sac, fixed temperature": (
        lambda: SAC(OBS, ACTIONS, SACConfig(hidden=(32,), tau=TAU, temperature=0.1), 0),
        vectors,
    ),
    "td3": (lambda: TD3(OBS, ACTIONS, TD3Config(hidden=(32, 32), tau=TAU), 0), vectors),
    "td3, huber": (lambda: TD3(OBS, ACTIONS, TD3Config(hidden=(32,), tau=TAU, huber=1.0), 0), vectors),
    "discrete": (discrete, options),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_targets_only_follow(name):
    make, batch = LEARNERS[name]
    learner = make()
    target, critic = (
        next(getattr(learner, name) for name in names if hasattr(learner, name))
        for names in (("target", "target_critic", "targets"), ("critic", "critics"))
    )
    before, own = copy.deepcopy(target), copy.deepcopy(critic)
    for seed in range(2 if isinstance(learner, TD3) else 1):  # its targets move every other time
        learner.update(batch(seed))
    columns = (module.parameters() for module in (before, target, own, critic))
    for old, new, first, source in zip(*columns, strict=True):
        assert not new.requires_grad
        assert not torch.equal(first, source)
        torch.testing.assert_close(new, torch.lerp(old, source.detach(), TAU))


@pytest.mark.parametrize("name", LEARNERS)
def test_resume_is_exact(name):
    make, batch = LEARNERS[name]
    one, other = make(), make()
    for seed in range(6):
        if seed == 3:
            other.load_state_dict(copy.deepcopy(one.state_dict()))
        for learner in (one, other)[: 1 + (seed >= 3)]:
            learner.update(batch(seed))
    assert all(torch.equal(a, b) for a, b in zip(one.actor.parameters(), other.actor.parameters(), strict=True))


@pytest.mark.parametrize("name", [name for name in LEARNERS if name != "discrete"])
def test_terminated_transitions_are_worth_their_reward_and_others_bootstrap_by_the_lower_critic(name):
    learner, batch = LEARNERS[name][0](), vectors()
    batch.discount[::2] = 0.0
    learner.actor.sample = lambda obs, generator: (torch.zeros(64, ACTIONS), torch.full((64,), -0.5))
    target = learner.target if isinstance(learner, SAC) else learner.target_critic
    target.forward = lambda obs, action: torch.tensor([[2.0], [3.0]]).expand(2, 64)
    entropy = 0.5 * learner.log_temperature.detach().exp() if isinstance(learner, SAC) else 0.0
    worth = batch.reward + batch.discount * (2.0 + entropy)
    losses = []
    for wrong in (-0.1, 0.0, 0.1):
        learner.critic.forward = lambda obs, action, wrong=wrong: (worth + wrong).expand(2, 64)
        losses.append(float(learner.critic_loss(batch)[0]))
    assert losses[1] == pytest.approx(0, abs=1e-9)
    assert min(losses[0], losses[2]) > 5e-3


def test_the_twin_critics_are_two_networks():
    critic, data = TwinCritic(OBS + ACTIONS, (16, 16)), vectors()
    values = critic(data.obs, data.action)
    for k in range(2):
        hidden = torch.cat([data.obs, data.action], 1)
        for layer, (weight, bias) in enumerate(zip(critic.weights, critic.biases, strict=True)):
            hidden = hidden @ weight[k] + bias[k]
            hidden = torch.relu(hidden) if layer < 2 else hidden
        torch.testing.assert_close(values[k], hidden[:, 0])
    assert not torch.allclose(*values)


def test_the_temperature_rises_when_the_policy_is_too_certain():
    learner = SAC(OBS, ACTIONS, SACConfig(hidden=(8,)), 0)
    for entropy, sign in ((-5.0, -1), (5.0, 1)):
        gradient = learner.temperature_gradient(torch.tensor(entropy))
        assert math.copysign(1, float(gradient)) == sign  # descent raises it where this is -1


def test_td3_moves_its_actor_every_other_time_and_its_noise_stays_within_clip_and_box():
    learner = TD3(OBS, ACTIONS, TD3Config(hidden=(16,), noise=5.0, target_noise=100.0, target_clip=0.1), 0)
    snapshots = [copy.deepcopy(learner.actor.state_dict())]
    for seed in range(4):
        learner.update(vectors(seed))
        snapshots.append(copy.deepcopy(learner.actor.state_dict()))
    same = [all(torch.equal(a, b) for a, b in zip(x.values(), y.values(), strict=True)) for x, y in pairwise(snapshots)]
    assert same == [True, False, True, False]
    seen, data = [], vectors()
    learner.target_critic.forward = lambda obs, action: seen.append(action) or torch.zeros(2, len(obs))
    learner.critic_loss(data)
    assert 0 < float((seen[0] - learner.target_actor(data.next_obs)).abs().max()) <= 0.1 + 1e-6
    assert np.abs(learner.act(data.obs).sample(np.random.default_rng(0))[0]).max() == 1.0


@pytest.mark.parametrize("name", ["sac", "td3"])
def test_it_learns_to_act_by_what_it_sees(name):
    """Reward -(a - s)^2 after one step: the greedy action is the observation."""
    torch.manual_seed(0)
    small = {"hidden": (32, 32), "lr": 3e-3}
    learner = SAC(1, 1, SACConfig(**small), 0) if name == "sac" else TD3(1, 1, TD3Config(**small, actor_lr=3e-3), 0)
    obs, action = torch.rand(4_000, 1) * 1.6 - 0.8, torch.rand(4_000, 1) * 2 - 1
    reward = -(action - obs).square().squeeze(1) * 10
    for rows in torch.randint(4_000, (500, 128)):
        learner.update(Transitions(obs[rows], action[rows], reward[rows], obs[rows], torch.zeros(128)))
    probe = torch.linspace(-0.7, 0.7, 15)[:, None]
    assert np.abs(learner.act(probe).sample(None)[0] - probe.numpy()).max() < 0.2


def trained(**kinds):
    learner = discrete()
    for seed in range(400):
        info = learner.update(options(seed, **kinds))
    legal = kinds.get("legal", torch.ones(1, OPTIONS, dtype=torch.bool))
    probs = learner.computed()(torch.zeros(1, 2), legal).probs[0]
    return learner, probs, info


def test_the_policy_over_options_becomes_the_softmax_of_the_values_or_the_prior_by_its_weight():
    prior = torch.tensor([0.7, 0.1, 0.1, 0.1]).expand(64, -1)
    for weight, wanted in ((0.0, torch.softmax(WORTH / 0.1, 0)), (50.0, prior[0])):
        _, probs, info = trained(prior=prior, weight=weight)
        np.testing.assert_allclose(probs, wanted, atol=0.05)
    assert float(info["prior_kl"]) < 0.01


def test_an_option_that_is_not_legal_is_neither_chosen_nor_hoped_for():
    learned, probs, _ = trained(discount=0.5, legal=torch.tensor([[True, True, False, True]]))
    assert probs[2] == 0
    assert probs.argmax() == 1
    reward, soft = WORTH[[0, 1, 3]], 0.0
    for _ in range(50):  # V = T log sum exp(Q / T) for one and the same state
        soft = 0.1 * torch.logsumexp((reward + 0.5 * soft) / 0.1, 0)
    values = learned.critics[0](torch.zeros(1, 2))[0].detach()
    np.testing.assert_allclose(values[[0, 1, 3]], reward + 0.5 * soft, atol=0.1)


def test_the_optimiser_is_adam_and_goes_on_with_adams_state():
    torch.manual_seed(0)
    ours = mlp(3, (8,), 2)
    theirs = copy.deepcopy(ours)
    down, adam = FusedAdam(ours.parameters(), 1e-2), torch.optim.Adam(theirs.parameters(), 1e-2)
    for step in range(20):
        if step == 10:
            down = FusedAdam(ours.parameters(), 5.0)
            down.load_state_dict(copy.deepcopy(adam.state_dict()))
        inputs = torch.randn(16, 3)
        down.minimize((ours(inputs) - 1).square().mean())
        adam.zero_grad()
        (theirs(inputs) - 1).square().mean().backward()
        adam.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)
        assert a.grad is None
    assert float(down.state_dict()["state"][0]["step"]) == 20
    adam.load_state_dict(copy.deepcopy(down.state_dict()))


@pytest.mark.parametrize(("kind", "config"), [(SAC, SACConfig), (TD3, TD3Config)])
def test_learners_multiply_in_the_precision_of_their_configuration_and_give_it_back(kind, config, monkeypatch):
    monkeypatch.setattr(optim, "bfloat16_rounds", lambda: True)
    switch = torch.backends.mkldnn.matmul
    before, seen = switch.fp32_precision, []
    for precision, inside in (("float32", "ieee"), ("bfloat16", "bf16")):
        learner, batch = kind(40, ACTIONS, config(precision=precision), 0), vectors(obs=40)
        follow = learner.critic_optimizer.follow
        learner.critic_optimizer.follow = lambda *given, f=follow: seen.append(switch.fp32_precision) or f(*given)
        learner.update(batch)
        assert set(seen) == {inside}
        assert switch.fp32_precision == before
        assert all(parameter.dtype == torch.float32 for parameter in learner.critic.parameters())
        seen.clear()


def test_products_that_should_be_float32_are_whatever_the_processor_does_in_bfloat16(monkeypatch):
    first, second = torch.randn(2, 256, 256, dtype=torch.float64)
    with products_in(fast_precision((256, 256), "float32")):
        torch.testing.assert_close(first.float() @ second.float(), (first @ second).float(), rtol=0, atol=1e-3)
    for rounds, wide in ((True, "float32"), (False, "bfloat16")):
        monkeypatch.setattr(optim, "bfloat16_rounds", lambda rounds=rounds: rounds)
        assert fast_precision((64, 256), "float32") == wide
        assert fast_precision((64, 256)) == fast_precision((64, 256), "bfloat16") == "bfloat16"
        assert fast_precision((64, 64)) == fast_precision((64, 64), "float32") == "float32"
        assert fast_precision((64, 64), "bfloat16") == "bfloat16"
