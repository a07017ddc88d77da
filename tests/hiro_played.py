"""HIRO over a hierarchy that really plays, with a plain list of what happened, for tests."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.methods.hiro import Hiro, HiroSettings
from preceptor.agent.methods.sac import SACConfig
from preceptor.envs.catalog import get_task
from preceptor.envs.mujoco.simulator import MazeSimulator
from preceptor.envs.vector import BatchedEnv
from tests.parts import parts

ENVS, PERIOD, TOTAL = 3, 7, 1_000
SAC = SACConfig(hidden=(16, 16), lr=1e-3, gamma=0.9, batch=64)
CONFIG = HiroSettings(
    period=PERIOD, low=SAC, high=replace(SAC, gamma=0.8), warmup=150, rollout=10, low_reward=2.0, prior_until=0.6
)


class Restless(BatchedEnv):
    """Environments whose episodes end at any time, truncated or terminated."""

    def step(self, actions):
        rng = np.random.default_rng([7, int(self._episode.sum()), int(self.simulator.age.sum())])
        self.simulator.age[rng.random(self.num_envs) < 0.06] = self.simulator.spec.horizon - 1
        obs, reward, _, ended, info = super().step(actions)
        terminated = ended & (rng.random(self.num_envs) < 0.5)
        return obs, reward, terminated, ended & ~terminated, info


class Planner:
    """A controller that keeps what it was asked: its goal depends on where, its option is the first legal one."""

    def __init__(self, task):
        self.task, self.asked, self.refuses = task, [], False

    def label(self, obs, legal):
        assert not self.refuses, "the controller was not to be asked"
        self.asked.append(obs.copy())
        return np.zeros(len(obs), np.int64), np.ones(len(obs), np.float32)

    def goal(self, obs, option):
        target = np.stack([obs[:, 1] * 3 - 1, obs[:, 0] * 2 + 2], 1)
        return target.astype(np.float32), np.ones((len(obs), 2), np.float32)

    def probs(self, obs, previous=None, legal=None):
        self.label(obs, legal)
        return np.eye(len(self.task.options), dtype=np.float32)[legal.argmax(1)]

    def unit_goals(self, method, obs):
        """Its goals relative to where the agent is, in [-1, 1]."""
        return np.clip((self.goal(obs, None)[0] - obs[:, list(method.frame.indices)]) / 5.0, -1, 1)


@dataclass
class Played:
    """What happened: the method, and for each environment the list of its steps."""

    method: Hiro
    hierarchy: Hierarchy
    envs: list[list[dict[str, Any]]]

    def segments(self):
        """Runs of steps under one goal."""
        found = []
        for step in (step for env in self.envs for step in env):
            if step["chosen"]:
                found.append([])
            found[-1].append(step)
        return found


def play(config=CONFIG, length=120, controller=None, update=True):
    """Play `length` vector steps, learning as the training loop does, and write down what happens."""
    task = get_task("PointPush")
    method = Hiro(parts(task, config, ENVS, TOTAL, controller))
    env = Restless(MazeSimulator(task.spec, ENVS), seed=5)
    hierarchy = Hierarchy(task, env, method.player, rng=np.random.default_rng(0))
    log: list[dict[str, Any]] = []
    start, act = hierarchy.clock.start, env.step

    def started(rows, chosen):
        log.append({"obs": hierarchy.observed.obs.copy(), "drawn": chosen.copy()})
        start(rows, chosen)

    def step(action):
        clock = hierarchy.clock
        log[-1] |= {"action": action.copy(), "goal": clock.command.copy(), "age": clock.age.copy()}
        obs, reward, terminated, truncated, info = act(action)
        ended = terminated | truncated
        log[-1] |= {"reward": reward.astype(np.float32), "ended": ended, "terminated": terminated}
        log[-1] |= {"after": np.where(ended[:, None], info.get("final_obs", obs), obs)}
        return obs, reward, terminated, truncated, info

    hierarchy.clock.start, env.step = started, step
    for done in range(config.rollout, length + 1, config.rollout):
        hierarchy.collect(method.store, config.rollout)
        if update:
            method.update(hierarchy.observed, done * ENVS)
    played = Played(method, hierarchy, [[] for _ in range(ENVS)])
    for n, steps in enumerate(played.envs):
        over, age = True, 0
        for row in log:
            chosen = over or age == config.period
            age = 1 if chosen else age + 1
            steps.append({key: value[n] for key, value in row.items()} | {"chosen": chosen})
            over = row["ended"][n]
    return played


@cache
def once():
    """One game for all who only look."""
    return play()
