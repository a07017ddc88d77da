"""The expert of stock levels: reach the goal or take the target, through whatever doors and blockers are in the way."""

from collections.abc import Iterator

from envs.gridworld.choices import MOVABLE, Choices
from envs.gridworld.scenes import Facts, Schema


class Quest(Choices):
    """`Choices` of tasks that end at a goal, or with a target in hand, instead of at a door.

    Known limit: a blocker is moved to the nearest harmless place, and the facts do not say which of several things of a
    kind is the blocker, so levels in which many of them must be moved can keep this expert busy for ever.

    Args:
        schema: The things that scenes speak of. A door is `closed door` (opens by itself) or `locked door` where levels
            have both, else `door`, which is locked if there are keys.
        target: The thing to go to or to pick up; empty where opening the locked door is all.
    """

    def __init__(self, schema: Schema, target: str) -> None:
        super().__init__(schema)
        self.target = schema.things.index(target) + 1 if target else 0
        self.spared = self.target  # a box is destroyed when it is opened
        freely = "closed door" if "key" in schema.kinds else "door"
        doors = self._goto("door")
        self._doors = [n for n in doors if schema.things[n - 1] == freely]
        self._locks = [n for n in doors if n not in self._doors]
        self._boxes = [n for n in self._goto("box") if n != self.target]
        others = [n for kind in MOVABLE if kind != "key" for n in self._goto(kind) if n != self.target]
        self._blockers = [*others, *self._goto("key")]

    def _wishes(self, facts: Facts) -> Iterator[int]:
        """The target if it can be had, else what brings it nearer; a thing's number is also its option's."""
        if self._is(facts, self.target, 1):
            yield from self._win(facts)
        if not facts.held:
            yield from self._empty_handed(facts)
        elif self._kind(facts.held) == "key" and self._fits(facts.held, facts):
            yield from self._with_key(facts)
        else:
            yield from self._be_rid(facts)

    def _win(self, facts: Facts) -> Iterator[int]:
        if self._kind(self.target) in MOVABLE:
            if facts.held:
                yield self.drop
            elif facts.front == self.target:
                yield self.pickup
        yield self.target

    def _empty_handed(self, facts: Facts) -> Iterator[int]:
        """A key while one helps, else what is behind doors and boxes, else out of the way with what blocks the way."""
        blocked = any(self._is(facts, number, 2) for number in (self.target, *self._locks))
        if any(self._is(facts, lock, 1) for lock in self._locks) or not blocked:
            yield from self._take_key(facts)
        yield from self._look_further(facts)
        if self._keys():
            if facts.front in self._boxes:
                yield self.toggle
            yield from self._boxes
        for blocker in self._blockers:
            yield self.pickup if facts.front == blocker else blocker
        if facts.front in self._locks:
            yield self.toggle
        yield from self._locks

    def _take_key(self, facts: Facts) -> Iterator[int]:
        fitting = [t + 1 for t in self._keys() if self._fits(t + 1, facts) and self._sure(facts)]
        if facts.front in fitting:
            yield self.pickup
        yield from fitting

    def _with_key(self, facts: Facts) -> Iterator[int]:
        """Unlock; else look further; else put it down, to clear the way."""
        if facts.front in self._locks:
            yield self.toggle
        yield from self._locks
        yield from self._look_further(facts)
        yield self.drop

    def _be_rid(self, facts: Facts) -> Iterator[int]:
        """A key of the wrong colour is kept until the right one is known, all else put down at once."""
        known = any(facts.status[t] == 1 for t in self._keys() if self._fits(t + 1, facts))
        if known or self._kind(facts.held) != "key":
            yield self.drop
        yield from self._look_further(facts)
        yield self.drop

    def _look_further(self, facts: Facts) -> Iterator[int]:
        """Open the door in front, explore, then go and open another door."""
        if facts.front in self._doors:
            yield self.toggle
        yield 0
        yield from self._doors

    @staticmethod
    def _is(facts: Facts, number: int, status: int) -> bool:
        """Whether there is a thing of that number, and it has the status."""
        return number > 0 and facts.status[number - 1] == status
