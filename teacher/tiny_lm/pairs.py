"""Training pairs (compact prompt -> option letter), and what is held out of them.

Scenes (by a hash of their text) and menus (by a hash of their words in order) are held out and never trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preceptor.envs.task import Scene, Task
from preceptor.teacher.prompts import LETTERS, Menu, Prompt, Template
from preceptor.teacher.tiny_lm.held_out import SHARE, hash_of, is_held_out

COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
_FEWEST_HELD_OUT = 3


@dataclass(frozen=True)
class Pair:
    """A prompt and the position on its menu that is right.

    Attributes:
        task: Name of the task.
        prompt: The prompt.
        answer: Position of the expert's option on the menu.
    """

    task: str
    prompt: Prompt
    answer: int

    @property
    def asked(self) -> str:
        """The prompt as the model reads it."""
        return self.prompt.messages[-1][1]

    @property
    def reply(self) -> str:
        """The right letter."""
        return LETTERS[self.answer]


def menu_held_out(words: Sequence[str]) -> bool:
    """Whether a menu, in this order, is one of those that are never trained on."""
    return len(words) > 1 and is_held_out("\n".join(words))


def held_out_texts(pools: Sequence[Sequence[Scene]]) -> frozenset[str]:
    """Texts of the scenes that are never trained on: a tenth of each pool, by hash, and at least three.

    By text, because tasks share scenes: what is held out of one pool is held out of all.
    """
    held: set[str] = set()
    for pool in pools:
        count = max(_FEWEST_HELD_OUT, round(SHARE * len(pool)))
        held.update(sorted((scene.text for scene in pool), key=hash_of)[:count])
    return frozenset(held)


class PairSource:
    """Draws pairs of one task from a pool of distinct scenes.

    Args:
        task: The task; its script is the truth.
        template: The prompt template.
        pool: The scenes.
        held_out: Texts of scenes that are never trained on.

    Attributes:
        train: Scenes to train on.
        held_out: Scenes that are not; all where none could be spared.
    """

    def __init__(self, task: Task, template: Template, pool: Sequence[Scene], held_out: frozenset[str]) -> None:
        self.task = task
        self._template = template
        self._truth = {scene.facts: task.script(scene) for scene in pool}
        self.held_out = [scene for scene in pool if scene.text in held_out] or list(pool)
        self.train = [scene for scene in pool if scene.text not in held_out]

    def draw_train(self, rng: np.random.Generator) -> Pair:
        """A pair that shows nothing of what is held out."""
        return self._draw(self.train, False, rng)

    def draw_held_out(self, rng: np.random.Generator) -> Pair:
        """A pair whose menu was held out, and its scene where any were."""
        return self._draw(self.held_out, True, rng)

    def _draw(self, scenes: list[Scene], held_out: bool, rng: np.random.Generator) -> Pair:
        while True:
            scene = scenes[rng.integers(len(scenes))]
            pair = self._pair(scene, self._menu(scene, rng))
            if menu_held_out(pair.prompt.words) == held_out:
                return pair

    def draw_play(self, rng: np.random.Generator) -> Pair:
        """A scene of `held_out` with all its legal options, as the teacher asks."""
        scene = self.held_out[rng.integers(len(self.held_out))]
        return self._pair(scene, Menu(tuple(rng.permutation(scene.legal).tolist())))

    def _menu(self, scene: Scene, rng: np.random.Generator) -> Menu:
        """All legal options in half of the cases, else a random part of them, or of all options; the answer always."""
        answer, kind = self._truth[scene.facts], rng.random()
        options: Sequence[int] = scene.legal
        if kind < 0.5:
            pool: Sequence[int] = scene.legal if kind < 0.3 else range(len(self.task.options))
            others = [option for option in pool if option != answer]
            count = int(rng.integers(1, min(len(others), 7) + 1))
            options = [answer, *rng.choice(others, size=count, replace=False).tolist()]
        return Menu(tuple(rng.permutation(options).tolist()))

    def _pair(self, scene: Scene, menu: Menu) -> Pair:
        prompt = self._template.render(self.task, scene, menu)
        return Pair(self.task.name, prompt, menu.options.index(self._truth[scene.facts]))


class PairMix:
    """Draws pairs of several tasks, of each in proportion to the square root of its number of scenes."""

    def __init__(self, sources: Sequence[PairSource]) -> None:
        self.sources = list(sources)
        weights = np.sqrt([len(source.train) for source in self.sources])
        self._probs = weights / weights.sum()

    def draw_train(self, rng: np.random.Generator, count: int) -> list[Pair]:
        """`count` training pairs."""
        chosen = rng.choice(len(self.sources), size=count, p=self._probs)
        return [self.sources[i].draw_train(rng) for i in chosen]
