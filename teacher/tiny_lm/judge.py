"""How good a language model is at the tasks' options: accuracy on what was held out, calibration, temperature."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from teacher.local import LocalModel
from teacher.tiny_lm.pairs import Pair

_ECE_BINS = 15


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


def fit_temperature(logits: Tensor, answers: Tensor) -> float:
    """The temperature in [0.25, 8] that minimises the negative log-likelihood (Guo et al., 2017), by a fine grid."""
    grid = np.geomspace(0.25, 8.0, 201)
    losses = [float(torch.nn.functional.cross_entropy(logits / t, answers)) for t in grid]
    return float(grid[int(np.argmin(losses))])


def expected_calibration_error(logits: Tensor, answers: Tensor) -> float:
    """ECE over 15 equal bins of the best option's probability (Naeini et al., 2015)."""
    confidence, chosen = logits.double().softmax(dim=-1).max(dim=-1)
    right = (chosen == answers).double().numpy()
    bins: NDArray[np.int64] = np.minimum((confidence.numpy() * _ECE_BINS).astype(np.int64), _ECE_BINS - 1)
    gaps = [abs(float((right - confidence.numpy())[bins == b].sum())) for b in range(_ECE_BINS)]
    return sum(gaps) / len(right)
