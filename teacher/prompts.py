"""Scene -> the messages that a language model reads, with a lettered menu of the legal options.

A template is a text file in `teacher/prompts/` with a `[user]` section and optionally a `[system]` section before it.
The hash of the file is part of the key of every label that it helped to make.
"""

import hashlib
import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preceptor.envs.task import Scene, Task
from preceptor.ground.errors import UserError, unknown_name

LETTERS = string.ascii_uppercase
TEMPLATES = ("compact", "chat")  # for a small model that was trained on the task; for any other
AGENT = "agent"  # for a model that plays by itself, in the place of `chat`
_PLACES = {"goal", "rules", "scene", "menu", "letters"}  # what a template may hold in braces; it must hold these two:
_NEEDED = {"scene", "menu"}
CHARACTERS_PER_TOKEN = 4  # of English, for most tokenizers
_SECTION = re.compile(r"^\[(system|user)\]\n", re.MULTILINE)


@dataclass(frozen=True)
class Menu:
    """The options (indices of the task) that a prompt offers, in order; that at position i has letter `LETTERS[i]`.

    None are offered where the answer is not a choice but words: a plan.
    """

    options: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.options) > len(LETTERS):
            raise ValueError(f"a menu has at most {len(LETTERS)} options, not {len(self.options)}")

    @property
    def letters(self) -> str:
        """The letters in use, in order."""
        return LETTERS[: len(self.options)]

    def words(self, task: Task) -> tuple[str, ...]:
        """The words of each option, in the order of the menu."""
        return tuple(task.options[index].words for index in self.options)


@dataclass(frozen=True)
class Prompt:
    """What is sent: (role, content) messages, and the menu that gives the letters their meaning."""

    messages: tuple[tuple[str, str], ...]
    menu: Menu
    words: tuple[str, ...]

    @property
    def chat(self) -> list[dict[str, str]]:
        """The messages as the OpenAI protocol and transformers' chat templates want them."""
        return [{"role": role, "content": content} for role, content in self.messages]

    @property
    def tokens(self) -> int:
        """How many it is about, without its roles."""
        return estimated_tokens([content for _, content in self.messages])


@dataclass(frozen=True)
class Template:
    """A prompt template: its name, (role, text with placeholders) in order, and the hash of its file."""

    name: str
    sections: tuple[tuple[str, str], ...]
    hash: str

    def hash_for(self, task: Task) -> str:
        """Hash of the file and of the task's own words in it; part of every label's key."""
        words = [text for _, text in self._filled(task)] + [option.words for option in task.options]
        return hashlib.sha256("\n".join((self.hash, *words)).encode()).hexdigest()[:16]

    def render(self, task: Task, scene: Scene, menu: Menu) -> Prompt:
        """The prompt for a scene; braces in a task's own words are left as they are."""
        return self.ask(task, scene.text, menu, menu.words(task))

    def ask(
        self, task: Task, scene: str, menu: Menu, words: tuple[str, ...], past: Iterable[tuple[str, str]] = ()
    ) -> Prompt:
        """The prompt for a text and a menu of which `words` are the lines; `past` are earlier texts and what was chosen
        then, in words, which stand before it as messages of the user and of the model."""
        letters = " or ".join(filter(None, (", ".join(menu.letters[:-1]), menu.letters[-1:])))
        lines = "\n".join(f"{letter}) {option}" for letter, option in zip(menu.letters, words, strict=True))
        *before, last = self._filled(task, scene, lines, letters)
        turns = [turn for text, said in past for turn in (("user", text), ("assistant", said))]
        return Prompt((*before, *turns, last), menu, words)

    def _filled(self, task: Task, scene: str = "", menu: str = "", letters: str = "") -> tuple[tuple[str, str], ...]:
        values = {"goal": task.goal, "rules": task.rules, "scene": scene, "menu": menu, "letters": letters}
        return tuple((role, text.format_map(values)) for role, text in self.sections)


def estimated_tokens(value: Any) -> int:
    """About as many tokens as the texts in what JSON can hold are, without the keys."""
    length, left = 0, [value]
    while left:
        value = left.pop()
        length += len(value) if isinstance(value, str) else 0
        left += value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return -(-length // CHARACTERS_PER_TOKEN)


def load_template(name: str) -> Template:
    """The template `compact` or `chat`, or that in a file. Raises `UserError` for another name, or a file of no use."""
    own = Path(__file__).parent / "prompts"
    path = own / f"{name}.txt" if name in (*TEMPLATES, AGENT) else Path(name)
    if not path.is_file() and not path.suffix:
        raise unknown_name("prompt template", name, TEMPLATES, "--prompt compact, --prompt chat, or --prompt FILE")
    try:
        text = path.read_text(encoding="utf-8")
        before, *parts = _SECTION.split(text)
        found = [place[1:] for part in parts[1::2] for place in string.Formatter().parse(part) if place[1] is not None]
        named = {name for name, *_ in found}
        if before.strip() or parts[::2] not in (["user"], ["system", "user"]):
            raise ValueError("it has not a section [user], with nothing but a section [system] before it")
        if strange := [place for place in found if place[0] not in _PLACES or any(place[1:])]:
            raise ValueError(
                f"{{{strange[0][0]}}} is none of {{{'}, {'.join(sorted(_PLACES))}}}; other braces are doubled"
            )
        if missing := sorted(_NEEDED - named):
            raise ValueError(f"{{{missing[0]}}} is not in it")
    except (OSError, ValueError) as error:
        what = f"--prompt {name} cannot be used: {getattr(error, 'strerror', None) or error}."
        raise UserError(
            what, f"cp {own / 'chat.txt'} mine.txt  # and change that; {{scene}} and {{menu}} stay"
        ) from error
    sections = tuple(zip(parts[::2], map(str.strip, parts[1::2]), strict=True))
    return Template(name, sections, hashlib.sha256(text.encode()).hexdigest()[:16])


def scene_digest(scene: Scene) -> str:
    """Hash of a scene's task and facts, the same in every process."""
    return hashlib.sha256("\n".join((scene.task, *scene.facts)).encode()).hexdigest()


def distinct_scenes(task: Task, rng: np.random.Generator, count: int) -> list[Scene]:
    """The distinct scenes among `count` drawn ones, without those in which there is nothing to choose."""
    distinct = {scene.facts: scene for scene in task.sample_scenes(rng, count)}
    return [scene for scene in distinct.values() if len(scene.legal) > 1]


def menus(scene: Scene, permutations: int) -> tuple[Menu, ...]:
    """Permuted menus of a scene's legal options, to cancel a model's liking for a position.

    The order is shuffled by the scene's digest and then rotated, so that with as many permutations as options each
    option stands at each position once; with fewer options there are fewer permutations.
    """
    digest = scene_digest(scene)
    order: Sequence[int] = sorted(scene.legal, key=lambda i: hashlib.sha256(f"{digest}:{i}".encode()).digest())
    count = min(permutations, len(order))
    offsets = [i * len(order) // count for i in range(count)]
    return tuple(Menu((*order[offset:], *order[:offset])) for offset in offsets)
