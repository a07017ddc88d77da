"""Mission -> plan: the subgoals that carry it out, one a line, written without having seen the rooms.

    find the red ball          look around and through doors until one is seen; done at once where one is
    go to the red ball         stand before it, facing it
    open the blue door         its key fetched where it is locked; one that is open already is closed and opened again
    pick up the red ball
    drop                       what is carried, where it is in nobody's way
    drop next to the grey box  beside it

This is the whole grammar. Written strictly, a line has "the" and nothing but one of these; what a model wrote otherwise
and can mean only one thing is repaired, and counted.
"""

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from functools import reduce
from typing import NamedTuple

from preceptor.envs.missions.grammar import CLAUSES
from preceptor.envs.missions.mission import Clause, Description, Mission, MissionError, described, words
from preceptor.envs.missions.parsing import Reader, check, description, parse, refused

STEPS = 32  # of a plan, at most; the longest mission needs 16
CHARACTERS = 4000  # of a plan's text
STRICT = {
    "find": "find the {what}",
    "goto": "go to the {what}",
    "open": "open the {what}",
    "pickup": "pick up the {what}",
    "drop": "drop",
    "dropnext": "drop next to the {what}",
}
_BESIDE = ("next to", "beside")
_PUT = ("put", "put down", "place", "drop")
_PUT_IT = ("drop", *(f"{put} it" for put in _PUT), "put it down")
_ALSO: dict[str, tuple[str, ...]] = {
    "find": ("find {what}", "look for {what}", "search for {what}", "locate {what}", "explore until you see {what}"),
    "drop": ("drop", "drop it", "drop {what}", "put it down", "put down {what}", "put {what} down"),
    "dropnext": tuple(f"{put} {where} {{what}}" for put in _PUT_IT for where in _BESIDE),
} | {verb: forms.training + forms.held_out for verb, forms in CLAUSES.items()}
_ALSO["open"] += ("unlock {what}", "unlock and open {what}")
_ALSO["putnext"] += tuple(f"{put} {{what}} {where} {{beside}}" for put in _PUT for where in _BESIDE)
_BETWEEN = {"first", "then", "next", "and", "now", "finally"}  # words between steps that change nothing
_READER = Reader(_ALSO, _BETWEEN)
_NUMBERING = re.compile(r"^\W*(?:step\b\s*)?(?:\d+\W+)?", re.IGNORECASE)
_EASIEST_FIRST = ("open", "goto", "putnext", "pickup")  # a key needs a free hand


class Subgoal(NamedTuple):
    """One step of a plan.

    Attributes:
        verb: One of `STRICT`.
        what: Its object; of "drop", nothing.
    """

    verb: str
    what: Description = Description()

    @property
    def words(self) -> str:
        """The step as a line."""
        return STRICT[self.verb].format(what=described(self.what))


class Plan(NamedTuple):
    """Subgoals to be reached one after another.

    Attributes:
        steps: 1 to `STEPS`.
        repairs: How often what was written had to be corrected.
    """

    steps: tuple[Subgoal, ...]
    repairs: int = 0

    @property
    def text(self) -> str:
        """The plan as it is written: one step a line."""
        return "\n".join(step.words for step in self.steps)


def _overlap(one: Description, other: Description) -> bool:
    """Whether an object can fit both; a place says where it once was, so that it excludes nothing."""
    return all(not a or not b or a == b for a, b in zip(one[:2], other[:2], strict=True))


def _held_after(held: Description | None, step: Subgoal) -> Description | None:
    return step.what if step.verb == "pickup" else None if step.verb in ("drop", "dropnext") else held


def plan_of(mission: Mission) -> Plan:
    """The plan for a mission that is known as data: the truth for missions that were generated."""
    steps: list[Subgoal] = []
    held: Description | None = None
    for part in mission:
        for verb, what, beside in sorted(part, key=lambda clause: _EASIEST_FIRST.index(clause.verb)):
            in_hand = verb == "putnext" and held == what
            if held and not in_hand and (verb in ("pickup", "putnext") or (verb == "goto" and _overlap(held, what))):
                steps.append(Subgoal("drop"))
            if beside is None:
                added = [Subgoal("find", what), Subgoal(verb, what)]
            else:
                added = [] if in_hand else [Subgoal("find", what), Subgoal("pickup", what)]
                added += [Subgoal("find", beside), Subgoal("dropnext", beside)]
            steps += added
            held = reduce(_held_after, steps, None)
    return Plan(tuple(steps))


def _meant(step: Subgoal, mission: Mission) -> Subgoal:
    """A step on an object of the mission, in its own description, or on a door, key or box that may be in the way."""
    named = dict.fromkeys(mission.named)
    wider = [what for what in named if all(said in ("", of) for said, of in zip(step.what, what, strict=True))]
    if step.verb == "drop" or step.what in named:
        return step
    if len(wider) == 1:
        return step._replace(what=wider[0])
    if step.what.kind in {"pickup": ("key",), "dropnext": ()}.get(step.verb, ("door", "key", "box")):
        return step
    raise refused(step.words, "the mission does not speak of it: the plan is for another one")


