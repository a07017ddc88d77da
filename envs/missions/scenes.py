"""The facts of a scene that matter to its mission, their strings, their English, and the expert's choice."""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from preceptor.envs.missions.mission import Clause, Description, Mission, MissionError, described
from preceptor.envs.missions.parsing import parse
from preceptor.envs.missions.reading import (
    BESIDE,
    BLOCKED,
    FRONT,
    HELD,
    HERE,
    JUST_HERE,
    LOCK,
    NAMES,
    NOWHERE,
    NUMBER,
    REACHED,
    TARGETS,
)

SLOTS = 8  # descriptions of a mission: what each clause speaks of, and beside what
_NUMBER_OF = {name: number for number, name in enumerate(NAMES)}
_BITS = {
    "reachable": REACHED,
    "blocked": BLOCKED,
    "front": FRONT,
    "held": HELD,
    "beside": BESIDE,
    "here": HERE,
    "locked": LOCK,
}
_SAID = {
    REACHED: "can be reached",
    BLOCKED: "has been seen, but the way to it is blocked",
    LOCK: "is locked",
    FRONT: "is in front of you",
    HELD: "is in your hands",
}
_PLACES_TO_PUT = ("no", "yes", "here")
UNREAD = Mission(())  # a mission that was not understood


class Facts(NamedTuple):
    """What one scene says; things are targets, -1 for nothing.

    Attributes:
        text: The mission's words.
        done: Of each clause, whether it is done.
        status: Of each description of the mission its status (`reading`), in `slots`' order.
        explore: Whether unseen cells can be explored.
        ahead: What is in front, if it matters here.
        held: What is held.
        aside: Where that can be put aside, `NOWHERE`, `SOMEWHERE` or `JUST_HERE`.
        bare: Whether the cell in front is bare floor.
        next: What is to be picked up or opened first to get at what the mission asks for.
        onward: Likewise, to see what is unexplored.
        at: Whether that, `next` unless it cannot be dealt with yet, is in front.
    """

    text: str
    done: tuple[bool, ...]
    status: tuple[int, ...]
    explore: bool
    ahead: int
    held: int
    aside: int
    bare: bool
    next: int
    onward: int
    at: bool


@lru_cache(100_000)
def understood(text: str) -> Mission:
    """The mission that a text says; `UNREAD` if it is none."""
    try:
        return parse(text)
    except MissionError:
        return UNREAD


def slots(mission: Mission) -> list[tuple[int, Description]]:
    """(2k, what clause k speaks of) and (2k + 1, beside what)."""
    both = ((2 * k + j, part) for k, one in enumerate(mission.clauses) for j, part in enumerate(one[1:]))
    return [(slot, part) for slot, part in both if part is not None]


def current(mission: Mission, done: tuple[bool, ...]) -> list[tuple[int, Clause]]:
    """The clauses that are to be done now, with their numbers."""
    left = [(k, clause) for k, clause in enumerate(mission.clauses) if not done[k]]
    early = [(k, clause) for k, clause in left if k < len(mission.first)]
    return early or left


def to_strings(facts: Facts) -> tuple[str, ...]:
    """The facts of a scene."""
    said = [f"mission={facts.text}", f"done={''.join(str(int(one)) for one in facts.done)}"]
    for slot, _ in slots(understood(facts.text)):
        bits = [name for name, bit in _BITS.items() if facts.status[slot] & bit]
        said.append(f"{slot // 2 + 1}.{'beside' if slot % 2 else 'what'}={'+'.join(bits) or 'unknown'}")
    said += [f"explore={'yes' if facts.explore else 'no'}", f"bare={'yes' if facts.bare else 'no'}"]
    said += [f"aside={_PLACES_TO_PUT[facts.aside]}", f"at={'yes' if facts.at else 'no'}"]
    things = (("front", facts.ahead), ("held", facts.held), ("next", facts.next), ("onward", facts.onward))
    return (*said, *(f"{name}={NAMES[thing]}" for name, thing in things if thing >= 0))


