"""Prompts that begin alike, read together: what they have in common is computed once.

Prompts of a task share their first words, and those of a scene all but the order of the menu. Sorted, they make a tree
of tokens; a row of a batch holds a tree, each token attends to its ancestors, and its position is its depth.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

ROW_TOKENS = 256  # of a tree: beyond, attention over a whole row costs more than what else is shared saves


@dataclass(frozen=True)
class Packed:
    """Some prompts in B rows of T tokens.

    Attributes:
        ids, depths: int64 [B, T], the tokens and their positions.
        ancestors: bool [B, 1, T, T], what each token attends to; padding attends to itself.
        prompts: Which prompts they are, N of them.
        rows, ends: int64 [N], where the last token of each is.
    """

    ids: torch.Tensor
    depths: torch.Tensor
    ancestors: torch.Tensor
    prompts: list[int]
    rows: torch.Tensor
    ends: torch.Tensor

    @torch.inference_mode()
    def read(self, base: Any) -> torch.Tensor:
        """The last hidden state [N, H] of each prompt in a causal network without its head."""
        on = base.device
        hidden = base(
            input_ids=self.ids.to(on),
            position_ids=self.depths.to(on),
            attention_mask=self.ancestors.to(on),
            use_cache=False,
        ).last_hidden_state
        last: torch.Tensor = hidden[self.rows, self.ends]
        return last


@dataclass
class _Tree:
    """A row that grows: its tokens, their depths, and the paths (prompt, nodes) to the last token of each prompt."""

    ids: list[int]
    depths: list[int]
    paths: list[tuple[int, list[int], int]]  # the last number: where the nodes that it shares end


def packed(tokens: Sequence[Sequence[int]], limit: int) -> Iterator[Packed]:
    """Prompts of at least one token in batches of at most `limit` tokens together, padding included (or one row)."""
    trees = list[_Tree]()
    for i in sorted(range(len(tokens)), key=lambda i: list(tokens[i])):
        new, path = tokens[i], list[int]()
        if trees and trees[-1].paths:
            before = trees[-1].paths[-1]
            same = _alike(tokens[before[0]], new)
            if len(trees[-1].ids) + len(new) - same <= ROW_TOKENS:
                path = before[1][:same]
        if not path:
            if trees and (len(trees) + 1) * max(ROW_TOKENS, len(new), *(len(tree.ids) for tree in trees)) > limit:
                yield _padded(trees)
                trees = []
            trees.append(_Tree([], [], []))
        tree, shared = trees[-1], len(path)
        path = [*path, *range(len(tree.ids), len(tree.ids) + len(new) - shared)]
        tree.ids.extend(new[shared:])
        tree.depths.extend(range(shared, len(new)))
        tree.paths.append((i, path, shared))
    if trees:
        yield _padded(trees)


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts begin with alike."""
    least = min(len(one), len(other))
    return next((k for k in range(least) if one[k] != other[k]), least)


def _padded(trees: Sequence[_Tree]) -> Packed:
    width = max(len(tree.ids) for tree in trees)
    ids, depths = np.zeros((2, len(trees), width), np.int64)
    ancestors = np.zeros((len(trees), 1, width, width), np.bool_)
    ancestors[:, 0, range(width), range(width)] = True
    for row, tree in enumerate(trees):
        ids[row, : len(tree.ids)], depths[row, : len(tree.ids)] = tree.ids, tree.depths
        for _, path, shared in tree.paths:
            if own := len(path) - shared:
                block = ancestors[row, 0, path[shared] : path[-1] + 1]
                block[:, path[:shared]] = True
                block[:, path[shared] : path[-1] + 1] = np.tri(own, dtype=np.bool_)
    prompts = [(prompt, row, path[-1]) for row, tree in enumerate(trees) for prompt, path, _ in tree.paths]
    where = torch.tensor([spot[1:] for spot in prompts])
    return Packed(
        torch.as_tensor(ids),
        torch.as_tensor(depths),
        torch.as_tensor(ancestors),
        [prompt for prompt, *_ in prompts],
        where[:, 0],
        where[:, 1],
    )
