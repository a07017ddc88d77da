"""Tasks that are not ours: in a file of the user's, brought by a package, and of functions over arrays."""

import json
import re
import shlex
import subprocess
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import main as cli
import preceptor
from examples import corridor, deployed
from preceptor.agent.runs.carried import task_of
from preceptor.agent.runs.run import Run
from preceptor.envs.catalog import get_task, listing
from preceptor.envs.users_code import blamed
from preceptor.envs.vector import BatchedEnv
from preceptor.ground.errors import UserError

ROOT = Path(__file__).parents[2]
CORRIDOR, LEVEL = "examples.corridor:Corridor", "examples.minigrid_level:HiddenGoal-v0"
TRAIN = ["--teacher", "scripted", "--savedir", "mine", "--quiet"]
BEGINS = "import numpy as np\nfrom preceptor import *\nfrom examples.corridor import Corridor\n"
NEEDS = """
class Bare(Task):
    goal = "Sit."
    options = OptionSpace([Option("sit", "sit", 5), Option("get up", "get up", 5)])
    def simulator(self, num_envs, render_mode=None):
        return Corridor().simulator(num_envs)
    def describe(self, obs):
        return [Scene(self.name, (f"far={x}",), "You are far." if x else "You are near.", (0, 1)[:1 + x])
                for x in obs[:, 0] > 0.5]
    def fact_codes(self, obs):
        return (obs[:, 0] > 0.5).astype(np.int64)
    def option_done(self, obs, option):
        return np.zeros(len(obs), bool)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """Writes a module into the current folder, which is not the repository's; its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])

    def write(text: str, name: str = "") -> str:
        name = name or f"users_{abs(hash(request.node.name))}"
        Path(f"{name}.py").write_text(BEGINS + text)
        sys.modules.pop(name, None)
        return name

    return write


@pytest.fixture(scope="module")
def logdir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the example of the README has been trained, if not for as long."""
    folder = str(tmp_path_factory.mktemp("log"))
    assert cli.main(["train", "--task", CORRIDOR, *TRAIN, "--lr", "1e-3", "--preset", "tiny", "--logdir", folder]) == 0
    return folder


def test_the_example_is_short_and_learns(logdir: str) -> None:
    assert len((ROOT / "examples/corridor.py").read_text().splitlines()) <= 60
    run = Path(logdir, "ihac/Corridor/mine")
    assert json.loads((run / "config.json").read_text())["config"]["task"] == CORRIDOR
    result = json.loads((run / "result.json").read_text())
    assert result["queries"] == 2
    assert result["student"]["sampled"]["success"] == 1.0


@pytest.mark.parametrize(
    "words",
    [
        "eval --task Corridor --loaddir mine --seeds 1000000:1000008 --compare student,teacher,controller,random",
        "report --task Corridor",
        "labels show --task Corridor --last 1",
        "labels export mine --task Corridor",
        "labels judge --task Corridor --teacher random",
        "labels prompt --task Corridor",
        "train --task Corridor --savedir mine --resume",
        "train --task Corridor --savedir other --method ppo --steps 640 --num-envs 8 --eval-episodes 2 --quiet",
        "tune --task Corridor --method ppo --search lr=1e-4:1e-2:log --trials 1 --episodes 2 --set steps=2000",
        "doctor --run mine",
    ],
)
def test_the_name_of_a_run_is_taken_everywhere(words: str, logdir: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`doctor` may find fault with this machine, but not with the run."""
    assert cli.main([*words.split(), "--logdir", logdir]) in (0, 1 if "doctor" in words else 0)
    assert "Corridor" in (told := capsys.readouterr().out)
    assert "FAIL run" not in told


