"""The language of the grid tasks: facts, one integer per combination of them, their strings and their English."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from preceptor.envs.gridworld import planning

COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
STATUSES = ("unknown", "reachable", "blocked")
_CAN_BE = ("", "can be reached", "has been seen but the way to it is blocked")
_OBJECTS = {
    "door": planning.DOOR,
    "closed door": planning.CLOSED_DOOR,
    "locked door": planning.LOCKED_DOOR,
    "key": planning.KEY,
    "ball": planning.BALL,
    "box": planning.BOX,
    "goal": planning.GOAL,
}


class Facts(NamedTuple):
    """What one scene says. A thing's number is its index in the schema plus one.

    Attributes:
        status: Per thing 0 unknown, 1 reachable, 2 known but blocked.
        door_colour: Colour index of the shut door plus one; 0 if none is known or colours do not matter.
        held: Number of the thing held; 0 for nothing.
        front: Number of the thing in front; 0 for nothing that matters.
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

    @property
    def fields(self) -> tuple[int, ...]:
        """All of it as integers, as `planning.read_facts` writes them."""
        return (*self.status, *self[1:])


class Schema:
    """The things a task's scenes speak of, and the bijection facts <-> code <-> strings <-> text.

    Args:
        things: Names such as `key`, `door`, `red key`, `locked door`; the last word is the kind, a first word restricts
            the colour, or a door's state.
        lava: Whether lava is mentioned.

    Attributes:
        kinds: Of the T things.
        colours: Whether the colour of the door matters: where a thing's does.
        objects, thing_colours: int64 [T], what `planning.read_facts` tracks.
        radices: How many values each field of the facts has, of which one is none: 1 for what is not mentioned.
        size: Number of codes, most of which cannot occur.
    """

    def __init__(self, things: tuple[str, ...], lava: bool = False) -> None:
        self.things, self.lava = things, lava
        self.kinds = tuple(name.split()[-1] for name in things)
        objects = [_OBJECTS.get(name, _OBJECTS[kind]) for name, kind in zip(things, self.kinds, strict=True)]
        first = [name.split()[0] for name in things]
        self.objects = np.array(objects, dtype=np.int64)
        self.thing_colours = np.array([COLOURS.index(w) if w in COLOURS else -1 for w in first], dtype=np.int64)
        self.colours = bool((self.thing_colours >= 0).any())
        self._named = ("nothing", *things)  # by number
        self._values: dict[str, tuple[str, ...]] = {
            **dict.fromkeys(things, STATUSES),
            "door colour": ("unknown", *COLOURS) if self.colours else ("unknown",),
            "held": self._named,
            "front": self._named,
            "frontier": ("no", "yes"),
            "place": ("no", "yes"),
            "lava": ("unseen", "seen") if lava else ("unseen",),
        }
        self.radices = tuple(len(values) for values in self._values.values())
        self.size = int(np.prod(self.radices))

    def encode(self, fields: NDArray[np.int64]) -> NDArray[np.int64]:
        """One integer per row of fields [N, T + 6]; equal integers mean equal facts."""
        return np.ravel_multi_index(tuple(fields.T), self.radices, mode="clip")  # what is not mentioned counts 0

    def decode(self, code: int) -> Facts:
        """The facts behind a code."""
        fields = [int(value) for value in np.unravel_index(code, self.radices)]
        return Facts(tuple(fields[:-6]), *fields[-6:])  # type: ignore[arg-type]  # 0 and 1 are as good

    def to_strings(self, facts: Facts) -> tuple[str, ...]:
        """`name=value` strings in a fixed order."""
        known = zip(self._values.items(), facts.fields, strict=True)
        return tuple(f"{name}={values[value]}" for (name, values), value in known if len(values) > 1)

    def from_strings(self, strings: tuple[str, ...]) -> Facts:
        """Inverse of `to_strings`. Raises `ValueError` or `KeyError` for strings of another schema."""
        said = dict(string.split("=", 1) for string in strings)
        fields = [vs.index(said[name]) if len(vs) > 1 else 0 for name, vs in self._values.items()]
        return Facts(tuple(fields[:-6]), *fields[-6:])  # type: ignore[arg-type]

    def to_text(self, facts: Facts) -> str:
        """English for the facts, a function of them alone; different facts have different texts."""
        held, front = self._named[facts.held], self._named[facts.front]
        sentences = self._sights(facts)
        sentences.append(f"You hold {'the ' if facts.held else ''}{held}.")
        if not facts.place:
            sentences.append("There is nowhere to put it down.")
        sentences.append(f"{f'The {front}' if facts.front else 'Nothing useful'} is right in front of you.")
        sentences.append("Parts of the room are unexplored." if facts.frontier else "There is nothing left to explore.")
        if self.lava:
            sentences.append("There is lava in the room." if facts.lava else "No lava has been seen.")
        return " ".join(sentences)

    def _sights(self, facts: Facts) -> list[str]:
        """A sentence per thing known, and one per kind of which none is known."""
        seen = {kind for kind, status in zip(self.kinds, facts.status, strict=True) if status}
        seen |= {self.kinds[facts.held - 1]} if facts.held else set()
        # The door's colour comes first, and after its noun: each key that follows can be compared with it at once.
        sentences = [f"The door is {COLOURS[facts.door_colour - 1]}."] if facts.door_colour else []
        for name, kind, status in zip(self.things, self.kinds, facts.status, strict=True):
            if status:
                sentences.append(f"The {name} {_CAN_BE[status]}.")
            elif kind not in seen:
                sentences.append(f"No {kind} has been seen.")
                seen.add(kind)  # said once
        return sentences

    def sample(self, rng: np.random.Generator) -> Facts:
        """Random facts that are consistent with each other, not distributed as in play."""
        movable = [t for t, kind in enumerate(self.kinds) if kind not in ("door", "goal")]
        status = [int(rng.choice(3, p=(0.35, 0.5, 0.15))) for _ in self.things]
        coloured_keys = [t for t in movable if self.thing_colours[t] >= 0]
        shown = set(rng.choice(coloured_keys, size=rng.integers(0, 3), replace=False)) if coloured_keys else set()
        for t in coloured_keys:
            status[t] = int(rng.choice((1, 1, 1, 2))) if t in shown else 0
        held = int(rng.choice(movable)) + 1 if movable and rng.random() < 0.45 else 0
        if held:
            status[held - 1] = 0
        reachable = [t for t, known in enumerate(status) if known == 1]
        front = int(rng.choice(reachable)) + 1 if reachable and rng.random() < 0.5 else 0
        lockable = {name for name, kind in zip(self.things, self.kinds, strict=True) if kind == "door"} - {
            "closed door"
        }
        door_known = any(known and name in lockable for known, name in zip(status, self.things, strict=True))
        colour = self._sample_door_colour(rng, status, held) if self.colours and door_known else 0
        frontier, lava = bool(rng.random() < 0.7), bool(self.lava and rng.random() < 0.5)
        return Facts(tuple(status), colour, held, front, frontier, not held or bool(rng.random() < 0.95), lava)

    def _sample_door_colour(self, rng: np.random.Generator, status: list[int], held: int) -> int:
        """The colour of a key that is known or held four times in five, else any."""
        keys = [t for t in range(len(status)) if self.thing_colours[t] >= 0 and (status[t] or held == t + 1)]
        if keys and rng.random() < 0.8:
            return int(self.thing_colours[rng.choice(keys)]) + 1
        return int(rng.integers(1, len(COLOURS) + 1))
