"""Settings of SAC, TD3 and HIRO: the constants of HIRO's appendix C, and what is said reaches the method."""

import pytest

from preceptor.agent.config import configure
from preceptor.agent.methods.hiro import HiroSettings
from preceptor.agent.methods.td3 import TD3Config


def settings(**said):
    return configure(said).settings


def test_the_papers_preset_has_the_papers_constants():
    config = configure(method="hiro", task="AntMaze", preset="paper")
    hiro = config.settings
    assert isinstance(hiro, HiroSettings)
    for level, half_range in ((hiro.low, 30.0), (hiro.high, 10.0)):
        assert isinstance(level, TD3Config)
        assert level.hidden == (300, 300)
        assert (level.actor_lr, level.lr) == (1e-4, 1e-3)
        assert (level.gamma, level.tau, level.batch, level.actor_every, level.huber) == (0.99, 0.005, 100, 2, 1.0)
        assert level.noise * half_range == pytest.approx(1.0)
        assert level.target_noise * half_range == pytest.approx(0.2)
        assert level.target_clip * half_range == pytest.approx(0.5)
    assert (hiro.period, hiro.draws, hiro.relabel) == (10, 8, True)
    assert (hiro.low_updates, hiro.high_updates) == (1.0, 0.1)
    assert (hiro.low_reward, hiro.high_reward) == (1.0, 0.1)
    assert hiro.low_buffer_size == 200_000
    assert hiro.buffer_size == 200_000 * hiro.period, "200,000 goals"
    assert hiro.warmup == 2_500
    assert config.num_envs == 1


def test_the_flat_agent_explores_as_much_as_the_low_level_does():
    flat, hiro = (settings(method=method, task="AntMaze", preset="paper") for method in ("td3", "hiro"))
    assert (flat.learner.noise, flat.updates, flat.learner.hidden) == (
        hiro.low.noise,
        hiro.low_updates,
        hiro.low.hidden,
    )


def test_what_is_said_reaches_the_method():
    base = {"method": "hiro", "task": "PointPush"}
    assert settings(**base, prior="controller").prior_until <= 0.6
    assert not settings(**base, relabel=False).relabel
    assert settings(**base, high_level="controller").plans
    assert settings(**base, prior="reversed").plans
    assert settings(**base, low_level="legs").low_level == "legs"
    assert settings(**base, buffer_size=5_000).buffer_size == 5_000
    assert not settings(**base).plans
    other = settings(**base, low_learner="td3").low
    assert (other.kind, other.gamma) == ("td3", settings(**base).low.gamma)
    assert settings(method="sac", task="PointPush").exploration == "steps"
    assert settings(method="td3", task="PointPush", exploration="extended").holding > 0
