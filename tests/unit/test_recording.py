"""Demonstrations: whole episodes with the option that truly drove each step, on disk, in Minari, and as segments."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor.agent.data.minari import load_minari, new_dataset
from preceptor.agent.data.recording import Recording, first_episodes, joined, segments
from preceptor.agent.data.store import TrajectoryStore
from preceptor.agent.demonstrating import record
from preceptor.agent.runs.checkpoint import save_tree
from preceptor.envs.catalog import get_task
from preceptor.envs.rescue.tasks import RescueTask
from preceptor.ground.atomic import CheckpointError
from preceptor.ground.errors import UserError
from tests.scripted import scripted

SMALL = ("RescueWorld-n3", "SimpleDoorKey", "PointPush")


def recorded(name: str, count: int = 6) -> Recording:
    return record(get_task(name), count, seed=3)


def columns_of(recording: Recording) -> dict[str, np.ndarray]:
    own = {name: column for name, column in vars(recording).items() if name != "extra"}
    return own | {f"extra/{name}": column for name, column in recording.extra.items()}


def assert_equal(found: Recording, due: Recording) -> None:
    """To the bit, in all columns, with the same ones beside the usual."""
    assert columns_of(found).keys() == columns_of(due).keys()
    for name, column in columns_of(due).items():
        assert columns_of(found)[name].dtype == column.dtype, name
        assert np.array_equal(columns_of(found)[name], column), name


@pytest.mark.parametrize("name", ["RescueWorld-n3", "RescueWorld-n6-random"])
def test_the_true_option_is_the_target_that_is_found_next(name: str):
    task = get_task(name)
    assert isinstance(task, RescueTask)
    recording = recorded(name)
    for n, steps in enumerate(recording.lengths):
        left = task.left(recording.obs[n, :steps])
        when, found = np.nonzero(left[:-1] & ~left[1:])
        here = segments(recording.option[n : n + 1], recording.inside[n : n + 1])
        assert here.option.tolist() == found.tolist()
        assert (here.stop[:-1] - 1).tolist() == when[:-1].tolist(), "an option ends with the step that finds its target"
        assert recording.terminated[n]
        assert not left[-1].any(), "the last observation is that of the episode itself"


@pytest.mark.parametrize("name", ["SimpleDoorKey", "PointPush"])
def test_where_the_environment_tells_nothing_the_script_does(name: str):
    task, recording = get_task(name), recorded(name)
    assert (recording.option[:, 0] == scripted(task, recording.obs[:, 0])).all()  # type: ignore[attr-defined]
    legal, option = task.legal(recording.obs[recording.acted]), recording.option[recording.acted]
    assert legal[np.arange(len(option)), option].mean() > 0.9


@pytest.mark.parametrize("name", SMALL)
def test_padding_is_empty_and_the_seed_decides(name: str):
    recording, again, other = (record(get_task(name), 6, seed) for seed in (3, 3, 2))
    recording.fits(get_task(name))
    assert (recording.inside.sum(1) == recording.lengths).all()
    assert (recording.acted.sum(1) == recording.lengths - 1).all()
    assert not recording.obs[~recording.inside].any()
    assert not recording.reward[~recording.acted].any()
    assert (recording.option[~recording.inside] == -1).all()
    assert (recording.option[recording.inside] >= 0).all()
    assert np.array_equal(recording.obs, again.obs)
    assert np.array_equal(recording.action, again.action)
    assert recording.obs.shape != other.obs.shape or not np.array_equal(recording.obs, other.obs)


def test_an_episode_that_has_not_ended_is_no_demonstration():
    task = get_task("RescueWorld-n3")
    store = TrajectoryStore(task, 4, 2)
    row = {"obs": np.zeros((2, *task.observation_shape), np.float32)}
    store.append(ended=np.zeros(2, bool), final_obs=None, **row)
    with pytest.raises(ValueError, match="not ended"):
        first_episodes(store)


@pytest.mark.parametrize("name", SMALL)
def test_disk_and_minari_give_back_what_they_took(name: str, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    task = get_task(name)
    recording = recorded(name, 4)
    recording.save(tmp_path / "demos")
    with new_dataset("preceptor/some/expert-v0", task) as save:
        save(recording)
    for back in (Recording.load(tmp_path / "demos")[0], load_minari("preceptor/some/expert-v0", task)):
        assert_equal(back, recording)


def test_a_recording_without_extra_columns_as_earlier_versions_wrote_it_is_read(tmp_path):
    recording = recorded("PointPush", 3)
    old = {name: column for name, column in vars(recording).items() if name != "extra"}
    save_tree(tmp_path / "old", old, {"kind": "demonstrations"})
    assert_equal(Recording.load(tmp_path / "old")[0], replace(recording, extra={}))


def test_episodes_carry_their_extra_columns_and_are_joined_with_them(monkeypatch):
    task = get_task("PointPush")
    short, long = recorded("PointPush", 2), record(task, 3, seed=4)
    marked = replace(long, extra={"optimal": long.inside})
    both = joined([short, marked])
    both.fits(task)
    assert len(both) == 5
    assert_equal(joined([short]), short)
    assert (both.extra["optimal"][2:] == both.inside[2:]).all()
    assert not both.extra["optimal"][:2].any(), "what one part does not say is zero there"
    assert (both.option[~both.inside] == -1).all()
    np.testing.assert_array_equal(both[np.array([1, 4])].extra["success"][0], both.extra["success"][1])
    for name, column in columns_of(short).items():
        kept = columns_of(both)[name][:2]
        assert np.array_equal(kept[:, : column.shape[1]] if column.ndim > 1 else kept, column), name
    for wrong in ({"faults": short.option}, {"mood": short.option}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            replace(short, extra=wrong).fits(task)


def test_columns_that_a_tasks_environments_declare_are_recorded(monkeypatch):
    task = get_task("PointReach")
    monkeypatch.setattr(task, "extra_columns", {"level_seed_seen": ((), np.int64)}, raising=False)
    plain = task.simulator

    def telling(*args, **named):
        simulator = plain(*args, **named)
        simulator.info = lambda: {"level_seed_seen": simulator.level_seed + 1}
        return simulator

    monkeypatch.setattr(task, "simulator", telling)
    recording = record(task, 3, seed=0)
    seen = recording.extra["level_seed_seen"]
    steps = recording.lengths[:, None] - 2  # the last step's infos are of the next episode already
    before = np.arange(seen.shape[1]) < steps
    assert (seen[before] == np.broadcast_to(recording.level_seed[:, None] + 1, seen.shape)[before]).all()
    assert not seen[~recording.acted].any()


def test_what_is_no_demonstration_of_a_task_is_refused():
    recording, maze = recorded("RescueWorld-n3"), recorded("PointPush", 2)
    idle = replace(recording, lengths=np.where(np.arange(6) == 2, 1, recording.lengths))
    unknown = replace(recording, option=np.where(recording.acted, 7, -1))
    cases = [(idle, "RescueWorld-n3", "Demonstration 2 has no action"), (unknown, "RescueWorld-n3", "option of 7")]
    cases += [(recording, "RescueWorld-n2", "not those of RescueWorld-n2")]
    spoilt = (
        ("obs", (1, 0, 0), np.nan),
        ("action", (1, 2, 0), 1.5),
        ("reward", (1, 3), np.inf),
        ("option", (1, 0), -2),
    )
    for column, at, value in (*spoilt, ("level_seed", 1, 1_000_000), ("level_seed", 1, -2)):
        changed = getattr(maze, column).copy()
        changed[at] = value
        cases.append((replace(maze, **{column: changed}), "PointPush", f"Demonstration 1 has .* of {value}; PointPush"))
    for number in (-1, recording.action.max() + 5):
        changed = np.where(recording.acted, recording.action, 0)
        changed[2, 0] = number
        cases.append((replace(recording, action=changed), "RescueWorld-n3", f"2 has an action of {number}"))
    for wrong, task, said in cases:
        with pytest.raises(UserError, match=said):
            wrong.fits(get_task(task))


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    save_tree(tmp_path / "other", {"a": 1}, {})
    with pytest.raises(CheckpointError, match="does not hold demonstrations"):
        Recording.load(tmp_path / "other")


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=4))
def test_segments_tile_every_episode(options: list[list[int]]):
    longest = max(map(len, options)) + 1
    padded = np.array([row + [-1] * (longest - len(row)) for row in options])
    found = segments(padded, padded >= 0)
    for n, row in enumerate(options):
        told = [(a, b, k) for m, a, b, k in zip(*found, strict=True) if m == n]
        assert [k for a, b, k in told for _ in range(b - a)] == row
        assert all(this[2] != following[2] and this[1] == following[0] for this, following in itertools.pairwise(told))
