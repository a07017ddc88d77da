"""HIRO over options: exact relabelling, what each level is paid, and who chooses, against loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from preceptor.agent.data.views import sample_segments
from preceptor.agent.hierarchy import Hierarchy, Observations
from preceptor.agent.methods.hiro_options import OptionHiro, OptionHiroSettings
from preceptor.agent.methods.ppo import PPOConfig
from preceptor.agent.methods.sac_discrete import DiscreteSACConfig
from preceptor.controller.encoders import encoder_of
from preceptor.controller.network import to_tensors
from preceptor.envs.catalog import get_task
from tests.parts import parts as parts_of

ENVS, TOTAL, PERIOD = 4, 2_000, 5
LOW, HIGH = PPOConfig(minibatch=64, epochs=1, gamma=0.9), DiscreteSACConfig(batch=32, gamma=0.8)
CONFIG = OptionHiroSettings(period=PERIOD, low=LOW, high=HIGH, high_updates=0.1, warmup=100, rollout=16)
PRIOR = replace(CONFIG, prior="controller")
TASKS = ("SimpleDoorKey", "PointPush")


class Planner:
    """A controller that always wants the first legal option, and keeps what it was asked."""

    def __init__(self, task):
        self.task, self.asked, self.refuses = task, [], False

    def probs(self, obs, previous=None, legal=None):
        assert not self.refuses, "the controller was not to be asked"
        self.asked.append(obs.copy())
        return np.eye(len(self.task.options), dtype=np.float32)[legal.argmax(1)]


def played(name, config=CONFIG, rollouts=12, planner=None):
    """A method after some roll-outs that it learned from, and its hierarchy."""
    task = get_task(name)
    method = OptionHiro(parts_of(task, config, ENVS, TOTAL, planner))
    hierarchy = Hierarchy(task, task.make_vec(ENVS, seed=3), method.player, rng=np.random.default_rng(0))
    for done in range(1, rollouts + 1):
        hierarchy.collect(method.store, config.rollout)
        method.update(hierarchy.observed, done * config.rollout * ENVS)
    return method, hierarchy


@pytest.mark.parametrize("name", TASKS)
def test_the_option_that_explains_best_is_found_among_all(name):
    method, _ = played(name)
    parts = sample_segments(method.store, np.random.default_rng(1), 40, PERIOD)
    legal = method.legal(parts.obs[:, 0])
    found, changed = method.explained(parts, legal), 0
    for b in range(40):
        scores = {}
        for k in np.flatnonzero(legal[b]):
            obs = parts.obs[b, : parts.length[b]]
            inputs = (*to_tensors(method.encoder(obs)), torch.full((len(obs),), k))
            with torch.no_grad():
                outputs = method.low_network(*inputs)[0]
                action = torch.from_numpy(parts.action[b, : parts.length[b]])
                scores[int(k)] = float(method.low_network.head.log_prob(outputs, action).sum())
        assert scores[int(found[b])] == pytest.approx(max(scores.values()), abs=1e-4)
        changed += int(found[b] != parts.option[b])
    assert changed > 0
    assert {len(range(n)) for n in parts.length} != {PERIOD}, "segments that were cut are among them"


def test_the_original_wins_ties():
    method, _ = played("SimpleDoorKey", rollouts=1)
    for parameter in method.low_network.action_head.parameters():
        parameter.data.zero_()
    parts = sample_segments(method.store, np.random.default_rng(1), 40, PERIOD)
    np.testing.assert_array_equal(method.explained(parts, method.legal(parts.obs[:, 0])), parts.option)


@pytest.mark.parametrize("name", TASKS)
def test_the_low_level_is_paid_for_what_its_option_is_for(name):
    length = 64  # long enough for someone to arrive somewhere
    method, hierarchy = played(name, replace(CONFIG, rollout=length), rollouts=1)
    task, store = method.task, method.store
    batch = method.low_batch(hierarchy.observed, length)
    obs, option = store.column("obs"), store.column("option")
    assert len(batch) == length * ENVS
    discounted = np.zeros((length, ENVS), np.float32)
    with torch.no_grad():
        values = method.low_network(*batch.inputs)[1].view(length, ENVS).numpy()
    rows, finals = store.final_observations()
    at_end = {tuple(row): final for row, final in zip(rows.tolist(), finals, strict=True)}
    paid = spoilt = 0
    for n in range(ENVS):
        advantage = 0.0
        for t in reversed(range(length)):
            ended = (t, n) in at_end
            after = at_end[t, n] if ended else obs[t + 1, n] if t + 1 < length else hierarchy.observed.obs[n]
            achieved = bool(task.option_achieved(obs[t, n][None], after[None], option[t, n][None])[0])
            paid += achieved
            cut = ended or t + 1 == length or store.column("option_age")[t + 1, n] == 0
            with torch.no_grad():
                inputs = (*to_tensors(method.encoder(after[None])), torch.from_numpy(option[t, n][None]))
                following = float(method.low_network(*inputs)[1])
            over = achieved or bool(task.option_done(after[None], option[t, n][None])[0])
            spoilt += over and not achieved
            if over or store.column("terminated")[t, n]:
                following = advantage = 0.0
            elif cut:
                advantage = 0.0
            advantage = achieved + 0.9 * following - values[t, n] + 0.9 * LOW.lam * advantage
            discounted[t, n] = advantage + values[t, n]
    np.testing.assert_allclose(batch.returns.view(length, ENVS), discounted, atol=1e-4)
    assert paid > 0
    assert spoilt > 0 or task.continuous, "an option became impossible; in a maze that takes longer"


def test_the_high_level_is_paid_with_its_discount_per_step():
    method, _ = played("PointPush", replace(CONFIG, relabel=False))
    method.rng = np.random.default_rng(5)
    batch = method.high_batch()
    parts = sample_segments(method.store, np.random.default_rng(5), HIGH.batch, PERIOD)
    for b in range(HIGH.batch):
        length = int(parts.length[b])
        paid = sum(0.8**i * float(parts.reward[b, i]) for i in range(length))
        assert float(batch.reward[b]) == pytest.approx(paid, rel=1e-4)
        assert float(batch.discount[b]) == pytest.approx(0.0 if parts.terminated[b] else 0.8**length)
        assert int(batch.option[b]) == parts.option[b]
    assert len(set(parts.length.tolist())) > 1
    np.testing.assert_array_equal(batch.legal.numpy(), method.task.legal(parts.obs[:, 0]))
    np.testing.assert_array_equal(batch.next_legal.numpy(), method.task.legal(parts.final))


def test_options_end_when_they_are_done_or_out_of_time_and_are_legal():
    method, _ = played("SimpleDoorKey")
    store = method.store
    age, option = store.column("option_age"), store.column("option")
    assert age.max() == PERIOD - 1
    chosen = age == 0
    legal = np.take_along_axis(store.column("legal"), option[..., None], 2)[..., 0]
    assert legal[chosen].all()
    ran_on = np.argwhere(~chosen)
    obs = store.column("obs")[tuple(ran_on.T)]
    assert not method.task.option_done(obs, option[tuple(ran_on.T)]).any()


def choose(method, levels):
    """Distributions over options for one observation on levels."""
    task = method.task
    obs, _ = task.make_vec(1, seed=1).reset()
    observed = Observations(task, encoder_of(task), np.repeat(obs, len(levels), 0), np.asarray(levels))
    return method.choose(observed, np.full(len(levels), -1))[1].probs


def test_the_prior_fades_and_is_asked_no_more_and_there_is_no_exploration_on_held_out_levels():
    task = get_task("SimpleDoorKey")
    planner = Planner(task)
    method = OptionHiro(parts_of(task, PRIOR, ENVS, TOTAL, planner))
    uniform = CONFIG.uniform
    for steps, share in ((0, 1.0), (600, 0.5), (1_200, 0.0), (2_000, 0.0)):
        method.steps = steps
        planner.refuses = share == 0
        assert method.share == pytest.approx(share)
        training, held_out = choose(method, [5, 1_000_005])
        policy = method.high_learner.act(*inputs_of(method)).probs[0]
        np.testing.assert_allclose(held_out, policy, atol=1e-6)
        legal = policy > 0
        wanted = np.eye(len(policy))[legal.argmax()]
        mixed = (1 - uniform) * ((1 - share) * policy + share * wanted) + uniform * legal / legal.sum()
        np.testing.assert_allclose(training, mixed, atol=1e-5)


def inputs_of(method):
    obs, _ = method.task.make_vec(1, seed=1).reset()
    return to_tensors(method.encoder(obs)), torch.from_numpy(method.legal(obs))


def test_the_prior_is_asked_at_first_states_and_its_weight_is_what_is_left():
    planner = Planner(get_task("SimpleDoorKey"))
    method, _ = played("SimpleDoorKey", PRIOR, planner=planner)
    planner.asked.clear()
    batch = method.high_batch()
    assert batch.prior_weight == pytest.approx(CONFIG.prior_weight * method.share)
    assert 0 < method.share < 1
    (asked,) = planner.asked
    for part, row in zip(to_tensors(method.encoder(asked)), batch.inputs, strict=True):
        assert torch.equal(part, row)
    assert torch.equal(batch.prior.argmax(1), batch.legal.long().argmax(1))


def test_a_controller_as_the_high_level_leaves_the_other_one_alone():
    planner = Planner(get_task("SimpleDoorKey"))
    method, _ = played("SimpleDoorKey", replace(CONFIG, high_level="controller"), planner=planner)
    fresh = OptionHiro(parts_of(method.task, CONFIG, ENVS, TOTAL))
    for mine, first in zip(method.high_learner.actor.parameters(), fresh.high_learner.actor.parameters(), strict=True):
        assert torch.equal(mine, first)
    probs = choose(method, [1_000_000])[0]
    assert probs.max() == 1.0
