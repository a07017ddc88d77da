"""How far annotators agree: confusion counts and Cohen's kappa of each pair."""

from collections.abc import Mapping
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.halo.ledger import Ledger
from agent.labelling.opinions import Opinions


def kappa(table: NDArray[np.int64]) -> float | None:
    """Cohen's kappa (1960) of a table of counts [K, K]; None where chance explains all, or nothing was counted."""
    total = table.sum()
    if not total:
        return None
    observed = np.trace(table) / total
    expected = float(table.sum(0) @ table.sum(1)) / float(total) ** 2
    return None if expected >= 1 else float((observed - expected) / (1 - expected))


def agreement(ledger: Ledger, options: int, opinions: Opinions) -> list[dict[str, Any]]:
    """Every pair of people who answered about the same steps, and each of them with a controller and a teacher, as
    `compared` has it."""
    said: dict[str, dict[tuple[int, int], int]] = {}  # name -> (trajectory, step) -> option
    for answer in (*ledger.answers, *ledger.readings):
        if answer.report:
            place = answer.trajectory, answer.step
            said.setdefault(answer.who or answer.annotator, {})[place] = int(np.argmax(answer.report))
    people = sorted(said)
    steps = sorted(set().union(*said.values()))
    said |= {name: opinions.options(name, steps) for name in opinions.names}
    pairs = [*combinations(people, 2), *product(people, opinions.names)]
    return [found for pair in pairs if (found := compared(said, pair, options))]


def compared(said: Mapping[str, Mapping[Any, int]], pair: tuple[str, str], options: int) -> dict[str, Any] | None:
    """How far a pair agrees; None if there is nothing that both spoke about.

    Args:
        said: The option that each chose, by name and by what was asked.
        pair: Two of the names.
        options: K, how many options there are.

    Returns:
        `pair`, `steps` that both spoke about, `agree` (a share), `kappa` (or None), and `confusion` [K, K], options of
        the first in rows.
    """
    one, other = said[pair[0]], said[pair[1]]
    shared = one.keys() & other.keys()
    if pair[0] == pair[1] or not shared:
        return None
    table = np.zeros((options, options), np.int64)
    np.add.at(table, ([one[step] for step in shared], [other[step] for step in shared]), 1)
    agree = float(np.trace(table) / len(shared))
    return {
        "pair": list(pair),
        "steps": len(shared),
        "agree": agree,
        "kappa": kappa(table),
        "confusion": table.tolist(),
    }
