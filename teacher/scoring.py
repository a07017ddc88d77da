"""The four ways of asking a server for a choice, from the best to the poorest.

- `logprobs`: the log-probabilities of the menu's letters as the first token of the reply, over chat, or over lists of
  prompts where the server was seen to read the same text there;
- `choice`: samples that the server constrains to the letters (vLLM's `structured_outputs`);
- `echo`: the log-probability that the server gives to each letter written after the prompt, which it echoes. The prompt
  is rendered here: messages joined by newlines, which is the tiny model's chat template, and no other's;
- `samples`: samples and a strict parse.

A way of asking turns prompts into `Work` and the server's responses into replies. It sends nothing itself. A response
may hold anything, so every field is looked at before it is used.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from teacher.asking import Reply
from teacher.labels import OK
from teacher.parse import ParseFailure, parse_reply
from teacher.prompts import Prompt

CHAT, COMPLETIONS = "/chat/completions", "/completions"
WAYS = ("logprobs", "choice", "echo", "samples")

# Below this share of the probability on the menu's letters, the model meant to say something else.
MIN_MENU_MASS = 0.05
_SAMPLE_TOKENS = 16

Response = dict[str, Any]


@dataclass(frozen=True)
class Payload:
    """One request.

    Attributes:
        body: What is sent.
        size: Texts in the reply, for a limit of its bytes.
        calls: Calls that it makes, for the budget.
    """

    body: dict[str, Any]
    size: int = 1
    calls: int = 1


@dataclass(frozen=True)
class Work:
    """Requests that are answered together.

    Attributes:
        positions: Which of the prompts they answer, in order.
        path: Where the requests go.
        payloads: The requests.
        read: The responses to all of them -> one reply per position.
    """

    positions: tuple[int, ...]
    path: str
    payloads: tuple[Payload, ...]
    read: Callable[[Sequence[Response]], list[Reply]]


@dataclass(frozen=True)
class Way:
    """One way of asking.

    Attributes:
        common: Fields of every request: the model, the temperature, thinking off.
        name: One of `WAYS`.
        top: Alternatives to the first token that are asked for.
        size: Prompts per request.
    """

    common: dict[str, Any]
    name: str
    top: int = 0
    size: int = 1

    def works(self, prompts: Sequence[Prompt]) -> Iterator[Work]:
        """The work that answers every prompt once; a prompt that is there several times is sampled several times."""
        raise NotImplementedError


class Letters(Way):
    """Scores the letters of a menu as the first token of a chat reply."""

    def works(self, prompts: Sequence[Prompt]) -> Iterator[Work]:
        """One request per prompt."""
        for i, prompt in enumerate(prompts):
            body = {"messages": prompt.chat, "logprobs": True, "top_logprobs": self.top, "max_tokens": 1}
            yield Work((i,), CHAT, (Payload(self.common | body),), partial(_of_chat, prompt))


class LetterLists(Way):
    """The same scores for a list of prompts in one request, for servers that read the same text over both ways."""

    def works(self, prompts: Sequence[Prompt]) -> Iterator[Work]:
        """One request per `size` prompts."""
        for start in range(0, len(prompts), self.size):
            part = prompts[start : start + self.size]
            texts = [plain_text(prompt) for prompt in part]
            body = {"prompt": texts, "max_tokens": 1, "logprobs": self.top}
            positions = tuple(range(start, start + len(part)))
            payload = Payload(self.common | body, len(part), len(part))
            yield Work(positions, COMPLETIONS, (payload,), partial(_of_list, part))


@dataclass(frozen=True)
class Samples(Way):
    """Samples replies; constrained to the letters of the menu for the way `choice`.

    Attributes:
        many: The server gives n samples for one request.
    """

    many: bool = False

    def works(self, prompts: Sequence[Prompt]) -> Iterator[Work]:
        """One request per distinct prompt, or one per sample where the server ignores `n`."""
        for _, group in groupby(range(len(prompts)), key=lambda i: id(prompts[i])):
            positions = tuple(group)
            prompt, count = prompts[positions[0]], len(positions)
            body = {**self.common, "messages": prompt.chat, "max_tokens": _SAMPLE_TOKENS}
            if self.name == "choice":
                body["structured_outputs"] = {"choice": list(prompt.menu.letters)}
            payloads = (Payload(body | {"n": count}, count, count),) if self.many else (Payload(body),) * count
            yield Work(positions, CHAT, payloads, partial(_of_samples, prompt, count))


@dataclass(frozen=True)
class Echo(Way):
    """Has the server score each letter of the menu written after the prompt.

    Attributes:
        lead: What stands between prompt and letter: nothing, or the space that a tokenizer makes part of the letter.
        lists: The server takes a list of prompts in one request.
    """

    lead: str = ""
    lists: bool = False

    def works(self, prompts: Sequence[Prompt]) -> Iterator[Work]:
        """One request per prompt with all its letters, or one per letter."""
        for i, prompt in enumerate(prompts):
            texts = [f"{plain_text(prompt)}{self.lead}{letter}" for letter in prompt.menu.letters]
            # One token more than is read: FastChat refuses 0.
            body = {**self.common, "echo": True, "logprobs": 1, "max_tokens": 1}
            if self.lists:
                payloads: tuple[Payload, ...] = (Payload(body | {"prompt": texts}, len(texts)),)
            else:
                payloads = tuple(Payload(body | {"prompt": t}, calls=int(n == 0)) for n, t in enumerate(texts))
            yield Work((i,), COMPLETIONS, payloads, partial(_of_echo, prompt))


def plain_text(prompt: Prompt) -> str:
    """A prompt as a model reads it that has no chat template but a newline between messages."""
    return "\n".join(content for _, content in prompt.messages)


def scored(letters: str, alternatives: Sequence[tuple[str, float]]) -> tuple[str, tuple[float, ...]]:
    """Status and probabilities of a menu's letters, renormalised, from (token, log-probability) of the first token."""
    if not alternatives:
        return ParseFailure.EMPTY, ()
    mass = dict.fromkeys(letters, 0.0)
    for token, logprob in alternatives:
        if token.strip() in mass:
            mass[token.strip()] += math.exp(min(logprob, 0.0))
    total = sum(mass.values())
    if not total >= MIN_MENU_MASS:
        return ParseFailure.OFF_MENU, ()
    return OK, tuple(p / total for p in mass.values())


