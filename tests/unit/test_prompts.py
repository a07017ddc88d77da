"""Prompts: strict templates, permuted menus, and the exact text that a model reads."""

from pathlib import Path

import pytest

from envs.errors import UserError
from teacher.prompts import PLACEHOLDERS, Menu, load_template, menus, parse_template
from tests.small_task import SmallTask

TASK = SmallTask()
SCENE = TASK.scene("red", ("red", "green"), "nothing")
GOLDEN = Path(__file__).parents[1] / "golden" / "prompts"


@pytest.mark.parametrize("name", sorted(PLACEHOLDERS))
def test_the_prompt_is_word_for_word_what_was_agreed(name: str) -> None:
    prompt = load_template(name).render(TASK, SCENE, Menu((2, 0, 4, 1)))
    text = "".join(f"[{role}]\n{content}\n" for role, content in prompt.messages)
    assert text == (GOLDEN / f"{name}.txt").read_text()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[user]\n{goal} {scene}", r"missing placeholders \['menu'\]"),
        ("[user]\n{goal} {scene} {menu} {mood}", r"unknown placeholders \['mood'\]"),
        ("[user]\n{goal} {scene} {menu} {}", "unknown placeholders"),
        ("{goal} {scene} {menu}", r"\[user\]"),
        ("[user]\n{goal}\n[system]\n{scene} {menu}", r"\[system\]"),
    ],
)
def test_a_template_that_is_not_strict_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        parse_template("compact", text, PLACEHOLDERS["compact"])


def test_an_unknown_template_is_suggested() -> None:
    with pytest.raises(UserError, match="Did you mean 'compact'"):
        load_template("compakt")


def test_the_hash_is_that_of_the_text() -> None:
    text = "[user]\n{goal} {scene} {menu}"
    first = parse_template("compact", text, PLACEHOLDERS["compact"])
    second = parse_template("compact", text + " ", PLACEHOLDERS["compact"])
    assert first.hash != second.hash


def test_a_task_in_other_words_is_another_prompt() -> None:
    class Reworded(SmallTask):
        goal = "Open the door."

    template = load_template("compact")
    assert template.hash_for(TASK) == template.hash_for(SmallTask()) != template.hash_for(Reworded())


def test_with_as_many_permutations_as_options_each_stands_everywhere_once() -> None:
    orders = [menu.options for menu in menus(SCENE, 4)]
    assert all(sorted(column) == sorted(SCENE.legal) for column in zip(*orders, strict=True))
    assert menus(SCENE, 4) == menus(SCENE, 4)


def test_there_are_no_more_permutations_than_options() -> None:
    two = TASK.scene("unseen", ("blue",), "nothing")
    assert len(menus(two, 4)) == 2
    assert len(menus(SCENE, 1)) == 1
    with pytest.raises(UserError, match="at least 1"):
        menus(SCENE, 0)


def test_first_orders_differ_between_scenes() -> None:
    scenes = [TASK.scene(door, ("red", "green"), "nothing") for door in ("red", "green", "blue")]
    assert len({menus(scene, 1)[0].options for scene in scenes}) > 1
