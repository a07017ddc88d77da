"""What is an answer, and what is not: a fixed collection of replies, and the long ones."""

import json
import time
from pathlib import Path

import pytest

from preceptor.teacher.parse import MAX_REPLY_CHARS, ParseFailure, parse_reply

COLLECTION = Path(__file__).parents[1] / "golden" / "replies.jsonl"
WORDS = ("go to the key", "explore the room", "open the door")


def test_each_reply_of_the_collection_is_what_it_was_judged_to_be() -> None:
    head, *lines = [json.loads(line) for line in COLLECTION.read_text().splitlines()]
    wrong = {line["reply"]: got for line in lines if (got := parse_reply(line["reply"], head["menu"])) != line["is"]}
    assert wrong == {}
    verdicts = [line["is"] for line in lines]
    assert len(lines) > 500
    assert {*verdicts} == {*ParseFailure, 0, 1, 2, 3} - {"too_long"}
    assert len({failure.words for failure in ParseFailure}) == len(ParseFailure)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("B" * (MAX_REPLY_CHARS + 1), ParseFailure.TOO_LONG),
        ("A " * MAX_REPLY_CHARS, ParseFailure.TOO_LONG),
        ("<think>a</think>" + "B\n" * MAX_REPLY_CHARS, ParseFailure.TOO_LONG),
        ("x" * 1_000_000, ParseFailure.TOO_LONG),
        ("<think>" + "A or B " * 100_000, ParseFailure.UNFINISHED),
        ("<think>" + "A or B " * 100_000 + "</think>\n\nC", 2),
        ("B" + "\n" * (MAX_REPLY_CHARS - 1), 1),
        ("\n" * (MAX_REPLY_CHARS - 7) + "because", ParseFailure.OFF_MENU),
        ("```\n" * 200, ParseFailure.EMPTY),
        ('{"answer":' * 90, ParseFailure.OFF_MENU),
        ("(" * (MAX_REPLY_CHARS - 1) + "B", 1),
    ],
)
def test_long_replies_take_no_time(reply: str, verdict: int | ParseFailure) -> None:
    started = time.monotonic()
    assert parse_reply(reply, WORDS) == verdict
    assert time.monotonic() - started < 5


def test_options_may_be_worded_with_any_character() -> None:
    assert isinstance(parse_reply("wait", ("wait", "wait")), ParseFailure), "words that two options share name neither"
    words = ("really? {yes}", "is it ~5?")
    assert [parse_reply(option, words) for option in words] == [0, 1]
    assert parse_reply("B) is it ~5?", words) == 1
