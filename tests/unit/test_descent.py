"""The optimiser of the off-policy learners is Adam, and the precision of products is theirs alone."""

import copy

import pytest
import torch

from preceptor.agent.methods.sac import SAC, SACConfig, Transitions
from preceptor.agent.methods.td3 import TD3, TD3Config
from preceptor.agent.networks import mlp
from preceptor.agent.optim import FusedAdam, products_in


def loss_of(net, seed):
    generator = torch.Generator().manual_seed(seed)
    return (net(torch.randn(16, 3, generator=generator)) - 1).square().mean()


def batch(seed=0, count=64):
    generator = torch.Generator().manual_seed(seed)
    obs, action, next_obs = (torch.randn(count, width, generator=generator) for width in (40, 2, 40))
    return Transitions(obs, action.tanh(), torch.ones(count), next_obs, torch.full((count,), 0.9))


def test_it_is_adam():
    torch.manual_seed(0)
    ours = mlp(3, (8,), 2)
    theirs = copy.deepcopy(ours)
    down, adam = FusedAdam(ours.parameters(), 1e-2), torch.optim.Adam(theirs.parameters(), 1e-2)
    for step in range(20):
        if step == 10:  # and its state is Adam's, with which it goes on
            state = copy.deepcopy(adam.state_dict())
            down = FusedAdam(ours.parameters(), 5.0)
            down.load_state_dict(state)
        down.minimize(loss_of(ours, step))
        adam.zero_grad()
        loss_of(theirs, step).backward()
        adam.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)
        assert a.grad is None
    saved = down.state_dict()
    assert all(float(state["step"]) == 20 for state in (saved["state"][0], adam.state_dict()["state"][0]))
    adam.load_state_dict(copy.deepcopy(saved))


def test_the_precision_of_products_is_set_for_a_while_and_given_back():
    switch = torch.backends.mkldnn.matmul
    before = switch.fp32_precision
    for precision, inside in (("bfloat16", "bf16"), ("float32", "ieee")):
        with products_in(precision):
            assert switch.fp32_precision == inside
        assert switch.fp32_precision == before


@pytest.mark.parametrize("name", ["sac", "td3"])
def test_learners_multiply_in_the_precision_of_their_configuration(name):
    def make(precision):
        if name == "sac":
            return SAC(40, 2, SACConfig(precision=precision), 0)
        return TD3(40, 2, TD3Config(precision=precision), 0)

    hidden, weight, bias = torch.randn(2, len(batch().obs), 256), torch.randn(2, 256, 256), torch.zeros(2, 1, 256)
    with products_in("float32"):
        exactly = torch.baddbmm(bias, hidden, weight)
    with products_in("bfloat16"):  # not every processor with bfloat16 has it for products of batches
        rounds = not torch.equal(torch.baddbmm(bias, hidden, weight), exactly)
    exact, rounded = make("float32"), make("bfloat16")
    losses = [float(learner.update(batch())["critic_loss"]) for learner in (exact, rounded)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05), "rounding is all that differs"
    pairs = zip(exact.critic.parameters(), rounded.critic.parameters(), strict=True)
    assert any(not torch.equal(one, other) for one, other in pairs) == rounds
    assert all(parameter.dtype == torch.float32 for parameter in rounded.critic.parameters())
