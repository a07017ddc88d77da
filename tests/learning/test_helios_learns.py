"""HELIOS on the kinematic kitchen: subtasks in an order that no demonstration shows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench import helios as bench
from preceptor.agent.demonstrating import record
from preceptor.agent.methods.helios import HeliosSettings
from preceptor.agent.players import play, random_player
from preceptor.envs.catalog import get_task
from preceptor.ground.level_seeds import SEEDS_PER_SPLIT

KITCHEN = get_task("KitchenKinematic:0")
LEVELS = range(SEEDS_PER_SPLIT, SEEDS_PER_SPLIT + 60)


def test_a_prior_that_was_learned_from_few_demonstrations_does_what_chance_does_not(monkeypatch):
    monkeypatch.setattr(bench, "STEPS", 1_800)
    recording = record(KITCHEN, 60, [0, 0])
    method = bench.made(KITCHEN, recording, 0, HeliosSettings())
    bench.skilled(method, None)
    assert len(method.mixture.weight) > 1
    prior = play(KITCHEN, method.prior_player, LEVELS, greedy=False).returns.mean()
    chance = play(KITCHEN, random_player(), LEVELS, greedy=False).returns.mean()
    assert chance == 0.0
    assert prior > 0.15


@pytest.mark.learn
def test_reinforcement_learning_over_skills_does_three_subtasks_in_their_order():
    torch.set_num_threads(1)
    rows = list(bench.measure("KitchenKinematic:{seed}", 0, replace(HeliosSettings(), online=32_000), ["HELIOS"]))
    assert rows[0]["curve"][0] < 1.2  # the prior by itself
    assert np.mean(rows[0]["curve"][-3:]) > 2.0
    assert rows[0]["greedy"] > 2.0
