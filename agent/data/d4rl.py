"""Datasets in D4RL's layout, read only: arrays of all steps one after another (Fu et al., 2020), in HDF5 or NPZ.

`observations` [S, O], `actions` [S, A], `rewards`, `terminals` and `timeouts` [S]; the last two say where episodes end.
Where a file has no `next_observations`, the observation before the last action of an episode stands for what it led to.
"""

import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from preceptor.agent.data.recording import Recording
from preceptor.agent.data.store import columns, refuse_too_large
from preceptor.envs.task import Task
from preceptor.ground.errors import UserError

_NEEDED = ("observations", "actions", "rewards", "terminals")
_FURTHER = ("timeouts", "next_observations")


def load_d4rl(path: Path, task: Task) -> Recording:
    """Read a file as demonstrations of a task; which options drove them and which levels they are of is not known.

    Raises:
        UserError: It cannot be read, lacks an array, or is not of this task.
    """
    try:
        arrays = _arrays(path)
        if lacking := [name for name in _NEEDED if name not in arrays]:
            raise ValueError(f"it has no array {lacking[0]!r}, only {', '.join(sorted(arrays)) or 'others'}")
        steps = len(arrays["observations"])
        for name, array in arrays.items():
            if array.shape[:1] != (steps,) or array.dtype.kind not in "biuf" or not steps:
                raise ValueError(
                    f"{name} are {array.shape} of {array.dtype}, and {steps or 'some'} rows of numbers are due"
                )
        widths = arrays["observations"].shape[1:], arrays["actions"].shape[1:]
        ours = task.observation_shape, (task.num_actions,) if task.continuous else ()
        if widths != ours:
            raise ValueError(f"its observations and actions have widths {widths}, and those of the task {ours}")
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:  # what h5py and NumPy stumble on
        remedy = f"python main.py demos --task {task.source} --to preceptor/{task.base_name.lower()}/expert-v0"
        raise UserError(f"{path} cannot be read as demonstrations of {task.name}: {error}.", remedy) from error
    recording = _episodes(arrays, task, path)
    recording.fits(task)
    return recording


def _arrays(path: Path) -> dict[str, NDArray]:
    """The arrays of a file that are read."""
    names = (*_NEEDED, *_FURTHER)
    if path.suffix == ".npz":
        with path.open("rb") as raw, np.load(raw) as file:
            return {name: file[name] for name in names if name in file}
    with h5py.File(path) as file:
        return {name: file[name][()] for name in names if name in file}


def _episodes(arrays: dict[str, NDArray], task: Task, path: Path) -> Recording:
    """The episodes of all steps, padded to the longest."""
    terminal = arrays["terminals"] > 0
    over = terminal | (arrays.get("timeouts", terminal) > 0)
    over[-1] = True
    lasts = np.flatnonzero(over)
    lengths = np.diff(lasts, prepend=-1) + 1
    episode, place = np.repeat(np.arange(len(lasts)), lengths - 1), np.arange(len(over))
    place = place - (lasts - lengths + 2)[episode]
    refuse_too_large(int(lengths.max()) * len(lasts), columns(task), str(path), "split long episodes: {} steps fit")
    table: dict[str, Any] = {}
    for name, source in (("obs", "observations"), ("action", "actions"), ("reward", "rewards")):
        shape, dtype = columns(task)[name]
        table[name] = np.zeros((len(lasts), lengths.max(), *shape), dtype)
        table[name][episode, place] = arrays[source]
    table["obs"][np.arange(len(lasts)), lengths - 1] = arrays.get("next_observations", arrays["observations"])[lasts]
    unknown = np.full(table["reward"].shape, -1)
    return Recording(
        **table, option=unknown, terminated=terminal[lasts], lengths=lengths, level_seed=unknown[:, 0].copy()
    )
