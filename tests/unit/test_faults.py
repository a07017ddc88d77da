"""Faults of action groups in recorded data: what they do, when, and that the data tell the truth about them."""

from types import SimpleNamespace

import numpy as np
import pytest

import main as cli
from preceptor.agent.clock import Clock
from preceptor.agent.data.faults import KINDS, Faults, FaultyLow
from preceptor.agent.data.minari import load_minari, new_dataset
from preceptor.agent.demonstrating import demonstrations_of, record
from preceptor.agent.distributions import ClippedNormal
from preceptor.agent.runs.run import Run
from preceptor.envs.action_groups import action_groups_of
from preceptor.envs.catalog import get_task
from preceptor.ground.errors import UserError
from tests.unit.test_recording import assert_equal

FETCH = get_task("FetchPickAndPlace")
ENVS, STEPS = 200, 24


class Ramp:
    """Does .01 (t + 1) times the sign of the dimension at step t: all its actions differ."""

    def __init__(self):
        self.t = 0

    def act(self, observed, clock):
        self.t += 1
        mean = np.full((ENVS, 4), 0.01 * self.t, np.float32) * np.array([1, -1, 1, -1], np.float32)
        return ClippedNormal(mean, 0.1)


def played(faults: Faults, seed: int = 0, ended_at: int | None = None):
    """Actions [T, N, A], what the ramp did [T, N, A] and the truth [T, N, G]; all episodes end after a step."""
    low = FaultyLow(Ramp(), FETCH, faults, ENVS, np.random.default_rng(seed))
    clock = Clock(ENVS, np.full(1, 3), SimpleNamespace(size=0, advance=lambda command, obs, next_obs: command))
    actions, truth, none = [], [], np.zeros(ENVS)
    for t in range(STEPS):
        clock.start(clock.due(np.zeros(ENVS, np.bool_)), np.zeros(ENVS, np.int64))
        choice = low.act(None, clock)
        assert choice.std == 0.1, "noise comes on top"
        actions.append(choice.mean)
        truth.append(low.faulty)
        clock.advance(np.full(ENVS, t == ended_at), none, none)
    clean = np.stack([Ramp.act(SimpleNamespace(t=t), None, None).mean for t in range(STEPS)])
    return np.stack(actions), clean, np.stack(truth)


def test_groups_are_faulty_by_segments_each_on_its_own():
    actions, clean, truth = played(Faults())
    by_segment = truth.reshape(3, 8, ENVS, 2)
    assert (by_segment == by_segment[:, :1]).all()
    first = by_segment[:, 0].reshape(-1, 2)
    np.testing.assert_allclose(first.mean(0), 0.4, atol=0.07)
    np.testing.assert_allclose((first[:, 0] & first[:, 1]).mean(), 0.16, atol=0.06)
    assert (by_segment[0, 0] != by_segment[1, 0]).any()
    wide = np.repeat(truth, [3, 1], axis=2)  # arm, gripper
    assert np.array_equal(actions[~wide], clean[~wide]), "what is not faulty is the expert's own"
    assert (actions != clean)[wide].all()


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_does_what_its_name_says(kind):
    actions, clean, truth = played(Faults(1.0, (kind,)))
    assert truth.all()
    lagging = np.concatenate([np.zeros_like(clean[:3]), clean[:-3]])
    due = {"reversed": -clean, "frozen": 0 * clean, "delayed": lagging}.get(kind)
    if due is not None:
        np.testing.assert_array_equal(actions, due)
        return
    bias = actions - clean
    up, down = np.isclose(actions, np.clip(clean + 0.8, -1, 1)), np.isclose(actions, np.clip(clean - 0.8, -1, 1))
    assert (up | down).all()
    assert 0.4 < up[0].mean() < 0.6
    assert (np.sign(bias[:8]) == np.sign(bias[0])).all(), "one bias a segment"


