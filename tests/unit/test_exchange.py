"""Calls as lines of JSON: what is not one is refused by the number of its line."""

import json
import re
from typing import Any

import pytest

from preceptor.ground.errors import UserError
from preceptor.teacher.label_lines import MARK, SCHEMA, from_lines, to_record
from tests.unit.test_labels import CALL, PROBS, call

GOOD = json.dumps(to_record(CALL)).encode()


def refusal(*lines: bytes) -> str:
    with pytest.raises(UserError) as caught:
        from_lines(lines, "calls.jsonl", {CALL.options: len(PROBS)})
    assert "nothing of the file was imported" in caught.value.next_step
    return caught.value.what


def test_a_line_is_the_row_with_its_key() -> None:
    record = json.loads(GOOD)
    assert record[MARK] == SCHEMA
    assert record["key"] == CALL.key
    assert record["facts"] == list(CALL.facts)
    assert from_lines([GOOD, b"\n", b"  \r\n", GOOD + b"\r\n"], "x") == [CALL, CALL]
    assert from_lines([], "x") == []


REFUSED: list[tuple[str, list[bytes | dict[str, Any]]]] = [
    ("foreign", [b"{}", b"[]", b'"text"', b'{"instruction": "Choose.", "output": "B"}']),
    ("schema 2.*update", [{MARK: SCHEMA + 1}]),
    ("schema 'new'", [{MARK: "new"}]),
    ("no line of JSON", [GOOD[:-1], GOOD[: len(GOOD) // 2], b"\xff\xfe" + GOOD, b"not json", b"[" * 100_000]),
    ("no line of JSON", [GOOD + GOOD, b'{"n": ' + b"9" * 5000 + b"}", {"reply": "\ud83d"}]),
    ("fields.*mood.*unknown", [{"mood": "good"}]),
    ("'reply' is null", [{"reply": None}]),
    ("'tokens' is", [{"tokens": wrong} for wrong in ("11", -1, 2**63, 1.5)]),
    ("'sample' is true", [{"sample": True}]),
    ("'seconds' is NaN", [{"seconds": float("nan")}]),
    ("'seconds' is Infinity", [{"seconds": float("inf")}]),
    ("date", [{"created": 0}, {"created": 1e15}]),
    ("'facts' is", [{"facts": "door=red"}, {"facts": [1]}]),
    ("'menu' is", [{"menu": [0, -4]}, {"menu": {"0": 4}}]),
    ("key is not that", [{"menu": [4, 0]}, {"model": "other"}, {"facts": ["door=blue"]}, {"key": "0" * 64}]),
    ("sum to 0", [{"probs": []}]),
    ("sum to 0.75", [{"probs": [0.5, 0.0, 0.0, 0.0, 0.25]}]),
    ("1 probabilities are not those", [{"probs": [1.0]}, {"status": "fallback", "probs": [0.5]}]),
    ("6 probabilities are not those", [{"probs": [*PROBS, 0.0]}]),
    ("do not belong together", [{"probs": [0.5, 0.5, 0.0, 0.0, 0.0]}, {"legal": [0]}]),
    ("status 'off_menu' is that of no answer", [{"status": "off_menu"}]),
]


@pytest.mark.parametrize(("said", "bad"), [(said, bad) for said, many in REFUSED for bad in many])
def test_a_line_that_is_no_call_is_refused_by_its_number(said: str, bad: bytes | dict[str, Any]) -> None:
    hurt = bad if isinstance(bad, bytes) else json.dumps(to_record(CALL) | bad).encode()
    what = refusal(GOOD, b"\n", hurt)
    assert "calls.jsonl, line 3, cannot be imported" in what
    assert re.search(said, what), what


@pytest.mark.parametrize("name", to_record(CALL))
def test_every_field_is_needed(name: str) -> None:
    assert "line 1" in refusal(json.dumps({k: v for k, v in to_record(CALL).items() if k != name}).encode())


def test_fallbacks_without_an_answer_and_later_kinds_travel_too() -> None:
    rows = [call(i, status=status, probs=()) for i, status in enumerate(("fallback", "a later kind"))]
    assert from_lines([json.dumps(to_record(row)).encode() for row in rows], "x") == rows
