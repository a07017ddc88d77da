"""SAC learns to swing a pendulum up, from the command line's own function to the judgement on held-out levels."""

import pytest

from agent.config import EvalConfig, TrainConfig
from agent.evaluate import evaluate
from agent.train import train

ENOUGH = -250.0  # mean return of 20 episodes; a good policy has -150, and chance -1,200


def test_the_pendulum_is_swung_up_and_held(tmp_path):
    folder = str(tmp_path)
    config = TrainConfig(method="sac", task="Pendulum-v1", logdir=folder, savedir="up", eval_episodes=20, quiet=True)
    result = train(config)
    assert result["steps"] == 6_000
    assert result["student"]["greedy"]["return"] >= ENOUGH
    again = evaluate(EvalConfig(task="Pendulum-v1", method="sac", logdir=folder, seeds="1000000:1000020"))
    assert again["student"]["greedy"]["return"] == pytest.approx(result["student"]["greedy"]["return"])
