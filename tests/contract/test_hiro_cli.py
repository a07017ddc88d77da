"""SAC, TD3 and HIRO as a stranger types them: controls, and mistakes that end with a command that helps."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import main as cli
from preceptor.agent.runs.run import Run
from preceptor.envs.mujoco.simulator import MazeSimulator

FEW = ["--quiet", "--eval-episodes", "2", "--steps", "1200", "--teacher", "scripted"]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log directory with controllers of two mazes, and a low level that was trained in an open room."""
    root = tmp_path_factory.mktemp("my logs")
    words = ["train", "--method", "hiro", "--task", "PointReach", "--logdir", str(root), "--savedir", "legs", *FEW]
    assert cli.main(words) == 0
    for task in ("PointPush", "PointUMaze"):
        words = ["train", "--method", "dagger", "--task", task, "--logdir", str(root), "--savedir", "controller", *FEW]
        assert cli.main([*words, "--eval-episodes", "0"]) == 0
    return root


def train(capsys: pytest.CaptureFixture[str], logs: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, result line and what was said of one `train`."""
    capsys.readouterr()
    code = cli.main(["train", *FEW, "--json", "--logdir", str(logs), *words])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, json.loads(out) if out else {}, err


MISTAKES = {
    "no goal space": (["--method", "hiro", "--task", "Pendulum-v1"], "has one option", "--method ppo"),
    "named actions": (["--method", "sac", "--task", "SimpleDoorKey"], "actions of SimpleDoorKey", "--method ppo"),
    "no options": (
        ["--method", "hiro", "--task", "Pendulum-v1", "--high-level", "options"],
        "has one option",
        "--method ppo",
    ),
    "goals where options are": (
        ["--method", "hiro", "--task", "SimpleDoorKey", "--low-learner", "sac"],
        "--low-learner is for goals",
        "without --low-learner",
    ),
    "an option's opposite": (
        ["--method", "hiro", "--task", "PointPush", "--high-level", "options", "--prior", "reversed"],
        "no opposite",
        "--prior controller",
    ),
    "vectors": (["--method", "ihac", "--task", "PointPush"], "are vectors", "--method hiro"),
    "unseen block": (["--method", "hiro", "--task", "AntPush"], "does not show its block", "--task AntPushRobust"),
    "an ant's hands": (["--method", "dagger", "--task", "AntMaze"], "no scripted skills", "--method hiro --prior none"),
    "another task's controller": (
        ["--method", "hiro", "--task", "PointUMaze", "--prior", "controller", "--controller", "PUSH"],
        "'PointPush'",
        "train --method dagger --task PointUMaze",
    ),
    "no such controller": (
        ["--method", "hiro", "--task", "PointPush", "--prior", "controller", "--controller", "contoller"],
        "Did you mean 'controller'",
        "train",
    ),
    "a controller for nothing": (
        ["--method", "hiro", "--task", "PointPush", "--controller", "controller"],
        "nothing asks for it",
        "--prior controller",
    ),
    "two roles": (
        ["--method", "hiro", "--task", "PointPush", "--prior", "controller", "--high-level", "controller"],
        "the controller is the high level",
        "--high-level learned",
    ),
    "nobody to distil from": (
        ["--method", "hiro", "--task", "PointFall", "--prior", "controller", "--teacher", "none"],
        "needs a teacher",
        "--teacher local",
    ),
    "legs of another": (
        ["--method", "hiro", "--task", "AntMaze", "--low-level", "legs"],
        "sees or does something else than AntMaze",
        "--low-level",
    ),
    "too much to remember": (
        ["--method", "sac", "--task", "PointPush", "--steps", "900000000", "--buffer-size", "900000000"],
        "more than the",
        "--buffer-size ",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_what_to_do_and_leaves_no_run(
    logs: Path, capsys: pytest.CaptureFixture[str], mistake: str
) -> None:
    words, said, helps = MISTAKES[mistake]
    places = {"PUSH": str(logs / "dagger" / "PointPush" / "controller" / "controller")}
    before = {path for path in logs.rglob("*") if path.is_file()}
    code, _, err = train(capsys, logs, *(places.get(word, word) for word in words), "--savedir", "mistake")
    assert code == 2
    what, _, helpful = err.partition("next:")
    assert said in what
    assert helps in helpful
    assert {path for path in logs.rglob("*") if path.is_file()} == before


def test_as_much_as_fits_is_what_the_message_says(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--method", "hiro", "--task", "PointPush", "--savedir", "big", "--steps", "999999999"]
    _, _, err = train(capsys, logs, *words, "--buffer-size", "999999999")
    fits = int(err.split("--buffer-size ")[1].split()[0])
    assert 1_000_000 < fits < 999_999_999


@pytest.mark.parametrize("method", ["sac", "td3", "hiro"])
@pytest.mark.parametrize(("steps", "worlds"), [(1, 1), (1_100, 1), (1_500, 150), (20, 20)])
def test_few_worlds_few_steps_and_many_worlds_suffice(
    logs: Path, capsys: pytest.CaptureFixture[str], method: str, steps: int, worlds: int
) -> None:
    words = ["--method", method, "--task", "PointReach", "--steps", str(steps), "--num-envs", str(worlds)]
    code, result, _ = train(capsys, logs, *words, "--savedir", f"{steps} in {worlds}")
    assert code == 0
    assert result["steps"] == steps
    where = ["--task", "PointReach", "--loaddir", result["run"], "--seeds", "1000000:1000002", "--quiet", "--json"]
    assert cli.main(["eval", *where]) == 0
    judged = json.loads(capsys.readouterr().out)
    assert judged["student"]["greedy"]["return"] == result["student"]["greedy"]["return"]


LEARNERS = {"network": "ppo", "updates": "td3", "log_temperature": "sac"}  # by what is in its state alone


@pytest.mark.parametrize(
    "words",
    [
        ["--low-learner", "ppo", "--high-learner", "sac"],
        ["--low-learner", "td3", "--high-learner", "td3"],
        ["--low-learner", "sac", "--high-learner", "td3", "--preset", "paper"],
    ],
)
def test_each_level_has_the_learner_that_is_named(
    logs: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    where = ["--method", "hiro", "--task", "PointReach", "--savedir", "-".join(words).replace("--", "")]
    code, result, _ = train(capsys, logs, *where, *words, "--steps", "2048")
    assert code == 0
    state = Run.open(Path(result["run"])).load()[1]["method"]
    for level, wanted in (("low", words[1]), ("high", words[3])):
        assert [kind for mark, kind in LEARNERS.items() if mark in state[level]] == [wanted]


def test_a_learning_curve_is_of_held_out_levels_and_changes_nothing(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--method", "sac", "--task", "PointReach", "--savedir"]
    _, plain, _ = train(capsys, logs, *where, "plain")
    _, curved, _ = train(capsys, logs, *where, "curved", "--eval-every", "400")
    assert curved["student"] == plain["student"]
    rows = [json.loads(line) for line in (Path(curved["run"]) / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "eval/greedy_return" in row] == [416, 800, 1_200, 1_200]
    at_400 = json.loads((Path(curved["run"]) / "episodes" / "800-greedy.json").read_text())
    assert len(at_400["success"]) == 2


@pytest.mark.parametrize("method", ["sac", "hiro"])
def test_little_memory_suffices(logs: Path, capsys: pytest.CaptureFixture[str], method: str) -> None:
    where = ["--method", method, "--task", "PointReach", "--savedir", "forgetful", "--buffer-size", "1"]
    assert train(capsys, logs, *where)[0] == 0


def test_a_failing_simulator_ends_the_run_and_its_checkpoint_goes_on(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--method", "hiro", "--task", "PointPush", "--savedir"]
    assert train(capsys, logs, *words, "sound")[0] == 0
    fetch, count = MazeSimulator._fetch, iter(range(10**6))

    def fail(self: MazeSimulator) -> None:
        if next(count) == 200:
            self.data[2].qpos[0] = np.nan
        fetch(self)

    with monkeypatch.context() as patch:
        patch.setattr(MazeSimulator, "_fetch", fail)
        code, _, err = train(capsys, logs, *words, "failing")
    assert code == 2
    assert "failed in environment 2 of PointPush" in err
    assert "--resume" in err.partition("next:")[2]
    run = Run.find(logs, "hiro", "PointPush", "failing")
    assert 0 < (run.last_step or 0) < 1_000
    code, result, _ = train(capsys, logs, *words, "failing", "--resume")
    assert code == 0
    sound = Run.find(logs, "hiro", "PointPush", "sound").results()
    assert result["student"] == sound["student"]
    assert result["teacher"] == "none"


def test_a_low_level_that_was_trained_before_learns_no_more_and_its_steps_count(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--method", "hiro", "--task", "PointPush", "--low-level", "legs", "--savedir", "on legs"]
    code, result, _ = train(capsys, logs, *words)
    assert code == 0
    assert result["steps"] == 2 * 1_200
    trees = [Run.open(logs / "hiro" / task / name).load()[1]["method"] for task, name in
             (("PointReach", "legs"), ("PointPush", "on legs"))]  # fmt: skip
    ours, theirs = (tree["low"]["modules"][0] for tree in trees)
    assert all((ours[name] == theirs[name]).all() for name in ours)
    assert cli.main(["eval", "--task", "PointPush", "--loaddir", result["run"], "--seeds", "1000000:1000002"]) == 0


def test_a_noisy_teacher_distils_a_controller_of_its_own(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noisy = ["--label-noise", "0.3", "--savedir", "noisy"]
    assert train(capsys, logs, "--method", "dagger", "--task", "PointPush", *noisy)[0] == 0
    words = ["--method", "hiro", "--task", "PointPush", "--prior", "controller"]
    controllers = {}
    for name, extra in {"given": ["--controller", "noisy"], "clean": [], "as taught": ["--label-noise", "0.3"]}.items():
        code, result, _ = train(capsys, logs, *words, *extra, "--savedir", f"prior {name}")
        assert code == 0
        assert result["teacher"] == "scripted"
        controllers[name] = (Path(result["run"]) / "controller" / "controller.safetensors").read_bytes()
    assert controllers["given"] == controllers["as taught"] != controllers["clean"]
    shutil.rmtree(logs / "dagger" / "PointPush" / "noisy")
    on = ["--controller", "noisy", "--savedir", "prior given", "--resume", "--steps", "1280"]
    assert train(capsys, logs, *words, *on)[0] == 0, "a run has its own copy"
    assert not (logs / "dagger" / "PointPush" / "controller-scripted-0.3").exists()


def test_what_has_not_been_distilled_yet_is_distilled_now(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(logs / "dagger" / "PointFall", ignore_errors=True)
    words = ["--method", "hiro", "--task", "PointFall", "--prior", "reversed", "--savedir", "reversed"]
    code, result, _ = train(capsys, logs, *words, "--preset", "tiny", "--num-envs", "4")
    assert code == 0
    assert (logs / "dagger" / "PointFall" / "controller" / "controller").is_dir()
    assert result["steps"] == 1_200 + result["controller_steps"]
