"""Calls as lines of JSON: what is not one is refused by the number of its line."""

import json
import re
from typing import Any

import pytest

from preceptor.ground.errors import UserError
from preceptor.teacher.label_lines import MARK, SCHEMA, from_lines, to_record
from tests.unit.test_labels import CALL, PROBS, call

GOOD = json.dumps(to_record(CALL)).encode()


def line(**changes: Any) -> bytes:
    return json.dumps(to_record(CALL) | changes).encode()


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


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b"{}", "foreign"),
        (b"[]", "foreign"),
        (b'"text"', "foreign"),
        (b'{"instruction": "Choose.", "output": "B"}', "foreign"),
        (line(**{MARK: SCHEMA + 1}), "schema 2.*update"),
        (line(**{MARK: "new"}), "schema 'new'"),
        (GOOD[:-1], "no line of JSON"),
        (GOOD[: len(GOOD) // 2], "no line of JSON"),
        (b"\xff\xfe" + GOOD, "no line of JSON"),
        (b"not json", "no line of JSON"),
        (b"[" * 100_000, "no line of JSON"),
        (GOOD + GOOD, "no line of JSON"),
        (b'{"n": ' + b"9" * 5000 + b"}", "no line of JSON"),
        (line(mood="good"), "fields.*mood.*unknown"),
        (line(reply=None), "'reply' is null"),
        (line(reply="\ud83d"), "no line of JSON"),
        (line(tokens="11"), "'tokens' is"),
        (line(tokens=-1), "'tokens' is -1"),
        (line(tokens=2**63), "'tokens' is"),
        (line(tokens=1.5), "'tokens' is 1.5"),
        (line(sample=True), "'sample' is true"),
        (line(seconds=float("nan")), "'seconds' is NaN"),
        (line(seconds=float("inf")), "'seconds' is Infinity"),
        (line(created=0), "date"),
        (line(created=1e15), "date"),
        (line(facts="door=red"), "'facts' is"),
        (line(facts=[1]), "'facts' is"),
        (line(menu=[0, -4]), "'menu' is"),
        (line(menu={"0": 4}), "'menu' is"),
        (line(menu=[4, 0]), "key is not that"),
        (line(model="other"), "key is not that"),
        (line(facts=["door=blue", "held=nothing"]), "key is not that"),
        (line(key="0" * 64), "key is not that"),
        (line(probs=[]), "sum to 0"),
        (line(probs=[1.0]), "1 probabilities are not those"),
        (line(status="fallback", probs=[0.5]), "1 probabilities are not those"),
        (line(probs=[0.5, 0.0, 0.0, 0.0, 0.25]), "sum to 0.75"),
        (line(probs=[0.5, 0.5, 0.0, 0.0, 0.0]), "do not belong together"),
        (line(probs=[*PROBS, 0.0]), "6 probabilities are not those"),
        (line(legal=[0]), "do not belong together"),
        (line(status="off_menu"), "status 'off_menu' is that of no answer"),
    ],
)
def test_a_line_that_is_no_call_is_refused_by_its_number(bad: bytes, said: str) -> None:
    what = refusal(GOOD, b"\n", bad)
    assert "calls.jsonl, line 3, cannot be imported" in what
    assert re.search(said, what), what


@pytest.mark.parametrize("name", to_record(CALL))
def test_every_field_is_needed(name: str) -> None:
    assert "line 1" in refusal(json.dumps({k: v for k, v in to_record(CALL).items() if k != name}).encode())


def test_what_is_no_answer_travels_too() -> None:
    rows = [call(1, status="error", probs=()), call(2, status="fallback", source="fallback:scripted")]
    rows += [call(3, status="fallback", probs=()), call(4, status="a later kind", probs=()), call(5, probs=PROBS[::-1])]
    assert from_lines([json.dumps(to_record(row)).encode() for row in rows], "x") == rows
