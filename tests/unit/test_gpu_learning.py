"""PPO on a GPU computes what PPO on the processor does, by Numba's simulator of one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dev.learners import LEARNERS
from preceptor.agent.evaluate import evaluate
from preceptor.agent.flags import EvalConfig
from preceptor.agent.methods.ppo import PPO, PPOConfig
from preceptor.agent.methods.ppo_on_gpu import OnGpu
from preceptor.agent.networks import LowNetwork
from preceptor.agent.runs.run import Run
from preceptor.controller.encoders import encoder_of
from preceptor.controller.network import TrunkConfig
from preceptor.envs.catalog import get_task
from preceptor.ground.errors import UserError

ROOT = Path(__file__).parents[2]
SETTINGS = "--num-envs", "4", "--rollout", "6", "--eval-episodes", "0", "--on-gpu"


def simulated(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dev.simulated_gpu", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_samples_gradient_steps_and_resumed_play_are_the_processors() -> None:
    few = "--num-envs", "32", "--rounds", "4", "--seeds", "2"
    done = simulated("dev.gpu_learning", "--check", "--device", "cpu", *few)
    assert done.returncode == 0, done.stderr
    found = [[int(each) for each in line] for line in re.findall(r"(\d+) episodes, (\d+) won, (\d+) cut", done.stdout)]
    episodes, won, cut = np.array(found).T
    assert len(found) == 3
    assert won.sum() > 0
    assert (cut > 0).all()
    assert (won + cut < episodes).any()  # where something else ended them


@pytest.mark.parametrize("name", LEARNERS)
def test_what_is_compared_recorded_and_not_learns_the_same_twice(name: str) -> None:
    one, other = LEARNERS[name](), LEARNERS[name]()
    before = [each.detach().clone() for each in one.parameters]
    for k in range(3):
        one.step(k)
        other.step(k)
    assert all(map(torch.equal, one.parameters, other.parameters))
    assert not all(map(torch.equal, one.parameters, before))


def test_seeds_are_trained_in_one_program_continued_and_judged_as_each_is_alone(tmp_path: Path) -> None:
    train = "main", "train", "--method", "ppo", "--logdir", str(tmp_path), *SETTINGS, "--savedir"
    longer = "--steps", "96", "--resume"
    together = ("--seeds", "0", "1", "--steps", "50"), ("--seeds", "0", "1", "2", *longer)
    alone = ("--seed", "1", "--steps", "50"), ("--seed", "1", *longer)
    for words in (*(("simulated", *each) for each in together), *(("alone", *each) for each in alone)):
        done = simulated(*train, *words)
        assert done.returncode == 0, done.stderr
    folder = tmp_path / "ppo/SimpleDoorKey"
    runs = [Run.open(folder / f"simulated/seed-{seed}") for seed in range(3)]
    assert [run.last_step for run in runs] == [96] * 3
    for run in runs:
        lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if "low/value_loss" in line] == [24, 48, 72, 96]
        assert run.results()["steps"] == 96
        assert run.results()["seconds"] > 0
    trees: list[Any] = []
    for run in (*runs, Run.open(folder / "alone")):
        run.restore(trees.append)
    low = [tree["method"]["low"] for tree in trees]
    for part in ("network", "optimizer"):
        torch.testing.assert_close(low[1][part], low[3][part], rtol=0, atol=1e-5)
    weights = [each["network"]["action_head.weight"] for each in low[:3]]
    assert not any(torch.equal(weights[k], weights[k - 1]) for k in range(3))
    assert [tree["method"]["on_gpu"]["rounds"] for tree in trees] == [4] * 4
    judged = evaluate(EvalConfig("SimpleDoorKey", str(runs[0].path), seeds="1000000:1000004", quiet=True))
    assert judged["student"]["sampled"]["episodes"] == 4


def test_a_run_that_is_shorter_than_a_round_is_refused(tmp_path: Path) -> None:
    done = simulated("main", "train", "--method", "ppo", "--logdir", str(tmp_path), *SETTINGS, "--steps", "23")
    assert done.returncode == 2
    assert "less than one round of --on-gpu, 4 * 6 steps" in done.stderr


def test_without_a_gpu_it_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    command = [sys.executable, "main.py", "train", "--method", "ppo", "--logdir", str(tmp_path), *SETTINGS]
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=hidden, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no GPU" in done.stderr
    assert not list(tmp_path.rglob("config.json"))


@pytest.mark.parametrize(
    ("task", "rollout", "why"),
    [
        ("ColoredDoorKey", 8, "what is seen of ColoredDoorKey"),
        ("PointReach", 8, "what is seen of PointReach"),
        ("BabyAI-GoTo", 8, "what is seen of BabyAI-GoTo"),
        ("SimpleDoorKey", 151, "150 steps at most"),
    ],
)
def test_what_it_cannot_play_is_refused(task: str, rollout: int, why: str) -> None:
    of = get_task(task)
    network = LowNetwork(encoder_of(of), 1, of.num_actions, TrunkConfig(), of.continuous)
    learner = PPO(network, PPOConfig(), np.random.default_rng(0))
    with pytest.raises(UserError, match=why):
        OnGpu(of, learner, 2, rollout, 1.0, seed=0)
