"""SAC learns to swing a pendulum up, from the command line's own function to the judgement on held-out levels."""

import pytest

from preceptor.agent.config import configure
from preceptor.agent.evaluate import evaluate
from preceptor.agent.flags import EvalConfig
from preceptor.agent.train import train

# Mean return of 20 episodes: a good policy has -150, chance -1,200. SAC lapses now and then to -350, once to -900, and
# a processor that rounds otherwise may stop in a lapse: what is asked is to be far from chance.
ENOUGH = -800.0


def test_the_pendulum_is_swung_up_and_held(tmp_path):
    folder = str(tmp_path)
    config = configure(method="sac", task="Pendulum-v1", logdir=folder, savedir="up", eval_episodes=20, quiet=True)
    result = train(config)
    assert result["steps"] == 6_000
    assert result["student"]["greedy"]["return"] >= ENOUGH
    again = evaluate(EvalConfig(task="Pendulum-v1", method="sac", logdir=folder, seeds="1000000:1000020"))
    assert again["student"]["greedy"]["return"] == pytest.approx(result["student"]["greedy"]["return"])
