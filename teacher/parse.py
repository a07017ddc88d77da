"""Reply text -> position on the menu, or a typed failure. Model output is matched, never evaluated.

What is an answer, after thinking, code fences and markdown marks are taken off:

- a letter of the menu (`B`, `(b)`, `Answer: B.`), the words of one option (`go to the key`), or both if they agree;
- the same as the one answer of a JSON object (`{"answer": "B"}`);
- the same with a sentence after it that gives reasons and speaks of no other option (`Answer: B. Because ...`).

Everything else is a failure: guessing at prose gets wrong options executed.
"""

import json
import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from preceptor.teacher.prompts import LETTERS

# What may be said beside thinking; more is prose, and searching it for an answer would be guessing.
MAX_REPLY_CHARS = 1000

_FENCE = re.compile(r"```\w*\s*\n(?P<inside>[^`]*)```", re.ASCII)
_BOXED = re.compile(r"\$?\\boxed\{(?:\\text\{)?(?P<inside>[^{}]*)\}*\$?")
_STOP_TOKENS = re.compile(r"(?:(?:</s>|<\|(?:im_end|eot_id|end|endoftext|end_of_text)\|>)\s*)+\Z")
_MARKDOWN = re.compile(r"[*`]+")
_LEAD = re.compile(
    r"(?:(?:(?:the|my)\s+)?(?:(?:final|correct|right|best|next)\s+)?(?:answer|option|choice)(?:\s+is\b)?\s*[:=]?"
    r"|i\s+(?:would\s+)?(?:choose|pick|select)\b)\s*(?:option\s+)?",
    re.ASCII | re.IGNORECASE,
)
_LETTER = re.compile(
    r"[(\[\"'“‘]*(?P<letter>[A-Za-z])(?![A-Za-z0-9_])[)\]\"'”’.:,!]*(?P<rest>.*)", re.ASCII | re.DOTALL
)
# What may stand around words without a meaning of its own; a question mark or a cross may well take an answer back.
_HARMLESS = re.compile(r"[\w\s()\[\]\"'“”‘’.,:;!–—-]*")
_REASONS = re.compile(
    r"(?<=[.!)\n])\s*(?P<reasons>[(\[]?(?:(?:this|that) is )?"
    r"(?:because|since|reason(?:s|ing)?|explanation|rationale)\b)",
    re.IGNORECASE,
)
_LONE_LETTER = re.compile(r"(?<![\w'])([A-Z])(?![\w'])")
_NOT_WORDS = re.compile(r"[\W_]+")

_ANSWER_KEYS = frozenset({"answer", "option", "choice", "letter", "finalanswer"})
_REASON_KEYS = frozenset({"reason", "reasons", "reasoning", "explanation", "rationale", "thought", "thoughts"})


class ParseFailure(StrEnum):
    """Why a reply is not an answer, also the status of its row in the label store; and the same in words."""

    words: str

    def __new__(cls, value: str, words: str = "") -> "ParseFailure":
        """A status with its words."""
        failure = str.__new__(cls, value)
        failure._value_, failure.words = value, words
        return failure

    EMPTY = "empty", "the reply holds no letter and no word"
    OFF_MENU = "off_menu", "the reply names nothing that is on the menu"
    AMBIGUOUS = "ambiguous", "the reply touches the menu but does not name exactly one of its options"
    TOO_LONG = "too_long", f"the reply is longer than {MAX_REPLY_CHARS} characters, thinking not counted"
    UNFINISHED = "unfinished", "the reply was cut while the model was still thinking"


def parse_reply(reply: str, words: Sequence[str]) -> int | ParseFailure:
    """Position on the menu that a reply names, by the rules at the head of this file.

    Args:
        reply: What the model wrote.
        words: The words of each option, in the order of the menu.
    """
    said = after_thinking(reply)
    if isinstance(said, ParseFailure):
        return said
    if len(said) > MAX_REPLY_CHARS:
        return ParseFailure.TOO_LONG
    said = _unwrapped(said)
    if not _normalise(said):
        return ParseFailure.EMPTY
    if said.startswith("{"):
        said = _json_answer(said)
    match = _REASONS.search(said)
    answer, reasons = (said[: match.start()], said[match.start("reasons") :]) if match else (said, "")
    position = _position(answer, words)
    if position is None or (reasons and _speaks_of(reasons, words) - {position}):
        return ParseFailure.AMBIGUOUS if _speaks_of(said, words) else ParseFailure.OFF_MENU
    return position if position < len(words) else ParseFailure.OFF_MENU


def after_thinking(reply: str) -> str | ParseFailure:
    """What follows one closed block of thinking; its opening tag may have been part of the prompt."""
    thought, closed, said = reply.partition("</think>")
    opened = thought.count("<think>")
    if not closed:
        return ParseFailure.UNFINISHED if opened else reply
    if opened > 1 or (opened and not thought.lstrip().startswith("<think>")):
        return ParseFailure.AMBIGUOUS
    return said


def _unwrapped(text: str) -> str:
    """The reply without stop tokens, code fence, box, and markdown marks; each only where it holds the whole reply."""
    text = _STOP_TOKENS.sub("", text.strip()).strip()
    for wrapper in (_FENCE, _BOXED):
        if match := wrapper.fullmatch(text):
            text = match["inside"].strip()
    return _MARKDOWN.sub("", text).strip()


def _json_answer(text: str) -> str:
    """The one answer in a JSON object, else the text as it is, which is then no answer."""
    try:
        pairs: Any = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return text
    named = [(key.lower().replace("_", "").replace(" ", ""), value) for key, value in pairs]
    answers = [value for key, value in named if key in _ANSWER_KEYS]
    known = all(key in _ANSWER_KEYS | _REASON_KEYS for key, _ in named)
    return answers[0] if known and len(answers) == 1 and isinstance(answers[0], str) else text


def _position(text: str, words: Sequence[str]) -> int | None:
    """The position that a text names, perhaps beyond the menu, and None if it says anything else as well."""
    lead = _LEAD.match(text)
    either = (_named(said.strip(), words) for said in ((text, text[lead.end() :]) if lead else (text,)))
    return next((position for position in either if position is not None), None)


def _named(said: str, words: Sequence[str]) -> int | None:
    """The position of one option's words, of a letter, or of both if they agree."""
    own = {character for option in words for character in option}
    if not _HARMLESS.fullmatch("".join(character for character in said if character not in own)):
        return None
    by_words = [i for i, option in enumerate(words) if _normalise(option) == _normalise(said)]
    if len(by_words) == 1:
        return by_words[0]
    match = _LETTER.fullmatch(said)
    if match is None:
        return None
    position, rest = LETTERS.find(match["letter"].upper()), _normalise(match["rest"])
    agrees = not rest or (position < len(words) and _normalise(words[position]) == rest)
    return position if agrees else None


def _speaks_of(text: str, words: Sequence[str]) -> set[int]:
    """Positions on the menu that a text touches in some way, by a letter of its own or by an option's words."""
    said = f" {_normalise(text)} "
    letters = {LETTERS.find(letter) for letter in _LONE_LETTER.findall(text)}
    named = {i for i, option in enumerate(words) if f" {_normalise(option)} " in said}
    return {i for i in letters if i < len(words)} | named


def _normalise(text: str) -> str:
    """Words in lower case, without punctuation. Letters of every script stay: some of them may say `not`."""
    return _NOT_WORDS.sub(" ", text.lower()).strip()
