"""What a run of hvd found about its demonstrations, in pictures, and what `doctor --data` says of them."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

import main as cli
from preceptor.agent.config import configure
from preceptor.agent.data.faults import Faults
from preceptor.agent.data.recording import faults_of, joined
from preceptor.agent.data.views import windows
from preceptor.agent.demonstrating import record, with_optimal
from preceptor.agent.labelling.opening import _weights
from preceptor.agent.labelling.view import shown
from preceptor.agent.methods.hvd import HvdSettings
from preceptor.agent.methods.hvd_checks import check_demonstrations, doubts
from preceptor.agent.runs.blame import Weighed, strip, strips, weighed
from preceptor.agent.runs.metrics import FILE, read_metrics
from preceptor.agent.runs.quality import quality
from preceptor.agent.runs.run import Run
from preceptor.agent.train import train
from preceptor.envs.action_groups import grouped
from preceptor.envs.catalog import get_task
from preceptor.ground.errors import UserError

TWIN = get_task("WholeBodyTwin")
NAMES = tuple(TWIN.action_groups)
SMALL = {"method": "hvd", "task": "WholeBodyTwin", "steps": 60, "eval_episodes": 0, "quiet": True}
SMALL |= {"trunk.hidden": 16, "demos": "mixed:8+2"}
ORANGE, BLUE = (213, 94, 0), (0, 114, 178)


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> Path:
    """Runs of hvd, and one of bc."""
    place = tmp_path_factory.mktemp("log")
    train(configure(SMALL, logdir=str(place), savedir="w"))
    train(configure(SMALL, logdir=str(place), savedir="option", with_option=True, groups="all"))
    cloned = {name: SMALL[name] for name in ("task", "eval_episodes", "quiet", "steps")}
    train(configure(cloned, method="bc", logdir=str(place), savedir="cloned", demos="5"))
    return place


@pytest.fixture(scope="module")
def recording():
    mixed, best = record(TWIN, 8, 0, faults=Faults()), record(TWIN, 3, 1)
    return joined([with_optimal(mixed, False), with_optimal(best, True)])


@pytest.fixture(scope="module")
def run(logs) -> Run:
    return Run.open(logs / "hvd" / "WholeBodyTwin" / "w")


def said(capsys, *words: str) -> dict:
    assert cli.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *words: str) -> str:
    assert cli.main([*words]) == 2
    err = capsys.readouterr().err
    assert "next: " in err
    assert "Traceback" not in err
    return err


def test_a_step_weighs_what_the_chunks_that_hold_it_weigh_on_average(run):
    found, by_chunk = weighed(run), run.load()[1]["method"]["weights"]
    view = windows(found.recording, 4)
    assert found.names == NAMES
    for n, t in ((0, 0), (1, 2), (3, 7), (9, int(found.recording.lengths[9]) - 2)):
        holds = (view.episode == n) & (view.start <= t) & (t < view.start + 4)
        assert 1 <= holds.sum() <= 4
        np.testing.assert_allclose(found.weights[n, t], by_chunk[holds].mean(0), rtol=1e-6)
    assert (np.isnan(found.weights).all(2) == ~found.recording.acted).all()
    np.testing.assert_array_equal(found.faulty, found.recording.extra["faults"])
    rank = found.rank[found.recording.acted]
    np.testing.assert_allclose(rank.mean(0), 0.5, atol=1e-6)
    best = np.unravel_index(np.nanargmax(found.weights[..., 0]), found.weights.shape[:2])
    assert found.rank[best][0] > 0.99


def test_the_option_is_a_group_of_its_own(logs):
    found = weighed(Run.open(logs / "hvd" / "WholeBodyTwin" / "option"))
    assert found.names == ("option", "all")
    assert not found.faulty[..., 0].any()
    np.testing.assert_array_equal(found.faulty[..., 1], found.recording.extra["faults"].any(2))


def test_other_groups_are_faulty_where_one_of_their_dimensions_was(recording):
    truth = recording.extra["faults"]  # of base 0-2, torso 3-4, arm 5-6, grip 7
    found = faults_of(recording, TWIN, grouped(TWIN, "low=0-3,high=4-7").values())
    np.testing.assert_array_equal(found[..., 0], truth[..., 0] | truth[..., 1])
    np.testing.assert_array_equal(found[..., 1], truth[..., 1:].any(2))
    each = faults_of(recording, TWIN, grouped(TWIN, "each").values())
    np.testing.assert_array_equal(each, truth[..., [0, 0, 0, 1, 1, 2, 2, 3]])
    assert faults_of(replace(recording, extra={}), TWIN, [(0,)]) is None


def test_a_strip_is_orange_where_little_is_copied_and_framed_where_that_is_right(recording):
    """One row per group, the steps side by side from the names on, the cursor over all rows."""
    one, steps = recording[:1], int(recording.lengths[0]) - 1
    rank, faulty = np.full((*one.option.shape, 2), 0.5), np.zeros((*one.option.shape, 2), np.bool_)
    rank[0, 0, 0], rank[0, steps - 1, 1], faulty[0, 10:20, 1] = 0.0, 1.0, True
    found = Weighed(TWIN, one, ("upper", "lower"), rank, rank, faulty)
    picture = strip(found, 0, 880)

    def at(step: float, row: int) -> tuple[int, int, int]:
        return picture.getpixel((round(70 + 800 * step / steps), 10 + 16 * row + 6))

    assert at(0.5, 0) == ORANGE
    assert at(steps - 0.5, 1) == BLUE
    assert at(5, 0) == at(5, 1) == at(15, 1) == (255, 255, 255)
    assert at(10, 1) == at(19.98, 1) == (0, 0, 0)
    assert at(10, 0) != (0, 0, 0)
    first, last = (np.asarray(strip(found, 0, 880, cursor)) for cursor in (0, steps))
    assert (first != last).any(2).sum() > 100
    assert strips(found, [0, 0, 0]).height > 3 * picture.height


def test_the_report_draws_strips_and_a_film(logs, run, capsys):
    result = said(capsys, "report", "w", "--faults", "--logdir", str(logs))
    assert [row["group"] for row in result["table"]] == list(NAMES)
    assert all(0 <= float(row["AUC"]) <= 1 for row in result["table"])
    assert Path(result["strips"]) == run.path / "videos" / "faults.png"
    found = weighed(run)
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    command = [get_ffmpeg_exe(), "-v", "error", "-i", result["film"], *raw]
    film = subprocess.run(command, capture_output=True, check=True).stdout
    frames = np.frombuffer(film, np.uint8).reshape(-1, 544 + 16 * 4 + 20, 480, 3)
    shown_ones = found.order[[0, 1, -1]]
    assert len(frames) == (found.recording.lengths[shown_ones] - 1).sum() + 3 * 8
    moved = np.abs(frames[0].astype(int) - frames[10])
    assert moved[:480].max() > 100, "the robot has moved"
    assert moved[544:].max() > 100, "so has the cursor"
    assert cli.main(["report", "w", "--faults", "--logdir", str(logs), "--plot", str(logs / "mine.png")]) == 0
    assert "strips: " in capsys.readouterr().out
    with Image.open(logs / "mine.png") as drawn:
        assert drawn.height > 10 * 16 * 4


def test_what_cannot_be_played_again_has_strips_all_the_same(logs, run, capsys, monkeypatch):
    found = weighed(run)
    unknown = replace(found.recording, level_seed=np.full(len(found.recording), -1))
    monkeypatch.setattr("preceptor.agent.runs.blame.weighed", lambda run: found._replace(recording=unknown))
    result = said(capsys, "report", "w", "--faults", "--logdir", str(logs), "--plot", str(logs / "unknown.png"))
    assert "do not tell their levels" in result["not_drawn"]
    assert "film" not in result
    assert (logs / "unknown.png").exists()


def test_faults_need_a_run_of_hvd_whose_critic_is_finished(logs, run, capsys, tmp_path):
    where = ["--logdir", str(logs)]
    assert "one run of hvd" in refused(capsys, "report", "--faults", *where)
    assert "only hvd weighs" in refused(capsys, "report", "cloned", "--faults", *where)
    assert "Unknown run 'nowhere'" in refused(capsys, "report", "nowhere", "--faults", *where)
    begun = Run.create(tmp_path, "hvd", "WholeBodyTwin", "w", run.config, resume=False)
    assert "no checkpoint" in refused(capsys, "report", "w", "--faults", "--logdir", str(tmp_path))
    begun.save(20, {"method": {"weights": np.zeros((0, 4), np.float32)}})
    assert "not finished after 20 steps" in refused(capsys, "report", "w", "--faults", "--logdir", str(tmp_path))


def test_how_well_faults_are_told_is_logged_once_when_the_critic_is_finished(run):
    rows = [row for row in read_metrics(run.path / FILE) if any(name.startswith("low/auc") for name in row)]
    assert [row["step"] for row in rows] == [30]
    assert {f"low/auc_{name}" for name in NAMES} | {"low/named"} <= set(rows[0])


def test_the_doctor_orders_demonstrations_and_names_groups(logs, run, capsys):
    words = "doctor", "--data", "mixed:8+2", "--logdir", str(logs)
    result, found = said(capsys, *words, "--run", "w"), weighed(run)
    facts = result["demonstrations"]
    assert [fact["demonstration"] for fact in facts] == found.order.tolist()
    for fact in facts:
        low = found.low[fact["demonstration"]]
        np.testing.assert_allclose([fact[f"low {name}"] for name in NAMES], low)
        assert fact["looks bad"] == [
            f"{name} weighs little" for name, share in zip(NAMES, low, strict=True) if share >= 0.5
        ]
    assert "report" in result["next"]
    plain = said(capsys, *words, "--task", "WholeBodyTwin")
    assert plain["next"].startswith("next: python main.py train --method hvd --task WholeBodyTwin --demos mixed:8+2")
    assert [fact["success"] for fact in plain["demonstrations"]] == sorted(
        f["success"] for f in plain["demonstrations"]
    )
    assert cli.main([*words, "--task", "WholeBodyTwin"]) == 0
    assert "13 demonstrations of WholeBodyTwin" in capsys.readouterr().out
    assert "learned from mixed:8+2, not from 9" in refused(capsys, "doctor", "--data", "9", *words[3:], "--run", "w")
    assert "only hvd weighs" in refused(capsys, *words, "--run", "cloned")
    assert "no run 'w'" in refused(capsys, *words, "--run", "w", "--task", "PointReach")
    assert "of which task" in refused(capsys, *words)
    assert "none are named" in refused(capsys, "doctor", "--task", "PointReach")


def test_the_doctor_sees_duplicates_and_groups_that_do_nothing_or_their_utmost(recording):
    action = recording.action.copy()
    action[2, :, 3:5], action[3, :, 5:7] = 0.25, -1.0
    odd = joined([replace(recording, action=action), recording[:1]])
    bad = {fact["demonstration"]: fact["looks bad"] for fact in quality(TWIN, odd)}
    assert bad[2] == ["torso constant"]
    assert bad[3] == ["arm constant", "arm at its bounds in 100%"]
    assert bad[len(recording)] == ["the same as 0"]
    assert not any(bad[n] for n in (0, 1, len(recording) - 1))


BEST, BAD, NO_REWARD, NO_END, NO_TRUTH, ALL_FAULTY = range(6)


def changed(recording, how: int | None):
    extra = recording.extra
    return {
        None: lambda: recording,
        BEST: lambda: recording[np.flatnonzero(extra["optimal"].any(1))],
        BAD: lambda: replace(recording, extra={**extra, "success": extra["success"] & False}),
        NO_REWARD: lambda: replace(recording, reward=0 * recording.reward),
        NO_END: lambda: replace(recording, terminated=recording.terminated & False),
        NO_TRUTH: lambda: replace(recording, extra={}),
        ALL_FAULTY: lambda: replace(recording, extra={**extra, "faults": extra["faults"] | True}),
    }[how]()


@pytest.mark.parametrize(
    ("how", "settings", "words"),
    [
        (None, {"chunk": 61}, "No demonstration has 61 actions"),
        (None, {"replan": 9}, "9 cannot be played"),
        (None, {"attribution": "truth", "extract": "ddpg"}, "trains none"),
        (NO_REWARD, {}, "no rewards"),
        (NO_TRUTH, {"attribution": "truth"}, "do not say which"),
        (NO_TRUTH, {"value_data": "optimal"}, "None of the demonstrations is said to be optimal"),
        (ALL_FAULTY, {"attribution": "truth"}, "No chunk is without a fault of base, torso, arm, grip"),
        (ALL_FAULTY, {"attribution": "truth-chunk"}, "No chunk is without a fault"),
    ],
)
def test_what_nothing_can_be_learned_from_is_refused(recording, how, settings, words):
    data, own = changed(recording, how), HvdSettings(**settings)
    truth = faults_of(data, TWIN, TWIN.action_groups.values())
    with pytest.raises(UserError, match=words) as caught:
        check_demonstrations(TWIN, own, data, NAMES, None if truth is None else truth[data.acted])
    assert caught.value.next_step


@pytest.mark.parametrize("settings", [{"head": "flow"}, {"extract": "ddpg"}])
def test_named_actions_have_no_flow_and_no_gradient(settings):
    task = get_task("SimpleDoorKey")
    with pytest.raises(UserError, match="SimpleDoorKey has named actions"):
        check_demonstrations(task, HvdSettings(**settings), record(task, 2, 0), ("all",), None)


@pytest.mark.parametrize(
    ("how", "names", "words"),
    [
        (None, NAMES, []),
        (None, ("all",), ["one group of actions, shapley equals difference"]),
        (BEST, NAMES, ["are optimal", "the same return"]),
        (BAD, NAMES, ["no demonstration succeeds"]),
        (NO_END, NAMES, ["no demonstration terminated"]),
    ],
)
def test_what_little_can_be_learned_from_is_said(recording, how, names, words):
    found = list(doubts(TWIN, HvdSettings(), changed(recording, how), names))
    assert len(found) == len(words)
    assert all(part in line for part, line in zip(words, found, strict=True))


def test_a_run_warns_and_says_where_to_look(tmp_path, capsys):
    train(configure(SMALL, logdir=str(tmp_path), savedir="x", steps=4, demos="2"))
    err = capsys.readouterr().err
    assert "warning: all demonstrations are optimal" in "".join(err.replace("\n", " "))
    assert "doctor --data 2" in err.replace("\n", " ")


def test_the_labelling_page_gets_the_weights_of_the_same_demonstrations(logs, run):
    found = weighed(run)
    ask = SimpleNamespace(
        task=TWIN, training=found.recording, settings=SimpleNamespace(demos="3"), config=SimpleNamespace(seed=0)
    )
    weights = _weights("w", str(logs), ask)
    question = shown(ask, SimpleNamespace(trajectory=1, step=2, before=0), [], None, weights)
    assert [name for name, _ in question["groups"]] == list(NAMES)
    np.testing.assert_allclose(question["groups"][1][1], found.rank[1, : question["length"] - 1, 1], atol=0.006)
    assert shown(ask, SimpleNamespace(trajectory=1, step=2, before=0), [], None)["groups"] == []
    ask.training = found.recording[:3]
    with pytest.raises(UserError, match="other demonstrations") as caught:
        _weights("w", str(logs), ask)
    assert "--demos 3 --seed 0" in caught.value.next_step
