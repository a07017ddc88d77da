"""Relabelling in one forward pass against a loop over candidates, of the same goals, by CPU time.

A batch of HIRO's high level: segments of ten steps with ten candidates each, scored by the low level's policy. The loop
is what the ports do: one candidate after another, each with its goals rolled along the states and a forward pass of its
own for each segment. A second, milder loop takes the whole batch at once for each candidate. Both must find what the
batched code finds.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.turns import compared
from preceptor.agent.config import TrainConfig
from preceptor.agent.data.views import Segments, sample_segments
from preceptor.agent.goals import candidates, explained, relabelled
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.methods.hiro import Hiro, HiroSettings
from preceptor.agent.methods.protocol import Parts
from preceptor.envs.catalog import get_task

TASK, ENVS, STEPS, TURNS = "PointPush", 4, 200, 7


def played() -> tuple[Hiro, Segments]:
    """A method, and a batch of what it played."""
    task, config = get_task(TASK), HiroSettings()
    run = TrainConfig(method="hiro", task=TASK, steps=STEPS * ENVS, num_envs=ENVS, settings=config)
    method = Hiro(Parts(task, run, np.random.SeedSequence(0)))
    method.warm = True
    env = task.make_vec(ENVS)
    hierarchy = Hierarchy(task, env, method.player, rng=np.random.default_rng(0))
    hierarchy.collect(method.store, STEPS)
    return method, sample_segments(method.store, method.rng, config.high.batch, config.period)


def likeness(method: Hiro, obs: Tensor, goals: Tensor, action: Tensor) -> Tensor:
    """How near actions [M, A] are to those that the low level takes now [M]."""
    return -0.5 * (action - method.low_learner.mode(method.low_inputs(obs, goals))).square().sum(-1)


@torch.no_grad()
def batched(method: Hiro, parts: Segments, goals: Tensor) -> Tensor:
    """As `preceptor.agent.goals` does it: [B], the index of the best candidate."""
    obs, action, inside = (torch.from_numpy(column) for column in (parts.obs, parts.action, parts.inside))
    return relabelled(goals, explained(method.frame, partial(likeness, method), goals, obs, action, inside))[1]


@torch.no_grad()
def looped(method: Hiro, parts: Segments, goals: Tensor) -> Tensor:
    """One candidate of one segment after another."""
    obs, action = torch.from_numpy(parts.obs), torch.from_numpy(parts.action)
    scores = torch.zeros(goals.shape[:2])
    for b, length in enumerate(parts.length.tolist()):
        at = method.frame.of(obs[b, :length])
        for c in range(goals.shape[1]):
            scores[b, c] = likeness(method, obs[b, :length], goals[b, c] + at[0] - at, action[b, :length]).sum()
    return scores.argmax(1)


@torch.no_grad()
def by_candidate(method: Hiro, parts: Segments, goals: Tensor) -> Tensor:
    """One candidate after another, of all segments at once."""
    obs, action, inside = (torch.from_numpy(column) for column in (parts.obs, parts.action, parts.inside))
    at = method.frame.of(obs)
    moved = (at[:, :1] - at).flatten(0, 1)
    scores = []
    for goal in goals.unbind(1):
        wanted = goal.repeat_interleave(obs.shape[1], 0) + moved
        score = likeness(method, obs.flatten(0, 1), wanted, action.flatten(0, 1))
        scores.append((score.view(inside.shape) * inside).sum(1))
    return torch.stack(scores, 1).argmax(1)


def main() -> dict[str, Any]:
    """Measure, print and return the figures; `ratio` is the loop's time over ours."""
    torch.set_num_threads(1)
    method, parts = played()
    first, final, goal = (torch.from_numpy(column) for column in (parts.obs[:, 0], parts.final, parts.command))
    goals = candidates(method.frame, goal, first, final, method.settings.draws, torch.Generator().manual_seed(0))
    sides = {"batched": (batched, 50), "per candidate": (by_candidate, 50), "per segment and candidate": (looped, 2)}
    best = batched(method, parts, goals)
    same = {name: float((side(method, parts, goals) == best).float().mean()) for name, (side, _) in sides.items()}
    assert min(same.values()) > 0.98, f"the sides disagree by more than ties: {same}"
    what = f"{len(goal)} segments x {goals.shape[1]} candidates x {method.settings.period} steps"
    work = {name: (partial(side, method, parts, goals), repeats) for name, (side, repeats) in sides.items()}
    return compared(what, work, TURNS, goal=10)


if __name__ == "__main__":
    main()
