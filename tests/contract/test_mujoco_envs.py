"""The mazes are good citizens of Gymnasium, and the batched and the single ones are the same."""

import warnings

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from envs.catalog import register_all
from envs.mujoco.mazes import SPECS, maze_spec
from envs.mujoco.model import model_xml
from envs.mujoco.rendering import choose_backend
from envs.mujoco.single import MazeEnv, register
from envs.mujoco.vector import MazeVectorEnv
from ground.errors import UserError


@pytest.fixture(autouse=True)
def _registered() -> None:
    register_all()
    register()


def single(name: str, **kwargs: object) -> MazeEnv:
    env = gym.make(f"Preceptor/{name}-v0", **kwargs).unwrapped
    assert isinstance(env, MazeEnv)
    return env


def actions_of(env: MazeVectorEnv, steps: int, seed: int = 0) -> np.ndarray:
    shape = (steps, env.num_envs, env.worlds.model.nu)
    return np.random.default_rng(seed).uniform(-1, 1, size=shape).astype(np.float32)


@pytest.mark.parametrize("name", SPECS)
def test_gymnasium_finds_no_fault(name: str) -> None:
    env = single(name, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env, skip_render_check=choose_backend().name == "off")
    env.close()


@pytest.mark.parametrize("name", SPECS)
def test_batched_and_single_are_equal_to_the_bit(name: str) -> None:
    batched = MazeVectorEnv(maze_spec(name), 3, split="eval", seed=5, threads=2)
    obs, info = batched.reset()
    singles = [single(name, split="eval") for _ in range(3)]
    for n, env in enumerate(singles):
        np.testing.assert_array_equal(env.reset(options={"level_seed": info["level_seed"][n]})[0], obs[n])
    for t, actions in enumerate(actions_of(batched, 110)):
        obs, reward, terminated, truncated, info = batched.step(actions)
        for n, env in enumerate(singles):
            its_obs, *outcome, its_info = env.step(actions[n])
            assert outcome == [reward[n], terminated[n], truncated[n]]
            assert its_info["success"] == info["success"][n]
            last = info["final_obs"][n] if truncated[n] else obs[n]
            np.testing.assert_array_equal(its_obs, last, err_msg=f"step {t}")
            if truncated[n]:
                begun, _ = env.reset(options={"level_seed": info["level_seed"][n]})
                np.testing.assert_array_equal(begun, obs[n])
    batched.close()


@pytest.mark.parametrize("name", ["AntMaze", "AntPush", "AntFall", "PointPush", "PointFall"])
def test_a_loop_over_mujoco_gives_the_same_numbers(name: str) -> None:
    """Written without `Worlds`, on a model without our switches: the reference of what an action is."""
    spec = maze_spec(name)
    env = MazeVectorEnv(spec, 2, seed=1)
    obs, _ = env.reset()
    plain = mujoco.MjModel.from_xml_string(model_xml(spec))
    mine = [mujoco.MjData(plain) for _ in range(2)]
    for n, data in enumerate(mine):
        data.qpos[:], data.qvel[:] = env.worlds.data[n].qpos, env.worlds.data[n].qvel
    count, goal = len(spec.robot.positions), spec.eval_goals[0]
    for t, actions in enumerate(actions_of(env, 60)):
        if t < 40 and spec.robot.name == "point":
            actions[:] = (spec.block_axes == "yz" and t < 12, spec.block_axes == "xy" or t >= 12)  # into the block
        obs, reward, *_ = env.step(actions)
        for n, data in enumerate(mine):
            for _ in range(spec.robot.frame_skip):
                data.ctrl[:] = spec.robot.action_limit * actions[n].astype(np.float64)
                mujoco.mj_step(plain, data)
            np.testing.assert_array_equal(obs[n, :count], data.qpos[:count].astype(np.float32))
            aim = env.worlds.goal[n] if name == "AntMaze" else goal
            assert reward[n] == pytest.approx(-np.linalg.norm(data.qpos[: len(goal)] - aim), abs=1e-12)
    assert spec.robot.name == "ant" or np.abs(mine[0].qpos[count:] - plain.qpos0[count:]).max() > 0.5


