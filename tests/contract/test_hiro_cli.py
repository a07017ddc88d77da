"""SAC, TD3 and HIRO as a stranger types them: controls, and mistakes that end with a command that helps."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import main as cli
from preceptor.agent.runs.run import Run
from preceptor.envs.mujoco.simulator import MazeSimulator

FEW = ["--quiet", "--eval-episodes", "2", "--steps", "1200", "--teacher", "scripted"]
PRIOR = "--prior controller "


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """A log directory with controllers of two mazes, and a low level that was trained in an open room."""
    root = tmp_path_factory.mktemp("my logs")
    for method, task, name in (
        ("hiro", "PointReach", "legs"), ("dagger", "PointPush", "controller"), ("dagger", "PointUMaze", "controller")
    ):  # fmt: skip
        where = ["--method", method, "--task", task, "--logdir", str(root), "--savedir", name]
        assert cli.main(["train", *FEW, *where, "--eval-episodes", "0"]) == 0
    return root


@pytest.fixture
def train(capsys, logs):
    """Trains a method on a task under a name: the result line, and what was said; with `code` the exit code."""

    def command(method, task, words="", name="run", code=0):
        capsys.readouterr()
        where = ["--method", method, "--task", task, "--savedir", name, "--logdir", str(logs)]
        assert cli.main(["train", *FEW, "--json", *where, *words.split()]) == code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return json.loads(out) if out else {}, err

    return command


def judged(result, capsys):
    """The student of a run on two levels, greedily."""
    words = ["--loaddir", result["run"], "--seeds", "1000000:1000002", "--quiet", "--json"]
    assert cli.main(["eval", "--task", result["task"], *words]) == 0
    return json.loads(capsys.readouterr().out)["student"]["greedy"]


MISTAKES = [
    ("hiro", "Pendulum-v1", "", "has one option", "--method ppo"),
    ("sac", "SimpleDoorKey", "", "actions of SimpleDoorKey", "--method ppo"),
    ("hiro", "Pendulum-v1", "--high-level options", "has one option", "--method ppo"),
    ("hiro", "SimpleDoorKey", "--low-learner sac", "--low-learner is for goals", "without --low-learner"),
    ("hiro", "PointPush", "--high-learner td3 --high.normed", "--high-learner is td3", "--set high.normed=True"),
    ("hiro", "PointPush", "--low-learner ppo --low.tau 0.1", "is a setting of sac", "--low-learner sac --set"),
    ("hiro", "PointPush", "--high-level options --prior reversed", "no opposite", "--prior controller"),
    ("ihac", "PointPush", "", "are vectors", "--method hiro"),
    ("hiro", "AntPush", "", "does not show its block", "--task AntPushRobust"),
    ("dagger", "AntMaze", "--doubt", "can be doubted", "leave out --doubt"),
    ("hiro", "PointUMaze", PRIOR + "--controller PUSH", "'PointPush'", "train --method dagger --task PointUMaze"),
    ("hiro", "PointPush", PRIOR + "--controller contoller", "Did you mean 'controller'", "train"),
    ("hiro", "PointPush", "--controller controller", "nothing asks for it", "--prior controller"),
    ("hiro", "PointPush", PRIOR + "--high-level controller", "is the high level", "--high-level learned"),
    ("hiro", "PointFall", PRIOR + "--teacher none", "needs a teacher", "--teacher local"),
    ("hiro", "AntMaze", "--low-level legs", "sees or does something else than AntMaze", "--low-level"),
    ("sac", "PointPush", "--steps 900000000 --buffer-size 900000000", "more than the", "--buffer-size "),
]


@pytest.mark.parametrize(("method", "task", "words", "said", "helps"), MISTAKES)
def test_a_mistake_is_named_with_what_to_do_and_leaves_no_run(
    logs, train, method, task, words, said, helps, monkeypatch
):
    shutil.copytree(logs / "dagger/PointPush/controller/controller", logs / "PUSH", dirs_exist_ok=True)
    monkeypatch.chdir(logs)
    before = {path for path in logs.rglob("*") if path.is_file()}
    _, err = train(method, task, words, "mistake", code=2)
    what, _, helpful = err.partition("next:")
    assert said in what
    assert helps in helpful
    assert {path for path in logs.rglob("*") if path.is_file()} == before


def test_as_much_as_fits_is_what_the_message_says(train):
    _, err = train("hiro", "PointPush", "--steps 999999999 --buffer-size 999999999", "big", code=2)
    assert 1_000_000 < int(err.split("--buffer-size ")[1].split()[0]) < 999_999_999


@pytest.mark.parametrize("method", ["sac", "td3", "hiro"])
@pytest.mark.parametrize(
    "words", ["--steps 1", "--steps 1500 --num-envs 150", "--steps 20 --num-envs 20 --buffer-size 1"]
)
def test_few_steps_many_environments_and_little_memory_suffice(train, capsys, method, words):
    result, _ = train(method, "PointReach", "--num-envs 1 " + words, words.replace("--", ""))
    assert result["steps"] == int(words.split()[1])
    assert judged(result, capsys)["return"] == result["student"]["greedy"]["return"]


LEARNERS = {"network": "ppo", "updates": "td3", "log_temperature": "sac"}  # by what is in its state alone


@pytest.mark.parametrize("words", ["ppo sac", "td3 td3", "sac td3 --preset paper"])
def test_each_level_has_the_learner_that_is_named(train, words):
    low, high, *preset = words.split()
    said = f"--low-learner {low} --high-learner {high} --steps 64 {' '.join(preset)}"
    state = Run.open(Path(train("hiro", "PointReach", said, words)[0]["run"])).load()[1]["method"]
    found = [[kind for mark, kind in LEARNERS.items() if mark in state[level]] for level in ("low", "high")]
    assert found == [[low], [high]]


def test_a_learning_curve_is_of_held_out_levels_and_changes_nothing(train):
    plain, _ = train("sac", "PointReach", name="plain")
    curved, _ = train("sac", "PointReach", "--eval-every 400", "curved")
    assert curved["student"] == plain["student"]
    rows = [json.loads(line) for line in (Path(curved["run"]) / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "eval/greedy_return" in row] == [416, 800, 1_200, 1_200]
    at_800 = json.loads((Path(curved["run"]) / "episodes" / "800-greedy.json").read_text())
    assert len(at_800["success"]) == 2


def test_a_failing_simulator_ends_the_run_and_its_checkpoint_goes_on(logs, train, monkeypatch):
    fetch, count = MazeSimulator._fetch, iter(range(10**6))

    def fail(self):
        if next(count) == 200:
            self.data[2].qpos[0] = np.nan
        fetch(self)

    with monkeypatch.context() as patch:
        patch.setattr(MazeSimulator, "_fetch", fail)
        _, err = train("hiro", "PointPush", name="failing", code=2)
    assert "failed in environment 2 of PointPush" in err
    assert "--resume" in err.partition("next:")[2]
    assert 0 < (Run.find(logs, "hiro", "PointPush", "failing").last_step or 0) < 1_000
    failing, _ = train("hiro", "PointPush", "--resume", "failing")
    assert failing["student"] == train("hiro", "PointPush", name="sound")[0]["student"]
    assert failing["teacher"] == "none"


def test_a_low_level_that_was_trained_before_learns_no_more_and_its_steps_count(logs, train, capsys):
    result, _ = train("hiro", "PointPush", "--low-level legs", "on legs")
    assert result["steps"] == 2 * 1_200
    theirs = Run.open(logs / "hiro" / "PointReach" / "legs").load()[1]["method"]["low"]["modules"][0]
    ours = Run.open(Path(result["run"])).load()[1]["method"]["low"]["modules"][0]
    assert all((ours[name] == theirs[name]).all() for name in ours)
    assert judged(result, capsys)["episodes"] == 2


def test_a_noisy_teacher_distils_a_controller_of_its_own(logs, train):
    few = PRIOR + "--steps 100 "
    train("dagger", "PointPush", "--label-noise 0.3", "noisy")
    controllers = {}
    for name, words in {"given": "--controller noisy", "clean": "", "as taught": "--label-noise 0.3"}.items():
        result, _ = train("hiro", "PointPush", few + words, f"prior {name}")
        assert result["teacher"] == "scripted"
        controllers[name] = (Path(result["run"]) / "controller" / "controller.safetensors").read_bytes()
    assert controllers["given"] == controllers["as taught"] != controllers["clean"]
    shutil.rmtree(logs / "dagger" / "PointPush" / "noisy")
    train("hiro", "PointPush", few + "--controller noisy --resume --steps 180", "prior given")  # it has its own copy
    assert not list((logs / "dagger" / "PointPush").glob("controller-*"))
    for per in ("scene", "query"):
        train("hiro", "PointPush", few + f"--label-noise 0.3 --noise-per {per}", f"noise per {per}")
    assert len(list((logs / "dagger" / "PointPush").glob("controller-scripted-0.3-*"))) == 2, "one for each"


def test_what_has_not_been_distilled_yet_is_distilled_now(logs, train):
    result, _ = train("hiro", "PointFall", "--prior reversed --preset tiny --num-envs 4 --steps 200")
    assert (logs / "dagger" / "PointFall" / "controller" / "controller").is_dir()
    assert result["steps"] == 200 + result["controller_steps"]