def test_segments_and_delays_begin_with_the_episode():
    actions, _, truth = played(Faults(0.5, ("delayed",)), ended_at=12)
    segment = truth[13:21]
    assert (segment == segment[0]).all()
    assert (truth[12] != truth[13]).any()
    wide = np.repeat(truth[13:16], [3, 1], axis=2)
    assert not actions[13:16][wide].any(), "nothing of the episode before comes back"


def test_the_seed_decides():
    one, same, other = (played(Faults(), seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_recordings_tell_which_groups_were_faulty():
    recording, again = (record(FETCH, 12, 5, 0.0, Faults()) for _ in range(2))
    assert_equal(again, recording)
    recording.fits(FETCH)
    faults = recording.extra["faults"]
    assert faults.shape == (*recording.option.shape, 2)
    assert not faults[~recording.acted].any()
    assert 0.25 < faults[recording.acted].mean() < 0.55
    whole = (recording.lengths.min() - 1) // 8 * 8
    assert (faults[:, :whole].reshape(12, -1, 8, 2) == faults[:, :whole:8][:, :, None]).all()
    clean = FETCH.skill(recording.obs[recording.acted], recording.option[recording.acted])
    own = ~np.repeat(faults[recording.acted], [3, 1], axis=1)
    np.testing.assert_array_equal(recording.action[recording.acted][own], clean.astype(np.float32)[own])


def test_success_is_recorded():
    for task in (FETCH, get_task("RescueWorld-n2")):
        recording = record(task, 6, 0)
        success = recording.extra["success"]
        assert success.any(1).mean() > 0.8
        assert not success[recording.acted].any(), "it stands at the last observation"


@pytest.mark.parametrize(
    ("name", "said"), [("RescueWorld-n2", "has named actions"), ("PointReach", "declares no action_groups")]
)
def test_where_there_are_no_groups_nothing_is_faulty(name, said):
    with pytest.raises(UserError, match=said):
        record(get_task(name), 2, 0, faults=Faults())


def test_unknown_kinds_are_named():
    for kinds in (("frozne",), ()):
        with pytest.raises(UserError, match="kind of fault") as caught:
            Faults(kinds=kinds)
        assert "--fault-kinds" in str(caught.value.next_step)


GROUPS = {"an ant's legs": ("AntMaze", 4), "a hand": ("FetchPickAndPlace", 2), "a point": ("PointReach", 1)}


@pytest.mark.parametrize(("name", "count"), GROUPS.values(), ids=GROUPS)
def test_groups_cover_every_dimension_once(name, count):
    groups = action_groups_of(get_task(name))
    assert len(groups) == count
    positions = [position for group in groups.values() for position in group]
    assert sorted(positions) == list(range(get_task(name).num_actions))


@pytest.mark.parametrize("name", ["AntMaze", "Ant-v5"])
def test_the_legs_of_ants_are_those_of_the_model(name):
    task = get_task(name)
    simulator = task.simulator(1)
    model = simulator.model if name == "AntMaze" else simulator.envs[0].unwrapped.model
    joints = [model.joint(model.actuator(n).trnid[0]).name for n in range(8)]
    for leg, (hip, ankle) in action_groups_of(task).items():
        number = leg.removeprefix("leg_")
        assert (joints[hip], joints[ankle]) == (f"hip_{number}", f"ankle_{number}")
    simulator.close()


WRONG = {
    "overlap": ({"a": (0, 1), "b": (1, 2, 3)}, r"\[1\] are in several"),
    "missing": ({"a": (0, 1), "b": (3,)}, r"\[2\] are in none"),
    "beyond": ({"a": (0, 1, 2, 3), "b": (4, 5)}, r"\[4, 5\] are no dimensions of its 4"),
    "negative": ({"a": (0, 1, 2), "b": (-1,)}, r"\[-1\] are no dimensions"),
    "empty": ({"a": (0, 1, 2, 3), "b": ()}, "one is empty"),
}


@pytest.mark.parametrize(("groups", "said"), WRONG.values(), ids=WRONG)
def test_groups_that_are_not_a_partition_are_refused(groups, said, monkeypatch):
    monkeypatch.setattr(FETCH, "action_groups", groups)
    with pytest.raises(UserError, match=said) as caught:
        action_groups_of(FETCH)
    assert "0 to 3" in str(caught.value.next_step)


def test_named_actions_have_no_groups(monkeypatch):
    task = get_task("RescueWorld-n2")
    assert action_groups_of(task) == {"all": tuple(range(task.num_actions))}
    monkeypatch.setattr(task, "action_groups", {"a": (0,)})
    with pytest.raises(UserError, match="named"):
        action_groups_of(task)


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path, "bc", FETCH.name, "r", {"task": FETCH.name, "method": "bc"}, resume=False)


def test_mixed_and_optimal_episodes_are_joined_and_kept(run):
    learned, held_out = demonstrations_of("mixed:6+2", FETCH, 0, run)
    assert (len(learned), len(held_out)) == (8, 3)
    assert learned.extra["optimal"][:, 0].tolist() == [False] * 6 + [True] * 2
    assert held_out.extra["optimal"][:, 0].tolist() == [False] * 2 + [True]
    faulty = learned.extra["faults"].any((1, 2))
    assert faulty[:6].all()
    assert not faulty[6:].any()
    assert not set(learned.level_seed[:6]) & set(learned.level_seed[6:]), "they are of different levels"
    for part, again in zip((learned, held_out), demonstrations_of("mixed:6+2", FETCH, 0, run), strict=True):
        assert_equal(again, part)


@pytest.mark.parametrize("words", ["mixed:", "mixed:0", "mixed:six", "4+0", "0", "+4", "mixed:4+", "4+nobody"])
def test_parts_that_mean_nothing_are_refused(words, run):
    with pytest.raises(UserError) as caught:
        demonstrations_of(words, FETCH, 0, run)
    assert caught.value.next_step


def test_minari_keeps_faults_and_optimal_to_the_bit(run, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    recording, _ = demonstrations_of("mixed:4+2", FETCH, 0, run)
    with new_dataset("fetch/mixed-v0", FETCH) as save:
        save(recording)
    assert_equal(load_minari("fetch/mixed-v0", FETCH), recording)
    monkeypatch.setattr(FETCH, "action_groups", {"all": (0, 1, 2, 3)})
    with pytest.raises(UserError, match="infos' faults of shape"):
        load_minari("fetch/mixed-v0", FETCH)


def test_demos_of_mixed_quality(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    words = ["demos", "--task", FETCH.name, "--to", "fetch/mixed-v0", "--count", "6", "--quality", "mixed"]
    assert cli.main([*words, "--fault-kinds", "frozen", "--segment", "5", "--optimal", "2"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in ("success", "faulty/arm", "faulty/gripper"))
    read = load_minari("fetch/mixed-v0", FETCH)
    assert read.extra["optimal"][:, 0].tolist() == [True] * 2 + [False] * 6, "the last ones are held out"
    arm = read.extra["faults"][:, :, 0]
    moved = np.abs(read.action[:, :, :3]).max(-1)
    assert moved[arm].max() < 0.6, "frozen, but for the noise"
    assert cli.main([*words[:4], "fetch/other-v0", *words[5:], "--fault-kinds", "odd"]) != 0
    assert "kind of fault" in capsys.readouterr().err
    assert cli.main(["demos", "--task", "PointReach", "--to", "fetch/none-v0", *words[5:]]) != 0
    assert "action_groups" in capsys.readouterr().err


def test_wrong_options_are_marked_and_what_drove_the_steps_is_recorded():
    task = get_task("SimpleDoorKey")
    misled = record(task, 40, 0, epsilon=0.0, faults=Faults(rate=0.0, decisions=0.5))
    wrong, acted = misled.extra["wrong_option"], misled.acted
    assert "faults" not in misled.extra
    assert 0.1 < wrong[acted].mean() < 0.6
    begins = acted.copy()
    begins[:, 1:] &= misled.option[:, 1:] != misled.option[:, :-1]
    scenes = task.describe(misled.obs[begins])
    script = np.array([task.script(scene) for scene in scenes])
    np.testing.assert_array_equal(wrong[begins], misled.option[begins] != script)
