"""BabyAI's levels, batched: equal to minigrid's own classes step by step, saved and restored, refused where unknown."""

from contextlib import redirect_stdout

import gymnasium as gym
import numpy as np
import pytest
from minigrid.envs.babyai.core.verifier import GoToInstr, ObjDesc
from minigrid.envs.babyai.goto import GoToLocal

from preceptor.envs.catalog import MISSION_TASKS, get_task
from preceptor.envs.gridworld.engine import DROP, LEFT, PICKUP, RIGHT
from preceptor.envs.gridworld.stock_tasks import ItselfTask, full_id
from preceptor.envs.missions import rooms
from preceptor.envs.missions.levels import ABSENT, DONE, MissionPool, mission_of, parts
from preceptor.envs.missions.mission import VERBS, Description, Mission, words
from preceptor.envs.missions.scenes import UNREAD, understood
from preceptor.envs.missions.simulator import MissionSimulator
from preceptor.envs.missions.tasks import MissionTask
from preceptor.envs.missions.vocabulary import VOCABULARY
from preceptor.ground.errors import UserError
from tests.scripted import scripted

# The catalogue's, and those whose verifiers are strict, that start with something carried, or have keys in boxes.
LEVELS = (
    *MISSION_TASKS,
    *("BabyAI-OpenDoorsOrderN4Debug", "BabyAI-PickupDistDebug", "BabyAI-OpenRedBlueDoorsDebug", "BabyAI-KeyInBox"),
    *("BabyAI-PutNextS5N2Carrying", "BabyAI-UnlockToUnlock", "BabyAI-BlockedUnlockPickup"),
)
SLIPS = np.array([1.0, 0.6, 0.3, 0.1])  # shares of steps by chance in each of four levels


def small(name: str) -> MissionTask:
    """A task that has few levels."""
    kind = name.removeprefix("OneRoom-")
    room = kind in (*rooms.ROOMS, rooms.MIX)
    env_id = rooms.registered(kind, rooms.Chosen(distractors=4)) if room else f"{name}-v0"
    return MissionTask(name, env_id, count=8)


@pytest.mark.parametrize("name", LEVELS)
def test_it_is_minigrids_own_class_step_by_step(name: str) -> None:
    task, rng, met = small(name), np.random.default_rng(0), set()
    batched, singles = task.make_vec(len(SLIPS)), [task.make_env("train") for _ in SLIPS]
    obs, info = batched.reset()
    with redirect_stdout(None):
        begun = [env.reset(options={"level_seed": s})[0] for env, s in zip(singles, info["level_seed"], strict=True)]
    assert (np.stack(begun) == obs).all()
    assert all(task.make_env("train").observation_space.contains(one) for one in obs)
    for _ in range(130):
        planned = task.skill(obs, scripted(task, obs))
        actions = np.where(
            rng.random(4) < SLIPS, rng.choice(7, 4, p=[0.15, 0.15, 0.3, 0.13, 0.12, 0.13, 0.02]), planned
        )
        obs, reward, terminated, truncated, info = batched.step(actions)
        last, over = info.get("final_obs", obs), terminated | truncated
        for n, env in enumerate(singles):
            seen, *outcome, told = env.step(int(actions[n]))
            assert (seen == (last if over[n] else obs)[n]).all()
            assert outcome == [reward[n], terminated[n], truncated[n]]
            assert told["success"] == info["success"][n]
            if over[n]:
                met.add((bool(terminated[n]), bool(info["success"][n])))
                with redirect_stdout(None):
                    assert (env.reset(options={"level_seed": info["level_seed"][n]})[0] == obs[n]).all()
    assert met or name.startswith("BabyAI"), "rooms are so small that something ends"


