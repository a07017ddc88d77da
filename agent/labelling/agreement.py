"""How far annotators agree: confusion counts and Cohen's kappa of each pair."""

from collections.abc import Mapping
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.halo.ledger import Ledger
from preceptor.agent.labelling.opinions import Opinions


def agreement(ledger: Ledger, options: int, opinions: Opinions) -> list[dict[str, Any]]:
    """Every pair of people who answered about the same steps, and each of them with a controller and a teacher."""
    said: dict[str, dict[tuple[int, int], int]] = {}  # name -> (trajectory, step) -> option
    for answer in (*ledger.answers, *ledger.readings):
        if answer.report:
            place = answer.trajectory, answer.step
            said.setdefault(answer.who or answer.annotator, {})[place] = int(np.argmax(answer.report))
    pairs = [*combinations(sorted(said), 2), *product(sorted(said), opinions.names)]
    steps = sorted(set().union(*said.values()))
    said |= {name: opinions.options(name, steps) for name in opinions.names}
    return [found for pair in pairs if (found := compared(said, pair, options))]


def compared(said: Mapping[str, Mapping[Any, int]], pair: tuple[str, str], options: int) -> dict[str, Any] | None:
    """How far two names agree, given the option that each chose by what was asked; None if nothing was asked of both.

    `confusion` [K, K] has the options of the first in rows.
    """
    one, other = said[pair[0]], said[pair[1]]
    shared = one.keys() & other.keys()
    if pair[0] == pair[1] or not shared:
        return None
    table = np.zeros((options, options), np.int64)
    np.add.at(table, ([one[step] for step in shared], [other[step] for step in shared]), 1)
    agree = float(np.trace(table) / len(shared))
    return {"pair": pair, "steps": len(shared), "agree": agree, "kappa": kappa(table), "confusion": table.tolist()}


def kappa(table: NDArray[np.int64]) -> float | None:
    """Cohen's kappa (1960) of a table of counts [K, K]; None where chance explains all, or nothing was counted."""
    shares = table / max(table.sum(), 1)
    observed, expected = np.trace(shares), shares.sum(0) @ shares.sum(1)
    return float((observed - expected) / (1 - expected)) if table.any() and expected < 1 else None
