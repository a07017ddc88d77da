"""Work that is recorded and replayed, with a recorder of torch's operations in the place of CUDA's.

As a CUDA graph it keeps the numbers that Python had, reads and writes the arrays that there were, refuses what a
processor would have to look at, and leaves everything as it was while it records.
"""

import contextlib
import copy
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from preceptor.agent.halo.config import NeuralConfig
from preceptor.agent.halo.policies import NeuralPolicies
from preceptor.agent.losses import PriorActions
from preceptor.agent.methods.ppo import PPO, PolicyBatch, PPOConfig, means
from preceptor.agent.methods.sac import SAC, SACConfig, Transitions
from preceptor.agent.methods.sac_discrete import DiscreteSAC, DiscreteSACConfig, OptionTransitions
from preceptor.agent.methods.stacked_ppo import StackedPPO
from preceptor.agent.methods.td3 import TD3, TD3Config
from preceptor.agent.networks import LowNetwork
from preceptor.agent.phases import Distil
from preceptor.controller.distill import DistilConfig, Distillation, distillation_gradients, scenes_of
from preceptor.controller.encoders import Encoded, VectorEncoder, encoder_of
from preceptor.controller.network import TrunkConfig
from preceptor.controller.roles import network_of
from preceptor.envs.catalog import get_task
from preceptor.ground import repeated
from preceptor.ground.device import normal
from preceptor.ground.optim import FusedAdam
from preceptor.ground.repeated import Repeated

REFUSED = "_local_scalar_dense", "normal_", "randperm", "nonzero"


class Graph:
    """Operations and the arrays that they gave."""

    def __init__(self):
        self.done, self.own, self.replays = [], [], 0

    def replay(self):
        self.replays += 1
        with torch.no_grad():
            for array in self.own:  # memory of its own is used several times within a graph
                if array.is_floating_point():
                    array.fill_(torch.nan)
            for operation, arguments, keywords, given in self.done:
                made = operation(*arguments, **keywords)
                for old, new in zip(given, arrays(made), strict=True):
                    if old.data_ptr() != new.data_ptr():  # neither a view nor in place
                        old.copy_(new)


class Recording(TorchDispatchMode):
    def __init__(self, graph):
        super().__init__()
        self.graph, self.before = graph, {}

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        if any(refused in operation.__name__ for refused in REFUSED):
            raise RuntimeError(f"{operation} cannot be recorded")
        names = [each.name for each in operation._schema.arguments]
        given = dict(zip(names, arguments, strict=False)) | (keywords or {})
        for each in operation._schema.arguments:
            if each.alias_info and each.alias_info.is_write:
                for array in arrays(given[each.name]):
                    self.before.setdefault(array.data_ptr(), (array, array.clone()))
        made = operation(*arguments, **(keywords or {}))
        if "empty" in operation.__name__:  # which does nothing to memory
            self.graph.own += arrays(made)
        else:
            self.graph.done.append((operation, arguments, keywords or {}, arrays(made)))
        return made

    def __exit__(self, *error):
        super().__exit__(*error)
        with torch.no_grad():
            for array, before in self.before.values():
                array.copy_(before)


def arrays(made):
    return [each for each in (made if isinstance(made, (list, tuple)) else [made]) if isinstance(each, torch.Tensor)]


