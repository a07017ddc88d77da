"""The words that a network reads, as numbers: 0 is padding, 1 a word that it does not know."""

import warnings
from collections.abc import Sequence

import numpy as np

from preceptor.envs.missions.grammar import KNOWN, tokens
from preceptor.envs.missions.mission import MissionError

PADDING, UNKNOWN = 0, 1
LENGTH = 96  # words in which each mission and each paraphrase fits
_SHOWN = 60  # characters of an unknown word in a warning


class Vocabulary:
    """Words <-> numbers.

    Args:
        words: Each once, in lower case; the first has number 2. They are all that has to be saved.

    Raises:
        ValueError: For a word that is there twice, or that no text can hold.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._number = {word: number for number, word in enumerate(self.words, UNKNOWN + 1)}
        if len(self._number) < len(self.words) or any(tokens(word) != [word] for word in self.words):
            raise ValueError("a vocabulary is of different words in lower case, without spaces and punctuation")
        self._dtype = np.min_scalar_type(len(self))

    def __len__(self) -> int:
        """How many numbers there are, those of padding and of unknown words among them."""
        return len(self.words) + UNKNOWN + 1

    def encode(self, text: str, length: int) -> np.ndarray:
        """The numbers of a text's words, padded at the end.

        Args:
            text: Any text; punctuation and case do not matter.
            length: Words of the result.

        Returns:
            Whole numbers without sign, of the smallest type that holds them all, of shape [length].

        Raises:
            MissionError: For a text with more words: what is cut off would be ignored silently.
        """
        words = tokens(text)
        if len(words) > length:
            raise MissionError(f"A mission of {len(words)} words, where at most {length} are read.", "Say it shorter.")
        numbers = np.full(length, PADDING, self._dtype)
        numbers[: len(words)] = [self._number.get(word, UNKNOWN) for word in words]
        return numbers

    def decode(self, numbers: np.ndarray) -> str:
        """The text of a row of numbers, with "?" for each unknown word."""
        return " ".join("?" if number == UNKNOWN else self.words[number - UNKNOWN - 1] for number in numbers if number)

    def unknown(self, text: str) -> list[str]:
        """The words of a text that have no number, each once, in order."""
        return list(dict.fromkeys(word for word in tokens(text) if word not in self._number))


VOCABULARY = Vocabulary(sorted(KNOWN))  # of minigrid's forms and of all of ours
_SAID: set[str] = set()  # what has been warned of


def told(text: str) -> np.ndarray:
    """The numbers of a mission's words [LENGTH], as agents are told it; those of one unknown word if it cannot be read.

    What it is that controllers do not understand is said in a warning, once.
    """
    count, unknown = len(tokens(text)), VOCABULARY.unknown(text)
    fits = 0 < count <= LENGTH
    reasons = unknown if unknown or fits else [f"a mission of {count} words, where 1 to {LENGTH} are read"]
    if new := [reason for reason in reasons if reason not in _SAID]:
        _SAID.update(new)
        shown = ", ".join(reason[:_SHOWN] for reason in new[:8]) + (" ..." if new[8:] else "")
        warnings.warn(f"Controllers do not understand, and abstain on missions with: {shown}", stacklevel=2)
    if fits:
        return VOCABULARY.encode(text, LENGTH)
    return np.array([UNKNOWN] + [PADDING] * (LENGTH - 1), np.uint8)
