"""What the mazes are for: a low level learns to reach, goals lead around what a flat agent runs into, HIRO finds them.

The first three run always, on small budgets that suffice for each of several seeds (dev/LOG.md); the slow ones carry
`learn`, with the budgets of issue 4.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preceptor.agent.config import configure
from preceptor.agent.evaluate import load_student
from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.runs.run import Run
from preceptor.agent.train import train
from preceptor.envs.catalog import get_task


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs live, and the controller of a scripted teacher."""
    folder = tmp_path_factory.mktemp("log")
    trained(folder, "dagger", "PointPush", steps=4_000, eval_episodes=0, name="controller")
    return folder


def slow(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.learn(pytest.mark.timeout(3_600)(test))


def trained(logs: Path, method: str, task: str, *, seed: int = 0, name: str = "run", **changes: Any) -> dict[str, Any]:
    """The result line of one run."""
    shared = {"method": method, "task": task, "seed": seed, "teacher": "scripted", "logdir": str(logs), "quiet": True}
    return train(configure(shared, savedir=f"{name}-{seed}", **changes))


def greedy(result: dict[str, Any]) -> float:
    """Success on held-out levels."""
    return float(result["student"]["greedy"]["success"])


def final_distance(result: dict[str, Any], levels: int = 20) -> float:
    """Mean distance to the goal at the end of held-out episodes, greedily."""
    task = get_task(result["task"])
    player = load_student(Run.open(Path(result["run"])), task)
    env = task.make_vec(levels, split="eval")
    hierarchy = Hierarchy(task, env, player, rng=None, levels=np.arange(1_000_000, 1_000_000 + levels))
    for _ in range(task.spec.horizon - 1):
        hierarchy.step()
    return float(env.simulator.distance().mean())


@pytest.mark.parametrize(("method", "steps"), [("sac", 7_000), ("ppo", 40_000)])
def test_a_flat_agent_learns_to_reach(logs: Path, method: str, steps: int) -> None:
    assert greedy(trained(logs, method, "PointReach", steps=steps, eval_episodes=30)) >= 0.9


def test_a_controller_leads_a_low_level_that_learns_options_of_named_actions(logs: Path) -> None:
    """MiniGrid, with PPO below: rewarded for achieving options alone, it opens doors."""
    trained(logs, "dagger", "SimpleDoorKey", steps=12_000, eval_episodes=0, name="grid")
    led = {"high_level": "controller", "controller": "grid-0", "steps": 160_000, "eval_episodes": 100}
    result = trained(logs, "hiro", "SimpleDoorKey", **led)
    assert result["student"]["sampled"]["success"] >= 0.7


def test_a_planner_leads_a_low_level_that_learns_where_a_flat_agent_stays_at_the_wall(logs: Path) -> None:
    led = trained(logs, "hiro", "PointPush", high_level="controller", steps=10_000, eval_episodes=30, name="led")
    assert led["teacher"] == "scripted"
    assert greedy(led) >= 0.9
    assert final_distance(led) < 2.5
    flat = trained(logs, "sac", "PointPush", steps=6_000, eval_episodes=30)
    assert greedy(flat) == 0.0
    assert final_distance(flat) == pytest.approx(3.9, abs=0.3), "in front of the goal, with the block between them"


@slow
def test_hiro_finds_its_way_around_the_u(logs: Path) -> None:
    results = [trained(logs, "hiro", "PointUMaze", seed=seed, steps=60_000, eval_episodes=50) for seed in range(3)]
    assert np.mean([greedy(result) for result in results]) >= 0.8


@slow
def test_a_prior_that_fades_leaves_a_high_level_that_stands_alone(logs: Path) -> None:
    budget, prior = {"steps": 50_000, "eval_episodes": 50}, {"prior": "controller", "name": "prior"}
    results = [trained(logs, "hiro", "PointPush", seed=seed, **budget, **prior) for seed in range(3)]
    assert np.mean([greedy(result) for result in results]) >= 0.8
    assert greedy(trained(logs, "hiro", "PointPush", **budget)) < np.mean([greedy(result) for result in results])


@slow
@pytest.mark.parametrize("exploration", ["steps", "extended"])
@pytest.mark.parametrize("method", ["sac", "td3"])
def test_flat_agents_stay_in_front_of_the_block(logs: Path, method: str, exploration: str) -> None:
    """On PointUMaze they do not: SAC finds its way around the U by itself in as many steps (dev/LOG.md)."""
    result = trained(logs, method, "PointPush", exploration=exploration, steps=50_000, eval_episodes=50)
    assert greedy(result) <= 0.2
