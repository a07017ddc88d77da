"""Minari's own collector on every environment that is registered."""

from pathlib import Path

import gymnasium as gym
import minari
import pytest

from preceptor.envs.catalog import FAMILIES, register_all

register_all()
pytestmark = pytest.mark.interop
IDS = [f"Preceptor/{task}-v0" for family in FAMILIES.values() if family.entry_point for task in family.tasks]


@pytest.mark.filterwarnings("ignore")  # of what a dataset has no author and no code
@pytest.mark.parametrize("env_id", IDS)
def test_minari_records_our_environments_and_makes_them_again(env_id, monkeypatch, tmp_path):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = minari.DataCollector(gym.make(env_id), record_infos=True, jpeg_encoding=False)
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
