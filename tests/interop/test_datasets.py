"""Minari's collector on every environment that is registered; d3rlpy and LeRobot on what `demos` leaves."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import gymnasium as gym
import minari
import numpy as np
import pytest

import main as cli
from preceptor.agent.data.lerobot import load_lerobot
from preceptor.agent.data.minari import load_minari
from preceptor.envs.catalog import FAMILIES, get_task, register_all

register_all()
pytestmark = pytest.mark.interop
IDS = [f"Preceptor/{task}-v0" for family in FAMILIES.values() if family.entry_point for task in family.tasks]


@pytest.mark.filterwarnings("ignore")  # a dataset without author or code
@pytest.mark.parametrize("env_id", IDS)
def test_minari_records_our_environments_and_makes_them_again(env_id, monkeypatch, tmp_path):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = minari.DataCollector(gym.make(env_id), record_infos=True)
    for seed in range(2):
        env.reset(seed=seed)
        for _ in range(5):
            env.step(env.action_space.sample())
    dataset = env.create_dataset("of/ours-v0", algorithm_name="random")
    assert [len(episode.actions) for episode in dataset.iterate_episodes()] == [5, 5]
    assert {"success", "level_seed"} <= set(dataset[0].infos)
    made = minari.load_dataset("of/ours-v0").recover_environment()
    assert made.spec.id == env_id
    assert made.observation_space == dataset.observation_space


@pytest.fixture
def recorded(monkeypatch, tmp_path):
    """The id of a dataset that `demos` leaves for a task."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))

    def run(task: str) -> str:
        assert cli.main(["demos", "--task", task, "--to", "by/demos-v0", "--count", "8"]) == 0
        return "by/demos-v0"

    return run


@pytest.mark.filterwarnings("ignore")
def test_what_minari_records_of_a_grid_is_read_as_demonstrations(monkeypatch, tmp_path):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = minari.DataCollector(gym.make("Preceptor/KeyInBox-v0"), record_infos=True)
    obs, _ = env.reset(seed=0)
    env.step(1)
    env.create_dataset("of/ours-v0", algorithm_name="random")
    read = load_minari("of/ours-v0", get_task("KeyInBox"))
    assert read.lengths.tolist() == [2]
    assert (read.obs[0, 0] == obs["image"]).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", ["RescueWorld-n3", "PointReach", "SimpleDoorKey", "FetchPickAndPlace"])
def test_d3rlpy_learns_from_what_demos_recorded(task, recorded):
    import d3rlpy

    dataset, env = d3rlpy.datasets.get_minari(recorded(task))
    ours = load_minari("by/demos-v0", get_task(task))
    np.testing.assert_allclose([episode.compute_return() for episode in dataset.episodes], ours.returns, rtol=1e-5)
    assert [len(episode.actions) for episode in dataset.episodes] == (ours.lengths - 1).tolist()
    obs, _ = env.reset(seed=0)
    if obs.ndim == 1:  # its encoder of maps is for pictures of 84 x 84
        config = d3rlpy.algos.BCConfig() if get_task(task).continuous else d3rlpy.algos.DiscreteBCConfig()
        learner, silent = config.create(device="cpu:0"), d3rlpy.logging.NoopAdapterFactory()
        learner.fit(dataset, n_steps=20, n_steps_per_epoch=20, show_progress=False, logger_adapter=silent)
        env.step(learner.predict(obs[None])[0])


@pytest.fixture
def without_torchvision(monkeypatch):
    """LeRobot imports it for pictures; builds for CUDA, as PyPI has them, break beside torch's for the CPU."""
    for name in ("torchvision", "torchvision.transforms"):
        module = ModuleType(name)
        module.__spec__, module.ToTensor = ModuleSpec(name, None), object
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", ["FetchPickAndPlace", "SimpleDoorKey", "PointReach"])
@pytest.mark.usefixtures("without_torchvision")
def test_lerobot_reads_what_demos_recorded(task, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    quality = "mixed" if task == "FetchPickAndPlace" else "expert"
    words = ["demos", "--task", task, "--format", "lerobot", "--to", str(tmp_path / "set"), "--count", "4"]
    assert cli.main([*words, "--quality", quality]) == 0
    ours = load_lerobot(tmp_path / "set", get_task(task))
    theirs = LeRobotDataset("local/set", root=tmp_path / "set")
    assert (theirs.num_episodes, theirs.num_frames) == (4, ours.acted.sum())
    frames = [theirs[n] for n in range(len(theirs))]
    columns = {"observation.state": ours.obs, "action": ours.action, "next.reward": ours.reward, **ours.extra}
    for name in columns.keys() - {"success"}:
        found = np.stack([frame[name].numpy() for frame in frames])
        assert np.array_equal(found, columns[name][ours.acted].reshape(found.shape)), name
    assert {frame["task"] for frame in frames} == {get_task(task).goal}
    second = LeRobotDataset(
        "local/set", root=tmp_path / "set", episodes=[1], delta_timestamps={"action": [0, 1 / theirs.fps]}
    )
    assert len(second) == ours.lengths[1] - 1
    assert np.array_equal(second[0]["action"].numpy(), ours.action[1, :2])
    assert second[len(second) - 1]["action_is_pad"].tolist() == [False, True]
