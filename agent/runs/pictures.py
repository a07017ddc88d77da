"""Pictures of a player on held-out levels: a video with what it follows as the caption, and of mazes a map."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from preceptor.agent.hierarchy import Hierarchy
from preceptor.agent.levels import Player
from preceptor.envs.mujoco.mazes import SPECS
from preceptor.envs.mujoco.rendering import undrawable
from preceptor.envs.task import Task
from preceptor.envs.vector import LONGEST, limit_of
from preceptor.ground.errors import UserError

_SIDE, _STRIP = 480, 64  # pixels: the picture is square, the caption a strip below it
_LARGE, _SMALL = 24, 15  # heights of the caption's two lines
_FRAMES_PER_SECOND = {False: 6, True: 20}  # of episodes of some dozen actions, and of some hundred small motions
_REST = 1.0  # seconds for which the last picture of an episode stays


class Moment(NamedTuple):
    """One step of an episode: what the player saw and did, and the option or goal that it followed, in words.

    Attributes:
        target: Where that leads, in the dimensions of the task's goal space [D]; None where nothing says so.
        chosen: Whether the option or the goal was chosen in this step.
    """

    obs: NDArray
    action: NDArray
    words: str
    target: NDArray[np.float32] | None
    chosen: bool


class Watched(NamedTuple):
    """An episode from its first step to its last, on a level."""

    level: int
    moments: list[Moment]
    success: bool


def draw_pictures(task: Task, player: Player, levels: Sequence[int], folder: Path, name: str) -> dict[str, str]:
    """Play an episode on each level and draw them; paths as `video` and `map`, and as `not_drawn` why one is missing.

    A map needs no rendering device, so that it is there even if the video cannot be.
    """
    stem, paths = f"{name}-levels-{levels[0]}-{levels[-1]}", {}
    try:
        episodes = [watch(task, player, level) for level in levels]
        if task.name in SPECS:
            paths["map"] = str(draw_map(task, episodes, folder / f"{stem}.png"))
        paths["video"] = str(record(task, episodes, folder / f"{stem}.mp4"))
    except UserError as error:  # an evaluation is worth more than its pictures
        paths["not_drawn"] = f"{error.what} Next: {error.next_step}" if error.next_step else error.what
    return paths


def watch(task: Task, player: Player, level: int) -> Watched:
    """An episode on a level, played as in evaluation (sampled)."""
    env, rng = task.make_vec(1, split="eval"), np.random.default_rng(level)
    hierarchy = Hierarchy(task, env, player, rng=rng, levels=np.array([level]))
    moments: list[Moment] = []
    while not hierarchy.finished and len(moments) < (limit_of(env) or LONGEST):
        obs = hierarchy.observed.obs.copy()
        option, action = hierarchy.step()
        words, target = _subgoal(task, player, hierarchy, obs, option)
        moments.append(Moment(obs[0], action[0], words, target, chosen=bool(hierarchy.clock.age[0] == 1)))
    return Watched(level, moments, any(episode["success"] for episode in hierarchy.finished))


def draw_map(task: Task, episodes: Sequence[Watched], path: Path) -> Path:
    """Save the map of a maze with the ways of episodes. Raises `UserError` if it cannot be written."""
    from preceptor.envs.mujoco.plot import Way, save_map

    ways = []
    for episode in episodes:
        obs = np.stack([moment.obs for moment in episode.moments])
        subgoals = [(t, m.target[:2]) for t, m in enumerate(episode.moments) if m.chosen and m.target is not None]
        chosen, places = np.array([t for t, _ in subgoals]), np.array([place for _, place in subgoals])
        ways.append(Way(obs, chosen, places))
    solved = sum(episode.success for episode in episodes)
    save_map(path, SPECS[task.name], ways, f"{task.name}: {solved} of {len(episodes)} solved")
    return path


def _subgoal(
    task: Task, player: Player, hierarchy: Hierarchy, obs: NDArray, option: NDArray[np.int64]
) -> tuple[str, NDArray[np.float32] | None]:
    """What the player followed in the step from `obs` [1, ...], in words, and where that is [D]."""
    if (frame := player.transition.frame) is not None:
        # The goal moves with the agent, so that its place is the same before the step and after.
        target = (frame.of(hierarchy.observed.obs) + hierarchy.clock.command)[0]
        named = zip(task.goal_space.names[:2], target[:2], strict=True)
        return f"go to {', '.join(f'{name} {value:.1f}' for name, value in named)}", target
    if len(player.timeouts) != len(task.options):
        return "primitive actions", None
    words = task.options[int(option[0])].words
    return words, task.ground(obs, option)[0][0] if task.name in SPECS else None


def record(task: Task, episodes: Sequence[Watched], path: Path) -> Path:
    """Write an MP4 of the episodes. The batched environment decided, and a single one, in lock step with it, draws.

    Raises:
        UserError: Nothing here can draw, or the video cannot be written: ffmpeg is missing, the disk is full.
    """
    speed = _FRAMES_PER_SECOND[task.continuous]
    return write_film(
        chain.from_iterable(_frames(task, one, rest=round(_REST * speed)) for one in episodes), path, speed
    )


def write_film(frames: Iterator[NDArray[np.uint8]], path: Path, speed: int) -> Path:
    """Write pictures [H, W, 3] of one size as an MP4, so many a second.

    Raises:
        UserError: The video cannot be written, or what the frames raise.
    """
    first = next(frames)  # before there is a file, which nothing would go into if nothing can draw
    height, width = first.shape[:2]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(imageio_ffmpeg.write_frames(str(path), (width, height), fps=speed, macro_block_size=1)) as writer:
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
            yield captioned(drawn(stage), moment.words, f"level {episode.level}, step {step}")
            _, _, _, truncated, _ = stage.step(task.to_gymnasium(moment.action))
        outcome = "solved" if episode.success else "out of time" if truncated else "failed"
        last = captioned(drawn(stage), outcome, f"level {episode.level}, step {len(episode.moments)}")
        for _ in range(rest):
            yield last
    finally:
        stage.close()


def drawn(stage: gym.Env) -> NDArray[np.uint8]:
    """What an environment draws of itself, [H, W, 3]. Raises `UserError` if it cannot be drawn."""
    name = type(stage.unwrapped).__name__
    try:
        picture = stage.render()
    except UserError:
        raise
    except Exception as error:  # each of Gymnasium's environments has its own way to say that it cannot draw
        raise undrawable(name, error) from error
    if not isinstance(picture, np.ndarray):
        raise UserError(f"{name} cannot be drawn: it renders {type(picture).__name__}, and no array.")
    return picture.astype(np.uint8, copy=False)


def captioned(picture: NDArray[np.uint8], caption: str, where: str) -> NDArray[np.uint8]:
    """One picture [H, W, 3], in the middle if it is not square, with its caption below."""
    canvas = Image.new("RGB", (_SIDE, _SIDE + _STRIP), "white")
    image = Image.fromarray(picture)
    width, height = (round(side * _SIDE / max(image.size)) for side in image.size)
    canvas.paste(image.resize((width, height)), ((_SIDE - width) // 2, (_SIDE - height) // 2))
    pen, margin = ImageDraw.Draw(canvas), 12
    font = ImageFont.load_default(size=_LARGE)
    wide = pen.textlength(caption, font=font) / (_SIDE - 2 * margin)
    font = ImageFont.load_default(size=_LARGE / max(1.0, wide))
    pen.text((margin, _SIDE + 8), caption, fill="black", font=font)
    pen.text((margin, _SIDE + 40), where, fill="dimgrey", font=ImageFont.load_default(size=_SMALL))
    return np.ascontiguousarray(canvas)