def test_a_run_is_loaded_and_deployed_from_another_folder(logdir: str, tmp_path: Path) -> None:
    code = f"""if True:
        import preceptor
        from examples.deployed import play
        agent = preceptor.load("mine", logdir={logdir!r})
        print(agent.act([0.5, 0.0]) == 0, agent.option, min(play("mine", {logdir!r}, 8, 60)))"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True fetch the key True\n"
    assert np.mean(deployed.play(Path(logdir, "ihac/Corridor/mine"), logdir, 16, 100)) == 1.0


def test_the_minigrid_example_trains_and_is_found_by_its_name(tmp_path: Path) -> None:
    small = ["--steps", "640", "--num-envs", "8", "--eval-episodes", "2", "--logdir", str(tmp_path)]
    assert cli.main(["train", "--task", LEVEL, *TRAIN, *small]) == 0
    assert preceptor.load("mine", logdir=str(tmp_path)).task is get_task(LEVEL)
    gym.registry.pop("HiddenGoal-v0")  # as in another process, where nothing has imported it
    sys.modules.pop("examples.minigrid_level")
    assert task_of("HiddenGoal-v0", tmp_path).source == LEVEL


def test_two_tasks_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for n, source in enumerate(("one:Same", "two:Same")):
        Run.create(tmp_path, "ihac", "Same", str(n), {"task": source}, resume=False)
    with pytest.raises(UserError, match=r"Runs of one:Same and of two:Same[\s\S]*next: --task one:Same"):
        task_of("Same", tmp_path)


def test_a_task_needs_six_members_and_the_rest_follows(module: Any) -> None:
    name = module(NEEDS)
    task = get_task(f"{name}:Bare")
    assert len(task.needed) <= 8
    assert len(preceptor.TableTask.needed) <= 8
    assert (task.name, task.rules, task.source) == ("Bare", "", f"{name}:Bare")
    assert (task.observation_shape, task.num_actions, task.continuous) == ((2,), 3, False)
    obs = np.array([[0.9, 0.0], [0.1, 0.0], [0.8, 0.0]], np.float32)
    assert task.legal(obs).tolist() == [[True, True], [True, False], [True, True]]
    scenes = task.sample_scenes(np.random.default_rng(0), 500)
    assert len(scenes) == 500
    assert len({scene.facts for scene in scenes}) == 2
    assert scenes == task.sample_scenes(np.random.default_rng(0), 500)


def test_a_teacher_is_limited_by_a_class_and_environments_may_come_without_a_simulator(module: Any) -> None:
    name = module("""
from preceptor import LimitedTask

class Own(Corridor):
    simulator = Task.simulator
    def make_vec(self, num_envs, *, split="train", seed=0):
        return Corridor().make_vec(num_envs, split=split, seed=seed)
    def make_env(self, split="eval", render_mode=None):
        return Corridor().make_env(split, render_mode)

class Blind(LimitedTask, Own):
    def teacher_view(self, obs, level_seeds):
        return 0 * obs
""")
    task = get_task(f"{name}:Blind")
    assert isinstance(task, preceptor.LimitedTask)
    env = task.make_single(1_000_007)
    obs, info = env.reset(options={"level_seed": 1_000_007})
    assert (info["level_seed"], task.observation_shape) == (1_000_007, obs.shape)
    assert not task.teacher_view(obs, np.array([1_000_007])).any()
    assert task.teacher_to_true(np.arange(2)).tolist() == [[0, 1]] * 2


@pytest.mark.parametrize(("words", "why"), [([], "no scripted skills"), (["--teacher", "scripted"], "no scripted")])
def test_what_may_be_left_out_is_named_where_it_is_asked_for(
    words: list[str], why: str, module: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--steps", "640", "--num-envs", "8", "--eval-episodes", "1", "--quiet"]
    assert cli.main(["train", "--task", f"{module(NEEDS)}:Bare", *words, *where]) == 2
    told = capsys.readouterr().err
    assert why in told
    again = shlex.split(told.partition("next: python main.py ")[2], comments=True)
    assert cli.main([*again, *where]) == 0, "the command that is named works"


FAULTY = """
class Faulty(Corridor):
    def fact_codes(self, obs):
        if (obs[:, 0] > 0.8).any():
            return {}["far"]
        return super().fact_codes(obs)
