"""Recorded demonstrations: whole episodes, one after another, of different lengths and padded at the end."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from preceptor.agent.data.store import Schema, TrajectoryStore
from preceptor.agent.runs.checkpoint import load_tree, save_tree
from preceptor.envs.action_groups import action_groups_of
from preceptor.envs.task import Task
from preceptor.ground.atomic import CheckpointError
from preceptor.ground.errors import UserError
from preceptor.ground.level_seeds import SEEDS_PER_SPLIT

LONGEST = 2**14  # steps after which an episode that has not ended is taken for one that never does
_ROUNDING = 1e-5  # by which actions may be outside [-1, 1]


def extra_columns(task: Task) -> Schema:
    """The columns that demonstrations of a task may have beside those that all have (`Recording.extra`).

    `faults`: which of the G action groups were faulty, in the order of the task's; `wrong_option`: whether the option
    was not the expert's; `optimal`: whether the episode is of
    the optimal subset; `success`: whether the episode ended in success, at its last observation; and the task's own.
    """
    flag: tuple[tuple[int, ...], type] = ((), np.bool_)
    groups = (len(action_groups_of(task)),)
    return {"faults": (groups, np.bool_), "optimal": flag, "success": flag, "wrong_option": flag, **task.extra_columns}


def faults_of(
    recording: "Recording", task: Task, groups: Iterable[Sequence[int]], with_option: bool = False
) -> NDArray[np.bool_] | None:
    """Which of G groups of actions, the task's or others, were faulty at each step [N, T, G]: those that share a
    dimension with one of the task's that was. None where the data do not say.

    With the option as the first group [N, T, 1 + G], what the data do not say of either counts as no fault.
    """
    truth, own = recording.extra.get("faults"), list(action_groups_of(task).values())
    wrong = recording.extra.get("wrong_option") if with_option else None
    if truth is None and wrong is None:
        return None
    none = np.zeros(recording.option.shape, np.bool_)
    shared = [[bool({*one} & {*group}) for one in own] for group in groups]
    found = [none if truth is None else truth[..., which].any(-1) for which in shared]
    return np.stack([*([none if wrong is None else wrong] if with_option else []), *found], -1)


def normalisation(task: Task) -> str:
    """Digest of the mean and deviation, of observations and actions, by which networks see a task's numbers.

    Datasets are written with it, and only those of one digest are joined.
    """
    units = {"observation": task.observation_scale or 1.0, "action": 1.0}
    facts = {name: {"mean": 0.0, "std": std} for name, std in units.items()}
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Recording:
    """N episodes of up to T observations, the last of each terminal: nothing was done there.

    Attributes:
        obs: [N, T, ...].
        action: int64 [N, T], or float32 [N, T, A]; zero at the last observation.
        option: int64 [N, T], the option that drove the action; -1 where it is not known.
        reward: float32 [N, T].
        terminated: bool [N], whether the episode ended by itself rather than by its time limit.
        lengths: int64 [N], observations of each episode, at least 2.
        level_seed: int64 [N], the level of each, by which it can be replayed and drawn; -1 where it is not known.
        extra: By name, further columns [N, T, ...], of those that `extra_columns` lists; zero in padding.
    """

    obs: NDArray
    action: NDArray
    option: NDArray[np.int64]
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    lengths: NDArray[np.int64]
    level_seed: NDArray[np.int64]
    extra: Mapping[str, NDArray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: NDArray[np.int64] | slice) -> "Recording":
        """Some of the episodes."""
        own = {name: column[rows] for name, column in vars(self).items() if name != "extra"}
        return Recording(**own, extra={name: column[rows] for name, column in self.extra.items()})

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Steps [N, T] that were observed: all but padding."""
        return np.arange(self.option.shape[1]) < self.lengths[:, None]

    @property
    def acted(self) -> NDArray[np.bool_]:
        """Steps [N, T] at which something was done: all but padding and last observations."""
        return np.arange(self.option.shape[1]) < self.lengths[:, None] - 1

    @property
    def returns(self) -> NDArray[np.float64]:
        """Sum of rewards of each episode, [N]."""
        return (self.reward * self.acted).sum(1, dtype=np.float64)

    def save(self, folder: Path, **facts: Any) -> None:
        """Write it to a folder in one step, with facts about it. Raises `UserError` if the disk is full."""
        save_tree(folder, dict(vars(self)), {"kind": "demonstrations", **facts})

    @staticmethod
    def load(folder: Path) -> "tuple[Recording, dict[str, Any]]":
        """What `save` wrote, with the facts. Raises `CheckpointError` if it is missing, damaged, or something else."""
        tree, meta = load_tree(folder)
        if meta.get("kind") != "demonstrations":
            raise CheckpointError(f"{folder} does not hold demonstrations.", f"ls {folder.parent}")
        return Recording(**tree), meta

    def fits(self, task: Task) -> None:
        """Raises `UserError` unless these could be episodes of a task."""
        seen, done = self.obs.shape[2:], self.action.shape[2:]
        remedy = f"python main.py demos --task {task.source} --to preceptor/{task.name.lower()}/expert-v0"
        if seen != task.observation_shape or done != ((task.num_actions,) if task.continuous else ()):
            kinds = f"observations {seen} and actions {done or 'by number'}"
            raise UserError(f"These demonstrations show {kinds}, which are not those of {task.name}.", remedy)
        if (self.lengths < 2).any():
            first = int((self.lengths < 2).argmax())
            raise UserError(f"Demonstration {first} has no action.", "leave it out, or record them again: --demos 100")
        first, last = (-1, 1) if task.continuous else (0, task.num_actions - 1)
        known, levels = len(task.options) - 1, SEEDS_PER_SPLIT - 1
        ranges = (
            ("an observation", self.obs, self.inside, -np.inf, np.inf, "finite numbers"),
            ("an action", self.action, self.acted, first, last, f"{first} to {last}"),
            ("a reward", self.reward, self.acted, -np.inf, np.inf, "finite numbers"),
            ("an option", self.option, self.inside, -1, known, f"0 to {known}, and -1 where it is not known"),
            ("a level seed", self.level_seed, self.lengths > 0, -1, levels, f"0 to {levels} for training"),
        )
        for name, column, where, low, high, words in ranges:
            one = column.reshape(*where.shape, -1)
            fit = np.isfinite(one) & (one >= low - _ROUNDING) & (one <= high + _ROUNDING)
            if (bad := where[..., None] & ~fit).any():
                what = f"Demonstration {np.argwhere(bad)[0][0]} has {name} of {one[bad][0]}; {task.name} has {words}."
                raise UserError(what, remedy)
        known_extra = extra_columns(task)
        for name, column in self.extra.items():
            due = (*self.option.shape, *known_extra[name][0]) if name in known_extra else "no such column"
            if column.shape != due:
                raise UserError(f"Demonstrations have {name} of {column.shape}; {task.name} has {due}.", remedy)


