"""What is computed by hand, or compiled, on a processor is what torch makes of its definition."""

import copy

import numpy as np
import pytest
import torch

from preceptor.agent.methods import by_hand
from preceptor.agent.methods.ppo import PPO, PolicyBatch, PPOConfig
from preceptor.agent.networks import LowNetwork
from preceptor.controller import compiled, seen
from preceptor.controller.encoders import encoder_of
from preceptor.controller.network import TrunkConfig, to_tensors
from preceptor.envs.catalog import get_task
from preceptor.ground.optim import FusedAdam

TASK = get_task("SimpleDoorKey")


def scenes(count):
    env, rng = TASK.make_vec(count), np.random.default_rng(0)
    obs = env.reset(seed=0)[0]
    for _ in range(20):
        obs = env.step(rng.integers(0, TASK.num_actions, count))[0]
    return to_tensors(encoder_of(TASK)(obs))


def network_with(options):
    torch.manual_seed(0)
    network = LowNetwork(encoder_of(TASK), options, TASK.num_actions, TrunkConfig(8, 32))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return network


def near(one, other):
    return (one - other).abs().max() <= 1e-5 * other.abs().max()


def test_sums_over_what_has_been_seen_and_their_gradients_are_those_of_the_definition():
    tokens, _ = scenes(64)
    table, weight = torch.randn(41, 4, requires_grad=True), torch.randn(32, 4 * tokens.shape[1], requires_grad=True)
    wanted = torch.randn(64, 32)
    found = []
    for function in (seen.added_up, seen.dense):
        summed = function(tokens, table, weight)
        found.append([summed, *torch.autograd.grad((summed * wanted).sum(), (table, weight))])
    assert all(near(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("entropy", [0.0, 0.03])
@pytest.mark.parametrize("options", [1, 3])
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("policy", [True, False])
def test_gradients_of_ppo_are_autograds(options, held, policy, entropy, monkeypatch):
    network, (tokens, present) = network_with(options), scenes(128)
    generator = torch.Generator().manual_seed(1)
    option = torch.randint(options, (128,), generator=generator)
    action = torch.randint(TASK.num_actions, (128,), generator=generator)
    advantage, returns, noise = torch.randn(3, 128, generator=generator)
    inputs = tokens, present, option
    with torch.no_grad():
        before = network.head.log_prob(network(*inputs)[0], action) + 0.2 * noise  # so that some ratios are clipped
        wanted = network_with(options)(*inputs)[0] + torch.randn(128, TASK.num_actions) if held else None
    batch = PolicyBatch(inputs, action, before, advantage, returns, None, wanted)
    learner = PPO(network, PPOConfig(entropy=entropy), np.random.default_rng(0))
    assert by_hand.fits(network, inputs)
    found, told = learner.gradients(batch, 0.7, policy)
    monkeypatch.setattr("preceptor.controller.network.added_up", seen.dense)
    loss, terms = learner.loss(batch, 0.7, policy)
    expected = torch.autograd.grad(loss, learner.parameters, allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        assert (one is None and other is None) or near(one, other)
    assert told.keys() == terms.keys()
    assert all(float(told[name]) == pytest.approx(float(terms[name]), rel=1e-5, abs=1e-6) for name in terms)
    assert not policy or float(terms["clip_fraction"]) > 0.1


def test_other_networks_are_left_to_autograd():
    inputs = (*scenes(4), torch.zeros(4, dtype=torch.int64))
    assert not by_hand.fits(network_with(1), (*inputs, inputs[-1])), "colours by role"
    vectors = get_task("PointReach")
    assert not by_hand.fits(LowNetwork(encoder_of(vectors), 1, 2, TrunkConfig(), continuous=True), inputs)


@torch.no_grad()
def test_what_is_played_is_the_network_as_it_is_now(monkeypatch):
    network, (tokens, present) = network_with(1), scenes(16)
    monkeypatch.setattr("preceptor.controller.network.added_up", seen.dense)

    def both():
        played = network.trunk(tokens, present)
        monkeypatch.setattr("preceptor.controller.network.MOST", 0)
        reference = network.trunk(tokens, present)
        monkeypatch.setattr("preceptor.controller.network.MOST", compiled.MOST)
        return played, reference

    assert near(*both())
    first = both()[0]
    adam = FusedAdam(network.parameters(), 0.01)
    adam.follow([torch.ones_like(parameter) for parameter in network.parameters()])
    assert near(*both()), "after a step of training"
    assert not near(both()[0], first)
    other = copy.deepcopy(network)
    for parameter in other.parameters():
        parameter.mul_(0.5)
    network.load_state_dict(other.state_dict())
    assert near(*both()), "after a checkpoint was loaded"
    assert near(other.trunk(tokens, present), both()[1]), "a copy is compiled for itself"
    network.trunk.hidden.weight.mul_(2)
    assert near(*both()), "after a part of the weights alone has changed"
    network.trunk.others.bias[0] = torch.nan
    assert both()[0].isnan().all(), "what is not a number does not become one"


@pytest.mark.parametrize("learning", [True, False])
def test_inputs_that_do_not_fit_are_refused(learning):
    network, (tokens, present) = network_with(1), scenes(4)
    with torch.set_grad_enabled(learning):
        for wrong in (tokens[:, :10], tokens.repeat(1, 3)):
            with pytest.raises(ValueError, match=r"cells|shapes"):
                network.trunk(wrong.contiguous(), present)
        with pytest.raises((ValueError, RuntimeError), match="shape"):
            network.trunk(tokens, present[:, :5])
        with pytest.raises(IndexError, match="token"):
            network.trunk(torch.full_like(tokens, 200), present)
    empty = network.trunk(tokens[:0], present[:0])
    assert empty.shape == (0, 32)


def test_an_option_or_an_action_that_there_is_not_is_refused():
    network, inputs = network_with(3), scenes(2)
    zeros, learner = torch.zeros(2), PPO(network, PPOConfig(), np.random.default_rng(0))
    for option, action in ((3, 0), (-1, 0), (0, TASK.num_actions)):
        chosen = torch.full((2,), option), torch.full((2,), action)
        with pytest.raises(IndexError, match="no such option or action"):
            learner.gradients(PolicyBatch((*inputs, chosen[0]), chosen[1], zeros, zeros, zeros))


def test_gradients_are_followed_whatever_their_place_in_memory_and_a_copy_of_the_optimiser_goes_on():
    weight = torch.nn.Parameter(torch.zeros(3, 2))
    adam = FusedAdam([weight], 0.1)
    gradient = torch.arange(6.0).view(2, 3).t() - 2
    adam.follow([gradient])
    assert (weight.detach().sign() == -gradient.sign()).all()
    adam.minimize(weight.sum())  # whose gradient is one number for all
    follower = copy.deepcopy(adam)
    follower.follow([gradient])
    assert [int(state["step"]) for state in follower.state.values()] == [3]
    adam.follow([None])
    assert [int(state["step"]) for state in adam.state.values()] == [2], "nothing was learned"


def test_what_has_no_gradient_does_not_count_as_a_step():
    both = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    stock = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    ours, theirs = FusedAdam(both, 0.1, eps=1e-5), torch.optim.Adam(stock, 0.1, eps=1e-5)
    for step in range(6):
        gradients = [torch.full((3,), 1.0 + step), None if step < 3 else torch.full((3,), 2.0)]
        ours.follow(gradients, max_norm=1.5)
        for parameter, gradient in zip(stock, gradients, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        torch.nn.utils.clip_grad_norm_(stock, 1.5)
        theirs.step()
        if step == 1:  # before the second has learned, of which stock Adam has no state
            ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
        if step == 4:
            ours.load_state_dict(copy.deepcopy(ours.state_dict()))
    for one, other in zip(both, stock, strict=True):
        torch.testing.assert_close(one, other)