def first_token(choice: Response) -> list[tuple[str, float]]:
    """(token, log-probability) of the alternatives for the first token of a chat choice; empty if there are none."""
    content = _dict(choice.get("logprobs")).get("content")
    first = _dict(content[0]) if isinstance(content, list) and content else {}
    pairs = [(_dict(top).get("token"), _dict(top).get("logprob")) for top in _list(first.get("top_logprobs"))]
    return [(token, float(p)) for token, p in pairs if isinstance(token, str) and isinstance(p, int | float)]


def choices_of(response: Response) -> list[Response]:
    """The choices of a response, in the order of their index; an empty list if it has none."""
    choices = [choice for choice in _list(response.get("choices")) if isinstance(choice, dict)]
    indexed = all(isinstance(choice.get("index"), int) for choice in choices)
    return sorted(choices, key=lambda choice: choice["index"]) if indexed else choices


def text_of(choice: Response) -> str:
    """What was said; where nothing was, the reasoning that a server keeps apart, as an unfinished thought."""
    message = _dict(choice.get("message"))
    said = message.get("content") if message else choice.get("text")
    if isinstance(said, str) and said:
        return said
    thought = message.get("reasoning_content") or message.get("reasoning")
    return f"<think>{thought}" if isinstance(thought, str) and thought else ""


def echoed_mass(prompt: Prompt, responses: Sequence[Response]) -> float:
    """Probability that an echoing server gives to the letters of a menu together."""
    return sum(math.exp(min(score, 0.0)) for _, score in _echoed(prompt, responses))


def _echoed(prompt: Prompt, responses: Sequence[Response]) -> list[tuple[str, float]]:
    """(letter, log-probability) of the letters that end the echoed prompts; empty unless all of them are there.

    The last token of each is the one that was generated, the one before it ends the prompt.
    """
    choices = [choice for response in responses for choice in choices_of(response)]
    found: list[tuple[str, float]] = []
    for choice, letter in zip(choices, prompt.menu.letters, strict=False):
        logprobs = _dict(choice.get("logprobs"))
        tokens, scores = _list(logprobs.get("tokens")), _list(logprobs.get("token_logprobs"))
        whole = len(tokens) > 2 and len(tokens) == len(scores) and isinstance(scores[-2], int | float)
        if whole and str(tokens[-2]).strip() == letter:
            found.append((letter, float(scores[-2])))
    return found if len(found) == len(choices) == len(prompt.menu.letters) else []


def _of_chat(prompt: Prompt, responses: Sequence[Response]) -> list[Reply]:
    choice = next(iter(choices_of(responses[0])), {})
    return [_reply(*scored(prompt.menu.letters, first_token(choice)), text_of(choice), responses)]


def _of_list(prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Reply]:
    choices = choices_of(responses[0])
    choices = choices if len(choices) == len(prompts) else [{}] * len(prompts)
    replies = []
    for part, (choice, prompt) in enumerate(zip(choices, prompts, strict=True)):
        tops = _list(_dict(choice.get("logprobs")).get("top_logprobs"))
        pairs = list(_dict(tops[0]).items()) if tops else []
        alternatives = [(token, float(p)) for token, p in pairs if isinstance(p, int | float)]
        status, scores = scored(prompt.menu.letters, alternatives)
        replies.append(_reply(status, scores, text_of(choice), responses, part, len(prompts)))
    return replies


def _of_samples(prompt: Prompt, count: int, responses: Sequence[Response]) -> list[Reply]:
    texts = [text_of(choice) for response in responses for choice in choices_of(response)][:count]
    replies = []
    for part, text in enumerate([*texts, *[""] * (count - len(texts))]):
        position = parse_reply(text, prompt.words)
        if isinstance(position, ParseFailure):
            status, scores = str(position), tuple[float, ...]()
        else:
            status, scores = OK, tuple(float(i == position) for i in range(len(prompt.words)))
        replies.append(_reply(status, scores, text, responses, part, count))
    return replies


def _of_echo(prompt: Prompt, responses: Sequence[Response]) -> list[Reply]:
    letters = prompt.menu.letters
    status, scores = scored(letters, _echoed(prompt, responses))
    return [_reply(status, scores, letters[scores.index(max(scores))] if scores else "", responses)]


def _reply(
    status: str, scores: tuple[float, ...], text: str, responses: Sequence[Response], part: int = 0, parts: int = 1
) -> Reply:
    """A reply with its share of the responses' tokens, to the token."""
    usage = [_dict(response.get("usage")).get("total_tokens") for response in responses]
    total = sum(count for count in usage if isinstance(count, int))
    return Reply(status, scores, text, total * (part + 1) // parts - total * part // parts)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
