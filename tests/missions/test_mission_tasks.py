"""BabyAI's levels as tasks: what options can do and when they are over, scenes, and the expert."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from preceptor.controller.encoders import encoder_of
from preceptor.envs.catalog import get_task
from preceptor.envs.missions import reading
from preceptor.envs.missions.levels import ABSENT, parts
from preceptor.envs.missions.options import _dealt_with
from preceptor.envs.missions.reading import (
    BESIDE,
    BLOCKED,
    FACED,
    FIRST,
    FRONT,
    HELD,
    HERE,
    LOCK,
    NAMES,
    OPENS,
    REACHED,
    TARGETS,
    WAITS,
)
from preceptor.envs.missions.scenes import SLOTS, Facts, expert, from_strings, to_strings, understood
from preceptor.envs.missions.tasks import MissionTask
from tests.scripted import scripted

GOTO, BESIDE_FIRST = 6, 6 + len(TARGETS)


@pytest.fixture(scope="module", params=["OneRoom-PutNext", "BabyAI-MiniBossLevel"])
def task(request: pytest.FixtureRequest) -> MissionTask:
    found = get_task(request.param)
    assert isinstance(found, MissionTask)
    return found


def played(task: MissionTask, steps: int = 60, count: int = 8) -> Iterator[tuple[NDArray, NDArray, NDArray]]:
    """Observations, the options that were chosen by the script or by chance, and where they led."""
    env, rng = task.make_vec(count), np.random.default_rng(0)
    obs, _ = env.reset()
    for _ in range(steps):
        legal = task.legal(obs)
        by_chance = np.array([rng.choice(np.flatnonzero(row)) for row in legal])
        option = np.where(rng.random(count) < 0.5, by_chance, scripted(task, obs))
        after, _, _, _, info = env.step(task.skill(obs, option))
        yield obs, option, info.get("final_obs", after)
        obs = after


def test_scenes_offer_what_can_be_done_and_are_functions_of_their_facts(task: MissionTask) -> None:
    of_code: dict[int, tuple[str, ...]] = {}
    for obs, _, _ in played(task):
        legal, done = task.legal(obs), task.options_done(obs)
        assert legal.any(1).all()
        for n, scene in enumerate(task.describe(obs)):
            assert legal[n, list(scene.legal)].all()
            assert of_code.setdefault(int(task.fact_codes(obs[n : n + 1])[0]), scene.facts) == scene.facts
            assert to_strings(from_strings(scene.facts)) == scene.facts
            assert task.script(scene) in scene.legal
        k = np.arange(len(obs)) * 7 % len(task.options)
        assert (task.option_done(obs, k) == done[np.arange(len(obs)), k]).all()
    assert len(set(of_code.values())) == len(of_code)
    assert len(of_code) > 100


def test_options_do_what_they_say(task: MissionTask) -> None:
    """The planner's cell, the status of the map and the ends of options agree."""
    achieved = np.zeros(len(task.options), np.int64)
    for obs, option, after in played(task, 150):
        before, led = task._read(obs), task._read(after)
        way = task.plan(obs, option)
        to = (option >= GOTO) & (option < BESIDE_FIRST)
        assert (way[to, 1] >= 0).all(), "what can be reached has a way to it"
        target = np.where(to, option - GOTO, 0)
        each = np.arange(len(obs))
        assert ((way[:, 1] == 0) == (before.status[each, target] & FRONT > 0))[to].all()
        did = task.option_achieved(obs, after, option)
        assert (did[to] == (led.status[each, target] & FRONT > 0)[to]).all()
        assert task.option_done(after, option)[did & to].all()
        np.add.at(achieved, option[did], 1)
        mean, scale = task.ground(obs, option)
        assert (mean == way[:, 2:]).all()
        assert (scale == 1).all()
    assert (achieved[[0, 1, 2]] > 0).all()
    assert achieved[GOTO:BESIDE_FIRST].sum() > 20


