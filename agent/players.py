"""Players: teacher, controller, script, chance; and how well a player does on given levels."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.acting import Agent
from preceptor.agent.clock import Clock
from preceptor.agent.distributions import Categorical, Distribution, UniformBox
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.levels import Observations, Player, SingleOption, SkillLow
from preceptor.agent.networks import NetworkHigh
from preceptor.agent.runs.statistics import mean_interval, wilson
from preceptor.agent.teaching import Annotator, TeacherHigh
from preceptor.controller.roles import Controller
from preceptor.envs.task import Task
from preceptor.teacher.base import Teacher


@dataclass(frozen=True)
class Episodes:
    """One episode per level: success (0 or 1), return, length in steps, whether it was cut (0 or 1), each float [M]."""

    success: NDArray[np.float64]
    returns: NDArray[np.float64]
    length: NDArray[np.float64]
    cut: NDArray[np.float64]


class UniformLow:
    """Every primitive action with the same probability."""

    def act(self, observed: Observations, clock: Clock) -> Distribution:
        """Uniform over named actions, or over the box of vectors."""
        actions = observed.task.num_actions
        if observed.task.continuous:
            return UniformBox((len(observed), actions))
        return Categorical(np.full((len(observed), actions), 1 / actions, np.float32))


def random_player() -> Player:
    """Plays uniformly random primitive actions."""
    return Player(SingleOption(), UniformLow(), np.ones(1, np.int64))


def teacher_player(task: Task, teacher: Teacher) -> Player:
    """The teacher chooses options, the scripted skills carry them out."""
    return Player(TeacherHigh(Annotator(task, teacher)), SkillLow(), task.options.timeouts)


def controller_player(task: Task, controller: Controller, masked: bool = True) -> Player:
    """The distilled controller chooses options, the scripted skills carry them out."""
    return Player(NetworkHigh(controller.network, masked), SkillLow(), task.options.timeouts)


def play(
    task: Task, player: Player, levels: Sequence[int], *, greedy: bool, seed: int = 0, batch: int = 256
) -> Episodes:
    """One episode per level, in the order of `levels`."""
    episodes: list[dict[str, float]] = []
    for first in range(0, len(levels), batch):
        seeds = np.array(levels[first : first + batch], np.int64)
        env = task.make_vec(len(seeds), split="eval")
        rng = None if greedy else np.random.default_rng([seed, first])
        hierarchy = Hierarchy(task, env, player, rng=rng, levels=seeds)
        episodes += hierarchy.play_once()
    return Episodes(
        *(np.array([episode[name] for episode in episodes]) for name in ("success", "return", "length", "cut"))
    )


def summary(episodes: Episodes) -> dict[str, float]:
    """Success with its Wilson interval, mean return with its bootstrap interval, and mean length."""
    count = len(episodes.success)
    low, high = wilson(int(episodes.success.sum()), count)
    returned, return_low, return_high = mean_interval(episodes.returns)
    return {
        "success": float(episodes.success.mean()),
        "low": low,
        "high": high,
        "episodes": count,
        "return": returned,
        "return_low": return_low,
        "return_high": return_high,
        "length": float(episodes.length.mean()),
    } | ({"cut": int(episodes.cut.sum())} if episodes.cut.any() else {})


def milliseconds_per_step(task: Task, player: Player, steps: int = 200) -> float:
    """Median time that a decision of the player takes in a single environment, without the environment's own time."""
    env, agent, times = task.make_env(), Agent(task, player, seed=0), list[float]()
    obs, _ = env.reset(seed=0)
    for _ in range(steps):
        start = time.perf_counter()
        action = agent.act(obs)
        times.append(time.perf_counter() - start)
        obs, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            agent.reset()
            obs, _ = env.reset()
    return 1000 * float(np.median(times))
