"""Prompts: strict templates, permuted menus, and the exact text that a model reads."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preceptor.envs.catalog import TASKS, get_task
from preceptor.envs.task import Scene, Task
from preceptor.ground.errors import UserError
from preceptor.teacher.prompts import TEMPLATES, Menu, load_template, menus
from tests.small_task import SmallTask

TASK = SmallTask()
SCENE = TASK.scene("red", ("red", "green"), "nothing")
GOLDEN = Path(__file__).parents[1] / "golden" / "prompts"


@cache
def fixed(task_name: str) -> tuple[Task, Scene, Menu]:
    """A task, one of its scenes with the most options, and a menu that depends on neither the draw nor the seed."""
    if task_name == TASK.name:
        return TASK, SCENE, Menu((2, 0, 4, 1))
    task = get_task(task_name)
    scene = max(task.sample_scenes(np.random.default_rng(0), 2000), key=lambda scene: (len(scene.legal), scene.facts))
    return task, scene, Menu(scene.legal[::-1])


def rendered(task_name: str, template: str) -> str:
    prompt = load_template(template).render(*fixed(task_name))
    return "".join(f"[{role}]\n{content}\n" for role, content in prompt.messages)


def agree() -> None:
    """Pin the prompts as they are now: python -c 'from tests.unit.test_prompts import agree; agree()'."""
    for task_name in (TASK.name, *TASKS):
        for template in TEMPLATES:
            (GOLDEN / f"{task_name}.{template}.txt").write_text(rendered(task_name, template))


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("task_name", [TASK.name, *TASKS])
def test_the_prompt_is_word_for_word_what_was_agreed(task_name: str, template: str) -> None:
    assert rendered(task_name, template) == (GOLDEN / f"{task_name}.{template}.txt").read_text()


def test_every_prompt_that_is_pinned_is_tested_and_the_built_in_models_are_those_that_it_was_trained_on() -> None:
    tested = {f"{task_name}.{template}.txt" for task_name in (TASK.name, *TASKS) for template in TEMPLATES}
    assert {path.name for path in GOLDEN.iterdir()} == tested
    assert load_template("compact").hash_for(get_task("KeyInBox")) == "8ecb83436cab8e97"


def test_a_chat_prompt_names_its_letters_and_an_unknown_template_is_suggested() -> None:
    two = load_template("chat").render(TASK, SCENE, Menu((0, 4))).messages[-1][1]
    assert "Reply with one letter: A or B.\n" in two
    with pytest.raises(UserError, match="Did you mean 'compact'"):
        load_template("compakt")


def test_the_hash_is_that_of_the_text_and_of_the_tasks_words() -> None:
    class Reworded(SmallTask):
        goal = "Open the door."

    one, other = map(load_template, TEMPLATES)
    assert one.hash != other.hash
    assert one.hash_for(TASK) == one.hash_for(SmallTask()) != one.hash_for(Reworded())
    assert one.hash_for(TASK) != replace(one, hash=other.hash).hash_for(TASK)


def test_permuted_menus_show_each_option_everywhere_once_and_are_no_more_than_options() -> None:
    orders = [menu.options for menu in menus(SCENE, 4)]
    assert all(sorted(column) == sorted(SCENE.legal) for column in zip(*orders, strict=True))
    assert menus(SCENE, 4) == menus(SCENE, 4)
    assert [len(menus(TASK.scene("unseen", ("blue",), "nothing"), 4)), len(menus(SCENE, 1))] == [2, 1]
    scenes = [TASK.scene(door, ("red", "green"), "nothing") for door in ("red", "green", "blue")]
    assert len({menus(scene, 1)[0].options for scene in scenes}) > 1, "first orders differ between scenes"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        ("", "no|not a section"),
        ("[user]\n{scene}", "{menu} is not in it"),
        ("[user]\n{scene} {menu} {scene.__class__}", "scene.__class__"),
        ("[user]\n{scene} {menu} {0}", "{0}"),
        ("[user]\n{scene!r} {menu}", "{scene}"),
        ("[user]\n{scene:>99999999999} {menu}", "{scene}"),
        ("[user]\n{scene} {menu} {", "cannot be used"),
        ("words\n[user]\n{scene} {menu}", "section"),
        ("[user]\n{scene} {menu}\n[user]\n{scene}", "section"),
        (b"\xff\xfe\x00", "cannot be used"),
    ],
)
def test_a_prompt_of_ones_own_is_used_or_what_is_wrong_with_it_is_named(text: Any, words: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=words if "|" in words else re.escape(words)):
        load_template(str(file))
    file.write_text("[user]\nBe brief: {{letters}}.\n{scene}\n{menu}\n")
    prompt = load_template(str(file)).render(TASK, SCENE, Menu((0, 4)))
    assert prompt.messages[0][1].startswith(f"Be brief: {{letters}}.\n{SCENE.text}\nA)")
