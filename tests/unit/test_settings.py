"""Settings: what is said ends in the run's tree, and what cannot be is refused by name."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dev import tables
from preceptor.agent import commandline
from preceptor.agent.config import TrainConfig, changed, configure, from_file, from_plain, places, to_plain
from preceptor.agent.methods import METHODS, cloning, entry_of
from preceptor.agent.methods.protocol import Preset
from preceptor.agent.runs.run import CONFIG, SCHEMAS, Run
from preceptor.agent.runs.settings import check_same
from preceptor.agent.train import train
from preceptor.ground.atomic import read_json, write_json
from preceptor.ground.errors import UserError


@pytest.mark.parametrize("method", sorted(METHODS))
def test_settings_survive_json_and_each_one_of_a_method_can_be_said(method: str) -> None:
    """Each name that errors and `--help` offer leads to a value that is there to be changed."""
    task = "RescueWorld-n2" if method == "halo" else "PointReach" if method in ("sac", "td3") else "SimpleDoorKey"
    config = configure(method=method, task=task, seed=3, steps=500)
    tree = to_plain(config)
    assert from_plain(tree) == config
    assert (config.method, config.seed, config.steps) == (method, 3, 500)
    for name, (path, _) in places(TrainConfig, type(config.settings)).items():
        value = at(tree, path)
        if isinstance(value, bool):
            assert at(to_plain(changed(config, {name: not value})), path) is not value, name


def at(tree: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"method": "ppo", "sede": 1}, "ppo has no setting 'sede'. Did you mean 'seed'"),
        ({"method": "ihac", "label_nose": 0.1}, "Did you mean 'label_noise'"),
        ({"method": "ppo", "expectile": 0.9}, "ppo has no setting 'expectile'"),
        ({"method": "iql", "expectile": "much"}, "--expectile is 'much', and must be a valid number"),
        ({"method": "iql", "expectile": 2.0}, "--expectile is 2.0, and must be less than"),
        ({"method": "dagger", "lr": -1}, "--lr is -1, and must be greater than 0"),
        ({"method": "hiro", "task": "PointReach", "low.hidden": "3 -1"}, "--low.hidden is '-1', and must be greater"),
        ({"method": "ppo", "label_noise": -0.1}, "--label-noise is -0.1, and must be greater than or equal to 0"),
    ],
)
def test_what_cannot_be_set_is_refused_by_name(words: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        configure(words)
    assert said in str(caught.value)
    assert caught.value.next_step


def test_the_settings_of_another_method_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "iql.toml"
    file.write_text('method = "iql"\nexpectile = 0.8\n')
    assert configure(from_file(str(file))).settings.expectile == 0.8  # type: ignore[union-attr]
    with pytest.raises(UserError, match="dagger has no setting 'expectile'"):
        configure({**from_file(str(file)), "method": "dagger"})


def test_a_flag_beats_set_which_beats_a_file_which_beats_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[teacher]\nlabel-noise = 0.1\n[low]\nlr = 1.0\ngamma = 0.5\n[high]\nlr = 1.0\n")
    words = ["--method", "hiro", "--task", "PointPush", "--config", str(file), "--low.gamma", "0.7"]
    config = commandline.read("train", TrainConfig(), [*words, "--set", "low.lr = 2.0", "--set", "low.gamma=0.6"])
    settings: Any = config.settings
    assert (settings.low.lr, settings.low.gamma, settings.high.lr, config.teacher.label_noise) == (2.0, 0.7, 1.0, 0.1)


def test_the_papers_preset_has_the_constants_of_hiros_appendix_c() -> None:
    config, flat = (configure(method=name, task="AntMaze", preset="paper") for name in ("hiro", "td3"))
    hiro: Any = config.settings
    for level, half_range in ((hiro.low, 30.0), (hiro.high, 10.0)):
        assert (level.kind, level.hidden, level.actor_lr, level.lr) == ("td3", (300, 300), 1e-4, 1e-3)
        assert (level.gamma, level.tau, level.batch, level.actor_every, level.huber) == (0.99, 0.005, 100, 2, 1.0)
        noise = [half_range * size for size in (level.noise, level.target_noise, level.target_clip)]
        assert noise == pytest.approx([1.0, 0.2, 0.5])
    assert (hiro.period, hiro.draws, hiro.relabel, hiro.warmup, config.num_envs) == (10, 8, True, 2_500, 1)
    assert (hiro.low_updates, hiro.high_updates, hiro.low_reward, hiro.high_reward) == (1.0, 0.1, 1.0, 0.1)
    assert (hiro.low_buffer_size, hiro.buffer_size) == (200_000, 200_000 * hiro.period), "200,000 goals"
    plain: Any = flat.settings
    ours, theirs = (plain.updates, plain.learner), (hiro.low_updates, hiro.low)
    assert (ours[0], ours[1].noise, ours[1].hidden) == (theirs[0], theirs[1].noise, theirs[1].hidden)


def test_what_is_said_reaches_the_method() -> None:
    def hiro(**said: Any) -> Any:
        return configure(said, method="hiro", task="PointPush").settings

    assert hiro(prior="controller").prior_until <= 0.6
    lasting = (hiro(prior="controller", high_level=kind, prior_until=2.0) for kind in ("learned", "options"))
    assert [settings.prior_until for settings in lasting] == [2.0, 2.0]
    assert hiro().decay == 0.0
    assert configure(method="hiro", task="AntMaze").settings.decay == 0.3
    assert [hiro(**plans).plans for plans in ({}, {"high_level": "controller"}, {"prior": "reversed"})] == [0, 1, 1]
    said = hiro(relabel=False, low_level="legs", buffer_size=5_000, low_learner="td3")
    assert (said.relabel, said.low_level, said.buffer_size, said.low.kind) == (False, "legs", 5_000, "td3")
    assert said.low.gamma == hiro().low.gamma
    sac, td3 = (configure(method=name, task="PointPush", **words).settings for name, words in
                (("sac", {}), ("td3", {"exploration": "extended"})))  # fmt: skip
    assert sac.exploration == "steps"
    assert td3.holding > 0


def test_steps_and_teacher_decide_a_preset_and_one_seed_is_a_list() -> None:
    assert configure(preset="tiny", steps=600).settings.distil_steps == 450
    read = commandline.read("train", TrainConfig(), ["--preset", "tiny", "--set", "steps=600"])
    assert read.settings.distil_steps == 450
    assert configure(preset="tiny", steps=600, teacher="none").settings.distil_steps == 0
    assert configure(seeds=3).seeds == (3,)


def test_a_default_that_changes_later_does_not_orphan_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run goes on with what it began with: `--resume` reads its settings, not today's presets."""
    said = ["--method", "bc", "--task", "PointReach", "--logdir", str(tmp_path), "--eval-episodes", "0", "--quiet"]
    began = commandline.read("train", TrainConfig(), [*said, "--steps", "20", "--demos", "20", "--set", "lr=0.002"])
    train(began)

    def other(given: Any) -> Preset:
        return Preset(999, 1, cloning.CloningSettings(lr=0.5, chunk=7))

    monkeypatch.setattr(cloning, "BC", replace(cloning.BC, preset=other))
    entry_of.cache_clear()
    assert commandline.read("train", TrainConfig(), said).settings.lr == 0.5
    goes_on = commandline.read("train", TrainConfig(), [*said, "--resume"])
    assert goes_on == replace(began, resume=True)
    train(goes_on)
    refused = commandline.read("train", TrainConfig(), [*said, "--resume", "--set", "lr=0.1"])
    with pytest.raises(UserError, match=r"settings\.lr was 0\.002, now 0\.1"):
        train(refused)


