"""What can be chosen in a scene, when a choice is over, and what the expert chooses: functions of the facts alone."""

from collections.abc import Iterator

from envs.gridworld.scenes import Facts, Schema

MOVABLE = ("key", "ball", "box")
USABLE = ("door", "box")
ENTERED = ("goal",)  # going to these is going into them, so it is not over in front of them


class Choices:
    """Legality, done-conditions and the expert's choice over a schema's options.

    The options are, in this order: `explore`, one `goto:<thing>` per thing of the schema, `pickup`, `drop`, `toggle`.

    Args:
        schema: The things that scenes speak of.

    Attributes:
        spared: Number of a thing that must not be toggled, 0 for none.
    """

    spared = 0

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        count = len(schema.things)
        self.ids = ("explore", *(f"goto:{name}" for name in schema.things), "pickup", "drop", "toggle")
        self.pickup, self.drop, self.toggle = count + 1, count + 2, count + 3

    def legal(self, facts: Facts) -> tuple[int, ...]:
        """Options that may be chosen, ascending. Where nothing can be done it is `explore`, which then waits."""
        front = self._kind(facts.front)
        goable = [t + 1 for t, status in enumerate(facts.status) if status == 1 and not self._arrived(t, facts)]
        options = [0] if facts.frontier else []
        options += goable
        if not facts.held and front in MOVABLE:
            options.append(self.pickup)
        if facts.held and facts.place:
            options.append(self.drop)
        if front in USABLE and facts.front != self.spared:
            options.append(self.toggle)
        return tuple(options) or (0,)

    def done(self, facts: Facts) -> tuple[int, ...]:
        """Options that would be over here: achieved, or no longer possible (the target is lost, nothing to explore)."""
        front = self._kind(facts.front)
        options = [0] if any(facts.status) or not facts.frontier else []
        options += [t + 1 for t, status in enumerate(facts.status) if status != 1 or self._arrived(t, facts)]
        if facts.held:
            options.append(self.pickup)
        if not facts.held or not facts.place:
            options.append(self.drop)
        if front not in USABLE:
            options.append(self.toggle)
        return tuple(options)

    def achieved(self, facts: Facts) -> tuple[int, ...]:
        """Options that led to such facts if they could be chosen before: one stands before what one went to, or has
        gone into it, so that it is seen no more; one holds something, or no longer does."""
        entered = [t for t, kind in enumerate(self.schema.kinds) if kind in ENTERED and facts.status[t] != 1]
        options = [t + 1 for t in range(len(self.schema.kinds)) if t in entered or self._arrived(t, facts)]
        return (*options, self.pickup if facts.held else self.drop)

    def _arrived(self, t: int, facts: Facts) -> bool:
        return facts.front == t + 1 and self.schema.kinds[t] not in ENTERED

    def expert(self, facts: Facts) -> int:
        """The expert's choice: always legal, and from the facts alone."""
        legal = self.legal(facts)
        return next((option for option in self._wishes(facts) if option in legal), legal[0])

    def _wishes(self, facts: Facts) -> Iterator[int]:
        """The expert's wishes, best first; the first legal one is its choice."""
        if not facts.held:
            yield from self._fetch(facts)
        elif self._kind(facts.held) == "key" and self._fits(facts.held, facts):
            yield from self._bring(facts)
        else:
            yield from self._be_rid(facts)

    def _bring(self, facts: Facts) -> Iterator[int]:
        """With a key that fits as far as is known: unlock the door, look for it, or clear the way to it."""
        if self._kind(facts.front) == "door":
            yield self.toggle
        yield from self._goto("door")
        yield 0
        if self._kind(facts.front) == "box":
            yield self.toggle
        yield from self._goto("box")
        yield self.drop

    def _be_rid(self, facts: Facts) -> Iterator[int]:
        """With something useless in hand: keep it while looking for the right key, drop it once that is known."""
        key_known = any(facts.status[t] == 1 for t in self._keys() if self._fits(t + 1, facts))
        if key_known or self._kind(facts.held) == "box":
            yield self.drop
        yield 0
        yield self.drop

    def _fetch(self, facts: Facts) -> Iterator[int]:
        """With empty hands: the right key, else a box that may hide it, else look round, else clear the way."""
        fitting = [t for t in self._keys() if self._fits(t + 1, facts) and self._sure(facts)]
        if facts.front - 1 in fitting:
            yield self.pickup
        yield from (t + 1 for t in fitting)
        if self._kind(facts.front) == "box":
            yield self.toggle
        yield from self._goto("box")
        yield 0
        yield self.pickup
        yield from (t + 1 for t, kind in enumerate(self.schema.kinds) if kind in MOVABLE)
        yield from self._goto("door")

    def _fits(self, number: int, facts: Facts) -> bool:
        """Whether a key (index plus one) may open the door, as far as its colour is known."""
        return facts.door_colour in (0, self.schema.thing_colours[number - 1] + 1)

    def _sure(self, facts: Facts) -> bool:
        """Whether it is known which key is the right one."""
        return not self.schema.colours or facts.door_colour > 0

    def _keys(self) -> list[int]:
        return [t for t, kind in enumerate(self.schema.kinds) if kind == "key"]

    def _goto(self, kind: str) -> list[int]:
        return [t + 1 for t, other in enumerate(self.schema.kinds) if other == kind]

    def _kind(self, number: int) -> str:
        return self.schema.kinds[number - 1] if number else "nothing"
