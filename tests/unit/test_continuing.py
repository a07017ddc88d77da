"""From offline to online: the actor is the policy, chunks are transitions, and what the critics value is climbed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from preceptor.agent.chunks import ChunkPolicy, chunk_player
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.methods.continuing import Continuation, ContinuedConfig
from preceptor.agent.methods.hvd import HvdSettings, make_policy
from preceptor.controller.network import TrunkConfig
from preceptor.envs.action_groups import action_groups_of
from preceptor.envs.catalog import get_task
from preceptor.ground.errors import UserError
from tests.parts import parts
from tests.unit.test_offline import POINT, episodes

TWIN = get_task("WholeBodyTwin")
CONTINUED = ContinuedConfig(online=200, online_warmup=20)
SETTINGS = HvdSettings(batch=16, trunk=TrunkConfig(hidden=32), continued=CONTINUED)


def continuation(task, settings, num_envs=4):
    torch.manual_seed(0)
    policy = make_policy(task, settings, action_groups_of(task).values())
    return policy, Continuation(parts(task, settings, num_envs, 100), policy)


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_nothing_drops_at_the_switch():
    policy, online = continuation(POINT, SETTINGS)
    offline, _ = online.after(episodes(), dict, 100)
    assert offline.over(100, 300)
    before = copied(policy)
    assert np.isfinite(offline.end()["low/critic_loss"])
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    obs = torch.randn(50, *POINT.observation_shape)
    wanted = policy(obs)[:, : SETTINGS.played].flatten(1)
    for actor in (online.learner.actor, online.prior):
        torch.testing.assert_close(actor.mode(obs), wanted, atol=1e-5, rtol=0)
    mean, log_std = online.learner.actor(obs)
    torch.testing.assert_close(log_std, torch.full_like(mean, np.log(SETTINGS.std)))
    online.learner.update(online.batch(1.0, 1.0))
    assert not torch.equal(online.learner.actor.mode(obs), wanted)
    torch.testing.assert_close(online.prior.mode(obs), wanted)


@pytest.mark.parametrize("tells_time", [True, False])
def test_a_transition_is_what_came_of_a_chunk(tells_time, monkeypatch):
    monkeypatch.setattr(type(TWIN), "tells_time", tells_time)
    policy, online = continuation(TWIN, SETTINGS)
    player = chunk_player(TWIN, policy, SETTINGS.played)
    hierarchy = Hierarchy(TWIN, TWIN.make_vec(4, seed=0), player, rng=np.random.default_rng(0))
    hierarchy.collect(online.store, 50)
    online.store.column("reward")[:] = np.arange(50)[:, None]
    online.store.column("truncated")[21] = True  # in the middle of no chunk
    obs, action, _, reward, after, discount = online.replay.lived(500)
    begins = np.round((reward - SETTINGS.gamma) / (1 + SETTINGS.gamma)).astype(int)
    np.testing.assert_allclose(reward, begins + SETTINGS.gamma * (begins + 1), rtol=1e-5)
    assert set(begins) == set(range(0, 48, 2))
    assert (discount[begins != 20] == np.float32(SETTINGS.gamma**2)).all()
    assert (discount[begins == 20] == np.float32(0 if tells_time else SETTINGS.gamma**2)).all()
    for row in range(20):
        env = int((online.store.column("obs")[begins[row]] == obs[row]).all(1).argmax())
        np.testing.assert_allclose(online.store.column("action")[begins[row], env], action[row, :8])
        np.testing.assert_allclose(online.store.column("action")[begins[row] + 1, env], action[row, 8:])
        np.testing.assert_allclose(online.store.column("obs")[begins[row] + 2, env], after[row])


def test_what_follows_the_end_of_a_demonstration_tells_nothing():
    _, online = continuation(POINT, SETTINGS)
    recording = episodes()
    online.after(recording, dict, 100)
    obs, action, _, reward, _, discount = online.replay.recorded(2_000)
    last = obs[:, 0] == 0
    assert 0.4 < last.mean() < 0.6
    assert (discount == 0).all(), "these terminate after two steps"
    assert action[last, 2:].std(0) == pytest.approx(1 / np.sqrt(3), abs=0.05)
    assert reward[last] == pytest.approx((action[last, 0] > 0).astype(np.float32))


def test_the_actor_climbs_to_what_pays_and_the_prior_holds_it():
    reached = {}
    for hold in (0.0, 100.0):
        config = replace(CONTINUED, online_hold=hold, online_lr=3e-3, online_warmup=300)
        settings = replace(SETTINGS, chunk=1, replan=0, batch=64, std=0.3, continued=config)
        policy, online = continuation(POINT, settings)
        recording = episodes()
        online.after(recording, dict, 100)
        online.begin()
        for _ in range(200):
            online.learner.update(online.batch(1.0, hold))
        with torch.no_grad():
            reached[hold] = policy(torch.from_numpy(online.encoder(recording.obs[0, 1:2]).parts[0]))[0, 0, 0]
    assert reached[0.0] > 0.4
    assert abs(reached[100.0]) < 0.1


def test_a_policy_without_means_is_refused():
    with pytest.raises(UserError, match="mean"):
        continuation(POINT, replace(SETTINGS, head="flow"))
    grid = get_task("SimpleDoorKey")
    with pytest.raises(UserError, match="mean"):
        Continuation(parts(grid, SETTINGS, 4, 100), ChunkPolicy(grid, 2, SETTINGS.trunk))
