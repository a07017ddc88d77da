"""Relabelling and the goal's transition, against loops that follow the paper's equations."""

import numpy as np
import pytest
import torch

from preceptor.agent.clock import GoalFrame
from preceptor.agent.goals import candidates, explained, relabelled
from preceptor.agent.methods.sac import SAC, SACConfig
from preceptor.agent.methods.td3 import TD3, TD3Config

# Not the first dimensions of the state, and not in order.
FRAME = GoalFrame((3, 1), (1.0, 2.0))
B, STEPS, OBS, ACTIONS = 5, 4, 6, 2


def segments():
    generator = torch.Generator().manual_seed(0)
    obs = torch.randn(B, STEPS, OBS, generator=generator)
    final = torch.randn(B, OBS, generator=generator)
    goal = torch.randn(B, 2, generator=generator)
    action = torch.rand(B, STEPS, ACTIONS, generator=generator) * 1.8 - 0.9
    return obs, final, goal, action


def test_candidates_are_the_original_the_difference_that_was_reached_and_draws_around_it():
    obs, final, goal, _ = segments()
    difference = final[:, [3, 1]] - obs[:, 0][:, [3, 1]]  # s_{t+c}, not the last state that was acted on
    for factor in (1.0, 50.0):  # wide boxes clip next to nothing, so that mean and deviation can be read off
        frame = GoalFrame(FRAME.indices, (factor, 2 * factor))
        goals = candidates(frame, goal, obs[:, 0], final, 20_000, torch.Generator().manual_seed(1))
        assert goals.shape == (B, 20_002, 2)
        torch.testing.assert_close(goals[:, :2], frame.clip(torch.stack([goal, difference], 1)))
        assert (goals.abs() <= torch.tensor(frame.reach)).all()
    away = goals[:, 2:] - difference[:, None]
    torch.testing.assert_close(away.median(1).values, torch.zeros(B, 2), atol=2.0, rtol=0)
    quartile = away.abs().median(1).values / 0.6745  # of a Gaussian, whatever is clipped
    torch.testing.assert_close(quartile, 0.5 * torch.tensor(frame.reach).expand(B, 2), rtol=0.05, atol=0)


@pytest.mark.parametrize(
    "learner", [SAC(OBS + 2, ACTIONS, SACConfig(hidden=(16,)), 0), TD3(OBS + 2, ACTIONS, TD3Config(hidden=(16,)), 0)]
)
def test_relabelling_equals_brute_force(learner):
    """Appendix C of the paper, one candidate, one state at a time."""
    obs, final, goal, action = segments()
    length = torch.tensor([4, 1, 3, 4, 2])
    goals = candidates(FRAME, goal, obs[:, 0], final, 8, torch.Generator().manual_seed(2))

    def score(o, g, a):
        return -0.5 * (a - learner.mode(torch.cat([o, g], 1))).square().sum(-1)

    scores = torch.zeros(goals.shape[:2])
    for b, c in np.ndindex(*scores.shape):
        candidate = goals[b, c]
        for i in range(length[b]):
            scores[b, c] += score(obs[b, i][None], candidate[None], action[b, i][None])[0]
            if i + 1 < length[b]:
                candidate = obs[b, i, [3, 1]] + candidate - obs[b, i + 1, [3, 1]]
    ours = explained(FRAME, score, goals, obs, action, torch.arange(STEPS) < length[:, None])
    torch.testing.assert_close(ours, scores, rtol=1e-4, atol=1e-4)
    best, which = relabelled(goals, ours)
    assert which.tolist() == scores.argmax(1).tolist()
    torch.testing.assert_close(best, goals[torch.arange(B), which])
