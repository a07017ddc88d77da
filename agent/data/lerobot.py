"""Demonstrations as a LeRobot dataset, there and back: the format of robot learning (v3.0, Hugging Face, 2025).

A frame is an observation with the action that was taken there, so every frame is one to imitate. What was observed
last, where nothing was done, stands with its episode in `meta/episodes`, under `final/` and the column's name: readers
of LeRobot skip columns there that they do not know, whereas a last frame would need an action that nobody took. Maps
are vectors, since LeRobot's state is one. `next.done` is for its readers; the two ends stand apart beside it.

Datasets of others need `next.reward`, `terminated` and `truncated` beside LeRobot's own columns. Where they have no
last observation, the one before it stands for it.
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from preceptor.agent.data.recording import Recording, extra_columns, normalisation
from preceptor.agent.data.store import columns, refuse_too_large
from preceptor.envs.task import Task
from preceptor.ground.atomic import publish_folder
from preceptor.ground.errors import UserError

VERSION, INFO, OURS = "v3.0", "meta/info.json", "meta/preceptor.json"
EPISODES, DATA = "meta/episodes", "data"
_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_OBS, _FINAL, _SUCCESS = "observation.state", "final/", "success"
_FROM_V2 = "python -m lerobot.datasets.v30.convert_dataset_v21_to_v30 --repo-id=..."
_REMEDIES = {
    "next.reward": "add it: a float of each step, without which nothing shows what is good",
    "terminated": "add it: a bool, for next.done does not say whether an episode ended by itself or by its time limit",
}


@contextlib.contextmanager
def new_lerobot(folder: Path, task: Task) -> Iterator[Callable[[Recording], None]]:
    """Give what writes demonstrations of a task to a new folder: wholly, or not at all.

    Raises:
        UserError: The folder is there, or the disk refuses.
    """
    if os.path.lexists(folder):
        raise UserError(f"{folder} is there already; nothing was recorded.", f"--to {folder}-2")
    yield lambda recording: _write(recording, task, folder)


def load_lerobot(folder: Path, task: Task) -> Recording:
    """Read a folder as demonstrations of a task.

    Raises:
        UserError: It is no LeRobot dataset of version 3, a file of it is damaged, it lacks a column, or it is not of
            this task.
    """
    try:
        version = json.loads((folder / INFO).read_text()).get("codebase_version")
    except (OSError, ValueError, AttributeError) as error:
        remedy = f"python main.py demos --task {task.source} --format lerobot --to NEW_FOLDER"
        raise UserError(f"{folder} is no LeRobot dataset: {INFO} cannot be read ({error}).", remedy) from error
    if not str(version).startswith("v3."):
        raise UserError(f"{folder} is a LeRobot dataset of version {version}, not 3.", _FROM_V2)
    recording = _episodes(_Table(folder, DATA), _Table(folder, EPISODES), task)
    recording.fits(task)
    return recording


def recorded_normalisation(folder: Path) -> str | None:
    """The digest of `normalisation` that a folder was written with; None where nothing says so."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return json.loads((folder / OURS).read_text()).get("normalisation")
    return None


