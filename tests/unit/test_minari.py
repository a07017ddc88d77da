"""Minari datasets that others made, or that were damaged: read as they are, or refused with episode and field."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.serialization import serialize_space
from minari.storage import get_dataset_path

import main as cli
from preceptor.agent.data.minari import load_minari, new_dataset, recording_command
from preceptor.agent.demonstrating import record
from preceptor.envs.catalog import get_task
from preceptor.ground.errors import UserError

ROOT = Path(__file__).parents[2]
ID = "preceptor/some/expert-v0"
RESCUE, POINT = "RescueWorld-n3", "PointReach"
SEEN = spaces.Box(0, 1, get_task(RESCUE).observation_shape)
RECORDED = {name: record(get_task(name), 3, seed=0) for name in (RESCUE, POINT)}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


def write(name: str, dataset_id: str = ID) -> Path:
    with new_dataset(dataset_id, get_task(name)) as save:
        save(RECORDED[name])
    return get_dataset_path(dataset_id) / "data"


def put(field, values):
    """Replace a field of episode 1 by a function of what it was."""

    def damage(data: Path) -> None:
        with h5py.File(data / "main_data.hdf5", "a") as file:
            episode = file["episode_1"]
            made = values(episode[field][()])
            del episode[field]
            episode[field] = made

    return damage


def put_at(field, at, value):
    """Replace one number of a field of episode 1."""

    def changed(found):
        kept = np.result_type(found.dtype, np.min_scalar_type(value))
        found = found.astype(kept)
        found[at] = value
        return found

    return put(field, changed)


def told(**entries):
    """Replace entries of the metadata; None takes one out."""

    def damage(data: Path) -> None:
        metadata = json.loads((data / "metadata.json").read_text()) | entries
        kept = {key: value for key, value in metadata.items() if value is not None}
        (data / "metadata.json").write_text(json.dumps(kept))

    return damage


def acts(space):
    return told(action_space=serialize_space(space))


def with_goals(data: Path) -> None:
    """Observations as D4RL's mazes have them."""
    told(observation_space=serialize_space(spaces.Dict(observation=SEEN, desired_goal=SEEN)))(data)
    with h5py.File(data / "main_data.hdf5", "a") as file:
        for episode in file.values():
            seen = episode["observations"][()]
            del episode["observations"]
            for name in ("observation", "desired_goal"):
                episode[f"observations/{name}"] = seen


def bare(data: Path) -> None:
    """Nothing was done in episode 1."""
    for field in ("actions", "rewards", "terminations", "truncations"):
        put(field, lambda found: found[:0])(data)
    for field in ("observations", "infos/true_option", "infos/level_seed", "infos/success"):
        put(field, lambda found: found[:1])(data)


def cut(file: str, size: int):
    return lambda data: os.truncate(data / file, size)


def without(field):
    def damage(data: Path) -> None:
        with h5py.File(data / "main_data.hdf5", "a") as file:
            del file[field]

    return damage


