"""`train` of many tasks, settings and seeds: what is trained, continued, tried again and told."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import main as cli
from preceptor.agent.config import configure
from preceptor.agent.grid import Trial, again, trials_of
from preceptor.agent.grid_config import settings_of, tasks_of
from preceptor.agent.halving import Halving
from preceptor.ground.errors import UserError
from tests.processes import kill, stat

ROOT = Path(__file__).parents[2]
SMALL = ["--method", "sac", "--task", "PointReach", "--preset", "tiny", "--num-envs", "4", "--eval-episodes", "2"]
Said = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def trained(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Said:
    """Runs `train` in an empty folder: exit code, result and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, dict[str, Any], str]:
        capsys.readouterr()
        code = cli.main(["train", *words, "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else {}, err

    return run


def test_trials_that_need_a_controller_distil_one(trained: Said, tmp_path: Path) -> None:
    words = ["--method", "hiro", "--task", "PointPush", "--prior", "controller", "--teacher", "scripted"]
    small = ["--preset", "tiny", "--steps", "400", "--warmup", "100", "--eval-episodes", "2"]
    code, found, err = trained(*words, *small, "--seeds", "0:2", "--jobs", "2", "--savedir", "g")
    assert code == 0, err
    assert (found["trials"], found["failed"]) == (2, [])
    assert [path.name for path in (tmp_path / "log/dagger/PointPush").iterdir()] == ["controller"]


def test_one_that_fails_stops_no_other_and_is_tried_again(trained: Said, tmp_path: Path) -> None:
    words = (*SMALL, "--steps", "1200", "--set-grid", "lr=1e30,1e-3", "--seeds", "3", "--jobs", "2", "--savedir", "g")
    code, found, err = trained(*words)
    assert code == 1, err
    assert [(row["run"], row["seeds"]) for row in found["runs"]] == [("g-lr=1e-3", 1)]
    assert found["runs"][0]["sampled"]["success"] is not None
    (failed,) = found["failed"]
    assert (failed["trial"], found["trials"]) == ("PointReach lr=1e30 seed 3", 2)
    assert "became nan" in failed["why"]
    for told in (err, (tmp_path / "log/grids/g/0.log").read_text()):
        assert "became nan" in told
    table = (tmp_path / "log/grids/g/table.txt").read_text()
    assert "g-lr=1e-3" in table
    assert failed["next"] in table
    result = tmp_path / "log/sac/PointReach/g-lr=1e-3/seed-3/result.json"
    assert json.loads(result.read_text())["seed"] == 3
    written = result.stat().st_mtime_ns
    code, alone, err = trained(*shlex.split(failed["next"])[3:])
    assert (code, alone) == (2, {}), "the command that runs it alone"
    assert "became nan" in err
    code, again, err = trained(*words)
    assert (code, again["failed"], result.stat().st_mtime_ns) == (1, found["failed"], written)
    assert "2 trials, 1 of them finished before" in err


def test_the_same_command_continues_what_was_killed(trained: Said, tmp_path: Path) -> None:
    words = ["--method", "ppo", "--preset", "tiny", "--steps", "30000", "--num-envs", "8", "--eval-episodes", "2"]
    words += ["--seeds", "0:2", "--jobs", "2"]
    command = [sys.executable, str(ROOT / "main.py"), "train", *words]
    whole = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    runs = [tmp_path / f"log/ppo/SimpleDoorKey/run/seed-{seed}" for seed in (0, 1)]
    until = time.monotonic() + 200
    while not all((run / "last").exists() for run in runs):
        assert time.monotonic() < until
        assert whole.poll() is None, whole.communicate()[1]
        time.sleep(0.05)
    pids = [
        int(p) for task in Path(f"/proc/{whole.pid}/task").iterdir() for p in (task / "children").read_text().split()
    ]
    trials = [p for p in pids if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]
    assert len(trials) == 2
    kill(trials[0])
    assert whole.stderr is not None
    while "ended from outside (exit code -9)" not in (line := whole.stderr.readline()):
        assert line
    kill(whole.pid)
    whole.communicate()
    until = time.monotonic() + 30
    while stat(trials[1]):
        assert time.monotonic() < until, "a trial outlives its command"
        time.sleep(0.05)
    code, found, err = trained(*words)
    assert (code, found["failed"], found["runs"][0]["seeds"]) == (0, [], 2), err
    for run in runs:
        first, second = json.loads((run / "manifest.json").read_text())["starts"]
        assert first["from_step"] == 0 < second["from_step"]


def test_the_script_for_slurm_trains_a_trial_per_index(trained: Said, tmp_path: Path) -> None:
    words = [
        *SMALL,
        "--steps",
        "300",
        "--tasks",
        "PointReach,PointPush",
        "--seeds",
        "4:6",
        "--set",
        "lr=0.002",
        "--slurm",
    ]
    words.remove("--task")
    words.remove("PointReach")
    script = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), "train", *words, "--jobs", "3"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert script.startswith("#!/bin/bash\n#SBATCH ")
    assert "#SBATCH --array=0-3%3\n" in script
    assert not (tmp_path / "log").exists()
    env = os.environ | {"SLURM_ARRAY_TASK_ID": "3"}
    subprocess.run(["bash"], input=script, env=env, text=True, check=True, capture_output=True)
    (run,) = (tmp_path / "log").rglob("result.json")
    assert run.parent == tmp_path / "log/sac/PointPush/run/seed-5"
    settings = json.loads((run.parent / "config.json").read_text())["config"]
    assert (settings["settings"]["learner"]["lr"], settings["steps"], settings["seed"]) == (0.002, 300, 5)


def test_trials_have_telling_names_and_settings_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "--tasks",
        "ColoredDoorKey:rooms=12-14,apart=red-green,SimpleDoorKey",
        "--method",
        "ppo",
        "--set",
        "gamma=0.9",
    ]
    words += [
        "--set-grid",
        "lr=1e-3,3e-4",
        "trunk.hidden=64|32",
        "--seeds",
        "0:2",
        "7",
        "--savedir",
        "g",
        "--no-quiet",
    ]
    trials = trials_of(cli.read("train", words))
    assert [trial.index for trial in trials] == [*range(2 * 2 * 2 * 3)]
    last = trials[-1]
    assert last.path == Path("log/ppo/SimpleDoorKey/g-lr=3e-4-trunk.hidden=32/seed-7")
    assert last.label == "SimpleDoorKey lr=3e-4 trunk.hidden=32 seed 7"
    own = last.config.settings
    assert (own.ppo.lr, own.trunk.hidden, own.ppo.gamma) == (
        3e-4,
        32,
        0.9,
    )
    assert trials[0].path == Path("log/ppo/ColoredDoorKey:rooms=12-14,apart=red-green/g-lr=1e-3-trunk.hidden=64/seed-0")
    assert len({trial.path for trial in trials}) == len(trials)
    for said in (shlex.split(again(cli.read("train", words), 5))[3:], shlex.split(again(from_python(), 5))[3:]):
        config = cli.read("train", said)
        assert config.grid.trial == 5
        assert [(t.config, t.path) for t in trials_of(config)] == [(t.config, t.path) for t in trials]