class _Table:
    """All rows of the files of a part of a dataset. Raises `UserError` if one is damaged or there are none."""

    def __init__(self, folder: Path, part: str) -> None:
        self.folder, self.part = folder, part
        try:
            self.table = pq.read_table(folder / part)
        except (pa.ArrowException, OSError) as error:
            why = str(error).splitlines()[0].rstrip(".")
            what = f"The Parquet files in {folder / part} cannot be read; one was cut short or never closed: {why}."
            raise UserError(what, "copy the folder again, or call finalize() in what wrote it") from error
        if not self.table.num_rows:
            raise UserError(f"{folder} has no rows in {part}.", "call save_episode() and finalize() in what wrote it")

    def __contains__(self, name: str) -> bool:
        return name in self.table.column_names

    def read(self, name: str, shape: tuple[int, ...] = (), dtype: Any = np.int64) -> NDArray:
        """A column as an array [rows, *shape]. Raises `UserError` if it lacks, or has other numbers."""
        if name not in self:
            what = f"{self.folder} has no column {name!r} in {self.part}; it has {', '.join(self.table.column_names)}."
            raise UserError(what, _REMEDIES.get(name, f"name the column {name} that is meant"))
        values, ragged = self.table[name].combine_chunks(), False
        while pa.types.is_nested(values.type):
            ragged |= pa.types.is_list(values.type) and len(set(np.diff(values.offsets))) > 1
            values = values.flatten()
        found, due = values.to_numpy(zero_copy_only=False), (self.table.num_rows, *shape)
        if ragged or values.null_count or found.dtype.kind not in "biuf" or found.size != math.prod(due):
            kind = f"{found.size / due[0]:g} values of {values.type} a row, {values.null_count} of all missing"
            what = f"{self.folder} has {name!r} of {kind}; numbers of shape {shape} are due, none missing."
            raise UserError(what, "another --task, or another dataset")
        return found.reshape(due).astype(dtype)


def _episodes(frames: _Table, ends: _Table, task: Task) -> Recording:
    """Demonstrations from the frames, which lie episode by episode, and what is known of the ends."""
    folder, schema = frames.folder, columns(task) | extra_columns(task)
    episode = frames.read("episode_index")
    starts = np.flatnonzero(np.diff(episode, prepend=episode[0] - 1))
    lengths = np.diff(starts, append=len(episode)) + 1  # with the last observation
    ids, named, longest = episode[starts], ends.read("episode_index"), int(lengths.max())
    if sorted(ids) != sorted(named):
        what = f"{folder} has not the same episodes, each in one piece, in {DATA} and in {EPISODES}."
        raise UserError(what, "copy the folder again")
    size = f"{folder}, as {len(ids):,} episodes of {longest:,} steps as the longest has,"
    refuse_too_large(longest * len(ids), schema, size, "write its longest episodes as several shorter ones")
    order = np.argsort(named)[np.argsort(np.argsort(ids))]  # rows of `ends`
    last, steps = (np.arange(len(ids)), lengths - 1), np.arange(longest)

    def whole(name: str, like: str = "") -> NDArray:
        """A column [N, T, ...]; at last observations what is recorded of them, else what stood before, or zero."""
        shape, dtype = schema[like or name]
        out = np.zeros((len(ids), longest, *shape), dtype)
        out[steps < lengths[:, None] - 1] = frames.read(name, shape, dtype)
        if _FINAL + name in ends:
            out[last] = ends.read(_FINAL + name, shape, dtype)[order]
        elif name in (_OBS, "option"):
            out[last] = out[last[0], last[1] - 1]
        return out

    for name in ("terminated", "truncated"):
        if name in frames and (early := whole(name) & (steps < lengths[:, None] - 2)).any():
            what = f"{folder}: episode {ids[early.any(1)][0]} is {name} before its end."
            raise UserError(what, "write what follows as another episode")
    extra = {name: whole(name) for name in extra_columns(task) if name in frames}
    if (won := f"next.{_SUCCESS}") in frames:
        extra[_SUCCESS] = np.roll(whole(won, _SUCCESS), 1, 1)
    option = whole("option") if "option" in frames else np.full((len(ids), longest), -1)
    return Recording(
        whole(_OBS, "obs"),
        whole("action"),
        np.where(steps < lengths[:, None], option, -1),
        whole("next.reward", "reward"),
        np.asarray(whole("terminated").any(1)),
        lengths,
        ends.read("level_seed")[order] if "level_seed" in ends else np.full(len(ids), -1),
        extra,
    )


