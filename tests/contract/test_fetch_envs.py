"""Pick and place is Gymnasium-Robotics' own, a good citizen of Gymnasium, and batched and single ones are the same."""

import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from envs.catalog import get_task, register_all
from envs.fetch.single import FetchEnv, register
from envs.fetch.world import ENV_ID
from envs.mujoco.rendering import choose_backend
from ground.errors import UserError

TASK = get_task("FetchPickAndPlace")
HORIZON = 50


@pytest.fixture(autouse=True)
def _registered() -> None:
    register_all()
    register()


@pytest.fixture
def single(request: pytest.FixtureRequest) -> Iterator[FetchEnv]:
    env = gym.make("Preceptor/FetchPickAndPlace-v0", **getattr(request, "param", {})).unwrapped
    assert isinstance(env, FetchEnv)
    yield env
    env.close()


def flat(obs: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([obs["observation"], obs["desired_goal"]]).astype(np.float32)


def wandering(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The script in most steps, so that blocks are touched, and anything at all in others."""
    actions = TASK.skill(obs, TASK.script_batch(obs))
    return np.where(rng.random((len(obs), 1)) < 0.2, rng.uniform(-1, 1, actions.shape), actions).astype(np.float32)


@pytest.mark.parametrize(
    "single", [{}, pytest.param({"render_mode": "rgb_array"}, marks=pytest.mark.draws)], indirect=True, ids=str
)
def test_gymnasium_finds_no_fault(single: FetchEnv) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*infinity.*")  # the original's observations have no bounds either
        check_env(single, skip_render_check=single.render_mode is None)
    if single.render_mode is None:
        assert single.render() is None


def test_batched_and_single_are_the_original_to_the_bit_even_if_they_are_watched() -> None:
    batched, rng = TASK.make_vec(3, split="eval", seed=5), np.random.default_rng(0)
    obs, info = batched.reset()
    originals: list[gym.Env[Any, Any]] = [gym.make(ENV_ID) for _ in range(3)]
    singles = [TASK.make_single(int(seed)).unwrapped for seed in info["level_seed"]]
    for original, seed in zip(originals, info["level_seed"].tolist(), strict=True):
        original.reset(seed=seed)
    solved = 0
    for step in range(1, 2 * HORIZON + 10):
        actions = wandering(obs, rng)
        obs, reward, terminated, truncated, info = batched.step(actions)
        assert not terminated.any()
        assert (truncated == (step % HORIZON == 0)).all()
        for n, (original, env) in enumerate(zip(originals, singles, strict=True)):
            its_obs, its_reward, *ended, its_info = original.step(actions[n])
            last = info["final_obs"][n] if truncated[n] else obs[n]
            np.testing.assert_array_equal(last, flat(its_obs))
            assert (its_reward, ended) == (reward[n], [False, truncated[n]])
            assert info["success"][n] == (truncated[n] and its_info["is_success"] > 0)
            solved += info["success"][n]
            seen, *outcome, told = env.step(actions[n])
            np.testing.assert_array_equal(seen, last)
            assert outcome == [reward[n], False, truncated[n]]
            assert told["success"] == info["success"][n]
            if n == 0 and step % 10 == 0 and choose_backend().name != "off":
                env.render()
            if truncated[n]:
                assert told["level_seed"] == info["final_info"]["level_seed"][n] != info["level_seed"][n]
                level = int(info["level_seed"][n])
                np.testing.assert_array_equal(flat(original.reset(seed=level)[0]), obs[n])
                np.testing.assert_array_equal(env.reset(options={"level_seed": level})[0], obs[n])
    assert 0 < solved < 6, "both outcomes are compared"
    for env in singles:
        env.close()


@pytest.mark.draws
def test_a_picture_shows_the_goal_where_it_is_and_twice_the_same() -> None:
    env = TASK.make_single(1_000_000)
    first = env.render()
    assert first.shape == (480, 480, 3)
    np.testing.assert_array_equal(env.render(), first)
    red = first.astype(int) @ np.array([1, -1, -1])
    middle = np.argwhere(red > 60).mean(axis=0)
    assert (np.abs(middle - [278, 268]) < 15).all(), "on the table, behind the block"  # looked at once
    env.close()


def test_it_is_a_gymnasium_vector_env() -> None:
    env = TASK.make_vec(3)
    assert isinstance(env, gym.vector.VectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    obs, info = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    assert info["level_seed"].shape == (3,)
    env.action_space.seed(0)
    after, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert env.observation_space.contains(after)
    assert reward.dtype == np.float64
    assert terminated.dtype == truncated.dtype == info["success"].dtype == np.bool_
    assert not np.shares_memory(obs, after)
    assert "final_obs" not in info


@pytest.mark.parametrize(("split", "low"), [("train", 0), ("eval", 1_000_000)])
def test_level_seeds_never_cross_the_split(split: str, low: int) -> None:
    env, one = TASK.make_vec(2, split=split), FetchEnv(split)
    wanted = np.array([low, low + 999_999])
    obs, info = env.reset(options={"level_seeds": wanted})
    np.testing.assert_array_equal(info["level_seed"], wanted)
    np.testing.assert_array_equal(one.reset(options={"level_seed": low + 999_999})[0], obs[1])
    assert all(one.reset()[1]["level_seed"] in range(low, low + 1_000_000) for _ in range(5))
    for wrong in (low - 1, low + 1_000_000):
        with pytest.raises(UserError, match=f"{wrong} is not of the {split} split"):
            env.reset(options={"level_seeds": np.full(2, wrong)})
        with pytest.raises(UserError, match=f"{wrong} is not of the {split} split"):
            one.reset(options={"level_seed": wrong})
    assert TASK.make_single(low).unwrapped.split == split


def test_a_restored_state_continues_to_the_bit() -> None:
    env, rng = TASK.make_vec(2, seed=9), np.random.default_rng(0)
    obs, _ = env.reset()
    for _ in range(HORIZON + 15):  # in mid-grasp of the second episode
        obs, *_ = env.step(wandering(obs, rng))
    saved = env.get_state()
    other = TASK.make_vec(2, seed=0)
    other.reset()
    other.step(np.ones((2, 4), np.float32))
    other.set_state(saved)
    for _ in range(HORIZON):  # episodes end meanwhile, and others begin
        actions = wandering(obs, rng)
        (obs, *outcome, info), (its_obs, *its_outcome, its_info) = env.step(actions), other.step(actions)
        np.testing.assert_array_equal(obs, its_obs)
        np.testing.assert_array_equal(outcome, its_outcome)
        np.testing.assert_array_equal(info["level_seed"], its_info["level_seed"])
    assert all(isinstance(value, np.ndarray) for value in saved.values())
    with pytest.raises(UserError, match="does not fit 3 worlds of FetchPickAndPlace"):
        TASK.make_vec(3).set_state(saved)