"""


def test_what_a_task_raises_in_training_names_its_class_method_and_line(
    module: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--task", f"{module(FAULTY)}:Faulty", *TRAIN, "--preset", "tiny"]
    assert cli.main(words) == 2
    told = capsys.readouterr().err
    assert re.search(
        r"^error: Faulty.fact_codes\(\) raises KeyError: 'far' \(users_\w+.py, line 8\)", told, re.MULTILINE
    )
    with pytest.raises(KeyError):
        cli.main([*words, "--debug", "--resume"])


def test_an_environment_of_a_package_is_blamed_with_its_own_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place := tmp_path / "site-packages").mkdir()
    text = "import gymnasium\nclass Theirs(gymnasium.Env):\n    def step(self):\n        raise KeyError('a')"
    (place / "theirs.py").write_text(text)
    monkeypatch.syspath_prepend(place)
    with pytest.raises(KeyError) as raised:
        import_module("theirs").Theirs().step()
    told = blamed(raised.value)
    assert told is not None
    assert re.fullmatch(r"Theirs.step\(\) raises KeyError: 'a' \(\S+site-packages/theirs.py, line 4\).", told.what)
    with pytest.raises(TypeError) as ours:
        get_task("KeyInBox").describe(None)  # type: ignore[arg-type]
    assert blamed(ours.value) is None


@pytest.mark.parametrize(
    ("text", "name", "why"),
    [
        ("", "Corridr", "Unknown task of .* 'Corridr'. Did you mean 'Corridor'"),
        ("x = 1 / 0", "Any", r"raises ZeroDivisionError: division by zero \(users_\w+.py, line 4\)"),
        ("def f(:", "Any", r"raises SyntaxError.*line 4"),
        ("import no_such_thing", "Any", r"raises ModuleNotFoundError: No module named 'no_such_thing'.*line 4"),
        ("raise SystemExit(3)", "Any", r"raises SystemExit: 3.*line 4"),
        ("def make():\n    raise KeyError('a')", "make", r"make raises KeyError: 'a' \(.*line 5"),
        ("def make(size):\n    pass", "make", "make raises TypeError.*missing 1 required"),
        ("other = 3", "other", "gives something of type int, not a preceptor.Task"),
        (
            "class Half(TableTask):\n    goal = 'x'",
            "Half",
            "lacks options, simulator, fact_codes, words",
        ),
        (NEEDS + "    describe = Task.describe", "Bare", "lacks describe, which a Task needs"),
        ("class My(Corridor):\n    name = 'KeyInBox'", "My", "is called KeyInBox, as a task of preceptor is"),
        ("class My(Corridor):\n    name = 'a/b'", "My", "'a/b' is no name for the folder"),
        ("class My(Corridor):\n    observation_shape = (8, 8)", "My", r"observations have shape \(8, 8\)"),
        ("class My(Corridor):\n    options = []", "My", "options must be an OptionSpace"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(text: str, name: str, why: str, module: Any) -> None:
    with pytest.raises(UserError, match=why) as error:
        get_task(f"{module(text)}:{name}")
    assert error.value.next_step


def test_instances_and_functions_are_tasks_and_a_changed_class_is_another_one(module: Any) -> None:
    name = module("made = Corridor()\ndef make():\n    return made")
    assert get_task(f"{name}:make") is get_task(f"{name}:made")
    setattr(sys.modules[name], "made", again := corridor.Corridor())  # noqa: B010  # as a notebook's cell, run again
    assert get_task(f"{name}:made") is again


def test_a_module_that_is_not_there_and_a_notebooks_class(module: Any) -> None:
    name = module("")
    with pytest.raises(UserError, match=rf"no module '{name[:-1]}'.*Did you mean '{name}'[\s\S]*main.py tasks"):
        get_task(f"{name[:-1]}:Corridor")
    with pytest.raises(UserError, match=r"no module 'examples.coridor'.*Did you mean 'examples.corridor'"):
        get_task("examples.coridor:Corridor")
    with pytest.raises(UserError, match=r"defined in a notebook or script[\s\S]*--task tasks:Mine"):
        get_task("__main__:Mine")


def install(folder: Path, package: str, name: str, place: str) -> None:
    """What pip leaves of a package with one task."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[preceptor.tasks]\n{name} = {place}\n")


def test_installed_packages_bring_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "corridors", "Hall", CORRIDOR)
    assert get_task("Hall").source == "Hall"
    assert get_task("Hall").name == "Corridor"
    assert ("installed", "Hall", CORRIDOR) in listing()
    install(tmp_path, "halls", "Hall", LEVEL)
    with pytest.raises(UserError, match=r"Hall is one of \w+ and one of \w+.\n  next: --task examples"):
        get_task("Hall")
    assert get_task("KeyInBox").name == "KeyInBox"
    install(tmp_path, "shadows", "KeyInBox", CORRIDOR)
    with pytest.raises(UserError, match=r"KeyInBox is one of preceptor and one of shadows[\s\S]*uninstall shadows"):
        get_task("KeyInBox")


def drift(state: dict[str, Any], actions: np.ndarray) -> tuple[Any, Any, Any]:
    """Two numbers change places at each step, and one of them is pushed at random."""
    state["x"], state["y"] = state["y"], state["x"]
    state["x"] = state["x"] + preceptor.uniform(state["level_seed"], 1, state["age"])[:, 0]
    return actions, state["x"] > 4, state["y"] > 1


