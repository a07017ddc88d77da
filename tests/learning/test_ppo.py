"""PPO on what it claims: ratio one before the first update, gains where there is something to gain."""

from pathlib import Path

import numpy as np
import pytest
import torch

from preceptor.agent.config import configure
from preceptor.agent.data.views import on_policy
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.methods.ihac import Ihac
from preceptor.agent.methods.ppo import PPO, PolicyBatch, PPOConfig, normalised
from preceptor.agent.methods.protocol import Parts
from preceptor.agent.networks import LowNetwork
from preceptor.agent.runs.metrics import read_metrics
from preceptor.agent.train import train
from preceptor.controller.encoders import GridEncoder
from preceptor.controller.network import TrunkConfig, to_tensors
from preceptor.envs.catalog import get_task


def test_the_update_sees_the_ratios_of_what_was_played(tmp_path):
    """All one where the learning rate is next to nothing, at both levels, masks of legal options included."""
    words = {"teacher": "none", "task": "SimpleDoorKey", "steps": 4_000, "num_envs": 16, "eval_episodes": 0}
    run = train(configure(words, logdir=str(tmp_path), quiet=True, lr=1e-12))
    rows = [row for row in read_metrics(Path(run["run"]) / "metrics.jsonl") if "high/approximate_kl" in row]
    assert rows
    for level in ("low", "high"):
        assert all(row[f"{level}/approximate_kl"] < 1e-6 for row in rows)
        assert all(row[f"{level}/clip_fraction"] == 0 for row in rows)


@pytest.mark.parametrize("flat", [True, False])
def test_the_ratio_is_one_before_the_first_update(flat):
    torch.manual_seed(0)
    task = get_task("SimpleDoorKey")
    words = {"teacher": "none", "method": "ppo"} if flat else {"teacher": "none"}
    config = configure(words, task=task.name, steps=10_000, num_envs=8)
    student = Ihac(Parts(task, config, np.random.SeedSequence(0)))
    rng = np.random.default_rng(0)
    env = task.make_vec(8)
    hierarchy = Hierarchy(task, env, student.player, rng=rng)
    hierarchy.collect(student.rollouts, student.settings.rollout)
    rollout = on_policy(student.rollouts, GridEncoder(task.observation_shape), hierarchy.observed.obs)
    inputs = to_tensors(rollout.encoded)

    def assert_same(logits: torch.Tensor, chosen: str, stored: str, where: np.ndarray) -> None:
        now = logits.log_softmax(1).gather(1, torch.from_numpy(rollout.store.flat(chosen))[:, None])[:, 0].detach()
        then = torch.from_numpy(rollout.store.flat(stored))
        torch.testing.assert_close(now[where], then[where], atol=1e-4, rtol=0)

    logits, _ = student.low_network(*inputs, torch.from_numpy(rollout.store.flat("option")))
    assert_same(logits, "action", "behaviour_logprob", np.ones(len(logits), np.bool_))
    if not flat:
        logits, _ = student.high_network(*inputs, torch.from_numpy(rollout.store.flat("prev_option")))
        masked = logits.masked_fill(~torch.from_numpy(rollout.store.flat("legal")), -1e9)
        assert_same(masked, "option", "option_logprob", rollout.chosen.ravel())


def test_ppo_learns_which_action_is_rewarded():
    """A bandit whose rewarded action is written in the observation: a broken sign, mask or gradient fails here."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = LowNetwork(GridEncoder((10, 10, 4)), 1, 4, TrunkConfig(embedding=2, hidden=32))
    learner = PPO(network, PPOConfig(lr=3e-3, minibatch=64), rng)
    present = torch.zeros(256, 41)
    option = torch.zeros(256, dtype=torch.int64)
    for _ in range(30):
        right = rng.integers(4, size=256)
        tokens = torch.from_numpy(np.repeat(right[:, None], 121, axis=1).astype(np.uint8))
        with torch.no_grad():
            logits, values = network(tokens, present, option)
        log_probs = torch.log_softmax(logits, 1)
        action = torch.multinomial(log_probs.exp(), 1, generator=torch.Generator().manual_seed(int(rng.integers(1e9))))
        reward = (action[:, 0].numpy() == right).astype(np.float32)
        advantage = torch.from_numpy(normalised(reward - values.numpy()))
        logprob = log_probs.gather(1, action)[:, 0]
        batch = PolicyBatch((tokens, present, option), action[:, 0], logprob, advantage, torch.from_numpy(reward))
        told = learner.update(batch, remaining=0.9)
    assert told["learning_rate"] == pytest.approx(2.7e-3)
    assert reward.mean() > 0.9
