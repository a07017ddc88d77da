"""Relabelling and the goal's transition, against loops that follow the paper's equations."""

import torch

from preceptor.agent.goals import GoalFrame, candidates, explained, relabelled
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
    goals = candidates(FRAME, goal, obs[:, 0], final, 20_000, torch.Generator().manual_seed(1))
    assert goals.shape == (B, 20_002, 2)
    torch.testing.assert_close(goals[:, 0], FRAME.clip(goal))
    difference = final[:, [3, 1]] - obs[:, 0][:, [3, 1]]  # s_{t+c}, not the last state that was acted on
    torch.testing.assert_close(goals[:, 1], FRAME.clip(difference))
    assert (goals.abs() <= torch.tensor(FRAME.reach)).all()
    # Wide boxes clip nothing, so that mean and deviation can be read off.
    wide = GoalFrame(FRAME.indices, (100.0, 50.0))
    drawn = candidates(wide, goal, obs[:, 0], final, 20_000, torch.Generator().manual_seed(1))[:, 2:]
    unclipped = ((drawn - difference[:, None]).abs() < torch.tensor([99.0, 49.0])).all(-1)
    assert unclipped.float().mean() > 0.9
    torch.testing.assert_close(drawn.median(1).values, difference, atol=2.0, rtol=0)
    quartile = (drawn - difference[:, None]).abs().median(1).values / 0.6745  # of a Gaussian, whatever is clipped
    torch.testing.assert_close(quartile, 0.5 * torch.tensor(wide.reach).expand(B, 2), rtol=0.05, atol=0)


def brute_force(score, goals, obs, action, length):
    """Appendix C of the paper, one candidate, one state at a time."""
    scores = torch.zeros(goals.shape[:2])
    for b in range(len(goals)):
        for c in range(goals.shape[1]):
            goal = goals[b, c]
            for i in range(length[b]):
                scores[b, c] += score(obs[b, i][None], goal[None], action[b, i][None])[0]
                if i + 1 < length[b]:
                    goal = obs[b, i, [3, 1]] + goal - obs[b, i + 1, [3, 1]]
    return scores


def test_relabelling_equals_brute_force():
    obs, final, goal, action = segments()
    length = torch.tensor([4, 1, 3, 4, 2])
    inside = torch.arange(STEPS) < length[:, None]
    goals = candidates(FRAME, goal, obs[:, 0], final, 8, torch.Generator().manual_seed(2))
    sac, td3 = SAC(OBS + 2, ACTIONS, SACConfig(hidden=(16,)), 0), TD3(OBS + 2, ACTIONS, TD3Config(hidden=(16,)), 0)
    for learner in (sac, td3):

        def score(o, g, a, learner=learner):
            return -0.5 * (a - learner.mode(torch.cat([o, g], 1))).square().sum(-1)

        ours = explained(FRAME, score, goals, obs, action, inside)
        torch.testing.assert_close(ours, brute_force(score, goals, obs, action, length), rtol=1e-4, atol=1e-4)
        best, which = relabelled(goals, ours)
        assert which.tolist() == brute_force(score, goals, obs, action, length).argmax(1).tolist()
        torch.testing.assert_close(best, goals[torch.arange(B), which])
