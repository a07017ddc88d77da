"""Flat agents that hold on to actions for a while, as epsilon-z-greedy has it."""

from dataclasses import replace

import numpy as np
import pytest

from preceptor.agent.clock import Clock, named
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.levels import Observations
from preceptor.agent.methods.off_policy import Held, OffPolicy, SACSettings, UpdateRatio
from preceptor.agent.methods.sac import SACConfig
from preceptor.controller.encoders import encoder_of
from preceptor.envs.catalog import get_task
from tests.parts import parts

CONFIG = SACSettings(learner=SACConfig(hidden=(8,), batch=16), exploration="extended", holding=0.3)
TASK = get_task("PointReach")


def test_held_actions_last_as_long_as_the_zeta_law_says():
    held, rng = Held(2_000, 2, 0.1), np.random.default_rng(0)
    policy = np.full((2_000, 2), 5.0, np.float32)  # which no held action is
    played = np.array([held.instead(policy, rng) for _ in range(60)])
    holds = (played != 5).all(2)
    assert np.abs(played[holds]).max() <= 1
    goes_on = holds[1:] & (played[1:] == played[:-1]).all(2)
    begins = holds[1:50] & ~goes_on[:49]
    for steps, share in ((2, 1 - 6 / np.pi**2), (3, 1 - 7.5 / np.pi**2)):  # sums of 1 / n^2, over that of all of them
        lasts = np.logical_and.reduce([goes_on[k : k + 49] for k in range(1, steps)])
        assert lasts[begins].mean() == pytest.approx(share, abs=0.02)
    free = ~holds[:-1]
    assert holds[1:][free].mean() == pytest.approx(0.1, abs=0.01), "who holds nothing starts to with this probability"


def test_no_action_is_held_beyond_the_end_of_an_episode_nor_on_held_out_levels_nor_greedily():
    method, obs = OffPolicy(parts(TASK, CONFIG, 3, 1_000)), np.ones((3, *TASK.observation_shape), np.float32)
    clock, method.warm, held = Clock(3, np.ones(1, np.int64), named()), True, method.held

    def act(first_level, rng):
        observed = Observations(TASK, encoder_of(TASK), obs, np.arange(3) + first_level)
        return method.act(observed, clock).sample(rng)[0]

    greedy = act(1, None)
    held.action[:], held.left[:], held.probability = 0.25, 9, 0.0
    clock.previous[:] = [0, -1, 0]  # the second environment is at the first step of an episode
    assert (act(1, np.random.default_rng(0)) == 0.25).all(1).tolist() == [True, False, True]
    np.testing.assert_array_equal(act(1, None), greedy)
    clock.previous[:] = 0
    assert not (act(1_000_000, np.random.default_rng(0)) == 0.25).any()
    assert held.left.tolist() == [8, 0, 8]


def test_steps_without_holding_are_as_before_and_what_is_held_is_restored():

    def play(config, length, state=None):
        method = OffPolicy(parts(TASK, config, 3, 1_000))
        hierarchy = Hierarchy(TASK, TASK.make_vec(3), method.player, rng=np.random.default_rng(0))
        for part, saved in zip((method, hierarchy), state or (), strict=False):
            part.load_state_dict(saved)
        hierarchy.collect(method.store, length)
        return method.store.column("action")[-10:].copy(), (method.state_dict(), hierarchy.state_dict())

    assert play(replace(CONFIG, exploration="steps"), 1)[1][0]["held"] == [None, None]
    whole, _ = play(CONFIG, 30)
    np.testing.assert_array_equal(play(CONFIG, 10, play(CONFIG, 20)[1])[0], whole)
    assert (whole[1:] == whole[:-1]).all(2).any(), "something was held"


def test_remembered_steps_are_what_the_learner_reads():
    method = OffPolicy(parts(TASK, replace(CONFIG, reward_scale=3.0), 3, 1_000))
    Hierarchy(TASK, TASK.make_vec(3), method.player, rng=np.random.default_rng(0)).collect(method.store, 30)
    store, encode = method.store, method.encoder
    store.column("terminated")[:30:2] = True
    batch = method.batch()
    obs, reward = encode(store.column("obs")[:30].reshape(90, -1)).parts[0], store.column("reward")[:30].ravel()
    for i in range(len(batch.reward)):
        (row,) = np.flatnonzero((obs == batch.obs[i].numpy()).all(1))
        np.testing.assert_array_equal(batch.next_obs[i], obs[row + 3])
        assert float(batch.reward[i]) == pytest.approx(3.0 * reward[row])
        assert float(batch.discount[i]) == (0.0 if row // 3 % 2 == 0 else np.float32(CONFIG.learner.gamma))


def test_fractions_of_gradient_steps_are_carried_over():
    ratio = UpdateRatio(0.75)
    assert [ratio.due(2) for _ in range(4)] == [1, 2, 1, 2]
