"""HIRO over options: exact relabelling, how each level is rewarded, and who chooses, against loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from preceptor.agent.data.views import sample_segments
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.levels import Observations
from preceptor.agent.methods.hiro_options import OptionHiro, OptionHiroSettings
from preceptor.agent.methods.ppo import PPOConfig
from preceptor.agent.methods.sac_discrete import DiscreteSACConfig
from preceptor.controller.encoders import encoder_of
from preceptor.controller.network import to_tensors
from preceptor.envs.catalog import get_task
from tests.hiro_played import Planner
from tests.parts import parts as parts_of

ENVS, TOTAL, PERIOD = 4, 2_000, 5
LOW, HIGH = PPOConfig(minibatch=64, epochs=1, gamma=0.9), DiscreteSACConfig(batch=32, gamma=0.8)
CONFIG = OptionHiroSettings(period=PERIOD, low=LOW, high=HIGH, high_updates=0.1, warmup=100, rollout=16)
PRIOR = replace(CONFIG, prior="controller")
DOOR, POINT = get_task("SimpleDoorKey"), get_task("PointPush")


def played(task, config=CONFIG, rollouts=8, planner=None):
    """A method after some roll-outs that it learned from, and its hierarchy."""
    method = OptionHiro(parts_of(task, config, ENVS, TOTAL, planner))
    hierarchy = Hierarchy(task, task.make_vec(ENVS, seed=3), method.player, rng=np.random.default_rng(0))
    for done in range(1, rollouts + 1):
        hierarchy.collect(method.store, config.rollout)
        method.update(hierarchy.observed, done * config.rollout * ENVS)
    return method, hierarchy


def low_outputs(method, obs, option):
    with torch.no_grad():
        return method.low_network(*to_tensors(method.encoder(obs)), torch.from_numpy(option))


@pytest.mark.parametrize("task", [DOOR, POINT])
def test_the_option_that_explains_best_is_found_among_all_and_the_original_wins_ties(task):
    method, _ = played(task)
    parts = sample_segments(method.store, np.random.default_rng(1), 40, PERIOD)
    legal = method.legal(parts.obs[:, 0])
    found = method.explained(parts, legal)
    for b, length in enumerate(parts.length):
        scores, action = {}, torch.from_numpy(parts.action[b, :length])
        for k in np.flatnonzero(legal[b]):
            outputs = low_outputs(method, parts.obs[b, :length], np.full(length, k))[0]
            scores[int(k)] = float(method.low_network.head.log_prob(outputs, action).sum())
        assert scores[int(found[b])] == pytest.approx(max(scores.values()), abs=1e-4)
    assert (found != parts.option).any()
    assert set(parts.length) != {PERIOD}, "segments that were cut are among them"
    if not task.continuous:  # else each option has a deviation of its own
        for parameter in method.low_network.action_head.parameters():
            parameter.data.zero_()
        np.testing.assert_array_equal(method.explained(parts, legal), parts.option)


@pytest.mark.parametrize("task", [DOOR, POINT])
def test_the_low_level_is_rewarded_for_what_its_option_is_for(task):
    length = 64  # long enough for an agent to arrive somewhere
    method, hierarchy = played(task, replace(CONFIG, rollout=length), rollouts=1)
    store, batch = method.store, method.low_batch(hierarchy.observed, length)
    obs, option = store.column("obs"), store.column("option")
    returns, advantage, rewarded, spoilt = np.zeros((length, ENVS), np.float32), 0.0, 0, 0
    with torch.no_grad():
        values = method.low_network(*batch.inputs)[1].view(length, ENVS).numpy()
    at_end = {tuple(row): final for row, final in zip(*store.final_observations(), strict=True)}
    for t, n in ((t, n) for n in range(ENVS) for t in reversed(range(length))):
        cut = (t, n) in at_end or t + 1 == length or store.column("option_age")[t + 1, n] == 0
        following = hierarchy.observed.obs[n] if t + 1 == length else obs[t + 1, n]
        after, running = at_end.get((t, n), following)[None], option[t, n][None]
        achieved = bool(task.option_achieved(obs[t, n][None], after, running)[0])
        over = achieved or bool(task.option_done(after, running)[0])
        rewarded, spoilt = rewarded + achieved, spoilt + (over and not achieved)
        advantage = 0.0 if cut or over else advantage
        worth = 0.0 if over or store.column("terminated")[t, n] else float(low_outputs(method, after, running)[1])
        advantage = achieved + 0.9 * worth - values[t, n] + 0.9 * LOW.lam * advantage
        returns[t, n] = advantage + values[t, n]
    np.testing.assert_allclose(batch.returns.view(length, ENVS), returns, atol=1e-4)
    assert rewarded > 0
    assert spoilt > 0 or task.continuous, "an option became impossible; in a maze that takes longer"


def test_the_high_level_is_rewarded_with_its_discount_per_step():
    method, _ = played(POINT, replace(CONFIG, relabel=False))
    method.rng = np.random.default_rng(5)
    batch, parts = method.high_batch(), sample_segments(method.store, np.random.default_rng(5), HIGH.batch, PERIOD)
    for b, length in enumerate(parts.length):
        reward = sum(0.8**i * float(parts.reward[b, i]) for i in range(length))
        assert float(batch.reward[b]) == pytest.approx(reward, rel=1e-4)
        assert float(batch.discount[b]) == pytest.approx(0.0 if parts.terminated[b] else 0.8**length)
    assert len(set(parts.length.tolist())) > 1
    np.testing.assert_array_equal(batch.option, parts.option)
    np.testing.assert_array_equal(batch.legal, POINT.legal(parts.obs[:, 0]))
    np.testing.assert_array_equal(batch.next_legal, POINT.legal(parts.final))


def test_options_end_when_they_are_done_or_out_of_time_and_are_legal():
    store = played(DOOR)[0].store
    age, option = store.column("option_age"), store.column("option")
    assert age.max() == PERIOD - 1
    assert np.take_along_axis(store.column("legal"), option[..., None], 2)[..., 0][age == 0].all()
    assert not DOOR.option_done(store.column("obs")[age > 0], option[age > 0]).any()


def choose(method, levels):
    """Distributions over options for one observation on levels, and what the learner alone says."""
    obs = np.repeat(DOOR.make_vec(1, seed=1).reset()[0], len(levels), 0)
    observed = Observations(DOOR, encoder_of(DOOR), obs, np.asarray(levels))
    policy = method.high_learner.computed()(*observed.inputs, torch.from_numpy(observed.legal)).probs[0]
    return method.choose(observed, np.full(len(levels), -1))[1].probs, policy


def test_the_prior_fades_and_is_asked_no_more_and_there_is_no_exploration_on_held_out_levels():
    planner = Planner(DOOR)
    method = OptionHiro(parts_of(DOOR, PRIOR, ENVS, TOTAL, planner))
    for method.steps, share in ((0, 1.0), (600, 0.5), (1_200, 0.0), (2_000, 0.0)):
        planner.refuses = share == 0
        assert method.share == pytest.approx(share)
        (training, held_out), policy = choose(method, [5, 1_000_005])
        np.testing.assert_allclose(held_out, policy, atol=1e-6)
        legal = policy > 0
        mixed = (1 - share) * policy + share * np.eye(len(policy))[legal.argmax()]
        mixed = (1 - CONFIG.uniform) * mixed + CONFIG.uniform * legal / legal.sum()
        np.testing.assert_allclose(training, mixed, atol=1e-5)


def test_the_prior_is_asked_at_first_states_and_its_weight_is_what_is_left():
    planner = Planner(DOOR)
    method, _ = played(DOOR, PRIOR, planner=planner)
    planner.asked.clear()
    batch = method.high_batch()
    assert batch.prior_weight == pytest.approx(CONFIG.prior_weight * method.share)
    assert 0 < method.share < 1
    (asked,) = planner.asked
    for part, row in zip(to_tensors(method.encoder(asked)), batch.inputs, strict=True):
        assert torch.equal(part, row)
    assert torch.equal(batch.prior.argmax(1), batch.legal.long().argmax(1))


def test_a_controller_as_the_high_level_leaves_the_other_one_alone():
    method, _ = played(DOOR, replace(CONFIG, high_level="controller"), planner=Planner(DOOR))
    fresh = OptionHiro(parts_of(DOOR, CONFIG, ENVS, TOTAL))
    for mine, first in zip(method.high_learner.actor.parameters(), fresh.high_learner.actor.parameters(), strict=True):
        assert torch.equal(mine, first)
    assert choose(method, [1_000_000])[0].max() == 1.0
