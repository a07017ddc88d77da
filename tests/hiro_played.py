"""HIRO over a hierarchy that really plays, with a plain list of what happened, for tests."""

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.methods.hiro import Hiro, HiroSettings
from preceptor.agent.methods.sac import SACConfig
from preceptor.agent.methods.td3 import TD3Config
from preceptor.envs.catalog import get_task
from preceptor.envs.mujoco.simulator import MazeSimulator
from preceptor.envs.vector import BatchedEnv
from tests.parts import parts

ENVS, PERIOD, TOTAL = 3, 7, 1_000
SAC = SACConfig(hidden=(16, 16), lr=1e-3, gamma=0.9, batch=64)
_HIGH = replace(SAC, gamma=0.8)
CONFIG = HiroSettings(period=PERIOD, low=SAC, high=_HIGH, warmup=150, rollout=10, low_reward=2.0, prior_until=0.6)
TD3 = TD3Config(hidden=(16, 16), gamma=0.9, batch=64)
LEARNERS = {"sac": CONFIG, "td3": replace(CONFIG, low=TD3, high=TD3)}


class Restless(BatchedEnv):
    """Environments whose episodes end at any time, truncated or terminated."""

    def step(self, actions):
        rng = np.random.default_rng([7, int(self._levels.episode.sum()), int(self.simulator.age.sum())])
        self.simulator.age[rng.random(self.num_envs) < 0.06] = self.simulator.spec.horizon - 1
        obs, reward, ended, _, info = super().step(actions)[0:5]
        ended = info.get("_final_obs", np.zeros(self.num_envs, bool))
        terminated = ended & (rng.random(self.num_envs) < 0.5)
        return obs, reward, terminated, ended & ~terminated, info


class Planner:
    """A controller whose goal is told by where it is asked, and that keeps what it was asked."""

    def __init__(self, task):
        self.task, self.asked, self.refuses = task, [], False

    def label(self, obs, legal):
        assert not self.refuses, "the controller was not to be asked"
        self.asked.append(obs.copy())
        return np.zeros(len(obs), np.int64), np.ones(len(obs), np.float32)

    def goal(self, obs, option):
        return target(obs), np.ones((len(obs), 2), np.float32)


def target(obs):
    """Where the planner wants to go from observations [N, O]: [N, 2]."""
    return np.stack([obs[:, 1] * 3 - 1, obs[:, 0] * 2 + 2], 1).astype(np.float32)


def planned(method, obs):
    """The planner's goals in [-1, 1], by hand."""
    return np.clip((target(obs) - obs[:, list(method.frame.indices)]) / 5.0, -1, 1)


@dataclass
class Played:
    """What happened: the method, and for each environment the list of its steps."""

    method: Hiro
    hierarchy: Hierarchy
    envs: list[list[dict[str, Any]]] = field(default_factory=lambda: [[] for _ in range(ENVS)])

    def steps(self):
        return [step for env in self.envs for step in env]

    def complete(self):
        """Steps whose outcome is in the store: all but the newest of each environment."""
        return [step for env in self.envs for step in env[:-1]]

    def segments(self):
        """Runs of steps under one goal."""
        found = []
        for env in self.envs:
            for step in env:
                if step["chosen"]:
                    found.append([])
                found[-1].append(step)
        return found


class Spied:
    """Levels that note what they are asked and answer."""

    def __init__(self, high, low, log):
        self.high, self.low, self.log = high, low, log

    def choose(self, observed, running):
        over, choice = self.high.choose(observed, running)
        self.log.append({"obs": observed.obs.copy(), "level": observed.level_seeds.copy()})
        log = self.log

        class Drawn:
            def sample(self, rng):
                goal, logprob = choice.sample(rng)
                log[-1]["drawn"] = goal.copy()
                return goal, logprob

        return over, Drawn()

    def act(self, observed, clock):
        assert (observed.obs == self.log[-1]["obs"]).all()
        self.log[-1] |= {"goal": clock.command.copy(), "age": clock.age.copy()}
        return self.low.act(observed, clock)


def play(config=CONFIG, length=120, controller=None, name="PointPush", update=True, environments=Restless):
    """Play `length` vector steps, learning as the training loop does, and write down what happens."""
    task = get_task(name)
    method = Hiro(parts(task, config, ENVS, TOTAL, controller))
    env = environments(MazeSimulator(task.spec, ENVS), seed=5)
    log: list[dict[str, Any]] = []
    spied = Spied(method.player.high, method.player.low, log)
    player = method.player._replace(high=spied, low=spied)
    hierarchy = Hierarchy(task, env, player, rng=np.random.default_rng(0))
    stepped = env.step

    def step(action):
        outcome = stepped(action)
        obs, reward, terminated, truncated, info = outcome
        ended = terminated | truncated
        after = np.where(ended[:, None], info.get("final_obs", obs), obs)
        # The store keeps float32.
        log[-1] |= {"action": action.copy(), "reward": reward.astype(np.float32), "ended": ended}
        log[-1] |= {"terminated": terminated, "after": after}
        return outcome

    env.step = step
    played = Played(method, hierarchy)
    for done in range(0, length, config.rollout):
        hierarchy.collect(method.store, config.rollout)
        if update:
            method.update(hierarchy.observed, (done + config.rollout) * ENVS)
    for n in range(ENVS):
        over, age = True, 0
        for row in log:
            chosen = over or age == config.period
            age = 1 if chosen else age + 1
            played.envs[n].append({key: value[n] for key, value in row.items()} | {"chosen": chosen})
            over = row["ended"][n]
    env.close()
    return played


@cache
def once(learner):
    """One game for all who only look."""
    return play(LEARNERS[learner])
