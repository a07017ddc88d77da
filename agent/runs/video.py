"""Videos of episodes, with the option or the goal that is being followed as the caption."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from agent.runs.pictures import Watched
from envs.mujoco.rendering import undrawable
from envs.task import Task
from ground.errors import UserError

_SIDE, _STRIP = 480, 64  # pixels: the picture is square, the caption a strip below it
_LARGE, _SMALL = 24, 15  # heights of the caption's two lines
_FRAMES_PER_SECOND = {False: 6, True: 20}  # of episodes of some dozen actions, and of some hundred small motions
_REST = 1.0  # seconds for which the last picture of an episode stays


def record(task: Task, episodes: Sequence[Watched], path: Path) -> Path:
    """Write an MP4 of the episodes. The batched worlds decided, and single ones, in lock step with them, draw.

    Raises:
        UserError: Nothing here can draw, or the video cannot be written: ffmpeg is missing, the disk is full.
    """
    speed = _FRAMES_PER_SECOND[task.continuous]
    frames = (frame for episode in episodes for frame in _frames(task, episode, rest=round(_REST * speed)))
    first = next(frames)  # before there is a file, which nothing would go into if nothing can draw
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (_SIDE, _SIDE + _STRIP)
        with closing(imageio_ffmpeg.write_frames(str(path), size, fps=speed, macro_block_size=1)) as writer:
            writer.send(None)
            for frame in chain([first], frames):
                writer.send(frame)
    except (OSError, RuntimeError) as error:
        raise UserError(f"Could not write {path}: {error}.", "python main.py doctor") from error
    return path


def _frames(task: Task, episode: Watched, rest: int) -> Iterator[NDArray[np.uint8]]:
    stage = task.make_single(episode.level)
    simulator = getattr(stage.unwrapped, "simulator", None)
    try:
        for step, moment in enumerate(episode.moments):
            if hasattr(simulator, "subgoal"):
                simulator.subgoal = moment.target  # type: ignore[union-attr]
            yield _frame(_picture(stage), moment.words, f"level {episode.level}, step {step}")
            _, _, _, truncated, _ = stage.step(moment.action)
        outcome = "solved" if episode.success else "out of time" if truncated else "failed"
        last = _frame(_picture(stage), outcome, f"level {episode.level}, step {len(episode.moments)}")
        for _ in range(rest):
            yield last
    finally:
        stage.close()


def _picture(stage: gym.Env) -> object:
    try:
        return stage.render()
    except UserError:
        raise
    except Exception as error:  # each of Gymnasium's environments has its own way to say that it cannot draw
        raise undrawable(type(stage.unwrapped).__name__, error) from error


def _frame(picture: object, caption: str, where: str) -> NDArray[np.uint8]:
    """One picture [H, W, 3], in the middle if it is not square, with its caption below."""
    canvas = Image.new("RGB", (_SIDE, _SIDE + _STRIP), "white")
    image = Image.fromarray(np.asarray(picture, np.uint8))
    width, height = (round(side * _SIDE / max(image.size)) for side in image.size)
    canvas.paste(image.resize((width, height)), ((_SIDE - width) // 2, (_SIDE - height) // 2))
    pen, margin = ImageDraw.Draw(canvas), 12
    font = ImageFont.load_default(size=_LARGE)
    wide = pen.textlength(caption, font=font) / (_SIDE - 2 * margin)
    font = ImageFont.load_default(size=_LARGE / max(1.0, wide))
    pen.text((margin, _SIDE + 8), caption, fill="black", font=font)
    pen.text((margin, _SIDE + 40), where, fill="dimgrey", font=ImageFont.load_default(size=_SMALL))
    return np.ascontiguousarray(canvas)
