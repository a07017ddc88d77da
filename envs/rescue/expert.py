"""The scripted expert of Rescue World: shortest ways around danger, as tables."""

import numpy as np
from numpy.typing import NDArray

from envs.rescue.specs import NUM_ACTIONS, RescueSpec

_DANGER_COST = 100.0  # of entering danger, against 1 elsewhere, as in the reward


class Ways:
    """How far it is to each target, and which actions lead there.

    Attributes:
        cost: float64 [n, C], cost of the cheapest way from each cell to each target; infinite where there is none.
        best: bool [n, C, 4], the actions that begin a cheapest way. At the target itself, and where there is no way,
            no action is better than another, and all are marked.

    Args:
        spec: The map.
    """

    def __init__(self, spec: RescueSpec) -> None:
        self.cost = np.stack([_costs(spec, int(target)) for target in spec.target_cells])
        ahead = np.stack([_through(spec, cost, int(t)) for cost, t in zip(self.cost, spec.target_cells, strict=True)])
        nothing_to_gain = ~np.isfinite(self.cost)
        nothing_to_gain[np.arange(len(self.cost)), spec.target_cells] = True
        self.best = nothing_to_gain[..., None] | (ahead == ahead.min(axis=2, keepdims=True))

    def actions(
        self,
        cell: NDArray[np.int64],
        target: NDArray[np.int64],
        rng: np.random.Generator | None = None,
        epsilon: float = 0.0,
    ) -> NDArray[np.int64]:
        """Actions [N] towards targets [N] from cells [N].

        Args:
            cell: Where the agents are.
            target: Where they want to go.
            rng: Breaks ties at random, and draws mistakes; without it the lowest of the best actions is taken.
            epsilon: Probability of a uniformly random action instead. Needs `rng`.
        """
        best = self.best[target, cell]
        if rng is None:
            return best.argmax(axis=1)
        wanted = (best * (1 - rng.random(best.shape))).argmax(axis=1)  # in (0, 1], so that a mark always counts
        mistaken = rng.random(len(best)) < epsilon
        return np.where(mistaken, rng.integers(NUM_ACTIONS, size=len(best)), wanted)


def _through(spec: RescueSpec, cost: NDArray[np.float64], target: int) -> NDArray[np.float64]:
    """Cost [C, 4] of going to a target by each first action; infinite for one that leads nowhere."""
    entering = np.where(spec.is_danger, _DANGER_COST, 1.0)
    entering[target] = 1.0
    stays = spec.reached == np.arange(spec.num_cells)[:, None]
    return np.where(stays, np.inf, entering[spec.reached] + cost[spec.reached])


def _costs(spec: RescueSpec, target: int) -> NDArray[np.float64]:
    """Cost [C] of the cheapest way to a target: sweeps over all cells until nothing falls any more."""
    cost = np.full(spec.num_cells, np.inf)
    cost[target] = 0.0
    while True:
        better = np.minimum(cost, _through(spec, cost, target).min(axis=1))
        better[spec.is_obstacle] = np.inf
        if (better == cost).all():
            return cost
        cost = better