def from_python() -> Any:
    return configure(
        tasks=["ColoredDoorKey:rooms=12-14,apart=red-green", "SimpleDoorKey"], method="ppo", gamma=0.9, savedir="g",
        set_grid=["lr=1e-3,3e-4", "trunk.hidden=64|32"], seeds=[0, 1, 7],
    )  # fmt: skip


def test_what_was_said_is_read_as_it_was_meant() -> None:
    assert tasks_of(["A,B:x=1,y=2", "C"]) == ["A", "B:x=1,y=2", "C"]
    assert settings_of("lr=1,2,low.hidden=3,4|5") == {"lr": ["1", "2"], "low.hidden": ["3,4", "5"]}
    assert not cli.read("train", ["--tasks", "KeyInBox"]).grid.asked, "IHAC's spelling of --task"
    assert cli.read("train", ["--tasks", "KeyInBox"]).task == "KeyInBox"
    assert cli.read("train", ["--set-grid", "method=ppo,sac_discrete", "--seeds", "1:3"]).method == "ppo"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set-grid", "lrr=1,2"], "Did you mean 'lr'"),
        (["--set-grid", "lr=1e-3,much"], "--lr is 'much'"),
        (["--set-grid", "lr=1e-3,1e-3"], "says a name or a value twice"),
        (["--set-grid", "lr"], "not of the form NAME=VALUES"),
        (["--set-grid", "seed=1,2"], "next: --seeds 0:4"),
        (["--set-grid", "num-envs=4,900"], "less than one step of 900"),
        (["--tasks", "SimpleDoorKey,SimpleDorKey"], "Did you mean 'SimpleDoorKey'"),
        (["--tasks", "KeyInBox,KeyInBox"], "names a task twice"),
        (["--seeds", "4:4"], "A:B with B above A"),
        (["--seeds", "0:2", "1", "--jobs", "2"], "must be distinct"),
        (["--jobs", "0"], "--jobs is '0'"),
        (["--ray", "a:1", "b:2"], "--ray is ['a:1', 'b:2'], and must be"),
        (["--seeds", "0:2", "--trial", "2"], "there are 2"),
        (["--seeds", "0:9", "--asha", "3"], "next: --eval-every 71"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_before_it_begins(words: list[str], said: str, trained: Said) -> None:
    code, _, err = trained("--method", "ppo", "--steps", "640", "--num-envs", "4", *words)
    assert code == 2
    assert said in err
    assert "\n  next: " in err
    assert not Path("log").exists()


def test_without_ray_its_pinned_version_is_named(trained: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = [*SMALL, "--steps", "300", "--ray"]
    code, _, err = trained(*words, "10.0.0.1:6379")
    assert code == 2
    pinned = next(line for line in (ROOT / "requirements-ray.txt").read_text().splitlines() if line.startswith("ray"))
    assert f'next: pip install "{pinned.replace("[serve]", "")}"' in err
    assert f'"{pinned}"' in (ROOT / "pyproject.toml").read_text()
    assert (cli.read("train", words).grid.ray, cli.read("train", SMALL).grid.ray) == ((), None)
    assert "--ray" not in again(cli.read("train", words), 0), "which trains it here"


def test_a_run_of_other_settings_is_not_continued(trained: Said) -> None:
    words = [*SMALL, "--steps", "300", "--trial", "0"]
    assert trained(*words)[0] == 0
    code, _, err = trained(*words, "--set", "gamma=0.5")
    assert code == 2
    assert "was started with other settings: settings.learner.gamma was" in err
    (trial,) = trials_of(cli.read("train", words))
    assert trial.finished
    (trial.path / "config.json").touch()  # as it is when the run is started again
    assert not Trial(*vars(trial).values()).finished


def test_a_rung_keeps_the_best_of_those_that_came_to_it(tmp_path: Path) -> None:
    def at(step: int, name: str, success: float, mean: float = 0.0) -> bool:
        listener = Halving(tmp_path, name, 900, 3)
        assert listener(step, {"rollout/success": 1.0}) is None, "only what held-out levels say"
        return listener(step, {"eval/sampled_success": success, "eval/sampled_return": mean}) is not False

    assert at(99, "early", 0.0), "before the first rung"
    assert [at(100, name, score) for name, score in zip("abcd", (0.5, 0.4, 0.6, 0.5), strict=True)] == [1, 0, 1, 1]
    assert not at(120, "e", 0.5, -1.0), "return decides between equal successes"
    assert at(200, "a", 0.0), "judged once a rung"
    assert [at(310, name, score) for name, score in (("a", 0.1), ("c", 0.0))] == [True, False]


def test_halving_ends_a_training_which_is_judged_all_the_same(trained: Said, tmp_path: Path) -> None:
    words = [*SMALL, "--steps", "600", "--eval-every", "60", "--asha", "2", "--trial", "0"]
    rival = tmp_path / "log/grids/run/rungs/PointReach/rung-2/9.json"
    rival.parent.mkdir(parents=True)
    rival.write_text("[2.0, 0.0]")
    code, found, err = trained(*words)
    assert code == 0, err
    assert 150 <= found["steps"] < 300
    assert found["student"]["sampled"]["episodes"] == 2


def test_a_python_program_has_a_grid_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import preceptor

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="listener"):
        preceptor.train("PointReach", method="sac", jobs=2, on_update=lambda step, metrics: None)
    small = {"preset": "tiny", "num_envs": 4, "steps": 300, "eval_episodes": 2}
    done = preceptor.train("PointReach", method="sac", jobs=1, seeds="1:2", **small)
    assert (done.path / "table.txt").exists()
    assert done.result["runs"][0]["run"] == "run"