IN_ONE = "episode 1 has "
DAMAGES = [
    (
        "as many observations as actions",
        put("observations", lambda found: found[:-1]),
        IN_ONE + "observations of shape",
    ),
    ("one observation too many", put("observations", lambda found: found[[0, *range(len(found))]]), IN_ONE + "observ"),
    ("another width", put("observations", lambda found: found[:, 1:]), IN_ONE + "observations of shape"),
    ("texts", put("observations", lambda found: ["a"] * len(found)), IN_ONE + "observations of shape"),
    ("NaN", put_at("observations", (0, 0), np.nan), IN_ONE + "observations of nan"),
    ("inf", put_at("observations", (0, 0), -np.inf), IN_ONE + "observations of -inf"),
    ("beyond float32", put("observations", lambda found: found * np.float64(1e300)), IN_ONE + "observations of"),
    ("complex numbers", put("observations", lambda found: found + 1j), IN_ONE + "observations of shape"),
    ("no observations", without("episode_1/observations"), "cannot be read"),
    ("no rewards", without("episode_1/rewards"), "cannot be read"),
    ("no terminations", without("episode_1/terminations"), "cannot be read"),
    ("success of some", without("episode_1/infos/success"), "some episodes have infos' success"),
    ("half a success", put_at("infos/success", 0, 0.5), IN_ONE + "infos' success of 0.5"),
    ("fewer rewards", put("rewards", lambda found: found[:-1]), IN_ONE + "rewards of shape"),
    ("NaN reward", put_at("rewards", 0, np.nan), IN_ONE + "rewards of nan"),
    ("rewards in columns", put("rewards", lambda found: found[:, None]), IN_ONE + "rewards of shape"),
    ("text rewards", put("rewards", lambda found: ["1"] * len(found)), IN_ONE + "rewards of shape"),
    ("action -2", put_at("actions", 0, -2), "Demonstration 1 has an action of -2"),
    ("action beyond the last", put_at("actions", 0, 99), "Demonstration 1 has an action of 99"),
    ("half an action", put_at("actions", 0, 0.5), IN_ONE + "actions of 0.5"),
    ("NaN action", put_at("actions", 0, np.nan), IN_ONE + "actions of nan"),
    ("actions that wrap", put("actions", lambda found: found.astype(np.uint64) + 2**63), IN_ONE + "actions of 92233"),
    ("vectors for actions", put("actions", lambda found: found[:, None]), IN_ONE + "actions of shape"),
    ("fewer terminations", put("terminations", lambda found: found[1:]), IN_ONE + "terminations of shape"),
    ("an end in the middle", put_at("terminations", 3, True), "episode 1 is terminated at step 4 of"),
    ("a cut in the middle", put_at("truncations", 0, True), "episode 1 is truncated at step 1 of"),
    ("two for true", put("terminations", lambda found: found.astype(int) * 2), IN_ONE + "terminations of 2"),
    ("option 3", put_at("infos/true_option", 0, 3), "Demonstration 1 has an option of 3"),
    ("option -2", put_at("infos/true_option", 0, -2), "Demonstration 1 has an option of -2"),
    ("half an option", put_at("infos/true_option", 0, 0.5), IN_ONE + "infos' true_option of 0.5"),
    ("fewer options", put("infos/true_option", lambda found: found[1:]), IN_ONE + "infos' true_option of shape"),
    ("held-out level", put("infos/level_seed", lambda found: found * 0 + 10**6), "has a level seed of 1000000"),
    ("negative level", put("infos/level_seed", lambda found: found * 0 - 7), "has a level seed of -7"),
    ("two levels", put_at("infos/level_seed", 0, 5), "episode 1 is of several level seeds"),
    ("nothing done", bare, "episode 1 has no action"),
    ("a start of -2", acts(spaces.Discrete(4, start=-2)), "its actions are of Discrete"),
    ("a start of 1", acts(spaces.Discrete(4, start=1)), "its actions are of Discrete"),
    ("more actions", acts(spaces.Discrete(9)), "its actions are of Discrete"),
    ("other actions", acts(spaces.MultiDiscrete([4, 4])), "its actions are of MultiDiscrete"),
    (
        "dictionaries",
        told(observation_space=serialize_space(spaces.Dict(a=SEEN))),
        "cannot be read",
    ),
    ("goals, too", with_goals, f"episode 0 has observations of desired_goal, observation; {RESCUE} shows arrays"),
    ("no space", told(observation_space=None, env_spec='{"entry_point": "os:abort"}'), "of which spaces it is"),
    ("no id", told(dataset_id=None), "dataset_id"),
    ("a later Minari", told(minari_version="99.0.0"), "does not support"),
    ("an unknown format", told(data_format="stone"), "cannot be read"),
    ("no episodes", told(total_episodes=0), "has no episodes"),
    ("more episodes than there are", told(total_episodes=9), "cannot be read"),
    ("fewer texts than it began with", cut("metadata.json", 40), "cannot be read"),
    ("empty metadata", cut("metadata.json", 0), "cannot be read"),
    ("a list for metadata", lambda data: (data / "metadata.json").write_text("[1]"), "of which spaces it is"),
    ("half the data", cut("main_data.hdf5", 2000), "cannot be read"),
    ("no data", cut("main_data.hdf5", 0), "cannot be read"),
    ("no file", lambda data: (data / "main_data.hdf5").unlink(), "cannot be read"),
    ("no metadata", lambda data: (data / "metadata.json").unlink(), "cannot be read"),
]


@pytest.mark.parametrize(("damage", "said"), [row[1:] for row in DAMAGES], ids=[row[0] for row in DAMAGES])
def test_what_is_no_dataset_of_the_task_is_refused(damage, said):
    damage(write(RESCUE))
    with pytest.raises(UserError, match=said):
        load_minari(ID, get_task(RESCUE))


def test_vectors_are_within_bounds_and_of_the_same_units():
    task = get_task(POINT)
    data = write(POINT)
    put_at("actions", (0, 0), 1.5)(data)
    with pytest.raises(UserError, match=r"has an action of 1.5; PointReach has -1 to 1"):
        load_minari(ID, task)
    put_at("actions", (0, 0), 1.0)(data)
    assert len(load_minari(ID, task)) == 3
    acts(spaces.Box(-np.inf, np.inf, (2,)))(data)
    assert len(load_minari(ID, task)) == 3
    acts(spaces.Box(-2, 2, (2,)))(data)
    with pytest.raises(UserError, match="those of PointReach are in"):
        load_minari(ID, task)


