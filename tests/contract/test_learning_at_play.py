"""Agents that learn from their fallback teacher while they are served: `serve --agent RUN --teacher ... --learn`.

The agent of these tests was taught on 576 steps, and is unsure of one choice in six.
"""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

import main as cli
from preceptor.agent.asked_scenes import MOST_SCENES, AskedScenes, is_held_out
from preceptor.agent.config import configure
from preceptor.agent.relearning import FEWEST_HELD_OUT, LEARNED, SCENES, Remembered, drop_old, learned_runs, relearn
from preceptor.agent.remote.client import Client
from preceptor.agent.runs.results import read_result
from preceptor.agent.runs.run import Run
from preceptor.agent.train import train
from preceptor.controller.checkpoint import load_controller, save_controller
from preceptor.controller.roles import Controller, network_of
from preceptor.envs.catalog import get_task
from preceptor.ground.atomic import alone
from preceptor.ground.errors import UserError
from preceptor.serving.config import FallbackConfig, ServeConfig
from preceptor.serving.policy.agents import Agents
from preceptor.serving.policy.learning import Learning
from preceptor.serving.ports import free_ports
from tests.local_server import wait_for
from tests.policy_server import in_thread, process, trained

TASK = get_task("SimpleDoorKey")
ENVIRONMENTS, STEPS, SURE, LONG = 16, 60, 0.8, 240.0
LEARNS = FallbackConfig("scripted", teacher_seconds=20.0, learn=True, learn_after=32)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    settings = {"preset": "tiny", "teacher": "scripted", "steps": 600, "eval_episodes": 0, "quiet": True}
    logdir = str(tmp_path_factory.mktemp("log"))
    return Path(train(configure(settings | {"logdir": logdir}, method="dagger", task=TASK.name))["run"])


@pytest.fixture
def run(taught: Path, tmp_path: Path) -> Path:
    place = tmp_path / "log" / "dagger" / TASK.name / "s"
    shutil.copytree(taught, place)
    return place


class Played(NamedTuple):
    """Share of the choices in which the controller agrees with the script, and for which the teacher was asked."""

    agreement: float
    asked: float


def play(client: Client, agent: str, seed: int, fallback: float | None = None, steps: int = STEPS) -> Played:
    """Play held-out levels, the same ones for a seed."""
    env = TASK.make_vec(ENVIRONMENTS, split="eval", seed=seed)
    obs, began, right, asked = env.reset()[0], None, [], 0
    with client.open(agent, environments=ENVIRONMENTS, seed=0, fallback=fallback) as session:
        for _ in range(steps):
            answer = session.act(obs, began)
            script = [TASK.script(scene) for scene in TASK.describe(obs)]
            right += (answer.probs.argmax(1) == script)[answer.ended].tolist()
            asked += sum(said == "teacher" for said in answer.advice or ())
            obs, _, terminated, truncated, _ = env.step(answer.action)
            began = terminated | truncated
    env.close()
    return Played(float(np.mean(right)), asked / len(right))


def met(steps: int) -> np.ndarray[Any, Any]:
    """Distinct observations of random play in which there is a choice."""
    env, rng = TASK.make_vec(ENVIRONMENTS, split="eval", seed=1), np.random.default_rng(0)
    seen = [env.reset()[0]]
    seen += [env.step(rng.integers(0, TASK.num_actions, ENVIRONMENTS))[0] for _ in range(steps)]
    env.close()
    obs = np.unique(np.concatenate(seen), axis=0)
    return np.asarray(obs[TASK.legal(obs).sum(1) > 1])


def one_hot(options: Any) -> np.ndarray[Any, Any]:
    return np.eye(len(TASK.options), dtype=np.float32)[options]


