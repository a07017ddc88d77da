"""Asynchronous successive halving: a run ends early that is worse than others were at the same share of their steps.

Li et al. (2020), "A system for massively parallel hyperparameter tuning", in the form that stops runs instead of
pausing them: a run that reaches a rung compares itself with all that did before it. What they know of each other is in
files, so that it makes no difference where they run.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from preceptor.ground.atomic import write_file

RUNGS = (2, 1)  # at total / factor ** 2 and total / factor


class Halving:
    """Listens to one run, and ends it.

    Args:
        folder: Of the scores of all runs that are compared.
        name: Of this run.
        total: Steps of this run.
        factor: One in so many goes on.
    """

    def __init__(self, folder: Path, name: str, total: int, factor: int) -> None:
        self._folder, self._name, self._factor = folder, name, factor
        self._rungs = {power: total / factor**power for power in RUNGS}

    def __call__(self, step: int, metrics: Mapping[str, float]) -> bool | None:
        """Whether the run goes on; metrics without a judgement decide nothing."""
        if "eval/sampled_success" not in metrics:
            return None
        for power, rung in self._rungs.items():
            mine = self._folder / f"rung-{power}" / f"{self._name}.json"
            if step >= rung and not mine.exists():
                score = [metrics["eval/sampled_success"], metrics["eval/sampled_return"]]
                write_file(mine, json.dumps(score).encode())
                seen = [json.loads(file.read_bytes()) for file in mine.parent.glob("[!.]*.json")]
                if sum(other > score for other in seen) >= math.ceil(len(seen) / self._factor):
                    return False
        return None