def test_clearing_leads_to_what_can_be_dealt_with_there(task: MissionTask) -> None:
    cleared = 0
    for obs, _, _ in played(task, 150):
        clears = np.flatnonzero(task.legal(obs)[:, reading.CLEAR])
        way = task.plan(obs[clears], np.full(len(clears), reading.CLEAR))
        assert (way[:, 1] > 0).all(), "there is a way, and it is not at its end"
        for scene in task.describe(obs):
            facts = from_strings(scene.facts)
            assert (task.options.ids.index("clear") in scene.legal) <= (facts.next >= 0 or not facts.explore)
        cleared += len(clears)
    assert cleared > 0 or task.base_name == "OneRoom-PutNext"


@pytest.mark.parametrize("name", ["OneRoom-PickupGoTo:levels=30", "BabyAI-MiniBossLevel:levels=30"])
def test_places_are_told_of_with_the_missions_of_other_levels(name: str) -> None:
    task = get_task(name)
    assert isinstance(task, MissionTask)
    obs = np.concatenate([before for before, _, _ in played(task, 20)])
    keys = np.arange(len(obs))
    others = task.retold(obs, keys)
    before, after = parts(obs), parts(others)
    for name in ("image", "frame", "picked"):
        assert (getattr(before, name) == getattr(after, name)).all(), "what is seen stays"
    assert (task.retold(obs[7:9], keys[7:9]) == others[7:9]).all(), "whatever else is in the batch"
    trained = {row.tobytes() for row in task._pool("train").missions.words}
    assert {row.tobytes() for row in after.words} <= trained
    assert len(np.unique(after.words, axis=0)) > len(np.unique(before.words, axis=0))
    read = task._read(others)
    there = (read.asked.reshape(-1, 4, 2) >= 0).any(2)
    assert (after.done[~there] == ABSENT).all(), "what is not there is not to be done"
    assert 0.1 < (after.done & there).any(1).mean() < 0.6 or "GoTo" in name
    assert (read.wanted >= 0).any(1).all(), "something is left to do"
    for scene, done in zip(task.describe(others), after.done, strict=True):
        mission = understood(from_strings(scene.facts).text)
        few, count = len(mission.first), len(mission.clauses)
        assert done[:few].all() or not done[few:count].any(), "what comes then is done after all else"
        assert task.script(scene) in scene.legal
    about = ((np.take_along_axis(read.status, np.maximum(read.asked, 0), 1) > 0) & (read.asked >= 0)).sum(1)
    assert (2 * about >= (read.asked >= 0).sum(1)).mean() > 0.6, "mostly what was seen"


def test_controllers_see_what_is_read_for_no_mission(task: MissionTask) -> None:
    for obs, _, _ in played(task, 40):
        status, facts, done, words = task.sensed(obs)
        found, nothing = parts(obs), np.zeros((len(obs), 0), np.int64)
        plainly = np.empty_like(status), np.empty((len(obs), reading.COLUMNS), np.int64)
        reading.read(found.image, found.frame, found.picked, nothing, nothing, task._sight, *plainly)
        assert (status == plainly[0]).all()
        assert (facts == plainly[1][:, : reading.FACTS]).all()
        assert (done == found.done).all()
        assert (words == found.words).all()


