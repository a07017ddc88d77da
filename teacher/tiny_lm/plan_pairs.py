"""Training pairs (mission -> plan), and what is held out of them.

Missions (by a hash of minigrid's words for them) are held out and never trained on, and so are the sentence forms that
`paraphrase` holds out.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from preceptor.envs.missions.grammar import tokens
from preceptor.envs.missions.mission import COLOURS, PLACES, VERBS, Clause, Description, Mission, words
from preceptor.envs.missions.paraphrase import paraphrase
from preceptor.envs.missions.plans import plan_of, plan_prompt
from preceptor.teacher.tiny_lm.held_out import is_held_out

# What stands before every mission, the same each time: a single token of the tokenizer.
PREFIX: Final = "\n".join(content for _, content in plan_prompt(""))
_SHAPES: Final = ((1, 0), (2, 0), (1, 1), (1, 2), (2, 1), (2, 2))  # clauses first, clauses then
_SHARES: Final = (0.35, 0.15, 0.25, 0.1, 0.1, 0.05)


@dataclass(frozen=True)
class PlanPair:
    """A mission in some words, and its plan.

    Attributes:
        mission: What is to be done.
        text: How that is said.
    """

    mission: Mission
    text: str

    @property
    def asked(self) -> str:
        """The prompt."""
        return PREFIX + self.text

    @property
    def reply(self) -> str:
        """The right plan."""
        return plan_of(self.mission).text


def _draw_description(rng: np.random.Generator, kinds: tuple[str, ...]) -> Description:
    colour = str(rng.choice(COLOURS)) if rng.random() < 0.75 else ""
    place = str(rng.choice(list(PLACES))) if rng.random() < 0.25 else ""
    return Description(colour, str(rng.choice(kinds)), place)


def _draw_clause(rng: np.random.Generator) -> Clause:
    verb = str(rng.choice(VERBS))
    things = ("box", "ball", "key", "")
    any_thing = (*things, "door")
    what = _draw_description(rng, {"goto": any_thing, "open": ("door",)}.get(verb, things))
    return Clause(verb, what, _draw_description(rng, any_thing) if verb == "putnext" else None)


def draw_mission(rng: np.random.Generator, held_out: bool) -> Mission:
    """A mission of one to four clauses that is, or is not, held out."""
    while True:
        parts = _SHAPES[rng.choice(len(_SHAPES), p=_SHARES)]
        mission = Mission(*(tuple(_draw_clause(rng) for _ in range(count)) for count in parts))
        if is_held_out(words(mission)) == held_out:
            return mission


def draw_plan(rng: np.random.Generator, *, held_out: bool, new_words: bool = False) -> PlanPair:
    """A mission and its plan.

    Args:
        rng: Draws it.
        held_out: Whether it is a mission that is never trained on.
        new_words: Whether it is said in forms that are never trained on.
    """
    mission = draw_mission(rng, held_out)
    text = paraphrase(mission, rng, new_words)
    # Scenes give missions without punctuation, people with it.
    return PlanPair(mission, text if rng.random() < 0.5 else " ".join(tokens(text)))


def draw_train(rng: np.random.Generator, count: int) -> list[PlanPair]:
    """`count` training pairs."""
    return [draw_plan(rng, held_out=False) for _ in range(count)]
