"""Gymnasium ids as tasks: their environments are Gymnasium's own, and misfits are refused."""

import gymnasium as gym
import gymnasium_robotics
import numpy as np
import pytest

import preceptor
from preceptor.agent import hierarchy as hierarchy_module
from preceptor.agent.acting import Agent
from preceptor.agent.config import configure
from preceptor.agent.methods.off_policy import SACSettings, TD3Settings
from preceptor.agent.players import play, random_player, summary
from preceptor.envs import vector as vector_module
from preceptor.envs.catalog import GYM_TASKS, get_task
from preceptor.envs.gym_tasks import GymTask
from preceptor.envs.vector import endless
from preceptor.ground.errors import UserError
from tests.scripted import scripted

IDS = ("Pendulum-v1", "Ant-v5", "Reacher-v5", "FetchPickAndPlace-v4")


class Sometimes(gym.Env):
    """Ends after five steps, with success where its start was above zero; with `broken`, gives NaN at the third."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float64)
    action_space = gym.spaces.Box(np.array([0, -4], np.float32), np.array([2, 4], np.float32))

    def __init__(self, broken=False, render_mode=None):
        self.broken, self.seen = broken, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.start = 0, self.np_random.uniform(-1, 1)
        return np.array([self.start]), {}

    def step(self, action):
        self.steps += 1
        self.seen.append(action)
        obs = np.array([np.nan if self.broken and self.steps == 3 else self.start])
        return obs, 1.0, self.steps == 5, False, {"is_success": self.start > 0}


class Named(Sometimes):
    """The same with actions from 5 to 7."""

    action_space = gym.spaces.Discrete(3, start=5)


class Unsound(Sometimes):
    """Says of the third step what its argument makes of that; of a reset likewise if `when` is `reset`."""

    def __init__(self, made, when="step", render_mode=None):
        super().__init__()
        self.made, self.when = made, when

    def reset(self, **how):
        told = super().reset(**how)
        return self.made(*told) if self.when == "reset" else told

    def step(self, action):
        told = super().step(action)
        return self.made(*told) if self.when == "step" and self.steps == 3 else told


class Endless(Sometimes):
    """Never ends."""

    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, False, info


class Many(Sometimes):
    """The same with two named actions at once."""

    action_space = gym.spaces.MultiDiscrete([2, 2])


@pytest.fixture(autouse=True)
def _registered():
    gym.register("Sometimes-v0", entry_point=Sometimes)
    gym.register("Broken-v0", entry_point=Sometimes, kwargs={"broken": True})
    gym.register("Named-v0", entry_point=Named)
    gym.register("Many-v0", entry_point=Many)
    yield
    for name in [
        name for name, spec in gym.registry.items() if getattr(spec.entry_point, "__module__", "") == __name__
    ]:
        del gym.registry[name]


def vector(obs):
    """The observation as tasks have it: Fetch's is a dictionary."""
    parts = [obs["observation"], obs["desired_goal"]] if isinstance(obs, dict) else [obs]
    return np.concatenate(parts).astype(np.float32)


@pytest.mark.parametrize("name", IDS)
def test_environments_are_gymnasiums_own(name):
    """Episode by episode the same numbers as `gym.make`, with actions stretched to the environment's bounds."""
    task = get_task(name.removesuffix("-v4"))
    env, rng, solved = task.make_vec(3, split="eval", seed=5), np.random.default_rng(0), []
    obs, info = env.reset()
    assert obs.dtype == np.float32
    gym.register_envs(gymnasium_robotics)
    own = [gym.make(name) for _ in range(3)]
    for n, single in enumerate(own):
        np.testing.assert_array_equal(vector(single.reset(seed=int(info["level_seed"][n]))[0]), obs[n])
    bound = own[0].action_space.high  # as far below zero, in all of them
    for _ in range(210):
        actions = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        if "Fetch" in name:  # the script in most steps, so that blocks are touched
            actions = np.where(rng.random((3, 1)) < 0.2, actions, task.skill(obs, scripted(task, obs)))
        obs, reward, terminated, truncated, info = env.step(actions)
        for n, single in enumerate(own):
            its_obs, its_reward, *ended, its_info = single.step(actions[n] * bound)
            assert ended == [terminated[n], truncated[n]]
            assert reward[n] == its_reward
            assert info["success"][n] == (any(ended) and its_info.get("is_success", 0) > 0)
            np.testing.assert_array_equal(info["final_obs"][n] if any(ended) else obs[n], vector(its_obs))
            if any(ended):
                solved.append(info["success"][n])
                np.testing.assert_array_equal(vector(single.reset(seed=int(info["level_seed"][n]))[0]), obs[n])
    assert set(solved) == {False, "Fetch" in name}, "episodes ended"
    env.close()


