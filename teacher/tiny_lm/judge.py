"""How often a language model takes the right option, of all tasks together and of each alone."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from teacher.local import LocalModel
from teacher.tiny_lm.pairs import Pair


def menu_logits(model: LocalModel, pairs: Sequence[Pair], batch: int = 256) -> Tensor:
    """Logits [N, 26] of the letters, minus infinity for those that are not on the menu."""
    tokens = model.encode([pair.prompt for pair in pairs])
    parts = [model.letter_logits(tokens[i : i + batch]) for i in range(0, len(tokens), batch)]
    logits = torch.cat(parts)
    for row, pair in zip(logits, pairs, strict=True):
        row[len(pair.prompt.menu.options) :] = -torch.inf
    return logits


def accuracy(logits: Tensor, answers: Tensor) -> float:
    """Share of prompts whose best letter is the right one."""
    return float((logits.argmax(dim=-1) == answers).double().mean())


def accuracy_by_task(logits: Tensor, pairs: Sequence[Pair]) -> dict[str, float]:
    """Accuracy of each task."""
    names = np.array([pair.task for pair in pairs])
    right = (logits.argmax(dim=-1) == answers_of(pairs)).numpy()
    return {str(name): float(right[names == name].mean()) for name in np.unique(names)}


def answers_of(pairs: Sequence[Pair]) -> Tensor:
    """Right positions [N]."""
    return torch.tensor([pair.answer for pair in pairs])
