"""Robots without skills: controllers are distilled from states at random, and hierarchies plan with them."""

import json

import numpy as np
import pytest

import main as cli
from preceptor.agent.config import configure
from preceptor.agent.controllers import named_controller
from preceptor.envs.catalog import get_task
from preceptor.envs.mujoco.tasks import CHASM
from tests.scripted import scripted

ANTS = ["AntMaze", "AntPushRobust", "AntFallRobust"]


def test_a_robot_with_skills_is_taught_at_play():
    task = get_task("PointPush")
    assert task.scattered is task


@pytest.mark.parametrize("name", ANTS)
def test_every_step_shows_another_of_all_scenes_that_can_be_met(name):
    task = get_task(name)
    env = task.scattered.make_vec(16, seed=3)
    shown = [env.reset()[0]]
    for _ in range(150):
        obs, _, terminated, truncated, info = env.step(np.zeros((16, 8), np.float32))
        assert truncated.all()
        assert not terminated.any()
        assert np.array_equal(info["final_obs"], shown[-1]), "actions do nothing"
        shown.append(obs)
    obs = np.concatenate(shown)
    facts = {scene.facts for scene in task.describe(obs)}
    sampled = task.sample_scenes(np.random.default_rng(0), 3000)
    assert facts == {scene.facts for scene in sampled if f"robot={CHASM}" not in scene.facts}
    names = task.spec.observation_names
    heading = np.linalg.norm(obs[:, [names.index(f"q{part}") for part in "wxyz"]], axis=1)
    assert np.allclose(heading, 1.0, atol=1e-6)
    assert obs.std(0)[[i for i, each in enumerate(names) if not each.startswith(("goal", "block"))]].min() > 0.01


def test_what_is_shown_depends_on_the_level_and_is_restored():
    task = get_task("AntPushRobust").scattered
    env, other = task.make_vec(4, seed=5), task.make_vec(4, seed=6)
    other.reset()
    first, _ = env.reset(options={"level_seeds": np.arange(4)})
    other.set_state(env.get_state())
    still = np.zeros((4, 8), np.float32)
    assert np.array_equal(env.step(still)[0], other.step(still)[0])
    assert np.array_equal(env.reset(options={"level_seeds": np.arange(4)})[0], first)


def test_blocks_are_shown_on_both_sides_of_what_makes_a_state_of_them():
    task = get_task("AntPushRobust")
    obs, _ = task.scattered.make_vec(400, seed=1).reset()
    moved = obs[:, task.spec.observation_names.index("block_x")] / task.spec.cell
    assert ((moved > 0) & (moved < 0.15)).sum() > 20, "it still stands in the middle"
    assert ((moved > 0.15) & (moved < 0.5)).sum() > 20
    assert (moved > 0.5).sum() > 20


def test_ppo_learns_from_goals_that_ran():
    for learner, share in (("sac", 0.5), ("ppo", 0.0)):
        config = configure({"task": "AntMaze", "low_learner": learner}, method="hiro")
        assert config.settings.other_goals == share
        assert config.settings.reward_progress == (share > 0)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """A log directory with a controller of the ant's push."""
    root = tmp_path_factory.mktemp("logs")
    words = ["--method", "dagger", "--task", "AntPushRobust", "--teacher", "scripted", "--savedir", "planner"]
    assert cli.main(["train", *words, "--logdir", str(root), "--quiet"]) == 0
    return root


def test_a_controller_of_an_ant_agrees_with_its_teacher_wherever_the_ant_is(logs, capsys):
    task = get_task("AntPushRobust")
    controller = named_controller("planner", str(logs), task)
    obs, _ = task.scattered.make_vec(500, split="eval", seed=1).reset()
    chosen, _ = controller.label(obs, task.legal(obs))
    assert (chosen == scripted(task, obs)).mean() > 0.95
    run = logs / "dagger/AntPushRobust/planner"
    assert "student" not in json.loads((run / "result.json").read_text()), "it cannot walk by itself"
    assert "rollout/" not in (run / "metrics.jsonl").read_text().replace("rollout/mix", "")
    assert cli.main(["eval", "--method", "dagger", "--task", "AntPushRobust", "--logdir", str(logs)]) == 2
    assert "train --method hiro --task AntPushRobust --high-level controller" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--prior controller", "--high-level controller"])
def test_a_hierarchy_of_an_ant_plans_with_it(logs, capsys, words):
    few = ["--steps", "400", "--num-envs", "4", "--warmup", "200", "--eval-episodes", "1", "--json", "--quiet"]
    where = ["--task", "AntPushRobust", "--savedir", words.split()[0].strip("-"), "--logdir", str(logs)]
    assert cli.main(["train", "--method", "hiro", "--teacher", "scripted", *where, *few, *words.split()]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["steps"] == 400, "states at random are no steps"
    assert result["student"]["greedy"]["episodes"] == 1
