"""A run that was interrupted and resumed leaves, to the bit, what an uninterrupted one leaves."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import main as cli
from preceptor.agent.config import configure
from preceptor.agent.evaluate import evaluate
from preceptor.agent.flags import EvalConfig
from preceptor.agent.runs.run import Run
from preceptor.agent.train import train
from tests.interrupting import left_behind, train_until

SMALL = {
    "task": "PointPush", "teacher": "scripted", "steps": 1_600, "resume": True, "quiet": True, "eval_episodes": 3,
    "seed": 3,
}  # fmt: skip
GRID = {"task": "SimpleDoorKey", "preset": "tiny", "steps": 2_500, "label_noise": 0.1}
RETOLD: dict[str, Any] = {
    "task": "OneRoom-GoTo:levels=20",
    "retell": True,
    "steps": 1_024,
    "num_envs": 16,
    "minibatch": 16,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "ihac": {"method": "ihac", **GRID},
    "ihac, rescue": {"method": "ihac", **GRID, "task": "RescueWorld-n3-random"},
    "ihac, stretched": {"method": "ihac", **GRID, "task": "ColoredDoorKey:rooms=5-6"},
    "dagger": {"method": "dagger", **GRID},
    "dagger, fallible": {"method": "dagger", **GRID, "steps": 5_000, "label_noise": 0.5},
    "ppo, grid": {"method": "ppo", **GRID},
    "dagger, retold": {"method": "dagger", **RETOLD},
    "dagger, retold, asked below": {"method": "dagger", **RETOLD, "ask_below": 0.5},
    "dagger, asked below": {"method": "dagger", **GRID, "ask_below": 0.5},
    "sac": {"method": "sac"},
    "sac, extended": {"method": "sac", "exploration": "extended"},
    "td3": {"method": "td3"},
    "hiro": {"method": "hiro"},
    "hiro, paper": {"method": "hiro", "preset": "paper", "steps": 2_560, "num_envs": 4},
    "hiro, prior": {"method": "hiro", "prior": "controller"},
    "hiro, planned": {"method": "hiro", "high_level": "controller"},
    "hiro, other goals": {"method": "hiro", "other_goals": 0.5, "reward_progress": True},
    "hiro, decay": {"method": "hiro", "decay": 0.5},
    "hiro, filtered": {"method": "hiro", "prior": "controller", "value_filter": True},
    "hiro, mixed": {"method": "hiro", "low_learner": "ppo", "high_learner": "td3", "steps": 8_192},
    "hiro, options": {"method": "hiro", "high_level": "options", "prior": "controller", "steps": 8_192, "decay": 0.3},
    "ppo": {"method": "ppo", "steps": 8_192, "num_envs": 4},
    "bc": {"method": "bc", "steps": 1_000, "demos": "8"},
    "hvd, online": {
        "method": "hvd",
        "task": "WholeBodyTwin",
        "demos": "mixed:4+2",
        "steps": 400,
        "online": 1_200,
        "num_envs": 4,
        "online_warmup": 20,
        "batch": 32,
    },
    "helios": {
        "method": "helios",
        "task": "WholeBodyTwin",
        "demos": "12",
        "steps": 300,
        "online": 900,
        "num_envs": 4,
        "horizon": 5,
        "warmup": 20,
        "batch": 32,
    },
    "qc": {
        "method": "qc",
        "task": "WholeBodyTwin",
        "demos": "12",
        "steps": 300,
        "online": 900,
        "num_envs": 4,
        "batch": 32,
    },
    "iql": {"method": "iql", "steps": 1_000, "demos": "8", "chunk": 2},
}


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log directory with a distilled controller, which need not be good."""
    folder = tmp_path_factory.mktemp("log")
    said = {"method": "dagger", "steps": 1_024, "savedir": "controller", "logdir": str(folder), "eval_episodes": 0}
    train(configure(SMALL | said))
    return folder


