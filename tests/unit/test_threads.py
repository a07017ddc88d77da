"""Threads of a run: what is worked on side by side comes out as on one, errors included."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from preceptor.envs.catalog import get_task
from preceptor.envs.mujoco.mazes import SPECS
from preceptor.envs.mujoco.physics import SimulationError
from preceptor.envs.mujoco.simulator import MazeSimulator
from preceptor.ground.threads import side_by_side, use_threads


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    use_threads(threads)


@pytest.mark.parametrize(("allowed", "items", "used"), [(1, 16, 0), (2, 7, 0), (2, 8, 2), (4, 11, 2), (4, 16, 4)])
def test_as_many_threads_work_as_have_items_enough(allowed: int, items: int, used: int) -> None:
    use_threads(allowed)
    assert torch.get_num_threads() == allowed
    together = threading.Barrier(used) if used else None  # passed only by so many threads at once
    done: list[int] = []
    workers: set[threading.Thread] = set()

    def work(item: int) -> None:
        if together and item < used:
            together.wait(timeout=60)
        workers.add(threading.current_thread())
        done.append(item)

    side_by_side(work, range(items), least=4)
    assert sorted(done) == list(range(items))
    assert len(workers) == max(1, used)
    assert (threading.main_thread() in workers) == (used == 0)


def test_an_error_on_a_thread_is_raised() -> None:
    use_threads(2)
    done: list[int] = []

    def work(item: int) -> None:
        if item == 0:
            raise ZeroDivisionError
        time.sleep(0.05)
        done.append(item)

    with pytest.raises(ZeroDivisionError):
        side_by_side(work, range(8), least=4)
    assert done == [1, 3, 5, 7]  # the other thread's, which does not go on afterwards


def test_a_failed_simulation_on_two_threads_names_its_environment() -> None:
    use_threads(2)
    simulator = MazeSimulator(SPECS["AntMaze"], 8)
    simulator.begin(np.arange(8), np.arange(8))
    simulator.data[5].qvel[3] = np.nan
    with pytest.raises(SimulationError, match="environment 5 of AntMaze at step 1 of level 5"):
        simulator.step(np.zeros((8, 8)))


@pytest.mark.parametrize("name", ["AntMaze", "Kitchen", "WholeBody"])
def test_threads_change_no_number(name: str) -> None:
    seen = []
    for threads in (1, 2):
        use_threads(threads)
        env, rng = get_task(name).make_vec(8, seed=0), np.random.default_rng(0)
        seen.append([env.reset()[0]])
        seen[-1] += [env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))[0] for _ in range(5)]
        env.close()
    assert np.array_equal(*map(np.array, seen))