def test_a_dataset_names_what_makes_its_environment():
    write(RESCUE)
    dataset, task = minari.load_dataset(ID), get_task(RESCUE)
    for split in (0, 1):
        env = dataset.recover_environment(eval_env=bool(split))
        assert env.observation_space == dataset.observation_space
        assert env.action_space == dataset.action_space
        obs, info = env.reset(seed=0)
        assert info["level_seed"] // 1_000_000 == split
        assert obs.dtype == np.float32
    seed, actions = int(RECORDED[RESCUE].level_seed[0]), dataset[0].actions
    env = dataset.recover_environment()
    seen = [env.reset(options={"level_seed": seed})[0], *(env.step(action)[0] for action in actions)]
    np.testing.assert_array_equal(np.stack(seen), dataset[0].observations)
    assert task.source in str(dataset.env_spec)


NO_IDS = [
    "",
    "x",
    "x-v",
    "-v0",
    "x-v0/",
    "/x-v0",
    "../x-v0",
    "a b-v0",
    "x\n-v0",
    "é" * 300 + "-v0",
    "aa//x-v0",
    "\0-v0",
]
NO_IDS += ["\x1b[31m-v0", "x-v" + "9" * 5000, "data/x-v0", "space/data/x-v0", f"{ID}/inner-v0"]


@pytest.mark.parametrize("wrong", NO_IDS)
def test_an_id_under_which_minari_finds_nothing_is_refused_before_anything_is_done(wrong, root, capsys):
    write(RESCUE)
    before = sorted(root.rglob("*"))
    for verb in (["demos", "--to", wrong, "--count", "1000000"], ["train", "--method", "bc", "--demos", wrong or "-"]):
        assert cli.main([*verb, "--task", RESCUE]) == 2
        assert "Traceback" not in (said := capsys.readouterr().err)
        assert "next: " in said
    assert sorted(root.rglob("*")) == before
    assert list(minari.list_local_datasets()) == [ID]


def test_an_id_that_is_taken_is_refused_before_anything_is_recorded():
    write(RESCUE)
    with pytest.raises(UserError, match="already; nothing was recorded") as caught, new_dataset(ID, get_task(RESCUE)):
        pass
    assert caught.value.next_step.endswith("--to preceptor/some/expert-v1")
    other = "preceptor/some/other-v0"
    with new_dataset(other, get_task(RESCUE)), pytest.raises(UserError, match="other-v0 is in use: another"):  # noqa: SIM117
        with new_dataset(other, get_task(RESCUE)):
            pass
    assert recording_command(get_task(RESCUE)).endswith("--to preceptor/rescueworld-n3/expert-v0")


def test_folders_that_a_killed_writer_of_others_left_break_no_look_up(root):
    write(RESCUE)
    for left in ("preceptor/half/data", "whole/data", "empty/of-v0", ".hidden/of-v0/data"):
        (root / left).mkdir(parents=True)
    (root / ".hidden/of-v0/data/metadata.json").touch()
    with pytest.raises(UserError, match=f"no Minari dataset .*there are: {ID}\\."):
        load_minari("preceptor/none-v0", get_task(RESCUE))
    assert len(load_minari(ID, get_task(RESCUE))) == 3
    for dataset_id in ("of/new-v0", "of-no-space-v0"):
        write(RESCUE, dataset_id)
        assert len(load_minari(dataset_id, get_task(RESCUE))) == 3


KILLED = f"""
import os, signal, sys, time
import numpy as np
from preceptor.agent.data import minari as ours
from preceptor.agent.demonstrating import record
from preceptor.envs.catalog import get_task

task = get_task("{RESCUE}")
recording = record(task, 30, seed=0)
rng, whole = np.random.default_rng(0), 0
with ours.new_dataset("warm/up-v0", task) as save:
    save(recording)
start = time.perf_counter()
with ours.new_dataset("warm/up-v1", task) as save:
    save(recording)
longest = 1.2 * (time.perf_counter() - start)
for trial in range(15):
    dataset_id = f"killed/space{{whole}}/of-v0"
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process at once, as kill -9 does
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(0, longest) + 1e-6 if trial else 60)
        with ours.new_dataset(dataset_id, task) as save:
            save(recording)
        os._exit(0)
    rng.uniform()
    ended = os.WIFEXITED(os.waitpid(child, 0)[1])
    there = sorted(ours.minari.list_local_datasets(prefix="killed" if os.path.exists(sys.argv[1]) else None))
    if dataset_id in there:
        back = ours.load_minari(dataset_id, task)
        for due, found in ((vars(recording), vars(back)), (recording.extra, back.extra)):
            assert all(np.array_equal(column, found[name]) for name, column in due.items() if name != "extra")
        whole += 1
    assert dataset_id in there or not ended
    assert len([name for name in there if name.startswith("killed/")]) == whole
print(whole)
"""


def test_a_dataset_is_whole_or_not_there_whenever_its_writer_is_killed(root):
    words = [sys.executable, "-W", "error::UserWarning", "-c", KILLED, str(root / "killed")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert 1 <= int(done.stdout) < 15
