"""Ranges of settings, as types: flags and files are checked against them, and `--help` needs nothing heavy for them."""

import re
from typing import Annotated, Any

from annotated_types import Ge, Gt, Interval
from pydantic import AfterValidator, BeforeValidator

_MOST_SEEDS = 10_000


def _of_person(given: str) -> str:
    if not given.strip() or not given.isprintable() or len(given) > 60:
        raise ValueError("a name of 1 to 60 printable characters")
    return given


def _counted(given: Any) -> Any:
    """Whole numbers, with A:B as those from A on and below B."""
    found: list[Any] = []
    for part in given:
        if span := re.fullmatch(r"(\d{1,9}):(\d{1,9})", str(part)):
            first, end = map(int, span.groups())
            if not 0 < end - first <= _MOST_SEEDS:
                raise ValueError(f"A:B with B above A, and {_MOST_SEEDS:,} numbers at most")
            found += range(first, end)
        else:
            found.append(part)
    return found


Count = Annotated[int, Ge(1)]
CountOrNone = Annotated[int, Ge(0)]
Threads = Annotated[int, Interval(ge=1, le=1024)]
Levels = Annotated[int, Interval(ge=1, le=1_000_000)]  # as many as a split has: ground/level_seeds.py
LevelsOrNone = Annotated[int, Interval(ge=0, le=1_000_000)]
Share = Annotated[float, Interval(ge=0, le=1)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Widths = tuple[Count, ...]
Seeds = Annotated[tuple[CountOrNone, ...], BeforeValidator(_counted)]
PersonName = Annotated[str, AfterValidator(_of_person)]
