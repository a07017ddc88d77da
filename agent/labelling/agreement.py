"""How far those who label agree: confusion counts and Cohen's kappa of each pair."""

from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.halo.ledger import Answer, Ledger
from agent.labelling.opinions import Opinions

_Said = dict[tuple[int, int], int]  # (trajectory, step) -> option


def kappa(table: NDArray[np.int64]) -> float | None:
    """Cohen's kappa (1960) of a table of counts [K, K]; None where chance explains all, or nothing was counted."""
    total = table.sum()
    if not total:
        return None
    observed = np.trace(table) / total
    expected = float(table.sum(0) @ table.sum(1)) / float(total) ** 2
    return None if expected >= 1 else float((observed - expected) / (1 - expected))


def agreement(ledger: Ledger, options: int, opinions: Opinions) -> list[dict[str, Any]]:
    """Every pair of people who spoke about the same steps, and each of them with a controller and a teacher.

    Returns:
        Of each pair: `pair` (two names), `steps` that both spoke about, `agree` (a share), `kappa` (or None), and
        `confusion` [K, K], options of the first in rows.
    """
    said: dict[str, _Said] = {}
    for answer in (*ledger.answers, *ledger.readings):
        if answer.report:
            said.setdefault(answer.who or answer.annotator, {})[answer.trajectory, answer.step] = _option(answer)
    people = sorted(said)
    steps = sorted(set().union(*said.values()))
    said |= {name: opinions.options(name, steps) for name in opinions.names}
    pairs = [*combinations(people, 2), *product(people, opinions.names)]
    return [found for one, other in pairs if (found := _pair(one, other, said, options))]


def _pair(one: str, other: str, said: dict[str, _Said], options: int) -> dict[str, Any] | None:
    shared = sorted(said[one].keys() & said[other].keys())
    if one == other or not shared:
        return None
    table = np.zeros((options, options), np.int64)
    for step in shared:
        table[said[one][step], said[other][step]] += 1
    return {
        "pair": [one, other],
        "steps": len(shared),
        "agree": float(np.trace(table) / len(shared)),
        "kappa": kappa(table),
        "confusion": table.tolist(),
    }


def _option(answer: Answer) -> int:
    return int(np.argmax(answer.report))
