"""Text -> mission, by rules: minigrid's forms and our training forms, nothing else.

Three steps: words that describe are replaced by what they mean; each clause is found where a form fits; what is left
between the clauses says their order, and is looked up whole.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from preceptor.envs.missions.grammar import (
    ARTICLES,
    CLAUSES,
    DESCRIBING,
    IN_ORDER,
    JOINING,
    PHRASES,
    TOGETHER,
    literals,
    tokens,
)
from preceptor.envs.missions.mission import (
    COLOURS,
    KINDS,
    MOST_CLAUSES,
    PLACES,
    Clause,
    Description,
    Mission,
    MissionError,
)

CHARACTERS = 1000  # of a mission; four clauses with the longest words have half as many
_SHOWN = 80  # characters of a mission in an error
_MEANING = {f"{way} ": f"<{name}> " for name, ways in PHRASES.items() for way in ways}
_PHRASE = re.compile(r"\b(?:" + "|".join(sorted(_MEANING, key=len, reverse=True)) + ")")
_OBJECT = "((?:(?:<[a-z]+>|" + "|".join(ARTICLES) + ") )*)"


def refused(text: str, why: str) -> MissionError:
    """The error for a text that is not understood."""
    shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
    return MissionError(
        f"Not understood: {shown!r}: {why}.", 'Say it as in "go to the red ball, then open a door on your left".'
    )


class Found(NamedTuple):
    """A form that fits: what it says, in which words, of which objects, and over how many characters."""

    verb: str
    words: str
    objects: tuple[str, ...]
    length: int


class Reader:
    """Finds the clauses of a text.

    Args:
        forms: Verb -> the forms that say it.
        also: Words that are known besides those of the forms and of descriptions.
    """

    def __init__(self, forms: Mapping[str, Iterable[str]], also: Iterable[str] = ()) -> None:
        self.known = DESCRIBING | set(also)
        self._by_first_word: dict[str, list[tuple[str, str, re.Pattern[str]]]] = defaultdict(list)
        for verb, form in ((verb, form) for verb, ways in forms.items() for form in ways):
            words = literals(form)
            self.known |= set(words)
            pattern = re.compile(re.sub(r"\{\w+\} ", lambda _: _OBJECT, form + " "))
            self._by_first_word[words[0]].append((verb, " ".join(words), pattern))

    def clauses(self, text: str) -> tuple[str, list[Found]]:
        """What is left of a text when each clause is replaced by "#", and the clauses.

        Raises:
            MissionError: For no words, too many, or unknown ones.
        """
        if not isinstance(text, str):
            raise refused("", f"a mission is a text, not of type {type(text).__name__}")
        if len(text) > CHARACTERS:
            raise refused(text, f"it has {len(text)} characters, and at most {CHARACTERS} are read")
        words = tokens(text)
        if not words:
            raise refused(text, "it is empty")
        if unknown := list(dict.fromkeys(word for word in words if word not in self.known)):
            raise refused(text, "unknown words: " + ", ".join(unknown[:8]) + (" ..." if unknown[8:] else ""))
        meant = _PHRASE.sub(lambda match: _MEANING[match[0]], " ".join(words) + " ")
        between, found, at = "", [], 0
        while at < len(meant):
            word = meant[at : meant.index(" ", at)]
            forms = self._by_first_word.get(word, ())
            matches = ((verb, said, pattern.match(meant, at)) for verb, said, pattern in forms)
            fitting = [Found(verb, said, match.groups(), len(match[0])) for verb, said, match in matches if match]
            best = max(fitting, key=lambda one: one.length, default=None)
            found += [best] if best else []
            between += "# " if best else word + " "
            at += best.length if best else len(word) + 1
        return between.strip(), found


def description(text: str, said: str, of: str) -> Description:
    """What a run of meanings ("the <red> <ball> ") describes.

    Args:
        text: The whole text, for the error.
        said: The run.
        of: The words of which it is the object, for the error.

    Raises:
        MissionError: Where there is no object, or one with two colours, types or places.
    """
    names = list(dict.fromkeys(re.findall(r"<(\w+)>", said)))
    fields = {
        "colour": [name for name in names if name in COLOURS],
        "type": [name for name in names if name in (*KINDS, "object")],
        "place": [name for name in names if name in PLACES],
    }
    for field, values in fields.items():
        if len(values) > 1:
            raise refused(text, f"it contradicts itself: one object has the {field} {' and '.join(values)}")
    if not fields["type"]:
        raise refused(text, f'"{of}" is said of no object')
    colour, kind, place = ("".join(values) for values in fields.values())
    return Description(colour, kind.replace("object", ""), place)


def check(text: str, verb: str, what: Description, openable: tuple[str, ...] = ("door",)) -> None:
    """Refuses to open what cannot be opened, and to carry a door.

    Raises:
        MissionError: For those two.
    """
    if verb == "open" and what.kind not in openable:
        raise refused(text, f'only a {" or a ".join(openable)} can be opened, not "{what.kind or "object"}"')
    if verb in ("pickup", "putnext") and what.kind == "door":
        raise refused(text, "a door cannot be carried")


def _clause(text: str, found: Found) -> Clause:
    objects = [description(text, said, found.words) for said in found.objects]
    check(text, found.verb, objects[0])
    return Clause(found.verb, *objects)


def _orders() -> dict[str, tuple[int, int, bool]]:
    """What is left between clauses -> the numbers of clauses done first and then, and whether the text has them so."""
    parts = {"#": 1} | {" ".join(tokens(form.format(a="#", b="#"))): 2 for form in TOGETHER.training}
    orders = {part: (number, 0, True) for part, number in parts.items()}
    for form in IN_ORDER.training:
        for (a, first), (b, then) in ((one, other) for one in parts.items() for other in parts.items()):
            orders[" ".join(tokens(form.format(a=a, b=b)))] = (first, then, form.index("{a}") < form.index("{b}"))
    return orders


_READER = Reader({verb: forms.training for verb, forms in CLAUSES.items()}, JOINING)
_ORDERS = _orders()


def parse(text: str) -> Mission:
    """The mission that a text says; articles, case and punctuation do not matter.

    Raises:
        MissionError: Where it is not understood; the message says what was not.
    """
    between, found = _READER.clauses(text)
    clauses = tuple(_clause(text, one) for one in found)
    if not clauses:
        raise refused(text, "it says nothing that can be done")
    if len(clauses) > MOST_CLAUSES:
        raise refused(text, f"it has {len(clauses)} things to do, and a mission at most {MOST_CLAUSES}")
    if between not in _ORDERS:
        raise refused(text, f'its parts are joined as in "{between.replace("#", "...")}"')
    first, then, as_said = _ORDERS[between]
    return Mission(clauses[:first], clauses[first:]) if as_said else Mission(clauses[then:], clauses[:then])
