"""All families' environments: good citizens of Gymnasium, batched and single ones equal, seeds split, resume exact."""

import subprocess
import sys
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from minigrid.minigrid_env import MiniGridEnv
from numpy.typing import NDArray

from preceptor.envs.catalog import FAMILIES, TASKS, get_task, make_single_env, register_all
from preceptor.envs.gridworld.single import SeenMap
from preceptor.envs.mujoco.rendering import choose_backend
from preceptor.envs.task import Task
from preceptor.ground.errors import UserError
from tests.scripted import scripted

# Of each family some, with steps that are enough for ends of episodes, and how these may be.
PLAYED = {
    **{name: (320, {"success", "truncated"}) for name in TASKS if name not in ("LavaDoorKey", "TwoDoor")},
    "LavaDoorKey": (320, {"success", "failed"}),
    "TwoDoor": (1610, {"success", "truncated"}),
    "PointUMaze": (110, {"success", "truncated"}),
    "PointFall": (110, {"success", "truncated"}),
    "AntPushRobust": (510, {"truncated"}),
    "RescueWorld-n2-random": (210, {"success", "truncated"}),
    "RescueWorld-n6": (610, {"success", "truncated"}),
    "FetchPickAndPlace": (60, {"success", "truncated"}),
    "WholeBody": (210, {"success", "truncated"}),
    "KitchenKinematic": (290, {"success", "truncated"}),
    "Pendulum-v1": (210, {"truncated"}),
}
REGISTERED = [name for family in FAMILIES.values() if family.entry_point for name in family.tasks]
N = 3


class Hands:
    """The script with slips; in the first environment nothing but slips, so that its episodes are truncated."""

    def __init__(self, task: Task) -> None:
        self.task, self.rng = task, np.random.default_rng(0)

    def __call__(self, obs: NDArray) -> NDArray:
        task, count = self.task, len(obs)
        size = (count, task.num_actions) if task.continuous else count
        chance = self.rng.uniform(-1, 1, size) if task.continuous else self.rng.integers(task.num_actions, size=size)
        slips = (self.rng.random(count) < 0.1) | (np.arange(count) == 0)
        try:
            planned = task.skill(obs, scripted(task, obs))
        except UserError:  # there are no skills
            return chance.astype(np.float32)
        return np.where(slips.reshape(-1, *[1] * (planned.ndim - 1)), chance, planned).astype(planned.dtype)


def image(obs: Any) -> NDArray:
    """MiniGrid's classes have a mission beside the map."""
    return obs["image"] if isinstance(obs, dict) else obs


@pytest.mark.parametrize("name", REGISTERED)
def test_gymnasium_finds_no_fault(name: str) -> None:
    register_all()
    register_all()  # once more does no harm
    drawn = ("Ant", "Point", "Fetch", "WholeBody", "Kitchen")
    draws = choose_backend().name != "off" or not any(word in name for word in drawn)
    env = gym.make(f"Preceptor/{name}-v0", render_mode="rgb_array" if draws else None).unwrapped
    grid = isinstance(env, MiniGridEnv)
    assert grid == (name in FAMILIES["grid"].tasks)
    env.reset(seed=0)
    assert not draws or env.render().std() > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*infinity.*")  # Fetch's own observations have no bounds either
        if grid:
            warnings.simplefilter("ignore")
        check_env(env, skip_render_check=grid or not draws)  # MiniGrid's check would open a window
    env.close()
    assert gym.make(f"Preceptor/{name}-v0", disable_env_checker=True).unwrapped.render_mode is None