def drifting(num_envs: int, step: Any = drift, **more: Any) -> preceptor.ArraySimulator:
    def begin(seeds: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(("x", "y"), preceptor.uniform(seeds, 2).T.copy(), strict=True))

    seen = {"observe": lambda state: np.stack([state["x"], state["y"]], 1), "actions": 3, "max_steps": 12} | more
    return preceptor.ArraySimulator("drift", num_envs, begin, step, **seen)


def test_episodes_of_arrays_depend_on_level_seed_and_actions_and_resume_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    env = BatchedEnv(drifting(5), "train", 3)
    env.reset(options={"level_seeds": np.array([4, 7, 7, 9, 4])})
    ends = np.zeros(3, np.int64)
    for _ in range(40):
        again, actions = BatchedEnv(drifting(5), "train", 8), rng.integers(3, size=5)
        again.set_state(env.get_state())
        stepped = env.step(actions)
        np.testing.assert_equal(again.step(actions), stepped)
        obs, reward, terminated, truncated, info = stepped
        assert (reward == actions).all()
        assert not (info["success"] & ~(terminated | truncated)).any()
        if (over := terminated | truncated).any():
            assert (info["final_obs"][over] != obs[over]).any()
            assert (env.simulator.arrays()["age"][over] == 0).all()
        ends += [terminated.sum(), truncated.sum(), info["success"].sum()]
    assert (ends > 0).all()
    simulator = drifting(4)
    simulator.begin(np.arange(4), np.array([4, 7, 7, 9]))
    for _ in range(6):
        simulator.step(np.zeros(4, np.int64))
    x = simulator.observe()
    assert (x[1] == x[2]).all()
    assert len(np.unique(x[:, 0])) == 3
    first, later = preceptor.uniform(np.arange(1000), 2), preceptor.uniform(np.arange(1000), 2, 0)
    assert abs(first.mean() - 0.5) < 0.03
    assert abs(np.corrcoef(first[:, 0], later[:, 0])[0, 1]) < 0.1
    assert 0 <= first.min() < first.max() < 1


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (lambda state, a: state.update(x=state["x"].astype(np.float32)) or (0, False, False), "made 'x', float64"),
        (lambda state, a: state.pop("y") is None or (0, False, False), "made 'y'"),
        (lambda state, a: (np.zeros(2), False, False), "not one number for each environment"),
        (lambda state, a: state["x"].fill(np.nan) or (0, False, False), "not finite"),
        (
            lambda state, a: state["z"],
            r"step\(\) of drift raises KeyError: 'z' \(tests/contract/test_own_tasks.py, line",
        ),
    ],
)
def test_functions_that_break_the_rules_are_told_which(step: Any, why: str) -> None:
    simulator = drifting(4, step)
    simulator.begin(np.arange(4), np.arange(4))
    with pytest.raises(UserError, match=why):
        simulator.step(np.zeros(4, np.int64)), simulator.observe()
    with pytest.raises(ValueError, match="actions must be 4 of Discrete"):
        simulator.step(np.full(4, 3))
    with pytest.raises(UserError, match="has no picture"):
        simulator.render()
    drawn = drifting(4, render=lambda state: state["x"] if state["level_seed"] == 2 else state["z"])
    drawn.begin(np.arange(4), np.arange(4))
    assert drawn.render(2).astype(np.float32) == drawn.observe()[2, 0]
    with pytest.raises(UserError, match=r"render\(\) of drift raises KeyError: 'z'"):
        drawn.render(1)


def test_any_gymnasium_environment_is_a_simulator() -> None:
    class Swing(preceptor.TableTask):
        goal = "Swing it up."
        options = preceptor.OptionSpace([preceptor.Option("act", "act", 1)])
        expert_of = np.zeros(1, np.int64)

        def simulator(self, num_envs: int, render_mode: str | None = None) -> Any:
            return preceptor.GymSimulator(self.name, partial(gym.make, "Pendulum-v1"), num_envs)

    task = Swing()
    assert (task.observation_shape, task.num_actions, task.continuous) == ((3,), 1, True)
    env = task.make_vec(2, split="eval")
    obs, _ = env.reset(options={"level_seeds": np.array([1_000_003, 1_000_003])})
    assert (obs[0] == obs[1]).all()
