"""BabyAI's levels: how often our expert and minigrid's bot succeed, and how fast levels are played, batched and singly.

    python -m bench.babyai                          # the catalogue's levels, 200 held-out episodes each
    python -m bench.babyai BabyAI-GoTo --episodes 20

The expert chooses an option at each step from the facts of the scene; minigrid's bot knows what cells the agent has
seen, and its verifier's objects. Both play the same levels. Speed is with actions by chance, seconds of the process's
own CPU time on one thread, everything included that an agent sees: 64 environments batched, and minigrid's own class
with the same observations (`MissionView`), and as it is.
"""

import argparse
import time
from contextlib import redirect_stdout
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from minigrid.utils.baby_ai_bot import BabyAIBot

from preceptor.envs.catalog import MISSION_TASKS, get_task
from preceptor.envs.task import Task

FIRST, BATCHED, STEPS, SINGLE_STEPS = 1_000_000, 64, 400, 400


class Row(NamedTuple):
    """Shares of successes, and environment steps per CPU second."""

    expert: float
    bot: float
    batched: float
    same_view: float
    own: float


def by_expert(task: Task, episodes: int) -> float:
    """The share of held-out levels in which the expert succeeds; it chooses anew at each step."""
    env = task.make_vec(episodes, split="eval")
    obs, _ = env.reset(options={"level_seeds": np.arange(FIRST, FIRST + episodes)})
    alive, won = np.ones(episodes, np.bool_), np.zeros(episodes, np.bool_)
    while alive.any():
        option = np.array([task.script(scene) for scene in task.describe(obs)])
        obs, _, terminated, truncated, info = env.step(task.skill(obs, option))
        won |= alive & info["success"]
        alive &= ~(terminated | truncated)
    return float(won.mean())


def by_bot(env: gym.Env[Any, Any], episodes: int) -> float:
    """The share of the same levels in which minigrid's bot succeeds; an error of its own is a failure."""
    won = 0
    for level in range(FIRST, FIRST + episodes):
        with redirect_stdout(None):
            env.reset(seed=level)
        over, reward = False, 0.0
        try:
            bot, action = BabyAIBot(env), None
            while not over:
                action = bot.replan(action)
                _, got, terminated, truncated, _ = env.step(action)
                over, reward = terminated or truncated, float(got)
        except Exception:  # asserts of the bot, where it does not know what to do
            reward = 0.0
        won += reward > 0
    return won / episodes


def batched_speed(task: Task) -> float:
    """Environment steps per second."""
    env = task.make_vec(BATCHED)
    env.reset()
    actions = np.random.default_rng(0).integers(7, size=(STEPS, BATCHED))
    for row in actions[:100]:  # levels are made when they are first met
        env.step(row)
    began = time.process_time()
    for row in actions:
        env.step(row)
    return actions.size / (time.process_time() - began)


def single_speed(env: gym.Env[Any, Any], **reset: Any) -> float:
    """Environment steps per second."""
    actions = np.random.default_rng(0).integers(7, size=SINGLE_STEPS)
    with redirect_stdout(None):
        env.reset(**reset)
        began = time.process_time()
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
    return len(actions) / (time.process_time() - began)


def measured(name: str, episodes: int) -> Row:
    """All figures of a task."""
    task = get_task(name)
    own = task.make_env().unwrapped
    bot = by_bot(own, episodes)
    same_view = single_speed(task.make_env())
    return Row(by_expert(task, episodes), bot, batched_speed(task), same_view, single_speed(own, seed=0))


def main() -> None:
    """Measure the tasks that are named, or all, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*")
    parser.add_argument("--episodes", type=int, default=200)
    said = parser.parse_args()
    print(f"{'level':30s} expert   bot   batched/s  same view/s  minigrid/s")
    for name in said.tasks or MISSION_TASKS:
        row = measured(name, said.episodes)
        speeds = f"{row.batched:11,.0f} {row.same_view:12,.0f} {row.own:11,.0f}"
        print(f"{name:30s}  {row.expert:.3f}  {row.bot:.3f} {speeds}", flush=True)


if __name__ == "__main__":
    main()
