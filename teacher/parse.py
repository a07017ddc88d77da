"""Reply text -> position on the menu, or a typed failure. Model output is matched, never evaluated."""

import re
from collections.abc import Sequence
from enum import StrEnum

from teacher.prompts import LETTERS

MAX_REPLY_CHARS = 300

# A letter that stands for an option: upper case, on its own, perhaps in brackets, quotes or bold.
_LETTER_REPLY = re.compile(
    r"(?:(?:the\s+)?(?:final\s+)?(?:answer|option|choice)\s*(?:is\b)?\s*:?\s*)?"
    r"[(\[\"'`*]*(?P<letter>[A-Za-z])(?![A-Za-z])[)\]\"'`*.:,]*\s*(?P<rest>.*)",
    re.ASCII | re.IGNORECASE | re.DOTALL,
)
_LONE_LETTER = re.compile(r"(?<![A-Za-z'])([A-Z])(?![A-Za-z'])")
_NOT_WORDS = re.compile(r"[^a-z0-9]+")


class ParseFailure(StrEnum):
    """Why a reply is not an answer; also the status of its row in the label store."""

    EMPTY = "empty"
    OFF_MENU = "off_menu"
    AMBIGUOUS = "ambiguous"
    TOO_LONG = "too_long"


def _normalise(text: str) -> str:
    return _NOT_WORDS.sub(" ", text.lower()).strip()


def parse_reply(reply: str, words: Sequence[str]) -> int | ParseFailure:
    """Position on the menu that a reply names.

    Accepted: a letter of the menu (`B`, `(b)`, `Answer: B.`), the words of one option (`go to the key`), or both if
    they agree (`B) go to the key`). Everything else is a failure: guessing at prose gets wrong options executed.

    Args:
        reply: What the model wrote.
        words: The words of each option, in the order of the menu.
    """
    if len(reply) > MAX_REPLY_CHARS:
        return ParseFailure.TOO_LONG
    said = _normalise(reply)
    if not said:
        return ParseFailure.EMPTY
    by_words = [i for i, option in enumerate(words) if _normalise(option) == said]
    if len(by_words) == 1:
        return by_words[0]
    match = _LETTER_REPLY.fullmatch(reply.strip())
    if match is None:
        return _failure(reply, words)
    rest = _normalise(match["rest"])
    position = LETTERS.find(match["letter"].upper())
    if rest and _normalise(words[position] if position < len(words) else "") != rest:
        return _failure(reply, words)
    return position if position < len(words) else ParseFailure.OFF_MENU


def _failure(reply: str, words: Sequence[str]) -> ParseFailure:
    """Ambiguous if the reply touches the menu in some way, off the menu if it does not."""
    on_menu = set(LETTERS[: len(words)])
    mentions = any(letter in on_menu for letter in _LONE_LETTER.findall(reply))
    said = _normalise(reply)
    names = any(_normalise(option) in said for option in words)
    return ParseFailure.AMBIGUOUS if mentions or names else ParseFailure.OFF_MENU