def _write(recording: Recording, task: Task, folder: Path) -> None:
    count, lengths, (episode, step) = len(recording), recording.lengths, np.nonzero(recording.acted)
    env = task.make_vec(1)
    env.close()
    fps = int(env.metadata.get("render_fps", 10))
    seen = {_OBS: recording.obs, "option": recording.option, **recording.extra}
    won = seen.pop(_SUCCESS, None)
    frames = {name: column[recording.acted] for name, column in seen.items()}
    if won is not None:  # what is known after a step
        frames[f"next.{_SUCCESS}"] = np.roll(won, -1, 1)[recording.acted]
    done, over = step == lengths[episode] - 2, recording.terminated[episode]
    frames |= {"action": recording.action[recording.acted], "next.reward": recording.reward[recording.acted]}
    frames |= {"next.done": done, "terminated": done & over, "truncated": done & ~over}
    frames |= {"timestamp": (step / fps).astype(np.float32), "frame_index": step, "episode_index": episode}
    frames |= {"index": np.arange(len(step)), "task_index": np.zeros_like(step)}
    frames = {name: column.reshape(len(step), -1) for name, column in frames.items()}
    stops, here = np.cumsum(lengths - 1), np.zeros(count, np.int64)
    ends = {"episode_index": np.arange(count), "length": lengths - 1, "level_seed": recording.level_seed}
    ends |= {"dataset_from_index": stops - lengths + 1, "dataset_to_index": stops}
    ends |= {f"{part}/{kind}_index": here for part in (DATA, EPISODES) for kind in ("chunk", "file")}
    ends |= {_FINAL + name: column[ends["episode_index"], lengths - 1] for name, column in seen.items()}
    features = {name: {"dtype": c.dtype.name, "shape": [c.shape[1]], "names": None} for name, c in frames.items()}
    info = {"codebase_version": VERSION, "robot_type": task.base_name, "fps": fps, "features": features}
    info |= {"total_episodes": count, "total_frames": len(step), "total_tasks": 1, "splits": {"train": f"0:{count}"}}
    info |= {"chunks_size": 1000, "data_files_size_in_mb": 100, "video_files_size_in_mb": 500}
    info |= {"data_path": f"{DATA}/{_FILE}", "video_path": None}
    described = {INFO: info, OURS: {"task": task.source, "normalisation": normalisation(task)}}
    described["meta/stats.json"] = {name: _stats(column) for name, column in frames.items()}
    with publish_folder(folder) as draft:
        _put(draft / DATA, frames)
        _put(draft / EPISODES, ends, tasks=pa.array([[task.goal]] * count))
        pq.write_table(_tasks(task.goal), draft / "meta/tasks.parquet")
        for name, value in described.items():
            (draft / name).write_text(json.dumps(value, indent=2))


def _put(part: Path, arrays: dict[str, NDArray], **more: pa.Array) -> None:
    """Write columns [rows, ...] as the one file of a part; LeRobot takes what has one number a row for that number."""
    table = {}
    for name, column in arrays.items():
        flat, size = pa.array(column.reshape(-1)), column.size // len(column)
        table[name] = pa.FixedSizeListArray.from_arrays(flat, size) if size > 1 else flat
    path = part / _FILE.format(chunk_index=0, file_index=0)
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({**table, **more}), path)


def _tasks(goal: str) -> pa.Table:
    """The one task, by its words: LeRobot looks them up in the index of a pandas frame, which pandas describes so."""
    kinds = (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    told = [{"name": n, "field_name": n, "pandas_type": k, "numpy_type": t, "metadata": None} for n, k, t in kinds]
    index = json.dumps({"index_columns": ["task"], "column_indexes": [], "columns": told})
    return pa.table({"task_index": [0], "task": [goal]}).replace_schema_metadata({"pandas": index})


def _stats(column: NDArray) -> dict[str, list]:
    """What LeRobot's policies normalise a column [rows, D] by."""
    numbers = column.astype(np.float64)
    stats = {name: getattr(numbers, name)(0).tolist() for name in ("min", "max", "mean", "std")}
    shares = {f"q{percent:02d}": np.quantile(numbers, percent / 100, 0).tolist() for percent in (1, 10, 50, 90, 99)}
    return stats | shares | {"count": [len(column)]}
