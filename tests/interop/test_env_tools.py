"""Other people's tools on our environments: Minigrid's tests, Gymnasium's checkers and wrappers, SB3, TorchRL."""

import copy
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from minigrid import wrappers

import preceptor  # noqa: F401  # registers the ids
from preceptor.envs.catalog import FAMILIES, get_task
from preceptor.envs.mujoco.rendering import choose_backend

pytestmark = pytest.mark.interop
GRIDS = [f"Preceptor/{name}-v0" for name in FAMILIES["grid"].tasks]
IDS = [f"Preceptor/{name}-v0" for family in FAMILIES.values() if family.entry_point for name in family.tasks]
OTHERWISE = (
    wrappers.RGBImgPartialObsWrapper,
    wrappers.DictObservationSpaceWrapper,
)  # whose spaces are of MiniGrid's view
DRAWN = [name for name in IDS if name in GRIDS or "Rescue" in name or choose_backend().name != "off"]


def assert_equal(one: Any, other: Any) -> None:
    """Of observations and infos, alone or together."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        [assert_equal(one[key], other[key]) for key in one]
    elif isinstance(one, tuple):
        [assert_equal(*pair) for pair in zip(one, other, strict=True)]
    else:
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", GRIDS)
def test_what_minigrid_asks_of_its_own_environments(name: str) -> None:
    """Minigrid 3.2.0, tests/test_envs.py: checker, roll-outs, drawing, `max_steps`, pickling, a seed's one level."""
    spec = gym.spec(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(spec.make(disable_env_checker=True).unwrapped, skip_render_check=True)
    one, other = (spec.make(disable_env_checker=True) for _ in range(2))
    assert_equal(one.reset(seed=0), other.reset(seed=0))
    one.action_space.seed(0)
    for _ in range(50):
        action = one.action_space.sample()
        (obs, *outcome), (its_obs, *its_outcome) = one.step(action), other.step(action)
        assert_equal(obs, its_obs)
        assert one.observation_space.contains(obs)
        assert outcome == its_outcome
        if outcome[1] or outcome[2]:
            assert_equal(one.reset(seed=0), other.reset(seed=0))
    drawn = spec.make(render_mode="rgb_array")
    drawn.reset()
    drawn.step(0)
    assert drawn.render().std() > 0
    short = spec.make(max_steps=50)
    short.reset()
    ends = [short.step(4)[3] for _ in range(50)]
    assert ends == [False] * 49 + [True]
    copy.deepcopy(one).reset(seed=1)  # by the protocol that pickling uses, as Minigrid's test does
    for seed in range(1337, 1342):
        one.reset(seed=seed)
        grid = copy.deepcopy(one.unwrapped.grid)
        one.reset(seed=seed)
        assert grid == one.unwrapped.grid


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize(
    "wrapper",
    [
        wrappers.ImgObsWrapper,
        wrappers.ReseedWrapper,
        wrappers.FullyObsWrapper,
        wrappers.RGBImgObsWrapper,
        wrappers.RGBImgPartialObsWrapper,
        wrappers.DictObservationSpaceWrapper,
        wrappers.FlatObsWrapper,
        wrappers.ActionBonus,
        wrappers.PositionBonus,
        wrappers.NoDeath,
        wrappers.StochasticActionWrapper,
    ],
)
def test_minigrids_wrappers(wrapper: Any, name: str) -> None:
    """Minigrid 3.2.0, tests/test_wrappers.py."""
    how = {"no_death_types": ("lava",), "death_cost": -1.0} if wrapper is wrappers.NoDeath else {}
    env = wrapper(gym.make(name), **how)
    for seed in range(5):
        obs, _ = env.reset() if wrapper is wrappers.ReseedWrapper else env.reset(seed=seed)
        for action in (0, 2, 1):
            assert env.observation_space.contains(obs) or wrapper in OTHERWISE
            obs, *_ = env.step(action)
    env.close()


@pytest.mark.parametrize("name", IDS)
def test_gymnasiums_checkers_and_wrappers(name: str) -> None:
    env = gym.make(name)  # within the passive checker
    env = gym.wrappers.RecordEpisodeStatistics(gym.wrappers.Autoreset(gym.wrappers.TimeLimit(env, 20)))
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(50):
        obs, *_ = env.step(env.action_space.sample())
        assert env.observation_space.contains(obs)
    env.close()
    for how in ("sync", "vector_entry_point"):
        many = gym.wrappers.vector.RecordEpisodeStatistics(gym.make_vec(name, num_envs=3, vectorization_mode=how))
        assert many.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
        many.reset(seed=0)
        many.action_space.seed(0)
        for _ in range(30):
            assert many.observation_space.contains(many.step(many.action_space.sample())[0])
        many.close()


VECTORS = [name for name in IDS if name not in GRIDS]


@pytest.mark.parametrize("name", VECTORS)
def test_gymnasiums_wrappers_of_vectors(name: str) -> None:
    for wrap in (
        gym.wrappers.vector.NormalizeObservation,
        gym.wrappers.vector.FlattenObservation,
        gym.wrappers.vector.NormalizeReward,
    ):
        env = wrap(gym.make_vec(name, num_envs=2))
        env.reset(seed=0)
        env.action_space.seed(0)
        for _ in range(20):
            assert np.isfinite(env.step(env.action_space.sample())[0]).all()
        env.close()


@pytest.mark.parametrize("name", DRAWN[::4])
def test_gymnasium_records_videos(name: str, tmp_path: Path) -> None:
    single = gym.wrappers.RecordVideo(gym.make(name, render_mode="rgb_array"), str(tmp_path / "one"), video_length=5)
    several = gym.make_vec(name, num_envs=2, render_mode="rgb_array")
    for env in (single, gym.wrappers.vector.RecordVideo(several, str(tmp_path / "two"), video_length=5)):
        env.reset(seed=0)
        for _ in range(8):
            env.step(env.action_space.sample())
        env.close()
    assert len(list(tmp_path.glob("*/*.mp4"))) == 2


@pytest.mark.parametrize("name", IDS)
def test_stable_baselines(name: str) -> None:
    """Its checker on all, and some steps of PPO."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_checker import check_env as sb3_check

    env: Any = gym.make(name)
    if name in GRIDS:
        env = gym.wrappers.FlattenObservation(wrappers.ImgObsWrapper(env))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*observation.*|.*image.*")
        sb3_check(env, warn=False, skip_render_check=True)
        PPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1, seed=0).learn(64)
    env.close()


@pytest.mark.parametrize("mode", [AutoresetMode.DISABLED, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("name", ["KeyInBox", "PointReach", "RescueWorld-n2", "FetchPickAndPlace", "AntPushRobust"])
def test_torchrl(name: str, mode: AutoresetMode) -> None:
    """Its checker, and roll-outs that go on beyond ends."""
    from torchrl.envs import GymWrapper
    from torchrl.envs.utils import check_env_specs

    env = GymWrapper(get_task(name).make_vec(3, autoreset_mode=mode), device="cpu")
    if mode is AutoresetMode.DISABLED:
        check_env_specs(env)
    env.set_seed(0)
    steps = 170 if name != "AntPushRobust" else 20
    rolled = env.rollout(steps, break_when_any_done=False)
    assert rolled.batch_size == (3, steps)
    assert name in ("AntPushRobust", "PointReach", "RescueWorld-n2") or rolled["next", "done"].any()
    env.close()
    single = gym.make(f"Preceptor/{name}-v0")
    grid = f"Preceptor/{name}-v0" in GRIDS  # TorchRL knows no space of missions
    single = GymWrapper(wrappers.ImgObsWrapper(single) if grid else single, device="cpu")
    assert single.rollout(10).batch_size[0] > 0