def words_of(said: dict[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in said.items()]


@pytest.mark.parametrize(
    "goes_on",
    [
        lambda said: train(commandline.read("train", TrainConfig(), [*words_of(said), "--seeds=0", "--resume"])),
        lambda said: train(commandline.read("train", TrainConfig(), [*words_of(said), "--trial=0"])),
        lambda said: train(configure(said, seeds=0, resume=True)),
        lambda said: tables.train_missing([tables.Row("", said, [0])], 0, 1),
    ],
    ids=["command", "grid", "Python", "tables"],
)
def test_a_setting_that_is_new_is_in_an_old_run_what_it_was_without(
    goes_on: Callable[[dict[str, Any]], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what the preset says of it today."""
    said = {"method": "bc", "task": "PointReach", "logdir": str(tmp_path), "eval_episodes": 0, "demos": "20"}
    said |= {"savedir": "r", "device": "cpu"}
    (line,) = train(configure(said, steps=20, seeds=0))["runs"]
    file, form = Path(line["run"], "config.json"), {"kind": CONFIG, "schema": SCHEMAS[CONFIG]}
    config = read_json(file, **form)["config"]
    assert config["settings"].pop("chunk") == 1
    config.pop("device")  # which may change
    write_json(file, {"format": CONFIG, "schema": form["schema"], "config": config})
    file.with_name("result.json").unlink()
    newer = Preset(20, 1, cloning.CloningSettings(chunk=7))
    monkeypatch.setattr(cloning, "BC", replace(cloning.BC, preset=lambda given: newer))
    entry_of.cache_clear()
    with pytest.raises(UserError, match=r"settings\.chunk was 1, now 7"):
        goes_on({**said, "steps": 25, "chunk": 7})
    goes_on({**said, "steps": 30})
    config = Run.open(file.parent).config
    assert (config["settings"]["chunk"], config["device"], config["steps"]) == (1, "cpu", 30)


def test_a_switch_that_became_a_share_is_read_in_old_runs_as_all_or_nothing(tmp_path: Path) -> None:
    for task, share in (("Kitchen", 1.0), ("KitchenKinematic", 0.0)):
        config = configure(method="helios", task=task)
        assert config.settings.decay == share
        saved = to_plain(config)
        saved["settings"]["decay"] = share == 1.0  # as it was at first
        assert from_plain(saved) == config
        check_same(tmp_path, saved, to_plain(config))
    with pytest.raises(UserError, match="share of the steps") as caught:
        commandline.read("train", TrainConfig(), ["--method", "helios", "--task", "Kitchen", "--no-decay"])
    assert caught.value.next_step == "--decay 0"


@pytest.fixture(autouse=True)
def _entries_as_they_are() -> Iterator[None]:
    yield
    entry_of.cache_clear()
