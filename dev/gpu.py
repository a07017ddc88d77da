"""The grids on a GPU beside the grids on the processor: the same levels in lock step, and how fast both are.

    python -m dev.gpu      both, on a GPU; fails where there is none: make test-gpu, make bench-gpu
    python -m dev.simulated_gpu dev.gpu --check      what kernels give, by Numba's simulator

Play is random and episodes are short, or with `--to-the-end` that of an expert who slips, in whole episodes. The
simulator runs kernels as Python, a thousand steps a second. Whether they compile for CUDA it does not say.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numba
import numpy as np
from numba import cuda

from preceptor.envs.catalog import get_task
from preceptor.envs.gridworld.gpu import GridsOnGpu
from preceptor.envs.gridworld.levels import SPECS, Variety, doorkey_spec
from preceptor.envs.gridworld.simulator import GridSimulator
from preceptor.envs.vector import BatchedEnv
from preceptor.ground.errors import UserError

TASKS = {name: SPECS[name] for name in ("SimpleDoorKey", "KeyInBox")} | {"DoorKey-8x8": doorkey_spec(8)}
# In the smallest rooms random play wins, too, and the door has the time to move.
TASKS["DynamicDoorKey in small rooms"] = replace(SPECS["DynamicDoorKey"], variety=Variety(5, 5))
_LIMIT = 16  # steps of an episode, which is followed by the next one
_SLIPS = 0.2  # of an expert
_LAUNCHES, _MANY = 1_000, (1_024, 65_536)

Steps = dict[str, np.ndarray]


def simulator(name: str, num_envs: int, limit: int = _LIMIT) -> GridSimulator:
    """Grids of a task whose episodes end after so many steps at most."""
    return GridSimulator(replace(TASKS[name], max_steps=limit), num_envs)


def actions_of(num_envs: int, steps: int) -> np.ndarray:
    """Random actions [steps, N], more steps ahead than a uniform choice has."""
    return np.random.default_rng(0).choice([0, 1, 2, 2, 2, 3, 3, 4, 5, 5, 6], (steps, num_envs))


def expert_of(name: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A function (observations, random actions [N]) -> what an expert does who slips now and then."""
    task, rng = get_task(name.partition(" ")[0]), np.random.default_rng(1)

    def act(obs: np.ndarray, slips: np.ndarray) -> np.ndarray:
        options = np.array([task.script(scene) for scene in task.describe(obs)])
        return np.where(rng.random(len(obs)) < _SLIPS, slips, task.skill(obs, options))

    return act


def on_processor(name: str, num_envs: int, steps: int) -> Iterator[Steps]:
    """What each step gives: actions, observation, last observation where an episode ended, reward, ends, level.

    With 0 steps it is an expert's, until each grid has ended an episode.
    """
    limit = _LIMIT if steps else TASKS[name].max_steps
    expert = None if steps else expert_of(name)
    env, over = BatchedEnv(simulator(name, num_envs, limit)), np.zeros(num_envs, np.bool_)
    obs, _ = env.reset(seed=0)
    for row in actions_of(num_envs, steps or limit):
        actions = expert(obs, row) if expert else row
        obs, reward, terminated, truncated, info = env.step(actions)
        final = info.get("final_obs", np.zeros_like(obs))
        ends = np.array([terminated, truncated, info["success"]])
        final[~ends[:2].any(0)] = 0
        yield {
            "actions": actions,
            "obs": obs,
            "final": final,
            "reward": reward,
            "ends": ends,
            "level": info["level_seed"],
        }
        over |= terminated | truncated
        if expert and over.all():
            return


def check(name: str, num_envs: int, steps: int) -> str:
    """Play on both, and say what was compared. Raises `UserError` at the first difference."""
    grids = GridsOnGpu(simulator(name, num_envs, _LIMIT if steps else TASKS[name].max_steps))
    played, levels, wins = 0, 0, 0
    for wanted in on_processor(name, num_envs, steps):
        grids.step(cuda.to_device(wanted["actions"]))
        arrays = {"obs": grids.maps, "final": grids.final, "reward": grids.reward, "ends": grids.ends}
        given = {what: array.copy_to_host() for what, array in (arrays | {"level": grids.levels}).items()}
        given["final"][~given["ends"][:2].any(0)] = 0
        for what, found in given.items():
            if not np.array_equal(found, wanted[what]):
                raise UserError(f"{name}: {what} differs in step {played}.")
        played, levels, wins = played + 1, levels + given["ends"][:2].any(0).sum(), wins + given["ends"][2].sum()
    return f"{name}: {played} steps of {num_envs} grids, {levels} levels ended, {wins} won"


def speed(name: str, num_envs: int) -> float:
    """Steps of environments per second of the clock on the GPU, actions drawn before."""
    grids = GridsOnGpu(simulator(name, num_envs, TASKS[name].max_steps))
    rows = [cuda.to_device(row) for row in actions_of(num_envs, 16)]

    def play(launches: int) -> None:
        for t in range(launches):
            grids.step(rows[t % len(rows)])
        cuda.synchronize()

    play(_LAUNCHES)  # compiles, and starts in the middle of episodes
    started = time.perf_counter()
    play(_LAUNCHES)
    return num_envs * _LAUNCHES / (time.perf_counter() - started)


def main() -> None:
    """Check, and measure where there is a GPU."""
    parser = argparse.ArgumentParser(prog="python -m dev.gpu", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--check", action="store_true", help="and no more")
    parser.add_argument("--num-envs", type=int, default=250)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, default=4 * _LIMIT)
    length.add_argument("--to-the-end", dest="steps", action="store_const", const=0)
    said = parser.parse_args()
    if not cuda.is_available():
        sys.exit("There is no GPU that Numba can use here, so nothing was tested: `numba -s` says what it looked for.")
    print("equal to the bit:")
    for name in TASKS:
        print(f"  {check(name, said.num_envs, said.steps)}", flush=True)
    if not said.check:
        gpu = cuda.get_current_device().name.decode()
        print(f"{gpu}, numba {numba.__version__}, million steps a second of the clock:")
        for name in TASKS:
            print(f"  {name}: " + ", ".join(f"{speed(name, many) / 1e6:,.1f} with {many:,} grids" for many in _MANY))


if __name__ == "__main__":
    main()
