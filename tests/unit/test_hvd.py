"""HVD on demonstrations that are at hand: what the critic reads, what the weights are, and whom they blame."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from preceptor.agent.chunks import FlowChunks, FlowPolicy
from preceptor.agent.config import TrainConfig
from preceptor.agent.data.faults import Faults
from preceptor.agent.data.recording import joined
from preceptor.agent.data.views import chunks
from preceptor.agent.demonstrating import record, with_optimal
from preceptor.agent.methods.hvd import Hvd, HvdSettings, told_apart
from preceptor.agent.methods.protocol import Parts
from preceptor.agent.players import play
from preceptor.controller.network import TrunkConfig
from preceptor.envs.catalog import get_task
from preceptor.envs.wholebody.tasks import WholeBodyTwin
from preceptor.ground.errors import UserError
from preceptor.ground.level_seeds import SEEDS_PER_SPLIT
from preceptor.ground.optim import FusedAdam

SMALL = TrunkConfig(hidden=32)
TWIN = WholeBodyTwin()


@pytest.fixture(scope="module")
def recording():
    mixed, best = record(TWIN, 30, 0, faults=Faults()), record(TWIN, 4, 1)
    return joined([with_optimal(mixed, False), with_optimal(best, True)])


def made(recording, steps=40, task=TWIN, **settings):
    torch.manual_seed(0)
    own = HvdSettings(trunk=SMALL, batch=64, **settings)
    method = Hvd(Parts(task, TrainConfig(task=task.name, steps=steps, settings=own), np.random.SeedSequence(0)))
    method.recording = recording
    method.begin(steps)
    return method


def trained(method):
    found = {}
    for phase in method.phases:
        while not phase.over(method.taken, method.total):
            phase.advance(None, method.taken, method.total)
        found |= phase.end()
    return found


@pytest.mark.parametrize(("first", "second"), [("prefix", "flat"), ("marginal", "shapley")])
def test_one_group_is_the_same_to_the_digit(recording, first, second):
    one, other = (made(recording, attribution=word, groups="all") for word in (first, second))
    trained(one)
    trained(other)
    np.testing.assert_array_equal(one.weights, other.weights)
    for ours, theirs in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_weights_are_of_mean_one_and_bounded(recording):
    advantages = np.random.default_rng(0).standard_normal((500, 4)).astype(np.float32)
    free, bounded = (made(recording, largest_weight=most, balance=False).weights_of(advantages) for most in (1e6, 5.0))
    np.testing.assert_allclose(free.mean(0), 1, rtol=1e-5)
    assert free.max() > 5
    np.testing.assert_array_equal(bounded, np.minimum(free, 5))


def test_jointly_alone_is_the_difference(recording):
    family, difference = made(recording, joint=1.0), made(recording, attribution="difference")
    difference.q, difference.v = family.q, family.v
    family.weigh()
    difference.weigh()
    np.testing.assert_allclose(family.weights, difference.weights, rtol=1e-3)


def test_ddpg_climbs_the_value_of_its_own_chunks(recording):
    method = made(recording, extract="ddpg", attribution="flat", climb=100.0)
    seen = (torch.from_numpy(method.encoder(recording.obs[:, 0]).parts[0]),)
    method.weights = np.ones((len(method.windows), 4), np.float32)

    def value():
        with torch.no_grad():
            return method.q(seen, method.policy(*seen).flatten(1), torch.ones(1, 4))[0].mean()

    before = value()
    for _ in range(30):
        told = method.update_policy()
    assert value() > before + 0.05
    assert told["low/learning_rate"] == method.optimizer.param_groups[0]["lr"]


def test_a_flow_finds_both_of_two_ways():
    torch.manual_seed(0)
    policy, obs = FlowPolicy(TWIN, 1, TrunkConfig(hidden=64), TWIN.action_groups.values()), torch.zeros(256, 17)
    optimizer, sign = FusedAdam([p for p in policy.parameters() if p.requires_grad], 3e-3), torch.ones(256, 1, 8)
    sign[::2] = -1
    for _ in range(300):
        optimizer.minimize(-policy.log_probs((obs,), 0.5 * sign, torch.ones(256, 1, dtype=torch.bool)).sum(1).mean())
    found, _ = FlowChunks(policy, (obs,), 256).sample(np.random.default_rng(0))
    assert abs(np.abs(found).mean() - 0.5) < 0.15
    assert 0.3 < (found.mean(1) > 0).mean() < 0.7


def test_balanced_weights_are_of_mean_one_where_states_differ(recording):
    """Advantages that are large in half of the states only: without the balance these have all of the weight."""
    rng, means = np.random.default_rng(0), {}
    for balance in (True, False):
        method = made(recording, steps=2_000, balance=balance, temperature=0.5)
        far = method.windows.first(recording.obs, np.arange(len(method.windows)))[:, 3] > 1.0  # distance
        size = np.where(far, 2.0, 0.1)[:, None]
        weights = method.weights_of((size * rng.standard_normal((len(far), 4))).astype(np.float32))
        means[balance] = float(weights[far].mean() / weights[~far].mean())
    assert 0.6 < means[True] < 1.7
    assert means[False] > 2.5


@pytest.mark.parametrize("word", ["truth", "truth-chunk"])
def test_the_truth_about_faults_copies_what_was_not_faulty(recording, word):
    method = made(recording, attribution=word)
    faulty = method.faulty()
    wanted = ~faulty if word == "truth" else np.repeat(~faulty.any(1, keepdims=True), 4, 1)
    np.testing.assert_array_equal(method.weights > 0, wanted)
    np.testing.assert_allclose(method.weights.mean(0), 1, rtol=1e-4)


def test_what_is_seen_of_a_chunk_ends_with_the_episode(recording):
    method = made(recording)
    last = np.flatnonzero(method.windows.count == 1)
    batch = chunks(recording, method.windows, last, 0.97)
    numbers = method.numbers(batch, last).reshape(len(last), 4, 8)
    assert (numbers[:, 0] != 0).any()
    assert not numbers[:, 1:].any()


def test_an_option_is_the_first_group_where_it_counts(recording):
    method = made(recording, with_option=True)
    assert method.names == ("option", *TWIN.action_groups)
    rows = np.arange(20)
    seen = method.numbers(chunks(recording, method.windows, rows, 0.97), rows)[:, :4]
    np.testing.assert_array_equal(seen, np.eye(4)[method.windows.first(recording.option, rows)])
    found = trained(method)
    assert method.weights.shape[1] == 5
    assert {"low/auc_base", "low/auc_grip"} <= found.keys()


@pytest.mark.parametrize("settings", [{"head": "flow"}, {"extract": "ddpg", "attribution": "flat"}, {"replan": 1}])
def test_each_kind_of_policy_plays(recording, settings):
    method = made(recording, **settings)
    before = [p.clone() for p in method.policy.parameters()]
    trained(method)
    assert any((a != b).any() for a, b in zip(before, method.policy.parameters(), strict=True))
    for greedy in (True, False):
        played = play(TWIN, method.player, range(SEEDS_PER_SPLIT, SEEDS_PER_SPLIT + 3), greedy=greedy)
        assert (played.length > 1).all()


@pytest.mark.parametrize("loss", ["expectile", "quantile", "exponential"])
@pytest.mark.parametrize("weighting", ["exponential", "loss"])
def test_each_loss_of_v_gives_weights(recording, loss, weighting):
    method = made(recording, value_loss=loss, weighting=weighting, attribution="prefix")
    trained(method)
    assert np.isfinite(method.weights).all()
    assert (method.weights >= 0).all()


def test_the_optimal_demonstrations_alone_are_valued_where_that_is_asked(recording):
    method = made(recording, value_data="optimal")
    episodes = np.unique(method.windows.episode[method.valued])
    assert recording.extra["optimal"][episodes].any(1).all()
    assert len(episodes) == 4


def test_blame_is_told_apart_by_group():
    faulty = np.array([[1, 0], [0, 1], [0, 0], [1, 1]], bool)
    found = told_apart(faulty.astype(np.float32), faulty, ("a", "b"))
    assert found == {"low/auc_a": 1.0, "low/auc_b": 1.0, "low/named": 1.0}
    assert told_apart(1 - faulty.astype(np.float32), faulty, ("a", "b"))["low/named"] == 0.0


@pytest.mark.parametrize(
    ("missing", "settings", "word"),
    [
        ("reward", {}, "no rewards"),
        ("faults", {"attribution": "truth"}, "do not say which"),
        ("optimal", {"value_data": "optimal"}, "optimal"),
        ("", {"chunk": 400}, "400 actions"),
        ("", {"groups": "base=0-2,arm=2-7"}, "several"),
        ("", {"groups": "base=0-2"}, "in none"),
        ("", {"groups": "base=0-12"}, "no dimensions"),
        ("", {"groups": "nonsense"}, "does not name"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(recording, missing, settings, word):
    if missing == "reward":
        damaged = replace(recording, reward=np.zeros_like(recording.reward))
    else:
        damaged = replace(recording, extra={key: each for key, each in recording.extra.items() if key != missing})
    with pytest.raises(UserError, match=word):
        made(damaged, **settings)


def test_named_actions_have_one_group():
    method = made(record(get_task("SimpleDoorKey"), 8, 0), task=get_task("SimpleDoorKey"), groups="all")
    trained(method)
    assert method.weights.shape[1] == 1
