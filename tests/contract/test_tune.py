"""`tune`: what it finds, and that a search continues where it stood."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import main as cli
from preceptor.ground.atomic import alone

SMALL = ["--method", "sac", "--task", "PointReach", "--episodes", "2", "--measure", "return"]
SMALL += ["--set", "steps=300", "--set", "preset=tiny", "--set", "num_envs=4"]
Said = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def tuned(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Said:
    """Runs `tune` in an empty folder: exit code, result and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, dict[str, Any], str]:
        capsys.readouterr()
        code = cli.main(["tune", *SMALL, *words, "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else {}, err

    return run


def test_a_search_continues_and_is_of_one_kind(tuned: Said, tmp_path: Path) -> None:
    search = ("--search", "lr=1e-4:1e-2:log", "--search", "hidden=8,8|16")
    code, first, err = tuned(*search, "--trials", "2")
    assert code == 0, err
    runs = tmp_path / "log/sac/PointReach/tune/runs/sac/PointReach"
    assert sorted(path.name for path in runs.iterdir()) == ["trial-0", "trial-1"]
    config = json.loads((runs / "trial-0/seed-1000/config.json").read_text())["config"]
    row = next(row for row in first["table"] if row["trial"] == "0")
    assert f"{config['settings']['learner']['lr']:.4g}" == row["lr"], "trained with what the table says"
    trained = {path: path.stat().st_mtime_ns for path in runs.rglob("result.json")}
    code, again, err = tuned(*search, "--trials", "3")
    assert (code, again["trials"], len(again["table"])) == (0, 3, 3)
    assert all(path.stat().st_mtime_ns == time for path, time in trained.items()), "no trial is trained twice"
    assert [row for row in again["table"] if row["trial"] != "2"] == first["table"]
    assert again["return"] == pytest.approx(max(float(row["return"]) for row in again["table"]), abs=1e-3)
    words = again["next"].split()
    assert words[:3] == ["python", "main.py", "train"]
    best = cli.read("train", words[3:])
    assert (best.steps, best.settings.learner.lr) == (300, again["best"]["lr"])
    for other in (("--search", "lr=1e-3:1e-2"), (*search, "--episodes", "3"), (*search, "--measure", "success")):
        code, _, err = tuned(*other, "--trials", "3")
        assert code == 2
        assert "holds a search of other settings" in err


def test_a_grid_is_tried_once_each_and_what_diverges_is_no_result(tuned: Said) -> None:
    words = ("--search", "lr=1e30|1e-3", "--search", "gamma=0.9|0.99", "--sampler", "grid", "--set", "steps=1200")
    code, result, err = tuned(*words)
    assert code == 0, err
    assert {(row["lr"], row["gamma"]) for row in result["table"]} == {("1e-3", "0.9"), ("1e-3", "0.99")}
    assert err.count("Stopped: `low/critic_loss` became nan") == 2
    assert tuned(*words)[1] == result


def test_a_mistake_that_a_worker_finds_is_an_error_of_the_search(tuned: Said) -> None:
    code, _, err = tuned("--search", "lr=1e-4:1e-2", "--jobs", "2", "--trials", "2", "--set", "num_envs=4000")
    assert code == 2
    assert "less than one step of 4000 environments" in err


def test_a_search_has_its_folder_to_itself(tuned: Said) -> None:
    with alone(Path("log/sac/PointReach/tune")):
        code, _, err = tuned("--search", "lr=1e-4:1e-2")
    assert (code, "is in use" in err) == (2, True)


def test_what_was_interrupted_is_tried_again(tuned: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    from preceptor.agent import tune

    score = tune._score

    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(tune, "_score", interrupted)
    words = ("--search", "lr=1e-4:1e-2:log", "--trials", "1")
    assert tuned(*words)[0] == 130
    tried = []
    monkeypatch.setattr(tune, "_score", lambda *said: tried.append(said[-1]["lr"]) or score(*said))
    assert tuned(*words)[1]["best"]["lr"] == tried[0]
    place = Path("log/sac/PointReach/tune/study.log")
    assert place.read_text().count(str(tried[0])) >= 2, "the same one"


def test_the_best_comes_first_and_what_a_killed_search_was_at_is_tried_again(
    tuned: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    from preceptor.agent import tune

    monkeypatch.setattr(tune, "_score", lambda config, place, trial, values: values["lr"])
    words = ("--search", "lr=1e-4:1e-2:log", "--sampler", "random", "--trials")
    tuned(*words, "2")
    place = Path("log/sac/PointReach/tune")
    study = tune._study(tune.TuneConfig(search=(words[1],), sampler="random"), (), place)
    killed = study.ask().suggest_float("lr", 1e-4, 1e-2, log=True)  # which never ends
    _, found, _ = tuned(*words, "4")
    tried = [row["lr"] for row in found["table"]]
    assert len(set(tried)) == 4, "the others are new"
    assert f"{killed:.4g}" in tried
    assert tried == sorted(tried, key=float, reverse=True)
    assert f"{found['best']['lr']:.4g}" == tried[0]


def test_trials_are_judged_on_levels_of_their_own_in_both_styles(tuned: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    from preceptor.agent import players

    play, played = players.play, []

    def watched(task: Any, player: Any, levels: Any, **more: Any) -> Any:
        episodes = play(task, player, levels, **more)
        played.append((list(levels), more["greedy"], float(episodes.returns.mean())))
        return episodes

    monkeypatch.setattr(players, "play", watched)
    _, found, _ = tuned("--search", "lr=1e-3|1e-2", "--trials", "1")
    assert [(levels, greedy) for levels, greedy, _ in played] == [([1_500_000, 1_500_001], g) for g in (False, True)]
    assert found["return"] == pytest.approx(sum(mean for *_, mean in played) / 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--search", "lrr=1e-4:1e-2"], "Did you mean 'lr'"),
        (["--search", "lr=1e-2:1e-4"], "LOW must be below HIGH"),
        (["--search", "lr=0:1:log"], "above 0"),
        (["--search", "lr=a:b"], "bounds must be finite numbers"),
        (["--search", "lr"], "not of the form"),
        (["--search", "lr=1e-4:1e-2", "--sampler", "grid"], "choices, not bounds"),
        (["--search", "lr=much|little"], "--lr is 'much'"),
        (["--search", "lr=1e-4|1e-3", "--set", "steps"], "sets nothing"),
        ([], "tune needs --search"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_it_begins(words: list[str], said: str, tuned: Said) -> None:
    code, _, err = tuned(*words)
    assert code == 2
    assert said in err
    assert not Path("log").exists()