def test_ends_success_and_bounds_of_actions():
    env = get_task("Sometimes-v0").make_vec(8, seed=0)
    obs, info = env.reset()
    begun = info["level_seed"]
    for step in range(5):
        before, started = info["level_seed"], obs
        obs, _, terminated, truncated, info = env.step(np.tile(np.array([[-1.0, 1.0]], np.float32), (8, 1)))
        assert terminated.all() == (step == 4)
        assert not truncated.any()
    np.testing.assert_array_equal(info["success"], started[:, 0] > 0)
    assert 0 < info["success"].sum() < 8
    np.testing.assert_array_equal(info["final_obs"], started)
    np.testing.assert_array_equal(info["final_info"]["level_seed"], before)
    np.testing.assert_array_equal(before, begun)
    assert (info["level_seed"] != before).all()
    np.testing.assert_allclose(env.simulator.envs[0].unwrapped.seen[0], [0.0, 4.0])


def test_a_number_that_is_not_finite_is_an_error_that_names_the_episode():
    env = get_task("Broken-v0").make_vec(2)
    _, info = env.reset()
    step = np.zeros((2, 2), np.float32)
    env.step(step)
    env.step(step)
    with pytest.raises(UserError, match=f"level seed {info['level_seed'][0]}"):
        env.step(step)


@pytest.mark.parametrize(
    ("when", "made", "why"),
    [
        ("step", lambda *told: {}["gripper"], r"raises KeyError: 'gripper' \(tests/unit/test_gym_tasks.py, line \d+\)"),
        (
            "step",
            lambda *told: np.linalg.inv(np.zeros((2, 2))),
            r"raises LinAlgError: Singular matrix \(tests/unit/test_gym_tasks.py, line \d+\)",
        ),
        ("step", lambda *told: told[:4], r"returned tuple, not \(observation, reward, terminated, truncated, info\)"),
        ("step", lambda *told: (*told[:4], None), "returned tuple, not"),
        (
            "step",
            lambda obs, *rest: (obs[None], *rest),
            r"returned an observation of shape \(1, 1\), and its space has \(1,\)",
        ),
        ("step", lambda obs, *rest: (0.0, *rest), r"returned an observation of shape \(\), and"),
        ("step", lambda obs, reward, *rest: (obs, "much", *rest), "raises ValueError: could not convert"),
        (
            "step",
            lambda obs, reward, end, *rest: (obs, reward, np.zeros(2), *rest),
            "raises ValueError: The truth value",
        ),
        ("reset", lambda obs, info: obs, r"returned ndarray, not \(obs, info\)"),
        ("reset", lambda obs, info: {}["level"], "raises KeyError: 'level'"),
        (
            "reset",
            lambda obs, info: (np.zeros(3), info),
            r"returned an observation of shape \(3,\), and its space has \(1,\)",
        ),
    ],
)
def test_what_an_environment_does_wrong_names_its_class_and_method(when, made, why):
    gym.register("Unsound-v0", entry_point=Unsound, kwargs={"made": made, "when": when})
    env = GymTask("Unsound-v0").make_vec(2)
    with pytest.raises(UserError, match=rf"^Unsound.{when}\(\) in the episode of level seed \d+ {why}[\s\S]*next: "):
        env.reset(), [env.step(np.zeros((2, 2), np.float32)) for _ in range(3)]


def test_what_cannot_be_made_names_the_line():
    gym.register("Unmade-v0", entry_point=Sometimes, kwargs={"no_such": 1})
    with pytest.raises(UserError, match=r"cannot make Unmade-v0, which raises TypeError.*'no_such'.*, line"):
        GymTask("Unmade-v0")


