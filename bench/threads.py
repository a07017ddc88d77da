"""Environment steps with simulators side by side: milliseconds of the clock for one step of 16 environments.

On each number of threads the best of a few turns counts, which other work on the machine disturbs least.
"""

import argparse
import time

import numpy as np

from preceptor.envs.catalog import get_task
from preceptor.ground.threads import use_threads

TASKS = ("Kitchen", "WholeBody", "AntMaze", "PointPush")
ENVS, STEPS, TURNS = 16, 40, 5


def milliseconds(task: str, threads: int) -> float:
    """One vector step of a task, at the same random actions on every number of threads."""
    use_threads(threads)
    env, rng, best = get_task(task).make_vec(ENVS, seed=0), np.random.default_rng(0), np.inf
    env.reset()
    for _ in range(TURNS):
        actions = rng.uniform(-1, 1, (STEPS, *(env.action_space.shape or ()))).astype(np.float32)
        started = time.perf_counter()
        for action in actions:
            env.step(action)
        best = min(best, (time.perf_counter() - started) / STEPS)
    env.close()
    return 1e3 * best


def main() -> None:
    """Print a row per task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    threads = parser.parse_args().threads
    print("| ms per step |" + "".join(f" {count} |" for count in threads))
    for task in TASKS:
        print(f"| {task} |" + "".join(f" {milliseconds(task, count):.2f} |" for count in threads))


if __name__ == "__main__":
    main()
