"""What is computed by hand, or compiled, on a processor is what torch makes of its definition."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from preceptor.agent import by_hand
from preceptor.agent.clock import Clock, named
from preceptor.agent.imitation import imitation_gradients, imitation_loss
from preceptor.agent.levels import Observations
from preceptor.agent.methods.ppo import PPO, PolicyBatch, PPOConfig
from preceptor.agent.networks import HighNetwork, LowNetwork, NetworkHigh
from preceptor.controller import compiled, passes, seen
from preceptor.controller.by_hand import NetworkPass
from preceptor.controller.distill import distillation_gradients, distillation_loss, scenes_of
from preceptor.controller.encoders import encoder_of
from preceptor.controller.network import ControllerNetwork, TrunkConfig, to_tensors
from preceptor.envs.catalog import get_task
from preceptor.ground.optim import FusedAdam

TASK = get_task("SimpleDoorKey")
BY_ROLE = get_task("ColoredDoorKey")  # whose controllers see roles instead of colours


def observed(count, task=TASK):
    env, rng = task.make_vec(count), np.random.default_rng(0)
    obs = env.reset(seed=0)[0]
    for _ in range(20):
        obs = env.step(rng.integers(0, task.num_actions, count))[0]
    return obs


def scenes(count, task=TASK):
    return to_tensors(encoder_of(task)(observed(count, task)))


def shaken(network):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return network


def network_with(options, task=TASK):
    torch.manual_seed(0)
    return shaken(LowNetwork(encoder_of(task), options, task.num_actions, TrunkConfig(8, 32)))


def controller_of(task):
    torch.manual_seed(0)
    return ControllerNetwork(encoder_of(task), len(task.options), TrunkConfig(8, 32))


def near(one, other):
    return (one - other).abs().max() <= 1e-5 * other.abs().max()


def same(found, loss, parameters):
    expected = torch.autograd.grad(loss, parameters, allow_unused=True)
    return all((one is None and other is None) or near(one, other) for one, other in zip(found, expected, strict=True))


@pytest.fixture
def by_definition(monkeypatch):
    """What is computed from here on is computed by torch alone."""
    return lambda: monkeypatch.setattr("preceptor.controller.network.added_up", seen.dense)


def test_sums_over_what_has_been_seen_and_their_gradients_are_those_of_the_definition():
    tokens, _ = scenes(64)
    table, weight = torch.randn(41, 4, requires_grad=True), torch.randn(32, 4 * tokens.shape[1], requires_grad=True)
    wanted = torch.randn(64, 32)
    found = []
    for function in (seen.added_up, seen.dense):
        summed = function(tokens, table, weight)
        found.append([summed, *torch.autograd.grad((summed * wanted).sum(), (table, weight))])
    assert all(near(one, other) for one, other in zip(*found, strict=True))


def drawn(network, inputs, actions, legal=None, held=None):
    """On-policy samples of which some ratios are clipped."""
    generator = torch.Generator().manual_seed(1)
    advantage, returns, noise = torch.randn(3, len(inputs[0]), generator=generator)
    chances = torch.ones(len(inputs[0]), actions) if legal is None else legal.float()
    action = torch.multinomial(chances, 1, generator=generator).squeeze(1)
    with torch.no_grad():
        before = network.head.log_prob(network(*inputs)[0], action, legal) + 0.2 * noise
        wanted = held and held(*inputs)[0] + torch.randn(len(action), actions, generator=generator)
    return PolicyBatch(inputs, action, before, advantage, returns, legal, wanted)


def check_ppo(network, batch, entropy, policy, by_definition):
    learner = PPO(network, PPOConfig(entropy=entropy), np.random.default_rng(0))
    assert by_hand.fits(network)
    found, told = learner.gradients(batch, 0.7, policy)
    by_definition()
    loss, terms = learner.loss(batch, 0.7, policy)
    assert same(found, loss, learner.parameters)
    assert told.keys() == terms.keys()
    assert all(float(told[name]) == pytest.approx(float(terms[name]), rel=1e-5, abs=1e-6) for name in terms)
    assert not policy or float(terms["clip_fraction"]) > 0.1


@pytest.mark.parametrize("task", [TASK, BY_ROLE], ids=["colours", "roles"])
@pytest.mark.parametrize("entropy", [0.0, 0.03])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("policy", [True, False])
def test_gradients_of_a_low_level_are_autograds(task, flat, held, policy, entropy, by_definition):
    options = 1 if flat else len(task.options)
    network, generator = network_with(options, task), torch.Generator().manual_seed(2)
    inputs = *scenes(128, task), torch.randint(options, (128,), generator=generator)
    batch = drawn(network, inputs, task.num_actions, held=shaken(copy.deepcopy(network)) if held else None)
    check_ppo(network, batch, entropy, policy, by_definition)


@pytest.mark.parametrize("task", [TASK, BY_ROLE], ids=["colours", "roles"])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("policy", [True, False])
def test_gradients_of_a_high_level_are_autograds(task, masked, held, policy, by_definition):
    obs, options = observed(128, task), len(task.options)
    network = shaken(HighNetwork(controller_of(task)))
    previous = torch.randint(-1, options, (128,), generator=torch.Generator().manual_seed(2))
    inputs = *to_tensors(encoder_of(task)(obs)), previous
    legal = torch.as_tensor(task.legal(obs)) if masked else None
    batch = drawn(network, inputs, options, legal, shaken(copy.deepcopy(network)) if held else None)
    check_ppo(network, batch, 0.03, policy, by_definition)


@pytest.mark.parametrize(("count", "options", "actions"), [(1, 3, 7), (0, 3, 7), (16, 1, 1), (16, 1, 7), (16, 3, 1)])
def test_gradients_of_odd_sizes_are_autograds(count, options, actions, by_definition):
    by_definition()
    torch.manual_seed(0)
    low = shaken(LowNetwork(encoder_of(TASK), options, actions, TrunkConfig(8, 32)))
    high = shaken(HighNetwork(ControllerNetwork(encoder_of(TASK), options, TrunkConfig(8, 32))))
    inputs = *(part[:count] for part in scenes(16)), torch.zeros(count, dtype=torch.int64)
    batches = (low, drawn(low, inputs, actions)), (high, drawn(high, inputs, options))
    illegal = dataclasses.replace(batches[1][1], legal=torch.zeros(count, options, dtype=torch.bool))
    for network, batch in (*batches, (high, illegal)):
        learner = PPO(network, PPOConfig(), np.random.default_rng(0))
        assert by_hand.fits(network)
        assert same(learner.gradients(batch)[0], learner.loss(batch)[0], learner.parameters)


def test_values_alone_depend_on_values_alone(by_definition):
    """Where the policy has gone so far that ratios are infinite, as where they are."""
    network = shaken(HighNetwork(controller_of(TASK)))
    batch = drawn(network, (*scenes(16), torch.zeros(16, dtype=torch.int64)), len(TASK.options))
    batch = dataclasses.replace(batch, behaviour_logprob=torch.full((16,), -torch.inf))
    check_ppo(network, batch, 0.03, False, by_definition)


def labelled(task, flat=False):
    """Scenes with labels, of which a tenth are abstentions, and a low level with what it is to imitate in them."""
    obs, rng, options = observed(128, task), np.random.default_rng(3), len(task.options)
    legal = task.legal(obs)
    probs = rng.dirichlet(np.ones(options), 128) * legal
    probs[::10] = 0
    probs = (probs / np.maximum(probs.sum(1, keepdims=True), 1e-9)).astype(np.float32)
    shape = (128, 1 if flat else options)
    targets = rng.dirichlet(np.ones(task.num_actions), shape).astype(np.float32)
    mask = probs.any(1, keepdims=True) if flat else legal
    made = scenes_of(task, obs, rng.integers(-1, options, 128), probs, legal)
    return made, torch.as_tensor(targets), torch.as_tensor(mask)


@pytest.mark.parametrize("task", [TASK, BY_ROLE], ids=["colours", "roles"])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("steep", [False, True])  # so that some labels are all but impossible
def test_gradients_of_distillation_are_autograds(task, masked, steep, by_definition):
    network, (batch, *_) = shaken(controller_of(task)), labelled(task)
    if steep:
        with torch.no_grad():
            network.option_head.weight *= 200
    found, told = distillation_gradients(network, batch, masked)
    by_definition()
    loss, terms = distillation_loss(network, batch, masked)
    assert same(found, loss, list(network.parameters()))
    assert told == pytest.approx({name: float(term) for name, term in terms.items()}, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("task", [TASK, BY_ROLE], ids=["colours", "roles"])
@pytest.mark.parametrize("flat", [True, False])
def test_gradients_of_imitated_skills_are_autograds(task, flat, by_definition):
    network = network_with(1 if flat else len(task.options), task)
    batch, targets, mask = labelled(task, flat)
    parts = to_tensors(batch.encoded)
    found, told = imitation_gradients(network, parts, targets, mask)
    by_definition()
    loss = imitation_loss(network, parts, targets, mask)
    assert same(found, loss, list(network.parameters()))
    assert told["skill_loss"] == pytest.approx(float(loss.detach()), rel=1e-5)


def test_nothing_is_learned_of_scenes_without_labels():
    network, (batch, targets, mask) = shaken(controller_of(TASK)), labelled(TASK)
    empty, low = dataclasses.replace(batch, probs=0 * batch.probs), network_with(len(TASK.options))
    found, told = distillation_gradients(network, empty, True)
    of_options = dict(zip(dict(network.named_parameters()), found, strict=True))["option_head.weight"]
    assert told["kl"] == 0
    assert not of_options.any()
    assert np.isnan(distillation_gradients(network, batch[np.arange(0)], True)[1]["done_loss"]), "a mean of nothing"
    found, told = imitation_gradients(low, to_tensors(batch.encoded), targets, torch.zeros_like(mask))
    assert told["skill_loss"] == 0
    assert not any(gradient.any() for gradient in found if gradient is not None)


def test_other_networks_are_left_to_autograd():
    vectors = get_task("PointReach")
    network = LowNetwork(encoder_of(vectors), 1, 2, TrunkConfig(), continuous=True)
    assert not by_hand.fits(network)
    assert not by_hand.fits(network_with(1).double())
    assert not by_hand.fits(network_with(1).to("meta")), "elsewhere than in main memory"


@torch.no_grad()
def test_what_is_played_is_the_network_as_it_is_now(monkeypatch):
    network, (tokens, present) = network_with(1), scenes(16)
    monkeypatch.setattr("preceptor.controller.network.added_up", seen.dense)

    def both():
        played = network.trunk(tokens, present)
        monkeypatch.setattr(compiled, "MOST", 0)
        reference = network.trunk(tokens, present)
        monkeypatch.setattr(compiled, "MOST", 512)
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


@pytest.mark.parametrize("task", [TASK, BY_ROLE], ids=["colours", "roles"])
@pytest.mark.parametrize("masked", [True, False])
def test_levels_at_play_choose_as_their_definition_says(task, masked, monkeypatch):
    obs, options = observed(64, task), len(task.options)
    seen_now = Observations(task, encoder_of(task), obs, np.zeros(64, np.int64))
    seen_now.legal[0] = False
    running = np.random.default_rng(4).integers(-1, options, 64)
    high = NetworkHigh(shaken(controller_of(task)), masked)
    torch.nn.init.normal_(high.network.option_head.weight)
    clock = Clock(64, task.options.timeouts, named())
    clock.option = running.clip(0)
    found = []
    for most in (compiled.MOST, 0):
        monkeypatch.setattr(compiled, "MOST", most)
        over, choice = high.choose(seen_now, running)
        flat = Clock(64, np.ones(1, np.int64), named())
        flat.option[:] = 0
        lows = [network_with(options, task).act(seen_now, clock).probs, network_with(1, task).act(seen_now, flat).probs]
        found.append([over, choice.probs, *lows])
    for ours, torchs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, torchs, atol=1e-6)
    assert 0 < found[0][0].mean() < 1
    assert not masked or not found[0][1][1:][~seen_now.legal[1:]].any()
    high.network.option_head.bias.data[0] = torch.nan
    monkeypatch.setattr(compiled, "MOST", 512)
    high.network.option_head.bias.requires_grad_(False).add_(0)  # which counts the change
    assert np.isnan(high.choose(seen_now, running)[1].probs).any(), "what is not a number does not become one"


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


def test_batches_of_which_a_part_does_not_fit_are_refused_not_read_past_their_end():
    low, high = network_with(len(TASK.options)), HighNetwork(controller_of(TASK))
    made, targets, mask = labelled(TASK)
    inputs, zeros = (*to_tensors(made.encoded), torch.zeros(128, dtype=torch.int64)), torch.zeros(128)
    legal = torch.as_tensor(made.legal)
    batch = PolicyBatch(inputs, inputs[-1], zeros, zeros, zeros, legal, torch.zeros(legal.shape))
    learner = PPO(high, PPOConfig(), np.random.default_rng(0))
    cells = inputs[0][:, :-1].contiguous(), *inputs[1:]
    changed = [{name: getattr(batch, name)[:-1]} for name in ("action", "advantage", "returns", "legal", "wanted")]
    for part in (*changed, {"legal": legal[:, :-1]}, {"wanted": zeros[:, None]}, {"inputs": cells}):
        with pytest.raises(ValueError, match="shapes"):
            learner.gradients(dataclasses.replace(batch, **part))
    for name in ("probs", "legal", "done"):
        for wrong in (getattr(made, name)[:-1], getattr(made, name)[:, :-1]):
            with pytest.raises(ValueError, match="shapes"):
                distillation_gradients(high.controller, dataclasses.replace(made, **{name: wrong}), True)
    for wrong in ((targets[:-1], mask), (targets[:, :-1], mask), (targets, mask[:-1]), (targets, mask[:, :1])):
        with pytest.raises(ValueError, match="shapes"):
            imitation_gradients(low, inputs[:-1], *wrong)


def test_a_gradient_of_another_shape_and_tokens_of_another_kind_are_refused():
    network, (tokens, present) = network_with(1), scenes(8)
    heads = network.action_head, network.value_head
    with torch.no_grad():
        made = NetworkPass(network.trunk, heads, tokens, present)
        with pytest.raises(TypeError, match="uint8"):
            NetworkPass(network.trunk, heads, tokens.long(), present)
    for wrong in (made.outputs[:-1], made.outputs[:, :-1], made.outputs.repeat(2, 1)):
        with pytest.raises(ValueError, match="shapes"):
            made.gradients(wrong)


def test_an_option_or_an_action_that_there_is_not_is_refused():
    network, inputs = network_with(3), scenes(2)
    zeros, learner = torch.zeros(2), PPO(network, PPOConfig(), np.random.default_rng(0))
    for option, action in ((3, 0), (-1, 0), (0, TASK.num_actions)):
        chosen = torch.full((2,), option), torch.full((2,), action)
        with pytest.raises(IndexError, match="no such option or action"):
            learner.gradients(PolicyBatch((*inputs, chosen[0]), chosen[1], zeros, zeros, zeros))


@pytest.mark.parametrize(
    ("count", "inner", "width"), [(0, 5, 3), (1, 1, 1), (3, 4, 5), (4, 3, 16), (9, 7, 33), (64, 41, 64)]
)
@pytest.mark.parametrize("turned", [False, True])
def test_products_of_any_size_are_numpys(count, inner, width, turned):
    rng = np.random.default_rng(0)
    left, right, into = (rng.random(shape, np.float32) for shape in ((count, inner), (inner, width), (count, width)))
    bias, left = rng.random(width, np.float32), np.ascontiguousarray(left.T).T if turned else left
    expected = into + left @ right
    passes.add_product(left, right, into)
    np.testing.assert_allclose(into, expected, rtol=1e-5)
    if not turned:
        made = np.empty_like(into)
        passes.put_product(left, np.ascontiguousarray(right.T), bias, made)
        np.testing.assert_allclose(made, left @ right + bias, rtol=1e-5)


@pytest.mark.parametrize(("embedding", "hidden"), [(1, 1), (3, 18), (5, 31), (4, 64)])
def test_networks_of_any_width_are_played_and_learned_as_their_definition_says(embedding, hidden, by_definition):
    torch.manual_seed(0)
    network = shaken(LowNetwork(encoder_of(TASK), 1, 7, TrunkConfig(embedding, hidden)))
    inputs = *scenes(37), torch.zeros(37, dtype=torch.int64)
    tokens, present = (part.numpy() for part in inputs[:2])
    played = torch.as_tensor(network._in_play(tokens, present))
    alone = [network._in_play(tokens[n : n + 1], present[n : n + 1])[0] for n in range(37)]
    assert (np.stack(alone) == played.numpy()).all(), "to the bit, whatever else is played"
    batch, learner = drawn(network, inputs, 7), PPO(network, PPOConfig(), np.random.default_rng(0))
    found, _ = learner.gradients(batch)
    by_definition()
    assert near(played, network(*inputs)[0].detach())
    assert same(found, learner.loss(batch)[0], learner.parameters)
