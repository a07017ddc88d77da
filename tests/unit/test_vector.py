"""The vector environment: autoreset, level seeds, state, copies, errors."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from envs.gridworld.cells import DOOR_LOCKED, encode_cell, kind_of
from envs.gridworld.levels import SPECS, doorkey_spec
from envs.gridworld.sight import fill_runs
from envs.gridworld.vector import GridVectorEnv
from ground.errors import UserError

SPEC = SPECS["LavaDoorKey"]


def actions_of(seed: int, steps: int, worlds: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(7, p=[0.15, 0.15, 0.4, 0.1, 0.05, 0.1, 0.05], size=(steps, worlds))


@pytest.mark.parametrize("view", ["map", "partial"])
def test_it_is_a_gymnasium_vector_env(view: str) -> None:
    env = GridVectorEnv(SPEC, 5, view=view)
    assert isinstance(env, gym.vector.VectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    obs, info = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    assert info["level_seed"].shape == (5,)
    obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert env.observation_space.contains(obs)
    assert reward.dtype == np.float64
    assert terminated.dtype == truncated.dtype == info["success"].dtype == np.bool_


def test_a_finished_world_starts_anew_in_the_same_step() -> None:
    env = GridVectorEnv(SPEC, 8, seed=1)
    _, info = env.reset()
    ended = 0
    for actions in actions_of(0, 400, 8):
        running = info["level_seed"]
        obs, reward, terminated, truncated, info = env.step(actions)
        over = terminated | truncated
        ended += over.sum()
        assert ("final_obs" in info) == over.any()
        for n in np.flatnonzero(over):
            assert info["_final_obs"][n]
            assert info["final_info"]["level_seed"][n] == running[n] != info["level_seed"][n]
            fresh, _ = GridVectorEnv(SPEC, 1).reset(options={"level_seeds": info["level_seed"][n : n + 1]})
            np.testing.assert_array_equal(obs[n], fresh[0])
            assert (info["final_obs"][n] != obs[n]).any()
        assert (info["level_seed"] == running)[~over].all()
        assert (reward[~info["success"]] == 0).all()
    assert ended > 8


def test_episodes_depend_on_seed_world_and_number_alone() -> None:
    few, many = GridVectorEnv(SPEC, 2, seed=4), GridVectorEnv(SPEC, 6, seed=4)
    seeds = [env.reset()[1]["level_seed"] for env in (few, many)]
    np.testing.assert_array_equal(seeds[0], seeds[1][:2])
    assert (few.reset()[1]["level_seed"] != seeds[0]).any()
    np.testing.assert_array_equal(few.reset(seed=4)[1]["level_seed"], seeds[0])
    assert (few.reset(seed=5)[1]["level_seed"] != seeds[0]).any()


def test_given_levels_come_first() -> None:
    env = GridVectorEnv(SPEC, 3, split="eval")
    wanted = np.array([1_000_007, 1_999_999, 1_000_000])
    np.testing.assert_array_equal(env.reset(options={"level_seeds": wanted})[1]["level_seed"], wanted)
    for actions in actions_of(1, 300, 3):
        seeds = env.step(actions)[4]["level_seed"]
        assert ((seeds >= 1_000_000) & (seeds < 2_000_000)).all()
    assert (seeds != wanted).all()


@pytest.mark.parametrize(
    ("split", "seed"), [("train", 1_000_000), ("train", -1), ("eval", 999_999), ("eval", 2_000_000)]
)
def test_level_seeds_never_cross_the_split(split: str, seed: int) -> None:
    with pytest.raises(UserError, match=f"{seed} is not of the {split} split"):
        GridVectorEnv(SPEC, 1, split=split).reset(options={"level_seeds": np.array([seed])})


@pytest.mark.parametrize("view", ["map", "partial"])
def test_a_restored_state_continues_to_the_bit(view: str) -> None:
    actions = actions_of(2, 400, 4)
    env = GridVectorEnv(SPECS["DynamicDoorKey"], 4, seed=9, view=view)
    env.reset()
    for a in actions[:170]:
        env.step(a)
    saved = env.get_state()
    other = GridVectorEnv(SPECS["DynamicDoorKey"], 4, seed=0, view=view)
    other.set_state(saved)
    for a in actions[170:]:
        here, there = env.step(a), other.step(a)
        image, its_image = (x[0] if view == "map" else x[0]["image"] for x in (here, there))
        np.testing.assert_array_equal(image, its_image)
        for one, its in zip(here[1:4], there[1:4], strict=True):
            np.testing.assert_array_equal(one, its)
        np.testing.assert_array_equal(here[4]["level_seed"], there[4]["level_seed"])
    with pytest.raises(UserError, match="does not fit"):
        GridVectorEnv(SPECS["DynamicDoorKey"], 5).set_state(saved)


@pytest.mark.parametrize("name", ["DynamicDoorKey", "KeyInBox", "TwoDoor"])
def test_the_painted_view_follows_every_change(name: str) -> None:
    """Against a second environment whose worlds are painted anew before each step."""
    env, anew = (GridVectorEnv(SPECS[name], 16, seed=s, view="partial") for s in (3, 4))
    env.reset()
    for a in actions_of(8, 400, 16):
        anew.set_state(env.get_state())
        for image, its_image in zip(*(e.step(a)[0].values() for e in (env, anew)), strict=True):
            np.testing.assert_array_equal(image, its_image)


def test_copy_says_who_owns_the_observation() -> None:
    for copy in (True, False):
        env = GridVectorEnv(SPEC, 2, copy=copy)
        first = env.reset(seed=0)[0]
        kept = first.copy()
        for a in actions_of(3, 20, 2):
            env.step(a)
        assert (first == kept).all() == copy


def test_actions_that_do_not_exist_are_refused() -> None:
    env = GridVectorEnv(SPEC, 2)
    env.reset()
    for wrong in ([0, 7], [-1, 0], [0, 0, 0]):
        with pytest.raises(ValueError, match="actions must be 2 integers"):
            env.step(np.array(wrong))


def test_the_door_moves_three_steps_after_the_key_is_picked_up() -> None:
    """Both wall cells are forgotten; where the door now is shows when it is seen again."""
    moved = 0
    env = GridVectorEnv(SPECS["DynamicDoorKey"], 64, seed=2)
    env.reset()
    doors, held_for = door_places(env), np.zeros(64, dtype=int)
    for actions in actions_of(5, 400, 64):
        obs, _, terminated, truncated, _ = env.step(actions)
        over = terminated | truncated
        state, now = env.get_state(), door_places(env)
        since = np.where(state["picked_at"] >= 0, state["clock"] - state["picked_at"], -1)
        changed = [doors[n] != now[n] for n in range(64)]
        for n in np.flatnonzero(~over):
            assert changed[n] == (since[n] == 3)
            if changed[n]:
                moved += 1
                assert obs[n][now[n]][0] in (0, 4)
                assert obs[n][doors[n]][0] in (0, 2)
        doors = now
        held_for = since
    assert moved > 20
    assert held_for.max() > 3


def door_places(env: GridVectorEnv) -> list[tuple[int, int]]:
    cells = env.get_state()["cells"]
    return [tuple(int(i) for i in np.argwhere((c & 15) == DOOR_LOCKED)[0]) for c in cells]


def test_our_doorkey_is_played_by_minigrids_rules() -> None:
    env = GridVectorEnv(doorkey_spec(5), 64, view="partial")
    env.reset()
    successes = 0
    for actions in actions_of(6, 600, 64):
        _, reward, terminated, _, info = env.step(actions)
        successes += info["success"].sum()
        assert ((reward > 0) == info["success"]).all()
        assert (terminated >= info["success"]).all()
    assert successes > 0


def test_light_fills_the_runs_that_it_touches() -> None:
    rng = np.random.default_rng(0)
    for light, clear in rng.integers(1 << 15, size=(300, 2)):
        want = int(light & clear)
        for _ in range(15):
            want |= (want << 1 | want >> 1) & int(clear)
        assert fill_runs(int(light), int(clear)) == want


def test_doors_are_stored_with_their_state() -> None:
    assert kind_of(encode_cell(4, 3, 2)) == DOOR_LOCKED
