"""A language model in this process: the embedded default, and any transformers model in a folder.

The letters of all prompts and all permuted menus are scored in one batched forward pass; nothing is generated.
transformers takes seconds to import, so it is imported when a model is loaded and not before.
"""

import hashlib
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from preceptor.ground.errors import UserError
from preceptor.teacher.asking import Reply
from preceptor.teacher.call import OK
from preceptor.teacher.card import TINY_MODEL, card_of
from preceptor.teacher.packing import packed
from preceptor.teacher.prompts import LETTERS, Prompt

# Padded tokens per forward pass: a thousand stay in a processor's cache (half as fast again as ten thousand); a GPU is
# busy with far more.
CPU_BATCH_TOKENS, _GPU_BATCH_TOKENS = 1_024, 65_536


class LocalModel:
    """Scores the letters of a menu with a causal language model on the CPU.

    Args:
        path: Folder with a transformers model. Its `preceptor.json`, if there is one, gives the calibrated temperature
            and the prompt template.
        device: Where the network is.
        shares: Read what prompts have in common once: faster for many, and other roundings.

    Attributes:
        template: Name of the prompt template that the model wants.
        temperature: Divides the letters' logits; fitted on held-out scenes.
        tasks: What it was trained on, where its card tells.
    """

    method = "logprobs"
    samples = 1

    def __init__(
        self, path: Path | str = TINY_MODEL, *, device: torch.device | str = "cpu", shares: bool = False
    ) -> None:
        self.path, self._shares = Path(path), shares
        self.tokenizer, network = load_model(self.path)
        self.network = network.to(device)
        card = card_of(self.path)
        self.template: str = card.get("prompt", "chat")
        self.temperature: float = card.get("temperature", 1.0)
        self.tasks: tuple[str, ...] = tuple(card.get("tasks", ()))
        self.source = "local" if self.path == TINY_MODEL else f"local:{self.path.name}"
        self.name = f"{self.path.name}@{_weights_hash(self.path)}@T={self.temperature:.4f}"
        self.extra: dict[str, float] = {}
        self._batch_tokens = CPU_BATCH_TOKENS if torch.device(device).type == "cpu" else _GPU_BATCH_TOKENS
        letters = [self.tokenizer.encode(letter, add_special_tokens=False) for letter in LETTERS]
        if split := [letter for letter, ids in zip(LETTERS, letters, strict=True) if len(ids) != 1]:
            raise UserError(f"The tokenizer of {self.path} splits the letter {split[0]!r}.", "use another model")
        self._letter_ids = torch.tensor(letters)[:, 0]

    def replies(self, prompts: Sequence[Prompt]) -> Generator[list[tuple[int, Reply]], None, None]:
        """Scores of the menus' letters, in batches of prompts of similar length."""
        tokens = self.encode(prompts)
        started = time.perf_counter()
        for batch, read in self._read(tokens):
            logits = read.double() / self.temperature
            menus = [len(prompts[i].menu.options) for i in batch]
            scores = [tuple(row[:size].softmax(dim=-1).tolist()) for row, size in zip(logits, menus, strict=True)]
            share = (time.perf_counter() - started) / len(batch)
            yield [
                (i, Reply(OK, score, LETTERS[score.index(max(score))], len(tokens[i]) + 1, share))
                for i, score in zip(batch, scores, strict=True)
            ]
            started = time.perf_counter()

    def _read(self, tokens: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Batches of prompts, and the logits of the letters after them."""
        if self._shares:
            for pack in packed(tokens, self._batch_tokens):
                yield pack.prompts, self._letters(pack.read(self.network.base_model))
        else:
            for batch in batches([len(ids) for ids in tokens], self._batch_tokens):
                yield batch, self.letter_logits([tokens[i] for i in batch])

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of prompts, through the model's own chat template."""
        texts = [
            self.tokenizer.apply_chat_template(prompt.chat, tokenize=False, add_generation_prompt=True)
            for prompt in prompts
        ]
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    @torch.inference_mode()
    def letter_logits(self, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits [N, 26] of the letters as the next token after N prompts."""
        lengths = [len(ids) for ids in tokens]
        # Padding stands on the right, where causal attention never looks back from: no mask is needed.
        padded = pad_sequence([torch.tensor(ids) for ids in tokens], batch_first=True).to(self.network.device)
        hidden = self.network.base_model(input_ids=padded, use_cache=False).last_hidden_state  # [N, T, H]
        return self._letters(hidden[range(len(tokens)), [length - 1 for length in lengths]])

    @torch.inference_mode()
    def _letters(self, last: torch.Tensor) -> torch.Tensor:
        """Logits [N, 26] of the letters after N last hidden states [N, H]."""
        logits: torch.Tensor = self.network.get_output_embeddings()(last)[:, self._letter_ids]
        return logits.float().cpu()


def load_model(path: Path) -> tuple[Any, Any]:
    """Tokenizer and network in evaluation mode, from files alone. Raises `UserError` for a folder without a model."""
    if not (path / "config.json").is_file():
        train = "python -m preceptor.teacher.tiny_lm.train --out teacher/tiny_lm/model"
        folder = "give a folder with config.json, weights and tokenizer"
        raise UserError(f"There is no model in {path}.", train if path == TINY_MODEL else folder)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    silence_transformers()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        network = AutoModelForCausalLM.from_pretrained(path, local_files_only=True, dtype=torch.float32)
    except Exception as error:  # transformers raises whatever its many loaders raise
        what = f"The model in {path} cannot be loaded: {error}."
        raise UserError(what, "give another folder with --model") from error
    return tokenizer, network.eval()


def silence_transformers() -> None:
    """No bar for a load of milliseconds, and no warning of the rope factor that FastChat needs."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _weights_hash(path: Path) -> str:
    """Hash of weights and tokenizer: labels of a retrained model are new labels."""
    digest = hashlib.sha256()
    for file in sorted((*path.glob("*.safetensors"), *path.glob("tokenizer.json"))):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def batches(lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Indices of prompts by their lengths, the shortest first, of at most `limit` padded tokens together (or one)."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[i] > limit:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
