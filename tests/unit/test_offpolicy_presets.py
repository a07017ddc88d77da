"""Settings of SAC, TD3 and HIRO: the paper's constants (shared/reference/hiro.md, 1.2), and what flags change."""

import pytest

from agent.config import TrainConfig
from agent.methods.hiro import HiroConfig
from agent.methods.td3 import TD3Config
from agent.train import settings_of


def student(**changes):
    return settings_of(TrainConfig(**changes)).student


def test_the_papers_preset_has_the_papers_constants():
    settings = settings_of(TrainConfig(method="hiro", task="AntMaze", preset="paper"))
    hiro = settings.student
    assert isinstance(hiro, HiroConfig)
    for level, half_range in ((hiro.low, 30.0), (hiro.high, 10.0)):
        assert isinstance(level, TD3Config)
        assert level.hidden == (300, 300)
        assert (level.actor_learning_rate, level.critic_learning_rate) == (1e-4, 1e-3)
        assert (level.gamma, level.tau, level.batch, level.actor_every, level.huber) == (0.99, 0.005, 100, 2, 1.0)
        assert level.exploration * half_range == pytest.approx(1.0)
        assert level.target_noise * half_range == pytest.approx(0.2)
        assert level.target_clip * half_range == pytest.approx(0.5)
    assert (hiro.period, hiro.draws, hiro.by_distance, hiro.relabel) == (10, 8, True, True)
    assert (hiro.low_updates, hiro.high_updates) == (1.0, 0.1)
    assert (hiro.low_reward, hiro.high_reward) == (1.0, 0.1)
    assert hiro.low_capacity == 200_000
    assert hiro.capacity == 200_000 * hiro.period, "200,000 goals"
    assert hiro.warmup == 2_500
    assert settings.num_envs == 1


def test_the_flat_agent_explores_as_much_as_the_low_level_does():
    flat, hiro = (student(method=method, task="AntMaze", preset="paper") for method in ("td3", "hiro"))
    assert flat.learner.exploration == hiro.low.exploration
    assert flat.updates == hiro.low_updates
    assert flat.learner.hidden == hiro.low.hidden


def test_the_prior_has_faded_for_the_last_two_fifths():
    assert student(method="hiro", task="PointPush", prior="controller").prior_until <= 0.6
    assert student(method="hiro", task="PointPush", prior="none").prior_weight == 0


def test_flags_reach_the_method():
    base = {"method": "hiro", "task": "PointPush"}
    assert not student(**base, relabel=False).relabel
    assert student(**base, high_level="controller").planned
    assert student(**base, prior="reversed").reversed
    assert student(**base, prior="reversed").prior_weight == student(**base, prior="controller").prior_weight > 0
    assert student(**base, low_level="legs").frozen
    assert student(**base, memory=5_000).capacity == 5_000
    assert student(method="sac", task="PointPush").holding == 0
    assert student(method="td3", task="PointPush", exploration="extended").holding > 0
    assert not student(**base).planned
    assert not student(**base).frozen