def _steps(line: str) -> list[Subgoal]:
    """The steps of a line, without its number or bullet."""
    between, found = _READER.clauses(line)
    if not found or set(between.split()) - {"#"} - _BETWEEN:
        known = ", ".join(f'"{form.format(what="...")}"' for form in STRICT.values())
        raise refused(line, f"a step is one of {known}")
    steps = []
    for one in found:
        objects = [description(line, said, one.words) for said in one.objects]
        if one.verb != "drop":
            check(line, one.verb, objects[0], openable=("door", "box"))
        if one.verb == "putnext":
            steps += [Subgoal("pickup", objects[0]), Subgoal("dropnext", objects[1])]
        else:
            steps.append(Subgoal(one.verb) if one.verb == "drop" else Subgoal(one.verb, *objects))
    return steps


def _with_a_free_hand(steps: Iterable[Subgoal]) -> list[Subgoal]:
    """The steps without picking up what is carried, and with putting down what is carried when another is picked up."""
    held, kept = None, []
    for step in steps:
        if held and step.verb == "pickup":
            kept += [] if held == step.what else [Subgoal("drop"), step]
        else:
            kept.append(step)
        held = _held_after(held, step)
    return kept


def completed(clause: Clause, steps: Sequence[Subgoal], start: int) -> int:
    """The first step from `start` on that completes a clause."""
    held = None
    for index, step in enumerate(steps):
        put = step == ("dropnext", clause.beside) and held == clause.what
        if index >= start and (put or step == clause[:2]):
            return index
        held = _held_after(held, step)
    missing = words(Mission((clause,)))
    raise MissionError(
        f"No step of the plan completes {missing!r}{' in its order' if start else ''}: it is for another mission.",
        "Ask again with this mission.",
    )


def read_plan(text: str, mission: Mission | None) -> Plan:
    """The plan that a model wrote.

    Case, numbers, bullets, other words for the same, several steps in a line, a thing to be put down first, and a
    description that leaves out what only one object of the mission has are repaired.

    Args:
        text: What it wrote.
        mission: Whose plan it has to be; None where no rule reads the mission, and then only the grammar is checked.

    Raises:
        MissionError: For anything else: unknown words, more than `STEPS` steps, objects of which the mission does not
            speak (doors, keys and boxes may be in the way), a clause that is not carried out, or not in its order.
    """
    if len(text) > CHARACTERS:
        raise refused(text, f"the plan has {len(text)} characters, and at most {CHARACTERS} are read")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if not line.endswith(":") and not line.startswith("```")]
    steps = [step for line in told for step in _steps(_NUMBERING.sub("", line))]
    if mission:
        steps = [_meant(step, mission) for step in steps]
    steps = _with_a_free_hand(steps)
    if not 1 <= len(steps) <= STEPS:
        raise refused(text, f"a plan has 1 to {STEPS} steps, not {len(steps)}")
    start = 0
    for part in mission or ():
        start = max((completed(clause, steps, start) for clause in part), default=start)
    changes = SequenceMatcher(None, lines, [step.words for step in steps], autojunk=False).get_opcodes()
    return Plan(tuple(steps), sum(max(b - a, d - c) for kind, a, b, c, d in changes if kind != "equal"))


_RULES = f"""\
You plan for a robot in rooms that are joined by doors. In the rooms are keys, balls and boxes. The robot sees only \
what is before it, and carries one thing at a time. You read its mission and write the plan: one step a line, nothing \
else, at most {STEPS} lines. Each line has one of these forms:
find the THING (look around and open doors until one is seen)
go to the THING (stop before it, facing it)
open the THING (a door; where it is locked, its key is fetched)
pick up the THING
drop (put down what is carried)
drop next to the THING (put down what is carried beside it)
For THING write the words of the mission: a colour if it has one, then key, ball, box, door or object, then, if the \
mission says so, "on your left", "on your right", "in front of you" or "behind you". Find a thing before you use it. \
Do first what the mission wants first: "X after you Y" means Y, then X. Before you pick up a second thing, drop the \
first one."""
_EXAMPLE = "put a green ball next to the box on your left, after you open the yellow door"


def plan_prompt(mission: str) -> tuple[tuple[str, str], ...]:
    """The (role, content) messages that ask a chat model for the plan of a mission, which is said in any words."""
    return (
        ("system", _RULES),
        ("user", f"Mission: {_EXAMPLE}"),
        ("assistant", plan_of(parse(_EXAMPLE)).text),
        ("user", f"Mission: {mission}"),
    )