def from_strings(strings: tuple[str, ...]) -> Facts:
    """The facts that `to_strings` wrote."""
    said = dict(fact.split("=", 1) for fact in strings)
    status = [0] * SLOTS
    for slot in range(SLOTS):
        words = said.get(f"{slot // 2 + 1}.{'beside' if slot % 2 else 'what'}", "unknown").split("+")
        status[slot] = sum(_BITS[word] for word in words if word in _BITS)
    front, held, after, onward = (
        _NUMBER_OF.get(said.get(name, ""), -1) for name in ("front", "held", "next", "onward")
    )
    done = tuple(one == "1" for one in said["done"])
    explore, bare = said["explore"] == "yes", said["bare"] == "yes"
    aside = _PLACES_TO_PUT.index(said["aside"])
    return Facts(
        said["mission"], done, tuple(status), explore, front, held, aside, bare, after, onward, said["at"] == "yes"
    )


def to_text(facts: Facts) -> str:
    """English for the facts."""
    mission = understood(facts.text)
    parts = [f"Your mission: {facts.text}."]
    if mission == UNREAD:
        parts.append("You do not understand it.")
    over = [str(k + 1) for k in range(len(mission.clauses)) if facts.done[k]]
    parts += [f"Of its {len(mission.clauses)} parts, done: {', '.join(over)}."] if over else []
    for slot, what in slots(mission):
        bits = facts.status[slot]
        seen = [words for bit, words in _SAID.items() if bits & bit and not (bit == BLOCKED and bits & REACHED)]
        parts.append(f"The {described(what)} {' and '.join(seen) or 'has not been seen'}.")
        if slot % 2 and bits & (BESIDE | HERE) and facts.held >= 0:
            where = "right in front of you" if bits & HERE else "next to it"
            parts.append(f"There is room {where} to put something down next to it.")
    parts.append(f"You hold the {NAMES[facts.held]}." if facts.held >= 0 else "You hold nothing.")
    parts += [f"In front of you is the {NAMES[facts.ahead]}."] if facts.ahead >= 0 else []
    parts += ["That is what is to be dealt with."] if facts.at else []
    parts += [f"To be dealt with first is the {NAMES[facts.next]}."] if facts.next >= 0 else []
    if facts.onward >= 0:
        parts.append(f"Between you and what is unexplored is the {NAMES[facts.onward]}.")
    parts.append("Something can be explored." if facts.explore else "Nothing can be explored from here.")
    return " ".join(parts)


def _kind(target: int) -> str:
    return TARGETS[target].kind if target >= 0 else ""


def legal_ids(facts: Facts) -> list[str]:
    """The ids of the options that make sense here: those that speak of what the facts speak of."""
    mission, kind = understood(facts.text), _kind(facts.ahead)
    holds = facts.held >= 0
    opens = _dealt_with(facts, facts.ahead) and (kind == "box" or kind.endswith("door"))
    able = {
        "explore": facts.explore,
        "pickup": not holds and kind in ("box", "ball", "key"),
        "drop": holds and facts.bare,
        "toggle": opens,
        "aside": holds and facts.aside != NOWHERE,
    }
    for slot, what in slots(mission):
        name = NAMES[NUMBER[what]]
        able[f"goto:{name}"] = able.get(f"goto:{name}", False) or bool(facts.status[slot] & REACHED)
        if slot % 2:
            able[f"beside:{name}"] = holds and bool(facts.status[slot] & BESIDE)
    clears = _dealt_with(facts, facts.next) or (_dealt_with(facts, facts.onward) and not facts.explore)
    able["clear"] = clears and not facts.at
    return [option for option, can in able.items() if can] or ["explore"]


def _key_of(door: int) -> int:
    """The key of a locked door, as a target."""
    return NUMBER[Description(TARGETS[door].colour, "key", "")]


def _dealt_with(facts: Facts, target: int) -> bool:
    """Whether there is such a thing, and it is no locked door whose key is not held."""
    return target >= 0 and (_kind(target) != "locked door" or facts.held == _key_of(target))


