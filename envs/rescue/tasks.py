"""Rescue World as teachers, controllers and hierarchies see it: scenes, options, and what the expert does.

Scenes are a *place*, which is one of the nine regions of the grid or a target that the agent stands on, and the targets
that are left: (9 + n) * 2**n of them, whichever target is due.
"""

import numpy as np
from numpy.typing import NDArray

from envs.rescue.expert import Ways
from envs.rescue.simulator import RescueSimulator
from envs.rescue.specs import NUM_ACTIONS, SPECS, RescueSpec
from envs.task import GoalSpace, Option, OptionSpace, TableTask

Obs = NDArray[np.floating]

_ROWS, _COLUMNS = ("south", "", "north"), ("west", "", "east")
REGIONS = tuple("-".join(filter(None, (row, column))) or "middle" for row in _ROWS for column in _COLUMNS)


class RescueTask(TableTask):
    """A Rescue World; see `envs.task.Task` for the methods. What is its own:

    An observation is float32 [2 * size + n], all zeros and ones: the agent's x and its y one-hot, then for each target
    whether it is still to be found. Which target is *due* is not in it, since that is what an annotator is asked; the
    environments tell it in `info["option"]`. Where the targets are is the same in every episode, and so is not in it.

    `halo_view` are the positions that HALO's filtered observation keeps: the agent's cell alone, so that no policy can
    tell where to go without knowing the option. What it leaves out is `hidden_from_low_level`.

    In random order *no scene tells which target is due*, so the expert is no truth there but a way to search: it goes
    to the nearest target that is left, by the mean way from the region, and from a target that turns out not to be due
    to the next one left, in turn.

    Args:
        spec: The map and the order of the targets.
    """

    goal_space = GoalSpace(("x", "y"), (1.0, 1.0))
    num_actions = NUM_ACTIONS

    def __init__(self, spec: RescueSpec) -> None:
        targets, width = len(spec.targets), 2 * spec.size + len(spec.targets)
        self.name, self.spec, self._ways = spec.name, spec, Ways(spec)
        far = 4 * spec.size  # steps: the longest way around obstacles, and as much again for detours
        self.options = OptionSpace([Option(f"goto:{c}", f"go to the {c} target", far) for c in spec.colours])
        self.observation_shape = (width,)
        self.halo_view = tuple(range(2 * spec.size))
        self.hidden_from_low_level = tuple(range(2 * spec.size, width))
        self.num_cells = spec.num_cells
        self.places = (*REGIONS, *spec.colours)
        self._region_of = _regions(spec)  # [C]
        self._place_of = self._region_of.copy()
        self._place_of[spec.target_cells] = len(REGIONS) + np.arange(targets)
        self._bits = 1 << np.arange(targets)
        self.goal = "Find all targets." if spec.random_order else "Find all targets in their order."
        self.rules = self._put_rules()
        codes = np.arange(len(self.places) << targets)
        self.legal_of = (codes[:, None] & self._bits) > 0  # the targets that are left
        states = list(zip((codes >> targets).tolist(), [np.flatnonzero(row) for row in self.legal_of], strict=True))
        self.legal_of[~self.legal_of.any(axis=1), 0] = True  # something has to be
        distance = self._distances()
        self.expert_of = np.array([self._choose(place, left, distance) for place, left in states])
        self._consistent = np.flatnonzero([not self._contradicts(place, left) for place, left in states])

    def simulator(self, num_envs: int, render_mode: str | None = None) -> RescueSimulator:
        """The rules of N environments."""
        return RescueSimulator(self.spec, num_envs)

    def cells(self, obs: Obs) -> NDArray[np.int64]:
        """The cell [N] that each agent is in, as a number x * size + y: the state of a tabular policy."""
        size = self.spec.size
        return obs[:, :size].argmax(axis=1) * size + obs[:, size : 2 * size].argmax(axis=1)

    def left(self, obs: Obs) -> NDArray[np.bool_]:
        """Which targets are still to be found [N, n]."""
        return obs[:, 2 * self.spec.size :] > 0.5

    def fact_codes(self, obs: Obs) -> NDArray[np.int64]:
        """One integer per observation [N]; equal integers mean equal facts."""
        return (self._place_of[self.cells(obs)] << len(self._bits)) + self.left(obs) @ self._bits

    def option_done(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each option [N] is over: its target is found, or the agent stands on it and it was not due."""
        found = ~self.left(obs)[np.arange(len(obs)), option]
        return found | (self.cells(obs) == self.spec.target_cells[option])

    def option_achieved(self, before: Obs, after: Obs, option: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the step between two observations found the target of each option [N]."""
        rows = np.arange(len(after))
        return self.left(before)[rows, option] & ~self.left(after)[rows, option]

    def ground(self, obs: Obs, option: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Cell (x, y) [N, 2] of each option's target; scale one cell [N, 2]."""
        mean = np.array(self.spec.targets, dtype=np.float32)[option]
        return mean, np.ones_like(mean)

    def skill(self, obs: Obs, option: NDArray[np.int64]) -> NDArray[np.int64]:
        """Primitive action [N] on a cheapest way to each option's target, always the same one of several."""
        return self._ways.actions(self.cells(obs), np.asarray(option))

    def expert_actions(
        self, obs: Obs, target: NDArray[np.int64], rng: np.random.Generator, epsilon: float = 0.0
    ) -> NDArray[np.int64]:
        """Primitive action [N] of the expert of demonstrations towards the targets [N] that are due.

        It takes a random one of the cheapest ways, and with probability `epsilon` a uniformly random action instead.
        """
        return self._ways.actions(self.cells(obs), np.asarray(target), rng, epsilon)

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

    def _whereabouts(self, targets: NDArray[np.int64]) -> str:
        colours, regions = self.spec.colours, self._region_of[self.spec.target_cells]
        named = [f"the {colours[i]} target in the {REGIONS[regions[i]]}" for i in targets]
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
            f"You walk on a grid of {spec.size} by {spec.size} cells and know all of it. "
            f"There are {self._whereabouts(np.arange(len(spec.targets)))}.{danger}{obstacles} "
            "Only one target is due at a time; reaching it finds it, and going to another one does nothing. "
            f"{order}"
        )

    def _distances(self) -> NDArray[np.float64]:
        """Mean cost [places, n] of the way from a place to each target; infinite from a place that is all obstacles."""
        distance = np.full((len(self.places), len(self.options)), np.inf)
        for place in range(len(self.places)):
            cells = (self._place_of == place) & ~self.spec.is_obstacle
            if cells.any():
                distance[place] = self._ways.cost[:, cells].mean(axis=1)
        return distance

    def _contradicts(self, place: int, left: NDArray[np.int64]) -> bool:
        """Whether the agent stands on a target that is left although it must have been due."""
        known = left[:1] if not self.spec.random_order or left.size == 1 else left[:0]
        return place - len(REGIONS) in known

    def _choose(self, place: int, left: NDArray[np.int64], distance: NDArray[np.float64]) -> int:
        """The expert's option in a place with targets left."""
        if not left.size:
            return 0
        if not self.spec.random_order:
            return int(left[0])
        here = place - len(REGIONS)  # the target that the agent stands on, negative for none
        if here in left:  # it was not due: try the next one, so that every one has its turn
            following = left[left > here]
            return int(following[0] if following.size else left[0])
        return int(left[distance[place, left].argmin()])


def make_task(name: str) -> RescueTask:
    """The task of a map by its exact name."""
    return RescueTask(SPECS[name])


def _regions(spec: RescueSpec) -> NDArray[np.int64]:
    """Index of the region that each cell [C] lies in: thirds of both sides, the middle ones the wider."""
    third = spec.size // 3
    x, y = np.divmod(np.arange(spec.num_cells), spec.size)
    column, row = (np.digitize(along, [third, spec.size - third]) for along in (x, y))
    return len(_COLUMNS) * row + column