def test_the_place_from_which_a_thing_was_taken_counts_until_a_drop_is_tried() -> None:
    """BabyAI's verifier refreshes what it believes of places then, and not before."""
    pool = MissionPool(rooms.registered("GoTo", rooms.Chosen(distractors=0)), 200, 0)
    sim, every = MissionSimulator(pool, 200, "GoTo"), np.arange(200)
    sim.begin(every, every)
    task = small("OneRoom-GoTo")
    won = np.zeros(200, np.bool_)
    for _ in range(40):  # to the only thing, so that each faces it
        found = sim.step(task.skill(sim.observe(), scripted(task, sim.observe())))
        won |= found.success
    assert won.all()
    taken = ((PICKUP, True), (LEFT, False), (RIGHT, True), (DROP, True))  # then elsewhere, or into a wall in vain
    for action, expected in (*taken, (PICKUP, True), (LEFT, False), (DROP, None), (RIGHT, False)):
        state = sim.get_state()
        state["strip"][:, DONE] = ABSENT * (pool.missions.verbs < 0)
        sim.set_state(state)
        success = sim.step(np.full(200, action)).success
        assert expected is None or (success == expected).all()


def test_a_state_in_the_middle_of_an_episode_goes_on_as_it_would_have() -> None:
    env_id = rooms.registered("PutNext", rooms.Chosen(distractors=4))
    # each with a pool of its own: who resumes has made none of the levels that are being played
    one, other = (MissionSimulator(MissionPool(env_id, 6, 0), 6, "PutNext") for _ in range(2))
    one.begin(np.arange(6), np.arange(6))
    other.begin(np.arange(6), np.zeros(6, np.int64))
    rng = np.random.default_rng(1)
    for t in range(120):
        if t == 60:
            other.set_state(one.get_state())
        actions = rng.choice(7, 6, p=[0.15, 0.15, 0.3, 0.15, 0.1, 0.1, 0.05])
        was = one.step(actions)
        if t >= 60:
            assert all((a == b).all() for a, b in zip(was, other.step(actions), strict=True))
            assert (one.observe() == other.observe()).all()


@pytest.mark.parametrize("name", ["BabyAI-BossLevel", "BabyAI-SynthLoc", "BabyAI-PickupDistDebug"])
def test_missions_are_read_from_minigrids_objects_and_from_their_words_alike(name: str) -> None:
    env = gym.make(full_id(name)).unwrapped
    for seed in range(40):
        with redirect_stdout(None):
            env.reset(seed=seed)
        assert understood(env.mission) == mission_of(env)  # type: ignore[arg-type]
        text = VOCABULARY.decode(VOCABULARY.encode(env.mission, 96))
        assert understood(text) == understood(words(mission_of(env)))  # type: ignore[arg-type]


class _Odd(GoToInstr):
    """A clause of a user's own."""


class OddLevel(GoToLocal):
    """A level whose verifier is not BabyAI's."""

    def gen_mission(self) -> None:
        super().gen_mission()
        self.instrs = _Odd(ObjDesc(self.instrs.desc.type, self.instrs.desc.color))


class GoalLevel(GoToLocal):
    """A level with rules of its own in `step`."""

    def step(self, action: int):  # type: ignore[no-untyped-def]
        return super().step(action)


@pytest.mark.parametrize(("level", "why"), [(OddLevel, "clause _Odd"), (GoalLevel, r"in step\(\)")])
def test_what_the_verifier_does_not_know_runs_as_itself(level: type, why: str) -> None:
    gym.register(f"{level.__name__}-v0", entry_point=level)
    task = get_task(f"{level.__name__}-v0")
    assert isinstance(task, ItselfTask)
    assert why.replace("\\", "") in task.why