@pytest.mark.parametrize("name", ["PointUMaze", "AntFall"])
def test_it_is_a_gymnasium_vector_env(name: str) -> None:
    env = MazeVectorEnv(maze_spec(name), 4)
    assert isinstance(env, gym.vector.VectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    obs, info = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    assert info["level_seed"].shape == (4,)
    env.action_space.seed(0)
    after, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert env.observation_space.contains(after)
    assert after.dtype == np.float32
    assert reward.dtype == np.float64
    assert terminated.dtype == truncated.dtype == info["success"].dtype == np.bool_
    assert not np.shares_memory(obs, after)
    assert "final_obs" not in info


def test_a_finished_world_starts_anew_in_the_same_step() -> None:
    spec = maze_spec("PointUMaze")
    env = MazeVectorEnv(spec, 4, seed=1)
    _, info = env.reset()
    env.worlds.age[:2] = 50  # so that not all finish together
    for t, actions in enumerate(actions_of(env, spec.horizon), start=1):
        running = info["level_seed"]
        obs, _, _, truncated, info = env.step(actions)
        assert ("final_obs" in info) == truncated.any() == (t in (50, 100))
        for n in np.flatnonzero(truncated):
            assert info["_final_obs"][n]
            assert info["final_info"]["level_seed"][n] == running[n] != info["level_seed"][n]
            fresh, _ = MazeVectorEnv(spec, 1).reset(options={"level_seeds": info["level_seed"][n : n + 1]})
            np.testing.assert_array_equal(obs[n], fresh[0])
            assert np.abs(info["final_obs"][n] - obs[n]).max() > 0.1
        assert (info["level_seed"] == running)[~truncated].all()
        if truncated.any():
            np.testing.assert_array_equal(info["final_obs"][~truncated], obs[~truncated])


def test_episodes_depend_on_seed_world_and_number_alone() -> None:
    spec = maze_spec("PointUMaze")
    few, many = MazeVectorEnv(spec, 2, seed=4), MazeVectorEnv(spec, 6, seed=4)
    seeds = [env.reset()[1]["level_seed"] for env in (few, many)]
    np.testing.assert_array_equal(seeds[0], seeds[1][:2])
    assert (few.reset()[1]["level_seed"] != seeds[0]).any()
    np.testing.assert_array_equal(few.reset(seed=4)[1]["level_seed"], seeds[0])
    assert (few.reset(seed=5)[1]["level_seed"] != seeds[0]).any()


@pytest.mark.parametrize(("split", "low"), [("train", 0), ("eval", 1_000_000)])
def test_level_seeds_never_cross_the_split(split: str, low: int) -> None:
    env, one = MazeVectorEnv(maze_spec("PointUMaze"), 30, split=split), single("PointUMaze", split=split)
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


@pytest.mark.parametrize("name", ["PointUMaze", "PointFall", "AntMaze", "AntPush"])
def test_a_restored_state_continues_to_the_bit(name: str) -> None:
    env = MazeVectorEnv(maze_spec(name), 3, seed=9)
    env.reset()
    actions = actions_of(env, 160)
    for a in actions[:40]:
        env.step(a)
    saved = env.get_state()
    other = MazeVectorEnv(maze_spec(name), 3, seed=0, threads=2)
    other.reset()
    other.step(actions[0])
    other.set_state(saved)
    for a in actions[40:]:
        here, there = env.step(a), other.step(a)
        for one, its in zip(here[:4], there[:4], strict=True):
            np.testing.assert_array_equal(one, its)
        np.testing.assert_array_equal(here[4]["level_seed"], there[4]["level_seed"])
    assert all(isinstance(value, np.ndarray) for value in saved.values())
    with pytest.raises(UserError, match="does not fit 4 worlds"):
        MazeVectorEnv(maze_spec(name), 4).set_state(saved)
    other.close()


@pytest.mark.draws
def test_a_picture_shows_robot_block_goal_and_subgoal_and_changes_nothing() -> None:
    env = single("PointPush", render_mode="rgb_array")
    env.reset(options={"level_seed": 3})
    other = single("PointPush")
    other.reset(options={"level_seed": 3})
    plain = env.render()
    assert plain is not None
    assert plain.dtype == np.uint8
    side = len(plain)
    red, green, blue = (plain[..., i].astype(int) for i in range(3))

    def pixel(x: float, y: float) -> tuple[int, int]:
        """Row and column of a place; the middle of the picture is the middle of the map, 5 cells wide."""
        return round(side / 2 - (y - 4) * side / 20), round(side / 2 + x * side / 20)

    assert (red - green)[pixel(0, 4)] > 50, "the block"
    assert (green - red)[pixel(0, 9.5)] > 50, "the goal"
    assert (blue - red)[pixel(0, 0)] > 50, "the robot"
    env.subgoal = np.array([-4.0, 4.0])
    marked = env.render()
    assert marked is not None
    changed = np.argwhere(np.abs(marked.astype(int) - plain).sum(axis=2) > 60)
    assert np.abs(changed.mean(axis=0) - pixel(-4, 4)).max() < 0.03 * side
    for _ in range(5):
        np.testing.assert_array_equal(env.step(np.ones(2))[0], other.step(np.ones(2))[0])
        env.render()
    assert other.render() is None
    env.close()
