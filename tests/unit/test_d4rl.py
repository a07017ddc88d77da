"""Files in D4RL's layout: read as demonstrations, or refused with what does not fit."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

import main as cli
from preceptor.agent.data.d4rl import load_d4rl
from preceptor.agent.data.recording import Recording
from preceptor.agent.demonstrating import record
from preceptor.envs.catalog import get_task
from preceptor.ground.errors import UserError

TASK = get_task("KitchenKinematic")
RECORDED = record(TASK, 5, seed=0)


def flattened(recording: Recording, follows: bool = False) -> dict[str, NDArray]:
    """Its steps one after another, as D4RL has them; the third episode as one that was cut."""
    terminated = recording.terminated & (np.arange(len(recording)) != 2)
    acted, last = recording.acted, np.arange(recording.option.shape[1]) == recording.lengths[:, None] - 2
    arrays = {
        "observations": recording.obs[acted],
        "actions": recording.action[acted],
        "rewards": recording.reward[acted],
        "terminals": (last & terminated[:, None])[acted],
        "timeouts": (last & ~terminated[:, None])[acted].astype(np.float64),
    }
    return arrays | ({"next_observations": np.roll(recording.obs, -1, 1)[acted]} if follows else {})


def written(path: Path, arrays: dict[str, NDArray]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            file.create_group("metadata")
            for name, array in arrays.items():
                file[name] = array
    return path


@pytest.mark.parametrize("name", ["a.hdf5", "a+b.npz"])
@pytest.mark.parametrize("follows", [False, True])
def test_a_file_is_read_as_the_episodes_that_were_written(tmp_path: Path, name: str, follows: bool) -> None:
    found = load_d4rl(written(tmp_path / name, flattened(RECORDED, follows)), TASK)
    assert found.lengths.tolist() == RECORDED.lengths.tolist()
    assert found.terminated.tolist() == [True, True, False, True, True]
    np.testing.assert_array_equal(found.action, RECORDED.action)
    np.testing.assert_array_equal(found.reward, RECORDED.reward)
    rows, last = np.arange(5), RECORDED.lengths - 1
    due = RECORDED.obs.copy()
    if not follows:
        due[rows, last] = due[rows, last - 1]
    np.testing.assert_array_equal(found.obs, due)
    assert (found.option == -1).all()
    assert (found.level_seed == -1).all()


def test_training_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "a+b.hdf5", flattened(RECORDED))
    words = ["train", "--task", TASK.name, "--method", "bc", "--steps", "10", "--eval-episodes", "2"]
    assert cli.main([*words, "--logdir", str(tmp_path), "--savedir", "d", "--demos", str(path)]) == 0
    assert "demonstrations: 4" in capsys.readouterr().out


def test_steps_after_the_last_end_are_an_episode_that_was_cut(tmp_path: Path) -> None:
    arrays = {name: array[:-3] for name, array in flattened(RECORDED).items() if name != "timeouts"}
    found = load_d4rl(written(tmp_path / "a.npz", arrays), TASK)
    joined = RECORDED.lengths[2] + RECORDED.lengths[3] - 1
    assert found.lengths.tolist() == [*RECORDED.lengths[:2], joined, RECORDED.lengths[4] - 3]
    assert found.terminated.tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"rewards": None}, "no array 'rewards'"),
        ({"observations": np.zeros((7, 33))}, r"and 7 rows of numbers are due"),
        ({"actions": np.zeros((len(flattened(RECORDED)["rewards"]), 5))}, r"widths \(\(33,\), \(5,\)\)"),
        ({"actions": np.full((len(flattened(RECORDED)["rewards"]), 4), 3.0)}, "has an action of 3.0"),
        ({"rewards": np.full(len(flattened(RECORDED)["rewards"]), np.nan)}, "has a reward of nan"),
        ({"terminals": np.array("no")}, "terminals are"),
        (dict.fromkeys(flattened(RECORDED)), "only others"),
        ({name: array[:0] for name, array in flattened(RECORDED).items()}, "some rows"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, change: dict[str, NDArray | None], why: str) -> None:
    arrays = {name: array for name, array in (flattened(RECORDED) | change).items() if array is not None}
    with pytest.raises(UserError, match=why):
        load_d4rl(written(tmp_path / "a.npz", arrays), TASK)


@pytest.mark.parametrize("name", ["a.hdf5", "a.npz"])
def test_a_file_that_is_none_or_damaged_is_an_error_in_words(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(UserError, match="cannot be read as demonstrations of KitchenKinematic"):
        load_d4rl(path, TASK)
    written(path, flattened(RECORDED)).write_bytes(path.read_bytes()[:999])
    with pytest.raises(UserError, match="cannot be read as demonstrations of KitchenKinematic"):
        load_d4rl(path, TASK)
