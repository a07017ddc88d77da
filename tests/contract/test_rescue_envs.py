"""Rescue Worlds are good citizens of Gymnasium, and the batched and the single ones are the same."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from envs.catalog import get_task, register_all
from envs.rescue.single import RescueEnv, register
from envs.rescue.specs import SPECS, rescue_spec
from envs.rescue.vector import RescueVectorEnv
from ground.errors import UserError


@pytest.fixture(autouse=True)
def _registered() -> None:
    register_all()
    register()


def single(name: str, **kwargs: object) -> RescueEnv:
    env = gym.make(f"Preceptor/{name}-v0", **kwargs).unwrapped
    assert isinstance(env, RescueEnv)
    return env


def actions_for(env: RescueVectorEnv, obs: np.ndarray, option: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The expert with many mistakes; in every third world nothing but mistakes, so that the horizon is reached."""
    wise = get_task(env.map.name).expert_actions(obs, option, rng, epsilon=0.3)
    return np.where(np.arange(len(obs)) % 3 == 0, rng.integers(4, size=len(obs)), wise)


@pytest.mark.parametrize("name", SPECS)
def test_gymnasium_finds_no_fault(name: str) -> None:
    env = single(name, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
    assert single(name).render() is None


@pytest.mark.parametrize("name", SPECS)
def test_batched_and_single_are_equal_to_the_bit(name: str) -> None:
    batched, rng, ends = RescueVectorEnv(rescue_spec(name), 3, split="eval", seed=5), np.random.default_rng(0), set()
    obs, info = batched.reset()
    singles = [single(name, split="eval") for _ in range(3)]
    for n, env in enumerate(singles):
        its_obs, its_info = env.reset(options={"level_seed": info["level_seed"][n]})
        np.testing.assert_array_equal(its_obs, obs[n])
        assert its_info == {"level_seed": info["level_seed"][n], "option": info["option"][n]}
    for _ in range(rescue_spec(name).horizon + 50):
        actions = actions_for(batched, obs, info["option"], rng)
        obs, reward, terminated, truncated, info = batched.step(actions)
        for n, env in enumerate(singles):
            its_obs, *outcome, its_info = env.step(actions[n])
            over = terminated[n] or truncated[n]
            assert outcome == [reward[n], terminated[n], truncated[n]]
            assert its_info["success"] == info["success"][n] == terminated[n]
            np.testing.assert_array_equal(its_obs, info["final_obs"][n] if over else obs[n])
            if over:
                ends.add("found" if terminated[n] else "late")
                assert its_info["level_seed"] == info["final_info"]["level_seed"][n]
                begun, its_info = env.reset(options={"level_seed": info["level_seed"][n]})
                np.testing.assert_array_equal(begun, obs[n])
            assert its_info["option"] == info["option"][n]
    assert ends == {"found", "late"}


def test_it_is_a_gymnasium_vector_env() -> None:
    env = RescueVectorEnv(rescue_spec("RescueWorld-n3"), 4)
    assert isinstance(env, gym.vector.VectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    obs, info = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    assert info["level_seed"].shape == info["option"].shape == (4,)
    env.action_space.seed(0)
    after, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert env.observation_space.contains(after)
    assert reward.dtype == np.float64
    assert terminated.dtype == truncated.dtype == info["success"].dtype == np.bool_
    assert not np.shares_memory(obs, after)
    assert "final_obs" not in info


def test_a_finished_world_starts_anew_in_the_same_step() -> None:
    env, rng, finished = RescueVectorEnv(rescue_spec("RescueWorld-n2-random"), 6, seed=1), np.random.default_rng(0), 0
    obs, info = env.reset()
    for _ in range(250):
        running = info["level_seed"]
        obs, _, terminated, truncated, info = env.step(actions_for(env, obs, info["option"], rng))
        over = terminated | truncated
        assert ("final_obs" in info) == over.any()
        assert (info["level_seed"] == running)[~over].all()
        if not over.any():
            continue
        np.testing.assert_array_equal(info["_final_obs"], over)
        np.testing.assert_array_equal(info["_final_info"], over)
        np.testing.assert_array_equal(info["final_info"]["level_seed"], running)
        np.testing.assert_array_equal(info["final_obs"][~over], obs[~over])
        for n in np.flatnonzero(over):
            finished += 1
            assert terminated[n] == (info["final_obs"][n, 20:] == 0).all()
            fresh, its = RescueVectorEnv(env.map, 1).reset(options={"level_seeds": info["level_seed"][n : n + 1]})
            np.testing.assert_array_equal(obs[n], fresh[0])
            assert info["option"][n] == its["option"][0]
    assert finished > 12


def test_episodes_depend_on_seed_world_and_number_alone() -> None:
    spec, drawn = rescue_spec("RescueWorld-n2"), {}
    for worlds in (2, 6):
        env, rng = RescueVectorEnv(spec, worlds, seed=4), np.random.default_rng(worlds)
        obs, info = env.reset()
        drawn[worlds] = [[seed] for seed in info["level_seed"]]
        while min(map(len, drawn[worlds])) < 4:
            obs, _, terminated, truncated, info = env.step(actions_for(env, obs, info["option"], rng))
            for n in np.flatnonzero(terminated | truncated):
                drawn[worlds][n].append(info["level_seed"][n])
    for few, many in zip(drawn[2], drawn[6][:2], strict=True):
        assert few[:4] == many[:4]
        assert len(set(few[:4])) == 4
    np.testing.assert_array_equal(env.reset(seed=4)[1]["level_seed"], [seeds[0] for seeds in drawn[6]])
    assert (env.reset()[1]["level_seed"] != [seeds[0] for seeds in drawn[6]]).all()
    assert (env.reset(seed=5)[1]["level_seed"] != [seeds[0] for seeds in drawn[6]]).all()


@pytest.mark.parametrize(("split", "low"), [("train", 0), ("eval", 1_000_000)])
def test_level_seeds_never_cross_the_split(split: str, low: int) -> None:
    env, one = RescueVectorEnv(rescue_spec("RescueWorld-n2"), 30, split=split), single("RescueWorld-n2", split=split)
    seeds = env.reset()[1]["level_seed"]
    assert ((seeds >= low) & (seeds < low + 1_000_000)).all()
    assert all(one.reset()[1]["level_seed"] in range(low, low + 1_000_000) for _ in range(20))
    for wrong in (low - 1, low + 1_000_000):
        with pytest.raises(UserError, match=f"{wrong} is not of the {split} split"):
            env.reset(options={"level_seeds": np.full(30, wrong)})
        with pytest.raises(UserError, match=f"{wrong} is not of the {split} split"):
            one.reset(options={"level_seed": wrong})
    with pytest.raises(UserError, match="shape"):
        env.reset(options={"level_seeds": seeds[:3]})
    assert get_task("RescueWorld-n2").make_single(low).unwrapped.split == split


@pytest.mark.parametrize("name", ["RescueWorld-n3", "RescueWorld-n6-random"])
def test_a_restored_state_continues_to_the_bit(name: str) -> None:
    env, rng = RescueVectorEnv(rescue_spec(name), 3, seed=9), np.random.default_rng(0)
    obs, info = env.reset()
    for _ in range(400):  # by then worlds differ in the number of their episode
        obs, _, _, _, info = env.step(actions_for(env, obs, info["option"], rng))
    saved = env.get_state()
    other = RescueVectorEnv(rescue_spec(name), 3, seed=0)
    other.reset()
    other.step(np.zeros(3, dtype=np.int64))
    other.set_state(saved)
    for _ in range(rescue_spec(name).horizon):  # episodes end meanwhile, and others begin
        actions = actions_for(env, obs, info["option"], rng)
        (obs, *outcome, info), (its_obs, *its_outcome, its_info) = env.step(actions), other.step(actions)
        np.testing.assert_array_equal(obs, its_obs)
        np.testing.assert_array_equal(outcome, its_outcome)
        for key in ("level_seed", "option"):
            np.testing.assert_array_equal(info[key], its_info[key])
    assert all(isinstance(value, np.ndarray) for value in saved.values())
    with pytest.raises(UserError, match="does not fit 4 worlds"):
        RescueVectorEnv(rescue_spec(name), 4).set_state(saved)
