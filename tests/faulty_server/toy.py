"""A toy model over lettered menus: deterministic, no network.

It reads the last run of lines `A) go to the key` in its prompt and likes each option by its words alone, wherever it
stands. Its samples are drawn from the same probabilities that it reports.
"""

import hashlib
import math
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

Weights = dict[str, float]

NO_MENU = "I only read lettered menus."
_LINE = re.compile(r"([A-Z])\) ([^<\n]+)")
_TOKEN = re.compile(r"\w+|\s|[^\w\s]")


def tokens(text: str) -> list[str]:
    """The toy's tokens: words, and single characters of everything else. Joined, they are the text."""
    return _TOKEN.findall(text)


def menu(prompt: str) -> dict[str, str]:
    """Letter -> words of the last menu in a prompt, empty if there is none."""
    found: dict[str, str] = {}
    last: dict[str, str] = {}
    for line in prompt.splitlines():
        match = _LINE.match(line)
        found = found | {match[1]: match[2].strip()} if match else {}
        last = found or last
    return last


def hashed_weight(words: str) -> float:
    """A weight from 1 to 50 that depends on the words alone."""
    share = int.from_bytes(hashlib.sha256(words.encode()).digest()[:4]) / 2**32
    return math.exp(share * math.log(50))


def normalised(weights: Weights) -> Weights:
    """The weights divided by their sum."""
    total = sum(weights.values())
    return {text: weight / total for text, weight in weights.items()}


class Toy:
    """The model.

    Args:
        likes: Option words -> weight against the 1 of any other option; empty for a hash of the words.
        off_menu: Share of the probability that is on no letter.
        reply: Prompt -> weights of first tokens, or the text itself; instead of all that, unless it is None.
    """

    def __init__(
        self,
        likes: Mapping[str, float] | None = None,
        off_menu: float = 0.0,
        reply: Callable[[str], Weights | str | None] = lambda prompt: None,
    ) -> None:
        self._likes, self._off_menu, self.reply = dict(likes or {}), off_menu, reply
        self._lock = threading.Lock()
        self._drawn = Counter[str]()

    def draw(self, weights: Weights, temperature: float, prompt: str, seed: Any, count: int) -> list[str]:
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
        if (said := self.reply(prompt)) is not None:
            return said
        offered = menu(prompt)
        if not offered:
            return NO_MENU
        weights = normalised({letter: self._weight(words) for letter, words in offered.items()})
        doubts = {"The": 0.7 * self._off_menu, "I": 0.3 * self._off_menu} if self._off_menu else {}
        return {letter: weight * (1 - self._off_menu) for letter, weight in weights.items()} | doubts

    def _weight(self, words: str) -> float:
        return self._likes.get(words, 1.0) if self._likes else hashed_weight(words)

    def constrained(self, prompt: str, choice: list[str]) -> Weights:
        """Probabilities of the choices: as of the letters if they are such, else by a hash."""
        said = self.answer(prompt)
        weights = {text: said.get(text, 0.0) if isinstance(said, dict) else 0.0 for text in choice}
        return normalised(weights if any(weights.values()) else {text: hashed_weight(text) for text in choice})
