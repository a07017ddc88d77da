"""What can be chosen in a scene, when a choice is over, and what the expert chooses: functions of the facts alone."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from preceptor.envs.gridworld.scenes import Facts, Schema

MOVABLE = ("key", "ball", "box")
USABLE = ("door", "box")
ENTERED = ("goal",)  # going to these is going into them, so it is not over in front of them


class Choices:
    """Legality, done-conditions and the expert's choice over a schema's options.

    The options are, in this order: `explore`, one `goto:<thing>` per thing of the schema, `pickup`, `drop`, `toggle`;
    so a thing's number is also the option that goes to it.

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
        self.ids = ("explore", *(f"goto:{name}" for name in schema.things), "pickup", "drop", "toggle")
        self._pickup, self._drop, self._toggle = range(len(self.ids) - 3, len(self.ids))
        self._target, self._hasty = schema.things.index(target) + 1 if target else 0, target is None
        self._schema = schema
        kinds = np.array(["nothing", *schema.kinds])  # by number
        self._movable, self._usable, self._entered = (np.isin(kinds, of) for of in (MOVABLE, USABLE, ENTERED))
        self._keys, doors, boxes, balls = (np.flatnonzero(kinds == k).tolist() for k in ("key", "door", "box", "ball"))
        freely = "closed door" if self._keys else "door"
        self._doors = [n for n in doors if schema.things[n - 1] == freely]
        self._locks = [n for n in doors if n not in self._doors]
        self._boxes = [n for n in boxes if n != self._target]
        self._blockers = [n for n in (*balls, *self._boxes, *self._keys) if n != self._target]

    def judge(self, fields: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Of facts as `Facts.fields` [C, F], what each option is there, bool [3, C, K].

        Legal: it may be chosen. Where nothing can be done that is `explore`, which then waits.
        Over: it is achieved, or no longer possible (the target is lost, nothing to explore).
        Achieved: it led there, if it could be chosen before. One stands before what one went to, or has gone into it,
        so that it is seen no more; one holds something, or no longer does.
        """
        status, (_, held, front, frontier, place, _) = fields[:, :-6], fields[:, -6:].T.astype(np.bool_)
        number, near, entered = fields[:, -4], status == 1, self._entered[1:]
        arrived = (number[:, None] == np.arange(1, len(entered) + 1)) & ~entered
        movable, usable, never = self._movable[number], self._usable[number], np.zeros_like(front)
        useful = usable & (number != self._target)  # a box is destroyed when it is opened
        legal = [frontier, near & ~arrived, ~held & movable, held & place, useful]
        over = [status.any(axis=1) | ~frontier, ~near | arrived, held, ~held | ~place, ~usable]
        achieved = [never, (~near & entered) | arrived, held, ~held, never]
        judged = np.stack([np.column_stack(columns) for columns in (legal, over, achieved)])
        judged[0, :, 0] |= ~judged[0].any(axis=1)
        return judged

    def expert(self, facts: Facts, legal: tuple[int, ...]) -> int:
        """The expert's choice, one of the legal options of these facts."""
        return next((option for option in self._wishes(facts) if option in legal), min(legal))

    def _wishes(self, facts: Facts) -> Iterator[int]:
        """The expert's wishes, best first: the target if it can be had, else what brings it nearer."""
        if self._target and facts.status[self._target - 1] == 1:
            if self._movable[self._target] and facts.held:
                yield self._drop
            yield from self._reach([self._target], self._pickup, facts)
        if not facts.held:
            yield from self._empty_handed(facts)
        elif facts.held in self._keys and self._fits(facts.held, facts):  # as far as is known
            yield from self._reach(self._locks, self._toggle, facts)
            yield from self._look_further(facts)
            yield from self._reach(self._boxes, self._toggle, facts)
            yield self._drop  # to clear the way
        else:  # a key of the wrong colour is kept until the right one is known, all else put down at once
            known = any(facts.status[n - 1] == 1 for n in self._keys if self._fits(n, facts))
            if known or facts.held not in self._keys:
                yield self._drop
            yield from self._look_further(facts)
            yield self._drop

    def _empty_handed(self, facts: Facts) -> Iterator[int]:
        """The right key while it helps, else a box that may hide it, else look round, else clear the way."""
        known = [facts.status[n - 1] for n in self._locks]
        blocked = 2 in known or (self._target and facts.status[self._target - 1] == 2)
        sure = facts.door_colour or not self._schema.colours
        if sure and (self._hasty or 1 in known or not blocked):
            yield from self._reach([n for n in self._keys if self._fits(n, facts)], self._pickup, facts)
        if self._keys:
            yield from self._reach(self._boxes, self._toggle, facts)
        yield from self._look_further(facts)
        if self._hasty:
            yield self._pickup
        for blocker in self._blockers:
            yield from self._reach([blocker], self._pickup, facts)
        yield from self._reach(self._locks, self._toggle, facts)

    def _look_further(self, facts: Facts) -> Iterator[int]:
        """Open the door in front, explore, then go and open another door."""
        if facts.front in self._doors:
            yield self._toggle
        yield 0
        yield from self._doors

    def _reach(self, numbers: list[int], then: int, facts: Facts) -> Iterator[int]:
        """Do something to one of the things that is in front, else go to one."""
        if facts.front in numbers:
            yield then
        yield from numbers

    def _fits(self, key: int, facts: Facts) -> bool:
        """Whether a key may open the door, as far as its colour is known."""
        return facts.door_colour in (0, self._schema.thing_colours[key - 1] + 1)
