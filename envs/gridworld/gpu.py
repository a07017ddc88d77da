"""The grids on a GPU: the engine's own functions, compiled for CUDA by Numba, one thread for each grid.

Nothing here is a rule. Levels, steps, sight, and which level comes next are those of `engine.py` and
`ground/level_seeds.py`, and `python -m dev.gpu` holds both machines to the same observations, rewards and ends.
`train --method ppo --on-gpu` plays them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numba import config, cuda, njit
from numpy.typing import NDArray

from preceptor.envs.gridworld.engine import begin, rules_of, see_anew, step_some
from preceptor.envs.gridworld.levels import GRID, Pool
from preceptor.envs.gridworld.simulator import GridSimulator
from preceptor.ground.errors import UserError
from preceptor.ground.level_seeds import drawn_seed

_THREADS: Final = 128  # of a block
config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # of few grids there are few blocks


@njit
def _begin_next(rules, pool, grids, cells, maps, rows, levels, episode, seeds, low, high, n):  # type: ignore[no-untyped-def]
    each = rows.shape[0] // seeds.shape[0]
    levels[n] = drawn_seed(seeds[n // each], n % each, episode[n], low, high)
    episode[n] += 1
    begin(rules, pool, grids, cells, rows[n : n + 1], levels[n : n + 1])
    see_anew(rules, grids, cells, rows[n : n + 1], maps, None, None)


@cuda.jit
def _reset(rules, pool, grids, cells, maps, rows, levels, episode, seeds, low, high):  # type: ignore[no-untyped-def]
    n = cuda.grid(1)
    if n < rows.shape[0]:
        _begin_next(rules, pool, grids, cells, maps, rows, levels, episode, seeds, low, high, n)


@cuda.jit
def _step(  # type: ignore[no-untyped-def]
    rules, pool, grids, cells, maps, rows, levels, episode, seeds, low, high, actions, reward, ends, final
):
    n = cuda.grid(1)
    if n >= rows.shape[0]:
        return
    step_some(rules, grids, cells, actions, reward, ends, maps, None, None, n, n + 1)
    if ends[0, n] or ends[1, n]:
        for x in range(maps.shape[1]):
            for y in range(maps.shape[2]):
                for channel in range(maps.shape[3]):
                    final[n, x, y, channel] = maps[n, x, y, channel]
        _begin_next(rules, pool, grids, cells, maps, rows, levels, episode, seeds, low, high, n)


def blocks_and_threads(count: int) -> tuple[int, int]:
    """Of a kernel with one thread for each of so many grids."""
    threads = min(_THREADS, 32 * -(-count // 32))  # in warps
    return -(-count // threads), threads


def check_gpu() -> None:
    """Raise `UserError` unless there is a GPU."""
    if not cuda.is_available():
        raise UserError("There is no GPU that Numba can use here.", "numba -s   # what it looked for")


class GridsOnGpu:
    """What `BatchedEnv` is over the same simulator after `reset`, in its mode SAME_STEP, on a GPU.

    Arrays are the GPU's, and the next step overwrites them; `torch.as_tensor` shares their memory.

    Args:
        simulator: Task and number of grids; it shows maps, and is not stepped itself.
        split: As of `BatchedEnv`.
        seeds: The seeds of several of them, of equal size, whose grids lie side by side here.

    Attributes:
        maps: uint8 [N, W, H, 4], the observations.
        final: Likewise, the last observations of the episodes that ended in this step; other rows are old.
        reward: float64 [N].
        ends: bool [3, N], terminated, truncated, success.
        levels: int64 [N], the level seeds of the episodes that now run.

    Raises:
        UserError: There is no GPU, or these grids are not of that kind.
    """

    def __init__(self, simulator: GridSimulator, split: str = "train", seeds: Sequence[int] = (0,)) -> None:
        spec, count = simulator.level_spec, simulator.num_envs
        if type(simulator) is not GridSimulator or "map" not in simulator.arrays():
            raise UserError(f"{spec.name} has no kernels for a GPU.", "play the maps of a grid task there")
        check_gpu()
        to_gpu = cuda.to_device
        rules = rules_of(spec)
        rules = rules._replace(rewards=to_gpu(rules.rewards))
        pool = Pool(spec.pool.first, to_gpu(spec.pool.cells), to_gpu(spec.pool.pose))
        grids, cells = to_gpu(np.zeros(count, GRID)), to_gpu(np.zeros((count, spec.width, spec.height), np.uint16))
        blank = np.zeros((count, spec.width, spec.height, 4), np.uint8)
        self.maps, self.final, self.reward = to_gpu(blank), to_gpu(blank), to_gpu(np.zeros(count))
        self.ends, self.levels = to_gpu(np.zeros((3, count), np.bool_)), to_gpu(np.zeros(count, np.int64))
        following = to_gpu(np.arange(count)), self.levels, to_gpu(np.zeros(count, np.int64)), to_gpu(np.array(seeds))
        self._state = rules, pool, grids, cells, self.maps, *following, *simulator.bounds(split)
        self._launch = blocks_and_threads(count)
        _reset[self._launch](*self._state)

    def step(self, actions: Any, stream: Any = 0) -> None:
        """Step all grids, without waiting; int64 actions [N] in [0, 7), on the GPU as Numba's array or torch's."""
        _step[*self._launch, stream](*self._state, actions, self.reward, self.ends, self.final)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Everything that the future depends on, in main memory."""
        return {name: array.copy_to_host().view(np.uint8) for name, array in self._changing().items()}

    def set_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `get_state` gave."""
        for name, array in self._changing().items():
            array.copy_to_device(state[name].view(array.dtype))

    def _changing(self) -> dict[str, Any]:
        _, _, grids, cells, maps, _, levels, episode, *_ = self._state
        return {"grids": grids, "cells": cells, "maps": maps, "levels": levels, "episode": episode}
