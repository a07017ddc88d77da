"""A mission as data: what has to be done, to which object, and in which order; and its words, as minigrid says them."""

from typing import NamedTuple

from preceptor.ground.errors import UserError

COLOURS = ("blue", "green", "grey", "purple", "red", "yellow")
KINDS = ("box", "ball", "key", "door")
PLACES = {"left": "on your left", "right": "on your right", "front": "in front of you", "behind": "behind you"}
VERBS = ("goto", "open", "pickup", "putnext")
MOST_CLAUSES = 4  # of a mission


class MissionError(UserError):
    """A text that is not a mission, or a plan that does not belong to one; its message says what was not understood."""


class Description(NamedTuple):
    """A set of objects: each that fits all that is said of it.

    Attributes:
        colour: One of `COLOURS`, or "" for any.
        kind: One of `KINDS`, or "" for any; in words, an "object".
        place: One of `PLACES`, relative to the agent's pose when the episode began, or "" for anywhere.
    """

    colour: str = ""
    kind: str = ""
    place: str = ""


class Clause(NamedTuple):
    """One thing to be done.

    Attributes:
        verb: One of `VERBS`.
        what: The object that is gone to, opened, picked up or put elsewhere.
        beside: Next to what it is put; of "putnext" alone.
    """

    verb: str
    what: Description
    beside: Description | None = None


class Mission(NamedTuple):
    """One or two clauses in any order and, after all of them, perhaps one or two more.

    Attributes:
        first: Clauses that are done before those of `then`; among themselves in any order.
        then: What is done afterwards; empty where there is no order.
    """

    first: tuple[Clause, ...]
    then: tuple[Clause, ...] = ()

    @property
    def clauses(self) -> tuple[Clause, ...]:
        """All clauses, those to be done first in front."""
        return self.first + self.then

    @property
    def named(self) -> tuple[Description, ...]:
        """What its clauses speak of, in order."""
        return tuple(what for clause in self.clauses for what in clause[1:] if what is not None)


def described(what: Description) -> str:
    """A description in words, without an article: "red ball on your left"."""
    return " ".join(word for word in (what.colour, what.kind or "object", PLACES.get(what.place, "")) if word)


def _clause_words(clause: Clause) -> str:
    what = described(clause.what)
    if clause.beside is not None:
        return f"put the {what} next to the {described(clause.beside)}"
    return {"goto": "go to", "open": "open", "pickup": "pick up"}[clause.verb] + f" the {what}"


def words(mission: Mission) -> str:
    """A mission as minigrid words it, with "the" for each article and "then" for each order."""
    return ", then ".join(" and ".join(_clause_words(clause) for clause in part) for part in mission if part)
