"""Mission -> text in other words than minigrid's, from forms for training or from those that are held out."""

import numpy as np

from preceptor.envs.missions.grammar import ARTICLES, CLAUSES, IN_ORDER, PHRASES, TOGETHER, Forms
from preceptor.envs.missions.mission import Clause, Description, Mission


def _described(what: Description, rng: np.random.Generator) -> str:
    said = [str(rng.choice(PHRASES[name])) for name in (what.colour, what.kind or "object", what.place) if name]
    article = ARTICLES[int(rng.integers(2))]  # "the" or "a"
    return f"{'an' if article == 'a' and said[0][0] in 'aeiou' else article} {' '.join(said)}"


def paraphrase(mission: Mission, rng: np.random.Generator, held_out: bool) -> str:
    """A mission in other words.

    Args:
        mission: What is to be said.
        rng: Chooses the forms and the words.
        held_out: Each form is a held-out one, which `parse` does not read; else each is a training one, which it does,
            minigrid's own among them. Words that describe objects are the same in both.
    """

    def form(forms: Forms) -> str:
        return str(rng.choice(forms.held_out if held_out else forms.training))

    def clause(one: Clause) -> str:
        beside = _described(one.beside, rng) if one.beside else ""
        return form(CLAUSES[one.verb]).format(what=_described(one.what, rng), beside=beside)

    def part(clauses: tuple[Clause, ...]) -> str:
        said = [clause(one) for one in clauses]
        return said[0] if len(said) == 1 else form(TOGETHER).format(a=said[0], b=said[1])

    return form(IN_ORDER).format(a=part(mission.first), b=part(mission.then)) if mission.then else part(mission.first)
