"""A toy model over lettered menus: deterministic, no network, the OpenAI protocol's replies.

It reads the last run of lines `A) go to the key` in its prompt and likes each option by its words alone, wherever it
stands. Its log-probabilities are the same whether they are asked for on chat or by an echo on completions, and its
samples are drawn from them.
"""

import hashlib
import math
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

Weights = dict[str, float]

NO_MENU = "I only read lettered menus."
_LINE = re.compile(r"([A-Z])\) ([^<\n]+)")
_TOKEN = re.compile(r"\w+|\s|[^\w\s]")
# What an echoed token gets that nobody scores, and each token of a reply after its first.
_OTHER = math.log(0.5)
_SCORED = 64  # tokens of a reply that come with log-probabilities, lest a megabyte become a hundred


def tokens(text: str) -> list[str]:
    """The toy's tokens: words, and single characters of everything else. Joined, they are the text."""
    return _TOKEN.findall(text)


def menu(prompt: str) -> dict[str, str]:
    """Letter -> words of the last menu in a prompt, empty if there is none."""
    found: dict[str, str] = {}
    last: dict[str, str] = {}
    for line in prompt.splitlines():
        match = _LINE.match(line)
        if match is None:
            found = {}
            continue
        last = found = found | {match[1]: match[2].strip()}
    return last


def hashed_weight(words: str) -> float:
    """A weight from 1 to 50 that depends on the words alone."""
    share = int.from_bytes(hashlib.sha256(words.encode()).digest()[:4]) / 2**32
    return math.exp(share * math.log(50))


class Toy:
    """The model.

    Args:
        likes: Option words -> weight against the 1 of any other option; empty for a hash of the words.
        off_menu: Share of the probability that is on no letter.
        reply: Prompt -> weights of first tokens, or the text itself; instead of all that.
    """

    def __init__(
        self,
        likes: Mapping[str, float] | None = None,
        off_menu: float = 0.0,
        reply: Callable[[str], Weights | str] | None = None,
    ) -> None:
        self._likes = dict(likes or {})
        self._off_menu = off_menu
        self.reply = reply
        self._lock = threading.Lock()
        self._drawn = Counter[str]()

    def draw(self, weights: Weights, temperature: float, prompt: str, seed: int | None, count: int) -> list[str]:
        """Some texts; the most probable at temperature 0.

        A seed draws the same again. Without one a prompt that comes again gets other draws, but the same in each run.
        """
        if temperature <= 0:
            return [max(weights, key=lambda text: weights[text])] * count
        with self._lock:
            occasion = f"seed {seed}" if seed is not None else str(self._drawn[prompt])
            self._drawn[prompt] += 1
        scaled = [weight ** (1 / temperature) for weight in weights.values()]
        return random.Random(f"{occasion}/{prompt}").choices(list(weights), scaled, k=count)

    def answer(self, prompt: str) -> Weights | str:
        """Probabilities of first tokens, or the text that it says without a doubt."""
        if self.reply is not None:
            return self.reply(prompt)
        offered = menu(prompt)
        if not offered:
            return NO_MENU
        weights = {letter: self._weight(words) for letter, words in offered.items()}
        total = sum(weights.values()) / (1 - self._off_menu)
        doubts = {"The": 0.7 * self._off_menu, "I": 0.3 * self._off_menu} if self._off_menu else {}
        return {letter: weight / total for letter, weight in weights.items()} | doubts

    def _weight(self, words: str) -> float:
        return self._likes.get(words, 1.0) if self._likes else hashed_weight(words)

    def constrained(self, prompt: str, choice: list[str]) -> Weights:
        """Probabilities of the choices: as of the letters or of the options' words if they are such, else by a hash."""
        said = self.answer(prompt)
        known = dict(said) if isinstance(said, dict) else {}
        known |= {words: known[letter] for letter, words in menu(prompt).items() if letter in known}
        weights = {text: known.get(text, 0.0) for text in choice}
        if not any(weights.values()):
            weights = {text: hashed_weight(text) for text in choice}
        total = sum(weights.values())
        return {text: weight / total for text, weight in weights.items()}


def ranked(said: Weights | str, count: int) -> list[tuple[str, float]]:
    """(token, log-probability) of the most probable first tokens."""
    weights = said if isinstance(said, dict) else {(tokens(said) or [""])[0]: 1.0}
    found = sorted(((text, math.log(p)) for text, p in weights.items() if p > 0), key=lambda pair: -pair[1])
    return found[:count]


def chat_logprobs(said: Weights | str, text: str, top: int) -> dict[str, Any]:
    """The `logprobs` of a chat choice whose text is `text`."""
    content = []
    for position, token in enumerate(tokens(text)[:_SCORED]):
        alternatives = ranked(said, max(top, 0)) if position == 0 else [(token, _OTHER)][:top]
        own = _own(said, token) if position == 0 else _OTHER
        entries = [{"token": t, "logprob": p, "bytes": list(t.encode())} for t, p in alternatives]
        content.append(
            {"token": token, "logprob": own, "bytes": list(token.encode()), "top_logprobs": entries},
        )
    return {"content": content}


def completion_logprobs(prompt: str, text: str, toy: Toy, top: int, *, echo: bool, fastchat: bool) -> dict[str, Any]:
    """The `logprobs` of a completions choice: of the reply's tokens, and with echo of the prompt's before them.

    Of an echoed prompt the last token is scored against what stands before it; nobody asks for the others.
    """
    prompt_tokens = tokens(prompt)
    rows: list[tuple[str, float | None, dict[str, float] | None]] = []
    if echo and prompt_tokens:
        *before, last = prompt_tokens
        rows = [(token, _OTHER if i else None, {token: _OTHER} if i else None) for i, token in enumerate(before)]
        said = toy.answer("".join(before))
        rows.append((last, _own(said, last) if before else None, dict([*ranked(said, top), (last, _own(said, last))])))
    said = toy.answer(prompt)
    for position, token in enumerate(tokens(text)[:_SCORED]):
        own = _own(said, token) if position == 0 else _OTHER
        rows.append((token, own, dict([*(ranked(said, top) if position == 0 else []), (token, own)])))
    names = [token for token, _, _ in rows]
    offsets = accumulate(map(len, names), initial=0 if echo else len(prompt))
    return {
        "text_offset": list(offsets)[:-1],
        "token_logprobs": [own for _, own, _ in rows],
        "tokens": names,
        "top_logprobs": [{} for _ in rows] if fastchat else [alternatives for _, _, alternatives in rows],
    }


def _own(said: Weights | str, token: str) -> float:
    """Log-probability of a first token; of one that the toy would never say, a very small one, as of a real model."""
    return dict(ranked(said, 1000)).get(token, -20.0)
