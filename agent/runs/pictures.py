"""Pictures of a player on held-out levels: a video, and of mazes a map of its ways and subgoals."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.clock import Moving
from agent.hierarchy import Hierarchy, Player
from envs.mujoco.mazes import SPECS
from envs.task import Task
from ground.errors import UserError


class Moment(NamedTuple):
    """One step of an episode.

    Attributes:
        obs: What the player saw.
        action: What it did.
        words: The option or the goal that it followed, in words.
        target: Where that leads, in the dimensions of the task's goal space [D]; None where nothing says so.
        chosen: Whether the option or the goal was chosen in this step.
    """

    obs: NDArray
    action: NDArray
    words: str
    target: NDArray[np.float32] | None
    chosen: bool


@dataclass(frozen=True)
class Watched:
    """An episode from its first step to its last, on a level."""

    level: int
    moments: list[Moment]
    success: bool


def draw_pictures(task: Task, player: Player, levels: Sequence[int], folder: Path, name: str) -> dict[str, str]:
    """Play an episode on each level and draw them; paths as `video` and `map`, and as `not_drawn` why one is missing.

    A map needs no rendering device, so that it is there even if the video cannot be.
    """
    from agent.runs.video import record

    stem, drawn = f"{name}-levels-{levels[0]}-{levels[-1]}", {}
    try:
        episodes = [watch(task, player, level) for level in levels]
        if task.name in SPECS:
            drawn["map"] = str(draw_map(task, episodes, folder / f"{stem}.png"))
        drawn["video"] = str(record(task, episodes, folder / f"{stem}.mp4"))
    except UserError as error:  # an evaluation is worth more than its pictures
        drawn["not_drawn"] = f"{error.what} Next: {error.next_step}" if error.next_step else error.what
    return drawn


def watch(task: Task, player: Player, level: int) -> Watched:
    """An episode on a level, played as in evaluation (sampled)."""
    hierarchy = Hierarchy(
        task,
        task.make_vec(1, split="eval"),
        player,
        rng=np.random.default_rng(level),
        levels=np.array([level]),
    )
    moments: list[Moment] = []
    while not hierarchy.finished:
        obs = hierarchy.observed.obs.copy()
        option, action = hierarchy.step()
        words, target = _subgoal(task, player, hierarchy, obs, option)
        moments.append(Moment(obs[0], action[0], words, target, chosen=bool(hierarchy.clock.age[0] == 1)))
    return Watched(level, moments, bool(hierarchy.finished[0]["success"]))


def draw_map(task: Task, episodes: Sequence[Watched], path: Path) -> Path:
    """Save the map of a maze with the ways of episodes. Raises `UserError` if it cannot be written."""
    from envs.mujoco.plot import Way, save_map

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
    if isinstance(
        player.transition, Moving
    ):  # a goal moves with the agent, so that its place is the same before the step and after
        target = (player.transition.frame.of(hierarchy.observed.obs) + hierarchy.clock.command)[0]
        named = zip(task.goal_space.names[:2], target[:2], strict=True)
        return f"go to {', '.join(f'{name} {value:.1f}' for name, value in named)}", target
    if len(player.timeouts) != len(task.options):
        return "primitive actions", None
    words = task.options[int(option[0])].words
    return words, task.ground(obs, option)[0][0] if task.name in SPECS else None