def test_a_task_that_never_ends_is_named_before_training_and_cut_in_evaluation(tmp_path, monkeypatch, capsys):
    """Gymnasium's own ids, which have limits, are not played for that."""
    for place in (vector_module, hierarchy_module):
        monkeypatch.setattr(place, "LONGEST", 40)
    gym.register("Endless-v0", entry_point=Endless)
    gym.register("Ending-v0", entry_point=Endless, max_episode_steps=60)
    assert [endless(get_task(name).make_vec(1), name) for name in ("Sometimes-v0", "Ending-v0")] == ["", ""]
    short = {"steps": 64, "num_envs": 2, "eval_episodes": 3, "logdir": str(tmp_path), "savedir": "short"}
    run = preceptor.train("Endless-v0", "ppo", **short, quiet=False)
    assert (
        "Endless-v0 has no limit of steps, and an episode of random play did not end in 40" in capsys.readouterr().err
    )
    assert [run.result["student"]["greedy"][name] for name in ("cut", "length", "return")] == [3, 40, 40]
    assert preceptor.evaluate(run.path, episodes=2)["student"]["sampled"]["cut"] == 2
    played = play(get_task("Ending-v0"), random_player(), range(1_000_000, 1_000_003), greedy=False)
    assert "cut" not in summary(played)
    assert played.length.tolist() == [60] * 3


def test_the_one_option_keeps_the_promises_of_a_task():
    task = get_task("halfcheetah-v5")
    assert isinstance(task, GymTask)
    assert (task.name, task.observation_shape, task.num_actions, task.continuous) == ("HalfCheetah-v5", (17,), 6, True)
    assert len(task.options) == len(task.legal(np.zeros((3, 17)))[0]) == 1
    assert [task.script(scene) for scene in task.describe(np.zeros((3, 17)))] == [0, 0, 0]
    assert not task.goal_space.indices, "hiro refuses it by that"
    assert task is get_task("HalfCheetah-v5")


def test_what_is_unfit_is_refused_by_name():
    for name, why in (
        ("HalfCheeta-v5", "Did you mean 'HalfCheetah-v5'"),
        ("Blackjack-v1", "They are Tuple"),
        ("Many-v0", "and MultiDiscrete"),
        ("CarRacing-v3", "."),  # whichever comes first: box2d is not installed, or its observations are images
        ("no_such_module:Pendulum-v1", "no module 'no_such_module'"),
    ):
        with pytest.raises(UserError, match=why):
            get_task(name)
    with pytest.raises(UserError, match="has no flaw"):
        get_task("Pendulum-v1", "lava")


def test_every_suggested_id_is_one():
    assert set(GYM_TASKS) <= set(gym.registry)


def test_presets_are_those_of_the_papers():
    sac = configure(method="sac", task="HalfCheetah-v5")
    assert (sac.steps, sac.num_envs) == (100_000, 1)
    assert isinstance(sac.settings, SACSettings)
    learner = sac.settings.learner
    assert (sac.settings.updates, learner.hidden, learner.batch, learner.lr) == (1.0, (256, 256), 256, 3e-4)
    assert isinstance(configure(method="td3", task="Ant-v5").settings, TD3Settings)
    assert configure(method="sac", task="Pendulum-v1").steps <= 10_000


def test_named_actions_begin_where_the_environment_has_it():
    task = get_task("Named-v0")
    assert (task.num_actions, task.continuous) == (3, False)
    env = task.make_vec(3)
    env.reset()
    env.step(np.array([0, 1, 2]))
    assert [single.unwrapped.seen for single in env.simulator.envs] == [[5], [6], [7]]
    assert env.get_state()["actions"].dtype == np.int64


@pytest.mark.parametrize("name", ["Named-v0", "Sometimes-v0"])
def test_an_agent_acts_in_the_environments_own_numbers(name):
    """One and several at once, on what Gymnasium gives; `make` is Gymnasium's environment on the task's levels."""
    task, own = get_task(name), gym.make(name)
    agent, acted = Agent(task, random_player(), seed=0), []
    for _ in range(40):
        acted.append(agent.act(own.reset()[0]))
        assert own.action_space.contains(acted[-1])
        own.step(acted[-1])
    low, high = (5, 7) if name == "Named-v0" else (own.action_space.low, own.action_space.high)
    acted = np.array(acted)
    assert (acted.min(0) <= low + 0.2 * (np.array(high) - low)).all(), "all of the range is used"
    assert (acted.max(0) >= high - 0.2 * (np.array(high) - low)).all()
    several = Agent(task, random_player(), seed=0).act(np.zeros((4, 1)))
    assert len(several) == 4
    assert all(own.action_space.contains(action) for action in several)
    single = preceptor.make(name)
    _, info = single.reset(seed=3)
    assert info["level_seed"] >= 1_000_000
    assert single.reset(seed=3)[1] == info
    assert not single.step(several[0])[4]["success"]
    with pytest.raises(UserError, match="split"):
        preceptor.make(name, split="test")