@pytest.mark.parametrize("name", PLAYED)
def test_it_is_a_gymnasium_vector_env(name: str) -> None:
    env = get_task(name).make_vec(4)
    assert isinstance(env, gym.vector.VectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    obs, _ = env.reset(seed=0)
    env.action_space.seed(0)
    after, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert all(env.observation_space.contains(seen) for seen in (obs, after))
    assert (after.dtype, reward.dtype, info["level_seed"].shape) == (obs.dtype, np.float64, (4,))
    assert terminated.dtype == truncated.dtype == info["success"].dtype == np.bool_
    assert not np.shares_memory(obs, after)
    assert "final_obs" not in info
    env.close()


@pytest.mark.parametrize(
    ("name", "seed"), [*((name, 5) for name in PLAYED), *(pytest.param(n, 6, marks=pytest.mark.learn) for n in TASKS)]
)
def test_batched_and_single_are_equal_to_the_bit_and_begin_anew_in_the_same_step(name: str, seed: int) -> None:
    """Those of the grids are MiniGrid's own classes, and play more: what chance seldom reaches is compared as well."""
    task, (steps, expected), ends = get_task(name), PLAYED[name], set()
    count, steps = (8 if name in TASKS and steps < 1000 else N), steps * (5 if seed == 6 else 1)
    batched, hands = task.make_vec(count, split="eval", seed=seed), Hands(task)
    obs, info = batched.reset()
    singles = [task.make_single(int(seed)) for seed in info["level_seed"]]
    for _ in range(steps):
        actions, playing = hands(obs), info["level_seed"]
        obs, reward, terminated, truncated, info = batched.step(actions)
        over = terminated | truncated
        assert ("final_obs" in info) == over.any()
        assert (info["level_seed"] == playing)[~over].all()
        if over.any():
            assert (info["_final_obs"] == over).all()
            assert (info["_final_info"] == over).all()
            assert (info["final_info"]["level_seed"] == playing)[over].all()
        for n, env in enumerate(singles):
            seen, *outcome, told = env.step(task.to_gymnasium(actions[n]))
            assert outcome == [reward[n], terminated[n], truncated[n]]
            assert told["success"] == info["success"][n]
            assert told["level_seed"] == playing[n]
            np.testing.assert_array_equal(image(seen), info["final_obs"][n] if over[n] else obs[n])
            if over[n]:
                ends.add("success" if info["success"][n] else "truncated" if truncated[n] else "failed")
                assert info["level_seed"][n] != playing[n]
                begun, told = env.reset(options={"level_seed": int(info["level_seed"][n])})
                np.testing.assert_array_equal(image(begun), obs[n])
            if "option" in info:
                assert told["option"] == info["option"][n]
    assert expected <= ends
    for env in (*singles, batched):
        env.close()


@pytest.mark.parametrize("name", PLAYED)
def test_levels_depend_on_seed_environment_and_number_alone(name: str) -> None:
    few, many = (get_task(name).make_vec(count, seed=4) for count in (2, 6))

    def levels(env: gym.vector.VectorEnv, seed: int | None = None) -> list[int]:
        return env.reset(seed=seed)[1]["level_seed"][:2].tolist()

    first, second = levels(few), levels(few)
    assert [first, second] == [levels(many), levels(many)]
    assert levels(few, seed=4) == first != second
    assert levels(few, seed=5) != first


@pytest.mark.parametrize(("split", "low"), [("train", 0), ("eval", 1_000_000)])
@pytest.mark.parametrize("name", PLAYED)
def test_level_seeds_never_cross_the_split(name: str, split: str, low: int) -> None:
    task = get_task(name)
    env, one = task.make_vec(2, split=split), task.make_single(low)
    assert one.split == split
    for _ in range(5):
        assert ((env.reset()[1]["level_seed"] - low) // 1_000_000 == 0).all()
        assert (one.reset()[1]["level_seed"] - low) // 1_000_000 == 0
    obs, info = env.reset(options={"level_seeds": [low + 999_999, low]})
    assert info["level_seed"].tolist() == [low + 999_999, low]
    np.testing.assert_array_equal(image(one.reset(options={"level_seed": low})[0]), obs[1])
    for wrong in (low - 1, low + 1_000_000):
        for either, options in ((env, {"level_seeds": [wrong] * 2}), (one, {"level_seed": wrong})):
            with pytest.raises(UserError, match=f"{wrong} is not of the {split} split"):
                either.reset(options=options)
    with pytest.raises(UserError, match="shape"):
        env.reset(options={"level_seeds": [low]})
    with pytest.raises(UserError, match="split"):
        task.make_vec(1, split="test")
    one.close()


@pytest.mark.parametrize(("split", "low"), [("train", 0), ("eval", 1_000_000)])
def test_levels_are_drawn_from_all_of_a_split(split: str, low: int) -> None:
    task, count = get_task("RescueWorld-n2"), 1_000
    single = task.make_env(split)
    for drawn in (
        task.make_vec(count, split=split).reset()[1]["level_seed"],
        np.array([single.reset(seed=seed)[1]["level_seed"] for seed in range(count)]),
    ):
        tenths = np.bincount((drawn - low) // 100_000, minlength=10)
        assert tenths.shape == (10,)
        assert (tenths > 60).all()


@pytest.mark.parametrize(("split", "low"), [("train", 0), ("eval", 1_000_000)])
@pytest.mark.parametrize("name", ["KeyInBox", "DoorKey-5x5", "MiniGrid-MemoryS7-v0", "Pendulum-v1"])
def test_what_datasets_name_begins_the_levels_that_agents_play(name: str, split: str, low: int) -> None:
    one, env = make_single_env(name, split), get_task(name).make_vec(1, split=split)
    for seed in range(20):
        obs, info = one.reset(seed=seed)
        again = env.reset(options={"level_seeds": [info["level_seed"]]})
        np.testing.assert_array_equal(obs, again[0][0])
    if name == "DoorKey-5x5":  # of which there are fewer levels
        with pytest.raises(UserError, match=f"use level seeds {low} to "):
            one.reset(options={"level_seed": low + 999_999})


@pytest.mark.parametrize("name", ["KeyInBox", "DoorKey-5x5", "MiniGrid-MemoryS7-v0", "RescueWorld-n2", "CartPole-v1"])
def test_infos_of_resets_have_the_names_of_those_of_steps(name: str) -> None:
    """Which those who record them want."""
    stock = [SeenMap(gym.make("MiniGrid-DoorKey-5x5-v0"))] if name == "DoorKey-5x5" else []
    for env in (get_task(name).make_env(), make_single_env(name), *stock):
        begun = env.reset(seed=0)[1]
        assert begun.keys() == env.step(0)[4].keys()
        assert begun["success"] is False


@pytest.mark.parametrize("name", [*PLAYED, "AntMaze", "Ant-v5", "CartPole-v1", "DoorKey-5x5", "MiniGrid-MemoryS7-v0"])
def test_a_restored_state_continues_to_the_bit(name: str) -> None:
    task = get_task(name)
    env, hands, steps = task.make_vec(N, seed=9), Hands(task), 60 if "Ant" in name else PLAYED.get(name, (60, {}))[0]
    obs, _ = env.reset()
    for _ in range(steps // 2):
        obs, *_ = env.step(hands(obs))
    saved = env.get_state()
    other = task.make_vec(N, seed=0)
    other.step(hands(other.reset()[0]))
    other.set_state(saved)
    for _ in range(steps):  # episodes end meanwhile, and others begin
        actions = hands(obs)
        (obs, *outcome, info), (its_obs, *its_outcome, its_info) = env.step(actions), other.step(actions)
        np.testing.assert_array_equal(obs, its_obs)
        np.testing.assert_array_equal([*outcome, info["level_seed"]], [*its_outcome, its_info["level_seed"]])
        assert info.keys() == its_info.keys()
    with pytest.raises(UserError, match=f"does not fit 4 environments of {name}"):
        task.make_vec(4).set_state(saved)
    with pytest.raises(UserError, match="level_seed differs"):
        env.set_state({key: value for key, value in saved.items() if key != "level_seed"})


def played(name: str, mode: AutoresetMode | str) -> list[list[tuple[Any, ...]]]:
    """What each of N environments went through, beginnings of episodes included; its actions are always the same."""
    task, rng = get_task(name), np.random.default_rng(0)
    env = task.make_vec(N, seed=3, autoreset_mode=mode)
    assert env.autoreset_mode is env.metadata["autoreset_mode"] is AutoresetMode(mode)
    size = (500, N, task.num_actions) if task.continuous else (500, N)
    table = (
        rng.uniform(-1, 1, size).astype(np.float32) if task.continuous else rng.integers(task.num_actions, size=size)
    )
    obs, info = env.reset()
    lives = [[(obs[n], info["level_seed"][n])] for n in range(N)]
    taken, over = np.zeros(N, np.int64), np.zeros(N, np.bool_)
    for step in range(420):
        if step % 67 == 0:
            resumed = task.make_vec(N, seed=9, autoreset_mode=mode)
            resumed.set_state(env.get_state())
            env = resumed
        begins = over & (env.autoreset_mode is AutoresetMode.NEXT_STEP)
        obs, *outcome, info = env.step(table[taken, np.arange(N)])
        assert not np.array(outcome)[:, begins].any(), "nothing happens while it begins"
        taken, over = taken + ~begins, outcome[1] | outcome[2]
        for n in range(N):
            seen = info["final_obs"][n] if "final_obs" in info and over[n] else obs[n]
            lives[n].append((seen, info["level_seed"][n]) if begins[n] else (seen, *(part[n] for part in outcome)))
        if env.autoreset_mode is AutoresetMode.DISABLED and over.any():
            with pytest.raises(UserError, match=r"has ended[\s\S]*next: env.reset\(options={'reset_mask'"):
                env.step(table[0])
            obs, info = env.reset(options={"reset_mask": over})
        for n in np.flatnonzero(over) if env.autoreset_mode is not AutoresetMode.NEXT_STEP else ():
            lives[n].append((obs[n], info["level_seed"][n]))
    with pytest.raises(UserError, match="reset_mask must have shape"):
        env.reset(options={"reset_mask": [True]})
    return lives


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, "Disabled"])
@pytest.mark.parametrize("name", ["KeyInBox", "PointUMaze", "RescueWorld-n2-random", "Pendulum-v1", "DoorKey-5x5"])
def test_each_way_to_begin_anew_plays_the_same_episodes(name: str, mode: AutoresetMode | str) -> None:
    for same, other in zip(played(name, AutoresetMode.SAME_STEP), played(name, mode), strict=True):
        assert sum(len(moment) == 2 for moment in other) > 1, "episodes ended"
        for ours, theirs in zip(same, other, strict=False):
            np.testing.assert_equal(ours, theirs)


@pytest.mark.parametrize("name", ["KeyInBox", "DoorKey-5x5", "RescueWorld-n2", "Pendulum-v1"])
def test_batched_environments_are_drawn_as_single_ones(name: str) -> None:
    task = get_task(name)
    env, hands = task.make_vec(N, split="eval", render_mode="rgb_array"), Hands(task)
    obs, info = env.reset(seed=1)
    assert task.make_vec(1).render() is None
    singles = [task.make_single(int(seed)) for seed in info["level_seed"]]
    for _ in range(40):
        actions = hands(obs)
        obs, _, terminated, truncated, _ = env.step(actions)
        for single, action in zip(singles, actions, strict=True):
            single.step(task.to_gymnasium(action))
        if (terminated | truncated).any():
            break
        for picture, single in zip(env.render()[:: N - 1], singles[:: N - 1], strict=True):
            np.testing.assert_array_equal(picture, single.render())


@pytest.mark.parametrize("words", ["gymnasium, preceptor", "preceptor, gymnasium", "gymnasium"])
def test_importing_the_package_registers_its_ids(words: str) -> None:
    code = f"import {words}; gymnasium.make('preceptor:Preceptor/KeyInBox-v0'); gymnasium.spec('Preceptor/AntPush-v0')"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_gymnasium_makes_them() -> None:
    """Its wrappers of observations want those that begin in the next step, which is what its `make_vec` gives."""
    assert gym.make("Preceptor/KeyInBox-v0", max_steps=7).unwrapped.max_steps == 7
    for name in ("Preceptor/PointReach-v0", "Preceptor/PointPushOriginal-v0", "Preceptor/RescueWorld-n2-v0"):
        env = gym.wrappers.vector.NormalizeObservation(gym.make_vec(name, num_envs=2, split="eval"))
        assert (env.reset(seed=0)[1]["level_seed"] >= 1_000_000).all()
        assert env.observation_space.contains(env.step(env.action_space.sample())[0].astype(np.float32))
    assert gym.make_vec("Preceptor/RescueWorld-n2-v0", autoreset_mode="SameStep").num_envs == 1