@pytest.mark.parametrize("known", [True, False])
def test_controllers_are_told_what_comes_first_on_the_way_to_all_that_is_named(known: bool) -> None:
    """It is what is read where one of these is the mission; for what was not seen it is what leads on."""
    task, rng = get_task("BabyAI-BossLevel:levels=30"), np.random.default_rng(0)
    assert isinstance(task, MissionTask)
    obs = np.concatenate([before for before, _, _ in played(task, 150)])
    status, found, each = task.sensed(obs)[0], parts(obs), np.arange(len(obs))
    doors = np.array([target.kind == "door" for target in TARGETS])
    named = np.array([target.kind in ("", "box", "ball", "key", "door") for target in TARGETS])
    had = named & (status & (REACHED | BLOCKED) > 0) & (status & HELD == 0)
    of = had if known else named & (status & (REACHED | BLOCKED | HELD) == 0)
    wanted = (of * (rng.random(of.shape) + doors + (status & LOCK > 0))).argmax(1)[:, None]  # what is rarest
    aims = np.where(doors[wanted], reading.OPEN, reading.REACH)
    _, facts = plainly = np.empty_like(status), np.empty((len(obs), reading.COLUMNS), np.int64)
    reading.read(found.image, found.frame, found.picked, wanted, aims, task._sight, *plainly)
    told, following, onward = status[each, wanted[:, 0]], facts[:, reading.NEXT], facts[:, reading.ONWARD]
    can, leads, at = _dealt_with(facts, reading.NEXT), _dealt_with(facts, reading.ONWARD), facts[:, reading.AT] > 0
    kinds = np.array([target.kind for target in TARGETS])
    opened = (following < 0) & at & (kinds[onward] == "closed door")  # which is before exploring
    leads &= ~can & ((facts[:, reading.FRONTIER] == 0) | opened) & ((following >= 0) | (told & REACHED == 0))
    first = np.where(can, following, onward)
    asked = of.any(1) & ~doors[following] & (following != facts[:, reading.IN_HAND])  # open doors are in nobody's way
    true = {
        FIRST: can | leads,
        FACED: (can | leads) & at,
        OPENS: (can | leads) & np.char.endswith(kinds[first], " door"),
    } | ({WAITS: ~can & (following >= 0)} if known else {})
    for bit, expected in true.items():
        here = (told & bit > 0)[asked]
        assert here.sum() > 3
        assert (here != expected[asked]).mean() < 0.01, "the nearest one is meant where it is the mission"
    for scene in task.describe(obs):
        assert max(from_strings(scene.facts).status) < FIRST, "scenes do not say it"


def test_observations_that_changed_are_read_anew() -> None:
    task = get_task("OneRoom-GoTo")
    assert isinstance(task, MissionTask)
    env = task.make_vec(4, seed=3)
    obs, _ = env.reset()
    ours, first, turned = obs.copy(), task.legal(obs), task.skill(obs, np.zeros(4, np.int64))
    after, *_ = env.step(turned)
    assert (task.legal(ours) == first).all()
    ours[:] = after  # the same array, with other contents
    assert (task.legal(ours) == get_task("OneRoom-GoTo").legal(after)).all()
    assert (task.fact_codes(ours[:2]) == task.fact_codes(ours)[:2]).all()


def test_every_description_is_found_where_its_things_are() -> None:
    """The one pass over the map against a plain reading of each description; places are minigrid's."""
    task = get_task("OneRoom-GoTo:distractors=16,side=10")
    assert isinstance(task, MissionTask)
    obs, _ = task.make_vec(6, seed=3).reset()
    found, read = parts(obs), task._read(obs)
    colours, kinds = ("red", "green", "blue", "purple", "yellow", "grey"), {5: "key", 6: "ball", 7: "box"}
    for n in range(6):
        x0, y0, d = found.frame[n, :3].astype(int)
        dx, dy = ((1, 0), (0, 1), (-1, 0), (0, -1))[d]
        seen: set[str] = set()
        for x, y in np.argwhere(np.isin(found.image[n, ..., 0], list(kinds))):
            ahead, right = (x - x0) * dx + (y - y0) * dy, (y - y0) * dx - (x - x0) * dy
            sides = {"": True, "left": right < 0, "right": right > 0, "front": ahead > 0, "behind": ahead < 0}
            kind, colour = kinds[found.image[n, x, y, 0]], colours[found.image[n, x, y, 1]]
            seen |= {
                " ".join(filter(None, (c, k, place)))
                for place, there in sides.items()
                if there
                for c in ("", colour)
                for k in ("object", kind)
            }
        assert {NAMES[t] for t in np.flatnonzero(read.status[n])} == seen


