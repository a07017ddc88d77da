"""The options of missions, which speak of descriptions, and which of them can be had: whatever the mission is."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from preceptor.envs.missions import reading
from preceptor.envs.missions.mission import Description, described
from preceptor.envs.missions.reading import (
    AHEAD,
    ASIDE,
    AT,
    BARE,
    BESIDE,
    FRONTIER,
    IN_HAND,
    NAMES,
    NEXT,
    NOWHERE,
    NUMBER,
    ONWARD,
    PLACES_OF,
    REACHED,
    TARGETS,
)
from preceptor.envs.task import Option, OptionSpace

_WAY = 3  # sides of a map that an option may walk before it is over
_CHANGED_AT_ONCE: Final = {
    "pickup": "pick up what is in front",
    "drop": "put down what you hold in front of you",
    "toggle": "open what is in front",
}


def option_space(side: int) -> OptionSpace:
    """All options; a walk may take a few sides of the map."""
    far = _WAY * side
    simple = [Option("explore", "explore", 10)]
    simple += [Option(verb, words, 1) for verb, words in _CHANGED_AT_ONCE.items()]
    simple.append(Option("aside", "carry what you hold out of the way", far))
    simple.append(Option("clear", "go to what is in your way, or needed next", far))
    say = {"goto": "go to the {}", "beside": "carry what you hold to a place next to the {}"}
    return OptionSpace(
        simple
        + [
            Option(f"{verb}:{name}", words.format(described(target)), far)
            for verb, words in say.items()
            for name, target in zip(NAMES, TARGETS, strict=True)
        ]
    )


def ahead(facts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The kind in front [N], as `reading` numbers kinds, -1 for nothing; whether something can be explored [N]."""
    thing = facts[:, AHEAD]
    kind = thing // len(PLACES_OF) % len(reading.KINDS_OF)
    return np.where(thing >= 0, kind, -1), facts[:, FRONTIER] > 0


def _dealt_with(facts: NDArray[np.int64], column: int) -> NDArray[np.bool_]:
    """Whether there is such a thing [N], and it is no locked door whose key is not held."""
    thing, colours = facts[:, column], len(PLACES_OF) * len(reading.KINDS_OF)
    locked = thing // len(PLACES_OF) % len(reading.KINDS_OF) == reading.LOCKED
    return (thing >= 0) & (~locked | (facts[:, IN_HAND] == thing // colours * colours + NUMBER[Description("", "key")]))


def legality(status: NDArray[np.int16], facts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """What can be done [N, K], of what `reading.read` says.

    `clear` is for what can be dealt with now: what is in the way of something wanted or, where nothing can be explored,
    of what is unexplored; and not for what is in front already.
    """
    (kind, shown), holds = ahead(facts), facts[:, IN_HAND] >= 0
    opens = _dealt_with(facts, AHEAD) & ((kind == 1) | (kind >= 4))
    clears = _dealt_with(facts, NEXT) | (_dealt_with(facts, ONWARD) & ~shown)
    carried, bare = (kind > 0) & (kind < 4), facts[:, BARE] > 0
    simple = [
        shown,
        carried & ~holds,
        holds & bare,
        opens,
        holds & (facts[:, ASIDE] != NOWHERE),
        clears & (facts[:, AT] == 0),
    ]
    goto, beside = (status & REACHED) > 0, ((status & BESIDE) > 0) & holds[:, None]
    legal = np.concatenate([np.stack(simple, axis=1), goto, beside], axis=1)
    legal[:, 0] |= ~legal.any(1)
    return legal
