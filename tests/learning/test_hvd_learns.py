"""HVD on the kinematic twin: what partly bad demonstrations suffice for, and whose fault the critic finds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from preceptor.agent.config import TrainConfig
from preceptor.agent.data.faults import Faults
from preceptor.agent.data.recording import joined
from preceptor.agent.demonstrating import record, with_optimal
from preceptor.agent.methods.hvd import Hvd, HvdSettings
from preceptor.agent.methods.protocol import Parts
from preceptor.agent.players import play
from preceptor.envs.wholebody.tasks import WholeBodyTwin
from preceptor.ground.level_seeds import SEEDS_PER_SPLIT

TWIN = WholeBodyTwin()
LEVELS = range(SEEDS_PER_SPLIT, SEEDS_PER_SPLIT + 100)


def demonstrations(count, seed=3):
    return joined([with_optimal(record(TWIN, count, seed, faults=Faults()), False), record(TWIN, 4, [seed, 1])])


def trained(recording, steps, seed=3, **settings):
    torch.manual_seed(seed)
    config = TrainConfig(task=TWIN.name, steps=steps, settings=HvdSettings(**settings))
    method = Hvd(Parts(TWIN, config, np.random.SeedSequence(seed)))
    method.recording = recording
    method.begin(steps)
    found = {}
    for phase in method.phases:
        while not phase.over(method.taken, method.total):
            phase.advance(None, method.taken, method.total)
        found |= phase.end()
    return found, float(play(TWIN, method.player, LEVELS, greedy=True).success.mean())


def test_the_data_suffice_once_it_is_known_whose_fault_it_was():
    recording = demonstrations(60)
    assert 0.3 < recording.extra["success"].any(1)[:60].mean() < 0.6
    _, masked = trained(recording, 800, attribution="truth")
    blameless = replace(recording, extra={**recording.extra, "faults": np.zeros_like(recording.extra["faults"])})
    _, cloned = trained(blameless, 800, attribution="truth")
    assert masked > 0.9
    assert cloned < 0.2


def test_the_lowest_weight_names_the_faulty_group_more_often_than_chance():
    recording = demonstrations(60)
    found = {word: trained(recording, 700, attribution=word, value_steps=600)[0] for word in ("marginal", "flat")}
    assert found["marginal"]["low/named"] > 0.35  # of four groups
    assert found["marginal"]["low/auc_base"] > found["flat"]["low/auc_base"] + 0.04


@pytest.mark.learn
@pytest.mark.timeout(3_600)
def test_groups_that_are_judged_one_by_one_beat_chunks_that_are_judged_as_wholes():
    gains = []
    for seed in (2, 3, 4):
        recording = demonstrations(100, seed)
        success = {word: trained(recording, 3_000, seed, attribution=word)[1] for word in ("shapley", "flat")}
        gains.append(success["shapley"] - success["flat"])
    assert np.mean(gains) > 0.05
