"""A toy model over lettered menus: deterministic, no network.

It reads the last run of lines `A) go to the key` in its prompt and likes each option by its words alone, wherever it
stands. Its samples are drawn from the same probabilities that it reports.
"""

import hashlib
import math
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any

Weights = dict[str, float]


def tokens(text: str) -> list[str]:
    """The toy's tokens: words, and single characters of everything else. Joined, they are the text."""
    return re.findall(r"\w+|\s|[^\w\s]", text)


def menu(prompt: str) -> dict[str, str]:
    """Letter -> words of the last menu in a prompt, empty if there is none."""
    found: dict[str, str] = {}
    last: dict[str, str] = {}
    for line in prompt.splitlines():
        match = re.match(r"([A-Z])\) ([^<\n]+)", line)
        found = found | {match[1]: match[2].strip()} if match else {}
        last = found or last
    return last


def hashed_weight(words: str) -> float:
    """A weight from 1 to 50 that depends on the words alone."""
    return math.exp(int.from_bytes(hashlib.sha256(words.encode()).digest()[:4]) / 2**32 * math.log(50))


def normalised(weights: Weights) -> Weights:
    """The weights divided by their sum."""
    return {text: weight / sum(weights.values()) for text, weight in weights.items()}


class Toy:
    """The model. `likes` are weights by an option's words, against 1 of any other; none for a hash of the words.
    `off_menu` is the share on no letter; `reply` gives weights of first tokens, a text, or None for all that."""

    def __init__(
        self,
        likes: Mapping[str, float] | None = None,
        off_menu: float = 0.0,
        reply: Callable[[str], Weights | str | None] = lambda prompt: None,
    ) -> None:
        self._likes, self._off_menu, self._reply = likes or {}, off_menu, reply
        self._occasions: defaultdict[str, Iterator[int]] = defaultdict(count)

    def draw(self, weights: Weights, temperature: float, prompt: str, seed: Any, times: int) -> list[str]:
        """Some texts. Without a seed a prompt that comes again gets other draws, but the same in each run."""
        if temperature <= 0:
            return [max(weights, key=lambda text: weights[text])] * times
        occasion = next(self._occasions[prompt]) if seed is None else f"seed {seed}"
        scaled = [weight ** (1 / temperature) for weight in weights.values()]
        return random.Random(f"{occasion}/{prompt}").choices(list(weights), scaled, k=times)

    def answer(self, prompt: str) -> Weights | str:
        """Probabilities of first tokens, or the text that it says without a doubt."""
        if (said := self._reply(prompt)) is not None:
            return said
        if not (offered := menu(prompt)):
            return "I only read lettered menus."
        likes = self._likes
        weights = {letter: likes.get(said, 1.0) if likes else hashed_weight(said) for letter, said in offered.items()}
        doubts = {"The": 0.7 * self._off_menu, "I": 0.3 * self._off_menu} if self._off_menu else {}
        return {letter: weight * (1 - self._off_menu) for letter, weight in normalised(weights).items()} | doubts

    def constrained(self, prompt: str, choice: list[str]) -> Weights:
        """Probabilities of the choices: as of the letters if they are such, else by a hash."""
        said = self.answer(prompt)
        weights = {text: said.get(text, 0.0) if isinstance(said, dict) else 0.0 for text in choice}
        return normalised(weights if any(weights.values()) else {text: hashed_weight(text) for text in choice})
