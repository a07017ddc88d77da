"""What can be chosen in a scene, when a choice is over, and what the expert chooses: functions of the facts alone."""

from collections.abc import Iterator

from envs.gridworld.scenes import Facts, Schema

MOVABLE = ("key", "ball", "box")
USABLE = ("door", "box")
ENTERED = ("goal",)  # going to these is going into them, so it is not over in front of them


class Choices:
    """Legality, done-conditions and the expert's choice over a schema's options.

    The options are, in this order: `explore`, one `goto:<thing>` per thing of the schema, `pickup`, `drop`, `toggle`;
    so a thing's number, its index plus one, is also the option that goes to it.

    Known limit of the expert of stock levels: it moves a blocker to the nearest harmless place, and the facts do not
    say which of several things of a kind is the blocker. So a level in which many of them must be moved can keep it
    busy for ever.

    Args:
        schema: The things that scenes speak of. A door is `closed door` (opens by itself) or `locked door` where levels
            have both, else `door`, which is locked if there are keys.
        target: The thing to go to or to pick up; empty where opening the locked door is all. None in the seven tasks,
            where that is all too, and a key is worth taking whatever is in the way.
    """

    def __init__(self, schema: Schema, target: str | None = None) -> None:
        self.schema = schema
        count = len(schema.things)
        self.ids = ("explore", *(f"goto:{name}" for name in schema.things), "pickup", "drop", "toggle")
        self.pickup, self.drop, self.toggle = count + 1, count + 2, count + 3
        self._target = schema.things.index(target) + 1 if target else 0
        self._hasty = target is None
        self._keys, doors = self._goto("key"), self._goto("door")
        freely = "closed door" if self._keys else "door"
        self._doors = [n for n in doors if schema.things[n - 1] == freely]
        self._locks = [n for n in doors if n not in self._doors]
        self._boxes = [n for n in self._goto("box") if n != self._target]
        self._blockers = [*self._goto("ball"), *self._boxes, *self._keys]
        if self._target in self._blockers:
            self._blockers.remove(self._target)

    def legal(self, facts: Facts) -> tuple[int, ...]:
        """Options that may be chosen, ascending. Where nothing can be done it is `explore`, which then waits."""
        front = self._kind(facts.front)
        options = [0] if facts.frontier else []
        options += [t + 1 for t, status in enumerate(facts.status) if status == 1 and not self._arrived(t, facts)]
        if not facts.held and front in MOVABLE:
            options.append(self.pickup)
        if facts.held and facts.place:
            options.append(self.drop)
        if front in USABLE and facts.front != self._target:  # a box is destroyed when it is opened
            options.append(self.toggle)
        return tuple(options) or (0,)

    def done(self, facts: Facts) -> tuple[int, ...]:
        """Options that would be over here: achieved, or no longer possible (the target is lost, nothing to explore)."""
        options = [0] if any(facts.status) or not facts.frontier else []
        options += [t + 1 for t, status in enumerate(facts.status) if status != 1 or self._arrived(t, facts)]
        if facts.held:
            options.append(self.pickup)
        if not facts.held or not facts.place:
            options.append(self.drop)
        if self._kind(facts.front) not in USABLE:
            options.append(self.toggle)
        return tuple(options)

    def achieved(self, facts: Facts) -> tuple[int, ...]:
        """Options that led to such facts if they could be chosen before: one stands before what one went to, or has
        gone into it, so that it is seen no more; one holds something, or no longer does."""
        entered = [t for t, kind in enumerate(self.schema.kinds) if kind in ENTERED and facts.status[t] != 1]
        options = [t + 1 for t in range(len(self.schema.kinds)) if t in entered or self._arrived(t, facts)]
        return (*options, self.pickup if facts.held else self.drop)

    def expert(self, facts: Facts) -> int:
        """The expert's choice: always legal, and from the facts alone."""
        legal = self.legal(facts)
        return next((option for option in self._wishes(facts) if option in legal), legal[0])

    def _wishes(self, facts: Facts) -> Iterator[int]:
        """The expert's wishes, best first: the target if it can be had, else what brings it nearer."""
        if self._target and facts.status[self._target - 1] == 1:
            yield from self._win(facts)
        if not facts.held:
            yield from self._empty_handed(facts)
        elif facts.held in self._keys and self._fits(facts.held, facts):  # as far as is known
            yield from self._use(self._locks, facts)
            yield from self._look_further(facts)
            yield from self._use(self._boxes, facts)
            yield self.drop  # to clear the way
        else:
            yield from self._be_rid(facts)

    def _win(self, facts: Facts) -> Iterator[int]:
        if self._kind(self._target) in MOVABLE:
            if facts.held:
                yield self.drop
            elif facts.front == self._target:
                yield self.pickup
        yield self._target

    def _empty_handed(self, facts: Facts) -> Iterator[int]:
        """The right key while it helps, else a box that may hide it, else look round, else clear the way."""
        known = [facts.status[n - 1] for n in self._locks]
        blocked = 2 in known or (self._target and facts.status[self._target - 1] == 2)
        if self._hasty or 1 in known or not blocked:
            yield from self._take(self._fitting(facts), facts)
        if self._keys:
            yield from self._use(self._boxes, facts)
        yield from self._look_further(facts)
        if self._hasty:
            yield self.pickup
        for blocker in self._blockers:
            yield from self._take([blocker], facts)
        yield from self._use(self._locks, facts)

    def _be_rid(self, facts: Facts) -> Iterator[int]:
        """A key of the wrong colour is kept until the right one is known, all else put down at once."""
        known = any(facts.status[n - 1] == 1 for n in self._keys if self._fits(n, facts))
        if known or facts.held not in self._keys:
            yield self.drop
        yield from self._look_further(facts)
        yield self.drop

    def _look_further(self, facts: Facts) -> Iterator[int]:
        """Open the door in front, explore, then go and open another door."""
        if facts.front in self._doors:
            yield self.toggle
        yield 0
        yield from self._doors

    def _take(self, numbers: list[int], facts: Facts) -> Iterator[int]:
        if facts.front in numbers:
            yield self.pickup
        yield from numbers

    def _use(self, numbers: list[int], facts: Facts) -> Iterator[int]:
        if facts.front in numbers:
            yield self.toggle
        yield from numbers

    def _fitting(self, facts: Facts) -> list[int]:
        """The keys that open the door, once that is known."""
        sure = not self.schema.colours or facts.door_colour > 0
        return [n for n in self._keys if sure and self._fits(n, facts)]

    def _fits(self, key: int, facts: Facts) -> bool:
        """Whether a key may open the door, as far as its colour is known."""
        return facts.door_colour in (0, self.schema.thing_colours[key - 1] + 1)

    def _arrived(self, t: int, facts: Facts) -> bool:
        return facts.front == t + 1 and self.schema.kinds[t] not in ENTERED

    def _goto(self, kind: str) -> list[int]:
        return [t + 1 for t, other in enumerate(self.schema.kinds) if other == kind]

    def _kind(self, number: int) -> str:
        return self.schema.kinds[number - 1] if number else "nothing"
