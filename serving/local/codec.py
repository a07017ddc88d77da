"""Text to tokens and back, for one tokenizer."""

from collections.abc import Sequence
from functools import lru_cache
from inspect import signature
from typing import Any

from preceptor.serving.local.sampling import END, Trie

# Tokens before a continuation that its text is decoded with: some tokenizers drop the space of a text's first token.
_CONTEXT = 4


class Codec:
    """A tokenizer, as the server uses it. One thread at a time may encode; decoding is safe from any.

    Attributes:
        stops: Tokens that end a reply.
        longest: Characters of the longest token.
    """

    def __init__(self, tokenizer: Any, stops: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self.stops = stops
        self.longest = max(map(len, tokenizer.get_vocab()))
        self._taken = {"conversation", *signature(tokenizer.apply_chat_template).parameters}
        self._anchor = self.encode("a", special=False)[-1:]
        self.piece = lru_cache(maxsize=65536)(self._piece)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids of a text, with or without the tokenizer's own special tokens around them."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        return ids

    def render(self, messages: list[dict[str, str]], extra: dict[str, Any]) -> list[int]:
        """Token ids of a chat through the tokenizer's template. Raises what the template raises.

        Raises:
            ValueError: `extra` names an argument that is not the template's, such as another template: that is a
                program, and its loops need not end.
        """
        if taken := self._taken.intersection(extra):
            raise ValueError(f"{', '.join(sorted(taken))} cannot be set by a request")
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **extra)
        return self.encode(text, special=False)

    def choices(self, texts: Sequence[str]) -> Trie:
        """The tree of the continuations that spell one of some texts."""
        root: Trie = {}
        for text in texts:
            node = root
            for token in self.encode(text, special=False):
                node = node.setdefault(token, {})
            node[END] = {}
        return root

    def text(self, ids: Sequence[int], after: Sequence[int] = ()) -> str:
        """The text of tokens that follow others."""
        context = list(after[-_CONTEXT:])
        return self._decode([*context, *ids])[len(self._decode(context)) :]

    def _piece(self, token: int) -> str:
        """The text of one token in the middle of others, special tokens by their names."""
        both = self._tokenizer.decode([*self._anchor, token], skip_special_tokens=False)
        return str(both)[len(self._decode(self._anchor)) :]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
