"""The mazes of MuJoCo Warp beside MuJoCo's own: how far apart they are, the rules in lock step, and how fast both are.

    python -m dev.gpu_mazes                 on a GPU; fails where there is none: make test-gpu, make bench-gpu
    python -m dev.gpu_mazes --device cpu    the same kernels on the processor

Robots are put anywhere in the free cells, points at up to 2 m/s, and actions are held for ten simulator steps. Contacts
make chaos: an ant whose foot comes down a rounding earlier is soon elsewhere. So errors are held to tolerances up to 10
steps, and after 50 in 95% of environments; beside them stands how far MuJoCo is from itself if its start moves by 1e-6.
"""

import argparse
import sys
import time
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from preceptor.envs.catalog import get_task
from preceptor.envs.mujoco.gpu import MazesOnGpu
from preceptor.envs.mujoco.mazes import FREE, SPECS, START, MazeSpec
from preceptor.envs.mujoco.simulator import MazeSimulator
from preceptor.envs.vector import BatchedEnv
from preceptor.ground.errors import UserError

Floats = NDArray[np.float64]

TASKS = ("PointUMaze", "PointPush", "PointFall", "AntMaze", "AntPushRobust", "AntFallRobust")
EXPERTS = ("PointUMaze", "PointPush", "PointFall")  # nothing scripted walks
# After so many simulator steps positions are at most so far apart, in so large a part of the environments: metres,
# radians and parts of a quaternion. In float32 a place at 16 metres has an error of 1e-6.
TOLERANCES = {1: (2e-6, 1.0), 10: (2e-5, 1.0), 50: (2e-5, 0.95)}
MOVED = 1e-6
_HELD, _SHORT, _SEEN = 10, 6, 1e-3
_MANY = (64,), (1_024, 16_384)  # on the processor, on a GPU


