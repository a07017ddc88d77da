"""The grids on a GPU beside the grids on the processor: the same levels in lock step, and how fast both are.

    python -m dev.gpu                  both, on a GPU; fails where there is none: make test-gpu, make bench-gpu
    python -m dev.gpu --record FILE    what the processor's compiled rules give, for
    python -m dev.gpu --check FILE     the same played by CUDA kernels, which Numba's simulator can run, too:
        NUMBA_ENABLE_CUDASIM=1 NUMBA_DISABLE_JIT=1 python -m dev.gpu --check FILE

Play is random and episodes are short, or with `--to-the-end` that of an expert who slips, in whole episodes. The
simulator runs kernels as Python, a thousand steps a second. Whether they compile for CUDA it does not say.
"""

import argparse
import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

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

GIVEN = "obs", "final", "reward", "ends", "level"
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


def on_gpu(shape: GridSimulator, actions: np.ndarray) -> Iterator[Steps]:
    """The same, by kernels."""
    grids = GridsOnGpu(shape)
    for row in actions:
        grids.step(cuda.to_device(row))
        arrays = {"obs": grids.maps, "final": grids.final, "reward": grids.reward, "ends": grids.ends}
        given = {name: array.copy_to_host() for name, array in (arrays | {"level": grids.levels}).items()}
        given["final"][~given["ends"][:2].any(0)] = 0
        yield given


def _digests(given: Steps) -> list[str]:
    return [hashlib.sha256(given[what].tobytes()).hexdigest() for what in GIVEN]


def record(file: Path, num_envs: int, steps: int) -> None:
    """Write the actions of each task, and digests of what the processor gives in each step."""
    columns: Steps = {"limited": np.array(steps > 0)}
    for name in TASKS:
        played = [(given["actions"], _digests(given)) for given in on_processor(name, num_envs, steps)]
        columns[f"{name}/actions"], columns[f"{name}/digests"] = map(np.array, zip(*played, strict=True))
    np.savez(file, allow_pickle=False, **columns)


def check(file: Path) -> str:
    """Play it again by kernels, and say what was compared. Raises `UserError` at the first difference."""
    compared = []
    with np.load(file) as wanted:
        for name in TASKS:
            actions, levels, wins = wanted[f"{name}/actions"], 0, 0
            (steps, num_envs), digests = actions.shape, wanted[f"{name}/digests"]
            limit = _LIMIT if wanted["limited"] else TASKS[name].max_steps
            for t, given in enumerate(on_gpu(simulator(name, num_envs, limit), actions)):
                for what, found, digest in zip(GIVEN, _digests(given), digests[t], strict=True):
                    if found != digest:
                        raise UserError(f"{name}: {what} differs in step {t}.")
                levels, wins = levels + int(given["ends"][:2].any(0).sum()), wins + int(given["ends"][2].sum())
            compared.append(f"{name}: {steps} steps of {num_envs} grids, {levels} levels ended, {wins} won")
    return "\n".join(["equal to the bit:", *compared])


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


def on_a_gpu(num_envs: int, steps: int) -> None:
    """Check and measure."""
    with tempfile.TemporaryDirectory() as folder:
        record(Path(folder, "steps.npz"), num_envs, steps)
        print(check(Path(folder, "steps.npz")))
    print(f"{cuda.get_current_device().name.decode()}, numba {numba.__version__}, million steps a second of the clock:")
    for name in TASKS:
        print(f"  {name}: " + ", ".join(f"{speed(name, many) / 1e6:,.1f} with {many:,} grids" for many in _MANY))


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m dev.gpu", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--record", type=Path, metavar="FILE")
    parser.add_argument("--check", type=Path, metavar="FILE")
    parser.add_argument("--num-envs", type=int, default=250)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, default=4 * _LIMIT)
    length.add_argument("--to-the-end", dest="steps", action="store_const", const=0)
    said = parser.parse_args()
    if said.record:
        record(said.record, said.num_envs, said.steps)
    elif said.check:
        with np.errstate(over="ignore"):  # as Python, random numbers overflow audibly
            print(check(said.check))
    elif cuda.is_available():
        on_a_gpu(said.num_envs, said.steps)
    else:
        sys.exit("There is no GPU that Numba can use here, so nothing was tested: `numba -s` says what it looked for.")


if __name__ == "__main__":
    main()
