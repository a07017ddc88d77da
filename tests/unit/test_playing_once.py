"""An evaluation decides only where an episode still counts, and finds what it would have found otherwise."""

from collections import Counter
from dataclasses import fields

import gymnasium as gym
import numpy as np
import pytest

from preceptor.agent.distributions import Categorical
from preceptor.agent.evaluate import load_student
from preceptor.agent.levels import FEWEST_ROWS, Player
from preceptor.agent.players import play, random_player, teacher_player
from preceptor.agent.runs.run import Run
from preceptor.envs.catalog import get_task
from preceptor.teacher.controls import ScriptedTeacher
from preceptor.teacher.labels import LabelStore
from tests.small_runs import RUNS, made

KEY, LEVELS = get_task("KeyInBox"), range(1_000_000, 1_000_012)


def taught():
    return teacher_player(KEY, ScriptedTeacher(KEY, LabelStore()))


class Counted:
    """A high level that counts how often it chooses for so many environments."""

    def __init__(self, high):
        self.high, self.rows = high, Counter()

    def choose(self, observed, running):
        self.rows[len(observed)] += 1
        return self.high.choose(observed, running)


def cut_short(monkeypatch, simulator):
    """Let episodes of a simulator end after up to 29 steps, each at another one."""
    whole = simulator.step

    def step(self, actions):
        self.taken = getattr(self, "taken", 0) + 1
        outcome = whole(self, actions)
        ended = (7 * self.level_seed + self.taken) % 29 == 0
        return outcome._replace(truncated=(outcome.truncated | ended) & ~outcome.terminated)

    monkeypatch.setattr(simulator, "step", step)


def check(task, player: Player):
    """That the same is played with fewer and fewer environments as with all to the end."""
    for greedy in (True, False):
        ours, whole = (play(task, player._replace(free=free), LEVELS, greedy=greedy, seed=3) for free in (True, False))
        assert len(set(whole.length)) > 3, "most end before the last one does"
        for column in fields(ours):
            np.testing.assert_array_equal(getattr(ours, column.name), getattr(whole, column.name))


@pytest.mark.parametrize("name", sorted(RUNS))
def test_all_kinds_of_agents_play_the_same(tmp_path, monkeypatch, name):
    run = Run.open(made(tmp_path, name))
    task = get_task(run.config["task"])
    cut_short(monkeypatch, type(task.make_vec(1).simulator))
    check(task, load_student(run, task))


def test_so_do_players_without_a_network(monkeypatch):
    check(KEY, taught())
    for task in (get_task("PointReach"), KEY):
        cut_short(monkeypatch, type(task.make_vec(1).simulator))
        check(task, random_player())


class Corridor(gym.Env):
    """Three to twenty steps to the right; going left is an error."""

    observation_space, action_space = gym.spaces.Box(0, 20, (1,)), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(3, 20))
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert action == 1, "there is a wall to the left"
        self.left -= 1
        return np.zeros(1, np.float32), 0.0, self.left == 0, False, {}


class Right:
    """The low level of a player that goes right."""

    def act(self, observed, clock):
        return Categorical(np.tile(np.array([[0, 1]], np.float32), (len(observed), 1)))


def test_environments_that_forbid_actions_are_played_to_the_end(monkeypatch):
    monkeypatch.setitem(
        gym.registry, "Corridor-v0", gym.envs.registration.EnvSpec("Corridor-v0", Corridor, max_episode_steps=30)
    )
    steps = play(get_task("Corridor-v0"), random_player()._replace(low=Right()), LEVELS, greedy=True).length
    assert len(set(steps)) > 1


def test_no_decision_is_made_for_what_is_over():
    counted = Counted(taught().high)
    steps = play(KEY, taught()._replace(high=counted), LEVELS, greedy=True).length
    decided = sum(rows * times for rows, times in counted.rows.items())
    assert steps.sum() <= decided < steps.sum() + FEWEST_ROWS * steps.max() < len(steps) * steps.max()
    assert min(counted.rows) >= FEWEST_ROWS