def errors(name: str, num_envs: int, device: str, seed: int = 0) -> tuple[Floats, Floats]:
    """Largest error of a position [3, N] after 1, 10 and 50 simulator steps.

    Returns:
        Warp's, and MuJoCo's own from a start that is moved by 1e-6.
    """
    spec = SPECS[name]
    spec = replace(spec, robot=spec.robot._replace(frame_skip=1))
    mazes, rng = MazesOnGpu(spec, num_envs, seed=seed, device=device), np.random.default_rng(seed)
    point = spec.robot.name == "point"
    cells, room = spec.cells(FREE + START), spec.cell / 2 - (spec.robot.height if point else 0.9)
    middles = np.array([spec.centre(*cells[i]) for i in rng.integers(len(cells), size=num_envs)])
    mazes.qpos[:, :2] = torch.as_tensor(middles + rng.uniform(-room, room, (num_envs, 2)))
    if point:
        mazes.qvel[:, :2] = torch.as_tensor(rng.uniform(-2, 2, (num_envs, 2)))
    steps, size = max(TOLERANCES), (num_envs, spec.robot.num_actions)
    actions = np.repeat(rng.uniform(-1, 1, (-(-steps // _HELD), *size)).astype(np.float32), _HELD, axis=0)
    qpos, qvel = (start.cpu().numpy().astype(np.float64) for start in (mazes.qpos, mazes.qvel))
    wanted = _by_mujoco(spec, qpos, qvel, actions)
    moved = _by_mujoco(spec, qpos + MOVED * rng.choice([-1, 1], qpos.shape), qvel, actions)
    found = np.zeros_like(wanted)
    for t, row in enumerate(actions):
        mazes.step(torch.as_tensor(row).to(device))
        found[t] = mazes.qpos.cpu().numpy()
    after = np.array(list(TOLERANCES)) - 1
    warp, itself = (np.abs(other - wanted)[after].max(axis=2) for other in (found, moved))
    return warp, itself


def _by_mujoco(spec: MazeSpec, qpos: Floats, qvel: Floats, actions: NDArray[np.float32]) -> Floats:
    """Positions [T, N, Q] after each step."""
    simulator, found = MazeSimulator(spec, len(qpos)), []
    for data, place, speed in zip(simulator.data, qpos, qvel, strict=True):
        data.qpos[:], data.qvel[:] = place, speed
    for row in actions:
        simulator.step(row)
        found.append([data.qpos.copy() for data in simulator.data])
    return np.array(found)


def outside(warp: Floats) -> list[int]:
    """The numbers of steps after which errors [3, N] are not within tolerance."""
    parts = zip(TOLERANCES.items(), warp, strict=True)
    return [steps for (steps, (most, part)), row in parts if (row <= most).mean() < part]


def lock_step(name: str, num_envs: int, device: str) -> tuple[int, int]:
    """Play short episodes at random; how many ended, and in success, in which levels and ends were the same.

    Raises:
        UserError: Something is not the same, or in more than 5% of environments not nearly so.
    """
    spec = SPECS[name]
    off = np.mean(spec.eval_goals, axis=0) - np.array([0, 0, spec.start_height])[: len(spec.eval_goals[0])]
    spec = replace(spec, horizon=_SHORT, radius=float(np.linalg.norm(off)))  # some end nearer to the goal, some farther
    env, mazes = BatchedEnv(MazeSimulator(spec, num_envs)), MazesOnGpu(spec, num_envs, device=device)
    obs, info = env.reset()
    rng, ended, won = np.random.default_rng(0), 0, 0
    _same(name, 0, (mazes.levels, info["level_seed"]), (mazes.obs, obs))
    for t in range(2 * _SHORT + 1):
        actions = rng.uniform(-1, 1, (num_envs, spec.robot.num_actions)).astype(np.float32)
        obs, reward, terminated, truncated, info = env.step(actions)
        mazes.step(torch.as_tensor(actions).to(device))
        ends = np.array([terminated, truncated, info["success"]])
        last = [(mazes.final, info["final_obs"])] if truncated.any() else []
        exact = (mazes.levels, info["level_seed"]), (mazes.ends, ends)
        _same(name, t + 1, *exact, (mazes.obs, obs), (mazes.reward, reward), *last)
        ended, won = ended + int(truncated.sum()), won + int(info["success"].sum())
    return ended, won


def _same(name: str, step: int, *pairs: tuple[torch.Tensor, NDArray]) -> None:
    for found, wanted in pairs:
        given = found.cpu().numpy()
        close = np.isclose(given, wanted, rtol=_SEEN, atol=_SEEN) if given.dtype == np.float32 else given == wanted
        rows = close if close.ndim == 1 else close.all(axis=-1)
        if rows.mean() < (0.95 if given.dtype == np.float32 else 1.0):
            raise UserError(f"{name}: something differs in step {step} in {1 - rows.mean():.0%} of environments.")


def expert_wins(name: str, num_envs: int, device: str) -> tuple[int, int]:
    """In how many evaluation levels a task's expert ends in success, in MuJoCo Warp and in MuJoCo."""
    task, mazes = get_task(name), MazesOnGpu(SPECS[name], num_envs, "eval", device=device)
    env = BatchedEnv(MazeSimulator(SPECS[name], num_envs), "eval")
    obs, info = env.reset()

    def act(seen: NDArray[np.float32]) -> NDArray[np.float32]:
        return task.skill(seen, np.array([task.script(scene) for scene in task.describe(seen)]))

    for _ in range(SPECS[name].horizon):
        mazes.step(torch.as_tensor(act(mazes.obs.cpu().numpy())).to(device))
        obs, *_, info = env.step(act(obs))
    return int(mazes.ends[2].sum()), int(info["success"].sum())


def speed(name: str, num_envs: int, device: str) -> float:
    """Steps of environments per second of the clock over an episode, the next starts included."""
    spec = SPECS[name]
    mazes = MazesOnGpu(spec, num_envs, device=device)
    rows = 2 * torch.rand(16, num_envs, spec.robot.num_actions, device=device) - 1
    mazes.step(rows[0])
    mazes.obs.cpu()  # waits
    started = time.perf_counter()
    for t in range(spec.horizon):
        mazes.step(rows[t % len(rows)])
    mazes.obs.cpu()
    return num_envs * spec.horizon / (time.perf_counter() - started)


def speed_of_mujoco(name: str, num_envs: int = 16, steps: int = 100) -> float:
    """The same of `BatchedEnv` on one core."""
    env, rng = BatchedEnv(MazeSimulator(SPECS[name], num_envs)), np.random.default_rng(0)
    env.reset()
    rows = rng.uniform(-1, 1, (steps, num_envs, SPECS[name].robot.num_actions))
    started = time.perf_counter()
    for row in rows:
        env.step(row)
    return num_envs * steps / (time.perf_counter() - started)


def check(num_envs: int, device: str) -> None:
    """Print what was compared. Raises `UserError` for what is not within its tolerance."""
    print(f"errors of positions after {', '.join(map(str, TOLERANCES))} steps in {num_envs} environments, Warp's and")
    print(f"MuJoCo's own if its start moves by {MOVED:.0e}: median, 95%, largest")
    for name in TASKS:
        warp, itself = errors(name, num_envs, device)
        for who, found in (("Warp", warp), ("moved", itself)):
            rows = (" ".join(f"{x:.1e}" for x in np.quantile(row, (0.5, 0.95, 1.0))) for row in found)
            print(f"  {name + ', ' + who:22}" + " | ".join(rows), flush=True)
        if outside(warp):
            raise UserError(f"{name}: after {outside(warp)} steps positions are not within the tolerances.")
    for name in TASKS:
        ended, won = lock_step(name, num_envs, device)
        if not 0 < won < ended:
            raise UserError(f"{name}: {won} of {ended} episodes ended in success, so that successes were not compared.")
        print(f"  {name}: {ended} short episodes in lock step, the same levels and ends, {won} of them won", flush=True)
    for name in EXPERTS:
        warps, mujocos = expert_wins(name, num_envs, device)
        print(f"  {name}: the expert wins {warps} levels in Warp, {mujocos} in MuJoCo")
        if warps != mujocos:
            raise UserError(f"{name}: the expert does not win as many levels in Warp as in MuJoCo.")


def main() -> None:
    """Check and measure."""
    parser = argparse.ArgumentParser(prog="python -m dev.gpu_mazes", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--num-envs", type=int, default=256)
    said = parser.parse_args()
    try:
        check(said.num_envs, said.device)
    except UserError as error:
        sys.exit(str(error))
    where = torch.cuda.get_device_name(said.device) if said.device != "cpu" else "processor"
    print(f"{where}, thousand environment steps a second, and MuJoCo on one core of the processor:")
    for name in TASKS:
        rates = [f"{speed(name, many, said.device) / 1e3:,.1f} with {many:,}" for many in _MANY[where != "processor"]]
        print(f"  {name}: {', '.join(rates)}; {speed_of_mujoco(name) / 1e3:,.1f}", flush=True)


if __name__ == "__main__":
    main()
