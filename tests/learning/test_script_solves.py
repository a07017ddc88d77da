"""The scripted teacher, with the scripted executors and the hierarchical clock, on held-out levels."""

import numpy as np
import pytest
from numpy.typing import NDArray

from envs.catalog import STOCK_TASKS, TASKS, get_task
from envs.gridworld.tasks import GridTask
from tests.scripted import scripted

FIRST = 1_000_000  # held-out level seeds start here


def play(task: GridTask, count: int) -> tuple[NDArray[np.bool_], NDArray[np.int64], set[int]]:
    """Success and length of an episode on each of the first held-out levels, and the codes of the scenes met."""
    env = task.make_vec(count, split="eval")
    seeds = np.arange(FIRST, FIRST + count)
    obs, _ = env.reset(options={"level_seeds": seeds})
    back = task.teacher_to_true(seeds)
    option, age = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    fresh, alive = np.ones(count, dtype=np.bool_), np.ones(count, dtype=np.bool_)
    success, length, met = np.zeros(count, dtype=np.bool_), np.zeros(count, dtype=np.int64), set()
    while alive.any():
        taught = task.teacher_view(obs, seeds)
        met |= set(task.fact_codes(taught)[alive].tolist())
        wish = np.argmax(np.eye(len(task.options))[scripted(task, taught)][np.arange(count)[:, None], back], axis=1)
        option, age = np.where(fresh, wish, option), np.where(fresh, 0, age) + 1
        obs, _, terminated, truncated, info = env.step(task.skill(obs, option))
        over = terminated | truncated
        success |= alive & info["success"]
        length += alive
        alive &= ~over
        fresh = over | task.option_done(obs, option) | (age >= task.options.timeouts[option])
    return success, length, met


LENGTHS = {"TwoDoor": 250, "KeyCorridorS4R3": 50}  # mean steps at most, elsewhere 40


@pytest.mark.parametrize("name", [*TASKS, *STOCK_TASKS])
def test_script_and_skills_solve_held_out_levels(name: str) -> None:
    success, length, met = play(get_task(name), 100)
    assert success.sum() >= 99, f"failed on {FIRST + np.flatnonzero(~success)}"
    assert length.mean() < LENGTHS.get(name, 40)
    if name == "SimpleDoorKey":
        assert len(met) < 40, "too many distinct scenes: every one is a query to a language model"


@pytest.mark.parametrize(("name", "limit"), [("LavaDoorKey", "lava"), ("ColoredDoorKey", "colours")])
def test_limited_teachers_are_limited(name: str, limit: str) -> None:
    success, _, _ = play(get_task(name, limit), 500)
    assert 0.55 <= success.mean() <= 0.75
