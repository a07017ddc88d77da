"""The results of the pages as JSON: `python -m dev.results_json` writes docs/results/tables.json and curves.json.

Tables are read off the pages, each with the command that is named before it. Curves are those of the runs of
`dev.tables` that are in log/, thinned; runs that are not there keep the curve that was written before.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_METHODS = ("hiro", "halo", "hvd", "helios")
PAGES = ("docs/results.md", "docs/speed.md", *(f"docs/methods/{name}.md" for name in _METHODS))
TABLES, CURVES = ROOT / "docs/results/tables.json", ROOT / "docs/results/curves.json"
POINTS = 40  # of a curve
MEASURES = (
    "rollout/guided_success",
    "rollout/success",
    "rollout/return",
    "eval/sampled_success",
    "eval/greedy_success",
)

_NUMBER = r"[+-]?(?:\d[\d,]*\.?\d*|\.\d+)"
_SEVERAL = re.compile(rf"{_NUMBER}(?: {_NUMBER})+")
_CELL = re.compile(
    rf"\*{{0,2}}(?P<mean>{_NUMBER})\*{{0,2}}(?: \[(?P<low>{_NUMBER}), (?P<high>{_NUMBER})\])?"
    rf"(?: \((?P<seeds>{_NUMBER}(?: {_NUMBER})*)\))?(?:(?:, | · )(?P<length>{_NUMBER})(?: steps)?)?"
)
_COMMAND = re.compile(r"(?:`|^)(make bench|python (?:-m (?:dev|bench)\.|main\.py )[^`#\n]*)", re.MULTILINE)


def value(cell: str) -> Any:
    """What a cell says: a number, or several; a mean with its interval, its seeds and a length; null for a dash; or its
    text."""
    if cell in ("–", "", "not measured"):
        return None
    if _SEVERAL.fullmatch(cell):
        return [_number(word) for word in cell.split()]
    found = _CELL.fullmatch(cell)
    if found is None:
        return cell
    said = {name: [_number(word) for word in text.split()] for name, text in found.groupdict().items() if text}
    numbers = {name: each if name == "seeds" else each[0] for name, each in said.items()}
    return numbers["mean"] if len(numbers) == 1 else numbers


def _number(word: str) -> float | int:
    plain = word.replace(",", "")
    return float(plain) if "." in plain else int(plain)


def tables_of(page: str, text: str) -> Iterator[dict[str, Any]]:
    """The tables of a page: where each is, the command that makes it, and its rows by column."""
    for found in re.finditer(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in found[0].splitlines())
        commands = _COMMAND.findall(text[: found.start()])
        named = [name or "row" for name in head]
        read = [dict(zip(named, map(value, row), strict=True)) for row in rows]
        if commands and any(isinstance(cell, int | float | dict | list) for row in read for cell in row.values()):
            yield {"page": page, "command": commands[-1].strip(), "rows": read}


def tables() -> list[dict[str, Any]]:
    """The tables of all pages with results."""
    return [table for page in PAGES for table in tables_of(page, (ROOT / page).read_text())]


def curves(log: Path, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The learning curves of the tables' runs under a log directory, over those that were there before."""
    found = {curve["run"]: curve for curve in before}
    for file in log.glob("*/*/table*/seed-*/metrics.jsonl"):
        run = str(file.parent.relative_to(log))
        if (file.parent / "result.json").exists():
            found[run] = {"run": run, **_thinned([json.loads(line) for line in file.read_text().splitlines()])}
    return [found[run] for run in sorted(found)]


def _thinned(lines: list[dict[str, float]]) -> dict[str, Any]:
    """Points [step, value] of each measure; of many, some at equal distances and the last."""
    series = {name: [(line["step"], round(line[name], 4)) for line in lines if name in line] for name in MEASURES}
    return {name: [*points[: -1 : len(points) // POINTS + 1], points[-1]] for name, points in series.items() if points}


def main() -> None:
    """Write both files."""
    TABLES.parent.mkdir(exist_ok=True)
    before = json.loads(CURVES.read_text()) if CURVES.exists() else []
    for file, content in ((TABLES, tables()), (CURVES, curves(ROOT / "log", before))):
        file.write_text("[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in content) + "\n]\n")


if __name__ == "__main__":
    main()
