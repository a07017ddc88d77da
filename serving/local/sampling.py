"""From logits to tokens: temperature, nucleus, and choices that bind."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

# A node of a tree of choices: token id -> what may follow. END: the choice may end here.
Trie = dict[int, Any]
END = -1
_LEAST = -9999.0  # JSON has no infinity; vLLM's own bound


@dataclass(frozen=True)
class Scored:
    """A token with its raw log-probability, before temperature and constraint, and the most probable alternatives."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def only(node: Trie, logits: torch.Tensor, stops: frozenset[int]) -> torch.Tensor:
    """Logits [V] with nothing left but what a node of choices allows; where a choice ends, a stop token."""
    ids = [token for token in node if token != END] + (sorted(stops) if END in node else [])
    kept = torch.full_like(logits, -torch.inf)
    kept[ids] = logits[ids]
    return kept


def scored(logits: torch.Tensor, tokens: Sequence[int], top: int) -> list[Scored]:
    """Scores of N tokens from logits [N, V], with `top` alternatives each."""
    logprobs = logits.float().log_softmax(dim=-1).clamp(min=_LEAST)
    own = logprobs[torch.arange(len(tokens)), torch.tensor(tokens, dtype=torch.long)].tolist()
    best = logprobs.topk(min(top, logprobs.shape[-1]), dim=-1)
    tops = (zip(*row, strict=True) for row in zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return [Scored(token, logprob, tuple(row)) for token, logprob, row in zip(tokens, own, tops, strict=True)]


def draw(
    logits: torch.Tensor, temperatures: Sequence[float], top_ps: Sequence[float], uniforms: Sequence[float]
) -> list[int]:
    """One token for each row of logits [N, V] by inverting its distribution at a number in [0, 1) of its own.

    A row's draw does not depend on the rest of the batch, up to rounding of its logits.
    """
    temperature = torch.tensor(temperatures, dtype=torch.float64)
    probs = (logits.double() / temperature.where(temperature > 0, 1.0)[:, None]).softmax(dim=-1)
    if min(top_ps) < 1:
        ordered, order = probs.sort(dim=-1, descending=True)
        before = ordered.cumsum(dim=-1) - ordered
        ordered = ordered.where(before < torch.tensor(top_ps, dtype=torch.float64)[:, None], 0.0)
        probs = torch.zeros_like(probs).scatter(-1, order, ordered)
    cumulated = probs.cumsum(dim=-1)
    points = torch.tensor(uniforms, dtype=torch.float64)[:, None] * cumulated[:, -1:]
    drawn = torch.searchsorted(cumulated, points, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    tokens: list[int] = torch.where(temperature > 0, drawn, logits.argmax(dim=-1)).tolist()
    return tokens
