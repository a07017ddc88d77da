"""The words and sentence forms of missions: minigrid's, ours for training, and ours that are held out.

A form is named by its text. The first of a kind is minigrid's own. `envs.missions.parsing` reads the training forms
alone: the held-out ones are there to test what a network makes of sentences that no rule has read. Each of their words
occurs in a training form or in a description, so that it is the sentence that is new.
"""

import re
from typing import NamedTuple

from preceptor.envs.missions.mission import COLOURS, KINDS, PLACES

ARTICLES = ("the", "a", "an", "any")

# A value of a description's field -> the ways to say it, minigrid's first.
PHRASES: dict[str, tuple[str, ...]] = {name: (name,) for name in (*COLOURS, *KINDS, "object")} | {
    "grey": ("grey", "gray"),
    "purple": ("purple", "violet"),
    "box": ("box", "crate"),
    "object": ("object", "thing", "item"),
    "left": (PLACES["left"], "to your left", "on the left"),
    "right": (PLACES["right"], "to your right", "on the right"),
    "front": (PLACES["front"], "ahead of you"),
    "behind": (PLACES["behind"], "at your back"),
}


class Forms(NamedTuple):
    """The ways to say one thing.

    `{what}` and `{beside}` stand for objects, `{a}` and `{b}` for clauses; what is said in order has {a} done first.
    """

    training: tuple[str, ...]
    held_out: tuple[str, ...]


CLAUSES: dict[str, Forms] = {
    "goto": Forms(
        (
            "go to {what}",
            "walk to {what}",
            "move to {what}",
            "approach {what}",
            "head over to {what}",
            "go up to {what}",
            "get close to {what}",
            "stand in front of {what}",
        ),
        ("walk up to {what}", "go over to {what}", "get in front of {what}"),
    ),
    "open": Forms(
        (
            "open {what}",
            "open up {what}",
            "go and open {what}",
            "push {what} open",
            "pull open {what}",
            "swing {what} open",
            "make sure {what} is open",
        ),
        ("push open {what}", "pull {what} open", "open {what} up"),
    ),
    "pickup": Forms(
        (
            "pick up {what}",
            "pick {what} up",
            "take {what}",
            "grab {what}",
            "lift {what}",
            "get {what}",
            "collect {what}",
            "take {what} with you",
        ),
        ("lift {what} up", "go get {what}", "collect {what} to take with you"),
    ),
    "putnext": Forms(
        (
            "put {what} next to {beside}",
            "place {what} beside {beside}",
            "set {what} down next to {beside}",
            "drop {what} next to {beside}",
            "move {what} over to {beside}",
            "bring {what} to {beside}",
            "leave {what} beside {beside}",
            "pick up {what} and put it next to {beside}",
        ),
        ("take {what} over to {beside}", "set {what} beside {beside}", "pick {what} up and leave it next to {beside}"),
    ),
}
TOGETHER = Forms(
    ("{a} and {b}", "{a} and also {b}", "both {a} and {b}", "{a} as well as {b}"),
    ("{a} and {b} as well", "{a}, also {b}"),
)
IN_ORDER = Forms(
    (
        "{a}, then {b}",
        "{b} after you {a}",
        "{a}, and then {b}",
        "first {a}, then {b}",
        "first {a}, afterwards {b}",
        "{a} before you {b}",
        "before you {b}, {a}",
        "after you {a}, {b}",
        "{b}, but first {a}",
    ),
    ("{a} first, and then {b}", "first {a}, and afterwards {b}", "{b}, but {a} first"),
)


def tokens(text: str) -> list[str]:
    """The words of a text in lower case; punctuation parts words and says nothing."""
    return re.findall(r"[^\s.,;:!?\"()]+", text.lower())


def literals(form: str) -> list[str]:
    """The words of a form itself, without its places."""
    return tokens(re.sub(r"\{\w+\}", " ", form))


DESCRIBING = frozenset(ARTICLES) | {word for ways in PHRASES.values() for way in ways for word in way.split()}
JOINING = frozenset(word for forms in (TOGETHER, IN_ORDER) for form in forms.training for word in literals(form))
KNOWN = (
    DESCRIBING | JOINING | {word for forms in CLAUSES.values() for form in forms.training for word in literals(form)}
)