@pytest.mark.parametrize(
    ("name", "share"),
    [
        *((f"OneRoom-{kind}", 0.98) for kind in ("GoTo", "Pickup", "Open", "PutNext", "PickupGoTo")),
        ("BabyAI-MiniBossLevel", 0.93),
        ("BabyAI-PickupLoc", 0.98),
    ],
)
def test_the_script_under_a_clock_solves_held_out_levels(name: str, share: float) -> None:
    task, count = get_task(name), 60
    env = task.make_vec(count, split="eval")
    obs, _ = env.reset(options={"level_seeds": np.arange(1_000_000, 1_000_000 + count)})
    option, age, won = np.zeros((3, count), np.int64)
    fresh, alive = np.ones(count, np.bool_), np.ones(count, np.bool_)
    while alive.any():
        option = np.where(fresh, scripted(task, obs), option)
        age = np.where(fresh, 0, age) + 1
        obs, _, terminated, truncated, info = env.step(task.skill(obs, option))
        won |= alive & info["success"]
        alive &= ~(terminated | truncated)
        fresh = terminated | truncated | task.option_done(obs, option) | (age >= task.options.timeouts[option])
    assert won.mean() >= share, f"failed on {np.flatnonzero(won == 0)}"


def facts(text: str, what: int, beside: int = 0, done: int = 0, **more: int) -> Facts:
    """Facts of a mission whose last clause has these statuses."""
    status, names = [0] * SLOTS, {name: number for number, name in enumerate(NAMES)}
    status[2 * done], status[2 * done + 1] = what, beside
    at = {"explore": 0, "ahead": -1, "held": -1, "aside": 1, "bare": 1, "next": -1, "onward": -1, "at": 0} | more
    assert names["red ball"] >= 0
    return Facts(text, tuple(k < done for k in range(4)), tuple(status), **at)  # type: ignore[arg-type]


BALL, KEY = NAMES.index("red ball"), NAMES.index("blue key")
DOOR, LOCKED = NAMES.index("blue closed door"), NAMES.index("blue locked door")


@pytest.mark.parametrize(
    ("scene", "choice"),
    [
        (facts("go to the red ball", 0, explore=1), "explore"),
        (facts("go to the red ball", REACHED), "goto:red ball"),
        (facts("pick up the red ball", REACHED | FRONT, ahead=BALL), "pickup"),
        (facts("pick up the red ball", REACHED, held=KEY), "aside"),
        (facts("pick up the red ball", REACHED, held=KEY, aside=2), "drop"),
        (facts("pick up the red ball", 0, next=DOOR), "clear"),
        (facts("pick up the red ball", 0, next=DOOR, ahead=DOOR, at=1), "toggle"),
        (facts("pick up the red ball", 0, next=LOCKED, ahead=LOCKED, held=KEY, at=1), "toggle"),
        (facts("go to the red ball, then open the blue door", REACHED, done=1), "goto:blue door"),
        (facts("put the red ball next to the blue box", HELD, REACHED | BESIDE, held=BALL), "beside:blue box"),
        (facts("put the red ball next to the blue box", HELD, REACHED | BESIDE | HERE, held=BALL), "drop"),
        (facts("go to the flurb", 0, explore=1), "explore"),
    ],
)
def test_the_expert_by_facts(scene: Facts, choice: str) -> None:
    assert expert(scene) == choice
    assert expert(from_strings(to_strings(scene))) == choice


def test_options_are_named_and_the_map_is_encoded_without_the_strip() -> None:
    task = get_task("OneRoom-PutNext")
    option = task.options[task.options.ids.index("goto:red ball left")]
    assert option.words == "go to the red ball on your left"
    assert len(task.options) == 6 + 2 * 7 * 7 * 5
    obs = task.make_vec(4).reset()[0]
    blank = obs.copy()
    blank[:, :, -task.told_columns :] = 0
    one, other = (encoder_of(task)(seen).parts for seen in (obs, blank))
    assert all((a == b).all() for a, b in zip(one[:2], other[:2], strict=True))
    assert (one[3] != other[3]).any(), "the words are told apart from the map"
    blank[:, :, : -task.told_columns] = 0
    assert (encoder_of(task)(blank).parts[0] != one[0]).any()
