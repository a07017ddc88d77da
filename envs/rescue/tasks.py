"""Rescue World as teachers, controllers and hierarchies see it: scenes, options, and what the expert does.

Scenes are a *place*, which is one of the nine regions of the grid or a target that the agent stands on, and the targets
that are left: (9 + n) * 2**n of them, whichever target is due.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from preceptor.envs.rescue.rendering import draw
from preceptor.envs.rescue.simulator import RescueSimulator
from preceptor.envs.rescue.specs import CELLS, COLUMN, NUM_ACTIONS, ROW, SIZE, SPECS, cheapest_ways
from preceptor.envs.task import GoalSpace, Option, OptionSpace, TableTask

Obs = NDArray[np.floating]

_ROWS, _COLUMNS = ("south", "", "north"), ("west", "", "east")
REGIONS = tuple("-".join(filter(None, (row, column))) or "middle" for row in _ROWS for column in _COLUMNS)
_THIRDS = (3, 7)  # where the second and the last third of a side begin, in cells
_REGION_OF = len(_COLUMNS) * np.digitize(ROW, _THIRDS) + np.digitize(COLUMN, _THIRDS)  # [C]


class RescueTask(TableTask):
    """A Rescue World; see `preceptor.envs.task.Task` for the methods. What is its own:

    An observation is float32 [20 + n], all zeros and ones: the agent's x and its y one-hot, then for each target
    whether it is still to be found. Which target is *due* is not in it, since that is what an annotator is asked; the
    environments tell it in `info["option"]`. Where the targets are is the same in every episode, and so is not in it.

    `halo_view` are the positions that HALO's filtered observation keeps: the agent's cell alone, so that no policy can
    tell where to go without knowing the option. What it leaves out is `hidden_from_low_level`.

    In random order *no scene tells which target is due*, so the expert is no truth there but a way to search: it goes
    to the nearest target that is left, by the mean way from the region, and from a target that turns out not to be due
    to the next one left, in turn.

    Args:
        name: Of the map.
    """

    goal_space = GoalSpace(("x", "y"), (1.0, 1.0))
    num_actions, num_cells, halo_view = NUM_ACTIONS, len(CELLS), tuple(range(2 * SIZE))

    def __init__(self, name: str) -> None:
        self.name, self.spec = name, SPECS[name]
        self._targets, width = np.array(self.spec.targets), 2 * SIZE + len(self.spec.targets)
        far = 4 * SIZE  # steps: the longest way around obstacles, and as much again for detours
        self.options = OptionSpace([Option(f"goto:{c}", f"go to the {c} target", far) for c in self.spec.colours])
        self.observation_shape, self.hidden_from_low_level = (width,), tuple(range(2 * SIZE, width))
        self.places = (*REGIONS, *self.spec.colours)
        self._place_of = _REGION_OF.copy()  # [C]
        self._place_of[self._targets] = len(REGIONS) + np.arange(len(self._targets))
        self._bits = 1 << np.arange(len(self._targets))
        self.goal = "Find all targets." if self.spec.random_order else "Find all targets in their order."
        self.rules = self._put_rules()
        cost, self._best = cheapest_ways(self.spec)
        areas = [(self._place_of == place) & ~self.spec.is_obstacle for place in range(len(self.places))]
        self._distance = np.array(
            [cost[:, cells].mean(axis=1) if cells.any() else cost[:, 0] * np.inf for cells in areas]
        )
        codes = np.arange(len(self.places) << len(self._targets))
        self.legal_of = (codes[:, None] & self._bits) > 0  # the targets that are left
        choices = [
            self._choose(code >> len(self._bits), np.flatnonzero(self.legal_of[code])) for code in codes.tolist()
        ]
        self.legal_of[~self.legal_of.any(axis=1), 0] = True  # something has to be
        self.expert_of, contradicts = (np.array(column) for column in zip(*choices, strict=True))
        self._consistent = np.flatnonzero(~contradicts)

    def simulator(self, num_envs: int, render_mode: str | None = None) -> RescueSimulator:
        """The rules of N environments."""
        return RescueSimulator(self.spec, num_envs)

    def picture(self, obs: Obs) -> NDArray[np.uint8]:
        """The map from above, as `RescueSimulator.render` draws it."""
        return draw(self.spec, int(self.cells(obs[None])[0]), self.left(obs[None])[0])

    def cells(self, obs: Obs) -> NDArray[np.int64]:
        """The cell [N] that each agent is in: the state of a tabular policy."""
        return obs[:, :SIZE].argmax(axis=1) * SIZE + obs[:, SIZE : 2 * SIZE].argmax(axis=1)

    def left(self, obs: Obs) -> NDArray[np.bool_]:
        """Which targets are still to be found [N, n]."""
        return obs[:, 2 * SIZE :] > 0.5

    def fact_codes(self, obs: Obs) -> NDArray[np.int64]:
        """One integer per observation [N]; equal integers mean equal facts."""
        return (self._place_of[self.cells(obs)] << len(self._bits)) + self.left(obs) @ self._bits

    def option_done(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each option [N] is over: its target is found, or the agent stands on it and it was not due."""
        found = ~self.left(obs)[np.arange(len(obs)), option]
        return found | (self.cells(obs) == self._targets[option])

    def option_achieved(self, before: Obs, after: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the step between two observations found the target of each option [N]."""
        rows = np.arange(len(after))
        return self.left(before)[rows, option] & ~self.left(after)[rows, option]

    def ground(self, obs: Obs, option: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Cell (x, y) [N, 2] of each option's target; scale one cell [N, 2]."""
        mean = np.stack(np.divmod(self._targets[option], SIZE), axis=1).astype(np.float32)
        return mean, np.ones_like(mean)

    def skill(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.int64]:
        """Primitive action [N] on a cheapest way to each option's target, always the lowest of several."""
        return self._best[np.asarray(option), self.cells(obs)].argmax(axis=1)

    def expert_actions(
        self, obs: Obs, target: NDArray[np.int64], rng: np.random.Generator, epsilon: float = 0.0
    ) -> NDArray[np.int64]:
        """Primitive action [N] of the expert of demonstrations towards the targets [N] that are due.

        It takes a random one of the cheapest ways, and with probability `epsilon` a uniformly random action instead.
        """
        best = self._best[np.asarray(target), self.cells(obs)]
        wanted = (best * (1 - rng.random(best.shape))).argmax(axis=1)  # in (0, 1], so that a mark always counts
        mistaken = rng.random(len(best)) < epsilon
        return np.where(mistaken, rng.integers(NUM_ACTIONS, size=len(best)), wanted)

    def sample_codes(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Codes of any place and any targets left, also out of order; none contradicts itself."""
        return rng.choice(self._consistent, size=count)

    def words(self, code: int) -> tuple[tuple[str, ...], str]:
        """The facts of a code, and the English for them."""
        place, left = self.places[code >> len(self._bits)], np.flatnonzero(code & self._bits)
        remaining = ",".join(self.spec.colours[i] for i in left)
        where = f"in the {place}" if place in REGIONS else f"at the {place} target"
        still = f"Still to find: {self._whereabouts(left)}." if remaining else "All targets are found."
        return (f"agent={place}", f"left={remaining or 'nothing'}"), f"You are {where}. {still}"

    def _whereabouts(self, targets: Iterable[int]) -> str:
        colours, region = self.spec.colours, _REGION_OF[self._targets]
        named = [f"the {colours[i]} target in the {REGIONS[region[i]]}" for i in targets]
        return " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))

    def _put_rules(self) -> str:
        """The map and the rules, for a language model."""
        spec = self.spec
        order = f"They are due in this order: {', '.join(spec.colours)}."
        if spec.random_order:
            order = "Their order is drawn anew for every episode, and nobody tells you."
        danger = " Some cells are dangerous, and your steps avoid them where they can." if spec.danger else ""
        obstacles = " Obstacles stand in the way, and your steps lead around them." if spec.obstacles else ""
        return (
            f"You walk on a grid of {SIZE} by {SIZE} cells and know all of it. "
            f"There are {self._whereabouts(range(len(spec.targets)))}.{danger}{obstacles} "
            "Only one target is due at a time; reaching it finds it, and going to another one does nothing. "
            f"{order}"
        )

    def _choose(self, place: int, left: NDArray[np.int64]) -> tuple[int, bool]:
        """The expert's option in a place with targets left; and whether the agent stands on one that must be due."""
        here = place - len(REGIONS)  # the target that the agent stands on, negative for none
        if not left.size:
            return 0, False
        if not self.spec.random_order:
            return int(left[0]), here == left[0]
        if here in left:  # it was not due: try the next one, so that every one has its turn
            following = left[left > here]
            return int(following[0] if following.size else left[0]), left.size == 1
        return int(left[self._distance[place, left].argmin()]), False