@pytest.mark.parametrize("name", VARIANTS)
def test_interrupted_and_resumed_equals_uninterrupted(logs: Path, name: str) -> None:
    config = configure(SMALL | {"logdir": str(logs)} | VARIANTS[name])
    place = name.replace(", ", "-")
    whole = train_until(replace(config, savedir=f"{place}-whole"), None)
    parts = replace(config, savedir=f"{place}-parts")
    for share in (0.2, 0.55, 0.75):  # demonstrating or uniform; distilling or while the prior fades; after it
        run = train_until(parts, int(share * config.total))
        assert (run.last_step or 0) < config.total - 40
        if share == 0.55 and config.needs_controller:  # whatever is distilled meanwhile is not this run's
            later = logs / "dagger" / "PointPush" / "later"
            shutil.copytree(logs / "dagger" / "PointPush" / "controller", later)
            facts = json.loads((later / "controller" / "controller.json").read_text())
            facts["temperature"] = 40.0
            (later / "controller" / "controller.json").write_text(json.dumps(facts))
            os.utime(later / "controller")
    run = train_until(parts, None)
    shutil.rmtree(logs / "dagger" / "PointPush" / "later", ignore_errors=True)
    assert len(run.manifest()["starts"]) == 4
    assert left_behind(run) == left_behind(whole)
    assert run.results()["student"] == whole.results()["student"]
    # `eval` plays what training left.
    levels = "1000000:1000003"
    judged = evaluate(EvalConfig(task=config.task, loaddir=str(run.path), logdir=str(logs), seeds=levels, quiet=True))
    for style in ("greedy", "sampled"):
        for measure in ("success", "return") if style == "greedy" else ("success",):
            assert judged["student"][style][measure] == run.results()["student"][style][measure]


@pytest.mark.parametrize("method", ["sac", "hiro"])
def test_half_the_steps_and_then_the_rest_equal_all_at_once(logs: Path, method: str) -> None:
    said = SMALL | {"logdir": str(logs), "method": method, "eval_episodes": 0}
    whole = train_until(configure(said, savedir=f"{method}-all"), None)
    for steps in (800, 1_600):
        halves = train_until(configure(said, savedir=f"{method}-halves", steps=steps), None)
        assert halves.last_step == steps
    assert left_behind(halves) == left_behind(whole)


def test_a_run_whose_prior_has_faded_plays_without_any_controller(logs: Path) -> None:
    config = configure(SMALL, logdir=str(logs), method="hiro", prior="controller", savedir="alone")
    result = train(config)
    assert result["teacher"] == "scripted"
    assert result["controller_steps"] == 1_024
    assert result["steps"] == 1_600 + 1_024, "steps spent on distilling count"
    run = Run.open(Path(result["run"]))
    shutil.rmtree(run.controller)
    words = ["eval", "--task", "PointPush", "--loaddir", str(run.path), "--seeds", "1000000:1000003", "--quiet"]
    assert cli.main(words) == 0


def test_several_seeds_are_judged_together(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--task", "PointPush", "--logdir", str(logs), "--quiet", "--json"]
    words = ["train", "--method", "hiro", "--prior", "controller", "--teacher", "scripted", "--steps", "1200"]
    words += ["--eval-episodes", "2", "--seeds", "4", "5", "--savedir", "both"]
    assert cli.main([*words, *where]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [run["seed"] for run in runs] == [4, 5]
    assert {run["teacher"] for run in runs} == {"scripted"}
    words = ["eval", "--method", "hiro", "--loaddir", "both", "--seeds", "1000000:1000003", "--compare"]
    assert cli.main([*words, "student,controller", *where]) == 0
    judged = json.loads(capsys.readouterr().out)
    assert judged["seeds"] == 2
    assert judged["student"]["greedy"]["episodes"] == 6


def test_what_a_killed_run_has_asked_is_counted_once(logs: Path) -> None:
    config = configure(SMALL | {"logdir": str(logs)} | GRID, method="dagger", teacher="local", savedir="asked")
    whole = train_until(config, None)
    for stop in (0, 1100, None):  # before the first checkpoint, after it, and to the end
        parts = train_until(replace(config, savedir="asked-in-parts"), stop)
    assert left_behind(parts) == left_behind(whole)
    for name in ("queries", "calls"):
        assert parts.results()[name] == whole.results()[name]
