"""`eval --video` films mazes and maps them, any player; what cannot be drawn does not cost the table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from numpy.typing import NDArray
from PIL import Image

import main as cli
from preceptor.agent.config import configure
from preceptor.agent.levels import Player
from preceptor.agent.methods import entry_of
from preceptor.agent.methods.protocol import Parts
from preceptor.agent.players import random_player, teacher_player
from preceptor.agent.runs.pictures import draw_map, drawn, watch
from preceptor.envs.catalog import get_task
from preceptor.envs.task import Task
from preceptor.ground.errors import UserError
from preceptor.teacher.controls import ScriptedTeacher
from preceptor.teacher.labels import LabelStore

ROOT = Path(__file__).parents[2]
LEVEL, HORIZON, REST = 1_000_000, 100, 20
COMMAND = ["eval", "--task", "PointPush", "--compare", "scripted", "--seeds", "1000000:1000002", "--savedir", "x"]


def planner(task: Task) -> Player:
    return teacher_player(task, ScriptedTeacher(task, LabelStore()))


@pytest.mark.draws
def test_a_maze_is_filmed_and_mapped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*COMMAND, "--logdir", str(tmp_path), "--video", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert "not_drawn" not in result
    video, plan = Path(result["video"]), Path(result["map"])
    assert video.parent == plan.parent == tmp_path / "x" / "videos"
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run([get_ffmpeg_exe(), "-v", "error", "-i", video, *raw], capture_output=True, check=True)
    pictures = np.frombuffer(done.stdout, np.uint8).reshape(-1, 544, 480, 3)
    assert len(pictures) == 2 * (HORIZON + REST)
    first, last = pictures[0].astype(int), pictures[HORIZON + REST - 1].astype(int)
    assert np.abs(first - last)[:480].max() > 100, "the robot has moved"
    assert np.abs(first - last)[480:].max() > 100, "the caption has changed"
    with Image.open(plan) as image:
        assert 400 < image.width < 1000 > image.height > 400


def test_goals_hold_for_ten_steps_and_are_said_in_words() -> None:
    task = get_task("PointUMaze")
    config = configure(method="hiro", task=task.name, steps=100)
    method = entry_of("hiro").make(Parts(task, config, np.random.SeedSequence(0)))
    method.load_policy(method.state_dict())  # an untrained one, which acts by its networks
    episode = watch(task, method.player, LEVEL)
    assert len(episode.moments) == HORIZON
    assert [t for t, moment in enumerate(episode.moments) if moment.chosen] == list(range(0, HORIZON, 10))
    targets = np.stack([moment.target for moment in episode.moments if moment.target is not None])
    np.testing.assert_allclose(targets, np.repeat(targets[::10], 10, axis=0), atol=1e-4)
    x, y = targets[0]
    assert episode.moments[0].words == f"go to x {x:.1f}, y {y:.1f}"


def test_an_option_is_where_the_task_grounds_it() -> None:
    task = get_task("PointPush")
    episode = watch(task, planner(task), LEVEL)
    assert episode.success
    first = episode.moments[0]
    option = [option.words for option in task.options].index(first.words)
    np.testing.assert_array_equal(first.target, task.ground(first.obs[None], np.array([option]))[0][0])
    assert 2 <= sum(moment.chosen for moment in episode.moments) < HORIZON
    moments = watch(get_task("PointReach"), random_player(), LEVEL).moments  # without subgoals
    assert {(moment.words, moment.target) for moment in moments} == {("primitive actions", None)}


def test_different_policies_have_different_maps(tmp_path: Path) -> None:
    task = get_task("PointPush")

    def pixels(player: Player) -> NDArray[np.uint8]:
        with Image.open(draw_map(task, [watch(task, player, LEVEL)], tmp_path / "map.png")) as image:
            return np.asarray(image.convert("RGB").resize((600, 600)))

    planned = pixels(planner(task))
    np.testing.assert_array_equal(pixels(planner(task)), planned)
    assert (planned != pixels(random_player())).any(2).sum() > 500


def test_without_a_rendering_device_there_are_table_and_map(tmp_path: Path) -> None:
    told = {"cwd": ROOT, "env": {**os.environ, "MUJOCO_GL": "off"}, "capture_output": True, "text": True}
    words = [sys.executable, "main.py", *COMMAND, "--logdir", str(tmp_path), "--video", "2", "--json"]
    done = subprocess.run(words, **told, check=True)  # type: ignore[call-overload]
    result = json.loads(done.stdout)
    assert result["scripted"]["greedy"]["success"] == 1.0
    assert "off was chosen because MUJOCO_GL says so" in result["not_drawn"]
    assert "Next: unset MUJOCO_GL" in result["not_drawn"]
    assert [path.name for path in (tmp_path / "x" / "videos").iterdir()] == [Path(result["map"]).name]


def test_what_renders_no_array_cannot_be_drawn() -> None:
    class Blind(gym.Env):
        def render(self) -> None:
            return None

    with pytest.raises(UserError, match="Blind cannot be drawn"):
        drawn(Blind())
