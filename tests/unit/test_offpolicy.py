"""SAC and TD3: densities, targets and gradients by hand, exact resume, and a problem that a broken learner fails."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from preceptor.agent.distributions import squashed_log_prob
from preceptor.agent.methods.sac import SAC, SACConfig, Transitions
from preceptor.agent.methods.td3 import TD3, TD3Config
from preceptor.agent.networks import GaussianActor, TwinCritic
from preceptor.agent.optim import polyak

OBS, ACTIONS = 3, 2


def batch(count=64, seed=0, discount=0.99):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    return Transitions(
        normal(count, OBS),
        normal(count, ACTIONS).tanh(),
        normal(count),
        normal(count, OBS),
        torch.full((count,), discount),
    )


def learners():
    return {
        "sac": lambda: SAC(OBS, ACTIONS, SACConfig(hidden=(32, 32)), 0),
        "sac, fixed temperature": lambda: SAC(OBS, ACTIONS, SACConfig(hidden=(32, 32), temperature=0.1), 0),
        "td3": lambda: TD3(OBS, ACTIONS, TD3Config(hidden=(32, 32)), 0),
        "td3, huber": lambda: TD3(OBS, ACTIONS, TD3Config(hidden=(32, 32), huber=1.0), 0),
    }


def test_a_sample_has_the_log_probability_that_its_action_has():
    torch.manual_seed(0)
    actor = GaussianActor(OBS, ACTIONS, (8,))
    obs = torch.randn(500, OBS)
    action, log_prob = actor.sample(obs, torch.Generator().manual_seed(0))
    inside = action.abs().amax(1) < 0.999  # where tanh can be inverted in float32
    assert inside.float().mean() > 0.8
    torch.testing.assert_close(squashed_log_prob(*actor(obs), action)[inside], log_prob[inside], atol=2e-3, rtol=1e-3)
    assert torch.isfinite(squashed_log_prob(*actor(obs), torch.ones(500, ACTIONS))).all(), (
        "saturated actions are clipped"
    )


def test_the_twin_critics_are_two_networks():
    torch.manual_seed(0)
    critic = TwinCritic(OBS + ACTIONS, (16, 16))
    data = batch()
    values = critic(data.obs, data.action)
    for k in range(2):
        hidden = torch.cat([data.obs, data.action], 1)
        for layer, (weight, bias) in enumerate(zip(critic.weights, critic.biases, strict=True)):
            hidden = hidden @ weight[k] + bias[k]
            hidden = torch.relu(hidden) if layer < 2 else hidden
        torch.testing.assert_close(values[k], hidden[:, 0])
    values[0].sum().backward()
    assert all((weight.grad[1] == 0).all() for weight in critic.weights)


@pytest.mark.parametrize("name", list(learners()))
def test_terminated_transitions_are_worth_their_reward_and_others_bootstrap(name):
    for discount, worth in ((0.0, 1.0), (0.5, 2.0)):
        learner = learners()[name]()
        data = batch(256)
        steady = Transitions(data.obs, data.action, torch.ones(256), data.obs, torch.full((256,), discount))
        if isinstance(learner, SAC):
            with torch.no_grad():  # the entropy bonus is not what is judged here
                learner.log_temperature.fill_(-20.0)
            learner.log_temperature.requires_grad_(False)
        for group in learner.critic_optimizer.param_groups:
            group["lr"] = 3e-3
        object.__setattr__(learner.config, "tau", 0.1)
        for _ in range(300):
            learner.update(steady)
        assert float(learner.critic(data.obs, data.action).detach().mean()) == pytest.approx(worth, abs=0.15)


@pytest.mark.parametrize("name", list(learners()))
def test_the_actors_step_leaves_the_critics_alone_and_targets_only_follow(name):
    learner = learners()[name]()
    critic = copy.deepcopy(learner.critic)
    loss, _ = learner.actor_loss(batch())
    learner.critic_optimizer.zero_grad(set_to_none=True)
    loss.backward(inputs=list(learner.actor.parameters()))
    assert all(parameter.grad is None for parameter in learner.critic.parameters())
    target = learner.target if isinstance(learner, SAC) else learner.target_critic
    before = copy.deepcopy(target)
    learner.update(batch(seed=1))
    learner.update(batch(seed=2))
    assert all(not parameter.requires_grad for parameter in target.parameters())
    moved = [float((a - b).detach().abs().max()) for a, b in zip(target.parameters(), before.parameters(), strict=True)]
    own = [
        float((a - b).detach().abs().max())
        for a, b in zip(learner.critic.parameters(), critic.parameters(), strict=True)
    ]
    assert all(0 < little < much for little, much in zip(moved, own, strict=True))


def test_polyak_moves_by_its_share():
    a, b = TwinCritic(2, (4,)), TwinCritic(2, (4,))
    expected = [0.75 * x + 0.25 * y for x, y in zip(a.parameters(), b.parameters(), strict=True)]
    polyak(a, b, 0.25)
    for parameter, value in zip(a.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.data, value.data)


def test_the_temperature_rises_when_the_policy_is_too_certain():
    learner = SAC(OBS, ACTIONS, SACConfig(hidden=(8,)), 0)
    for entropy, sign in ((-5.0, -1), (5.0, 1)):
        learner.log_temperature.grad = None
        learner.temperature_loss(torch.tensor(entropy)).backward()
        assert math.copysign(1, float(learner.log_temperature.grad)) == sign  # descent raises it where this is -1


def test_td3_moves_its_actor_every_other_time_and_smooths_within_the_clip():
    learner = TD3(OBS, ACTIONS, TD3Config(hidden=(16,)), 0)
    snapshots = [copy.deepcopy(learner.actor.state_dict())]
    for seed in range(4):
        learner.update(batch(seed=seed))
        snapshots.append(copy.deepcopy(learner.actor.state_dict()))
    same = [all(torch.equal(a, b) for a, b in zip(x.values(), y.values(), strict=True)) for x, y in pairwise(snapshots)]
    assert same == [True, False, True, False]
    wild = TD3(OBS, ACTIONS, TD3Config(hidden=(16,), target_noise=100.0, target_clip=0.1), 0)
    seen = []
    wild.target_critic.forward = lambda obs, action: seen.append(action) or torch.zeros(2, len(obs))
    data = batch()
    wild.critic_loss(data)
    assert float((seen[0] - wild.target_actor(data.next_obs)).abs().max()) <= 0.1 + 1e-6


@pytest.mark.parametrize("name", list(learners()))
def test_resume_is_exact(name):
    def final(interrupted):
        learner = learners()[name]()
        for step in range(6):
            if step == 3 and interrupted:
                state, learner = copy.deepcopy(learner.state_dict()), learners()[name]()
                learner.load_state_dict(state)
            learner.update(batch(seed=step))
        return learner

    one, other = final(False), final(True)
    obs = batch().obs
    np.testing.assert_array_equal(one.act(obs).mean, other.act(obs).mean)
    assert all(torch.equal(a, b) for a, b in zip(one.critic.parameters(), other.critic.parameters(), strict=True))


@pytest.mark.parametrize("name", ["sac", "td3"])
def test_it_learns_to_act_by_what_it_sees(name):
    """Reward -(a - s)^2 after one step: the greedy action is the observation."""
    torch.manual_seed(0)
    learner = (
        SAC(1, 1, SACConfig(hidden=(32, 32), lr=3e-3), 0)
        if name == "sac"
        else TD3(1, 1, TD3Config(hidden=(32, 32), lr=3e-3, actor_lr=3e-3), 0)
    )
    obs = torch.rand(4_000, 1) * 1.6 - 0.8
    action = torch.rand(4_000, 1) * 2 - 1
    reward = -(action - obs).square().squeeze(1) * 10
    rng = np.random.default_rng(0)
    for _ in range(600):
        rows = torch.from_numpy(rng.integers(4_000, size=128))
        learner.update(Transitions(obs[rows], action[rows], reward[rows], obs[rows], torch.zeros(128)))
    probe = torch.linspace(-0.7, 0.7, 15)[:, None]
    greedy, _ = learner.act(probe).sample(None)
    assert np.abs(greedy - probe.numpy()).max() < 0.2


def test_noise_does_not_lead_out_of_the_box():
    drawn, _ = TD3(OBS, ACTIONS, TD3Config(noise=5.0), 0).act(batch().obs).sample(np.random.default_rng(0))
    assert np.abs(drawn).max() == 1.0