def test_parameters_are_put_in_order_and_checked() -> None:
    task = get_task("oneroom-putnext:SIDE=9,distractors=0")
    assert task.name == "OneRoom-PutNext:distractors=0,side=9"
    assert task is get_task("OneRoom-PutNext:distractors=0,side=9")
    assert get_task("OneRoom-PutNext:distractors=8") is get_task("OneRoom-PutNext")
    assert (task.observation_shape[:1], task.encoded_shape) == ((9,), (8, 8, 4))
    said = get_task("OneRoom-Mix:clauses=1-2,pairs=known,words=held-out")
    assert said.name == "OneRoom-Mix:words=held-out,pairs=known,clauses=1-2"
    assert said.options.ids == get_task("OneRoom-Mix").options.ids
    obs = get_task("BabyAI-GoToLocal:levels=3").make_vec(20).reset()[0]
    assert len(np.unique(parts(obs).words, axis=0)) <= 3
    assert Description("red", "ball") == understood("go to the red ball").clauses[0].what


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("OneRoom-GoTo:side=2", "from 6 to 25"),
        ("OneRoom-GoTo:side=6", "at most 7 other objects"),
        ("OneRoom-Mix:clauses=4,distractors=17", "at most 10 other objects"),
        ("OneRoom-Mix:words=odd", "plain, training, held-out"),
        ("OneRoom-Mix:pairs=", "all, known, new"),
        ("OneRoom-Mix:clauses=5", "not '5'"),
        ("OneRoom-Mix:clauses=2,kind=goto", "not both"),
        ("OneRoom-Mix:clauses=2,clauses=2", "given twice"),
        ("OneRoom-GoTo:clauses=2", "parameter of OneRoom-GoTo"),
        ("BabyAI-GoToLocal:side=8", "parameter of BabyAI-GoToLocal"),
        ("BabyAI-GoToLocal:levels=x", "whole number"),
        ("BabyAI-GoToLocal:levels=²", "whole number"),
    ],
)
def test_what_a_level_cannot_have_is_said(wrong: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        get_task(wrong)


def drawn(name: str, count: int = 150) -> list[tuple[str, Mission]]:
    """Missions of a task's held-out levels, in their words and as minigrid has them."""
    env = get_task(name).make_env("eval")
    found = []
    with redirect_stdout(None):
        for level in range(count):
            env.reset(options={"level_seed": 1_000_000 + level})
            found.append((env.unwrapped.mission, mission_of(env.unwrapped)))
    return found


def pairs_of(mission: Mission) -> set[tuple[str, str]]:
    return {(part.colour, part.kind) for clause in mission.clauses for part in clause[1:] if part}


def test_a_mixture_has_each_kind_or_one() -> None:
    verbs = {tuple(clause.verb for clause in mission.clauses) for _, mission in drawn("OneRoom-Mix")}
    assert verbs == set(rooms.ROOMS.values())
    one = {tuple(clause.verb for clause in mission.clauses) for _, mission in drawn("OneRoom-Mix:kind=pickupgoto", 20)}
    assert one == {("pickup", "goto")}


def test_missions_are_said_in_training_words_or_in_held_out_ones() -> None:
    plain, told, new = (drawn(f"OneRoom-Mix:words={words}") for words in rooms.WORDS)
    assert [mission for _, mission in plain] == [mission for _, mission in told] == [mission for _, mission in new]
    assert all(understood(text) == mission for text, mission in told)
    assert sum(text != other for (text, _), (other, _) in zip(plain, told, strict=True)) > 100
    assert all(understood(text) == UNREAD for text, _ in new)
    assert not any(VOCABULARY.unknown(text) for text, _ in new)
    assert new == drawn("OneRoom-Mix:words=held-out"), "a level has one mission"


def test_pairs_that_are_held_out_are_named_in_new_missions_alone() -> None:
    assert {colour for colour, _ in rooms.HELD_OUT} < {"blue", "green", "grey", "purple", "red", "yellow"}
    assert all(pairs_of(mission) & rooms.HELD_OUT for _, mission in drawn("OneRoom-Mix:pairs=new"))
    known = [pairs_of(mission) for _, mission in drawn("OneRoom-Mix:pairs=known", 300)]
    assert len(set().union(*known)) == 20
    assert not set().union(*known) & rooms.HELD_OUT


@pytest.mark.parametrize(("clauses", "lengths"), [("1", {1}), ("2", {2}), ("3", {3}), ("4", {4}), ("1-2", {1, 2})])
def test_missions_have_as_many_clauses_as_are_asked_for(clauses: str, lengths: set[int]) -> None:
    found = [mission for _, mission in drawn(f"OneRoom-Mix:clauses={clauses}", 60)]
    assert {len(mission.clauses) for mission in found} == lengths
    assert {clause.verb for mission in found for clause in mission.clauses} == set(VERBS)
    assert all(len(mission.first) <= 2 and len(mission.then) <= 2 for mission in found)
