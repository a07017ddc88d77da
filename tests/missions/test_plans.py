"""Plans as text: written for a mission, read back, repaired where only one thing can be meant, else refused."""

import itertools
from pathlib import Path
from typing import Any

import gymnasium
import minigrid  # noqa: F401  registers the BabyAI levels
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minigrid.core.constants import DIR_TO_VEC
from minigrid.envs.babyai.core import verifier

from preceptor.envs.missions.mission import Description, Mission, MissionError
from preceptor.envs.missions.parsing import parse
from preceptor.envs.missions.plans import STEPS, STRICT, Plan, Subgoal, plan_of, plan_prompt, read_plan
from tests.missions.drawn import MISSION

GOLDEN = Path(__file__).parents[1] / "golden" / "plan_prompt.txt"
LONG = parse("put the grey key next to the box on your left and pick up the red ball, after you open the blue door")
STEPS_OF_LONG = """\
find the blue door
open the blue door
find the grey key
pick up the grey key
find the box on your left
drop next to the box on your left
find the red ball
pick up the red ball"""


def lines(*steps: str) -> str:
    return "\n".join(steps)


def test_the_plan_of_a_mission_is_its_steps_in_its_order() -> None:
    assert plan_of(LONG).text == STEPS_OF_LONG


@pytest.mark.parametrize(
    ("mission", "expected"),
    [
        ("pick up the ball, then pick up the key", "find ball, pickup ball, drop, find key, pickup key"),
        ("pick up the ball, then put the ball next to the key", "find ball, pickup ball, find key, dropnext key"),
        (
            "pick up the ball, then put the box next to the key",
            "find ball, pickup ball, drop, find box, pickup box, find key, dropnext key",
        ),
        ("pick up the red ball, then go to the ball", "find red ball, pickup red ball, drop, find ball, goto ball"),
        ("pick up the ball, then go to the key", "find ball, pickup ball, find key, goto key"),
        ("pick up the ball and open the door", "find door, open door, find ball, pickup ball"),
    ],
)
def test_a_hand_is_freed_where_it_has_to_be(mission: str, expected: str) -> None:
    steps = plan_of(parse(mission)).steps
    short = ", ".join(f"{step.verb} {step.what.colour} {step.what.kind}".strip().replace("  ", " ") for step in steps)
    assert short == expected


@settings(max_examples=300, deadline=None)
@given(MISSION)
def test_the_plan_of_any_mission_can_be_carried_out_and_is_read_back_without_a_repair(mission: Mission) -> None:
    plan = plan_of(mission)
    assert read_plan(plan.text, mission) == plan
    assert read_plan(plan.text, None) == plan
    assert len(plan.steps) <= 16 < STEPS
    held: Description | None = None
    for before, step in zip((None, *plan.steps), plan.steps, strict=False):
        assert step.verb in ("find", "drop") or before == ("find", step.what)
        assert held is None or step.verb != "pickup"
        assert held is not None or step.verb not in ("drop", "dropnext")
        held = step.what if step.verb == "pickup" else None if step.verb.startswith("drop") else held


class Jumping:
    """Carries out a plan in a level of minigrid by jumping to where each step is done; minigrid judges."""

    def __init__(self, level: str, seed: int) -> None:
        self.env = gymnasium.make(level, disable_env_checker=True).unwrapped
        self.env.reset(seed=seed)
        for door in self.env.grid.grid:
            if door is not None and door.type == "door":
                door.is_locked = door.is_open = False
        self.mission = parse(self.env.mission)
        self.solved = False
        named = {what for clause in self.mission.clauses for what in clause[1:] if what is not None}
        self.fitting = {what: self._fitting(what) for what in named}  # a place is said of where it was

    def _fitting(self, what: Description) -> list[Any]:
        said = verifier.ObjDesc(what.kind or None, what.colour or None, what.place or None)
        return said.find_matching_objs(self.env)[0]

    def _places(self, what: Description) -> list[tuple[int, int]]:
        cells = {id(thing): divmod(at, self.env.width)[::-1] for at, thing in enumerate(self.env.grid.grid)}
        return [cells[id(thing)] for thing in self.fitting[what] if id(thing) in cells]

    def _around(self, place: tuple[int, int]) -> list[tuple[int, int]]:
        """The cells beside a place; from the first it is seen in direction 0."""
        return [(place[0] - step[0], place[1] - step[1]) for step in DIR_TO_VEC]

    def _free(self, cell: tuple[int, int]) -> bool:
        inside = 0 < cell[0] < self.env.width and 0 < cell[1] < self.env.height
        return inside and self.env.grid.get(*cell) is None

    def play(self, step: Subgoal) -> None:
        if step.verb == "drop":
            target = next(filter(self._free, itertools.product(range(self.env.width), range(self.env.height))))
        elif step.verb == "dropnext":
            target = next(cell for place in self._places(step.what) for cell in self._around(place) if self._free(cell))
        else:
            target = self._places(step.what)[0]
        self.env.agent_dir, self.env.agent_pos = 0, self._around(target)[0]
        action = {"goto": "done", "open": "toggle", "pickup": "pickup"}.get(step.verb, "drop")
        times = 2 if step.verb == "open" and self.env.grid.get(*target).is_open else 1
        self.solved |= any(self.env.step(self.env.actions[action])[1] > 0 for _ in range(times))


