"""What is an answer, and what is not."""

import pytest

from teacher.parse import MAX_REPLY_CHARS, ParseFailure, parse_reply

WORDS = ("go to the key", "explore the room", "open the door")


@pytest.mark.parametrize(
    ("reply", "position"),
    [
        ("B", 1),
        (" b\n", 1),
        ("(C)", 2),
        ("**A**", 0),
        ("Answer: C.", 2),
        ("The answer is (B)", 1),
        ("B) explore the room", 1),
        ("Explore the room.", 1),
        ("`A`", 0),
        ("option a", 0),
    ],
)
def test_replies_that_name_one_option(reply: str, position: int) -> None:
    assert parse_reply(reply, WORDS) == position


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        ("", ParseFailure.EMPTY),
        (" \n", ParseFailure.EMPTY),
        ("...", ParseFailure.EMPTY),
        ("D", ParseFailure.OFF_MENU),
        ("unlock everything", ParseFailure.OFF_MENU),
        ("__import__('os').system('true')", ParseFailure.OFF_MENU),
        ("A or B", ParseFailure.AMBIGUOUS),
        ("A) explore the room", ParseFailure.AMBIGUOUS),
        ("B, because the room is dark", ParseFailure.AMBIGUOUS),
        ("I would explore the room", ParseFailure.AMBIGUOUS),
        ("\u212a", ParseFailure.OFF_MENU),  # the Kelvin sign, whose lower case is k
        ("B" * (MAX_REPLY_CHARS + 1), ParseFailure.TOO_LONG),
    ],
)
def test_replies_that_are_failures(reply: str, failure: ParseFailure) -> None:
    assert parse_reply(reply, WORDS) is failure


def test_words_that_two_options_share_name_neither() -> None:
    assert isinstance(parse_reply("wait", ("wait", "wait")), ParseFailure)
