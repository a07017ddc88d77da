"""Ranges of settings, as types: flags and files are checked against them, and `--help` needs nothing heavy for them."""

from typing import Annotated

from annotated_types import Ge, Gt, Interval
from pydantic import AfterValidator


def _of_person(given: str) -> str:
    if not given.strip() or not given.isprintable() or len(given) > 60:
        raise ValueError("a name of 1 to 60 printable characters")
    return given


Count = Annotated[int, Ge(1)]
CountOrNone = Annotated[int, Ge(0)]
Threads = Annotated[int, Interval(ge=1, le=1024)]
Levels = Annotated[int, Interval(ge=1, le=1_000_000)]  # as many as a split has: ground/level_seeds.py
LevelsOrNone = Annotated[int, Interval(ge=0, le=1_000_000)]
Share = Annotated[float, Interval(ge=0, le=1)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Widths = tuple[Count, ...]
PersonName = Annotated[str, AfterValidator(_of_person)]