@pytest.mark.parametrize("level", ["BabyAI-BossLevel-v0", "BabyAI-MiniBossLevel-v0", "BabyAI-SynthSeq-v0"])
def test_the_plan_of_a_mission_solves_it_in_minigrid(level: str) -> None:
    for seed in range(60):
        played = Jumping(level, seed)
        for step in plan_of(played.mission).steps:
            if step.verb != "find" and not played.solved:
                played.play(step)
        assert played.solved, (seed, played.env.mission)


@pytest.mark.parametrize(
    ("written", "repairs"),
    [
        (STEPS_OF_LONG, 0),
        (STEPS_OF_LONG.upper(), 8),
        (STEPS_OF_LONG.replace("the grey", "the gray"), 2),
        (lines("Here is the plan:", "```", STEPS_OF_LONG, "```"), 3),
        (lines(*(f"{number}. {line}." for number, line in enumerate(STEPS_OF_LONG.split("\n"), 1))), 8),
        (lines(*(f"* Step {number}: {line}" for number, line in enumerate(STEPS_OF_LONG.split("\n"), 1))), 8),
        (STEPS_OF_LONG.replace("drop next", "put it next"), 1),
        (STEPS_OF_LONG.replace("box on your left", "crate"), 2),
        (STEPS_OF_LONG.replace("find the blue", "explore until you see the blue"), 1),
        (STEPS_OF_LONG.replace("open the blue door\n", "open the blue door, then "), 2),
        (STEPS_OF_LONG.replace("drop next to", "put the grey key beside"), 1),
        (STEPS_OF_LONG.replace("drop next to", "put down the grey key next to"), 1),
        (STEPS_OF_LONG.replace("drop next to", "put it down beside"), 1),
    ],
)
def test_what_can_mean_only_one_thing_is_repaired_and_counted(written: str, repairs: int) -> None:
    assert read_plan(written, LONG) == Plan(plan_of(LONG).steps, repairs)


def test_what_is_carried_is_put_down_before_another_thing_is_picked_up() -> None:
    mission = parse("pick up the red ball and pick up the blue box")
    plan = read_plan(lines("pick up the blue box", "pick up the blue box", "pick up the red ball"), mission)
    assert plan.text == lines("pick up the blue box", "drop", "pick up the red ball")
    assert plan.repairs == 1


def test_doors_and_keys_and_boxes_may_be_in_the_way() -> None:
    steps = ("open the red box", "pick up the green key", "open the green door", "drop", "pick up the ball")
    assert read_plan(lines(*steps), parse("pick up the ball")) == Plan(
        (
            Subgoal("open", Description("red", "box")),
            Subgoal("pickup", Description("green", "key")),
            Subgoal("open", Description("green", "door")),
            Subgoal("drop"),
            Subgoal("pickup", Description("", "ball")),
        )
    )


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("", "1 to 32 steps, not 0"),
        ("\n```\n", "1 to 32 steps, not 0"),
        ("teleport to the blue door", "unknown words: teleport"),
        ("the blue door", 'a step is one of "find the'),
        ("open the key", 'only a door or a box can be opened, not "key"'),
        ("pick up the blue door", "a door cannot be carried"),
        (lines("pick up the green box", STEPS_OF_LONG), "the mission does not speak of it"),
        ("go to", '"go to" is said of no object'),
        (lines(*["open the blue door"] * 33), "not 33"),
        ("open the blue door\n" * 1000, "19000 characters"),
        (lines(STEPS_OF_LONG, "find the green ball"), "the mission does not speak of it"),
        (lines(STEPS_OF_LONG, "drop next to the green door"), "the mission does not speak of it"),
        (
            STEPS_OF_LONG.replace("red ball", "ball").replace("grey key", "grey key on your left"),
            "completes 'put the grey",
        ),
        (
            STEPS_OF_LONG.replace("find the red ball\npick up the red ball", ""),
            "completes 'pick up the red ball' in its order",
        ),
        (lines(*reversed(STEPS_OF_LONG.split("\n"))), "in its order"),
        (STEPS_OF_LONG.replace("pick up the grey key", "go to the grey key"), "completes 'put the grey key"),
        ("go to the purple door", "completes 'open the blue door'"),
    ],
    ids=lambda value: value[:30],
)
def test_any_other_plan_is_refused(written: str, complaint: str) -> None:
    with pytest.raises(MissionError, match=complaint) as caught:
        read_plan(written, LONG)
    assert len(str(caught.value)) < 400


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(), st.lists(st.sampled_from(sorted(STRICT.values()))).map("\n".join)), MISSION)
def test_any_text_is_a_plan_or_refused(text: str, mission: Mission) -> None:
    try:
        plan = read_plan(text.replace("{what}", "red ball"), mission)
    except MissionError:
        return
    assert read_plan(plan.text, mission) == plan._replace(repairs=0)


def test_the_prompt_is_the_one_that_was_pinned() -> None:
    told = "".join(f"[{role}]\n{content}\n" for role, content in plan_prompt("go to the door behind you"))
    assert told == GOLDEN.read_text()
