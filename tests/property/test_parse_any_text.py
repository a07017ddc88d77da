"""The parser takes any text and gives a position on the menu or a failure, nothing else."""

import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.teacher.parse import ParseFailure, parse_reply
from preceptor.teacher.prompts import LETTERS

menus = st.lists(st.text("abcdefghij ", min_size=1).filter(str.strip), min_size=1, max_size=26)
PIECES = (
    "<think>", "</think>", "```", "```json\n", "{", "}", '"answer"', ":", "\\boxed{", "**", "(", ")", ".", "\n", " ",
    "Answer", "the answer is", "Because", "not", "A", "B", "a", "or", "</s>", "option", "=", "?",
)  # fmt: skip
noise = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
replies = st.text() | st.from_regex(re.compile(r"[A-Za-z(\[)\]:. *]{0,12}"), fullmatch=True) | noise
distinct_words = st.lists(st.sampled_from(["go", "take it", "open it", "wait here"]), min_size=1, unique=True)


@settings(deadline=None)
@given(replies, menus)
def test_any_text_is_a_position_or_a_failure(reply: str, words: list[str]) -> None:
    parsed = parse_reply(reply, words)
    assert isinstance(parsed, ParseFailure) or 0 <= parsed < len(words)


@settings(deadline=None)
@given(menus, st.data())
def test_a_letter_is_its_position_and_others_are_off_the_menu(words: list[str], data: st.DataObject) -> None:
    position = data.draw(st.integers(0, 25))
    same_as_words = [i for i, option in enumerate(words) if option.strip() == LETTERS[position].lower()]
    parsed = parse_reply(
        data.draw(st.sampled_from(["{}", "({})", "Answer: {}", " {}."])).format(LETTERS[position]), words
    )
    if position < len(words):
        assert parsed == position or same_as_words
    else:
        assert parsed is ParseFailure.OFF_MENU or same_as_words


@settings(deadline=None)
@given(distinct_words, st.data())
def test_the_letter_of_one_option_with_another_is_never_an_answer(words: list[str], data: st.DataObject) -> None:
    one, other = (data.draw(st.integers(0, len(words) - 1)) for _ in range(2))
    parsed = parse_reply(f"{LETTERS[one]}) {words[other]}", words)
    assert parsed == one if one == other else parsed is ParseFailure.AMBIGUOUS
    joint = data.draw(st.sampled_from([" or ", ", ", " and ", "/", "\n", ". Because ", ". Not ", "? ", " "]))
    lead = data.draw(st.sampled_from(["", "Answer: ", "I choose "]))
    for named in (LETTERS[other], words[other]) if one != other else ():
        assert isinstance(parse_reply(f"{lead}{LETTERS[one]}{joint}{named}", words), ParseFailure)


@settings(deadline=None)
@given(distinct_words, st.text().filter(lambda thought: "think>" not in thought), st.data())
def test_what_was_thought_is_never_an_answer(words: list[str], thought: str, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(words) - 1))
    assert parse_reply(f"<think>{thought}</think>{LETTERS[position]}", words) == position
    assert parse_reply(f"<think>{thought}{LETTERS[position]}", words) is ParseFailure.UNFINISHED


@settings(deadline=None)
@given(distinct_words, st.text(), st.data())
def test_one_answer_in_json_is_the_answer_and_two_are_none(words: list[str], reason: str, data: st.DataObject) -> None:
    one, other = (data.draw(st.integers(0, len(words) - 1)) for _ in range(2))
    assert parse_reply(json.dumps({"reason": reason[:50], "answer": LETTERS[one]}), words) == one
    two = json.dumps({"answer": LETTERS[one], "option": LETTERS[other]})
    assert isinstance(parse_reply(two, words), ParseFailure)
