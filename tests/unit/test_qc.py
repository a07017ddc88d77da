"""Q-chunking: the best of what the behaviour policy proposes is played and valued; it chooses among vectors alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from preceptor.agent.chunks import chunk_player
from preceptor.agent.demonstrating import record
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.levels import Observations
from preceptor.agent.methods.qc import Qc, QcSettings
from preceptor.controller.network import TrunkConfig
from preceptor.envs.catalog import get_task
from preceptor.ground.errors import UserError
from tests.parts import parts

TWIN = get_task("WholeBodyTwin")
SMALL = QcSettings(batch=32, chunk=4, trunk=TrunkConfig(hidden=32), online=400)


class Liking:
    """Values a chunk by one of its numbers alone."""

    def __call__(self, obs, chunk):
        return chunk[:, 7].expand(2, -1)


def made(**changes):
    torch.manual_seed(0)
    return Qc(parts(TWIN, replace(SMALL, **changes), 4, 100))


@pytest.mark.parametrize("head", ["flow", "gaussian"])
def test_of_more_candidates_the_best_is_better(head):
    obs = torch.randn(200, *TWIN.observation_shape)
    values = []
    for candidates in (1, 16):
        method = made(head=head, candidates=candidates)
        chunk, value = method.best((obs,), Liking(), np.random.default_rng(0))
        assert chunk.shape == (200, 4 * 8)
        np.testing.assert_allclose(chunk[:, 7], value.numpy())
        values.append(float(value.mean()))
    assert values[1] > values[0] + 0.2


def test_targets_are_of_the_best_and_ends_are_ends():
    method = made(candidates=4)
    method.replay.begin(record(TWIN, 8, 0))
    method.target = Liking()
    method.target.parameters = method.critic.parameters  # polyak moves nothing of it
    batch = method.replay.recorded(64)
    assert (batch.discount == 0).any()
    assert (batch.discount > 0).any()
    before = float(method.critic(torch.zeros(1, 17), torch.zeros(1, 32)).mean().detach())
    for _ in range(300):
        info = method.learn(1.0)
    assert np.isfinite(info["low/policy_loss"])
    assert info["low/q"] > before  # what the liking promises after each chunk is learned


def test_what_is_played_is_learned_from():
    method = made()
    method.replay.begin(record(TWIN, 8, 0))
    player = chunk_player(TWIN, method.policy)._replace(high=method)
    hierarchy = Hierarchy(TWIN, TWIN.make_vec(4, seed=0), player, rng=np.random.default_rng(0))
    assert not method.replay.any_lived
    hierarchy.collect(method.store, 40)
    assert method.replay.any_lived
    batch = method.replay.sample(20, 0.5)
    assert batch.action.shape == (20, 4 * 8)
    assert np.isfinite(method.learn(0.5)["low/critic_loss"])


@pytest.mark.parametrize("head", ["flow", "gaussian"])
def test_what_is_played_greedily_does_not_depend_on_how_many_play(head):
    method, seen = made(head=head), np.random.default_rng(0).normal(size=(5, *TWIN.observation_shape))
    encoder = method.encoder

    def chunks(obs):
        observed = Observations(TWIN, encoder, obs.astype(np.float32), np.zeros(len(obs), np.int64))
        return method.choose(observed, np.full(len(obs), -1))[1].sample(None)[0]

    alone = np.concatenate([chunks(seen[n : n + 1]) for n in range(5)])
    np.testing.assert_allclose(chunks(seen), alone, atol=1e-5)
    assert np.ptp(alone[:, 7]) > 0


def test_named_actions_are_refused():
    with pytest.raises(UserError, match="named actions"):
        Qc(parts(get_task("SimpleDoorKey"), SMALL, 1, 100))
