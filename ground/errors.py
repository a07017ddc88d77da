"""Errors that a user can act on: what happened, why, and the next command to type."""

import difflib
from collections.abc import Iterable

_LISTED = 40  # names shown of a catalogue


def visible(text: str) -> str:
    """A text that cannot steer a terminal: escaped is all but line breaks and what can be printed."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


class UserError(Exception):
    """A mistake or an obstacle outside the code; `main.py` prints it without a traceback and exits with 2.

    Args:
        what: What happened and why, in a sentence or two.
        next_step: The next command to type, or the next thing to do.
    """

    def __init__(self, what: str, next_step: str = "") -> None:
        what, next_step = visible(what), visible(next_step)
        super().__init__(f"{what}\n  next: {next_step}" if next_step else what)
        self.what = what
        self.next_step = next_step


class Doubt(UserError):
    """Something that is not as it should be, but with which the program works."""


def unknown_name(kind: str, name: str, known: Iterable[str], next_step: str = "") -> UserError:
    """The error for a name that is not in a catalogue, with the nearest one suggested."""
    names = sorted(known)
    by_folded = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), list(by_folded), n=1, cutoff=0.5)
    hint = f" Did you mean {by_folded[close[0]]!r}?" if close else ""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return UserError(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(names[:_LISTED])}{more}.", next_step)