def expert(facts: Facts) -> str:
    """The id of the expert's option: the first of its wishes that can be had."""
    legal = set(legal_ids(facts))
    return next((wish for wish in _wishes(facts) if wish in legal), "explore" if "explore" in legal else min(legal))


def _wishes(facts: Facts) -> Iterator[str]:
    clauses = current(understood(facts.text), facts.done)
    ranks = [_rank(facts, k, clause) for k, clause in clauses]
    for i in np.argsort(ranks, kind="stable"):
        yield from for_clause(facts, *clauses[i])
    yield from search(facts)
    yield "aside"


def _rank(facts: Facts, k: int, clause: Clause) -> int:
    """How soon a clause is turned to: what is in hand first, then what is within reach."""
    what, beside = facts.status[2 * k], facts.status[2 * k + 1]
    if what & HELD:
        return 0
    return 1 if what & REACHED and (clause.beside is None or beside & BESIDE) else 2


def for_clause(facts: Facts, k: int, clause: Clause) -> Iterator[str]:
    """What brings a clause nearer, best first."""
    what, beside = facts.status[2 * k], facts.status[2 * k + 1]
    if clause.beside is None:
        yield from towards(facts, clause.verb, clause.what, what)
        return
    if what & HELD:
        yield from towards(facts, "dropnext", clause.beside, beside)
    elif not beside & (BESIDE | HELD):
        yield from search(facts)
    yield from _fetch(facts, f"goto:{NAMES[NUMBER[clause.what]]}", what)


def towards(facts: Facts, verb: str, what: Description, status: int) -> Iterator[str]:
    """What brings a step of a plan nearer, best first; `status` is that of what it speaks of."""
    name = NAMES[NUMBER[what]]
    if verb == "find":
        yield from search(facts)
    elif verb == "drop":
        yield from _put_away(facts)
    elif verb == "dropnext":
        if status & HERE:
            yield "drop"
        yield f"beside:{name}"
        yield from search(facts)
    elif verb == "pickup":
        if status & HELD:  # it was picked up before that was asked for
            yield "drop"
            yield "aside"
        yield from _fetch(facts, f"goto:{name}", status)
    else:
        if status & HELD and not status & REACHED:
            yield from _put_away(facts)
        if verb == "open" and status & REACHED:
            yield from _open(facts, status, f"goto:{name}")
        yield f"goto:{name}"


def _fetch(facts: Facts, go: str, status: int) -> Iterator[str]:
    """Pick up what can be reached, with a free hand."""
    if status & REACHED:
        if facts.held >= 0:
            yield from _put_away(facts)
        if status & FRONT:
            yield "pickup"
        yield go


def _open(facts: Facts, what: int, go: str) -> Iterator[str]:
    """Open what is asked for; where some of that is locked, the door, or the key for it, that comes next."""
    if facts.at and what & FRONT:
        yield "toggle"
    if what & LOCK or not _kind(facts.next).endswith("door"):
        yield from search(facts)
    yield go


def _put_away(facts: Facts) -> Iterator[str]:
    if facts.aside == JUST_HERE:
        yield "drop"
    yield "aside"
    yield "drop"


def search(facts: Facts) -> Iterator[str]:
    """Get at what was seen; else explore; else get at what is unexplored."""
    yield from _deal_with(facts, facts.next)
    if facts.at and _kind(facts.ahead) == "closed door":
        yield "toggle"
    yield "explore"
    yield from _deal_with(facts, facts.onward)


def _deal_with(facts: Facts, target: int) -> Iterator[str]:
    """Pick up a thing, or open a door."""
    kind = _kind(target)
    if kind in ("box", "ball", "key"):
        if facts.held >= 0:
            yield from _put_away(facts)
        if facts.at:
            yield "pickup"
        yield "clear"
    elif _dealt_with(facts, target):
        if facts.at:
            yield "toggle"
        yield "clear"