@pytest.fixture
def gpu(monkeypatch):
    """A GPU, as far as repeated work can tell. Numbers are float64, since those are not worked out by hand."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(repeated, "records", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **how: Recording(graph))
    # Torch's own reads its input, except on a GPU
    monkeypatch.setattr(torch.nn.functional, "one_hot", lambda given, count: torch.eye(count).long()[given])
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


GRID, SMALL = get_task("SimpleDoorKey"), TrunkConfig(hidden=16)
LEARNERS = {
    "sac": lambda: SAC(3, 2, SACConfig(hidden=(16, 16), batch=8), seed=1),
    "sac, normed, fixed temperature": lambda: SAC(3, 2, SACConfig(hidden=(16,), normed=True, temperature=0.1), seed=1),
    "td3": lambda: TD3(3, 2, TD3Config(hidden=(16, 16)), seed=1),
    "options": lambda: DiscreteSAC(
        VectorEncoder([1.0] * 3), 4, DiscreteSACConfig(trunk=TrunkConfig(hidden=16)), seed=1
    ),
}
PRIORS = {"none": None, "one that fades": False, "one that fades, filtered": True}


def batches(count, name="sac", value_filter=None):
    """From noise; a prior counts for less and less, and not at all in the last ones."""
    rng = torch.Generator().manual_seed(0)
    for k in range(count):
        obs, action, after = (torch.randn(8, width, generator=rng) for width in (3, 2, 3))
        reward, discount, weight = torch.randn(8, generator=rng), torch.full((8,), 0.9), max(0.0, 1 - k / 12)
        held = weight > 0 and value_filter is not None
        if name == "options":
            legal, option = torch.rand(2, 8, 4, generator=rng) < 0.8, torch.randint(4, (8,), generator=rng)
            prior = torch.rand(8, 4, generator=rng).softmax(1) if held else None
            yield OptionTransitions((obs,), (after,), *legal, option, reward, discount, prior, weight)
        else:
            prior = PriorActions(torch.rand(8, 2, generator=rng), weight, value_filter) if held else None
            yield Transitions(obs, action.tanh(), reward, after, discount, prior)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("name", LEARNERS)
def test_learners_learn_the_same_from_recorded_steps(name, prior, gpu, monkeypatch):
    recorded, plain = LEARNERS[name](), LEARNERS[name]()
    for k, batch in enumerate(batches(18, name, PRIORS[prior])):
        if k == 9:  # long after it was recorded
            recorded.scale_rates(0.25)
            plain.scale_rates(0.25)
        found = {what: float(value) for what, value in recorded.update(batch).items()}
        with monkeypatch.context() as patch:
            patch.setattr(repeated, "records", lambda: False)
            wanted = {what: float(value) for what, value in plain.update(batch).items()}
        assert found == pytest.approx(wanted, rel=1e-12), k
    graphs = [step._graph for step in recorded._repeated._of_kind.values() if step._graph]
    assert graphs
    assert sum(graph.replays for graph in graphs) > 5
    for one, other in zip(recorded.actor.parameters(), plain.actor.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def ppo(seed=0):
    """A learner of flat policies."""
    torch.manual_seed(seed)
    network = LowNetwork(encoder_of(GRID), 1, 4, SMALL).double()  # what tokens are is float32
    return PPO(network, PPOConfig(minibatch=8), np.random.default_rng(0))


def samples(count, seed=0, masked=False):
    """Samples of a roll-out, as far as PPO can tell."""
    rng = torch.Generator().manual_seed(seed)
    scenes = encoder_of(GRID)(GRID.make_vec(count).reset(seed=seed)[0])
    tokens, present = map(torch.as_tensor, scenes.parts)
    action, legal = torch.randint(3, (count,), generator=rng), torch.rand(count, 4, generator=rng) < 0.5
    legal[range(count), action] = True
    log_prob, advantage, returns = torch.randn(3, count, generator=rng)
    inputs = tokens, present.double(), torch.zeros_like(action)
    return PolicyBatch(inputs, action, log_prob - 2, advantage, returns, legal if masked else None)


def test_updates_of_ppo_are_the_same_recorded(gpu, monkeypatch):
    one, plain = ppo(), ppo()
    frozen = copy.deepcopy(plain.network)
    for k in range(12):  # critics alone, then held to a prior that fades, then by itself
        how = {"policy": k > 2, "prior": frozen if k < 9 else None, "remaining": 1 - k / 20}
        how |= {"prior_weight": (9 - k) / 9}
        batch = samples(24, k, masked=True)
        found = one.update(batch, **how)
        with monkeypatch.context() as patch:
            patch.setattr(repeated, "records", lambda: False)
            wanted = plain.update(batch, **how)
        assert found == pytest.approx(wanted, rel=1e-7), k  # a share is float32
    graphs = [recorded._graph for recorded in one._repeated._of_kind.values()]
    assert [graph.replays for graph in graphs] == [33, 69, 33]  # four epochs of three minibatches each
    for ours, theirs in zip(one.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


def test_epochs_of_several_learners_side_by_side_are_those_of_each_and_the_same_recorded(gpu):
    alone, together = ([ppo(seed) for seed in (0, 1, 2)] for _ in range(2))
    stacked = StackedPPO(together)
    recorded = Repeated(stacked.pass_over)
    rng = torch.Generator().manual_seed(3)
    batch, own = samples(3 * 24), torch.arange(3 * 24).view(3, 24)
    for k in range(7):
        order = own.gather(1, torch.rand(3, 24, generator=rng).argsort(1))
        stacked.scale_rates(1 - k / 10)
        told = recorded(batch, order)
        stacked.hand_back()
        for place, learner in enumerate(alone):
            learner.scale_rates(1 - k / 10)
            wanted = means([learner._step(part, 0.0, True) for part in batch.select(order[place]).split(3)])
            for name, term in told.items():
                torch.testing.assert_close(term[place], wanted[name], rtol=1e-10, atol=1e-13)
    for one, other in zip(together, alone, strict=True):
        for part in ("network", "optimizer"):
            torch.testing.assert_close(one.state_dict()[part], other.state_dict()[part], rtol=1e-10, atol=1e-13)


def labelled(task):
    """40 scenes with labels, but for the first five, and skills."""
    rng = np.random.default_rng(0)
    obs, _ = task.make_vec(40).reset(seed=0)
    probs = rng.random((40, len(task.options))).astype(np.float32) * (np.arange(40) >= 5)[:, None]
    scenes = scenes_of(task, obs, rng.integers(-1, len(task.options), 40), probs, task.legal(obs))
    return scenes.with_skills(rng.integers(task.num_actions, size=probs.shape).astype(np.int8))


@pytest.mark.parametrize("name", ["SimpleDoorKey", "ColoredDoorKey"])  # of colours, of roles
@pytest.mark.parametrize("student", ["hierarchical", "flat"])
def test_distillation_is_the_same_recorded(name, student, gpu, monkeypatch):
    task, found = get_task(name), []
    scenes = labelled(task)
    parts = [part.astype(np.float64) if part.dtype == np.float32 else part for part in scenes.encoded.parts]
    scenes = replace(scenes, encoded=Encoded(tuple(parts)), probs=scenes.probs.astype(np.float64))
    for records in (True, False):
        monkeypatch.setattr(repeated, "records", lambda records=records: records)
        torch.manual_seed(0)
        heads = len(task.options) if student == "hierarchical" else 1
        low = LowNetwork(encoder_of(task), heads, task.num_actions, SMALL).double()
        learner = SimpleNamespace(controller=network_of(task, SMALL).double(), low=low, task=task, _masked=True)
        learner._skill_targets = partial(Distil._skill_targets, learner)
        networks, gradients = [learner.controller, low], partial(Distil.gradients, learner)
        config, rng = DistilConfig(minibatch=8), np.random.default_rng(0)
        distillation = Distillation(encoder_of(task), networks, gradients, config, rng)
        distillation.add(scenes)
        told = [distillation.train(4, progress / 10) for progress in range(4)]
        if records:
            assert [step._graph.replays for step in distillation._step._of_kind.values()] == [13]
        distillation.optimizer.load_state_dict(copy.deepcopy(distillation.optimizer.state_dict()))
        distillation.forget_step()
        told += [distillation.train(4, progress / 10) for progress in range(4, 6)]
        found.append((told, [each for network in networks for each in network.parameters()]))
    (told, ours), (wanted, theirs) = found
    assert told == [pytest.approx(each, rel=1e-12) for each in wanted]
    assert len(told[0]) == 4
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def test_networks_that_read_missions_look_at_numbers_and_are_not_recorded(gpu):
    torch.set_default_dtype(torch.float32)
    task = get_task("OneRoom-Mix")
    network = network_of(task, SMALL)
    gradients = partial(distillation_gradients, network, masked=True)
    distillation = Distillation(encoder_of(task), [network], gradients, DistilConfig(), np.random.default_rng(0))
    distillation.add(labelled(task))
    assert distillation.train(5, 0.0)["kl"] > 0


@pytest.mark.parametrize("continuous", [False, True])
def test_em_teaches_networks_the_same_recorded(continuous, gpu, monkeypatch):
    rng, made = torch.Generator().manual_seed(0), []
    restarts, options, batches = 2, 3, []
    for size in (8, 8, 8, 8, 5, 8, 8, 8):  # the last of an epoch is smaller
        action = torch.randn(size, 4, generator=rng) if continuous else torch.randint(4, (size,), generator=rng)
        features, low = torch.randn(size, 6, generator=rng), torch.rand(restarts, size, options, generator=rng)
        pairs, first = torch.rand(restarts, size, options, options, generator=rng), low / 2
        batches.append((features, action, low, pairs, first, torch.rand((), generator=rng)))
    for records in (True, False):
        monkeypatch.setattr(repeated, "records", lambda records=records: records)
        policies = NeuralPolicies(6, options, 4, continuous, restarts, NeuralConfig(hidden=16), 1).double()
        for batch in batches:
            policies.step(*batch)
        if records:
            assert [step._graph.replays for step in policies.step._of_kind.values()] == [4]
        made.append(list(policies.parameters()))
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def test_other_shapes_are_not_recorded_but_computed(gpu):
    twice = Repeated(lambda given: 2 * given)
    for _ in range(5):
        twice(torch.ones(8))
    assert twice(torch.ones(1)).tolist() == [2.0]
    assert twice(torch.ones(8, dtype=torch.float32)).dtype == torch.float32
    assert twice(torch.full((8,), 3.0)).tolist() == [6.0] * 8


def test_a_learner_that_is_loaded_goes_on_from_what_was_saved(gpu):
    learner, plain = LEARNERS["sac"](), LEARNERS["sac"]()
    for k, batch in enumerate(batches(16)):
        if k == 8:
            learner.load_state_dict(copy.deepcopy(learner.state_dict()))
            plain.load_state_dict(copy.deepcopy(plain.state_dict()))
        learner.update(batch)
        plain._step(batch, True)
    for one, other in zip(learner.actor.parameters(), plain.actor.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def test_a_copy_of_a_learner_records_its_own(gpu):
    learner = LEARNERS["sac"]()
    for batch in batches(6):
        learner.update(batch)
    other = copy.deepcopy(learner)
    before = copy.deepcopy([*learner.actor.parameters()])
    for batch in batches(6):
        other.update(batch)
    assert all(torch.equal(one, same) for one, same in zip(before, learner.actor.parameters(), strict=True))
    assert not any(torch.equal(one, new) for one, new in zip(before, other.actor.parameters(), strict=True))


def test_noise_of_recorded_work_is_drawn_anew_and_is_what_it_would_be(gpu):
    generator, again = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    noisy = Repeated(lambda given: given + normal((4,), generator))
    for k in range(7):
        given = torch.full((4,), float(k))
        wanted = given + torch.empty(4).normal_(generator=again)
        torch.testing.assert_close(noisy(given), wanted)


def test_what_a_processor_would_have_to_look_at_cannot_be_recorded(gpu):
    looking = Repeated(lambda given: given * given.sum().item())
    for _ in range(3):
        looking(torch.ones(2))
    with pytest.raises(RuntimeError, match="cannot be recorded"):
        looking(torch.ones(2))


def test_rates_of_an_optimiser_and_of_its_copies_are_where_parameters_are():
    parameter = torch.zeros(2, requires_grad=True)
    optimiser = FusedAdam([parameter], 0.5)
    optimiser.scale_rate(0.5)
    for each in (optimiser, copy.deepcopy(optimiser)):
        assert (each._rate.item(), each._rate.device) == (0.25, parameter.device)
    other = FusedAdam([parameter], 0.125)
    other.load_state_dict(optimiser.state_dict())
    assert other._rate.item() == 0.25
