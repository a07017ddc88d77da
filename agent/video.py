"""Videos of a player on held-out levels, with the option that is being followed as the caption."""

from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from agent.core import Player
from agent.hierarchy import Hierarchy
from envs.errors import UserError
from envs.task import Task

_SIDE, _STRIP = 480, 48  # pixels: the picture is square, the caption a strip below it
_FRAMES_PER_SECOND = 6
_REST = 6  # frames for which the last picture of an episode stays


def record(task: Task, player: Player, levels: Sequence[int], folder: Path, name: str = "player") -> Path:
    """Write one MP4 with an episode on each level, played as in evaluation (sampled).

    The batched engine decides, and MiniGrid's own environment, in lock step with it, draws.

    Raises:
        UserError: The video cannot be written, for example because ffmpeg is missing or the disk is full.
    """
    path = folder / f"{name}-levels-{levels[0]}-{levels[-1]}.mp4"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        size = (_SIDE, _SIDE + _STRIP)
        writer = imageio_ffmpeg.write_frames(str(path), size, fps=_FRAMES_PER_SECOND, macro_block_size=1)
        writer.send(None)
        for level in levels:
            for frame in _episode(task, player, level):
                writer.send(np.ascontiguousarray(frame))
        writer.close()
    except (OSError, RuntimeError) as error:
        raise UserError(f"Could not write {path}: {error}.", "python main.py doctor") from error
    return path


def _episode(task: Task, player: Player, level: int) -> list[NDArray[np.uint8]]:
    stage = task.make_single(level)
    world = task.make_vec(1, split="eval")
    rng = np.random.default_rng(level)
    hierarchy = Hierarchy(task, world, player, rng=rng, levels=np.array([level]))
    names = task.options.ids if len(player.timeouts) == len(task.options) else ("primitive actions",)
    frames = [_frame(stage.render(), f"level {level}")]
    while True:
        option, action = hierarchy.step()
        _, reward, terminated, truncated, _ = stage.step(action[0])
        frames.append(_frame(stage.render(), names[option[0]]))
        if terminated or truncated:
            outcome = "solved" if float(reward) > 0 else "out of time" if truncated else "failed"
            frames += [_frame(stage.render(), outcome)] * _REST
            stage.close()
            return frames


def _frame(picture: object, caption: str) -> NDArray[np.uint8]:
    """One picture [H, W, 3], in the middle if it is not square, with its caption below."""
    canvas = Image.new("RGB", (_SIDE, _SIDE + _STRIP), "white")
    image = Image.fromarray(np.asarray(picture, np.uint8))
    width, height = (round(side * _SIDE / max(image.size)) for side in image.size)
    canvas.paste(image.resize((width, height)), ((_SIDE - width) // 2, (_SIDE - height) // 2))
    font = ImageFont.load_default(size=24)
    ImageDraw.Draw(canvas).text((12, _SIDE + 10), caption, fill="black", font=font)
    return np.asarray(canvas)
