"""A label store that is written as lines of JSON and read back is the same store, row for row."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.ground.errors import UserError
from preceptor.teacher.call import OK, Call
from preceptor.teacher.label_lines import from_lines, to_record
from preceptor.teacher.labels import LabelStore

text = st.text(max_size=30)
positive = st.floats(1e-3, 1e9)


@st.composite
def calls(draw: Any) -> Call:
    """Any call that a teacher may have written: answers over a menu, traces, fallbacks."""
    legal = tuple(draw(st.lists(st.integers(0, 7), min_size=1, unique=True).map(sorted)))
    menu = tuple(draw(st.permutations(legal)))
    status = draw(st.sampled_from([OK, OK, "error", "off_menu", "fallback"]))
    probs: tuple[float, ...] = ()
    if status in (OK, "fallback"):
        weights = [draw(st.floats(0.01, 1)) if option in menu else 0.0 for option in range(8)]
        probs = tuple(weight / sum(weights) for weight in weights)
    model, prompt, task, options, scene, source, method, reply = (draw(text) for _ in range(8))
    asked = (model, prompt, task, options, tuple(draw(st.lists(text, max_size=4))), menu, draw(st.integers(0, 9)))
    numbers = draw(st.integers(0, 2**40)), draw(st.floats(0, 1e6)), draw(positive)
    return Call(*asked, scene, legal, source, method, status, probs, reply, *numbers)


def lines_of(store: LabelStore) -> list[bytes]:
    return [json.dumps(to_record(call)).encode() + b"\n" for call in store.calls(answers_only=False)]


@settings(max_examples=50, deadline=None)
@given(st.lists(calls(), max_size=6))
def test_export_and_import_give_the_same_rows_in_the_same_order(rows: list[Call]) -> None:
    before, after = LabelStore(), LabelStore()
    before.merge(rows)  # without those that could not be told from an earlier one
    merged = after.merge(from_lines(lines_of(before), "x"))
    assert merged.added == len(before)
    assert after.calls(answers_only=False) == before.calls(answers_only=False)
    assert after.digest() == before.digest()
    assert lines_of(after) == lines_of(before)


@settings(max_examples=100, deadline=None)
@given(calls(), st.data())
def test_a_line_that_was_hurt_is_refused_or_still_says_the_same(call: Call, data: Any) -> None:
    line = bytearray(json.dumps(to_record(call)).encode())
    line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = from_lines([bytes(line)], "x")
    except UserError:
        return
    assert [one.key for one in read] in ([], [call.key])


@settings(max_examples=10, deadline=None)
@given(calls())
def test_a_file_of_another_program_is_read_with_its_mark_or_named(call: Call) -> None:
    """Spreadsheets begin UTF-8 with a mark, and write UTF-16."""
    line = json.dumps(to_record(call)) + "\n"
    assert from_lines([line.encode("utf-8-sig")], "x") == from_lines([line.encode()], "x")
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        with pytest.raises(UserError, match=r"x is UTF-16 or UTF-32") as caught:
            from_lines(line.encode(encoding).splitlines(keepends=True), "x")
        assert caught.value.next_step.startswith("iconv -f UTF-16")
