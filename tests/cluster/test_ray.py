"""A grid on a real cluster of Ray: a node that is killed, a command that is killed, early stopping."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import main as cli
from tests.processes import kill
from tests.ray_cluster import Cluster, cluster, until

ROOT = Path(__file__).parents[2]
PPO = ["--method", "ppo", "--preset", "tiny", "--steps", "8000", "--num-envs", "8", "--eval-episodes", "8"]
SAC = ["--method", "sac", "--task", "PointReach", "--preset", "tiny", "--num-envs", "4", "--eval-episodes", "2"]
pytestmark = [pytest.mark.ray, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def three() -> Iterator[Cluster]:
    with (
        tempfile.TemporaryDirectory(prefix="ray") as folder,
        cluster(3, Path(folder)) as nodes,
    ):  # short: it has sockets
        yield nodes


def begun(nodes: Cluster, folder: Path, words: list[str]) -> subprocess.Popen[str]:
    """The command that trains a grid on the cluster."""
    command = [sys.executable, str(ROOT / "main.py"), "train", *words, "--ray", nodes.address, "--json"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=nodes.environment, stdout=pipe, stderr=pipe, text=True)


def interrupted(nodes: Cluster, command: subprocess.Popen[str], node: int) -> set[Path]:
    """The runs that are trained on a node, once they have saved something and are not over."""

    def found() -> set[Path]:
        assert command.poll() is None, command.communicate()[1]
        runs = nodes.folders(node)
        return {run for run in runs if (run / "last").exists() and not (run / "result.json").exists()}

    seen = set[Path]()
    assert until(lambda: seen.update(found()) or seen, 300.0)
    return seen


def test_32_seeds_on_three_nodes_of_which_one_is_killed(
    three: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = begun(three, tmp_path, [*PPO, "--seeds", "0:32", "--savedir", "wide"])
    (run,) = interrupted(three, command, 2)
    three.kill(2)
    out, err = command.communicate()
    assert command.returncode == 0, err
    found = json.loads(out)
    assert (found["trials"], found["failed"]) == (32, [])
    assert found["runs"][0]["seeds"] == 32
    assert err.startswith("32 trials, 0 of them finished before\n")
    assert len([line for line in err.splitlines() if "8,000 steps in" in line]) == 32
    first, second = json.loads((run / "manifest.json").read_text())["starts"]
    assert first["from_step"] == 0 < second["from_step"]
    monkeypatch.chdir(tmp_path)  # the same seed where nothing happens to it
    assert cli.main(["train", *PPO, "--seed", run.name.removeprefix("seed-"), "--savedir", "alone", "--quiet"]) == 0
    alone, weights = tmp_path / "log/ppo/SimpleDoorKey/alone", "checkpoints/8000/state.safetensors"
    assert (run / weights).read_bytes() == (alone / weights).read_bytes()
    table = (tmp_path / "log/grids/wide/table.txt").read_text()
    print(f"\nkilled with {run.name} at {second['from_step']} steps\n{err}{table}")  # noqa: T201


def test_nothing_outlives_the_command_and_the_same_one_goes_on(three: Cluster, tmp_path: Path) -> None:
    words = [*PPO, "--seeds", "0:2"]
    command = begun(three, tmp_path, words)
    runs = interrupted(three, command, 0)
    kill(command.pid)
    command.communicate()
    assert until(lambda: not (three.folders(0) | three.folders(1)), 60.0)
    assert not any((run / "result.json").exists() for run in runs)
    out, err = begun(three, tmp_path, words).communicate()
    assert json.loads(out)["runs"][0]["seeds"] == 2, err
    for run in runs:
        first, second = json.loads((run / "manifest.json").read_text())["starts"]
        assert first["from_step"] == 0 < second["from_step"]


def test_trials_on_all_nodes_are_compared_with_each_other(three: Cluster, tmp_path: Path) -> None:
    rungs = tmp_path / "log/grids/run/rungs/PointReach/rung-2"
    rungs.mkdir(parents=True)
    (rungs / "best.json").write_text("[2.0, 0.0]")
    words = [*SAC, "--steps", "600", "--eval-every", "60", "--asha", "2", "--seeds", "0:3"]
    command = begun(three, tmp_path, words)
    out, err = command.communicate()
    assert command.returncode == 0, err
    assert json.loads(out)["runs"][0]["seeds"] == 3
    assert sorted(score.stem for score in rungs.glob("*.json")) == ["0", "1", "2", "best"]
    steps = [json.loads(result.read_text())["steps"] for result in (tmp_path / "log").rglob("result.json")]
    assert len(steps) == 3
    assert min(steps) < 300, "the first one that came to it was worse than the best"
