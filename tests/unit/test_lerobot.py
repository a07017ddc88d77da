"""LeRobot datasets: ours there and back, those of others, and damaged ones, which are refused with what to do."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import main as cli
from preceptor.agent.data.faults import Faults
from preceptor.agent.data.lerobot import INFO, OURS, load_lerobot, new_lerobot
from preceptor.agent.data.minari import new_dataset
from preceptor.agent.data.recording import Recording, joined
from preceptor.agent.demonstrating import demonstrations_of, record, with_optimal
from preceptor.agent.runs.run import Run
from preceptor.envs.catalog import get_task
from preceptor.ground.errors import UserError
from tests.unit.test_recording import assert_equal

FETCH = "FetchPickAndPlace"
FILE = "chunk-000/file-000.parquet"
FRAMES, ENDS = f"data/{FILE}", f"meta/episodes/{FILE}"


def made(name: str) -> Recording:
    task = get_task(name)
    if name != FETCH:
        return record(task, 4, 0)
    parts = record(task, 3, 0, faults=Faults()), record(task, 2, 1)
    return joined([with_optimal(part, bool(n)) for n, part in enumerate(parts)])


RECORDED = {name: made(name) for name in (FETCH, "SimpleDoorKey", "RescueWorld-n3", "PointPush")}


def write(folder: Path, name: str = FETCH) -> Path:
    with new_lerobot(folder, get_task(name)) as save:
        save(RECORDED[name])
    return folder


@pytest.mark.parametrize("name", RECORDED)
def test_lerobot_gives_back_what_it_took(name, tmp_path):
    assert_equal(load_lerobot(write(tmp_path / "set", name), get_task(name)), RECORDED[name])


def test_a_folder_is_what_lerobot_expects(tmp_path):
    folder, recording = write(tmp_path / "set"), RECORDED[FETCH]
    info = json.loads((folder / INFO).read_text())
    frames, ends = pq.read_table(folder / FRAMES), pq.read_table(folder / ENDS)
    assert (info["codebase_version"], info["total_episodes"], info["total_frames"]) == ("v3.0", 5, frames.num_rows)
    assert info["features"].keys() == set(frames.column_names)
    assert frames.num_rows == recording.acted.sum(), "a frame is what was done somewhere"
    assert info["features"]["faults"] == {"dtype": "bool", "shape": [2], "names": None}
    assert frames["index"].to_pylist() == list(range(frames.num_rows))
    assert ends["dataset_from_index"].to_pylist()[1:] == ends["dataset_to_index"].to_pylist()[:-1]
    assert ends["length"].to_pylist() == (recording.lengths - 1).tolist()
    done = np.array(frames["next.done"])
    assert np.flatnonzero(done).tolist() == [stop - 1 for stop in ends["dataset_to_index"].to_pylist()]
    assert (done == np.array(frames["terminated"]) | np.array(frames["truncated"])).all()
    assert np.array(frames["next.success"]).sum() == recording.extra["success"].sum()
    stats = json.loads((folder / "meta/stats.json").read_text())
    acted = recording.action[recording.acted]
    np.testing.assert_allclose(stats["action"]["mean"], acted.mean(0), atol=1e-6)
    np.testing.assert_allclose(stats["action"]["q90"], np.quantile(acted, 0.9, 0), atol=1e-6)


def change(part: str, alter):
    """Write a part anew, by a function of its table."""

    def damage(folder: Path) -> None:
        pq.write_table(alter(pq.read_table(folder / part)), folder / part)

    return damage


def put(name: str, alter, part: str = FRAMES):
    """Replace a column by a function of its values as a list."""

    def altered(table):
        index = table.column_names.index(name)
        return table.set_column(index, name, pa.array(alter(table[name].to_pylist())))

    return change(part, altered)


def without(*names: str, part: str = FRAMES):
    return change(part, lambda table: table.drop_columns(list(names)))


def first(value):
    return lambda column: [value, *column[1:]]


def cut(part: str):
    """As a writer leaves it that is killed before it has written the footer."""
    return lambda folder: os.truncate(folder / part, (folder / part).stat().st_size - 100)


def told(**entries):
    def damage(folder: Path) -> None:
        (folder / INFO).write_text(json.dumps(json.loads((folder / INFO).read_text()) | entries))

    return damage


def interleaved(table):
    return table.take(np.arange(table.num_rows).reshape(-1, 2).T.reshape(-1))


NAN, WIDE = [float("nan")] * 4, [2.0] * 4
DAMAGED = {
    "no info": (lambda folder: (folder / INFO).unlink(), "is no LeRobot dataset"),
    "half an info": (lambda folder: os.truncate(folder / INFO, 40), "is no LeRobot dataset"),
    "an info of something else": (lambda folder: (folder / INFO).write_text("[]"), "is no LeRobot dataset"),
    "version 2": (told(codebase_version="v2.1"), "version v2.1, not 3"),
    "frames without a footer": (cut(FRAMES), "never closed"),
    "episodes without a footer": (cut(ENDS), "never closed"),
    "no frames": (lambda folder: (folder / FRAMES).unlink(), "(never closed|no rows)"),
    "empty frames": (change(FRAMES, lambda table: table.slice(0, 0)), "no rows in data"),
    "fewer episodes": (change(ENDS, lambda table: table.slice(1)), "not the same episodes"),
    "mixed frames": (change(FRAMES, interleaved), "not the same episodes, each in one piece"),
    "no rewards": (without("next.reward"), "no column 'next.reward'"),
    "no terminated": (without("terminated"), "no column 'terminated'"),
    "no action": (without("action"), "no column 'action'"),
    "a missing number": (put("next.reward", first(None)), "1 of all missing"),
    "NaN actions": (put("action", first(NAN)), "has an action of nan"),
    "actions outside": (put("action", first(WIDE)), "has an action of 2"),
    "ragged actions": (put("action", lambda rows: [rows[0][:3], [*rows[1], 0.0], *rows[2:]]), "shape .4,. are due"),
    "three actions": (put("action", lambda rows: [row[:3] for row in rows]), "3 values of .* a row"),
    "words": (put("next.reward", lambda rows: ["much"] * len(rows)), "values of string"),
    "an end in the middle": (put("terminated", first(True)), "episode 0 is terminated before its end"),
    "an unknown option": (put("option", first(9)), "has an option of 9"),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_folders_are_refused_with_what_to_do(damage, said, tmp_path):
    folder = write(tmp_path / "set")
    damage(folder)
    with pytest.raises(UserError, match=said) as caught:
        load_lerobot(folder, get_task(FETCH))
    assert caught.value.next_step


def test_another_tasks_folder_is_refused(tmp_path):
    folder = write(tmp_path / "set", "PointPush")
    for name in (FETCH, "PointReach", "RescueWorld-n3"):
        with pytest.raises(UserError, match=r"has 'observation\.state' of"):
            load_lerobot(folder, get_task(name))


def test_folders_of_others_are_read(tmp_path):
    """In several files, with episodes in any order and nothing of ours but the two ends; the first one last."""
    folder, ours = write(tmp_path / "set"), RECORDED[FETCH]
    frames, ends = pq.read_table(folder / FRAMES), pq.read_table(folder / ENDS)
    kept = [name for name in frames.column_names if name not in ("option", "faults", "optimal", "next.success")]
    stop = ends["dataset_to_index"].to_pylist()[0]
    pq.write_table(frames.select(kept).slice(stop), folder / FRAMES)
    pq.write_table(frames.select(kept).slice(0, stop), folder / "data/chunk-000/file-001.parquet")
    own = [name for name in ends.column_names if name.startswith("final/") or name == "level_seed"]
    pq.write_table(ends.drop_columns(own), folder / ENDS)
    (folder / OURS).unlink()
    read = load_lerobot(folder, get_task(FETCH))
    assert read.extra == {}
    assert (read.option == -1).all()
    assert (read.level_seed == -1).all()
    back = np.array([4, 0, 1, 2, 3])
    assert np.array_equal(read.action[back], ours.action)
    assert np.array_equal(read.obs[back][ours.acted], ours.obs[ours.acted])
    last = read.lengths - 1
    rows = np.arange(5)
    assert np.array_equal(read.obs[rows, last], read.obs[rows, last - 1]), "what was seen last stands for what was not"


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path, "bc", FETCH, "r", {"task": FETCH, "method": "bc"}, resume=False)


def test_folders_and_datasets_are_parts_of_demos(run, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    task = get_task(FETCH)
    with new_dataset("some/mixed-v0", task) as save:
        save(RECORDED[FETCH])
    learned, held_out = demonstrations_of(f"{write(tmp_path / 'set')}+some/mixed-v0+2", task, 0, run)
    assert (len(learned), len(held_out)) == (4 + 4 + 2, 1 + 1 + 1)
    assert learned.extra["optimal"][:, 0].tolist() == [False] * 3 + [True] + [False] * 3 + [True] * 3
    learned.fits(task)


def test_a_folder_may_have_a_plus_sign(run, tmp_path):
    write(tmp_path / "a+b")
    assert len(demonstrations_of(str(tmp_path / "a+b"), get_task(FETCH), 0, run)[0]) == 4


def test_data_of_different_normalisation_are_not_joined(run, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    task = get_task(FETCH)
    with monkeypatch.context() as other:
        other.setattr(task, "observation_scale", tuple(2 * size for size in task.observation_scale))
        old = write(tmp_path / "old")
        with new_dataset("some/old-v0", task) as save:
            save(RECORDED[FETCH])
    new = write(tmp_path / "new")
    for words in (f"{old}+{new}", f"some/old-v0+{new}", f"{old}+2"):
        with pytest.raises(UserError, match="normalised in different ways") as caught:
            demonstrations_of(words, task, 0, run)
        assert caught.value.next_step
    (old / OURS).unlink()
    assert len(demonstrations_of(f"{old}+{new}", task, 0, run)[0]) == 8, "where nothing is said, nothing is refused"


def test_demos_leaves_a_folder_and_training_reads_it(tmp_path, capsys):
    words = ["demos", "--task", "PointReach", "--format", "lerobot", "--to", str(tmp_path / "set"), "--count", "4"]
    assert cli.main(words) == 0
    train = ["train", "--method", "bc", "--task", "PointReach", "--demos", str(tmp_path / "set"), "--steps", "20"]
    assert cli.main([*train, "--eval-episodes", "2", "--logdir", str(tmp_path / "log"), "--quiet"]) == 0
    capsys.readouterr()
    assert cli.main(words) != 0
    assert "there already" in capsys.readouterr().err
    for place in (str(tmp_path / "none"), "./none", "~/none/of/these"):
        assert cli.main([*train[:6], place, "--logdir", str(tmp_path / "log"), "--savedir", "other"]) != 0
        assert "no LeRobot dataset" in capsys.readouterr().err
