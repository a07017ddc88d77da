"""Plans as teachers: what a model is asked about a mission, and which option comes next in its plan.

A plan is followed without a memory: the facts of a scene say which clauses of the mission are done, what has been seen
and what is held, and so which step of the plan is the current one.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache

from preceptor.envs.missions.mission import Description, Mission, MissionError, words
from preceptor.envs.missions.parsing import parse
from preceptor.envs.missions.plans import Subgoal, completed, plan_of, plan_prompt, read_plan
from preceptor.envs.missions.reading import HELD, NAMES
from preceptor.envs.missions.scenes import (
    Facts,
    for_clause,
    from_strings,
    legal_ids,
    search,
    slots,
    towards,
    understood,
)
from preceptor.envs.plans import Plans
from preceptor.envs.task import Scene

_MISSION = "Mission: "  # how a request begins
_HOLDS = "You hold the "


class MissionPlans(Plans):
    """See `Plans` for the methods; `index` is the number of each option by its id."""

    messages = plan_prompt("{scene}")

    def __init__(self, index: Mapping[str, int]) -> None:
        self._index = index

    def question(self, scene: Scene, impossible: str = "") -> Scene:
        """The mission; where a step has become impossible what is left of it, what is held, and that step.

        Raises:
            MissionError: No rule reads the mission, so that scenes do not tell what a plan for it speaks of.
        """
        facts = from_strings(scene.facts)
        parse(facts.text)
        if not impossible:
            return Scene(scene.task, (f"mission={facts.text}",), facts.text, ())
        mission, held = words(_left(facts)), NAMES[facts.held] if facts.held >= 0 else ""
        holds = f"{_HOLDS}{held}." if held else "You hold nothing."
        text = f"{mission}\n{holds} This cannot be done now: {impossible}. Write another plan."
        return Scene(scene.task, (f"mission={mission}", f"held={held}", f"impossible={impossible}"), text, ())

    def read(self, question: Scene, reply: str) -> tuple[str, int]:
        """As `plans.read_plan` reads it. Raises its `MissionError`."""
        mission = understood(question.facts[0].partition("=")[2])
        plan = read_plan(reply, mission if mission.clauses else None)
        return plan.text, plan.repairs

    def script(self, request: str) -> str:
        """The plan for a mission that rules can read; what is held is put down first. Raises `MissionError`."""
        mission, _, rest = request.removeprefix(_MISSION).partition("\n")
        return ("drop\n" if rest.startswith(_HOLDS) else "") + plan_of(parse(mission)).text

    def follow(self, plan: str, scene: Scene) -> tuple[int | None, str]:
        """The option for the current step if it can be had, and the step; no step where nothing is left to do."""
        facts = from_strings(scene.facts)
        found = _current(_steps(plan), facts)
        if found is None:
            return None, ""
        step, clause = found
        legal = set(legal_ids(facts))
        wish = next((wish for wish in _wishes(facts, step, clause) if wish in legal), None)
        return self._index[wish] if wish else None, step.words


@lru_cache(10_000)
def _steps(plan: str) -> tuple[Subgoal, ...]:
    return read_plan(plan, None).steps


def _left(facts: Facts) -> Mission:
    """What is not done of a mission."""
    mission = understood(facts.text)
    undone = [clause for clause, done in zip(mission.clauses, facts.done, strict=False) if not done]
    first = tuple(undone[: sum(not done for done in facts.done[: len(mission.first)])])
    rest = tuple(undone[len(first) :])
    return Mission(first, rest) if first else Mission(rest)


def _ends(steps: Sequence[Subgoal], mission: Mission) -> dict[int, int]:
    """Of each clause the step that completes it; a plan for what was left of a mission has none for what was done."""
    ends, start, clauses = dict[int, int](), 0, mission.clauses
    for part in (range(len(mission.first)), range(len(mission.first), len(clauses))):
        for k in part:
            with suppress(MissionError):
                ends[k] = completed(clauses[k], steps, start)
        start = max((ends[k] for k in part if k in ends), default=start)
    return ends


def _statuses(facts: Facts) -> dict[Description, int]:
    """The status of each description of the mission."""
    return {what: facts.status[slot] for slot, what in slots(understood(facts.text))}


def _current(steps: Sequence[Subgoal], facts: Facts) -> tuple[Subgoal, int] | None:
    """The step to be done now, and the clause that it leads to; None if nothing is left.

    It is one of those that complete the next clause: those before them are over, and what is held tells how far these
    have come.
    """
    ends = _ends(steps, understood(facts.text))
    undone = sorted((end, k) for k, end in ends.items() if not facts.done[k])
    if not undone:
        return None
    end, k = undone[0]
    begin = 1 + max((other for other in ends.values() if other < end), default=-1)
    pickups = [i for i, step in enumerate(steps[:end]) if step.verb == "pickup"]
    if steps[end].verb == "dropnext" and pickups:  # picked up for an earlier clause, and maybe lost since
        begin = min(begin, pickups[-1])
    status = _statuses(facts)
    begin = max((i + 1 for i in pickups if i >= begin and status.get(steps[i].what, 0) & HELD), default=begin)
    return next((step for step in steps[begin:end] if not _over(step, status, facts)), steps[end]), k


def _over(step: Subgoal, status: Mapping[Description, int], facts: Facts) -> bool:
    """Whether a step before the last one is over, or can be left to those that follow.

    No fact tells whether something was gone to or opened before; what needs that goes there itself.
    Nor do facts speak of what is not in the mission, such as keys that turn out to be needed: `search` gets them.
    """
    if step.verb == "drop":
        return facts.held < 0
    if step.what not in status or step.verb in ("goto", "open"):
        return True
    return status[step.what] > 0 if step.verb == "find" else step.verb == "dropnext" and facts.held < 0


def _wishes(facts: Facts, step: Subgoal, k: int) -> Iterator[str]:
    """What brings a step on the way to a clause nearer, best first."""
    clause = understood(facts.text).clauses[k]
    if step == ("pickup", clause.what) and clause.beside is not None:  # not before there is a place for it
        yield from for_clause(facts, k, clause)
    else:
        yield from towards(facts, step.verb, step.what, _statuses(facts).get(step.what, 0))
    yield from search(facts)
    yield "aside"  # what is held may be in the way