def test_an_agent_learns_what_it_was_unsure_of_while_open_sessions_go_on_as_they_were(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def newest() -> dict[str, Any]:
        return next(each for each in client.agents() if each["newest"])

    obs = TASK.make_vec(2, split="eval", seed=3).reset()[0]
    with in_thread({"it": run}, tmp_path / "state", fallback=LEARNS) as served, Client(served.url) as client:
        old = newest()["version"]
        with client.open("it", environments=2, seed=5) as early:
            actions = [early.act(obs).action for _ in range(3)]
            unsure = play(client, "it", seed=0, fallback=SURE)
            assert unsure.asked > 0.05
            wait_for(lambda: newest()["learned"], LONG)
            told, new = newest()["learned"], newest()["version"]
            assert told["agreement"] > told["agreement_before"]
            assert told["held_out"] >= FEWEST_HELD_OUT
            assert told["own_labels"], "which its controller still plays by"
            actions += [early.act(obs).action for _ in range(3)]
            state = early.export()
            with client.open(f"it@{old}", environments=2, seed=5) as undisturbed:
                np.testing.assert_array_equal([undisturbed.act(obs).action for _ in range(6)], actions)
                following = undisturbed.act(obs).action
        before, after = play(client, f"it@{old}", seed=1), play(client, "it", seed=1)
        assert after.agreement > before.agreement + 0.02, "on levels that nobody has asked about"
        assert play(client, "it", seed=2, fallback=SURE).asked < unsure.asked / 2
        text = httpx.get(f"{served.url}/metrics").text
        assert 'preceptor_distillations_total{agent="it",outcome="learned"} 1.0' in text
        assert 'preceptor_labels_waiting{agent="it"}' in text
        with AskedScenes(run / SCENES, TASK) as store:
            assert {True, False} == set((store.read().previous < 0).tolist()), "what ran before is kept, too"
    with in_thread({"it": run}, tmp_path / "state", fallback=LEARNS) as served, Client(served.url) as client:
        assert newest()["version"] == new, "a server that is started again plays what was learned"
        with client.open(state=state) as early:
            assert early.told["version"] == old
            np.testing.assert_array_equal(early.act(obs).action, following)
    with in_thread({"it": run}, tmp_path / "state") as served, Client(served.url) as client:
        assert newest()["version"] == old, "without --learn it plays what was trained"
    capsys.readouterr()
    words = ["--loaddir", str(run / LEARNED / "1"), "--task", TASK.name, "--seeds", "1000000:1000008"]
    assert cli.main(["eval", *words, "--compare", "student,controller"]) == 0
    assert read_result(run / LEARNED / "1" / "eval.json")["student"]["greedy"]["success"] > 0


def learned_before(run: Path, count: int) -> list[str]:
    """Versions that were learned earlier, under other numbers of steps."""
    base, versions = Run.open(run), []
    for number in range(1, count + 1):
        place = run / LEARNED / str(number)
        shutil.copytree(run, place, ignore=shutil.ignore_patterns(LEARNED))
        step = base.last_step or 0
        (place / "checkpoints" / str(step)).rename(place / "checkpoints" / str(step + number))
        Run.open(place).annotate(**{LEARNED: {"of": base.version}})
        versions.append(Run.open(place).version)
    return versions


def test_old_versions_are_removed_but_none_that_a_session_plays(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def distil(self: Learning, place: Path) -> str:
        return str(relearn(place, steps=640))

    monkeypatch.setattr(Learning, "_distil", distil)
    monkeypatch.setattr("preceptor.agent.relearning._WORSE_ELSEWHERE", 1.0)  # whatever comes of so few steps
    versions, learns = learned_before(run, 4), replace(LEARNS, learn_keep=2)
    obs = TASK.make_vec(2, split="eval", seed=3).reset()[0]
    with in_thread({"it": run}, tmp_path / "state", fallback=LEARNS) as served, Client(served.url) as client:
        early = client.open(f"it@{versions[0]}", environments=2, seed=5)
        actions, state = [early.act(obs).action for _ in range(3)], early.export()
    asked = met(40)
    with AskedScenes(run / SCENES, TASK) as store:
        store.add(asked, np.full(len(asked), -1), one_hot([TASK.script(scene) for scene in TASK.describe(asked)]))
    with in_thread({"it": run}, tmp_path / "state", fallback=learns):  # it learns from what it finds
        folders = [run / LEARNED / name for name in ("1", "4", "5")]
        wait_for(lambda: sorted((run / LEARNED).glob("[!.]*")) == folders, LONG)
        wait_for(lambda: not list((run / LEARNED).glob(".*.dropped")))
    with in_thread({"it": run}, tmp_path / "state", fallback=learns) as served, Client(served.url) as client:
        with client.open(state=state) as same:
            assert same.told["version"] == versions[0]
            actions += [same.act(obs).action for _ in range(3)]
        with client.open(f"it@{versions[0]}", environments=2, seed=5) as undisturbed:
            np.testing.assert_array_equal([undisturbed.act(obs).action for _ in range(6)], actions)
        with pytest.raises(UserError, match="is not here as version"):
            client.open(f"it@{versions[1]}", environments=2)
    assert drop_old(run, 1, used=()) == ["1", "4"], "nobody plays them by now"


def learners(run: Path) -> list[int]:
    """Processes that distil the agent of a run again."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if b"preceptor.agent.relearning" in words and str(run).encode() in words and b"-I" not in words:
            found.append(int(path.parent.name))
    return found


def test_a_server_that_is_killed_while_it_learns_loses_nothing(run: Path, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    words = ["--teacher", "scripted", "--teacher-seconds", "20", "--learn", "--learn-after", "32"]
    obs = TASK.make_vec(2, split="eval", seed=3).reset()[0]
    server = process({"it": run}, tmp_path / "state", port, *words)
    try:
        with Client(f"http://127.0.0.1:{port}", patience=60.0) as client:
            session = client.open("it", environments=2, seed=5)
            actions = [session.act(obs).action for _ in range(3)]
            play(client, "it", seed=0, fallback=SURE)
            wait_for(lambda: learners(run), LONG)
            wait_for(lambda: [os.getpriority(os.PRIO_PROCESS, pid) for pid in learners(run)] == [10])
            server.kill()
            server.wait()
            wait_for(lambda: not learners(run))  # it ends with the server
            assert not learned_runs(Run.open(run))
            server = process({"it": run}, tmp_path / "state", port, *words)
            wait_for(lambda: learned_runs(Run.open(run)), LONG)
            wait_for(lambda: client.agents()[-1]["learned"], LONG)
            actions += [session.act(obs).action for _ in range(3)]
            with client.open(session.told["agent"] + "@" + session.told["version"], environments=2, seed=5) as same:
                np.testing.assert_array_equal([same.act(obs).action for _ in range(6)], actions)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def test_a_controller_that_is_worse_on_held_out_scenes_is_refused(run: Path) -> None:
    base, obs = Run.open(run), met(40)
    controller = load_controller(base.controller, TASK)
    chosen, legal = controller.label(obs, TASK.legal(obs))[0], TASK.legal(obs)
    legal[np.arange(len(obs)), chosen] = False
    held = np.array([is_held_out(each.tobytes()) for each in obs.astype(np.uint8)])
    assert held.sum() >= FEWEST_HELD_OUT
    # A teacher that contradicts itself: whatever is learned from the others is wrong on those that are held out.
    with AskedScenes(run / SCENES, TASK) as store:
        store.add(obs, np.full(len(obs), -1), one_hot(np.where(held, chosen, legal.argmax(1))))
        told = relearn(run, steps=960)
        assert not told["learned"]
        assert told["agreement"] < told["agreement_before"]
        assert store.last()["outcome"] == "refused"
        assert store.counted()[0] == 0, "it is tried again when more has come"
    assert not learned_runs(base)
    ((playing, newest),) = Agents({"it": str(run)}, "log", learns=True).all()
    assert newest
    assert playing.version == base.version


def test_what_fails_is_counted_and_told_and_the_old_controller_goes_on(run: Path, tmp_path: Path) -> None:
    with (
        alone(run / LEARNED),  # another server learns from the same run
        in_thread({"it": run}, tmp_path / "state", fallback=LEARNS) as served,
        Client(served.url) as client,
    ):
        version = client.agents()[0]["version"]
        play(client, "it", seed=0, fallback=SURE)
        failed = 'preceptor_distillations_total{agent="it",outcome="failed"} 1.0'
        wait_for(lambda: failed in httpx.get(f"{served.url}/metrics").text, LONG)
        assert client.agents()[0]["version"] == version
        with AskedScenes(run / SCENES, TASK) as store:
            assert "is in use" in store.last()["why"]


def test_with_few_labels_and_with_a_teacher_that_is_down_nothing_is_learned(run: Path, tmp_path: Path) -> None:
    few = FallbackConfig("scripted", teacher_seconds=20.0, learn=True, learn_after=1000)
    with in_thread({"it": run}, tmp_path / "state", fallback=few) as served, Client(served.url) as client:
        play(client, "it", seed=0, fallback=SURE, steps=10)
        waiting = 'preceptor_labels_waiting{agent="it"} '
        wait_for(lambda: float(httpx.get(f"{served.url}/metrics").text.partition(waiting)[2].split("\n")[0]) > 0)
        assert not client.agents()[0]["learned"]
    down = FallbackConfig("llm", base_url="http://127.0.0.1:9/v1", teacher_seconds=20.0, learn=True, learn_after=16)
    (run / SCENES).unlink()
    with in_thread({"it": run}, tmp_path / "state", fallback=down) as served, Client(served.url) as client:
        assert play(client, "it", seed=0, fallback=SURE, steps=10).asked == 0
        with AskedScenes(run / SCENES, TASK) as store:
            assert store.counted() == (0, 0, 0)
            assert store.last() is None


def test_an_agent_that_cannot_learn_and_a_server_without_a_teacher_say_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none is named"):
        ServeConfig(agent=("first",), fallback=FallbackConfig(learn=True)).resolved()
    with pytest.raises(UserError, match="first has no controller that could be distilled again"):
        Agents({"first": str(trained("sac", tmp_path / "log"))}, "log", learns=True)


def test_scenes_are_kept_once_and_always_on_the_same_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    obs = met(20)
    with AskedScenes(tmp_path / "a.sqlite", TASK) as store:
        store.add(obs, np.zeros(len(obs), np.int64), one_hot(np.zeros(len(obs), int)))
        store.add(obs[:5], np.ones(5, np.int64), one_hot(np.ones(5, int)))
        asked, (new, learned, held) = store.read(), store.counted()
        assert (new, learned + held, int(asked.held.sum())) == (len(obs), len(obs), held)
        assert 0.1 < held / len(obs) < 0.4
        np.testing.assert_array_equal(asked.obs, obs)
        np.testing.assert_array_equal(asked.probs.argmax(1), asked.previous)
        assert asked.previous.tolist() == [1] * 5 + [0] * (len(obs) - 5), "the last label counts"
        monkeypatch.setattr("preceptor.agent.asked_scenes.MOST_SCENES", 10)
        store.add(met(25)[-3:], np.zeros(3, np.int64), one_hot([2, 2, 2]))
        assert len(store.read().obs) <= 10 < MOST_SCENES
        monkeypatch.undo()
    with AskedScenes(tmp_path / "b.sqlite", TASK) as store:
        store.add(obs[::-1], np.zeros(len(obs), np.int64), one_hot(np.zeros(len(obs), int)))
        np.testing.assert_array_equal(store.read().held[::-1], asked.held)
    (tmp_path / "c.sqlite").write_bytes(b"no database")
    with pytest.raises(UserError, match="cannot be used"):
        AskedScenes(tmp_path / "c.sqlite", TASK)


def test_the_teacher_at_play_counts_before_the_run_and_that_before_the_controller(run: Path, tmp_path: Path) -> None:
    obs, base = met(20), Run.open(run)
    codes = TASK.fact_codes(obs)
    with AskedScenes(tmp_path / "a.sqlite", TASK) as store:
        row = next(i for i, each in enumerate(obs.astype(np.uint8)) if not is_held_out(each.tobytes()))
        store.add(obs[row : row + 1], np.full(1, -1), one_hot([4]))
        asked = store.read()
    old = load_controller(base.controller, TASK)
    probs, _ = Remembered(TASK, asked, None, old).label(obs, np.zeros(len(obs), np.int64))
    same = codes == codes[row]
    assert (probs[same].argmax(1) == 4).all()
    np.testing.assert_allclose(probs[~same], old.probs(obs, legal=TASK.legal(obs))[~same], atol=1e-6)


def test_labels_that_reward_has_overcome_are_not_learned_again_and_who_forgets_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, obs = Run.open(run), met(40)
    with AskedScenes(run / SCENES, TASK) as store:
        store.add(obs, np.full(len(obs), -1), one_hot([TASK.script(scene) for scene in TASK.describe(obs)]))
    with monkeypatch.context() as patch:
        patch.setattr("preceptor.agent.relearning._WORSE_ELSEWHERE", -1.0)  # so that it is worse, however good it is
        told = relearn(run, steps=960)
        assert told["agreement"] >= told["agreement_before"]
        assert told["own_labels"]
        assert not told["learned"]
        assert not learned_runs(base)
    assert relearn(run, steps=960)["learned"]
    (learned,) = learned_runs(base)
    save_controller(base.controller, Controller(TASK, network_of(TASK)))  # another than the one that plays
    told = relearn(run, steps=640)
    assert not told["own_labels"]
    assert told["from"] == learned.version, "what was learned is learned from"
