"""A tokenizer in which a colour and an option letter are one token wherever they stand, and missions are words.

The text is first cut after sentences and lines and around colours and letters of a menu; then byte-pair encoding merges
what is left, often a whole sentence of a scene, into few tokens: fewer to read for the model, and to compute. Colours
and letters are never merged with their neighbours, so what is learnt about `red` in a scene holds for `red` on the
menu. Where a sentence begins with a small letter, which missions and plans do, words are not merged with each other, so
that a sentence in a new form is of known words. Any other text still encodes, in more tokens.
"""

from collections.abc import Iterable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from preceptor.teacher.prompts import LETTERS
from preceptor.teacher.tiny_lm.pairs import COLOURS

END, PAD = "<|end|>", "<|pad|>"

# Messages follow each other as they are, on lines of their own: servers that ignore chat templates (FastChat) then send
# the same text. A plain line break after a block would be trimmed.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}"
)

_ENDS = Regex(r"[.:\n]")
_MISSION = Regex(r"\G(?: ?[a-z]+|,)")  # \G: without a gap from the beginning
_WORDS = Regex(rf"[A-Z](?=\))|\b(?:{'|'.join(COLOURS)})\b")


def train_tokenizer(texts: Iterable[str], vocab_size: int, prefix: str = "") -> Any:
    """A `PreTrainedTokenizerFast`.

    Args:
        texts: What it is trained on.
        vocab_size: Tokens at most, without the prefix.
        prefix: What all prompts begin with, which is then one token; empty for nothing.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_ENDS, "merged_with_previous"),
            pre_tokenizers.Split(_MISSION, "isolated"),
            pre_tokenizers.Split(_WORDS, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*(text.removeprefix(prefix) for text in texts), *COLOURS], trainer)
    if prefix:
        tokenizer.add_tokens([AddedToken(prefix, normalized=False)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=PAD, chat_template=CHAT_TEMPLATE
    )
    split = [word for word in (*LETTERS, *COLOURS) if len(fast.encode(word, add_special_tokens=False)) != 1]
    if split:
        raise ValueError(f"the tokenizer splits {split}")
    return fast