def joined(recordings: Sequence[Recording]) -> Recording:
    """All episodes of several recordings of one task, in their order; extra columns that one lacks are zero there."""
    longest = max(recording.option.shape[1] for recording in recordings)
    like = {name: column for recording in recordings for name, column in recording.extra.items()}

    def whole(columns: list[NDArray], fill: int = 0) -> NDArray:
        """Columns [N, T, ...] of all parts as one, [M, longest, ...]."""
        rooms = [[(0, 0), (0, longest - one.shape[1]), *[(0, 0)] * (one.ndim - 2)] for one in columns]
        return np.concatenate(
            [np.pad(one, room, constant_values=fill) for one, room in zip(columns, rooms, strict=True)]
        )

    def extra(part: Recording, name: str) -> NDArray:
        lacking = np.zeros((*part.option.shape, *like[name].shape[2:]), like[name].dtype)
        return part.extra.get(name, lacking)

    by_step = {name: whole([getattr(part, name) for part in recordings]) for name in ("obs", "action", "reward")}
    by_episode = ("terminated", "lengths", "level_seed")
    return Recording(
        **by_step,
        **{name: np.concatenate([getattr(part, name) for part in recordings]) for name in by_episode},
        option=whole([part.option for part in recordings], -1),
        extra={name: whole([extra(part, name) for part in recordings]) for name in like},
    )


def first_episodes(store: TrajectoryStore, **further: NDArray) -> Recording:
    """The first episode of every environment in a store, which must have ended there; `further` extra columns [T, N].

    Raises:
        ValueError: The first episode of some environment has not ended.
    """
    ended = store.column("terminated") | store.column("truncated")  # [T, N]
    if not ended.any(0).all():
        raise ValueError("an episode has not ended")
    last, envs = ended.argmax(0), np.arange(store.num_envs)  # [N], the step that each ended with
    steps = int(last.max()) + 1

    def by_env(name: str) -> NDArray:
        """A column as [N, T, ...], with room for the last observation and zeros from there on."""
        column = np.swapaxes((further[name] if name in further else store.column(name))[:steps], 0, 1)
        padded = np.concatenate([column, np.zeros_like(column[:, :1])], 1)
        padded[np.arange(steps + 1) > last[:, None]] = 0
        return padded

    obs = by_env("obs")
    obs[envs, last + 1] = store.next_obs(last, envs)
    option = by_env("true_option")
    option[envs, last + 1] = option[envs, last]  # what ran when the episode ended
    option[np.arange(steps + 1) > last[:, None] + 1] = -1
    return Recording(
        obs,
        by_env("action"),
        option,
        by_env("reward"),
        store.column("terminated")[last, envs],
        last + 2,
        store.column("level_seed")[0].astype(np.int64),
        {name: by_env(name) for name in (*store.extra, *further)},
    )


class OptionRuns(NamedTuple):
    """M runs of one option, from the step `start` to the one before `stop`, in the order of their episodes."""

    episode: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    option: NDArray[np.int64]


def segments(option: NDArray[np.int64], inside: NDArray[np.bool_]) -> OptionRuns:
    """Where options [N, T] begin and end within the steps that are `inside` [N, T]; no segment crosses an episode."""
    before = np.concatenate([np.full((len(option), 1), -2), option[:, :-1]], 1)
    episode, start = np.nonzero(inside & (option != before))
    following = np.append(np.where(episode[1:] == episode[:-1], start[1:], -1), -1)
    stop = np.where(following < 0, inside.sum(1)[episode], following)
    return OptionRuns(episode, start, stop, option[episode, start])
