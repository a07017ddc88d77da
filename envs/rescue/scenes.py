"""Rescue World in words: where the agent is, which targets are left, which options there are, what the expert chooses.

Everything that depends on (place of the agent, targets left) alone is a table, worked out once for a map; an
observation is reduced to one integer, the row of these tables.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from envs.rescue.expert import ways
from envs.rescue.specs import RescueSpec
from envs.task import Option, OptionSpace, Scene

_ROWS, _COLUMNS = ("south", "", "north"), ("west", "", "east")
REGIONS = tuple("-".join(filter(None, (row, column))) or "middle" for row in _ROWS for column in _COLUMNS)
_RULES = (
    "You walk on a grid of {size} by {size} cells and know all of it. {where}{danger}{obstacles} "
    "Only one target is due at a time; reaching it finds it, and going to another one does nothing. {order}"
)


class Scenes:
    """The scenes of one map as tables.

    A *place* is one of the nine regions of the grid, or a target that the agent stands on. Scenes are a place and the
    targets that are left, so there are (9 + n) * 2**n of them, whichever target is due.

    Attributes:
        options: `goto:COLOUR` for each target, K = n.
        places: Names of places: the regions, then the targets' colours.
        rules: The map and the rules, for a language model.
        legal: bool [codes, K]: targets that are left; the first option where none is, since something has to be.
        expert: int64 [codes], the expert's option: see `RescueTask.script`.
        consistent: Codes in which the agent does not stand on a target that must be due, yet is left.

    Args:
        spec: The map.
    """

    def __init__(self, spec: RescueSpec) -> None:
        self.spec = spec
        far = 4 * spec.size  # steps: the longest way around obstacles, and as much again for detours
        self.options = OptionSpace([Option(f"goto:{c}", f"go to the {c} target", far) for c in spec.colours])
        self.places = (*REGIONS, *spec.colours)
        self._region_of_target = _regions(spec)[spec.target_cells]
        self.rules = self._put_rules()
        self._place_of = _regions(spec)  # [C]
        self._place_of[spec.target_cells] = len(REGIONS) + np.arange(len(spec.targets))
        self._bits = 1 << np.arange(len(spec.targets))
        self.size = len(self.places) << len(spec.targets)
        self.legal = self.decode(np.arange(self.size))[1]
        self.legal[~self.legal.any(axis=1), 0] = True
        distance = self._distances()
        self.expert = np.array([self._choose(code, distance) for code in range(self.size)])
        self.consistent = np.flatnonzero([not self._contradicts(code) for code in range(self.size)])
        self._scenes: dict[int, Scene] = {}

    def codes(self, cell: NDArray[np.int64], left: NDArray[np.bool_]) -> NDArray[np.int64]:
        """One integer per state [N], of cells [N] and targets left [N, n]."""
        return (self._place_of[cell] << len(self._bits)) + left @ self._bits

    def decode(self, codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Indices of places [N] and the targets left [N, n] of codes [N]."""
        return codes >> len(self._bits), (codes[:, None] & self._bits) > 0

    def scene(self, code: int) -> Scene:
        """The scene of a code; the same object each time."""
        if code not in self._scenes:
            places, every = self.decode(np.array([code]))
            place, left = self.places[places[0]], every[0]
            remaining = [self.spec.colours[i] for i in np.flatnonzero(left)]
            facts = (f"agent={place}", f"left={','.join(remaining) or 'nothing'}")
            where = f"in the {place}" if place in REGIONS else f"at the {place} target"
            still = [f"the {self._whereabouts(i)}" for i in np.flatnonzero(left)]
            text = f"You are {where}. " + (f"Still to find: {_listed(still)}." if still else "All targets are found.")
            legal = tuple(np.flatnonzero(self.legal[code]).tolist())
            self._scenes[code] = Scene(self.spec.name, facts, text, legal)
        return self._scenes[code]

    def code_of(self, scene: Scene) -> int:
        """The code of a scene of this map, from its facts."""
        said = dict(fact.split("=", 1) for fact in scene.facts)
        remaining = said["left"].split(",")
        left = np.array([colour in remaining for colour in self.spec.colours])
        return (self.places.index(said["agent"]) << len(self._bits)) + int(left @ self._bits)

    def _whereabouts(self, target: int) -> str:
        return f"{self.spec.colours[target]} target in the {REGIONS[self._region_of_target[target]]}"

    def _put_rules(self) -> str:
        spec = self.spec
        order = f"They are due in this order: {', '.join(spec.colours)}."
        if spec.random_order:
            order = "Their order is drawn anew for every episode, and nobody tells you."
        return _RULES.format(
            size=spec.size,
            where=f"There are {_listed([f'the {self._whereabouts(i)}' for i in range(len(spec.targets))])}.",
            danger=" Some cells are dangerous, and your steps avoid them where they can." if spec.danger else "",
            obstacles=" Obstacles stand in the way, and your steps lead around them." if spec.obstacles else "",
            order=order,
        )

    def _distances(self) -> NDArray[np.float64]:
        """Mean cost [places, n] of the way from a place to each target; infinite from a place that is all obstacles."""
        cost = ways(self.spec).cost
        distance = np.full((len(self.places), len(self.options)), np.inf)
        for place in range(len(self.places)):
            cells = (self._place_of == place) & ~self.spec.is_obstacle
            if cells.any():
                distance[place] = cost[:, cells].mean(axis=1)
        return distance

    def _contradicts(self, code: int) -> bool:
        """Whether the agent stands on a target that is left although it must have been due."""
        places, every = self.decode(np.array([code]))
        remaining = np.flatnonzero(every[0])
        known = remaining[:1] if not self.spec.random_order or remaining.size == 1 else remaining[:0]
        return int(places[0]) - len(REGIONS) in known

    def _choose(self, code: int, distance: NDArray[np.float64]) -> int:
        """The expert's option in a scene."""
        places, every = self.decode(np.array([code]))
        place, remaining = int(places[0]), np.flatnonzero(every[0])
        if not remaining.size:
            return 0
        if not self.spec.random_order:
            return int(remaining[0])
        here = place - len(REGIONS)  # the target that the agent stands on, negative for none
        if here in remaining:  # it was not due: try the next one, so that every one has its turn
            following = remaining[remaining > here]
            return int(following[0] if following.size else remaining[0])
        return int(remaining[distance[place, remaining].argmin()])


def _regions(spec: RescueSpec) -> NDArray[np.int64]:
    """Index of the region that each cell [C] lies in: thirds of both sides, the middle ones the wider."""
    third = spec.size // 3
    x, y = np.divmod(np.arange(spec.num_cells), spec.size)
    column, row = (np.digitize(along, [third, spec.size - third]) for along in (x, y))
    return len(_COLUMNS) * row + column


def _listed(things: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(things[:-1]), things[-1])))


@cache
def scenes(spec: RescueSpec) -> Scenes:
    """The tables of a map, worked out once."""
    return Scenes(spec)
