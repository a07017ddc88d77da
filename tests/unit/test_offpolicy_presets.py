"""Settings of SAC, TD3 and HIRO: the constants of HIRO's paper, and what flags change."""

import pytest

from agent.config import configure
from agent.methods.td3 import TD3Config


def settings(**words):
    return configure(words).settings


def test_the_papers_preset_has_the_papers_constants():
    config = configure(method="hiro", task="AntMaze", preset="paper")
    hiro = config.settings
    for level, half_range in ((hiro.low, 30.0), (hiro.high, 10.0)):
        assert isinstance(level, TD3Config)
        assert level.hidden == (300, 300)
        assert (level.actor_lr, level.lr) == (1e-4, 1e-3)
        assert (level.gamma, level.tau, level.batch, level.actor_every, level.huber) == (0.99, 0.005, 100, 2, 1.0)
        noises = (level.noise, level.target_noise, level.target_clip)
        assert [noise * half_range for noise in noises] == pytest.approx([1.0, 0.2, 0.5])
    assert (hiro.period, hiro.draws, hiro.relabel) == (10, 8, True)
    assert (hiro.low_updates, hiro.high_updates) == (1.0, 0.1)
    assert (hiro.low_reward, hiro.high_reward) == (1.0, 0.1)
    assert hiro.low_buffer_size == 200_000
    assert hiro.buffer_size == 200_000 * hiro.period, "200,000 goals"
    assert (hiro.warmup, config.num_envs) == (2_500, 1)
    flat = settings(method="td3", task="AntMaze", preset="paper")  # explores as much as the low level does
    assert flat.learner.noise == hiro.low.noise
    assert (flat.updates, flat.learner.hidden) == (hiro.low_updates, hiro.low.hidden)


def test_the_prior_has_faded_for_the_last_two_fifths():
    assert settings(method="hiro", task="PointPush", prior="controller").prior_until <= 0.6
