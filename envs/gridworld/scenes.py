"""From fogged maps to scenes: a finite schema of facts, one integer per combination, and English for each.

A `Schema` names the things of a task. `codes` turns N observations into N integers in one compiled pass; everything
that depends on the facts alone (text, legality, the expert's choice) is computed once per distinct integer.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.gridworld import planning

COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
STATUSES = ("unknown", "reachable", "blocked")
_OBJECTS = {
    "door": planning.DOOR,
    "closed door": planning.CLOSED_DOOR,
    "locked door": planning.LOCKED_DOOR,
    "key": planning.KEY,
    "ball": planning.BALL,
    "box": planning.BOX,
    "goal": planning.GOAL,
}


@dataclass(frozen=True)
class Facts:
    """What one scene says; `Schema` knows what the positions mean.

    Attributes:
        status: Per thing 0 unknown, 1 reachable, 2 known but blocked.
        door_colour: Colour index of the shut door plus one; 0 if none is known or colours do not matter.
        held: Index of the thing held plus one; 0 for nothing.
        front: Index of the thing in front plus one; 0 for nothing that matters.
        frontier: Something unexplored can be reached.
        place: What is held can be put down somewhere; true with empty hands.
        lava: Lava has been seen, in tasks that mention it.
    """

    status: tuple[int, ...]
    door_colour: int = 0
    held: int = 0
    front: int = 0
    frontier: bool = True
    place: bool = True
    lava: bool = False


class Schema:
    """The things a task's scenes speak of, and the bijection facts <-> code <-> strings <-> text.

    Args:
        things: Names such as `key`, `door`, `red key`, `locked door`; the last word is the kind, a first word restricts
            the colour, or a door's state.
        colours: Whether the colour of the door matters.
        lava: Whether lava is mentioned.
        view_size: Width of the agent's view in cells.
        cramped: Things may be put down beside doors where there is no better place.
    """

    def __init__(
        self,
        things: tuple[str, ...],
        *,
        colours: bool = False,
        lava: bool = False,
        view_size: int = 3,
        cramped: bool = False,
    ) -> None:
        self.things = things
        self.colours = colours
        self.lava = lava
        self.view_size = view_size
        self.cramped = cramped
        self.kinds = tuple(name.split()[-1] for name in things)
        plain = [_OBJECTS.get(name, _OBJECTS[kind]) for name, kind in zip(things, self.kinds, strict=True)]
        self.objects = np.array(plain, dtype=np.int64)
        first = [name.split()[0] for name in things]
        self.thing_colours = np.array([COLOURS.index(w) if w in COLOURS else -1 for w in first], dtype=np.int64)
        count = len(things)
        self.radices = np.array([3] * count + [7 if colours else 1, count + 1, count + 1, 2, 2, 2 if lava else 1])
        self._weights = np.append(np.cumprod(self.radices[:0:-1])[::-1], 1) * (self.radices > 1)
        self.size = int(np.prod(self.radices))  # number of codes, most of which cannot occur

    def codes(self, obs: NDArray[np.uint8], *, lava_is_floor: bool = False) -> NDArray[np.int64]:
        """One integer per observation [N, W, H, 4]; equal integers mean equal facts."""
        fields = np.empty((len(obs), len(self.radices)), np.int64)
        rules = self.view_size, lava_is_floor, self.cramped
        planning.read_facts(planning.for_kernels(obs), self.objects, self.thing_colours, *rules, fields)
        return fields @ self._weights  # a mixed-radix number, in which fields that the task does not mention count 0

    def decode(self, code: int) -> Facts:
        """The facts behind a code."""
        fields = map(int, np.unravel_index(code, self.radices))
        *status, door_colour, held, front, frontier, place, lava = fields
        return Facts(tuple(status), door_colour, held, front, bool(frontier), bool(place), bool(lava))

    def to_strings(self, facts: Facts) -> tuple[str, ...]:
        """`name=value` strings in a fixed order."""
        strings = [f"{name}={STATUSES[status]}" for name, status in zip(self.things, facts.status, strict=True)]
        if self.colours:
            strings.append(f"door colour={COLOURS[facts.door_colour - 1] if facts.door_colour else 'unknown'}")
        strings += [f"held={self.name(facts.held)}", f"front={self.name(facts.front)}"]
        strings += [f"frontier={'yes' if facts.frontier else 'no'}", f"place={'yes' if facts.place else 'no'}"]
        if self.lava:
            strings.append(f"lava={'seen' if facts.lava else 'unseen'}")
        return tuple(strings)

    def from_strings(self, strings: tuple[str, ...]) -> Facts:
        """Inverse of `to_strings`. Raises `ValueError` or `KeyError` for strings of another schema."""
        value = dict(string.split("=", 1) for string in strings)
        colour = value.get("door colour", "unknown")
        return Facts(
            status=tuple(STATUSES.index(value[name]) for name in self.things),
            door_colour=0 if colour == "unknown" else COLOURS.index(colour) + 1,
            held=self._number(value["held"]),
            front=self._number(value["front"]),
            frontier=value["frontier"] == "yes",
            place=value["place"] == "yes",
            lava=value.get("lava") == "seen",
        )

    def name(self, number: int) -> str:
        """Name of a thing by its index plus one; `nothing` for 0."""
        return self.things[number - 1] if number else "nothing"

    def _number(self, name: str) -> int:
        return 0 if name == "nothing" else self.things.index(name) + 1

    def to_text(self, facts: Facts) -> str:
        """English for the facts, a function of them alone; different facts have different texts."""
        sentences = self._sights(facts)
        sentences.append(f"You hold {'the ' if facts.held else ''}{self.name(facts.held)}.")
        if not facts.place:
            sentences.append("There is nowhere to put it down.")
        front = self.name(facts.front)
        sentences.append(f"{f'The {front}' if facts.front else 'Nothing useful'} is right in front of you.")
        sentences.append("Parts of the room are unexplored." if facts.frontier else "There is nothing left to explore.")
        if self.lava:
            sentences.append("There is lava in the room." if facts.lava else "No lava has been seen.")
        return " ".join(sentences)

    def _sights(self, facts: Facts) -> list[str]:
        """A sentence per thing known, and one per kind of which none is known."""
        # The door's colour comes first, and after its noun: each key that follows can be compared with it at once.
        sentences = [f"The door is {COLOURS[facts.door_colour - 1]}."] if facts.door_colour else []
        for t, (name, kind, status) in enumerate(zip(self.things, self.kinds, facts.status, strict=True)):
            if status:
                sentences.append(f"The {name} {_CAN_BE[status]}.")
            elif t == self.kinds.index(kind) and not self._any_of(kind, facts):
                sentences.append(f"No {kind} has been seen.")
        return sentences

    def _any_of(self, kind: str, facts: Facts) -> bool:
        """Whether a thing of the kind is on the map or in the hands."""
        known = any(s for s, other in zip(facts.status, self.kinds, strict=True) if other == kind)
        return known or bool(facts.held and self.kinds[facts.held - 1] == kind)

    def sample(self, rng: np.random.Generator) -> Facts:
        """Random facts that are consistent with each other, not distributed as in play."""
        count = len(self.things)
        movable = [t for t, kind in enumerate(self.kinds) if kind not in ("door", "goal")]
        status = [int(rng.choice(3, p=(0.35, 0.5, 0.15))) for _ in range(count)]
        coloured_keys = [t for t in movable if self.thing_colours[t] >= 0]
        shown = set(rng.choice(coloured_keys, size=rng.integers(0, 3), replace=False)) if coloured_keys else set()
        for t in coloured_keys:
            status[t] = int(rng.choice((1, 1, 1, 2))) if t in shown else 0
        held = int(rng.choice(movable)) + 1 if movable and rng.random() < 0.45 else 0
        if held:
            status[held - 1] = 0
        reachable = [t for t in range(count) if status[t] == 1]
        front = int(rng.choice(reachable)) + 1 if reachable and rng.random() < 0.5 else 0
        door_known = any(
            s
            for s, kind, name in zip(status, self.kinds, self.things, strict=True)
            if kind == "door" and name != "closed door"
        )
        return Facts(
            status=tuple(status),
            door_colour=self._sample_door_colour(rng, status, held) if self.colours and door_known else 0,
            held=held,
            front=front,
            frontier=bool(rng.random() < 0.7),
            lava=bool(self.lava and rng.random() < 0.5),
            place=not held or bool(rng.random() < 0.95),
        )

    def _sample_door_colour(self, rng: np.random.Generator, status: list[int], held: int) -> int:
        """The colour of a key that is known or held four times in five, else any."""
        keys = [t for t in range(len(status)) if self.thing_colours[t] >= 0 and (status[t] or held == t + 1)]
        if keys and rng.random() < 0.8:
            return int(self.thing_colours[rng.choice(keys)]) + 1
        return int(rng.integers(1, len(COLOURS) + 1))


_CAN_BE = ("", "can be reached", "has been seen but the way to it is blocked")
