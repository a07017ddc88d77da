"""What measurements train without a run directory is what `train` trains."""

from dataclasses import replace
from pathlib import Path

from bench.sac import trained
from preceptor.agent.config import configure
from preceptor.agent.players import play
from preceptor.agent.train import train
from preceptor.envs.catalog import get_task
from preceptor.ground.level_seeds import SEEDS_PER_SPLIT


def test_the_same_student(tmp_path: Path) -> None:
    config = configure(method="sac", task="PointReach", steps=1_600, eval_episodes=6, quiet=True, seed=5)
    result = train(replace(config, logdir=str(tmp_path)))["student"]["sampled"]
    levels = range(SEEDS_PER_SPLIT, SEEDS_PER_SPLIT + config.eval_episodes)
    played = play(get_task(config.task), trained(config), levels, greedy=False, seed=config.seed)
    assert (result["return"], result["success"]) == (played.returns.mean(), played.success.mean())
