"""N Rescue Worlds: the rules of an episode, without autoreset.

The batched and the single environment are both thin shells around `Worlds`, so that a rule exists once.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from envs.gridworld.levels import combine, mix
from envs.rescue.specs import NUM_ACTIONS, RescueSpec

FOUND, STEP, DANGER = 1000.0, -1.0, -100.0  # rewards


class Worlds:
    """N worlds; the caller says when an episode begins. The rules are those of HALO's Rescue World.

    One target is *due* at a time, and reaching another one changes nothing. Reaching the one that is due gives 1000 and
    makes the next one due; entering danger gives -100, unless the target that is due lies there; all else gives -1.
    At the edge an agent is pushed back into its cell, which counts as entering it; into an obstacle it does not go.
    Once all targets are found nothing changes any more, and rewards are zero.

    Attributes:
        spec: The map.
        level_seed: int64 [N], the level that each world plays. It determines start and order.
        cell: int64 [N], where each agent is.
        left: bool [N, n], targets still to be found.
        order: int64 [N, n], the targets as they are due.
        age: int64 [N], steps since each episode began.

    Args:
        spec: The map.
        num_worlds: N.
    """

    def __init__(self, spec: RescueSpec, num_worlds: int) -> None:
        targets = len(spec.targets)
        self.spec = spec
        self.level_seed = np.full(num_worlds, -1, dtype=np.int64)
        self.cell = np.zeros(num_worlds, dtype=np.int64)
        self.left = np.zeros((num_worlds, targets), dtype=np.bool_)
        self.order = np.zeros((num_worlds, targets), dtype=np.int64)
        self.age = np.zeros(num_worlds, dtype=np.int64)
        x, y = np.divmod(np.arange(spec.num_cells), spec.size)
        one_hot = np.eye(spec.size, dtype=np.float32)
        self._places = np.concatenate([one_hot[x], one_hot[y]], axis=1)  # [C, 2 * size]

    def begin(self, worlds: NDArray[np.int64], level_seeds: NDArray[np.int64]) -> None:
        """Start an episode in each of `worlds` [M]: its start, and at random its order, as the level seed [M] says."""
        spec, targets = self.spec, len(self.spec.targets)
        bits = _random_bits(level_seeds, 1 + targets)
        self.level_seed[worlds], self.age[worlds], self.left[worlds] = level_seeds, 0, True
        self.cell[worlds] = spec.starts[bits[:, 0] % np.uint64(len(spec.starts))]
        # The ranks of independent numbers are a permutation, and every one as likely as another.
        self.order[worlds] = bits[:, 1:].argsort(axis=1) if spec.random_order else np.arange(targets)

    @property
    def due(self) -> NDArray[np.int64]:
        """The target that is due [N], the true option; -1 where all are found. No student and no annotator sees it."""
        found = (~self.left).sum(axis=1)
        following = np.minimum(found, self.left.shape[1] - 1)
        return np.where(self.left.any(axis=1), self.order[np.arange(len(found)), following], -1)

    def step(self, actions: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Act [N] in every world.

        Returns:
            reward: float64 [N].
            terminated: bool [N], whether all targets are found.
            truncated: bool [N], whether the horizon is reached without that.

        Raises:
            ValueError: An action does not exist.
        """
        spec = self.spec
        actions = np.asarray(actions)
        exists = np.issubdtype(actions.dtype, np.integer) and ((actions >= 0) & (actions < NUM_ACTIONS)).all()
        if actions.shape != self.cell.shape or not exists:
            raise ValueError(f"actions must be {len(self.cell)} integers in [0, {NUM_ACTIONS})")
        due, over = self.due, self.left.sum(axis=1) == 0
        blocked = spec.is_obstacle[spec.aimed[self.cell, actions]]
        self.cell = np.where(over, self.cell, spec.reached[self.cell, actions])
        found = ~over & (self.cell == spec.target_cells[due])
        hurt = ~blocked & spec.is_danger[self.cell]
        reward = np.select([over, found, hurt], [0.0, FOUND, DANGER], STEP)
        self.left[found, due[found]] = False
        self.age += ~over
        terminated = self.left.sum(axis=1) == 0
        return reward, terminated, ~terminated & (self.age >= spec.horizon)

    def observe(self) -> NDArray[np.float32]:
        """What tasks show of the state, float32 [N, 2 * size + n]; see `RescueTask`."""
        return np.concatenate([self._places[self.cell], self.left], axis=1, dtype=np.float32)

    def full_state(self) -> NDArray[np.int64]:
        """HALO's unfiltered observation [N, 3n + 3]: agent's and targets' (x, y), which are left, which is due."""
        agent = np.stack(np.divmod(self.cell, self.spec.size), axis=1)
        targets = np.tile(np.array(self.spec.targets).reshape(-1), (len(agent), 1))
        return np.concatenate([agent, targets, self.left, self.due[:, None]], axis=1, dtype=np.int64)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything that the future depends on, by name; the state's own arrays."""
        return {name: getattr(self, name) for name in ("level_seed", "cell", "left", "order", "age")}


@njit(cache=True)
def _random_bits(level_seeds, count):  # type: ignore[no-untyped-def]  # compiled: uint64 [M, count] of int64 [M]
    bits = np.empty((len(level_seeds), count), np.uint64)
    for i in range(len(level_seeds)):
        for j in range(count):
            bits[i, j] = mix(combine(level_seeds[i], j))
    return bits
