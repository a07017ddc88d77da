"""Who deserves credit for a chunk: how the values of subsets of action groups become one advantage for each group.

A critic knows Q(s, a_S) for subsets S of the groups: what is to be expected if the actions of the groups in S are those
of the chunk, and those of the others are as the data have them. Every attribution here is linear in these values.
"""

from itertools import permutations
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from preceptor.ground.device import to_tensor

Word = Literal["flat", "difference", "prefix", "marginal", "shapley", "alone", "last"]
_ALL_ORDERS = 5  # up to so many groups every order counts
_ORDERS = 32  # of more groups, as many orders are sampled, each with its reverse


class Attribution(NamedTuple):
    """M subsets of G groups, and the advantage of each group as a linear function of their values.

    Attributes:
        sets: bool [M, G].
        share: float32 [G, M], of each value in the advantage of each group.
        baseline: Whether V(s) is subtracted from it.
        levels: int64 [L], the subsets whose values V is learnt from.
    """

    sets: NDArray[np.bool_]
    share: NDArray[np.float32]
    baseline: bool
    levels: NDArray[np.int64]

    def advantages(self, values: Tensor, v: Tensor) -> Tensor:
        """Advantages [B, G] of values [M, B] and V(s) [B]."""
        found = values.T @ to_tensor(self.share.T)
        return found - v[:, None] if self.baseline else found


def attribution(word: Word, groups: int, rng: np.random.Generator) -> Attribution:
    """The attribution of a name.

    flat: Q - V of all groups together, for each (implicit Q-learning; Kostrikov et al., 2022).
    difference: Q - Q of no group, in equal parts: as flat, with the baseline from the same network.
    prefix: Q of the groups up to each in their order, minus V (HVD; Zhang et al., 2026).
    marginal: what each adds to those before it, Q of the groups up to it - Q of those before.
    shapley: the mean of that over all orders (Shapley, 1953); over sampled ones of more than five groups.
    alone: what each adds to none, Q of it - Q of no group: a critic whose groups are not ordered.
    last: what each adds to all others, Q - Q without it (Wolpert & Tumer, 2002).

    Args:
        word: Its name.
        groups: G, in their order.
        rng: Samples orders.
    """
    each, full, empty = np.eye(groups, dtype=np.bool_), np.ones(groups, np.bool_), np.zeros(groups, np.bool_)
    if word == "flat":
        return _of([[(1.0, full)]] * groups, baseline=True)
    if word == "difference":  # a part of it for each, so that the sum is that of all
        return _of([[(1.0 / groups, full), (-1.0 / groups, empty)]] * groups)
    if word == "prefix":
        prefixes = np.tri(groups, dtype=np.bool_)
        return _of([[(1.0, row)] for row in prefixes], baseline=True, levels=prefixes)
    if word == "alone":
        return _of([[(1.0, row), (-1.0, empty)] for row in each])
    if word == "last":
        return _of([[(1.0, full), (-1.0, ~row)] for row in each])
    orders = [np.arange(groups)] if word == "marginal" else _orders(groups, rng)
    terms: list[list[tuple[float, NDArray[np.bool_]]]] = [[] for _ in range(groups)]
    for order in orders:
        before = empty
        for group in order:
            after = before | each[group]
            terms[group] += [(1 / len(orders), after), (-1 / len(orders), before)]
            before = after
    return _of(terms)


def _orders(groups: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    if groups <= _ALL_ORDERS:
        return [np.array(order) for order in permutations(range(groups))]
    sampled = [rng.permutation(groups) for _ in range(_ORDERS // 2)]
    return [order for one in sampled for order in (one, one[::-1])]


def _of(
    terms: list[list[tuple[float, NDArray[np.bool_]]]],
    baseline: bool = False,
    levels: NDArray[np.bool_] | None = None,
) -> Attribution:
    """The attribution whose advantages are sums of factors times values, terms [G][...]."""
    full = np.ones(len(terms), np.bool_)
    wanted = {full.tobytes(): full} | {row.tobytes(): row for term in terms for _, row in term}
    sets = sorted(wanted.values(), key=lambda row: (row.sum(), tuple(~row)))
    at = {row.tobytes(): column for column, row in enumerate(sets)}
    share = np.zeros((len(terms), len(sets)))
    for group, term in enumerate(terms):
        for factor, row in term:
            share[group, at[row.tobytes()]] += factor
    learnt = [full] if levels is None else list(levels)
    return Attribution(
        np.array(sets), share.astype(np.float32), baseline, np.array([at[row.tobytes()] for row in learnt])
    )


def fault_auc(blame: NDArray[np.floating], faulty: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: how well a blame [B] ranks what was faulty [B] above the rest; nan without both."""
    positive = int(faulty.sum())
    if positive in (0, len(blame)):
        return float("nan")
    above = ranks(blame)[faulty].sum() - positive * (positive + 1) / 2
    return float(above / (positive * (len(blame) - positive)))


def ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Of each value [B] its place from the smallest on, from 1 to B; equal ones share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((counts.cumsum() - (counts - 1) / 2)[inverse], np.float64)
