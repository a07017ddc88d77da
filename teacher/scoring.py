"""The four ways of asking a server for a choice, from the best to the poorest.

- `logprobs`: the log-probabilities of the menu's letters as the first token of the reply, over chat, or over lists of
  prompts where the server was seen to read the same text there;
- `choice`: samples that the server constrains to the letters (vLLM's `structured_outputs`);
- `echo`: the log-probability that the server gives to each letter written after the prompt, which it echoes. The prompt
  is rendered here: messages joined by newlines, which is the tiny model's chat template, and no other's;
- `samples`: samples and a strict parse.

A way of asking turns prompts into requests and the server's responses into replies. It sends nothing itself. A response
may hold anything, so every field is looked at before it is used.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from preceptor.teacher.asking import Reply
from preceptor.teacher.call import OK
from preceptor.teacher.parse import ParseFailure, after_thinking, parse_reply
from preceptor.teacher.prompts import Prompt

CHAT, COMPLETIONS = "/chat/completions", "/completions"
WAYS = ("logprobs", "choice", "echo", "samples")

# Below this share of the probability on the menu's letters, the model meant to say something else.
MIN_MENU_MASS = 0.05
SAMPLE_TOKENS = 16

Fields = dict[str, Any]  # of a request or a response


@dataclass(frozen=True)
class Way:
    """One way of asking: how a group of prompts becomes requests, and the responses to them one reply per prompt."""

    name: str  # one of `WAYS`
    path: str
    requests: Callable[[Sequence[Prompt]], list[tuple[Fields, int]]]  # bodies, and the calls that each is
    read: Callable[[Sequence[Prompt], Sequence[Fields]], list[Reply]]
    top: int = 0  # alternatives to the first token that are asked for
    size: int = 1  # prompts in a group
    tokens: int = 1  # of a reply, at most
    sampled: bool = False  # a group is one prompt, as often as it is there: each time for a sample

    def groups(self, prompts: Sequence[Prompt]) -> Iterator[list[int]]:
        """Positions of the prompts that are answered together."""
        where = range(len(prompts))
        for _, group in groupby(where, key=lambda i: id(prompts[i]) if self.sampled else i // self.size):
            yield list(group)


def letters(common: Fields, top: int) -> Way:
    """Scores the letters of a menu as the first token of a chat reply. `common` are the fields of every request."""

    def requests(group: Sequence[Prompt]) -> list[tuple[Fields, int]]:
        body = {"messages": group[0].chat, "logprobs": True, "top_logprobs": top, "max_tokens": 1}
        return [(common | body, 1)]

    def read(group: Sequence[Prompt], responses: Sequence[Fields]) -> list[Reply]:
        choice = next(iter(choices_of(responses[0])), {})
        return [_reply(*_scored(group[0], first_token(choice)), text_of(choice), responses)]

    return Way("logprobs", CHAT, requests, read, top)


def letter_lists(common: Fields, top: int, size: int) -> Way:
    """The same scores for a list of prompts in one request, for servers that read the same text over both ways."""

    def requests(group: Sequence[Prompt]) -> list[tuple[Fields, int]]:
        body = {"prompt": [plain_text(prompt) for prompt in group], "max_tokens": 1, "logprobs": top}
        return [(common | body, len(group))]

    def read(group: Sequence[Prompt], responses: Sequence[Fields]) -> list[Reply]:
        choices = choices_of(responses[0])
        choices = choices if len(choices) == len(group) else [{}] * len(group)
        replies = []
        for part, (choice, prompt) in enumerate(zip(choices, group, strict=True)):
            first = _at(choice, "logprobs", "top_logprobs", 0)
            alternatives = first.items() if isinstance(first, dict) else ()
            scored = _scored(prompt, [(token, p) for token, p in alternatives if _is_score(p)])
            replies.append(_reply(*scored, text_of(choice), responses, part, len(group)))
        return replies

    return Way("logprobs", COMPLETIONS, requests, read, top, size)


def samples(common: Fields, name: str, many: bool, tokens: int = SAMPLE_TOKENS) -> Way:
    """Samples replies, for `choice` constrained to the letters; `many` for one request if the server heeds `n`, and
    `tokens` of a reply at most. Where there is no menu, all words are an answer."""

    def requests(group: Sequence[Prompt]) -> list[tuple[Fields, int]]:
        body = {**common, "messages": group[0].chat, "max_tokens": tokens}
        if name == "choice":
            body["structured_outputs"] = {"choice": list(group[0].menu.letters)}
        return [(body | {"n": len(group)}, len(group))] if many else [(body, 1)] * len(group)

    def read(group: Sequence[Prompt], responses: Sequence[Fields]) -> list[Reply]:
        texts = [text_of(choice) for response in responses for choice in choices_of(response)][: len(group)]
        replies = []
        for part, text in enumerate([*texts, *[""] * (len(group) - len(texts))]):
            said = parse_reply(text, group[0].words) if group[0].words else after_thinking(text) or ParseFailure.EMPTY
            failed = isinstance(said, ParseFailure)
            scores = () if failed else tuple(float(i == said) for i in range(len(group[0].words)))
            replies.append(_reply(str(said) if failed else OK, scores, text, responses, part, len(group)))
        return replies

    return Way(name, CHAT, requests, read, sampled=True, tokens=tokens)


def echo(common: Fields, lead: str, lists: bool) -> Way:
    """Has the server score each letter of the menu written after the prompt.

    Between them stands `lead`: nothing, or the space that a tokenizer makes part of the letter. With `lists` the server
    takes a list of prompts in one request.
    """

    def requests(group: Sequence[Prompt]) -> list[tuple[Fields, int]]:
        texts = [f"{plain_text(group[0])}{lead}{letter}" for letter in group[0].menu.letters]
        # One token more than is read: FastChat refuses 0.
        body = {**common, "echo": True, "logprobs": 1, "max_tokens": 1}
        if lists:
            return [(body | {"prompt": texts}, 1)]
        return [(body | {"prompt": text}, int(number == 0)) for number, text in enumerate(texts)]

    def read(group: Sequence[Prompt], responses: Sequence[Fields]) -> list[Reply]:
        status, scores = _scored(group[0], _echoed(group[0], responses))
        best = group[0].menu.letters[scores.index(max(scores))] if scores else ""
        return [_reply(status, scores, best, responses)]

    return Way("echo", COMPLETIONS, requests, read)


def plain_text(prompt: Prompt) -> str:
    """A prompt as a model reads it that has no chat template but a newline between messages."""
    return "\n".join(content for _, content in prompt.messages)


def first_token(choice: Fields) -> list[tuple[str, float]]:
    """(token, log-probability) of the alternatives for the first token of a chat choice; empty if there are none."""
    tops = _list(_at(choice, "logprobs", "content", 0, "top_logprobs"))
    pairs = [(_at(top, "token"), _at(top, "logprob")) for top in tops]
    return [(token, p) for token, p in pairs if isinstance(token, str) and _is_score(p)]


def choices_of(response: Fields) -> list[Fields]:
    """The choices of a response, in the order of their index; an empty list if it has none."""
    choices = [choice for choice in _list(response.get("choices")) if isinstance(choice, dict)]
    indexed = all(isinstance(choice.get("index"), int) for choice in choices)
    return sorted(choices, key=lambda choice: choice["index"]) if indexed else choices


def text_of(choice: Fields) -> str:
    """What was said, of a list of parts those of text; where nothing was, the reasoning that a server keeps apart, or
    what was cut before anything could be shown, as an unfinished thought."""
    message = choice.get("message")
    said = _at(message, "content") if message else choice.get("text")
    if isinstance(said, list):
        said = "".join(str(part["text"]) for part in said if _at(part, "type") == "text" and "text" in part)
    if isinstance(said, str) and said:
        return said
    thought = _at(message, "reasoning_content") or _at(message, "reasoning") or ""
    cut = choice.get("finish_reason") == "length"
    return f"<think>{thought}" if cut or (isinstance(thought, str) and thought) else ""


def echoed_mass(prompt: Prompt, responses: Sequence[Fields]) -> float:
    """Probability that an echoing server gives to the letters of a menu together."""
    return sum(math.exp(min(score, 0.0)) for _, score in _echoed(prompt, responses))


def _echoed(prompt: Prompt, responses: Sequence[Fields]) -> list[tuple[str, float]]:
    """(letter, log-probability) of the letters that end the echoed prompts; empty unless all of them are there.

    The last token of each is the one that was generated, the one before it ends the prompt.
    """
    choices = [choice for response in responses for choice in choices_of(response)]
    found: list[tuple[str, float]] = []
    for choice, letter in zip(choices, prompt.menu.letters, strict=False):
        tokens, scores = (_list(_at(choice, "logprobs", name)) for name in ("tokens", "token_logprobs"))
        whole = len(tokens) > 2 and len(tokens) == len(scores) and _is_score(scores[-2])
        if whole and str(tokens[-2]).strip() == letter:
            found.append((letter, scores[-2]))
    return found if len(found) == len(choices) == len(prompt.menu.letters) else []


def _scored(prompt: Prompt, alternatives: Sequence[tuple[str, float]]) -> tuple[str, tuple[float, ...]]:
    """Status and probabilities of a menu's letters, renormalised, from (token, log-probability) of the first token."""
    if not alternatives:
        return ParseFailure.EMPTY, ()
    mass = dict.fromkeys(prompt.menu.letters, 0.0)
    for token, logprob in alternatives:
        if token.strip() in mass:
            mass[token.strip()] += math.exp(min(logprob, 0.0))
    total = sum(mass.values())
    return (OK, tuple(p / total for p in mass.values())) if total >= MIN_MENU_MASS else (ParseFailure.OFF_MENU, ())


def _reply(
    status: str, scores: tuple[float, ...], text: str, responses: Sequence[Fields], part: int = 0, parts: int = 1
) -> Reply:
    """A reply with its share of the responses' tokens, to the token."""
    usage = [_at(response, "usage", "total_tokens") for response in responses]
    total = sum(count for count in usage if isinstance(count, int))
    return Reply(status, scores, text, total * (part + 1) // parts - total * part // parts)


def _at(value: Any, *path: str | int) -> Any:
    """What lies at a path of keys and positions, None if nothing does."""
    for step in path:
        try:
            value = value[step]
        except (LookupError, TypeError):
            return None
    return value


def _is_score(value: Any) -> bool:
    """Whether a value can be a log-probability."""
    return isinstance(value, int | float) and value >= -1e9


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
