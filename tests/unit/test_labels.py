"""The label store: answers are found again, everything else is only remembered."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from preceptor.ground.errors import UserError
from preceptor.teacher.labels import Call, LabelStore, Merged

PROBS = (0.75, 0.0, 0.0, 0.0, 0.25)
ASKED = ("tiny@1", "p", "SmallTask", "o", ("door=red", "held=nothing"), (0, 4), 0, "The red door.", (0, 4))
CALL = Call(*ASKED, "local", "logprobs", "ok", PROBS, "A", 11, 0.5, 1.0)


def call(number: int, **changes: object) -> Call:
    return replace(CALL, facts=(f"door={number}",), **changes)  # type: ignore[arg-type]


def test_answers_come_back_as_they_were(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.sqlite") as store:
        store.put_many([CALL, *(others := [call(i) for i in range(1200)])])
        assert store.get_many([CALL.key]) == {CALL.key: CALL}
        keys = [call(i).key for i in range(1300)]
        assert store.get_many(keys) == {other.key: other for other in others}, "more than SQLite takes at once"
    assert os.listdir(tmp_path) == ["labels.sqlite"]
    with LabelStore(tmp_path / "labels.sqlite", read_only=True) as store:
        assert store.calls("SmallTask", "o")[0] == CALL
        assert store.calls("Other") == []
    assert os.listdir(tmp_path) == ["labels.sqlite"]


def test_what_is_no_answer_is_kept_and_never_given_out() -> None:
    store = LabelStore()
    store.put_many(replace(CALL, status=status, probs=()) for status in ("error", "off_menu", "a later kind"))
    assert len(store) == 3
    assert store.get_many([CALL.key]) == {}
    assert store.calls() == []
    store.put_many([CALL, replace(CALL, probs=PROBS[::-1])])
    assert store.get_many([CALL.key]) == {CALL.key: CALL}, "the first answer stands"


def test_every_part_of_the_question_is_in_the_key_and_keys_are_those_of_stores_that_exist() -> None:
    changes: list[dict[str, Any]] = [{"model": "tiny@2"}, {"prompt": "q"}, {"task": "Other"}, {"options": "n"}]
    changes += [{"facts": ("door=blue", "held=nothing")}, {"menu": (4, 0)}, {"sample": 1}]
    for change in changes:
        other = replace(CALL, **change)
        assert other.key != CALL.key
        assert (other.query == CALL.query) == (set(change) <= {"menu", "sample"})
    assert replace(CALL, scene="", reply="B", status="error", seconds=9.0).key == CALL.key
    assert CALL.key == "d3ac6c3532d5ed4acd3bdcfb76cc3d146a3456ffdddfc610885a0fb27b36fbbd"
    assert CALL.query == "cc799ebb4fc60e431e8b820a35e093567182010bc547a40ad9293fc0fdb3ecd7"


def test_the_digest_is_of_the_answers_alone() -> None:
    one, other = LabelStore(), LabelStore()
    one.put_many([call(i) for i in range(5)])
    other.put_many([call(i, seconds=9.0, created=7.0) for i in reversed(range(5))])
    other.put_many([call(9, status="error", probs=())])
    assert one.digest() == other.digest()
    other.put_many([call(5)])
    assert one.digest() != other.digest()


_WRITER = """
import sys, time
from tests.unit.test_labels import call
from preceptor.teacher.labels import LabelStore
folder, start, first = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
for i in range(20):
    time.sleep(max(0.0, start + 0.05 * i - time.time()))
    with LabelStore(f"{folder}/{i}.sqlite") as store:
        store.put_many([call(1)])
with LabelStore(f"{folder}/shared.sqlite") as store:
    for number in range(first, first + 100):
        store.merge([call(number, created=1.0, status="ok" if number % 3 else "empty")])
"""


def test_processes_may_create_and_write_the_same_store_at_the_same_moment(tmp_path: Path) -> None:
    words, start = [sys.executable, "-c", _WRITER, str(tmp_path)], str(time.time() + 1)
    writers = [
        subprocess.Popen([*words, start, str(first)], stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        for first in (0, 50, 100)
    ]
    assert [writer.communicate()[1] for writer in writers] == [""] * 3
    with LabelStore(tmp_path / "shared.sqlite", read_only=True) as store:
        assert len(store) == 200, "each row once, traces too"


def test_a_merge_adds_what_is_not_there_and_changes_nothing() -> None:
    store = LabelStore()
    trace, other = call(1, status="error", probs=(), reply="refused"), call(0, probs=PROBS[::-1])
    store.put_many([call(0), trace])
    assert store.merge([call(0), other, trace, call(2)]) == Merged(added=1, known=2, kept=1)
    assert store.merge([call(0), other, trace, call(2)]) == Merged(added=0, known=3, kept=1)
    assert store.calls(answers_only=False) == [call(0), trace, call(2)]
    assert store.merge([replace(trace, created=2.0)]).added == 1, "the same failure at another time is another row"


def test_the_last_calls_of_a_kind_and_of_a_task() -> None:
    store = LabelStore()
    elsewhere = replace(CALL, task="Other")
    rows = [call(0), call(1, status="off_menu", probs=()), call(2, status="fallback"), elsewhere, call(3)]
    store.put_many(rows)
    assert store.last_calls(2) == [(4, elsewhere), (5, call(3))]
    assert [row for row, _ in store.last_calls(9, "SmallTask", "answers")] == [1, 5]
    assert [row for row, _ in store.last_calls(9, kind="rejected")] == [2]
    assert [row for row, _ in store.last_calls(9, kind="fallback")] == [3]
    assert store.last_calls(9, "Nothing") == []


def test_latencies_are_those_of_replies() -> None:
    store = LabelStore()
    store.put_many([call(0, seconds=3.0), call(1, seconds=1.0), call(2, status="off_menu", probs=(), seconds=2.0)])
    store.put_many([call(3, status="error", probs=(), seconds=90.0), call(4, status="fallback"), call(5, seconds=0.0)])
    assert [store.latencies(after) for after in (0, 1, 6)] == [[1.0, 2.0, 3.0], [1.0, 2.0], []]


def test_half_a_character_in_a_reply_does_not_cost_the_reply() -> None:
    store = LabelStore()
    store.put_many([replace(CALL, reply="\ud83d A \x00 \U0001f600")])
    assert store.calls()[0].reply == "\\ud83d A \x00 \U0001f600"


def test_files_that_are_no_label_store_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no label store"):
        LabelStore(tmp_path / "none.sqlite", read_only=True)
    (tmp_path / "text").write_text("not a database, and long enough to be looked at as one" * 20)
    LabelStore(tmp_path / "newer").close()
    for name, statement in (("foreign", "CREATE TABLE theirs (x)"), ("newer", "PRAGMA user_version = 99")):
        with contextlib.closing(sqlite3.connect(tmp_path / name)) as db:
            db.execute(statement)
    for name, said in (("text", "cannot be used"), ("foreign", "not a label store"), ("newer", "schema 99")):
        with pytest.raises(UserError, match=said):
            LabelStore(tmp_path / name)


@pytest.mark.parametrize("write", [LabelStore.put_many, LabelStore.merge])
def test_a_store_that_cannot_grow_any_more_is_a_named_error(tmp_path: Path, write: Any) -> None:
    with LabelStore(tmp_path / "labels.sqlite") as store:
        store.put_many([call(0)])
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(UserError, match=r"labels\.sqlite cannot be used.*full"):
            write(store, [call(number) for number in range(1, 2000)])
        assert len(store) == 1
